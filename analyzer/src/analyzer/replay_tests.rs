//! Live and replayed: spans that come in any order within the lateness, some twice, say the same as the
//! same spans read back by start.

use std::collections::BTreeMap;

use arrow::{
    array::AsArray,
    datatypes::{Float64Type, Int64Type},
};
use proptest::prelude::*;
use rand::{Rng, SeedableRng, rngs::StdRng};
use serde_json::Value;

use super::{
    made::{Made, batch},
    *,
};
use crate::sketch::Sketch;

const SECOND: i64 = 1_000_000_000;
const LATENESS: i64 = SECOND / 2;
const TICK: i64 = SECOND / 4;
const START: i64 = 1_000 * SECOND;

/// A span and when it arrives.
type Arriving = (i64, Made);

fn config() -> Config {
    Config { window_ms: 2_000, lateness_ms: 500, ..Config::default() }
}

/// Traces of every kind: deep, wide, asynchronous, over window borders, without their root, of clocks that
/// are off, with databases, hosts, replicas, weights and errors.
fn random_traces(random: &mut StdRng, traces: u32) -> Vec<Arriving> {
    let mut arriving = Vec::new();
    for trace in 1..=u128::from(traces) {
        let mut spans: Vec<Made> = Vec::new();
        let weight = (random.random_range(0..6) == 0).then(|| random.random_range(1.0..4.0));
        for nth in 0..random.random_range(1..12_u64) {
            let span = match spans.len() {
                0 => root(random),
                known => below(&spans[random.random_range(0..known)], random),
            };
            spans.push(Made { trace, id: trace as u64 * 100 + nth + 1, weight, ..span });
        }
        if random.random_range(0..8) == 0 {
            spans.remove(0);
        }
        for span in spans {
            for _ in 0..1 + u8::from(random.random_range(0..10) == 0) {
                arriving.push((span.end() + random.random_range(0..LATENESS), span.clone()));
            }
        }
    }
    arriving
}

fn root(random: &mut StdRng) -> Made {
    let client = random.random_range(0..5) == 0;
    Made {
        start: START + random.random_range(0..45 * SECOND),
        duration: random.random_range(0..3 * SECOND),
        service: if client { "loader".into() } else { "front".into() },
        operation: format!("op {}", random.random_range(0..3)),
        kind: if client { "client" } else { "server" },
        peer: (random.random_range(0..9) == 0).then(|| "somebody".into()),
        ..Made::default()
    }
}

fn below(parent: &Made, random: &mut StdRng) -> Made {
    let call = parent.kind != "client" && random.random_range(0..3) > 0;
    let start = parent.start + random.random_range(-SECOND / 100..=parent.duration.max(1));
    let service = match call {
        true => parent.service.clone(),
        false => format!("service {}", random.random_range(0..4)),
    };
    let instance = (random.random_range(0..2) == 0).then(|| format!("{service} {}", random.random_range(0..2)));
    Made {
        parent: parent.id,
        start,
        duration: random.random_range(0..=parent.duration.max(1)),
        kind: if call { ["client", "internal"][random.random_range(0..2)] } else { "server" },
        database: (call && random.random_range(0..4) == 0).then(|| "postgresql".into()),
        address: (call && random.random_range(0..3) == 0).then(|| format!("host {}", random.random_range(0..60))),
        error: random.random_range(0..9) == 0,
        queue_wait: (!call && random.random_range(0..3) == 0).then_some(1_000_000),
        service,
        instance,
        ..Made::default()
    }
}

/// Snapshots by the end of their window, and all rows.
#[derive(Default)]
struct Said {
    windows: BTreeMap<i64, Value>,
    rows: Vec<Batch>,
}

impl Said {
    fn take(&mut self, step: Step) {
        self.rows.extend(step.rows);
        if let Some(mut snapshot) = step.snapshot {
            snapshot.counters = Counters::default();
            self.windows.insert(snapshot.time_unix_nano, serde_json::to_value(snapshot).unwrap());
        }
    }

    /// Steps until nothing is open, at most one window a step.
    fn run_out(&mut self, analyzer: &mut Analyzer, from: i64, until: i64) {
        let mut now = from;
        while now <= until {
            self.take(analyzer.step(now));
            now += TICK;
        }
        self.take(analyzer.finish());
    }
}

fn live(arriving: &[Arriving], until: i64) -> Said {
    let (mut analyzer, mut said) = (Analyzer::new(config()), Said::default());
    let mut now = START;
    let mut sorted: Vec<&Arriving> = arriving.iter().collect();
    sorted.sort_by_key(|(at, _)| *at);
    for chunk in sorted.chunk_by(|a, b| a.0 / TICK == b.0 / TICK) {
        while now / TICK < chunk[0].0 / TICK {
            said.take(analyzer.step(now));
            now += TICK;
        }
        analyzer.push(&batch(chunk.iter().map(|(_, span)| span)));
    }
    said.run_out(&mut analyzer, now, until);
    said
}

fn replayed(arriving: &[Arriving], until: i64) -> Said {
    let (mut analyzer, mut said) = (Analyzer::new(config()), Said::default());
    let mut sorted: Vec<&Made> = arriving.iter().map(|(_, span)| span).collect();
    sorted.sort_by_key(|span| (span.start, span.id));
    sorted.chunks(50).for_each(|chunk| analyzer.push(&batch(chunk.iter().copied())));
    said.run_out(&mut analyzer, START, until);
    said
}

