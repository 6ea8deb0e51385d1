//! [`Rollup`]: RED per minute and edges per minute, the rows of `operations` and `edges`.
//!
//! One aggregator makes both, from distinct spans and completed calls. Rows add up: a span that
//! comes after its minute was written makes a further row of the same minute.
//!
//! After a crash, minutes that may be incomplete are made anew from the stored spans, and the rows
//! that their tables have already are subtracted: what remains is written as the next row. Counts and
//! sketches are exact then; sums of squares to rounding. Moments between arrivals depend on the order
//! spans came in, and a remainder of them is approximate.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, StringArray},
    datatypes::{Float64Type, Int64Type},
    record_batch::RecordBatch,
};
use hashbrown::HashMap;
use weir_schema::{Batch, MINUTE_NS, Table, UnixNanos};

use crate::{
    held::Call,
    names::{OTHER, Role},
    sketch::Sketch,
    snapshot::NodeKind,
    spans::{Name, Names, Span},
};

/// Rows of open minutes, of operations and of edges each: 200 bytes each and their sketch, 0.5 KB or 3 KB of a
/// busy one. Beyond, a minute's further operations of a service, or callees of a caller, are one row together; with half as
/// many again, all further ones of a minute; with twice as many what has no row yet is refused, and counted.
const MAX_ROWS: usize = 100_000;

/// Minutes this far ahead are written as they come: waiting for their time would hold them too long. Rows add up.
const FAR_AHEAD_NS: i64 = 2 * 3_600_000_000_000;

/// Durations of one key in one minute.
#[derive(Clone, Debug, Default)]
struct Durations {
    count: i64,
    errors: i64,
    sum: f64,
    sum_squares: f64,
    max: i64,
    sketch_ms: Sketch,
}

impl Durations {
    fn add(&mut self, duration_ns: i64, error: bool, weight: u32) {
        let (duration, times) = (duration_ns as f64, i64::from(weight));
        self.count += times;
        self.errors += if error { times } else { 0 };
        self.sum += duration * f64::from(weight);
        self.sum_squares += duration * duration * f64::from(weight);
        self.max = self.max.max(duration_ns);
        self.sketch_ms.add_many(duration / 1e6, times);
    }

    fn subtract(&mut self, other: &Self) {
        self.count -= other.count;
        self.errors -= other.errors;
        self.sum -= other.sum;
        self.sum_squares -= other.sum_squares;
        self.sketch_ms.subtract(&other.sketch_ms);
    }

    /// Nothing remains, nothing is owed.
    fn is_empty(&self) -> bool {
        self.count == 0 && self.sketch_ms == Sketch::default()
    }

    /// More was subtracted than is known yet.
    fn owes(&self) -> bool {
        self.count < 0 || self.sketch_ms.owes()
    }

    fn quantile(&self, q: f64) -> f64 {
        self.sketch_ms.quantile(q).unwrap_or(0.0)
    }
}

#[derive(Clone, Debug, Default)]
struct OperationRow {
    durations: Durations,
    queue_wait: f64,
    input_tokens: i64,
    output_tokens: i64,
}

#[derive(Clone, Debug, Default)]
struct EdgeRow {
    durations: Durations,
    gap: f64,
    gaps: i64,
    gap_sum: f64,
    gap_sum_squares: f64,
}

type OperationKey = (UnixNanos, Name, Name, Name);
type EdgeKey = (UnixNanos, Name, Name, u8);
type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// The open minutes.
#[derive(Debug, Default)]
pub(crate) struct Rollup {
    operations: Map<OperationKey, OperationRow>,
    edges: Map<EdgeKey, EdgeRow>,
    last_call: Map<(Name, Name), UnixNanos>,
    /// Spans and calls without a row.
    pub(crate) refused: u64,
}

impl Rollup {
    /// The minutes that have rows to write.
    pub(crate) fn minutes(&self) -> BTreeSet<UnixNanos> {
        self.operations.keys().map(|key| key.0).chain(self.edges.keys().map(|key| key.0)).collect()
    }

