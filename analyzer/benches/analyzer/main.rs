//! What a span costs from Arrow to closed windows, what a window's graph costs, and what a question does.
//! Run: `cargo bench -p weir-analyzer`.

#![allow(clippy::unwrap_used, missing_docs)] // a bench stops where it fails; criterion's macros make the rest

use std::{cell::OnceCell, collections::BTreeMap, hint::black_box};

use arrow::{array::AsArray, datatypes::Int64Type, record_batch::RecordBatch};
use criterion::{BatchSize, BenchmarkGroup, Criterion, SamplingMode, Throughput, criterion_group, criterion_main};
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_analyzer::{
    Analyzer, Config, Snapshot,
    graph::Topology,
    snapshot::EdgeView,
    whatif::{Change, what_if},
};

mod cpu_time;
mod spans;

use cpu_time::CpuTime;
use spans::Shape;

/// What the server allocates with.
#[global_allocator]
static ALLOCATOR: tikv_jemallocator::Jemalloc = tikv_jemallocator::Jemalloc;

/// 40 s of 10,000 spans/s: four windows of 10 s, each closed while the next one fills.
const SPANS: usize = 49 * spans::BATCH_ROWS;
const SPANS_PER_S: usize = 10_000;

/// Not measured, before them: more than the minute for which spans are held, so that no table grows any more.
const SPANS_BEFORE: usize = 98 * spans::BATCH_ROWS;

/// Everything the server does with spans, and nothing else: push, and step when time has come.
fn analyze(analyzer: &mut Analyzer, batches: &[RecordBatch]) -> usize {
    let mut rows = 0;
    for batch in batches {
        analyzer.push(batch);
        let now = arrow::compute::max(batch["received_unix_nano"].as_primitive::<Int64Type>()).unwrap();
        rows += analyzer.step(now).rows.len();
    }
    rows
}

fn spans(criterion: &mut Criterion<CpuTime>) {
    measure(criterion, "spans", &Config::default());
}

/// Through windows and edges: no request is gathered, so that findings have none to look at and causes none to rank. Rows of minutes
/// are made, and detectors look at the windows, all the same.
fn windows_and_edges(criterion: &mut Criterion<CpuTime>) {
    measure(criterion, "windows", &Config { max_trace_spans: 0, ..Config::default() });
}

fn measure(criterion: &mut Criterion<CpuTime>, name: &str, config: &Config) {
    let mut group = criterion.benchmark_group(name);
    group.throughput(Throughput::Elements(SPANS as u64)).sample_size(10);
    for services in [6, 100, 1_000] {
        for trace_spans in [4, 40] {
            let shape = Shape { services, trace_spans, spans: SPANS_BEFORE + SPANS, spans_per_s: SPANS_PER_S };
            let batches = OnceCell::new();
            group.bench_function(format!("{services} services, traces of {trace_spans}"), |bencher| {
                let batches: &Vec<RecordBatch> = batches.get_or_init(|| spans::batches(shape));
                let (before, measured) = batches.split_at(SPANS_BEFORE / spans::BATCH_ROWS);
                let warm = || {
                    let mut analyzer = Analyzer::new(config.clone());
                    analyze(&mut analyzer, before);
                    analyzer
                };
                let run = |analyzer: &mut Analyzer| black_box(analyze(analyzer, measured));
                bencher.iter_batched_ref(warm, run, BatchSize::PerIteration);
            });
        }
    }
    group.finish();
}

/// Half a second of iterations each: the kernel counts a thread's time by its ticks, of some milliseconds.
fn many_a_sample(group: &mut BenchmarkGroup<'_, CpuTime>) {
    group.sample_size(10).sampling_mode(SamplingMode::Flat);
}

/// Five calls a service to others within 40 places ahead, one of 50 back: entries, chains, cycles.
fn topology(services: u32, edges: usize) -> Topology {
    let mut random = StdRng::seed_from_u64(7);
    let mut calls = BTreeMap::new();
    while calls.len() < edges {
        let caller = random.random_range(0..services);
        let ahead = random.random_range(1..=40);
        let callee = if random.random_range(0..50) == 0 { caller.saturating_sub(ahead) } else { caller + ahead };
        if callee < services && callee != caller {
            calls.insert((caller, callee), random.random_range(1.0..20.0));
        }
    }
    let edges: Vec<(u32, u32, f64)> = calls.into_iter().map(|((from, to), calls)| (from, to, calls)).collect();
    // one service of twenty is asked from outside, the others only by services
    let mut requests_per_s: Vec<f64> = (0..services).map(|n| if n % 20 == 0 { 100.0 } else { 1.0 }).collect();
    edges.iter().for_each(|(_, callee, calls)| requests_per_s[*callee as usize] += calls);
    Topology { requests_per_s, edges }
}

fn graph(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("graph");
    many_a_sample(&mut group);
    for (services, edges) in [(100, 500), (1_000, 5_000), (5_000, 25_000)] {
        let topology = topology(services, edges);
        group.bench_function(format!("{services} services, {edges} edges"), |bencher| {
            bencher.iter(|| black_box(topology.solve()));
        });
    }
    group.finish();
}

/// The last window of a mesh of so many services, of which one in twenty is entered, with five calls a service to others, and some whole
/// requests of five windows.
fn last_window(services: usize) -> Snapshot {
    let batches = spans::batches(Shape { services, trace_spans: 40, spans: 3 * SPANS / 2, spans_per_s: SPANS_PER_S });
    let mut analyzer = Analyzer::new(Config::default());
    batches.iter().for_each(|batch| analyzer.push(batch));
    let mut snapshot = analyzer.finish().snapshot.unwrap();
    let names: Vec<String> = snapshot.services.iter().map(|service| service.service.clone()).collect();
    let wanted = (5 * services).saturating_sub(snapshot.edges.len()) / names.len();
    let ahead = (1..=wanted).flat_map(|step| names.iter().zip(names.iter().skip(7 * step)));
    let more = ahead.map(|(caller, callee)| EdgeView {
        caller: caller.clone(),
        callee: callee.clone(),
        rate_per_s: 0.1,
        critical_share: Some(0.5),
        ..EdgeView::default()
    });
    snapshot.edges.extend(more.collect::<Vec<_>>());
    snapshot
}

fn questions(criterion: &mut Criterion<CpuTime>) {
    let mut group = criterion.benchmark_group("what-if");
    many_a_sample(&mut group);
    for services in [100, 1_000] {
        let snapshot = last_window(services);
        let (edges, requests) = (snapshot.edges.len(), snapshot.requests.iter().count());
        let mesh = format!("{} services, {edges} edges, {requests} requests", snapshot.services.len());
        let entry = snapshot.requests.iter().next().unwrap().service.to_string();
        for (what, arrivals, service_time) in [("arrivals ×1.2", 1.2, 1.0), ("service time ×1.2", 1.0, 1.2)] {
            let change = Change { service: entry.clone(), operation: None, arrivals, servers: 0, service_time };
            group.bench_function(format!("{mesh}, {what}"), |bencher| {
                bencher.iter(|| black_box(what_if(&snapshot, &change).unwrap()));
            });
        }
    }
    group.finish();
}

criterion_group! {
    name = benches;
    config = Criterion::default().with_measurement(CpuTime);
    targets = spans, windows_and_edges, graph, questions
}
criterion_main!(benches);
