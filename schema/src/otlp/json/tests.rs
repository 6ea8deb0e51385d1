//! A full request of each signal, and what becomes of it when one value after the other is broken or spelled
//! otherwise: an error that names the value, or the row it says. And any request, as the generated messages read it.

use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use prost::Message;
use serde::Serialize;
use serde_json::{Value as Json, json};

use super::protobuf;
use crate::{
    Encoding, Signal,
    otlp::{self, differential, tests::Random},
};

type Row = std::collections::BTreeMap<String, Json>;

const SIGNALS: [Signal; 3] = [Signal::Traces, Signal::Metrics, Signal::Logs];

/// The rows of a request, and how many could not be used.
fn rows(signal: Signal, request: &Json) -> Result<(Vec<Row>, u64), String> {
    let decoded = otlp::decode(signal, Encoding::Json, request.to_string().as_bytes(), 9).map_err(|e| e.to_string())?;
    Ok((decoded.batch.map_or(Vec::new(), |batch| differential::found(&batch.rows)), decoded.rejected))
}

/// A request that has every field of every message, none zero.
fn full(signal: Signal) -> Json {
    let attributes = json!([{"key": "some", "value": {"doubleValue": 7.25}}]);
    let every_type = json!([
        {"key": "text", "value": {"stringValue": "a"}},
        {"key": "flag", "value": {"boolValue": true}},
        {"key": "whole", "value": {"intValue": "-7"}},
        {"key": "number", "value": {"doubleValue": 2.5}},
        {"key": "blob", "value": {"bytesValue": "+/8="}},
        {"key": "array", "value": {"arrayValue": {"values": [{"intValue": "3"}, {"doubleValue": 0.5}]}}},
        {"key": "list", "value": {"kvlistValue": {"values": [{"key": "in", "value": {"stringValue": "b"}}]}}},
    ]);
    let ids = json!({"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331"});
    let with_ids = |mut object: Json| {
        object.as_object_mut().unwrap().extend(ids.as_object().unwrap().clone());
        object
    };
    let (records, items, of_scopes, of_resources) = match signal {
        Signal::Traces => {
            let event =
                json!({"timeUnixNano": "12", "name": "e", "attributes": attributes, "droppedAttributesCount": 1});
            let link =
                json!({"traceState": "a=b", "attributes": attributes, "droppedAttributesCount": 2, "flags": 257});
            let span = json!({
                "parentSpanId": "b7ad6b7169203332", "name": "GET", "kind": 3, "startTimeUnixNano": "10",
                "endTimeUnixNano": "1544712660300000000", "attributes": attributes, "status": {"message": "no", "code": 2},
                "events": [event], "links": [with_ids(link)], "traceState": "ot=th:8", "flags": 257,
                "droppedAttributesCount": 3, "droppedEventsCount": 4, "droppedLinksCount": 5,
            });
            (json!([with_ids(span)]), "spans", "scopeSpans", "resourceSpans")
        }
        Signal::Logs => {
            let record = json!({
                "timeUnixNano": "10", "observedTimeUnixNano": "11", "severityNumber": 9, "severityText": "INFO",
                "body": {"doubleValue": 1.5}, "attributes": attributes, "eventName": "e", "flags": 1,
                "droppedAttributesCount": 2,
            });
            (json!([with_ids(record)]), "logRecords", "scopeLogs", "resourceLogs")
        }
        Signal::Metrics => (metrics(&attributes, with_ids), "metrics", "scopeMetrics", "resourceMetrics"),
    };
    let scope = json!({"name": "cart", "version": "1", "attributes": attributes, "droppedAttributesCount": 1});
    let entity = json!({"schemaUrl": "u", "type": "t", "idKeys": ["k"], "descriptionKeys": ["d"]});
    let resource = json!({"attributes": every_type, "droppedAttributesCount": 1, "entityRefs": [entity]});
    let of_scope = json!({"scope": scope, items: records, "schemaUrl": "x"});
    json!({of_resources: [{"resource": resource, of_scopes: [of_scope], "schemaUrl": "y"}]})
}

