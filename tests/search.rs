//! Searches for traces, what there is to search for, and what the minutes in the tables add up to, by
//! the HTTP API over rows in files and in memory.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, BooleanArray, Float64Array, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, KeyValue, any_value::Value as OtlpValue},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    trace::v1::{Span, Status},
};
use prost::Message;
use serde_json::Value;
use weir::server::Server;
use weir_analyzer::sketch::Sketch;
use weir_schema::{Batch, Table};

use crate::support::{client, request, send, server, span};

const START: u64 = 1_700_000_000_000_000_000;
const MINUTE: i64 = 60_000_000_000;

async fn get(weir: &Server, path: &str) -> Value {
    let answer = client().get(format!("http://{}/api/v1{path}", weir.addresses.web)).send().await.unwrap();
    let (status, text) = (answer.status(), answer.text().await.unwrap());
    assert!(status.is_success(), "{path}: {status} {text}");
    serde_json::from_str(&text).unwrap()
}

async fn store(weir: &Server, service: &str, spans: Vec<Span>) {
    assert!(send(&client(), &format!("http://{}", weir.addresses.otlp_http), &request(service, spans)).await);
}

fn with(mut span: Span, attributes: &[(&str, &str)]) -> Span {
    for (key, value) in attributes {
        let value = Some(AnyValue { value: Some(OtlpValue::StringValue((*value).into())) });
        span.attributes.push(KeyValue { key: (*key).into(), value, ..KeyValue::default() });
    }
    span
}

fn failed(mut span: Span) -> Span {
    span.status = Some(Status { code: 2, message: "no".into() });
    span
}

fn ids(answer: &Value) -> Vec<u64> {
    let id = |trace: &Value| u64::from_str_radix(trace["trace_id"].as_str().unwrap(), 16).unwrap();
    answer["traces"].as_array().unwrap().iter().map(id).collect()
}

/// Three spans; every fourth trace starts at the same time as the one before.
fn trace(id: u64) -> Vec<Span> {
    let start = START + (id - id % 4 / 3) * 1_000_000_000;
    let span = |n: u64, parent| span(id.into(), id * 10 + n, parent, "GET /", start + n * 1_000, 5_000_000);
    vec![span(1, 0), span(2, id * 10 + 1), span(3, id * 10 + 1)]
}