    /// Takes out what a table has already. Rows that lack a column are not ours.
    pub(crate) fn subtract(&mut self, table: Table, rows: &RecordBatch, names: &mut Names) {
        let Some(stored) = Stored::of(rows) else { return };
        for row in 0..rows.num_rows() {
            let minute = stored.minutes.value(row);
            match table {
                Table::Operations => {
                    let Some(service) = stored.text("service", row).map(|text| names.intern(text)) else { return };
                    let mut name = |column| stored.text(column, row).map(|text| names.intern_as(Role::Operation, text));
                    let (Some(operation), Some(kind)) = (name("operation"), name("kind")) else { return };
                    let key = (minute, service, operation, kind);
                    let open = self.operations.entry(key).or_default();
                    open.durations.subtract(&stored.durations(row));
                    open.queue_wait -= stored.double("queue_wait_sum_ns", row);
                    open.input_tokens = open.input_tokens.saturating_sub(stored.long("input_tokens", row));
                    open.output_tokens = open.output_tokens.saturating_sub(stored.long("output_tokens", row));
                }
                Table::Edges => {
                    let mut name = |column| stored.text(column, row).map(|text| names.intern_as(Role::Peer, text));
                    let (Some(caller), Some(callee)) = (name("caller"), name("callee")) else { return };
                    let Some(kind) = stored.text("callee_kind", row).map(kind_of) else { return };
                    let open = self.edges.entry((minute, caller, callee, kind)).or_default();
                    open.durations.subtract(&stored.durations(row));
                    open.gap -= stored.double("gap_sum_ns", row);
                    open.gaps -= stored.long("interarrival_count", row);
                    open.gap_sum -= stored.double("interarrival_sum_ns", row);
                    open.gap_sum_squares -= stored.double("interarrival_sum_squares_ns2", row);
                }
                _ => return,
            }
        }
        self.operations.retain(|_, row| !row.durations.is_empty());
        self.edges.retain(|_, row| !row.durations.is_empty());
    }

    /// Forgets what cannot be made up for: the table has spans that are stored no more, or kept
    /// another of two duplicates. A call to a virtual peer may be owed until its span is let go.
    pub(crate) fn forgive(&mut self) {
        let forgive = |durations: &mut Durations| {
            durations.sketch_ms.forgive();
            durations.count > 0
        };
        self.operations.retain(|_, row| forgive(&mut row.durations));
        self.edges.retain(|key, row| key.3 != NodeKind::Service as u8 || forgive(&mut row.durations));
    }

    pub(crate) fn span(&mut self, span: &Span) {
        let key = (minute(span.start), span.service, span.operation, span.kind);
        let Some(row) = bounded(&mut self.operations, key, wider) else {
            self.refused += 1;
            return;
        };
        row.durations.add(span.duration_ns, span.error, span.weight);
        row.queue_wait += span.queue_wait_ns.or_zero() as f64 * f64::from(span.weight);
        let times = |tokens: i64| tokens.saturating_mul(i64::from(span.weight));
        row.input_tokens = row.input_tokens.saturating_add(times(span.input_tokens));
        row.output_tokens = row.output_tokens.saturating_add(times(span.output_tokens));
    }

    pub(crate) fn call(&mut self, call: &Call) {
        let key = (minute(call.start), call.caller, call.callee, call.callee_kind as u8);
        let Some(row) = bounded(&mut self.edges, key, wider) else {
            self.refused += 1;
            return;
        };
        row.durations.add(call.duration_ns, call.error, call.weight);
        row.gap += call.gap_ns.unwrap_or(0).max(0) as f64 * f64::from(call.weight);
        if self.last_call.len() >= MAX_ROWS {
            self.last_call.clear(); // one gap of each edge is not counted
        }
        let last = self.last_call.entry((call.caller, call.callee)).or_insert(call.start);
        if call.start > *last {
            // between calls that were sampled others were lost: the gap is not one between arrivals
            if call.weight == 1 {
                let gap = (call.start - *last) as f64;
                row.gaps += 1;
                row.gap_sum += gap;
                row.gap_sum_squares += gap * gap;
            }
            *last = call.start;
        }
    }

