//! What is kept, whole traces, and sums that stay unbiased.

use std::collections::HashSet;

use arrow::array::{BinaryArray, Int64Array, StringArray, new_null_array};
use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_schema::Table;

use super::*;

const MS: i64 = 1_000_000;

#[derive(Clone, Debug)]
struct Row {
    trace: u128,
    parent: u64,
    start: i64,
    duration: i64,
    operation: &'static str,
    error: bool,
    weight: Option<f64>,
}

fn row(trace: u128) -> Row {
    Row { trace, parent: 0, start: 0, duration: MS, operation: "GET", error: false, weight: None }
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        let long = |value: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef;
        let text = |value: fn(&Row) -> &'static str| {
            Arc::new(StringArray::from_iter_values(rows.iter().map(value))) as ArrayRef
        };
        match field.name().as_str() {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.trace.to_be_bytes()))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|_| [1; 8]))),
            "parent_span_id" => {
                let parent = |row: &Row| (row.parent > 0).then(|| row.parent.to_be_bytes());
                Arc::new(BinaryArray::from_iter(rows.iter().map(parent)))
            }
            "start_unix_nano" => long(|row| row.start),
            "duration_ns" => long(|row| row.duration),
            "received_unix_nano" => long(|_| 0),
            "service" => text(|_| "cart"),
            "operation" => text(|row| row.operation),
            "kind" => text(|_| "server"),
            "status" => text(|row| if row.error { "error" } else { "unset" }),
            "sample_weight" => Arc::new(rows.iter().map(|row| row.weight).collect::<Float64Array>()),
            _ => new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}

fn sampler(share: f64) -> Sampler {
    Sampler::new(Sampling { share, errors: true, slower_than_ms: Some(100), rare_per_minute: 0, ..Sampling::default() })
}

impl Sampler {
    fn apply_one(&mut self, rows: &RecordBatch) -> RecordBatch {
        self.apply(std::slice::from_ref(rows), &[]).remove(0)
    }
}

/// Trace and weight of each row.
fn rows_of(rows: &RecordBatch) -> Vec<(u128, Option<f64>)> {
    let weights = rows["sample_weight"].as_primitive::<Float64Type>();
    let ids = rows["trace_id"].as_binary::<i32>();
    (0..rows.num_rows())
        .map(|row| (number(ids.value(row)), weights.is_valid(row).then(|| weights.value(row))))
        .collect()
}

/// `sum(coalesce(sample_weight, 1))`.
fn weight(rows: &RecordBatch) -> f64 {
    rows_of(rows).iter().map(|(_, weight)| weight.unwrap_or(1.0)).sum()
}

/// A trace id whose randomness is this share of its range.
fn at(share: f64) -> u128 {
    0xabcd << 64 | (share * RANDOMNESS) as u128
}

