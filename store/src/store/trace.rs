//! [`TraceRows`]: the spans of one trace. Whoever asks turns them into something ten times larger, a
//! page or JSON, so a trace is read up to a bound, and few are held at once.

use std::{collections::HashSet, sync::Arc, time::Duration};

use arrow::{
    array::{AsArray, BooleanArray},
    compute::filter_record_batch,
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use futures::StreamExt;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::Store;
use crate::error::SqlError;

/// Spans of one trace that are read; of a larger one the earliest are. A page shows far fewer.
const MAX_SPANS: usize = 20_000;

/// Rows of one trace that are looked at for those spans.
const MAX_ROWS: usize = 2 * MAX_SPANS;

/// Bytes of one trace's columns that are read.
const MAX_BYTES: usize = 64 << 20;

/// Traces that are held at once, by pages and answers together.
const AT_ONCE: usize = 2;

/// A trace's spans by start, exact duplicates left out.
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

/// What is read of a trace, as it comes.
#[derive(Default)]
struct Read {
    seen: HashSet<Identity>,
    batches: Vec<RecordBatch>,
    /// Rows that came, duplicates too.
    came: usize,
    rows: usize,
    bytes: usize,
}

/// What tells an exact duplicate from another span with the same id: Zipkin's two sides share one.
type Identity = (Vec<u8>, i64, i64, String, String);

impl Read {
    /// Whether there is room for more.
    fn goes_on(&self) -> bool {
        self.rows <= MAX_SPANS && self.bytes <= MAX_BYTES
    }

    fn take(&mut self, rows: &RecordBatch) -> Result<(), SqlError> {
        self.came += rows.num_rows();
        let ids = rows["span_id"].as_binary::<i32>();
        let (kinds, services) = (rows["kind"].as_string::<i32>(), rows["service"].as_string::<i32>());
        let starts = rows["start_unix_nano"].as_primitive::<Int64Type>();
        let durations = rows["duration_ns"].as_primitive::<Int64Type>();
        let identity = |row: usize| -> Identity {
            let names = (kinds.value(row).to_owned(), services.value(row).to_owned());
            (ids.value(row).to_vec(), starts.value(row), durations.value(row), names.0, names.1)
        };
        let keep: BooleanArray = (0..rows.num_rows()).map(|row| Some(self.seen.insert(identity(row)))).collect();
        let kept = filter_record_batch(rows, &keep).map_err(|e| SqlError::Execution(e.to_string()))?;
        self.rows += kept.num_rows();
        self.bytes += kept.get_array_memory_size();
        self.batches.push(kept);
        Ok(())
    }
}

impl Store {
    /// A trace's spans by start, exact duplicates left out; of a trace that is larger than 20,000 spans or
    /// 64 MiB only the first. Waits while as many traces are held as may be.
    ///
    /// # Errors
    /// A statement that fails, or a wait that is longer than a statement may run.
    pub async fn trace(&self, trace_id: [u8; 16]) -> Result<TraceRows, SqlError> {
        let place = self.inner.traces.take(self.inner.config.sql.timeout_ms).await?;
        let id = hex::encode(trace_id);
        let statement = format!(
            "SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC LIMIT {MAX_ROWS}"
        );
        let (mut answer, mut read) = (self.ask(&statement, None).await?, Read::default());
        let mut is_cut = false;
        while let Some(rows) = answer.stream.next().await {
            is_cut = !read.goes_on();
            if is_cut {
                break;
            }
            read.take(&rows?)?;
        }
        let Read { mut batches, came, rows, .. } = read;
        cut(&mut batches, rows.saturating_sub(MAX_SPANS));
        Ok(TraceRows { batches, is_cut: is_cut || rows > MAX_SPANS || came == MAX_ROWS, place })
    }
}

/// Takes so many rows off the end.
fn cut(batches: &mut Vec<RecordBatch>, mut rows: usize) {
    while rows > 0 {
        let Some(last) = batches.pop() else { return };
        let off = rows.min(last.num_rows());
        rows -= off;
        if off < last.num_rows() {
            batches.push(last.slice(0, last.num_rows() - off));
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::FutureExt;
    use weir_schema::{Batch, Table};

    use super::*;
    use crate::store::tests::{config, open, spans};

    /// A trace of so many spans, each sent twice.
    async fn append(store: &Store, trace: u8, count: u64) {
        let rows: Vec<_> = (0..count).map(|n| (trace, n + 1, n.cast_signed())).collect();
        for _ in 0..2 {
            store.append_rows(Batch { table: Table::Spans, rows: spans(&rows) }).await.unwrap();
        }
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
