//! Crashes of the analysis: what is in the tables at the end is what a self-join of the distinct
//! spans says, wherever it crashed and whatever was written by then.

use std::{
    collections::{BTreeSet, HashSet},
    sync::Arc,
};

use arrow::array::{ArrayRef, AsArray, BinaryArray, Int64Array, StringArray};
use arrow::datatypes::Int64Type;

use super::*;
use crate::rollup::minute;

const SECOND: i64 = 1_000_000_000;
const MINUTE: i64 = 60 * SECOND;

/// How far before the checkpoint's receive time a span may have been on its way to the analyzer.
const MARGIN: i64 = 10 * SECOND;

#[derive(Clone, Debug)]
struct Row {
    trace: u128,
    id: u64,
    parent: u64,
    start: i64,
    duration: i64,
    service: &'static str,
    kind: &'static str,
    database: Option<&'static str>,
    received: i64,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let text =
        |value: fn(&Row) -> &'static str| Arc::new(StringArray::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let long = |value: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let parents = rows.iter().map(|row| (row.parent > 0).then(|| row.parent.to_be_bytes()));
    let columns: [(&str, ArrayRef, bool); 11] = [
        ("trace_id", Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.trace.to_be_bytes()))), false),
        ("span_id", Arc::new(BinaryArray::from_iter_values(rows.iter().map(|row| row.id.to_be_bytes()))), false),
        ("parent_span_id", Arc::new(parents.collect::<BinaryArray>()), true),
        ("start_unix_nano", long(|row| row.start), false),
        ("duration_ns", long(|row| row.duration), false),
        ("received_unix_nano", long(|row| row.received), false),
        ("service", text(|row| row.service), false),
        ("operation", text(|_| "call"), false),
        ("kind", text(|row| row.kind), false),
        ("status", text(|row| if row.id % 7 == 0 { "error" } else { "ok" }), false),
        ("db_system", Arc::new(rows.iter().map(|row| row.database).collect::<StringArray>()), true),
    ];
    RecordBatch::try_from_iter_with_nullable(columns).unwrap()
}

struct Random(u64);

impl Random {
    fn below(&mut self, n: i64) -> i64 {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        ((self.0 >> 33) as i64) % n
    }
}

/// Traces over four minutes, in the order they are received: up to 20 s late, a tenth of them twice.
fn random_spans(random: &mut Random) -> Vec<Row> {
    const SERVICES: [&str; 3] = ["gateway", "cart", "stock"];
    let mut rows = Vec::new();
    for trace in 1..120_u128 {
        let mut start = 100 * MINUTE + random.below(4 * MINUTE);
        let mut parent = 0;
        for step in 0..2 + random.below(5) as u64 {
            let client = step % 2 == 1;
            let service = SERVICES[(step as usize / 2) % 3];
            let duration = random.below(3 * SECOND);
            let database = (client && random.below(3) == 0).then_some("postgresql");
            let kind = if client { "client" } else { "server" };
            let id = trace as u64 * 100 + step + 1;
            for _ in 0..1 + i64::from(random.below(10) == 0) {
                let received = start + duration + random.below(20 * SECOND);
                rows.push(Row { trace, id, parent, start, duration, service, kind, database, received });
            }
            if random.below(8) > 0 {
                parent = id;
            }
            start += random.below(2 * SECOND);
        }
    }
    rows.sort_by_key(|row| row.received);
    rows
}

type Totals = BTreeMap<(i64, String, String, String), (i64, i64, i64)>;

/// Count, errors and milliseconds of each key; no key of nothing.
fn add(totals: &mut Totals, key: (i64, &str, &str, &str), (count, errors, duration): (i64, i64, i64)) {
    let total = totals.entry((key.0, key.1.into(), key.2.into(), key.3.into())).or_default();
    *total = (total.0 + count, total.1 + errors, total.2 + duration);
}

fn expected(spans: &[Row]) -> (Totals, Totals) {
    let mut seen = HashSet::new();
    let distinct: Vec<_> = spans.iter().filter(|row| seen.insert((row.trace, row.id))).collect();
    let by_id: HashMap<_, _> = distinct.iter().map(|row| ((row.trace, row.id), *row)).collect();
    let (mut operations, mut edges) = (Totals::new(), Totals::new());
    let mut answered = HashSet::new();
    let one = |row: &Row| (1, i64::from(row.id.is_multiple_of(7)), row.duration);
    for row in &distinct {
        add(&mut operations, (minute(row.start), row.service, "call", row.kind), one(row));
        if let Some(parent) = by_id.get(&(row.trace, row.parent)).filter(|parent| parent.service != row.service) {
            answered.insert((row.trace, row.parent));
            add(&mut edges, (minute(row.start), parent.service, row.service, "service"), one(row));
        }
    }
    for row in distinct.iter().filter(|row| !answered.contains(&(row.trace, row.id))) {
        if let Some(database) = row.database {
            add(&mut edges, (minute(row.start), row.service, database, "database"), one(row));
        }
    }
    (operations, edges)
}

