//! Derived rows against the plainest way to make them, on random rows.

use std::collections::{BTreeMap, HashMap};

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_schema::{Encoding, Signal, otlp};

use super::*;

const HOUR: i64 = HOUR_NS;

/// Spans as a collector would decode them: random traces, services, attributes of every type, some
/// of them in columns of their own, some of those with a type that does not fit.
fn random_spans(random: &mut StdRng, rows: usize) -> RecordBatch {
    let mut resources = Vec::new();
    let mut left = rows;
    while left > 0 {
        let spans = random.random_range(1..=left.min(6));
        left -= spans;
        let spans: Vec<_> = (0..spans).map(|_| random_span(random)).collect();
        let mut attributes = vec![serde_json::json!({
            "key": "service.name", "value": {"stringValue": format!("s{}", random.random_range(0..4))}
        })];
        for name in ["host.name", "k8s.pod.name"].into_iter().take(random.random_range(0..3)) {
            attributes.push(serde_json::json!({"key": name, "value": {"stringValue": "x"}}));
        }
        resources.push(serde_json::json!({
            "resource": {"attributes": attributes}, "scopeSpans": [{"spans": spans}]
        }));
    }
    let body = serde_json::json!({ "resourceSpans": resources }).to_string();
    let decoded = otlp::decode(Signal::Traces, Encoding::Json, body.as_bytes(), 7).unwrap();
    decoded.batch.unwrap().rows
}

fn random_span(random: &mut StdRng) -> serde_json::Value {
    let start = HOUR * random.random_range(100..103) + random.random_range(0..HOUR);
    let parent = if random.random_range(0..3) == 0 { 0 } else { random.random_range(1..50_u64) };
    let values = [
        serde_json::json!({"stringValue": "v"}),
        serde_json::json!({"intValue": "3"}),
        serde_json::json!({"boolValue": true}),
        serde_json::json!({"doubleValue": 0.5}),
        serde_json::json!({"bytesValue": "AQ=="}),
        serde_json::json!({"arrayValue": {"values": [{"intValue": "1"}]}}),
        serde_json::json!({"kvlistValue": {"values": []}}),
        serde_json::json!({}),
    ];
    let names = ["ab", "c", "a", "bc", "http.route", "http.response.status_code", "long.attribute.name"];
    let attributes: Vec<_> = (0..random.random_range(0..4))
        .map(|_| {
            let (name, value) = (random.random_range(0..names.len()), random.random_range(0..values.len()));
            serde_json::json!({"key": names[name], "value": values[value]})
        })
        .collect();
    serde_json::json!({
        "traceId": format!("{:032x}", random.random_range(1..9_u128) << 64),
        "spanId": format!("{:016x}", random.random_range(1..u64::MAX)),
        "parentSpanId": if parent == 0 { String::new() } else { format!("{parent:016x}") },
        "name": format!("op{}", random.random_range(0..3)),
        "kind": 2,
        "startTimeUnixNano": start.to_string(),
        "endTimeUnixNano": (start + random.random_range(0..5_000)).to_string(),
        "status": {"code": random.random_range(0..3)},
        "attributes": attributes,
    })
}

#[test]
fn one_row_a_trace_says_when_it_ran_and_how_it_began() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let rows = random.random_range(1..80);
        let spans = random_spans(&mut random, rows);
        // a part of a batch reads as a batch
        let from = random.random_range(0..rows);
        let spans = spans.slice(from, random.random_range(1..=rows - from));
        assert_eq!(trace_index(&spans), plain_trace_index(&spans), "seed {seed}");
    }
}

