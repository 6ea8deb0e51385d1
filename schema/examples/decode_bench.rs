//! scratch
#![allow(clippy::unwrap_used, clippy::print_stdout)]
use std::{hint::black_box, time::Instant};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event},
};
use prost::Message;
use weir_schema::{Encoding, Signal, otlp::decode};
fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
fn text(key: &str, value: &str) -> KeyValue { pair(key, Value::StringValue(value.into())) }
fn int(key: &str, value: i64) -> KeyValue { pair(key, Value::IntValue(value)) }
fn span(index: usize, start: u64) -> Span {
    let mut r = (index as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15);
    let mut rnd = |n: u64| { r ^= r << 13; r ^= r >> 7; r ^= r << 17; r % n };
    let trace = (index / 10) as u128 * 0x9e37_79b9_7f4a_7c15_f39c_c060_5ced_c835;
    let duration = 50_000 + rnd(50_000_000);
    let route = format!("/api/v1/resource-{}", rnd(40));
    let attributes = vec![
        text("http.request.method", if index % 3 == 0 { "POST" } else { "GET" }),
        text("http.route", &route),
        int("http.response.status_code", 200),
        text("server.address", &format!("10.0.0.{}", rnd(20))),
        text("user.id", &format!("user-{}", rnd(10_000))),
        int("http.response.body.size", rnd(100_000) as i64),
        text("deployment.environment.name", "production"),
    ];
    let event = Event { time_unix_nano: start + duration / 2, name: "retry".into(), ..Event::default() };
    Span {
        trace_id: (trace | 1).to_be_bytes().to_vec(),
        span_id: (rnd(u64::MAX)|1).to_be_bytes().to_vec(),
        parent_span_id: if index % 10 == 0 { Vec::new() } else { (index as u64).to_be_bytes().to_vec() },
        name: format!("GET {route}"),
        kind: 2,
        start_time_unix_nano: start,
        end_time_unix_nano: start + duration,
        attributes,
        events: if index % 20 == 0 { vec![event] } else { Vec::new() },
        ..Span::default()
    }
}
fn main() {
    let n: usize = std::env::args().nth(1).map_or(2000, |s| s.parse().unwrap());
    let mut by: Vec<Vec<Span>> = vec![Vec::new(); 20];
    for i in 0..n { by[i % 20].push(span(i, 1_700_000_000_000_000_000 + i as u64 * 10_000)); }
    let resource_spans = by.into_iter().enumerate().map(|(s, spans)| ResourceSpans {
        resource: Some(Resource { attributes: vec![text("service.name", &format!("service-{s}")), text("host.name", "host-1")], ..Resource::default() }),
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }], ..ResourceSpans::default() }).collect();
    let bytes = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    println!("{} bytes/span", bytes.len() / n);
    let rounds = 2_000_000 / n;
    let mut best = f64::MAX;
    for _ in 0..5 {
        let t = Instant::now();
        for _ in 0..rounds { black_box(decode(Signal::Traces, Encoding::Protobuf, &bytes, 5).unwrap()); }
        best = best.min(t.elapsed().as_secs_f64());
    }
    println!("n={n}: {:.0} spans/s, {:.0} ns/span", (rounds * n) as f64 / best, best * 1e9 / (rounds * n) as f64);
}
