//! [`Rollup`]: RED per minute and edges per minute, the rows of `operations` and `edges`.
//!
//! One aggregator makes both, from distinct spans and completed calls. Rows add up: a span that
//! comes after its minute was written makes a further row of the same minute.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Float64Array, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use hashbrown::HashMap;
use weir_schema::{Batch, Table, UnixNanos};

use crate::{
    held::Call,
    sketch::Sketch,
    snapshot::NodeKind,
    spans::{Name, Names, Span},
};

const MINUTE_NS: i64 = 60_000_000_000;

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
    fn add(&mut self, duration_ns: i64, error: bool) {
        let duration = duration_ns as f64;
        self.count += 1;
        self.errors += i64::from(error);
        self.sum += duration;
        self.sum_squares += duration * duration;
        self.max = self.max.max(duration_ns);
        self.sketch_ms.add(duration / 1e6);
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
    /// Minutes before this are in the tables already.
    written_until: UnixNanos,
}

impl Rollup {
    pub(crate) fn set_written_until(&mut self, unix_nano: UnixNanos) {
        self.written_until = unix_nano;
        self.operations.retain(|(minute, ..), _| *minute >= unix_nano);
        self.edges.retain(|(minute, ..), _| *minute >= unix_nano);
    }

    pub(crate) fn span(&mut self, span: &Span) {
        let row = self.operations.entry((minute(span.start), span.service, span.operation, span.kind)).or_default();
        row.durations.add(span.duration_ns, span.error);
        row.queue_wait += span.queue_wait_ns.unwrap_or(0) as f64;
        row.input_tokens += span.input_tokens;
        row.output_tokens += span.output_tokens;
    }

    pub(crate) fn call(&mut self, call: &Call) {
        let row = self.edges.entry((minute(call.start), call.caller, call.callee, call.callee_kind as u8)).or_default();
        row.durations.add(call.duration_ns, call.error);
        row.gap += call.gap_ns.unwrap_or(0).max(0) as f64;
        let last = self.last_call.entry((call.caller, call.callee)).or_insert(call.start);
        if call.start > *last {
            let gap = (call.start - *last) as f64;
            row.gaps += 1;
            row.gap_sum += gap;
            row.gap_sum_squares += gap * gap;
            *last = call.start;
        }
    }

    /// The rows of minutes that ended before `before`, taken out.
    pub(crate) fn closed(&mut self, before: UnixNanos, names: &Names) -> Vec<Batch> {
        let closed = |minute: UnixNanos| minute.saturating_add(MINUTE_NS) <= before;
        let operations: Vec<_> = self.operations.extract_if(|key, _| closed(key.0)).collect();
        let edges: Vec<_> = self.edges.extract_if(|key, _| closed(key.0)).collect();
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

fn minute(time: UnixNanos) -> UnixNanos {
    time.div_euclid(MINUTE_NS) * MINUTE_NS
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
        long(|r| r.durations.errors),
        double(|r| r.durations.sum),
        double(|r| r.durations.sum_squares),
        long(|r| r.durations.max),
        double(|r| r.durations.quantile(0.5)),
        double(|r| r.durations.quantile(0.95)),
        double(|r| r.durations.quantile(0.99)),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, r)| r.durations.sketch_ms.to_bytes()))),
        double(|r| r.queue_wait),
        long(|r| r.input_tokens),
        long(|r| r.output_tokens),
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
        long(|r| r.durations.errors),
        double(|r| r.durations.sum),
        double(|r| r.durations.sum_squares),
        long(|r| r.durations.max),
        double(|r| r.durations.quantile(0.5)),
        double(|r| r.durations.quantile(0.95)),
        double(|r| r.durations.quantile(0.99)),
        Arc::new(BinaryArray::from_iter_values(rows.iter().map(|(_, r)| r.durations.sketch_ms.to_bytes()))),
        double(|r| r.gap),
        long(|r| r.gaps),
        double(|r| r.gap_sum),
        double(|r| r.gap_sum_squares),
    ];
    batch(Table::Edges, columns)
}

fn kind_text(kind: u8) -> &'static str {
    [(NodeKind::Service, "service"), (NodeKind::Database, "database"), (NodeKind::Messaging, "messaging")]
        .into_iter()
        .find(|(known, _)| *known as u8 == kind)
        .map_or("external", |(_, text)| text)
}

fn batch(table: Table, columns: Vec<ArrayRef>) -> Batch {
    let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
    Batch { table, rows }
}
