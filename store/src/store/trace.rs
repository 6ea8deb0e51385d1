//! [`TraceRows`]: the spans of one trace. Whoever asks turns them into something ten times larger, a
//! page or JSON, so a trace is read up to a bound, and few are held at once.

use std::{sync::Arc, time::Duration};

use arrow::{array::Array, record_batch::RecordBatch};
use futures::TryStreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Store;
use crate::error::SqlError;

/// Spans of one trace that are read; of a larger one the earliest are. A page shows far fewer.
const MAX_SPANS: usize = 20_000;

/// Bytes of one trace's columns that are read.
const MAX_BYTES: usize = 64 << 20;

/// Traces that are held at once, by pages and answers together.
const AT_ONCE: usize = 2;

/// A trace's spans by start, as stored: what was sent twice is there twice.
pub struct TraceRows {
    /// The spans.
    pub batches: Vec<RecordBatch>,
    /// Whether the trace has more.
    pub is_cut: bool,
    /// To be kept as long as anything made of them is.
    pub place: TracePlace,
}

/// A place among the traces that are held at once, given back when it is dropped.
#[derive(Debug)]
pub struct TracePlace(#[expect(dead_code, reason = "held, not read")] OwnedSemaphorePermit);

/// Places for the traces that are held.
#[derive(Clone, Debug)]
pub(crate) struct TracePlaces(Arc<Semaphore>);

impl Default for TracePlaces {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(AT_ONCE)))
    }
}

impl TracePlaces {
    /// Waits for a place, as long as a statement may run.
    async fn take(&self, limit_ms: u64) -> Result<TracePlace, SqlError> {
        let place = tokio::time::timeout(Duration::from_millis(limit_ms), self.0.clone().acquire_owned()).await;
        place.ok().and_then(Result::ok).map(TracePlace).ok_or(SqlError::Timeout { limit_ms })
    }
}

impl Store {
    /// A trace's spans by start; of a trace that is larger than 20,000 spans or 64 MiB only the first. Waits while as
    /// many traces are held as may be.
    ///
    /// # Errors
    /// A statement that fails, or a wait that is longer than a statement may run.
    pub async fn trace(&self, trace_id: [u8; 16]) -> Result<TraceRows, SqlError> {
        let place = self.inner.traces.take(self.inner.config.sql.timeout_ms).await?;
        let (id, one_more) = (hex::encode(trace_id), MAX_SPANS + 1);
        let statement = format!(
            "SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC LIMIT {one_more}"
        );
        let mut answer = self.ask(&statement, None).await?;
        let (mut batches, mut spans, mut bytes, mut is_cut) = (Vec::new(), 0, 0, false);
        while !is_cut && let Some(rows) = answer.stream.try_next().await? {
            let room = if bytes > MAX_BYTES { 0 } else { MAX_SPANS - spans };
            let kept = rows.slice(0, rows.num_rows().min(room));
            spans += kept.num_rows();
            bytes += bytes_of(&kept);
            is_cut = kept.num_rows() < rows.num_rows();
            batches.push(kept);
        }
        Ok(TraceRows { batches, is_cut, place })
    }
}

/// Bytes of these rows alone: batches of one answer may be parts of the same buffers.
fn bytes_of(rows: &RecordBatch) -> usize {
    // a column without a size has no rows to speak of
    rows.columns().iter().map(|column| column.to_data().get_slice_memory_size().unwrap_or_default()).sum()
}

#[cfg(test)]
mod tests {
    use arrow::{array::AsArray, datatypes::Int64Type};
    use futures::FutureExt;
    use weir_schema::{Batch, Table};

    use super::*;
    use crate::store::tests::{config, open, spans};

    /// A trace of so many spans.
    async fn append(store: &Store, trace: u8, count: u64) {
        let rows: Vec<_> = (0..count).map(|n| (trace, n + 1, n.cast_signed())).collect();
        store.append_rows(Batch { table: Table::Spans, rows: spans(&rows) }).await.unwrap();
    }

    fn starts(rows: &TraceRows) -> Vec<i64> {
        let batches = rows.batches.iter();
        batches.flat_map(|rows| rows["start_unix_nano"].as_primitive::<Int64Type>().values().to_vec()).collect()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_trace_is_read_up_to_a_bound_and_says_so() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(config(dir.path())).await;
        append(&store, 1, 300).await;
        append(&store, 2, MAX_SPANS as u64 + 10).await;
        let small = store.trace([1; 16]).await.unwrap();
        assert_eq!((starts(&small), small.is_cut), ((0..300).collect(), false));
        let large = store.trace([2; 16]).await.unwrap();
        assert_eq!((starts(&large), large.is_cut), ((0..MAX_SPANS as i64).collect(), true), "the first of it");
        assert!(store.trace([1; 16]).now_or_never().is_none(), "two are held");
        drop(large);
        assert!(starts(&store.trace([3; 16]).await.unwrap()).is_empty());
    }
}