#[test]
fn it_is_off_by_default_and_numbers_are_checked() {
    let rows = batch(&[row(1), Row { weight: Some(4.0), ..row(2) }]);
    let mut off = Sampler::new(Sampling::default());
    assert_eq!(off.apply_one(&rows), rows);
    let check = |text: &str| -> Result<(), String> {
        let sampling: Sampling = serde_json::from_str(text).map_err(|e| e.to_string())?;
        sampling.validate().map_err(|e| e.to_string())
    };
    assert_eq!(check("{}"), Ok(()));
    assert_eq!(check(r#"{"share": 0.0, "slower_than_ms": 5}"#), Ok(()));
    for bad in [r#"{"share": 1.5}"#, r#"{"share": -0.1}"#, r#"{"ratio": 1}"#, r#"{"slower_than_ms": 9999999999999999}"#]
    {
        assert!(check(bad).is_err(), "{bad}");
    }
    assert!(Sampling { share: f64::NAN, ..Sampling::default() }.validate().is_err());
}

#[test]
fn the_share_is_the_upper_end_of_the_last_seven_bytes() {
    let mut quarter = sampler(0.25);
    let rows = batch(&[row(at(0.0)), row(at(0.749)), row(at(0.75)), row(at(0.999)), row(u128::MAX)]);
    let ids: Vec<_> = rows_of(&quarter.apply_one(&rows));
    assert_eq!(ids, [(at(0.75), Some(4.0)), (at(0.999), Some(4.0)), (u128::MAX, Some(4.0))]);
    assert_eq!(quarter.dropped_spans(), 2);
    assert_eq!(sampler(0.0).apply_one(&rows).num_rows(), 0, "no share, no rest");
}

#[test]
fn errors_and_slow_traces_are_kept_whole_and_stand_for_themselves() {
    let (error, slow, rest) = (at(0.1), at(0.2), at(0.3));
    let rows = [
        row(rest),
        Row { error: true, parent: 1, ..row(error) },
        row(error),
        row(slow),
        Row { start: 100 * MS, parent: 1, ..row(slow) },
    ];
    let mut none = sampler(0.0);
    assert_eq!(rows_of(&none.apply_one(&batch(&rows))), [(error, None), (error, None), (slow, None), (slow, None)]);
    // what comes later of a kept trace is kept, of another is not
    let later = [Row { parent: 1, ..row(error) }, Row { parent: 1, ..row(slow) }, Row { parent: 1, ..row(rest) }];
    assert_eq!(rows_of(&none.apply_one(&batch(&later))), [(error, None), (slow, None)]);
    // a trace that is slow only over two flushes
    let late = [Row { start: 101 * MS, parent: 1, ..row(rest) }];
    assert_eq!(rows_of(&none.apply_one(&batch(&late))), [(rest, None)]);
    let switched_off =
        Sampling { share: 0.0, errors: false, slower_than_ms: None, rare_per_minute: 0, ..Sampling::default() };
    assert_eq!(Sampler::new(switched_off).apply_one(&batch(&rows)).num_rows(), 0);
}

#[test]
fn what_waits_speaks_for_its_trace_and_is_judged_alike_in_its_turn() {
    let (slow, error, other) = (at(0.1), at(0.2), at(0.3));
    let children =
        batch(&[Row { parent: 1, ..row(slow) }, Row { parent: 1, ..row(error) }, Row { parent: 1, ..row(other) }]);
    let roots =
        batch(&[Row { duration: 101 * MS, ..row(slow) }, Row { error: true, ..row(error) }, row(other), row(at(0.4))]);
    let mut none = sampler(0.0);
    let kept = none.apply(std::slice::from_ref(&children), std::slice::from_ref(&roots)).remove(0);
    assert_eq!(rows_of(&kept), [(slow, None), (error, None)]);
    assert_eq!(rows_of(&none.apply_one(&roots)), [(slow, None), (error, None)]);
    // a root that was seen while it waited is not counted again
    let mut one = Sampler::new(Sampling { share: 0.0, errors: false, rare_per_minute: 2, ..Sampling::default() });
    let (child, root) = (batch(&[Row { parent: 1, ..row(other) }]), batch(&[row(other)]));
    assert_eq!(one.apply(std::slice::from_ref(&child), std::slice::from_ref(&root)).remove(0).num_rows(), 1);
    assert_eq!(one.apply_one(&root).num_rows(), 1);
    assert_eq!(
        one.apply_one(&batch(&[row(slow), row(error)])).num_rows(),
        1,
        "the second of its minute, not the third"
    );
}

#[test]
fn the_first_traces_of_an_operation_in_a_minute_are_kept() {
    let config =
        Sampling { share: 0.0, errors: false, slower_than_ms: None, rare_per_minute: 2, ..Sampling::default() };
    let mut sampler = Sampler::new(config);
    let minute = |minute: i64, operation| move |trace| Row { start: minute * MINUTE_NS, operation, ..row(trace) };
    let rows: Vec<_> = (1..=5).map(minute(7, "GET")).chain((6..=7).map(minute(7, "rare"))).collect();
    let ids = |rows: &RecordBatch| rows_of(rows).iter().map(|(trace, _)| *trace).collect::<Vec<_>>();
    assert_eq!(ids(&sampler.apply_one(&batch(&rows))), [1, 2, 6, 7]);
    let rows: Vec<_> = [8].map(minute(7, "GET")).into_iter().chain([9].map(minute(8, "GET"))).collect();
    assert_eq!(ids(&sampler.apply_one(&batch(&rows))), [9], "counted over flushes, by minute");
    let child = Row { parent: 5, ..minute(9, "GET")(10) };
    assert_eq!(ids(&sampler.apply_one(&batch(&[child]))), Vec::<u128>::new(), "only roots are counted");
}

#[test]
fn spans_that_a_client_sampled_are_sampled_further_not_again() {
    // the client kept a quarter: R is at least 3/4
    let sampled = |share: f64| Row { weight: Some(4.0), ..row(at(0.75 + share / 4.0)) };
    let rows = batch(&[sampled(0.1), sampled(0.6)]);
    let mut half = sampler(0.5);
    assert_eq!(rows_of(&half.apply_one(&rows)), [(at(0.9), Some(8.0))]);
    // callee sampled more than its caller: one decision, and each says what it stands for
    let mixed = batch(&[row(at(0.8)), Row { weight: Some(4.0), ..row(at(0.8)) }]);
    assert_eq!(rows_of(&half.apply_one(&mixed)), [(at(0.8), Some(2.0)), (at(0.8), Some(4.0))]);
}

#[test]
fn sums_of_weights_are_unbiased_and_decisions_do_not_depend_on_how_rows_come() {
    for seed in 0..20 {
        println!("seed {seed}");
        let mut random = StdRng::seed_from_u64(seed);
        let share = random.random_range(0.05..0.9);
        let rows: Vec<Row> = (0..4_000)
            .flat_map(|_| {
                let (trace, spans) = (random.random::<u128>(), random.random_range(1..6));
                let error = random.random_range(0..20) == 0;
                let duration = if random.random_range(0..20) == 0 { 200 * MS } else { MS };
                (0..spans).map(move |n| Row { parent: n, error: error && n == spans - 1, duration, ..row(trace) })
            })
            .collect();
        let mut one = Sampler::new(Sampling { rare_per_minute: 3, ..sampler(share).config });
        let whole = one.apply_one(&batch(&rows));
        // each trace is a draw: variance of its weighted spans is n²(1 − p)/p
        let variance = (4_000.0 * 9.2) * (1.0 - share) / share;
        let off = weight(&whole) - rows.len() as f64;
        assert!(off.abs() < 4.5 * f64::sqrt(variance), "share {share}: {off} of {}", rows.len());
        let ids: HashSet<u128> = rows_of(&whole).into_iter().map(|(trace, _)| trace).collect();
        for row in &rows {
            assert!(ids.contains(&row.trace) || !(row.error || row.duration > 100 * MS), "{row:?} was dropped");
        }
        let whole_rows = rows.iter().filter(|row| ids.contains(&row.trace)).count();
        assert_eq!(whole.num_rows(), whole_rows, "a kept trace is whole");
        // in pieces, on another node, in another order: the rest is chosen alike
        let mut other = Sampler::new(Sampling { errors: false, slower_than_ms: None, ..sampler(share).config });
        let mut reversed = rows.clone();
        reversed.reverse();
        let mut pieces = HashSet::new();
        for piece in reversed.chunks(random.random_range(1..500)) {
            pieces.extend(rows_of(&other.apply_one(&batch(piece))).into_iter().map(|(trace, _)| trace));
        }
        let by_share: HashSet<u128> =
            rows_of(&whole).into_iter().filter(|(_, weight)| weight.is_some()).map(|(trace, _)| trace).collect();
        assert!(by_share.is_subset(&pieces), "a trace kept here is kept there");
        assert!(pieces.is_subset(&ids), "a trace kept there is kept here");
    }
}

#[test]
fn what_is_remembered_is_bounded() {
    let mut traces = Traces::default();
    let judged = Judged { start: 0, end: 0, verdict: Verdict::Whole, counted: true };
    for trace in 0..REMEMBERED_TRACES as u128 * 3 {
        traces.insert(trace, judged);
    }
    assert!(traces.young.len() + traces.old.len() <= 2 * REMEMBERED_TRACES);
    assert_eq!(traces.get(REMEMBERED_TRACES as u128 * 3 - 1), Some(judged));
    let mut sampler = Sampler::new(Sampling { share: 0.0, rare_per_minute: 1, ..Sampling::default() });
    for piece in 0..12 {
        let rows: Vec<Row> = (0..10_000)
            .map(|n| Row { start: (piece * 10_000 + n) * MINUTE_NS, ..row((piece * 10_000 + n) as u128) })
            .collect();
        sampler.apply_one(&batch(&rows));
    }
    assert!(sampler.operations.len() <= COUNTED_OPERATIONS);
}

#[test]
fn a_trace_is_judged_by_all_requests_of_its_flush() {
    let calm = |trace| Row { parent: 7, ..row(trace) };
    let failed = Row { error: true, ..calm(at(0.1)) };
    let slow = [row(at(0.2)), Row { start: 90 * MS, duration: 20 * MS, ..calm(at(0.2)) }];
    let requests = [
        batch(&[row(at(0.1)), slow[0].clone(), row(at(0.3))]),
        batch(&[]),
        batch(&[calm(at(0.3)), failed, slow[1].clone()]),
    ];
    let mut none = sampler(0.0);
    let kept: Vec<_> = none.apply(&requests, &[]).iter().map(rows_of).collect();
    let both = vec![(at(0.1), None), (at(0.2), None)];
    assert_eq!(kept, [both.clone(), vec![], both]);
    assert_eq!(none.dropped_spans(), 2);
}