/// A metric of each kind.
fn metrics(attributes: &Json, with_ids: impl Fn(Json) -> Json) -> Json {
    let exemplar = |value: &str, number: Json| {
        with_ids(json!({"filteredAttributes": attributes, "timeUnixNano": "13", value: number}))
    };
    let exemplars = json!([exemplar("asInt", json!("8")), exemplar("asDouble", json!(8.5))]);
    let point = |mut own: Json| {
        let shared = json!({"attributes": attributes, "startTimeUnixNano": "10", "timeUnixNano": "11", "flags": 1});
        own.as_object_mut().unwrap().extend(shared.as_object().unwrap().clone());
        json!([own])
    };
    let whole = point(json!({"asInt": "9", "exemplars": exemplars}));
    let double = point(json!({"asDouble": 9.5, "exemplars": exemplars}));
    let histogram = point(json!({
        "count": "3", "sum": 4.5, "bucketCounts": ["1", "2"], "explicitBounds": [2.5], "exemplars": exemplars, "min": 0.5,
        "max": 3.5,
    }));
    let exponential = point(json!({
        "count": "4", "sum": 5.5, "scale": -3, "zeroCount": "1", "positive": {"offset": -7, "bucketCounts": ["1", "300"]},
        "negative": {"offset": 2, "bucketCounts": ["2"]}, "exemplars": exemplars, "min": -1.5, "max": 9.5,
        "zeroThreshold": 0.25,
    }));
    let summary = point(json!({"count": "5", "sum": 6.5, "quantileValues": [{"quantile": 0.5, "value": 7.5}]}));
    let all = [
        ("gauge", json!({"dataPoints": double})),
        ("sum", json!({"dataPoints": whole, "aggregationTemporality": 2, "isMonotonic": true})),
        ("histogram", json!({"dataPoints": histogram, "aggregationTemporality": 1})),
        ("exponentialHistogram", json!({"dataPoints": exponential, "aggregationTemporality": 1})),
        ("summary", json!({"dataPoints": summary})),
    ];
    let metric = |(kind, data): (&str, Json)| {
        json!({
            "name": "m", "description": "d", "unit": "s", "metadata": attributes, kind: data,
        })
    };
    all.into_iter().map(metric).collect()
}

/// Every value of a request, at any depth.
#[derive(Debug)]
struct Place {
    pointer: String,
    /// As an error names it.
    path: String,
    field: String,
    value: Json,
    in_array: bool,
}

fn places(value: &Json, pointer: &str, path: &str, field: &str, all: &mut Vec<Place>) {
    let mut inside = |value: &Json, key: String, path: String, field: &str, in_array: bool| {
        let pointer = format!("{pointer}/{key}");
        places(value, &pointer, &path, field, all);
        all.push(Place { pointer, path, field: field.to_owned(), value: value.clone(), in_array });
    };
    match value {
        Json::Object(fields) => {
            for (name, value) in fields {
                let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
                inside(value, name.clone(), path, name, false);
            }
        }
        Json::Array(items) => {
            for (place, value) in items.iter().enumerate() {
                inside(value, place.to_string(), format!("{path}[{place}]"), field, true);
            }
        }
        _ => {}
    }
}

fn each_place(mut check: impl FnMut(Signal, &Json, &Place)) {
    for signal in SIGNALS {
        let (request, mut all) = (full(signal), Vec::new());
        places(&request, "", "", "", &mut all);
        assert!(all.len() > 80, "{} values", all.len());
        all.iter().for_each(|place| check(signal, &request, place));
    }
}

fn with(request: &Json, pointer: &str, value: Json) -> Json {
    let mut other = request.clone();
    *other.pointer_mut(pointer).unwrap() = value;
    other
}

const ENUMS: [&str; 4] = ["kind", "code", "severityNumber", "aggregationTemporality"];
const DOUBLES: [&str; 9] =
    ["doubleValue", "asDouble", "sum", "min", "max", "value", "quantile", "zeroThreshold", "explicitBounds"];
const TEXTS: [&str; 14] = [
    "stringValue",
    "key",
    "name",
    "version",
    "schemaUrl",
    "description",
    "unit",
    "type",
    "idKeys",
    "descriptionKeys",
    "traceState",
    "message",
    "severityText",
    "eventName",
];

/// Whether a value is a number, which may be a string.
fn number(place: &Place) -> Option<f64> {
    match &place.value {
        Json::Number(number) => number.as_f64(),
        Json::String(text) if !TEXTS.contains(&place.field.as_str()) => text.parse().ok(),
        _ => None,
    }
}

/// A metric with one wrong number was once answered 200, and nothing of it was stored.
#[test]
fn a_value_of_a_wrong_type_is_an_error_that_names_it() {
    let mut tried = 0;
    each_place(|signal, request, place| {
        for wrong in
            [json!({"a": 1}), json!([[]]), json!(true), json!("b%us"), json!(0.5), json!(1e300), json!("1e300")]
        {
            let taken = match (&place.value, &wrong) {
                (Json::Object(_), Json::Object(_)) | (Json::Bool(_), Json::Bool(_)) => true,
                (Json::String(_), Json::String(_)) if TEXTS.contains(&place.field.as_str()) => true,
                (Json::Number(_), Json::Number(_)) => DOUBLES.contains(&place.field.as_str()),
                (Json::Number(_), Json::String(text)) => text == "1e300" && DOUBLES.contains(&place.field.as_str()),
                _ => false,
            };
            if taken {
                continue;
            }
            tried += 1;
            match rows(signal, &with(request, &place.pointer, wrong.clone())) {
                Ok(rows) => panic!("{signal:?} {}: {wrong} gave {rows:?}", place.path),
                Err(error) => assert!(error.contains(&format!(": {}", place.path)), "{}: {wrong}: {error}", place.path),
            }
        }
    });
    assert!(tried > 2_000, "{tried}");
}