fn plain_trace_index(spans: &RecordBatch) -> RecordBatch {
    struct Row {
        start: i64,
        end: i64,
        root: Option<(i64, String, String)>,
        error: bool,
    }
    let mut traces: BTreeMap<Vec<u8>, Row> = BTreeMap::new();
    let long = |name: &str, row| spans[name].as_primitive::<Int64Type>().value(row);
    let text = |name: &str, row| spans[name].as_string::<i32>().value(row).to_owned();
    for row in 0..spans.num_rows() {
        let (start, duration) = (long("start_unix_nano", row), long("duration_ns", row));
        let id = spans["trace_id"].as_binary::<i32>().value(row).to_vec();
        let trace = traces.entry(id).or_insert(Row { start: i64::MAX, end: 0, root: None, error: false });
        trace.start = trace.start.min(start);
        trace.end = trace.end.max(start + duration);
        trace.error |= text("status", row) == "error";
        let earlier = trace.root.as_ref().is_none_or(|(earliest, ..)| start < *earliest);
        if spans["parent_span_id"].is_null(row) && earlier {
            trace.root = Some((start, text("service", row), text("operation", row)));
        }
    }
    let rows = || traces.values();
    let columns: Vec<ArrayRef> = vec![
        Arc::new(BinaryArray::from_iter_values(traces.keys())),
        Arc::new(Int64Array::from_iter_values(rows().map(|row| row.start))),
        Arc::new(Int64Array::from_iter_values(rows().map(|row| row.end))),
        Arc::new(rows().map(|row| row.root.as_ref().map(|(_, service, _)| service)).collect::<StringArray>()),
        Arc::new(rows().map(|row| row.root.as_ref().map(|(.., operation)| operation)).collect::<StringArray>()),
        Arc::new(BooleanArray::from_iter(rows().map(|row| Some(row.error)))),
    ];
    RecordBatch::try_new(Table::TraceIndex.schema(), columns).unwrap()
}

#[test]
fn services_and_keys_are_those_of_every_row() {
    for seed in 0..200 {
        let mut random = StdRng::seed_from_u64(seed);
        let rows = random.random_range(1..80);
        let spans = random_spans(&mut random, rows);
        let from = random.random_range(0..rows);
        let spans = spans.slice(from, random.random_range(1..=rows - from));
        let (mut plain_services, mut plain_keys, mut hot) = (BTreeSet::new(), BTreeSet::new(), false);
        for row in 0..spans.num_rows() {
            let hour = spans["start_unix_nano"].as_primitive::<Int64Type>().value(row) / HOUR * HOUR;
            let service = spans["service"].as_string::<i32>().value(row).to_owned();
            plain_services.insert(ServiceRow { hour, signal: "spans", service });
            let (record, in_map) = record_keys(&spans, row);
            hot |= in_map;
            let resource = map_keys(&spans, "resource_attributes", "resource_attribute_types", row);
            for (level, keys) in [("record", record), ("resource", resource)] {
                let rows = keys.into_iter();
                plain_keys.extend(rows.map(|(key, value_type)| AttributeKeyRow {
                    hour,
                    signal: "spans",
                    level,
                    key,
                    value_type,
                }));
            }
        }
        assert_eq!(services(Table::Spans, &spans), plain_services, "seed {seed}");
        let found = attribute_keys(Table::Spans, &spans);
        assert_eq!((found.rows, found.hot_in_map), (plain_keys, hot), "seed {seed}");
    }
}

