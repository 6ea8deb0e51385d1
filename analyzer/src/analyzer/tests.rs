//! The whole analysis on simulated meshes: who is accused, who is not, what is regulated.

use std::sync::Arc;

use arrow::array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, new_null_array};
use weir_schema::Table;

use super::*;
use crate::{config::ControlConfig, moments::mean};

const MS: i64 = 1_000_000;

#[derive(Clone)]
pub(super) struct Row {
    trace: u128,
    id: u64,
    parent: u64,
    pub(super) start: i64,
    pub(super) duration: i64,
    service: &'static str,
    kind: &'static str,
    /// Whether the client left before the answer.
    left: bool,
}

pub(super) fn batch<'a>(rows: impl IntoIterator<Item = &'a Row>) -> RecordBatch {
    let rows: Vec<&Row> = rows.into_iter().collect();
    let schema = Table::Spans.schema();
    let text = |value: fn(&Row) -> &'static str| {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|r| value(r)))) as ArrayRef
    };
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.trace.to_be_bytes()))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.id.to_be_bytes()))),
            "parent_span_id" => {
                let parents: Vec<Option<[u8; 8]>> =
                    rows.iter().map(|r| (r.parent > 0).then(|| r.parent.to_be_bytes())).collect();
                Arc::new(BinaryArray::from_iter(parents))
            }
            "start_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.start))),
            "duration_ns" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.duration))),
            "received_unix_nano" => Arc::new(Int64Array::from(vec![0; rows.len()])),
            "service" => text(|r| r.service),
            "operation" => text(|_| "call"),
            "kind" => text(|r| r.kind),
            "status" => text(|r| if r.left { "error" } else { "ok" }),
            "http_response_status_code" => {
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| if r.left { 499 } else { 200 })))
            }
            _ => new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

struct Random(u64);

impl Random {
    fn exponential(&mut self, mean: f64) -> f64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        -mean * (((self.0 >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
    }
}

const CHAIN: [&str; 4] = ["gateway", "tokenizer", "tagger", "generator"];

/// A chain of first-come-first-served stations with 4 workers each; every service works, lets its
/// worker go, and calls the next. `slow(second)` multiplies the tagger's service time.
pub(super) fn chain(seed: u64, seconds: i64, rate: f64, slow: impl Fn(i64) -> f64) -> Vec<Row> {
    impatient_chain(seed, seconds, rate, f64::INFINITY, slow)
}

/// The same with clients that leave after `patience_s`, wherever their request is by then.
fn impatient_chain(seed: u64, seconds: i64, rate: f64, patience_s: f64, slow: impl Fn(i64) -> f64) -> Vec<Row> {
    delayed_chain(seed, seconds, rate, patience_s, slow, |_| 0.0)
}

/// The same on a machine that is busy with something else: `delay_ms(second)` more in every service.
fn delayed_chain(
    seed: u64,
    seconds: i64,
    rate: f64,
    patience_s: f64,
    slow: impl Fn(i64) -> f64,
    delay_ms: impl Fn(i64) -> f64,
) -> Vec<Row> {
    let mut random = Random(seed);
    let mut entered = Vec::new();
    let mut now = 0.0;
    while now < seconds as f64 * 1e9 {
        now += random.exponential(1e9 / rate);
        entered.push(now);
    }
    // station by station, each serving in the order of arrival there
    let mut visits: Vec<Vec<f64>> = entered.iter().map(|at| vec![*at]).collect();
    let leaves = |visit: &[f64]| visit[0] + patience_s * 1e9;
    for service in CHAIN {
        let mut order: Vec<usize> =
            (0..visits.len()).filter(|v| *visits[*v].last().unwrap() < leaves(&visits[*v])).collect();
        order.sort_by(|a, b| visits[*a].last().unwrap().total_cmp(visits[*b].last().unwrap()));
        let mut workers = [0.0_f64; 4];
        for request in order {
            let (arrival, leaves) = (*visits[request].last().unwrap(), leaves(&visits[request]));
            let second = (arrival / 1e9) as i64;
            let factor = if service == "tagger" { slow(second) } else { 1.0 };
            let worker = (0..4).min_by(|a, b| workers[*a].total_cmp(&workers[*b])).unwrap();
            let start = workers[worker].max(arrival);
            let done = (start + delay_ms(second) * 1e6 + random.exponential(20e6 * factor)).min(leaves);
            if start < leaves {
                workers[worker] = done;
            }
            visits[request].push(done);
        }
    }
    let mut rows = Vec::new();
    for (trace, times) in (1..).zip(&visits) {
        let end = *times.last().unwrap();
        let left = end >= leaves(times);
        for (place, arrival) in times[..times.len() - 1].iter().enumerate() {
            let id = trace as u64 * 10 + place as u64 * 2 + 2;
            let (start, duration) = (*arrival as i64, (end - arrival) as i64);
            let row = |id, parent, service, kind| Row { trace, id, parent, start, duration, service, kind, left };
            if place > 0 {
                rows.push(row(id - 1, id - 2, CHAIN[place - 1], "client"));
            }
            rows.push(row(id, if place > 0 { id - 1 } else { 0 }, CHAIN[place], "server"));
        }
    }
    rows.sort_by_key(|row| row.start + row.duration);
    rows
}

pub(super) fn config(control: bool) -> Config {
    let control = ControlConfig { enabled: control, ..ControlConfig::default() };
    let servers = CHAIN.iter().map(|s| ((*s).to_owned(), 4)).collect();
    Config { window_ms: 2_000, lateness_ms: 500, servers, control, ..Config::default() }
}

/// Feeds rows as they end and steps every quarter second; gives all steps.
fn replay(analyzer: &mut Analyzer, rows: &[Row]) -> Vec<Step> {
    let mut steps = Vec::new();
    let end = |row: &Row| row.start + row.duration;
    for chunk in rows.chunk_by(|a, b| end(a) / (250 * MS) == end(b) / (250 * MS)) {
        analyzer.push(&batch(chunk));
        steps.push(analyzer.step(end(&chunk[0])));
    }
    steps.push(analyzer.finish());
    steps
}

fn accused(steps: &[Step]) -> Vec<String> {
    let mut services = Vec::new();
    for alert in steps.iter().flat_map(|step| &step.alerts) {
        if !services.contains(&alert.service) {
            services.push(alert.service.clone());
        }
    }
    services
}

#[test]
fn a_healthy_chain_is_not_accused() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let steps = replay(&mut Analyzer::new(config(true)), &chain(seed, 60, 80.0, |_| 1.0));
        assert_eq!(accused(&steps), Vec::<String>::new());
        assert!(steps.iter().all(|step| step.policy.is_none()));
    }
}