/// Sums by key of a table's rows, the sketch's quartiles among them.
fn sums(rows: &[Batch], table: Table) -> BTreeMap<String, Vec<f64>> {
    let (keys, numbers) = match table {
        Table::Edges => (["caller", "callee", "callee_kind"], vec!["gap_sum_ns"]),
        _ => (["service", "operation", "kind"], vec!["queue_wait_sum_ns"]),
    };
    let mut sums: BTreeMap<String, (Vec<f64>, Sketch)> = BTreeMap::new();
    for Batch { rows, .. } in rows.iter().filter(|batch| batch.table == table) {
        let long = |name: &str, row| rows[name].as_primitive::<Int64Type>().value(row) as f64;
        let double = |name: &str, row| rows[name].as_primitive::<Float64Type>().value(row);
        for row in 0..rows.num_rows() {
            let texts = keys.map(|key| rows[key].as_string::<i32>().value(row));
            let key = format!("{} {}", long("minute_unix_nano", row), texts.join(" "));
            let (sum, sketch) = sums.entry(key).or_insert_with(|| (vec![0.0; 4 + numbers.len()], Sketch::default()));
            let mut values = vec![long("count", row), long("error_count", row)];
            values.extend(["duration_sum_ns", "duration_sum_squares_ns2"].map(|name| double(name, row)));
            values.extend(numbers.iter().map(|name| double(name, row)));
            sum.iter_mut().zip(values).for_each(|(sum, value)| *sum += value);
            sketch.merge(&Sketch::from_bytes(rows["duration_sketch"].as_binary::<i32>().value(row)).unwrap());
        }
    }
    let with_quartiles = |(key, (mut sum, sketch)): (String, (Vec<f64>, Sketch))| {
        sum.extend([0.25, 0.5, 0.75].map(|q| sketch.quantile(q).unwrap()));
        (key, sum)
    };
    sums.into_iter().map(with_quartiles).collect()
}

/// The first place where two values differ by more than rounding.
fn difference(a: &Value, b: &Value, at: &str) -> Option<String> {
    match (a, b) {
        (Value::Number(x), Value::Number(y)) => {
            let (x, y) = (x.as_f64()?, y.as_f64()?);
            ((x - y).abs() > 1e-9 * (1.0 + x.abs())).then(|| format!("{at}: {x} and {y}"))
        }
        (Value::Array(x), Value::Array(y)) if x.len() == y.len() => {
            x.iter().zip(y).enumerate().find_map(|(n, (x, y))| difference(x, y, &format!("{at}/{n}")))
        }
        (Value::Object(x), Value::Object(y)) if x.len() == y.len() => {
            x.iter().find_map(|(key, x)| difference(x, y.get(key).unwrap_or(&Value::Null), &format!("{at}/{key}")))
        }
        _ => (a != b).then(|| format!("{at}: {a} and {b}")),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 12, max_shrink_iters: 50, ..ProptestConfig::default() })]

    #[test]
    fn live_and_replayed_say_the_same(seed in any::<u64>(), traces in 1_u32..120) {
        let arriving = random_traces(&mut StdRng::seed_from_u64(seed), traces);
        // until the last request without a parent is given up
        let until = START + 70 * SECOND;
        let (live, replayed) = (live(&arriving, until), replayed(&arriving, until));
        let windows = |said: &Said| said.windows.keys().copied().collect::<Vec<_>>();
        prop_assert_eq!(windows(&live), windows(&replayed));
        for (end, window) in &live.windows {
            let differs = difference(window, &replayed.windows[end], "");
            prop_assert!(differs.is_none(), "window {}: {}", (end - START) / SECOND, differs.unwrap());
        }
        for table in [Table::Operations, Table::Edges] {
            let (live, replayed) = (sums(&live.rows, table), sums(&replayed.rows, table));
            prop_assert_eq!(live.keys().collect::<Vec<_>>(), replayed.keys().collect::<Vec<_>>());
            for (key, sums) in &live {
                let same = sums.iter().zip(&replayed[key]).all(|(a, b)| (a - b).abs() <= 1e-9 * (1.0 + a.abs()));
                prop_assert!(same, "{}: {:?} and {:?}", key, sums, replayed[key]);
            }
        }
    }
}

#[test]
fn the_property_is_about_something() {
    let arriving = random_traces(&mut StdRng::seed_from_u64(7), 150);
    let said = live(&arriving, START + 70 * SECOND);
    let all: Vec<Snapshot> =
        said.windows.values().map(|value| serde_json::from_value(value.clone()).unwrap()).collect();
    let edges = || all.iter().flat_map(|snapshot| &snapshot.edges);
    let services = || all.iter().flat_map(|snapshot| &snapshot.services);
    assert!(said.windows.len() >= 20);
    assert!(edges().any(|edge| edge.callee == "postgresql"));
    assert!(edges().any(|edge| edge.callee.starts_with("host ")));
    assert!(edges().any(|edge| edge.caller == "unknown client" && edge.rate_per_s > 0.0));
    assert!(edges().any(|edge| edge.caller == "somebody"));
    assert!(edges().any(|edge| edge.gap_ms_p50.is_some() && edge.calls_per_request.is_some()));
    assert!(services().any(|service| service.entries.iter().any(|entry| entry.share.is_some_and(|share| share < 1.0))));
    assert!(services().any(|service| service.dominator.is_some()));
    assert!(services().any(|service| service.estimate.reason.as_ref().is_some_and(|why| why.contains("sampled"))));
}
