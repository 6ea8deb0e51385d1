//! The work done once per span: decoding OTLP, and analyzing it. Run: `cargo bench`.

#![allow(clippy::unwrap_used, missing_docs)] // a bench stops where it fails; criterion's macros make the rest

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span},
};
use prost::Message;
use weir_analyzer::Analyzer;
use weir_schema::{
    Batch, Encoding, Signal,
    otlp::{Decoded, decode},
};

const SPANS: usize = 20_000;
const START: u64 = 1_700_000_000_000_000_000;

/// Traces of four spans through four services, with six attributes each.
fn request() -> Vec<u8> {
    let pair = |key: &str, value: Value| KeyValue {
        key: key.into(),
        value: Some(AnyValue { value: Some(value) }),
        ..KeyValue::default()
    };
    let text = |key: &str, value: String| pair(key, Value::StringValue(value));
    let span = |index: usize, service: usize| {
        let (trace, place) = (index / 4, service as u64);
        let start = START + trace as u64 * 1_000_000 + place * 100_000;
        Span {
            trace_id: (trace as u128 + 1).to_be_bytes().to_vec(),
            span_id: (index as u64 + 1).to_be_bytes().to_vec(),
            parent_span_id: if place == 0 { Vec::new() } else { (index as u64).to_be_bytes().to_vec() },
            name: format!("GET /resource-{}", index % 40),
            kind: 2,
            start_time_unix_nano: start,
            end_time_unix_nano: start + 4_000_000 - place * 500_000,
            attributes: vec![
                text("http.request.method", "GET".into()),
                text("http.route", format!("/resource-{}", index % 40)),
                pair("http.response.status_code", Value::IntValue(200)),
                text("server.address", format!("10.0.0.{}", index % 20)),
                text("user.id", format!("user-{}", index % 10_000)),
                pair("http.response.body.size", Value::IntValue(index as i64)),
            ],
            ..Span::default()
        }
    };
    let of_service = |service: usize| {
        let attributes = vec![text("service.name", format!("service-{service}"))];
        let spans = (0..SPANS / 4).map(|trace| span(trace * 4 + service, service)).collect();
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource = Some(Resource { attributes, ..Resource::default() });
        ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }
    };
    ExportTraceServiceRequest { resource_spans: (0..4).map(of_service).collect() }.encode_to_vec()
}

fn decoded(bytes: &[u8]) -> Decoded {
    decode(Signal::Traces, Encoding::Protobuf, bytes, START as i64).unwrap()
}

fn hot_paths(criterion: &mut Criterion) {
    let bytes = request();
    let mut group = criterion.benchmark_group("span");
    group.throughput(Throughput::Elements(SPANS as u64)).sample_size(20);
    group.bench_function("decode", |bencher| bencher.iter(|| black_box(decoded(&bytes))));
    let Batch { rows, .. } = decoded(&bytes).batch.unwrap();
    let fresh = || Analyzer::new(weir_analyzer::Config::default());
    group.bench_function("analyze", |bencher| {
        bencher.iter_batched(
            fresh,
            |mut analyzer| {
                analyzer.push(&rows);
                black_box(analyzer.finish())
            },
            BatchSize::LargeInput,
        );
    });
    group.finish();
}

criterion_group!(benches, hot_paths);
criterion_main!(benches);