#[test]
fn null_is_a_field_that_is_not_set_and_no_item() {
    each_place(|signal, request, place| {
        let null = rows(signal, &with(request, &place.pointer, Json::Null));
        if place.in_array {
            assert!(null.unwrap_err().contains(&place.path));
            return;
        }
        let (object, name) = place.pointer.rsplit_once('/').unwrap();
        let mut without = request.clone();
        without.pointer_mut(object).unwrap().as_object_mut().unwrap().remove(name);
        assert_eq!(null.unwrap(), rows(signal, &without).unwrap(), "{}", place.path);
    });
}

#[test]
fn a_number_is_a_number_or_a_string() {
    let mut tried = 0;
    each_place(|signal, request, place| {
        let Some(number) = number(place) else { return };
        let expected = rows(signal, request).unwrap();
        let text = place.value.as_str().map_or_else(|| place.value.to_string(), str::to_owned);
        let mut spellings = vec![serde_json::from_str(&text).unwrap()];
        if !ENUMS.contains(&place.field.as_str()) {
            spellings.extend([json!(text), json!(number), json!(format!("{number:e}"))]);
        }
        for spelled in spellings {
            let found = rows(signal, &with(request, &place.pointer, spelled.clone()));
            assert_eq!(found.as_ref(), Ok(&expected), "{}: {spelled}", place.path);
            tried += 1;
        }
    });
    assert!(tried > 400, "{tried}");
}

#[test]
fn a_double_that_json_has_not_is_stored_as_what_it_says() {
    let mut tried = 0;
    each_place(|signal, request, place| {
        if number(place).is_none() || !DOUBLES.contains(&place.field.as_str()) {
            return;
        }
        let expected = rows(signal, request).unwrap().0.len();
        for (text, number) in [("NaN", f64::NAN), ("Infinity", f64::INFINITY), ("-Infinity", f64::NEG_INFINITY)] {
            let (found, rejected) = rows(signal, &with(request, &place.pointer, json!(text))).unwrap();
            let stored = json!(found).to_string();
            let said = [format!("\"{number:?}"), format!("\"{text}")].iter().any(|said| stored.contains(said));
            // what describes a metric has no column
            assert!(said || place.path.contains(".metadata["), "{}: {text}: {stored}", place.path);
            assert_eq!((found.len(), rejected), (expected, 0), "{}", place.path);
            tried += 1;
        }
    });
    assert!(tried > 60, "{tried}");
}

#[test]
fn an_enum_is_a_number_or_a_name() {
    let names = ["SPAN_KIND_CLIENT", "STATUS_CODE_ERROR", "SEVERITY_NUMBER_INFO", "AGGREGATION_TEMPORALITY_DELTA"];
    let (mut tried, mut sums) = (0, 0);
    each_place(|signal, request, place| {
        let Some(which) = ENUMS.iter().position(|name| *name == place.field) else { return };
        let mut name = names[which];
        if place.value == 2 && which == 3 {
            (name, sums) = ("AGGREGATION_TEMPORALITY_CUMULATIVE", sums + 1);
        }
        let expected = rows(signal, request);
        assert_eq!(rows(signal, &with(request, &place.pointer, json!(name))), expected, "{}", place.path);
        tried += 1;
    });
    assert_eq!((tried, sums), (6, 1));
}

#[test]
fn values_are_read_in_every_spelling_of_protobuf() {
    let cases = [
        // what protobuf's own writer makes of empty lists
        (json!({"arrayValue": {}}), json!(["[]", "a"])),
        (json!({"kvlistValue": {}}), json!(["{}", "m"])),
        (json!({"arrayValue": {"values": null}}), json!(["[]", "a"])),
        (json!({"arrayValue": {"values": [{"arrayValue": {}}]}}), json!(["[[]]", "a"])),
        (json!({"bytesValue": "+/8="}), json!(["+/8=", "y"])),
        (json!({"bytesValue": "-_8"}), json!(["+/8=", "y"])),
        (json!({"bytesValue": "AP8"}), json!(["AP8=", "y"])),
        (json!({"bytesValue": ""}), json!(["", "y"])),
        (json!({"stringValue": "NaN"}), json!(["NaN", "s"])),
        (json!({"stringValue": ""}), json!(["", "s"])),
        (json!({"intValue": 0}), json!(["0", "i"])),
        (json!({"intValue": i64::MIN.to_string()}), json!([i64::MIN.to_string(), "i"])),
        (json!({"boolValue": false}), json!(["false", "b"])),
        (json!({"doubleValue": -0.0}), json!(["-0.0", "d"])),
        (json!({"doubleValue": "1.5"}), json!(["1.5", "d"])),
        (json!({"doubleValue": null, "intValue": 1}), json!(["1", "i"])),
        (json!({"stringValue": "a", "intValue": 1}), json!(["1", "i"])),
        (json!({"valueOfTomorrow": [1]}), json!(["", "n"])),
    ];
    for (value, expected) in cases {
        let request = json!({"resourceLogs": [{"scopeLogs": [{"logRecords": [{"body": value}]}]}]});
        let (rows, _) = rows(Signal::Logs, &request).unwrap_or_else(|error| panic!("{value}: {error}"));
        assert_eq!(json!([rows[0]["body"], rows[0]["body_type"]]), expected, "{value}");
    }
}

