//! Logs and metrics tell live causes apart that spans leave open: OTLP in, `GET /api/v1/findings` out.
//!
//! Event times are years ago, so a window is over when its spans came: what belongs to it is sent before them.

use std::time::Duration;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{Gauge, Metric, NumberDataPoint, ResourceMetrics, ScopeMetrics, metric::Data, number_data_point},
    resource::v1::Resource,
    trace::v1::Span,
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir::server::Server;

use crate::support::{client, request, send, server, span, sql};

const START: u64 = 1_700_000_000_000_000_000;
const WINDOW: u64 = 10_000_000_000;
const MS: u64 = 1_000_000;

/// Requests of a window.
const REQUESTS: u64 = 100;

/// Windows of health, and of the fault.
const HEALTHY: u64 = 10;
const FAULTY: u64 = 6;

/// What is wrong.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Fault {
    /// The parser logs an error where it logged that it ends; its spans are as ever.
    ErrorLine,
    /// The parser says in other words that it ends: a new version.
    OtherLine,
    /// Calls into the tagger take longer than its answers, for its pod has no CPU left.
    Starved,
}

/// A span of who served it.
type Served = (&'static str, Span);

/// The gateway calls the tagger, which calls the parser.
struct Mesh {
    random: StdRng,
    next: u64,
}

impl Mesh {
    fn some(&mut self, ms: u64) -> u64 {
        ms * self.random.random_range(700_000..1_300_000)
    }

    fn window(&mut self, number: u64, starved: bool) -> Vec<Served> {
        let start = START + number * WINDOW;
        let starts = (0..REQUESTS).map(|request| start + request * WINDOW / (REQUESTS + 2));
        starts.flat_map(|start| self.request(start, starved)).collect()
    }

    /// Five spans, each within its parent.
    fn request(&mut self, start: u64, starved: bool) -> Vec<Served> {
        self.next += 10;
        let (trace, id) = (u128::from(self.next), self.next);
        let way = self.some(1) + if starved { 30 * MS } else { 0 };
        let parser = self.some(6);
        let (to_parser, tagger) = (parser + self.some(1), self.some(8));
        let tagged = tagger + to_parser;
        let called = tagged + way;
        let all = called + self.some(4);
        let mut spans = vec![
            ("gateway", span(trace, id, 0, "GET /", start, all)),
            ("gateway", span(trace, id + 1, id, "call", start + MS, called)),
            ("tagger", span(trace, id + 2, id + 1, "Tag", start + MS + way / 2, tagged)),
            ("tagger", span(trace, id + 3, id + 2, "call", start + MS + way / 2 + tagger / 2, to_parser)),
            ("parser", span(trace, id + 4, id + 3, "Parse", start + MS + way / 2 + tagger / 2 + MS / 2, parser)),
        ];
        [1, 3].into_iter().for_each(|client: usize| spans[client].1.kind = 3);
        spans
    }
}

fn resource(service: &str) -> Option<Resource> {
    let value = Some(AnyValue { value: Some(Value::StringValue(service.into())) });
    let attributes = vec![KeyValue { key: "service.name".into(), value, ..KeyValue::default() }];
    Some(Resource { attributes, ..Resource::default() })
}

fn traces(spans: &[Served]) -> ExportTraceServiceRequest {
    let of = |service: &str| spans.iter().filter(|(of, _)| *of == service).map(|(_, span)| span.clone()).collect();
    let requests = ["gateway", "tagger", "parser"].map(|service| request(service, of(service)));
    ExportTraceServiceRequest { resource_spans: requests.into_iter().flat_map(|r| r.resource_spans).collect() }
}

/// Two records of each parser's span.
fn logs(spans: &[Served], fault: Option<Fault>) -> ExportLogsServiceRequest {
    let record = |span: &Span, at: u64, severity_number: i32, body: String| LogRecord {
        time_unix_nano: at,
        severity_number,
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        trace_id: span.trace_id.clone(),
        span_id: span.span_id.clone(),
        ..LogRecord::default()
    };
    let of_parser = spans.iter().filter(|(service, _)| *service == "parser").map(|(_, span)| span);
    let log_records = of_parser.zip(1..).flat_map(|(span, number)| {
        let (severity, ends) = match fault {
            Some(Fault::ErrorLine) => (17, "cannot read word"),
            Some(Fault::OtherLine) => (9, "all done at word"),
            _ => (9, "ended after word"),
        };
        [
            record(span, span.start_time_unix_nano, 9, format!("request {number} begins")),
            record(span, span.end_time_unix_nano, severity, format!("{ends} {number}")),
        ]
    });
    let scope_logs = vec![ScopeLogs { log_records: log_records.collect(), ..ScopeLogs::default() }];
    ExportLogsServiceRequest {
        resource_logs: vec![ResourceLogs { resource: resource("parser"), scope_logs, ..ResourceLogs::default() }],
    }
}

/// The CPU that the tagger used of what it is allowed, at the end of a window.
fn cpu(number: u64, share: f64) -> ExportMetricsServiceRequest {
    let point = NumberDataPoint {
        time_unix_nano: START + (number + 1) * WINDOW - 1,
        value: Some(number_data_point::Value::AsDouble(share)),
        ..NumberDataPoint::default()
    };
    let data = Some(Data::Gauge(Gauge { data_points: vec![point] }));
    let metrics = vec![Metric { name: "k8s.pod.cpu_limit_utilization".into(), data, ..Metric::default() }];
    let scope_metrics = vec![ScopeMetrics { metrics, ..ScopeMetrics::default() }];
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics {
            resource: resource("tagger"),
            scope_metrics,
            ..ResourceMetrics::default()
        }],
    }
}

