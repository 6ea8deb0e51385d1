//! Spans as the analyzer takes them, from simulated requests, and what it says of them at the end.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, StringArray, new_null_array},
    record_batch::RecordBatch,
};
use weir_analyzer::{Analyzer, Config, Snapshot};
use weir_schema::Table;

/// A span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Row {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// 0 for a root.
    pub(crate) parent: u64,
    /// Nanoseconds.
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) service: &'static str,
    pub(crate) kind: &'static str,
}

fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let text =
        |value: fn(&Row) -> &'static str| Arc::new(StringArray::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let long = |value: fn(&Row) -> i64| Arc::new(Int64Array::from_iter_values(rows.iter().map(value))) as ArrayRef;
    let columns = schema.fields().iter().map(|field| match field.name().as_str() {
        "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.trace.to_be_bytes()))) as ArrayRef,
        "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.id.to_be_bytes()))),
        "parent_span_id" => {
            let parents = rows.iter().map(|r| (r.parent > 0).then(|| r.parent.to_be_bytes()));
            Arc::new(BinaryArray::from_iter(parents))
        }
        "start_unix_nano" => long(|r| r.start),
        "duration_ns" => long(|r| r.end - r.start),
        "received_unix_nano" => long(|_| 0),
        "service" => text(|r| r.service),
        "operation" => text(|_| "call"),
        "kind" => text(|r| r.kind),
        "status" => text(|_| "ok"),
        _ => new_null_array(field.data_type(), rows.len()),
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).expect("the schema's columns, of one length")
}

/// Feeds spans to a whole analyzer in the order of their ends; gives the last window that others follow.
pub(crate) fn analyze(mut rows: Vec<Row>) -> Option<Snapshot> {
    rows.sort_by_key(|row| (row.end, row.id));
    let mut analyzer = Analyzer::new(Config::default());
    let (mut last, mut before) = (None, None);
    for chunk in rows.chunk_by(|a, b| a.end / 1_000_000_000 == b.end / 1_000_000_000) {
        analyzer.push(&batch(chunk));
        if let Some(snapshot) = analyzer.step(chunk[0].end).snapshot {
            before = last.replace(snapshot);
        }
    }
    before
}
