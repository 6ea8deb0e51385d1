//! Spans: which can be used, and where their parts go.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{InstrumentationScope, KeyValue, any_value::Value as Any},
    trace::v1::Span,
};

use super::{Decoded, Rows, Source, nanos, non_empty};
use crate::{Table, UnixNanos};

pub(super) fn rows(request: ExportTraceServiceRequest, received_unix_nano: UnixNanos) -> Decoded {
    let mut rows = Rows::new(Table::Spans);
    for (r, resource_spans) in request.resource_spans.iter().enumerate() {
        let source = Source::of(resource_spans.resource.as_ref());
        for (s, scope_spans) in resource_spans.scope_spans.iter().enumerate() {
            for (n, span) in scope_spans.spans.iter().enumerate() {
                if let Some(why) = unusable(span) {
                    rows.reject(|| format!("resource_spans[{r}].scope_spans[{s}].spans[{n}].{why}"));
                    continue;
                }
                source.write(&mut rows);
                write_scope(&mut rows, scope_spans.scope.as_ref());
                write(&mut rows, span);
                rows.long("received_unix_nano", Some(received_unix_nano));
                rows.end_row();
            }
        }
    }
    rows.finish()
}

/// Why a span cannot be stored: the field and what is wrong with it.
fn unusable(span: &Span) -> Option<String> {
    let bad_id = |field: &str, id: &[u8], length: usize| {
        let unset = id.iter().all(|byte| *byte == 0);
        match (id.len() == length, unset) {
            (true, false) => None,
            (true, true) => Some(format!("{field} is all zero")),
            (false, _) => Some(format!("{field} has {} bytes, not {length}", id.len())),
        }
    };
    let parent = &span.parent_span_id;
    let bad_parent = !parent.is_empty() && parent.len() != 8;
    bad_id("trace_id", &span.trace_id, 16)
        .or_else(|| bad_id("span_id", &span.span_id, 8))
        .or_else(|| bad_parent.then(|| format!("parent_span_id has {} bytes, not 8", parent.len())))
        .or_else(|| {
            let (start, end) = (span.start_time_unix_nano, span.end_time_unix_nano);
            (end < start).then(|| format!("end_time_unix_nano {end} is before the start {start}"))
        })
}

fn write_scope(rows: &mut Rows, scope: Option<&InstrumentationScope>) {
    rows.text("scope_name", scope.and_then(|s| non_empty(&s.name)));
    rows.text("scope_version", scope.and_then(|s| non_empty(&s.version)));
}

fn write(rows: &mut Rows, span: &Span) {
    rows.id("trace_id", &span.trace_id);
    rows.id("span_id", &span.span_id);
    rows.id("parent_span_id", &span.parent_span_id);
    rows.text("trace_state", non_empty(&span.trace_state));
    let start = nanos(span.start_time_unix_nano);
    rows.long("start_unix_nano", Some(start));
    rows.long("duration_ns", Some(nanos(span.end_time_unix_nano) - start));
    rows.text("operation", Some(&span.name));
    rows.text("kind", Some(kind(span.kind)));
    let status = span.status.as_ref();
    rows.text("status", Some(status_text(status.map_or(0, |s| s.code))));
    rows.text("status_message", status.and_then(|s| non_empty(&s.message)));
    rows.hot_attributes("attributes", "attribute_types", &span.attributes);
    fill_older_names(rows, &span.attributes);
    rows.events("events", &span.events);
    rows.links("links", &span.links);
    rows.double("sample_weight", sample_weight(&span.trace_state));
}

/// Attribute names before OpenTelemetry's semantic conventions 1.23, and GenAI's seconds.
fn fill_older_names(rows: &mut Rows, attributes: &[KeyValue]) {
    for attribute in attributes {
        let value = attribute.value.as_ref().and_then(|v| v.value.as_ref());
        match attribute.key.as_str() {
            "http.method" => rows.fill("http_request_method", value),
            "http.status_code" => rows.fill("http_response_status_code", value),
            "http.target" => rows.fill("url_path", value),
            "db.system" => rows.fill("db_system", value),
            "db.operation" => rows.fill("db_operation", value),
            "net.peer.name" => rows.fill("server_address", value),
            "gen_ai.server.time_to_first_token" => {
                if let Some(Any::DoubleValue(seconds)) = value {
                    rows.fill("time_to_first_token_ns", Some(&Any::IntValue((seconds * 1e9) as i64)));
                }
            }
            _ => {}
        }
    }
}

fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

fn status_text(code: i32) -> &'static str {
    match code {
        1 => "ok",
        2 => "error",
        _ => "unset",
    }
}