async fn post(otlp: &str, signal: &str, body: Vec<u8>) {
    let post = client().post(format!("{otlp}/v1/{signal}")).header("content-type", "application/x-protobuf");
    assert!(post.body(body).send().await.unwrap().status().is_success(), "{signal}");
}

/// Sends until the analysis takes spans: those of before the start has read the past back open no window of years ago.
async fn taken(weir: &Server, otlp: &str) {
    let mut snapshot = weir.snapshot.clone();
    for number in 1..=60 {
        let early = span(u128::from(number), number, 0, "GET /", START - (100 - number) * WINDOW, MS);
        assert!(send(&client(), otlp, &request("early", vec![early])).await);
        let seen = snapshot.wait_for(|snapshot| snapshot.counters.spans > 0);
        if tokio::time::timeout(Duration::from_secs(1), seen).await.is_ok() {
            return;
        }
    }
    panic!("the analysis takes no spans");
}

/// The findings after a fault, with or without what tells it apart, and a server that still answers SQL.
async fn findings(dir: &std::path::Path, fault: Fault, told: bool) -> (Server, Vec<serde_json::Value>) {
    let weir = server(dir).await;
    let (otlp, web) = (format!("http://{}", weir.addresses.otlp_http), format!("http://{}", weir.addresses.web));
    taken(&weir, &otlp).await;
    let mut mesh = Mesh { random: StdRng::seed_from_u64(7), next: 1_000 };
    for number in 0..HEALTHY + FAULTY {
        let now = (number >= HEALTHY).then_some(fault);
        let spans = mesh.window(number, now == Some(Fault::Starved));
        if told {
            post(&otlp, "logs", logs(&spans, now).encode_to_vec()).await;
            let share = if now == Some(Fault::Starved) { 0.97 } else { 0.2 + 0.01 * (number % 3) as f64 };
            post(&otlp, "metrics", cpu(number, share).encode_to_vec()).await;
        }
        assert!(send(&client(), &otlp, &traces(&spans)).await);
    }
    let end = (START + (HEALTHY + FAULTY) * WINDOW) as i64;
    let mut snapshot = weir.snapshot.clone();
    let closed = snapshot.wait_for(|snapshot| snapshot.time_unix_nano >= end);
    tokio::time::timeout(Duration::from_secs(60), closed).await.expect("the last window closes").unwrap();
    let answer = client().get(format!("{web}/api/v1/findings")).send().await.unwrap();
    let answer: serde_json::Value = answer.json().await.unwrap();
    println!("{fault:?}, told {told}: {answer:#}");
    let metrics = client().get(format!("{web}/metrics")).send().await.unwrap().text().await.unwrap();
    assert!(metrics.contains("weir_analyzer_dropped_rows_total{signal=\"logs\"} 0\n"), "{metrics}");
    let findings = answer["findings"].as_array().unwrap().clone();
    // what does not run panics
    let evidence = findings.iter().flat_map(|finding| finding["evidence"].as_array().unwrap());
    for statement in evidence.filter_map(|row| row["sql"].as_str()) {
        sql(&web, statement).await;
    }
    (weir, findings)
}

/// The evidence of a finding whose statement reads this table: what it says, and the statement.
fn shown<'a>(finding: &'a serde_json::Value, table: &str) -> Option<(&'a str, &'a str)> {
    let evidence = finding["evidence"].as_array().unwrap().iter();
    let mut pairs = evidence.filter_map(|row| Some((row["text"].as_str()?, row["sql"].as_str()?)));
    pairs.find(|(_, sql)| sql.contains(&format!("FROM {table} ")))
}

#[tokio::test(flavor = "multi_thread")]
async fn an_error_line_is_a_finding_that_spans_do_not_show() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, found) = findings(dir.path(), Fault::ErrorLine, true).await;
    let parser = found.iter().find(|finding| finding["service"] == "parser").expect("the parser is found");
    assert_eq!(parser["kind"], "changed_calls");
    let (text, statement) = shown(parser, "logs").expect("its evidence reads logs");
    assert!(text.contains("the error line \"ERROR cannot read word *\""), "{text}");
    let seconds = sql(&format!("http://{}", weir.addresses.web), statement).await;
    assert!(seconds.len() > 5, "{statement}: {seconds:?}");
    weir.stop().await.unwrap();

    for (fault, told) in [(Fault::ErrorLine, false), (Fault::OtherLine, true)] {
        let dir = tempfile::tempdir().unwrap();
        let (weir, found) = findings(dir.path(), fault, told).await;
        assert!(found.iter().all(|finding| finding["service"] != "parser"), "{fault:?}: {found:?}");
        weir.stop().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_without_cpu_is_told_from_a_slow_network_by_its_metrics() {
    let dir = tempfile::tempdir().unwrap();
    let (weir, found) = findings(dir.path(), Fault::Starved, true).await;
    let tagger = found.iter().find(|finding| finding["service"] == "tagger").expect("the tagger is found");
    assert_eq!(tagger["kind"], "bottleneck");
    assert!(tagger["summary"].as_str().unwrap().contains("tagger lacks CPU"), "{tagger:#}");
    let (text, statement) = shown(tagger, "metrics").expect("its evidence reads metrics");
    assert!(text.starts_with("CPU: 0.970 instead of 0.2"), "{text}");
    let minutes = sql(&format!("http://{}", weir.addresses.web), statement).await;
    assert!(!minutes.is_empty(), "{statement}");
    weir.stop().await.unwrap();

    let dir = tempfile::tempdir().unwrap();
    let (weir, found) = findings(dir.path(), Fault::Starved, false).await;
    let tagger = found.iter().find(|finding| finding["service"] == "tagger").expect("the tagger is found");
    assert_eq!(tagger["kind"], "slow_dependency");
    assert_eq!(shown(tagger, "metrics"), None, "{tagger:#}");
    weir.stop().await.unwrap();
}