#[test]
fn the_slow_service_is_found_and_its_waiting_callers_are_not() {
    for seed in 1..=6 {
        println!("seed {seed}");
        let rows = chain(seed, 40, 80.0, |second| if second >= 16 { 4.0 } else { 1.0 });
        let steps = replay(&mut Analyzer::new(config(true)), &rows);
        assert_eq!(accused(&steps), ["tagger"]);
        let opened = steps.iter().flat_map(|s| &s.alerts).next().unwrap();
        assert!(opened.starts_unix_nano >= 14_000 * MS && opened.starts_unix_nano <= 22_000 * MS, "{opened:?}");
        let policy = steps.iter().find_map(|step| step.policy.clone()).expect("it is regulated");
        assert!(policy.for_service("tagger").unwrap().concurrency_limit.is_some());
        let rate = policy.for_service("gateway").unwrap().rate_limit.unwrap().rate_per_s();
        assert!((33.0..62.0).contains(&rate), "capacity is 50/s, admitted {rate}");
    }
}

#[test]
fn a_finding_is_over_and_its_limits_are_lifted_when_nothing_comes_any_more() {
    let rows = chain(1, 30, 80.0, |second| if second >= 16 { 4.0 } else { 1.0 });
    let mut analyzer = Analyzer::new(config(true));
    let last = rows.iter().map(|row| row.start + row.duration).max().unwrap();
    let mut fed = Vec::new();
    for chunk in rows.chunk_by(|a, b| (a.start + a.duration) / (250 * MS) == (b.start + b.duration) / (250 * MS)) {
        analyzer.push(&batch(chunk));
        fed.push(analyzer.step(chunk[0].start + chunk[0].duration));
    }
    assert_eq!(accused(&fed), ["tagger"]);
    let mut silent = Vec::new();
    let limit = |analyzer: &Analyzer| analyzer.policy().for_service("tagger").and_then(|p| p.concurrency_limit);
    let (mut limits, mut now) = (Vec::new(), last);
    while now < last + 40_000 * MS {
        silent.push(analyzer.step(now));
        limits.push(limit(&analyzer));
        now += 250 * MS;
    }
    let open = |snapshot: &Snapshot| {
        snapshot.findings.iter().filter(|finding| finding.state == crate::snapshot::FindingState::Open).count()
    };
    let snapshots: Vec<usize> = silent.iter().filter_map(|step| step.snapshot.as_ref()).map(open).collect();
    assert!((5..12).contains(&snapshots.len()) && snapshots.last() == Some(&0), "{snapshots:?}");
    assert!(limits.first().unwrap().is_some() && limits.last().unwrap().is_none(), "{limits:?}");
    // it steps down while it is measured, and then no more
    let held: Vec<_> = limits.iter().flatten().collect();
    assert!(held[held.len() / 2..].windows(2).all(|pair| pair[0] == pair[1]), "{limits:?}");
}