/// OpenTelemetry's consistent sampling: `ot=th:T` keeps a span with probability 1 − T/2⁵⁶, T being
/// up to 14 hex digits, trailing zeros left out.
fn sample_weight(trace_state: &str) -> Option<f64> {
    let ot = trace_state.split(',').find_map(|entry| entry.trim().strip_prefix("ot="))?;
    let threshold = ot.split(';').find_map(|entry| entry.strip_prefix("th:"))?;
    if threshold.is_empty() || threshold.len() > 14 {
        return None;
    }
    let rejected = u64::from_str_radix(&format!("{threshold:0<14}"), 16).ok()?;
    let all = (1_u64 << 56) as f64;
    Some(all / (all - rejected as f64))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Array, AsArray},
        datatypes::{Int32Type, Int64Type},
    };
    use opentelemetry_proto::tonic::{
        common::v1::AnyValue,
        trace::v1::{ResourceSpans, ScopeSpans},
    };
    use prost::Message;

    use super::*;
    use crate::{Encoding, Signal, otlp};

    fn attribute(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn good() -> Span {
        Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            name: "GET /".into(),
            kind: 2,
            start_time_unix_nano: 10,
            end_time_unix_nano: 15,
            attributes: vec![
                attribute("http.response.status_code", Any::IntValue(200)),
                attribute("http.route", Any::IntValue(7)),
                attribute("x", Any::DoubleValue(0.5)),
                attribute("http.method", Any::StringValue("GET".into())),
            ],
            ..Span::default()
        }
    }

    fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
    }

    #[test]
    fn protobuf_and_json_give_the_same_rows() {
        let request = request(vec![good()]);
        let protobuf = otlp::decode(Signal::Traces, Encoding::Protobuf, &request.encode_to_vec(), 9).unwrap();
        let json = serde_json::to_vec(&request).unwrap();
        let json = otlp::decode(Signal::Traces, Encoding::Json, &json, 9).unwrap();
        assert_eq!(protobuf.batch.as_ref().unwrap().rows, json.batch.unwrap().rows);
        let rows = protobuf.batch.unwrap().rows;
        assert_eq!(rows["duration_ns"].as_primitive::<Int64Type>().value(0), 5);
        assert_eq!(rows["http_response_status_code"].as_primitive::<Int32Type>().value(0), 200);
        assert_eq!(rows["http_request_method"].as_string::<i32>().value(0), "GET");
        assert!(rows["http_route"].is_null(0), "an int does not fit a text column");
        let types = rows["attribute_types"].as_string::<i32>();
        let attributes = crate::attribute::map_to_json(rows["attributes"].as_map(), Some(types), 0);
        assert_eq!(
            serde_json::Value::Object(attributes),
            serde_json::json!({"http.route": 7, "x": 0.5, "http.method": "GET"})
        );
        assert_eq!(rows["service"].as_string::<i32>().value(0), otlp::UNKNOWN_SERVICE);
    }

    #[test]
    fn bad_spans_are_named_and_good_ones_kept() {
        let cases = [
            (Span { trace_id: vec![], ..good() }, "trace_id has 0 bytes, not 16"),
            (Span { trace_id: vec![0; 16], ..good() }, "trace_id is all zero"),
            (Span { span_id: vec![1; 7], ..good() }, "span_id has 7 bytes, not 8"),
            (Span { parent_span_id: vec![1; 4], ..good() }, "parent_span_id has 4 bytes, not 8"),
            (Span { end_time_unix_nano: 9, ..good() }, "end_time_unix_nano 9 is before the start 10"),
        ];
        for (bad, why) in cases {
            let body = request(vec![good(), bad]).encode_to_vec();
            let decoded = otlp::decode(Signal::Traces, Encoding::Protobuf, &body, 9).unwrap();
            assert_eq!((decoded.accepted, decoded.rejected), (1, 1), "{why}");
            assert_eq!(decoded.first_rejection.unwrap(), format!("resource_spans[0].scope_spans[0].spans[1].{why}"));
        }
    }

    #[test]
    fn what_is_not_otlp_is_refused_by_field_or_place() {
        let error = |encoding, body: &[u8]| otlp::decode(Signal::Traces, encoding, body, 9).unwrap_err().to_string();
        let mut cut = request(vec![good()]).encode_to_vec();
        cut.truncate(cut.len() - 3);
        assert!(error(Encoding::Protobuf, &cut).contains("resource_spans"), "{}", error(Encoding::Protobuf, &cut));
        assert!(error(Encoding::Json, b"{\"resourceSpans\":[{").contains("line 1"));
        assert!(
            otlp::decode(Signal::Traces, Encoding::Protobuf, b"", 9).unwrap().batch.is_none(),
            "an empty request is fine"
        );
    }

    #[test]
    fn a_threshold_becomes_a_weight() {
        let cases = [
            ("ot=th:8", Some(2.0)),
            ("a=b,ot=rv:1;th:c", Some(4.0)),
            ("ot=th:0", Some(1.0)),
            ("", None),
            ("ot=th:zz", None),
        ];
        for (state, weight) in cases {
            assert_eq!(sample_weight(state), weight, "{state}");
        }
    }
}