fn totals(tables: &[Batch], table: Table) -> Totals {
    let (a, b, c) =
        if table == Table::Edges { ("caller", "callee", "callee_kind") } else { ("service", "operation", "kind") };
    let mut totals = Totals::new();
    for Batch { rows, .. } in tables.iter().filter(|batch| batch.table == table) {
        let long = |name: &str, row| rows[name].as_primitive::<Int64Type>().value(row);
        let text = |name: &str, row| rows[name].as_string::<i32>().value(row);
        for row in 0..rows.num_rows() {
            assert!(long("count", row) > 0, "a row of nothing");
            let sketch =
                crate::sketch::Sketch::from_bytes(rows["duration_sketch"].as_binary::<i32>().value(row)).unwrap();
            assert_eq!(sketch.count() as i64, long("count", row), "the sketch holds what the row counts");
            let sum = rows["duration_sum_ns"].as_primitive::<arrow::datatypes::Float64Type>().value(row);
            let key = (long("minute_unix_nano", row), text(a, row), text(b, row), text(c, row));
            add(&mut totals, key, (long("count", row), long("error_count", row), sum.round() as i64));
        }
    }
    totals
}

/// What survives a crash.
#[derive(Default)]
struct Disk {
    spans: Vec<Row>,
    tables: Vec<Batch>,
    checkpoint: (BTreeSet<i64>, i64),
}

impl Disk {
    fn keep(&mut self, rows: Vec<Batch>) {
        self.tables.extend(rows.into_iter().filter(|batch| matches!(batch.table, Table::Operations | Table::Edges)));
    }

    /// An analyzer as a restart makes it: see `src/server/analysis.rs`.
    fn restart(&mut self, now: i64) -> Analyzer {
        let mut analyzer = Analyzer::new(Config::default());
        let (mut minutes, received_until) = self.checkpoint.clone();
        let since = self.spans.iter().filter(|row| row.received >= received_until - MARGIN);
        minutes.extend(since.map(|row| minute(row.start)));
        let mut spans = self.spans.clone();
        spans.sort_by_key(|row| row.start);
        for slice in spans.chunk_by(|a, b| minute(a.start) == minute(b.start)) {
            analyzer.restore(&batch(slice), &minutes, now);
        }
        for batch in &self.tables {
            let times = batch.rows["minute_unix_nano"].as_primitive::<Int64Type>();
            let affected = times.iter().map(|time| Some(minutes.contains(&time.unwrap()))).collect();
            let rows = arrow::compute::filter_record_batch(&batch.rows, &affected).unwrap();
            analyzer.subtract(batch.table, &rows);
        }
        let rows = analyzer.restored(now);
        self.keep(rows);
        analyzer
    }
}

#[test]
fn tables_equal_a_self_join_whenever_it_crashes() {
    for seed in 1..=60 {
        println!("seed {seed}");
        let mut random = Random(seed);
        let spans = random_spans(&mut random);
        let mut disk = Disk::default();
        let mut analyzer = disk.restart(0);
        let mut crashes = 0;
        for chunk in spans.chunks(5) {
            let now = chunk.last().unwrap().received;
            disk.spans.extend_from_slice(chunk);
            let pushed = random.below(40) > 0;
            if pushed {
                analyzer.push(&batch(chunk));
            }
            let step = analyzer.step(now);
            // a crash between two tables, before either, or after both
            let written = random.below(4) as usize;
            let crash = !pushed || random.below(30) == 0;
            let rows = step.rows.into_iter().take(if crash { written } else { usize::MAX });
            disk.keep(rows.collect());
            if crash {
                crashes += 1;
                analyzer = disk.restart(now);
            } else if random.below(3) == 0 {
                disk.checkpoint = (analyzer.open_minutes(), analyzer.received_until());
            }
        }
        let last = analyzer.finish();
        disk.keep(last.rows);
        assert!(crashes > 0, "nothing was tried");
        let (operations, edges) = expected(&spans);
        assert_eq!(totals(&disk.tables, Table::Operations), operations);
        assert_eq!(totals(&disk.tables, Table::Edges), edges);
    }
}

#[test]
fn what_is_written_already_makes_no_row() {
    let spans = random_spans(&mut Random(3));
    let mut disk = Disk { spans: spans.clone(), ..Disk::default() };
    let mut first = disk.restart(0);
    let last = first.finish();
    disk.keep(last.rows);
    let before = totals(&disk.tables, Table::Edges);
    let rows = disk.tables.len();
    let mut second = disk.restart(i64::MAX);
    let last = second.finish();
    disk.keep(last.rows);
    assert_eq!(disk.tables.len(), rows, "all minutes were made anew, and nothing was missing");
    assert_eq!(totals(&disk.tables, Table::Edges), before);
}