#[test]
fn a_refusal_names_the_field() {
    let point = |point: &str| {
        format!(
            r#"{{"resourceMetrics":[{{"scopeMetrics":[{{"metrics":[{{"gauge":{{"dataPoints":[{point}]}}}}]}}]}}]}}"#
        )
    };
    let cases = [
        (r#"{"resourceMetrics":7}"#.to_owned(), "resourceMetrics: invalid type: integer `7`, expected an array"),
        (r#"{"resourceMetrics":[]} x"#.to_owned(), "OTLP/JSON: trailing characters at line 1"),
        ("[".to_owned(), "OTLP/JSON: invalid type: sequence, expected an object"),
        (String::new(), "OTLP/JSON: EOF while parsing"),
        (r#"{"resourceMetrics":[],"resourceMetrics":[]}"#.to_owned(), "duplicate field `resourceMetrics`"),
        (point(r#"{"asDouble":"bogus"}"#), "metrics[0].gauge.dataPoints[0].asDouble: invalid value: string \"bogus\""),
        (point(r#"{"asDouble":1,"asInt":1}"#), "dataPoints[0]: `asInt` beside `asDouble`"),
        (point(r#"{"asInt":"9223372036854775808"}"#), "asInt: invalid value"),
        (point("{}").replace("gauge", r#"sum":{},"gauge"#), "metrics[0]: `gauge` beside `sum`"),
    ];
    for (text, part) in cases {
        let error = protobuf(Signal::Metrics, text.as_bytes()).unwrap_err().to_string();
        assert!(error.contains(part), "{text}: {error}");
    }
}

#[test]
fn text_that_nests_too_deep_is_refused() {
    let deep = |levels: usize, open: &str, close: &str| {
        let value = format!("{}{}", open.repeat(levels), close.repeat(levels));
        let text = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{{"body":{{{value}}}}}]}}]}}]}}"#);
        protobuf(Signal::Logs, text.as_bytes()).map_err(|error| error.to_string())
    };
    let array = [r#""arrayValue":{"values":[{"#, "}]}"];
    assert!(deep(30, array[0], array[1]).is_ok());
    let refused = deep(100_000, array[0], array[1]).unwrap_err();
    assert!(refused.contains("recursion limit exceeded"), "{}", &refused[refused.len() - 100..]);
    // what nobody knows is skipped without a stack
    assert!(deep(100_000, r#""unknown":{"#, "}").is_ok());
}

#[test]
fn what_the_generated_messages_write_is_read_as_they_mean_it() {
    fn check<M: Message + Default + Serialize>(signal: Signal, request: &M) -> bool {
        let text = serde_json::to_value(request).unwrap();
        match protobuf(signal, text.to_string().as_bytes()) {
            Ok(bytes) => {
                let read = serde_json::to_value(M::decode(&bytes[..]).unwrap()).unwrap();
                assert_eq!(set(read), set(text));
                true
            }
            // they write null for NaN, and that is no bound
            Err(error) => {
                assert!(error.to_string().contains("explicitBounds["), "{error}");
                false
            }
        }
    }
    /// Without what is null or zero.
    fn set(value: Json) -> Json {
        match value {
            Json::Object(fields) => {
                let fields = fields.into_iter().filter(|(_, value)| !value.is_null() && value.as_f64() != Some(0.0));
                Json::Object(fields.map(|(name, value)| (name, set(value))).collect())
            }
            Json::Array(items) => items.into_iter().map(set).collect(),
            other => other,
        }
    }
    let mut random = Random(0x0DDB_1A5E_5BAD_5EED);
    let mut same = 0;
    for _ in 0..500 {
        same += usize::from(check::<ExportTraceServiceRequest>(Signal::Traces, &random.traces()));
        same += usize::from(check::<ExportMetricsServiceRequest>(Signal::Metrics, &random.metrics()));
        same += usize::from(check::<ExportLogsServiceRequest>(Signal::Logs, &random.logs()));
    }
    assert!(same > 1_300, "{same}");
}
