//! The functions and examples of `docs/sql.md`, and the test that runs every statement on that page.

use std::path::Path;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    trace::v1::{Span, Status},
};
use prost::Message;

use crate::support::{client, request, send, server, span, sql};

pub(crate) use weir_store::functions;

/// Title, what to know, statement.
pub(crate) const EXAMPLES: [(&str, &str, &str); 16] = [
    (
        "A trace by its id",
        "Ids are typed as hex. A time range, where one is known, opens fewer files.",
        "SELECT service, operation, kind, status, duration_ns / 1e6 AS duration_ms\nFROM spans WHERE trace_id = '4bf92f3577b34da6a3ce929d0e0e4736' ORDER BY start_unix_nano",
    ),
    (
        "Search by an attribute that has a column",
        "The typed column compares as a number and prunes files; `attributes['http.response.status_code']` reads the same value as text.",
        "SELECT trace_id, service, http_route, duration_ns FROM spans\nWHERE http_response_status_code >= 500 AND start_unix_nano >= '2023-11-14T22:00:00Z' ORDER BY start_unix_nano DESC LIMIT 20",
    ),
    (
        "Search by any other attribute",
        "Every attribute is kept; values in the map are text, and beside a number they are numbers. Several conditions are met by one span.",
        "SELECT trace_id, service, operation FROM spans\nWHERE attributes['shop.tier'] = 'gold' AND attributes['shop.items'] > 2 ORDER BY start_unix_nano DESC LIMIT 20",
    ),
    (
        "Search by an attribute of the resource",
        "Host, pod, version and the like.",
        "SELECT resource_attributes['host.name'] AS host, count(*) AS spans FROM spans GROUP BY host ORDER BY spans DESC",
    ),
    (
        "Page by page, newest first",
        "The place of the last row of a page, not an OFFSET: no page costs more than the first, and rows that arrive meanwhile shift nothing. \
         The first condition prunes, the second decides ties. `/api/v1/traces` does this with its `next`.",
        "SELECT trace_id, start_unix_nano, service, operation FROM spans\nWHERE start_unix_nano <= '2023-11-14T22:13:25Z' AND (start_unix_nano < '2023-11-14T22:13:25Z' OR trace_id < '4bf92f3577b34da6a3ce929d0e0e4736')\nORDER BY start_unix_nano DESC, trace_id DESC LIMIT 20",
    ),
    (
        "Rate, errors and duration per minute, from the spans",
        "Exact over any condition; it reads the spans of the range.",
        "SELECT time_bucket('1 minute', start_unix_nano) AS minute, service, count(*) / 60.0 AS rate_per_s,\n       avg(CASE WHEN status = 'error' THEN 1.0 ELSE 0.0 END) AS error_ratio,\n       percentile(duration_ns, 0.5) / 1e6 AS p50_ms, percentile(duration_ns, 0.99) / 1e6 AS p99_ms\nFROM spans WHERE kind = 'server' AND start_unix_nano >= '2023-11-14T22:00:00Z' GROUP BY minute, service ORDER BY minute, service",
    ),
    (
        "Rate, errors and duration per minute, from the closed minutes",
        "A few rows a minute however many spans there were. Rows of one minute add up: counts and sums exactly; quantiles do not, so show \
         those of a row, or let `/api/v1/red` merge the sketches.",
        "SELECT minute_unix_nano, service, sum(count) / 60.0 AS rate_per_s, sum(error_count) * 1.0 / sum(count) AS error_ratio,\n       sum(duration_sum_ns) / sum(count) / 1e6 AS mean_ms, max(duration_max_ns) / 1e6 AS max_ms\nFROM operations WHERE kind IN ('server', 'consumer') GROUP BY minute_unix_nano, service ORDER BY minute_unix_nano DESC, service",
    ),
    (
        "The service graph of a time range",
        "`edges` holds calls per minute, caller and callee.",
        "SELECT caller, callee, sum(count) AS calls, sum(error_count) AS errors, sum(duration_sum_ns) / sum(count) / 1e6 AS mean_ms\nFROM edges WHERE minute_unix_nano >= '2023-11-14T22:00:00Z' GROUP BY caller, callee ORDER BY calls DESC",
    ),
    (
        "The service graph from the spans",
        "The same by joining each span to its parent: for ranges that were imported, or to ask for more.",
        "SELECT p.service AS caller, c.service AS callee, count(*) AS calls\nFROM spans c JOIN spans p ON c.trace_id = p.trace_id AND c.parent_span_id = p.span_id\nWHERE c.service <> p.service AND c.start_unix_nano >= '2023-11-14T22:00:00Z' GROUP BY caller, callee ORDER BY calls DESC",
    ),
    (
        "Logs of a trace",
        "Each beside the span it was written in.",
        "SELECT l.time_unix_nano, l.severity, s.operation, l.body FROM logs l\nLEFT JOIN spans s ON l.trace_id = s.trace_id AND l.span_id = s.span_id\nWHERE l.trace_id = '4bf92f3577b34da6a3ce929d0e0e4736' ORDER BY l.time_unix_nano",
    ),
    (
        "Sampled spans",
        "`sample_weight` says how many spans one stands for, null when it stands for itself only. Sums over weights estimate what really happened.",
        "SELECT service, count(*) AS stored, sum(coalesce(sample_weight, 1)) AS estimated,\n       sum(coalesce(sample_weight, 1) * duration_ns) / sum(coalesce(sample_weight, 1)) / 1e6 AS mean_ms\nFROM spans GROUP BY service ORDER BY estimated DESC",
    ),
    (
        "Spans that were sent twice",
        "Rows are stored as received. A count of requests counts an exact duplicate once.",
        "SELECT count(*) AS stored, count(DISTINCT (hex(trace_id) || hex(span_id) || service)) AS distinct_spans FROM spans",
    ),
    (
        "The slowest request of each service",
        "Window functions rank within a group.",
        "SELECT service, operation, duration_ms, trace_id FROM (\n  SELECT service, operation, trace_id, duration_ns / 1e6 AS duration_ms, row_number() OVER (PARTITION BY service ORDER BY duration_ns DESC) AS place FROM spans\n) WHERE place = 1 ORDER BY duration_ms DESC",
    ),
    (
        "Where a trace spends its time",
        "A span's duration without that of its children, where they do not overlap.",
        "WITH t AS (SELECT * FROM spans WHERE trace_id = '4bf92f3577b34da6a3ce929d0e0e4736'),\n     children AS (SELECT parent_span_id AS span_id, sum(duration_ns) AS ns FROM t WHERE parent_span_id IS NOT NULL GROUP BY parent_span_id)\nSELECT t.service, t.operation, (t.duration_ns - coalesce(children.ns, 0)) / 1e6 AS self_ms\nFROM t LEFT JOIN children ON t.span_id = children.span_id ORDER BY self_ms DESC",
    ),
    (
        "Events on spans",
        "A list column is unnested: a row for each event.",
        "SELECT service, operation, event['name'] AS event FROM (SELECT service, operation, unnest(events) AS event FROM spans) LIMIT 20",
    ),
    (
        "What weir did, and why",
        "Conclusions are tables too: `findings`, `policy_changes` and `alerts`.",
        "SELECT p.time_unix_nano, p.service, p.actuator, p.old_value, p.new_value, p.reason, f.summary\nFROM policy_changes p LEFT JOIN findings f ON p.finding_id = f.finding_id AND f.state = 'open' ORDER BY p.time_unix_nano DESC LIMIT 50",
    ),
];

