//! Sends generated spans over OTLP/gRPC as fast as they are acked, and prints rate and ack latency.
//!
//! `cargo run --release --example otlp_load -- http://127.0.0.1:4317 SPANS CONNECTIONS SPANS_PER_REQUEST [SPANS_PER_SECOND]`
//!
//! Each span has 7 attributes and every 20th an event, over 20 services in traces of 10 spans: the
//! shape the targets are stated for. Requests are encoded before the clock starts.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a tool for the terminal; it stops where it fails

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant, SystemTime},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::{ExportTraceServiceRequest, trace_service_client::TraceServiceClient},
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event},
};
use rand::{Rng, SeedableRng, rngs::StdRng};

const SERVICES: usize = 20;
const SPANS_PER_TRACE: usize = 10;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let number = |place: usize, default: usize| arguments.get(place).map_or(default, |text| text.parse().unwrap());
    let url = arguments.first().cloned().unwrap_or_else(|| "http://127.0.0.1:4317".into());
    let (spans, connections, per_request) = (number(1, 1_000_000), number(2, 4), number(3, 2_000));
    let paced = number(4, 0);
    let requests = Arc::new(generate(spans, per_request));
    let (next, start) = (Arc::new(AtomicUsize::new(0)), Instant::now());
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (url, requests, next) = (url.clone(), requests.clone(), next.clone());
            tokio::spawn(async move {
                let mut client = TraceServiceClient::connect(url).await.unwrap().max_encoding_message_size(64 << 20);
                let mut acks = Vec::new();
                loop {
                    let place = next.fetch_add(1, Relaxed);
                    let Some(request) = requests.get(place) else { return acks };
                    if paced > 0 {
                        let due = start + Duration::from_secs_f64((place * per_request) as f64 / paced as f64);
                        tokio::time::sleep_until(due.into()).await;
                    }
                    let sent = Instant::now();
                    while let Err(error) = client.export(request.clone()).await {
                        eprintln!("{error}");
                        tokio::time::sleep(Duration::from_millis(50)).await;
                    }
                    acks.push(sent.elapsed());
                }
            })
        })
        .collect();
    let mut acks = Vec::new();
    for worker in workers {
        acks.extend(worker.await.unwrap());
    }
    let elapsed = start.elapsed().as_secs_f64();
    acks.sort_unstable();
    let quantile = |q: f64| acks[((acks.len() - 1) as f64 * q) as usize].as_secs_f64() * 1e3;
    println!(
        "spans {spans} connections {connections} per_request {per_request} seconds {elapsed:.2} spans_per_s {:.0} ack_ms p50 {:.1} p99 {:.1} max {:.1}",
        spans as f64 / elapsed,
        quantile(0.5),
        quantile(0.99),
        quantile(1.0)
    );
}

fn generate(spans: usize, per_request: usize) -> Vec<ExportTraceServiceRequest> {
    let mut random = StdRng::seed_from_u64(7);
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let mut made = 0;
    let mut requests = Vec::new();
    while made < spans {
        let count = per_request.min(spans - made);
        let mut by_service: Vec<Vec<Span>> = vec![Vec::new(); SERVICES];
        for index in made..made + count {
            let start = now + index as u64 * 10_000;
            by_service[index % SERVICES].push(span(&mut random, index, start));
        }
        made += count;
        let resource_spans = by_service.into_iter().enumerate().map(|(service, spans)| {
            let attributes = vec![text("service.name", &format!("service-{service}")), text("host.name", "host-1")];
            let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
            let resource = Some(Resource { attributes, ..Resource::default() });
            ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }
        });
        requests.push(ExportTraceServiceRequest { resource_spans: resource_spans.collect() });
    }
    requests
}

fn span(random: &mut StdRng, index: usize, start: u64) -> Span {
    let trace = (index / SPANS_PER_TRACE) as u128 * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let place = (index % SPANS_PER_TRACE) as u64;
    let duration = random.random_range(50_000..50_000_000_u64);
    let route = format!("/api/v1/resource-{}", random.random_range(0..40));
    let attributes = vec![
        text("http.request.method", if index.is_multiple_of(3) { "POST" } else { "GET" }),
        text("http.route", &route),
        int("http.response.status_code", if random.random_ratio(1, 50) { 500 } else { 200 }),
        text("server.address", &format!("10.0.0.{}", random.random_range(1..20))),
        text("user.id", &format!("user-{}", random.random_range(0..10_000))),
        int("http.response.body.size", random.random_range(0..100_000)),
        text("deployment.environment.name", "production"),
    ];
    let event = Event { time_unix_nano: start + duration / 2, name: "retry".into(), ..Event::default() };
    Span {
        trace_id: (trace | 1).to_be_bytes().to_vec(),
        span_id: random.random::<u64>().to_be_bytes().to_vec(),
        parent_span_id: if place == 0 { Vec::new() } else { (index as u64).to_be_bytes().to_vec() },
        name: format!("GET {route}"),
        kind: if place.is_multiple_of(2) { 2 } else { 3 },
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        attributes,
        events: if index.is_multiple_of(20) { vec![event] } else { Vec::new() },
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