#[tokio::test(flavor = "multi_thread")]
async fn pages_neither_repeat_nor_lose_a_trace_while_spans_arrive() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    store(&weir, "cart", (1..=30).flat_map(trace).collect()).await;
    weir.store.flush().await.unwrap();
    store(&weir, "cart", (31..=57).flat_map(trace).collect()).await;
    let mut expected: Vec<u64> = (1..=57).collect();
    // those with one start are in the order of their ids
    expected.sort_by_key(|id| std::cmp::Reverse((id - id % 4 / 3, *id)));
    let (mut found, mut path, mut pages) = (Vec::new(), "/traces?limit=10".to_owned(), 0);
    loop {
        let page = get(&weir, &path).await;
        found.extend(ids(&page));
        pages += 1;
        // a new trace, an old trace that goes on, and a late span of one that is still to come
        let late = span(5, 5_000 + pages, 0, "late", START + 100_000_000_000, 1);
        store(&weir, "cart", trace(100 + pages)).await;
        store(&weir, "cart", vec![late, span(57, 6_000 + pages, 0, "more", START + 1, 1)]).await;
        match page["next"].as_str() {
            Some(next) => path = format!("/traces?limit=10&cursor={next}"),
            None => break,
        }
    }
    assert_eq!((found, pages), (expected, 6));
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn one_span_must_match_everything_and_its_trace_is_told() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let root = with(span(1, 1, 0, "GET /", START, 9_000_000), &[("http.request.method", "GET")]);
    let gold =
        with(span(1, 2, 1, "GET /cart", START + 1_000, 3_000_000), &[("shop.tier", "gold"), ("shop.zone", "a b")]);
    let silver = with(span(2, 3, 0, "GET /cart", START + 10_000_000, 1_000_000), &[("shop.tier", "silver")]);
    store(&weir, "gateway", vec![root]).await;
    weir.store.flush().await.unwrap();
    store(&weir, "cart", vec![failed(gold), silver]).await;
    let cases: [(&str, &[u64]); 16] = [
        ("", &[2, 1]),
        ("service=cart", &[2, 1]),
        ("service=gateway", &[1]),
        ("operation=GET+%2Fcart&errors=true", &[1]),
        ("errors=false&limit=1", &[2]),
        ("attribute=shop.tier%3Dgold", &[1]),
        ("attribute=shop.tier%3Dgold&attribute=shop.zone%3Da+b", &[1]),
        ("attribute=shop.tier%3Dsilver&attribute=shop.zone%3Da+b", &[]),
        ("attribute=shop.tier%3Dgold&service=gateway", &[]),
        ("attribute=http.request.method%3DGET", &[1]),
        ("attribute=resource.service.name%3Dgateway", &[1]),
        ("min_duration_ms=2", &[1]),
        ("max_duration_ms=1", &[2]),
        ("from=2023-11-14T22:13:20.005Z", &[2]),
        ("to=2023-11-14T22:13:20.005Z", &[1]),
        ("status=unset&min_duration_ms=8.9&max_duration_ms=9.1", &[1]),
    ];
    for (fields, expected) in cases {
        assert_eq!(ids(&get(&weir, &format!("/traces?{fields}")).await), expected, "{fields}");
    }
    let found = get(&weir, "/traces?attribute=shop.tier%3Dgold").await;
    let (trace, start) = (&found["traces"][0], START as i64);
    assert_eq!((trace["service"].as_str(), trace["operation"].as_str()), (Some("gateway"), Some("GET /")), "{trace}");
    assert_eq!((trace["error"].as_bool(), trace["duration_ns"].as_i64()), (Some(true), Some(9_000_000)), "{trace}");
    assert_eq!((trace["start_unix_nano"].as_i64(), &found["next"]), (Some(start), &Value::Null));
    assert_eq!(trace["matched"]["span_id"], "0000000000000002");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn the_index_tells_what_a_trace_is_and_its_rows_add_up() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    store(&weir, "cart", vec![span(5, 2, 1, "GET /cart", START + 1_000, 3_000)]).await;
    // a flush that saw no root, one that did, and one with a late end
    let start = START as i64;
    let rows = [
        (start + 500, start + 5_000, None, false),
        (start, start + 4_000, Some("gateway"), true),
        (start + 2_000, start + 9_000, None, false),
    ];
    let column = |name: &str| -> ArrayRef {
        match name {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|_| 5_u128.to_be_bytes()))),
            "start_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
            "end_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1))),
            "service" => Arc::new(StringArray::from_iter(rows.iter().map(|row| row.2))),
            "operation" => Arc::new(StringArray::from_iter(rows.iter().map(|row| row.2.map(|_| "GET /")))),
            "error" => Arc::new(BooleanArray::from_iter(rows.iter().map(|row| Some(row.3)))),
            other => panic!("{other} is new"),
        }
    };
    weir.store.append_rows(batch(Table::TraceIndex, column)).await.unwrap();
    let found = get(&weir, "/traces?service=cart").await;
    let trace = &found["traces"][0];
    assert_eq!((trace["service"].as_str(), trace["operation"].as_str()), (Some("gateway"), Some("GET /")), "{trace}");
    assert_eq!(
        (trace["start_unix_nano"].as_i64(), trace["duration_ns"].as_i64()),
        (Some(start), Some(9_000)),
        "{trace}"
    );
    assert_eq!(trace["error"].as_bool(), Some(true), "{trace}");
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn what_there_is_to_search_for_is_listed() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let tiers = ["gold", "gold", "silver"].into_iter().zip(1..);
    let spans = tiers.map(|(tier, n)| {
        with(span(n, n as u64, 0, "GET /cart", START, 1_000_000), &[("shop.tier", tier), ("http.route", "/cart")])
    });
    store(&weir, "cart", spans.collect()).await;
    for flushed in [false, true] {
        if flushed {
            weir.store.flush().await.unwrap();
        }
        let range = "from=2023-11-14T22:00:00Z&to=2023-11-14T23:00:00Z";
        let services = get(&weir, &format!("/services?{range}")).await;
        let service = &services["services"][0];
        assert_eq!((service["service"].as_str(), service["count"].as_i64()), (Some("cart"), Some(3)), "{services}");
        assert_eq!(get(&weir, "/services?from=0&to=1").await["services"], serde_json::json!([]));
        let operations = get(&weir, &format!("/operations?service=cart&{range}")).await;
        assert_eq!(operations["operations"][0]["operation"], "GET /cart", "{operations}");
        assert_eq!(operations["operations"][0]["count"], 3);
        let keys = get(&weir, "/attribute_keys").await.to_string();
        for key in ["shop.tier", "http.route", "service.name"] {
            assert!(keys.contains(&format!("\"{key}\"")), "{key} is not in {keys}");
        }
        let begun = get(&weir, "/attribute_keys?prefix=shop").await;
        assert_eq!(begun["keys"], serde_json::json!([{"level": "record", "key": "shop.tier"}]));
        let values = get(&weir, "/attribute_values?key=shop.tier").await;
        let expected = serde_json::json!([{"value": "gold", "count": 2}, {"value": "silver", "count": 1}]);
        assert_eq!(values["values"], expected);
        let values = get(&weir, "/attribute_values?key=shop.tier&prefix=si&service=cart").await;
        assert_eq!(values["values"], serde_json::json!([{"value": "silver", "count": 1}]));
    }
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn quantiles_of_several_minutes_come_from_merged_sketches() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let minute = START as i64 / (5 * MINUTE) * 5 * MINUTE;
    // 98 fast requests in one row, two slow ones in another minute: the median of row medians would be slow
    let rows = [
        (minute, "server", vec![1.0; 98], 0),
        (minute + MINUTE, "server", vec![100.0; 2], 2),
        (minute, "client", vec![7.0; 50], 0),
    ];
    weir.store.append_rows(operations(&rows)).await.unwrap();
    // each is one call, though a caller alone saw the second minute's
    weir.store.append_rows(edges(&[(minute, vec![1.0; 98], 0), (minute + MINUTE, vec![100.0; 2], 2)])).await.unwrap();
    // younger than the last closed minute: counted from the spans
    store(&weir, "cart", vec![failed(span(1, 1, 0, "GET /", (minute + 2 * MINUTE) as u64 + 20, 50_000_000))]).await;
    // one of four that a client kept
    let sampled =
        Span { trace_state: "ot=th:c".into(), ..span(2, 2, 0, "GET /", (minute + 3 * MINUTE) as u64, 50_000_000) };
    store(&weir, "cart", vec![sampled]).await;
    // of a clock that is ahead: it does not close the minutes before
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as i64;
    let ahead = now - now % MINUTE + 180 * MINUTE;
    weir.store.append_rows(operations(&[(ahead, "server", vec![1.0], 0)])).await.unwrap();
    let range = format!("from={minute}&to={}", minute + 5 * MINUTE);
    let red = get(&weir, &format!("/red?service=cart&{range}&step=5m")).await;
    let point = &red["points"][0];
    assert_eq!((point["count"].as_i64(), point["error_count"].as_i64()), (Some(105), Some(3)), "{red}");
    let ms = |key: &str| point[format!("duration_ms_{key}")].as_f64().unwrap();
    for (key, expected) in [("p50", 1.0), ("p95", 50.0), ("p99", 50.0)] {
        assert!((ms(key) / expected - 1.0).abs() < 0.02, "{key}: {}", ms(key));
    }
    let minutes = get(&weir, &format!("/red?service=cart&{range}&step=60")).await;
    let counts: Vec<_> = minutes["points"].as_array().unwrap().iter().map(|p| p["count"].as_i64().unwrap()).collect();
    assert_eq!(counts, [98, 2, 1, 4, 0]);
    let last = minutes["points"][2]["duration_ms_p50"].as_f64().unwrap();
    assert!((last / 50.0 - 1.0).abs() < 0.02, "{last}");
    assert_eq!(minutes["points"][4]["duration_ms_p50"], Value::Null, "nothing measured is no number");

    let graph = get(&weir, &format!("/graph?{range}")).await;
    let edge = &graph["edges"][0];
    assert_eq!((edge["caller"].as_str(), edge["callee"].as_str()), (Some("gateway"), Some("cart")), "{graph}");
    assert!((edge["rate_per_s"].as_f64().unwrap() - 100.0 / 300.0).abs() < 1e-9, "{edge}");
    assert!((edge["duration_ms_p99"].as_f64().unwrap() / 100.0 - 1.0).abs() < 0.02, "{edge}");
    assert!((edge["error_ratio"].as_f64().unwrap() - 0.02).abs() < 1e-9, "{edge}");
    let names: Vec<_> = graph["services"].as_array().unwrap().iter().map(|s| s["service"].as_str().unwrap()).collect();
    assert_eq!(names, ["cart", "gateway"]);
    assert_eq!(graph["edges"].as_array().unwrap().len(), 1);
    let empty = get(&weir, "/graph?from=0&to=60000000000").await;
    assert_eq!((&empty["services"], &empty["edges"]), (&serde_json::json!([]), &serde_json::json!([])));
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn logs_of_a_trace_stand_beside_its_spans() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    store(&weir, "cart", vec![span(7, 1, 0, "GET /cart", START, 1_000_000)]).await;
    let record = |n: u64, trace: u128, body: &str| LogRecord {
        time_unix_nano: START + n,
        severity_number: 17,
        body: Some(AnyValue { value: Some(OtlpValue::StringValue(body.into())) }),
        trace_id: trace.to_be_bytes().to_vec(),
        span_id: n.to_be_bytes().to_vec(),
        ..LogRecord::default()
    };
    let log_records = vec![record(2, 7, "then <b>"), record(1, 7, "first"), record(1, 8, "of another")];
    let scope_logs = vec![ScopeLogs { log_records, ..ScopeLogs::default() }];
    let resource = request("cart", Vec::new()).resource_spans.remove(0).resource;
    let resource_logs = vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }];
    let logs = opentelemetry_proto::tonic::collector::logs::v1::ExportLogsServiceRequest { resource_logs };
    let post = client().post(format!("http://{}/v1/logs", weir.addresses.otlp_http));
    let post = post.header("content-type", "application/x-protobuf").body(logs.encode_to_vec());
    assert!(post.send().await.unwrap().status().is_success());
    let id = format!("{:032x}", 7);
    let bodies = |answer: &Value| -> Vec<String> {
        answer["logs"].as_array().unwrap().iter().map(|log| log["body"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(bodies(&get(&weir, &format!("/logs?trace_id={id}")).await), ["first", "then <b>"]);
    let first = get(&weir, &format!("/logs?trace_id={id}&limit=1")).await;
    assert_eq!(bodies(&first), ["first"]);
    let next = first["next"].as_str().unwrap();
    let rest = get(&weir, &format!("/logs?trace_id={id}&limit=1&cursor={next}")).await;
    assert_eq!((bodies(&rest), &rest["next"]), (vec!["then <b>".to_owned()], &Value::Null));
    assert_eq!(bodies(&get(&weir, &format!("/logs?trace_id={id}&span_id=0000000000000002")).await), ["then <b>"]);
    let page = client().get(format!("http://{}/traces/{id}", weir.addresses.web)).send().await.unwrap();
    let page = page.text().await.unwrap();
    assert!(page.contains("then &#60;b&#62;") && page.contains("ERROR"), "{page}");
    assert!(page.contains(&format!("/traces/{id}?span=0000000000000001#logs")), "{page}");
    weir.stop().await.unwrap();
}

fn sketch(durations_ms: &[f64]) -> Vec<u8> {
    let mut sketch = Sketch::default();
    durations_ms.iter().for_each(|ms| sketch.add(*ms));
    sketch.to_bytes()
}

/// A row of `operations`: minute, kind, durations in milliseconds, errors.
type Minute<'a> = (i64, &'a str, Vec<f64>, i64);

fn operations(rows: &[Minute<'_>]) -> Batch {
    let column = |name: &str| -> ArrayRef {
        let texts = |text: fn(&Minute<'_>) -> String| -> ArrayRef {
            Arc::new(StringArray::from_iter_values(rows.iter().map(text)))
        };
        match name {
            "minute_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
            "service" => texts(|_| "cart".into()),
            "operation" => texts(|_| "GET /".into()),
            "kind" => texts(|row| row.1.into()),
            "count" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2.len() as i64))),
            "error_count" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.3))),
            "duration_sketch" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| sketch(&row.2)))),
            name => zeros(Table::Operations, name, rows.len()),
        }
    };
    batch(Table::Operations, column)
}