    /// The rows of minutes that ended before `before`, taken out.
    pub(crate) fn closed(&mut self, before: UnixNanos, names: &Names) -> Vec<Batch> {
        let ahead = before.saturating_add(FAR_AHEAD_NS);
        let closed = |minute: UnixNanos| minute.saturating_add(MINUTE_NS) <= before || minute > ahead;
        let last = before == UnixNanos::MAX;
        let due = |minute, durations: &Durations| closed(minute) && (last || !durations.owes());
        let operations: Vec<_> = self.operations.extract_if(|key, row| due(key.0, &row.durations)).collect();
        let edges: Vec<_> = self.edges.extract_if(|key, row| due(key.0, &row.durations)).collect();
        let operations: Vec<_> = operations.into_iter().filter(|(_, row)| row.durations.count > 0).collect();
        let edges: Vec<_> = edges.into_iter().filter(|(_, row)| row.durations.count > 0).collect();
        let mut batches = Vec::new();
        if !operations.is_empty() {
            batches.push(operations_batch(operations, names));
        }
        if !edges.is_empty() {
            batches.push(edges_batch(edges, names));
        }
        batches
    }
}

/// The row of a key, or of the first of the wider ones for which there is room.
fn bounded<K: std::hash::Hash + Eq, V: Default>(
    rows: &mut Map<K, V>,
    key: K,
    wider: impl Fn(&K) -> [K; 2],
) -> Option<&mut V> {
    if rows.len() < MAX_ROWS || rows.contains_key(&key) {
        return Some(rows.entry(key).or_default());
    }
    let mut rooms = wider(&key).into_iter().zip([MAX_ROWS + MAX_ROWS / 2, 2 * MAX_ROWS]);
    let (key, _) = rooms.find(|(key, room)| rows.len() < *room || rows.contains_key(key))?;
    Some(rows.entry(key).or_default())
}

/// All of a service, or of a caller, in a minute; and all of the minute.
fn wider<K: Copy>(key: &(UnixNanos, Name, Name, K)) -> [(UnixNanos, Name, Name, K); 2] {
    [(key.0, key.1, OTHER, key.3), (key.0, OTHER, OTHER, key.3)]
}

/// The start of the minute.
pub(crate) fn minute(time: UnixNanos) -> UnixNanos {
    time.div_euclid(MINUTE_NS).saturating_mul(MINUTE_NS)
}

/// Rows of `operations` or `edges` as they are stored.
struct Stored<'a> {
    rows: &'a RecordBatch,
    minutes: &'a Int64Array,
    sketches: &'a BinaryArray,
}

impl<'a> Stored<'a> {
    fn of(rows: &'a RecordBatch) -> Option<Self> {
        let minutes = rows.column_by_name("minute_unix_nano")?.as_primitive_opt()?;
        let sketches = rows.column_by_name("duration_sketch")?.as_binary_opt()?;
        Some(Self { rows, minutes, sketches })
    }

    fn text(&self, column: &str, row: usize) -> Option<&'a str> {
        let column = self.rows.column_by_name(column)?.as_string_opt::<i32>()?;
        column.is_valid(row).then(|| column.value(row))
    }

    fn long(&self, column: &str, row: usize) -> i64 {
        let column = self.rows.column_by_name(column).and_then(|column| column.as_primitive_opt::<Int64Type>());
        column.map_or(0, |column| column.value(row))
    }

    fn double(&self, column: &str, row: usize) -> f64 {
        let column = self.rows.column_by_name(column).and_then(|column| column.as_primitive_opt::<Float64Type>());
        column.map_or(0.0, |column| column.value(row))
    }

    fn durations(&self, row: usize) -> Durations {
        Durations {
            count: self.long("count", row),
            errors: self.long("error_count", row),
            sum: self.double("duration_sum_ns", row),
            sum_squares: self.double("duration_sum_squares_ns2", row),
            max: 0,
            sketch_ms: Sketch::from_bytes(self.sketches.value(row)).unwrap_or_default(),
        }
    }
}

