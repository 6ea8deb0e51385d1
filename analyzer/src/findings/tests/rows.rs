//! Spans as rows of the table `spans`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray, new_null_array},
    record_batch::RecordBatch,
};
use weir_schema::Table;

pub(super) const SECOND: i64 = 1_000_000_000;

#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) trace: u128,
    pub(super) id: u64,
    pub(super) parent: u64,
    pub(super) start: i64,
    pub(super) duration: i64,
    pub(super) service: &'static str,
    pub(super) instance: Option<String>,
    pub(super) operation: &'static str,
    pub(super) kind: &'static str,
    pub(super) error: bool,
    pub(super) database: Option<&'static str>,
    /// Attempts before, where a proxy counts them.
    pub(super) repeats: Option<i32>,
}

/// Rows as a batch of `spans`.
pub(super) fn batch(rows: &[Row]) -> RecordBatch {
    let schema = Table::Spans.schema();
    let text = |value: fn(&Row) -> Option<&str>| Arc::new(rows.iter().map(value).collect::<StringArray>()) as ArrayRef;
    let columns = schema.fields().iter().map(|field| -> ArrayRef {
        match field.name().as_str() {
            "trace_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.trace.to_be_bytes()))),
            "span_id" => Arc::new(BinaryArray::from_iter_values(rows.iter().map(|r| r.id.to_be_bytes()))),
            "parent_span_id" => {
                Arc::new(BinaryArray::from_iter(rows.iter().map(|r| (r.parent > 0).then(|| r.parent.to_be_bytes()))))
            }
            "start_unix_nano" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.start))),
            "duration_ns" => Arc::new(Int64Array::from_iter_values(rows.iter().map(|r| r.duration))),
            "received_unix_nano" => Arc::new(Int64Array::from(vec![0; rows.len()])),
            "service" => text(|r| Some(r.service)),
            "instance" => text(|r| r.instance.as_deref()),
            "operation" => text(|r| Some(r.operation)),
            "kind" => text(|r| Some(r.kind)),
            "status" => text(|r| Some(if r.error { "error" } else { "ok" })),
            "db_system" => text(|r| r.database),
            "policy_action" => text(|r| r.repeats.map(|_| "admitted")),
            "http_request_resend_count" => {
                Arc::new(rows.iter().map(|r| r.repeats.filter(|n| *n > 0)).collect::<Int32Array>())
            }
            "http_response_status_code" => {
                Arc::new(Int32Array::from_iter_values(rows.iter().map(|r| if r.error { 500 } else { 200 })))
            }
            _ => new_null_array(field.data_type(), rows.len()),
        }
    });
    RecordBatch::try_new(schema.clone(), columns.collect()).unwrap()
}