#[test]
fn a_busy_machine_that_slows_everyone_accuses_nobody_and_hides_no_fault() {
    for seed in 1..=4 {
        println!("seed {seed}");
        let delay = |second: i64| if (16..30).contains(&second) { 15.0 } else { 0.0 };
        let busy = delayed_chain(seed, 40, 40.0, f64::INFINITY, |_| 1.0, delay);
        assert_eq!(accused(&replay(&mut Analyzer::new(config(false)), &busy)), Vec::<String>::new());
        let slow = |second| if second >= 16 { 4.0 } else { 1.0 };
        let busy_and_slow = delayed_chain(seed, 40, 40.0, f64::INFINITY, slow, delay);
        assert_eq!(accused(&replay(&mut Analyzer::new(config(false)), &busy_and_slow)), ["tagger"]);
    }
}

#[test]
fn clients_that_leave_accuse_nobody_but_the_slow_service() {
    for seed in 1..=4 {
        println!("seed {seed}");
        let rows = impatient_chain(seed, 40, 80.0, 3.0, |second| if second >= 16 { 4.0 } else { 1.0 });
        assert!(rows.iter().filter(|row| row.left).count() > 1_000);
        let mut analyzer = Analyzer::new(config(false));
        let steps = replay(&mut analyzer, &rows);
        assert_eq!(accused(&steps), ["tagger"]);
        let taggers = steps.iter().filter_map(|s| s.snapshot.as_ref()).flat_map(|s| &s.services);
        let taggers = taggers.filter(|s| s.service == "tagger" && s.error_ratio > 0.2);
        let times: Vec<f64> = taggers.filter_map(|s| s.estimate.service_time_ms).collect();
        let service_time = mean(&times).expect("it is estimated all the same");
        assert!((service_time - 80.0).abs() < 12.0, "S {service_time}");
    }
}

#[test]
fn service_time_and_utilization_are_those_of_the_simulation() {
    let mut analyzer = Analyzer::new(config(false));
    let steps = replay(&mut analyzer, &chain(9, 60, 120.0, |_| 1.0));
    let snapshots: Vec<_> = steps.iter().filter_map(|s| s.snapshot.as_ref()).skip(2).collect();
    for service in CHAIN {
        let estimates =
            snapshots.iter().flat_map(|s| &s.services).filter(|s| s.service == service).map(|s| &s.estimate);
        let times: Vec<f64> = estimates.clone().filter_map(|e| e.service_time_ms).collect();
        let utilizations: Vec<f64> = estimates.filter_map(|e| e.utilization).collect();
        let (s, rho) = (mean(&times).unwrap(), mean(&utilizations).unwrap());
        assert!((s - 20.0).abs() < 1.0, "{service}: S {s}");
        assert!((rho - 0.6).abs() < 0.05, "{service}: ρ {rho}");
    }
}

#[test]
fn servers_are_found_where_nobody_said_them() {
    let mut analyzer = Analyzer::new(Config { servers: BTreeMap::new(), ..config(false) });
    let steps = replay(&mut analyzer, &chain(9, 60, 150.0, |_| 1.0));
    let snapshots: Vec<_> = steps.iter().filter_map(|s| s.snapshot.as_ref()).collect();
    let full = snapshots[snapshots.len() - 4]; // the last windows only see the end of the load
    for service in CHAIN {
        let service = full.services.iter().find(|s| s.service == service).unwrap();
        let estimate = &service.estimate;
        assert_eq!((estimate.servers, estimate.replicas), (Some(4), Some(1)), "{service:?}");
        assert!(matches!(estimate.model.as_str(), "mmc" | "ggc"), "{service:?}");
        let (s, rho) = (estimate.service_time_ms.unwrap(), estimate.utilization.unwrap());
        assert!((s - 20.0).abs() < 4.0 && (rho - 0.75).abs() < 0.2, "{}: S {s} ρ {rho}", service.service);
    }
}

#[test]
fn calls_are_counted_once_whatever_the_order_and_duplicates() {
    let rows = chain(3, 5, 50.0, |_| 1.0);
    let calls = rows.iter().filter(|row| row.kind == "server" && row.parent > 0).count() as i64;
    let count = |batches: Vec<RecordBatch>| {
        let mut analyzer = Analyzer::new(config(false));
        batches.iter().for_each(|b| analyzer.push(b));
        let rows = analyzer.finish().rows;
        let edges = rows.iter().filter(|b| b.table == Table::Edges);
        edges
            .flat_map(|b| b.rows["count"].as_any().downcast_ref::<Int64Array>().unwrap().values().to_vec())
            .sum::<i64>()
    };
    let forward = batch(&rows);
    let reversed: Vec<Row> = rows.into_iter().rev().collect();
    let reversed = batch(&reversed);
    assert_eq!(count(vec![forward.clone()]), calls);
    assert_eq!(count(vec![reversed.clone()]), calls);
    assert_eq!(count(vec![forward, reversed]), calls);
}