fn operations_batch(mut rows: Vec<(OperationKey, OperationRow)>, names: &Names) -> Batch {
    rows.sort_by_key(|(key, _)| *key);
    let text = |name: fn(&OperationKey) -> Name| {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| names.text(name(key))))) as ArrayRef
    };
    let long = |value: fn(&OperationRow) -> i64| {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, r)| value(r)))) as ArrayRef
    };
    let double = |value: fn(&OperationRow) -> f64| {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, r)| value(r)))) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(key, _)| key.0))),
        text(|key| key.1),
        text(|key| key.2),
        text(|key| key.3),
        long(|r| r.durations.count),
        long(|r| r.durations.errors.max(0)),
        double(|r| r.durations.sum.max(0.0)),
        double(|r| r.durations.sum_squares.max(0.0)),
        long(|r| r.durations.max),
        double(|r| r.durations.quantile(0.5)),
        double(|r| r.durations.quantile(0.95)),
        double(|r| r.durations.quantile(0.99)),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, r)| r.durations.sketch_ms.to_bytes()))),
        double(|r| r.queue_wait.max(0.0)),
        long(|r| r.input_tokens.max(0)),
        long(|r| r.output_tokens.max(0)),
    ];
    batch(Table::Operations, columns)
}

fn edges_batch(mut rows: Vec<(EdgeKey, EdgeRow)>, names: &Names) -> Batch {
    rows.sort_by_key(|(key, _)| *key);
    let text = |name: fn(&EdgeKey) -> Name| {
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| names.text(name(key))))) as ArrayRef
    };
    let long = |value: fn(&EdgeRow) -> i64| {
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(_, r)| value(r)))) as ArrayRef
    };
    let double = |value: fn(&EdgeRow) -> f64| {
        Arc::new(Float64Array::from_iter_values(rows.iter().map(|(_, r)| value(r)))) as ArrayRef
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from_iter_values(rows.iter().map(|(key, _)| key.0))),
        text(|key| key.1),
        text(|key| key.2),
        Arc::new(StringArray::from_iter_values(rows.iter().map(|(key, _)| kind_text(key.3)))),
        long(|r| r.durations.count),
        long(|r| r.durations.errors.max(0)),
        double(|r| r.durations.sum.max(0.0)),
        double(|r| r.durations.sum_squares.max(0.0)),
        long(|r| r.durations.max),
        double(|r| r.durations.quantile(0.5)),
        double(|r| r.durations.quantile(0.95)),
        double(|r| r.durations.quantile(0.99)),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, r)| r.durations.sketch_ms.to_bytes()))),
        double(|r| r.gap.max(0.0)),
        long(|r| r.gaps.max(0)),
        double(|r| r.gap_sum.max(0.0)),
        double(|r| r.gap_sum_squares.max(0.0)),
    ];
    batch(Table::Edges, columns)
}

const KINDS: [(NodeKind, &str); 4] = [
    (NodeKind::Service, "service"),
    (NodeKind::Database, "database"),
    (NodeKind::Messaging, "messaging"),
    (NodeKind::External, "external"),
];

fn kind_text(kind: u8) -> &'static str {
    KINDS.into_iter().find(|(known, _)| *known as u8 == kind).map_or("external", |(_, text)| text)
}

fn kind_of(text: &str) -> u8 {
    KINDS.into_iter().find(|(_, known)| *known == text).map_or(NodeKind::External, |(kind, _)| kind) as u8
}

fn batch(table: Table, columns: Vec<ArrayRef>) -> Batch {
    let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
    Batch { table, rows }
}

#[cfg(test)]
mod tests;