fn edges(rows: &[(i64, Vec<f64>, i64)]) -> Batch {
    let column = |name: &str| -> ArrayRef {
        let texts = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; rows.len()])) };
        match name {
            "minute_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0))),
            "caller" => texts("gateway"),
            "callee" => texts("cart"),
            "callee_kind" => {
                let kind = |row: &(i64, Vec<f64>, i64)| if row.2 > 0 { "external" } else { "service" };
                Arc::new(StringArray::from_iter_values(rows.iter().map(kind)))
            }
            "count" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.1.len() as i64))),
            "error_count" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.2))),
            "duration_sketch" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| sketch(&row.1)))),
            name => zeros(Table::Edges, name, rows.len()),
        }
    };
    batch(Table::Edges, column)
}

fn batch(table: Table, column: impl Fn(&str) -> ArrayRef) -> Batch {
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| column(field.name())).collect();
    Batch { table, rows: RecordBatch::try_new(schema, columns).unwrap() }
}

fn zeros(table: Table, name: &str, rows: usize) -> ArrayRef {
    match table.schema().field_with_name(name).unwrap().data_type() {
        arrow::datatypes::DataType::Int64 => Arc::new(Int64Array::from(vec![0; rows])),
        arrow::datatypes::DataType::Float64 => Arc::new(Float64Array::from(vec![0.0; rows])),
        other => panic!("{name} is {other}"),
    }
}