const START: u64 = 1_700_000_000_000_000_000;
const TRACE: u128 = 0x4bf9_2f35_77b3_4da6_a3ce_929d_0e0e_4736;

/// Every statement on the page answers, and every one that looks at spans finds some.
#[tokio::test(flavor = "multi_thread")]
async fn every_example_in_sql_md_runs() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let otlp = format!("http://{}", weir.addresses.otlp_http);
    assert!(send(&client(), &otlp, &request("gateway", vec![span(TRACE, 1, 0, "GET /", START, 9_000_000)])).await);
    weir.store.flush().await.unwrap();
    assert!(send(&client(), &otlp, &request("cart", vec![cart()])).await);
    let post = client().post(format!("{otlp}/v1/logs")).header("content-type", "application/x-protobuf");
    assert!(post.body(log().encode_to_vec()).send().await.unwrap().status().is_success());

    let page = std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("docs/sql.md")).unwrap();
    let statements: Vec<&str> =
        page.split("```sql\n").skip(1).map(|rest| rest.split("\n```").next().unwrap()).collect();
    assert_eq!(statements.len(), functions().len() + EXAMPLES.len());
    let web = format!("http://{}", weir.addresses.web);
    for statement in statements {
        let rows = sql(&web, statement).await;
        let reads_what_is_stored = !["FROM edges", "FROM operations", "FROM policy_changes", "unnest"]
            .iter()
            .any(|other| statement.contains(other));
        assert!(!reads_what_is_stored || !rows.is_empty(), "no row for\n{statement}");
    }
    assert!(functions().iter().all(|function| function.example.contains(&format!("{}(", function.name))));
    weir.stop().await.unwrap();
}

fn attribute(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

fn cart() -> Span {
    let mut cart = span(TRACE, 2, 1, "GET /cart", START + 1_000_000, 3_000_000);
    cart.status = Some(Status { code: 2, message: "out of stock".into() });
    cart.attributes = vec![
        attribute("http.response.status_code", Value::IntValue(503)),
        attribute("shop.tier", Value::StringValue("gold".into())),
        attribute("shop.items", Value::IntValue(3)),
    ];
    cart
}

fn log() -> ExportLogsServiceRequest {
    let record = LogRecord {
        time_unix_nano: START + 2_000_000,
        severity_text: "ERROR".into(),
        body: Some(AnyValue { value: Some(Value::StringValue("out of stock".into())) }),
        trace_id: TRACE.to_be_bytes().to_vec(),
        span_id: 2_u64.to_be_bytes().to_vec(),
        ..LogRecord::default()
    };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] }
}