/// Keys and types of a row of spans, and whether one with a column of its own stands in the map.
fn record_keys(spans: &RecordBatch, row: usize) -> (Vec<(String, &'static str)>, bool) {
    let mut keys = map_keys(spans, "attributes", "attribute_types", row);
    let hot: HashMap<&str, &str> =
        [("http.route", "http_route"), ("http.response.status_code", "http_response_status_code")].into();
    let in_map = keys.iter().any(|(key, _)| hot.contains_key(key.as_str()));
    for (attribute, column) in hot {
        if spans[column].is_valid(row) {
            keys.push((attribute.to_owned(), if column == "http_route" { "string" } else { "int" }));
        }
    }
    (keys, in_map)
}

fn map_keys(spans: &RecordBatch, map: &str, types: &str, row: usize) -> Vec<(String, &'static str)> {
    let (map, types) = (spans[map].as_map(), spans[types].as_string::<i32>());
    if map.is_null(row) {
        return Vec::new();
    }
    let entries = map.value(row);
    let keys = entries.column(0).as_string::<i32>();
    let letters = if types.is_valid(row) { types.value(row) } else { "" };
    let name = |place| match letters.chars().nth(place).unwrap_or('s') {
        's' => "string",
        'b' => "boolean",
        'i' => "int",
        'd' => "double",
        'y' => "bytes",
        'a' | 'A' => "array",
        'm' | 'M' => "map",
        'n' => "null",
        letter => panic!("{letter}"),
    };
    (0..keys.len()).map(|place| (keys.value(place).to_owned(), name(place))).collect()
}

#[test]
fn keys_cut_differently_are_different() {
    let mut map = MapArrayOf::default();
    map.row(&["ab", "c"]);
    map.row(&["a", "bc"]);
    map.row(&["ab", "c"]);
    let rows = map.finish();
    let found = attribute_keys(Table::Logs, &rows);
    assert!(!found.hot_in_map, "logs have no columns of attributes");
    let keys: Vec<_> = found.rows.into_iter().map(|row| row.key).collect();
    assert_eq!(keys, ["a", "ab", "bc", "c"]);
}

/// Rows of `logs` with these keys.
#[derive(Default)]
struct MapArrayOf(Vec<Vec<serde_json::Value>>);

impl MapArrayOf {
    fn row(&mut self, keys: &[&str]) {
        let attribute = |key: &&str| serde_json::json!({"key": key, "value": {"stringValue": "v"}});
        self.0.push(keys.iter().map(attribute).collect());
    }

    fn finish(self) -> RecordBatch {
        let record = |attributes| serde_json::json!({"timeUnixNano": "5", "attributes": attributes});
        let records: Vec<_> = self.0.into_iter().map(record).collect();
        let body = serde_json::json!({"resourceLogs": [{"scopeLogs": [{"logRecords": records}]}]}).to_string();
        otlp::decode(Signal::Logs, Encoding::Json, body.as_bytes(), 7).unwrap().batch.unwrap().rows
    }
}

#[test]
fn batches_have_the_tables_columns_and_nothing_comes_from_nothing() {
    let spans = random_spans(&mut StdRng::seed_from_u64(5), 20);
    let rows = services_batch(&services(Table::Spans, &spans));
    assert_eq!(rows.schema(), Table::Services.schema());
    assert!(rows.num_rows() > 1);
    let rows = attribute_keys_batch(&attribute_keys(Table::Spans, &spans).rows);
    assert_eq!(rows.schema(), Table::AttributeKeys.schema());
    assert!(rows.num_rows() > 5);
    let none = spans.slice(0, 0);
    assert_eq!(trace_index(&none).num_rows(), 0);
    assert!(services(Table::Spans, &none).is_empty() && attribute_keys(Table::Spans, &none).rows.is_empty());
    let letters: String = ["s", "b", "i", "d", "y", "a", "m", "A", "M", "n"].concat();
    for letter in letters.bytes() {
        // every letter the codec knows has a name
        assert!(letter == b's' || type_name(Some(&letter)) != "string", "{}", letter as char);
    }
}

#[test]
fn what_was_written_is_not_written_again_and_old_hours_are_forgotten_first() {
    let row = |hour: i64, service: &str| ServiceRow { hour, signal: "spans", service: service.into() };
    let mut seen = Seen { limit: 3, ..Seen::default() };
    let first: BTreeSet<_> = [row(1, "a"), row(1, "b")].into();
    assert_eq!(seen.unseen(first.clone()), first, "not known before it is written");
    seen.remember(first.clone());
    assert!(seen.unseen(first.clone()).is_empty());
    seen.remember([row(2, "a"), row(2, "b")].into());
    assert_eq!(seen.unseen(first), [row(1, "a")].into(), "the oldest went");
    assert!(seen.unseen([row(2, "a"), row(2, "b")].into()).is_empty());
}
