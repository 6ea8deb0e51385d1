//! [`LogsAndMetricsOut`] and [`LogsAndMetricsIn`]: the bounded way of received logs and metrics from the doors to the analysis.
//!
//! Spans make an ack wait when the analysis is behind, because estimates need them all. Logs and metrics only tell apart
//! what spans leave open, so they never do: what finds no room is dropped and counted, and the analysis is told, for a
//! line that was dropped looks like one that was not logged. They are stored whatever becomes of them here.

use std::sync::{
    Arc,
    atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
};

use arrow::array::{Array, AsArray};
use tokio::sync::mpsc;
use weir_analyzer::causes::{ACCESS_LOG, LOG_COLUMNS, METRIC_COLUMNS};
use weir_schema::{Batch, Table};

/// Requests of one signal that wait for the analysis: of usual ones a second or two.
const QUEUE: usize = 16;

/// Bytes of one signal's columns that wait, beyond which no further request does. 16 MiB: a mebibyte each.
const QUEUE_BYTES: usize = 16 << 20;

/// The doors' end.
#[derive(Clone)]
pub(crate) struct LogsAndMetricsOut {
    logs: Way,
    metrics: Way,
}

/// The analysis' end.
pub(super) struct LogsAndMetricsIn {
    logs: Waiting,
    metrics: Waiting,
    dropped: [(Table, Arc<AtomicU64>); 2],
}

/// One signal's: logs crowd no metrics out.
#[derive(Clone)]
struct Way {
    queue: mpsc::Sender<Batch>,
    bytes: Arc<AtomicUsize>,
    /// Rows since the analysis asked last.
    dropped: Arc<AtomicU64>,
}

/// What of one signal waits, and its bytes.
struct Waiting {
    queue: mpsc::Receiver<Batch>,
    bytes: Arc<AtomicUsize>,
}

/// Both ends.
pub(super) fn logs_and_metrics() -> (LogsAndMetricsOut, LogsAndMetricsIn) {
    let ((logs, logs_in), (metrics, metrics_in)) = (way(), way());
    let out = LogsAndMetricsOut { logs, metrics };
    let dropped = [(Table::Logs, out.logs.dropped.clone()), (Table::Metrics, out.metrics.dropped.clone())];
    (out, LogsAndMetricsIn { logs: logs_in, metrics: metrics_in, dropped })
}

fn way() -> (Way, Waiting) {
    let (sender, queue) = mpsc::channel(QUEUE);
    let bytes = Arc::new(AtomicUsize::new(0));
    (Way { queue: sender, bytes: bytes.clone(), dropped: Arc::default() }, Waiting { queue, bytes })
}

impl LogsAndMetricsOut {
    /// Hands rows on, with the columns that are looked at. Never waits.
    pub(crate) fn offer(&self, batch: &Batch) {
        match batch.table {
            Table::Logs if names_traces(batch) && !is_access_log(batch) => self.logs.offer(batch, &LOG_COLUMNS),
            Table::Metrics => self.metrics.offer(batch, &METRIC_COLUMNS),
            _ => {}
        }
    }
}

/// Records that name no trace belong to no request.
fn names_traces(logs: &Batch) -> bool {
    logs.rows.column_by_name("trace_id").is_some_and(|traces| traces.null_count() < traces.len())
}

/// What sidecars log of requests, their spans say too.
fn is_access_log(logs: &Batch) -> bool {
    let events = logs.rows.column_by_name("event_name").and_then(|events| events.as_string_opt::<i32>());
    events.is_some_and(|events| events.iter().all(|event| event == Some(ACCESS_LOG)))
}

impl Way {
    fn offer(&self, batch: &Batch, columns: &[&str]) {
        let places: Vec<usize> =
            columns.iter().filter_map(|name| batch.rows.schema_ref().index_of(name).ok()).collect();
        let Ok(rows) = batch.rows.project(&places) else { return };
        let (count, bytes) = (rows.num_rows() as u64, rows.get_array_memory_size());
        // counted before it is sent: who takes it out may be faster
        let waiting = self.bytes.fetch_add(bytes, Relaxed);
        if waiting >= QUEUE_BYTES || self.queue.try_send(Batch { table: batch.table, rows }).is_err() {
            self.bytes.fetch_sub(bytes, Relaxed);
            self.dropped.fetch_add(count, Relaxed);
        }
    }
}

impl Waiting {
    async fn recv(&mut self) -> Option<Batch> {
        let batch = self.queue.recv().await?;
        Some(self.taken(batch))
    }

    fn try_recv(&mut self) -> Option<Batch> {
        let batch = self.queue.try_recv().ok()?;
        Some(self.taken(batch))
    }

    fn taken(&self, batch: Batch) -> Batch {
        self.bytes.fetch_sub(batch.rows.get_array_memory_size(), Relaxed);
        batch
    }
}

impl LogsAndMetricsIn {
    /// What comes next; `None` when the doors are gone.
    pub(super) async fn next(&mut self) -> Option<Batch> {
        tokio::select! {
            Some(batch) = self.metrics.recv() => Some(batch),
            Some(batch) = self.logs.recv() => Some(batch),
            else => None,
        }
    }

    /// What has come by now.
    pub(super) fn waiting(&mut self) -> Vec<Batch> {
        let (logs, metrics) = (self.logs.queue.len(), self.metrics.queue.len());
        let logs = (0..logs).map_while(|_| self.logs.try_recv());
        logs.chain((0..metrics).map_while(|_| self.metrics.try_recv())).collect()
    }

    /// Rows that were dropped since this was asked last.
    pub(super) fn missed(&self) -> [(Table, u64); 2] {
        self.dropped.each_ref().map(|(table, dropped)| (*table, dropped.swap(0, Relaxed)))
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::new_null_array, record_batch::RecordBatch};
    use weir_schema::{Encoding, Signal, otlp};

    use super::*;

    /// Log records of a request, with or without the trace they belong to.
    fn logs(count: usize, trace: &str, event: &str) -> Batch {
        let fields = format!(r#""timeUnixNano":"5","traceId":"{trace}","eventName":"{event}""#);
        let record = format!(r#"{{{fields},"body":{{"stringValue":"out of stock"}}}}"#);
        let records = vec![record; count].join(",");
        let json = format!(r#"{{"resourceLogs":[{{"scopeLogs":[{{"logRecords":[{records}]}}]}}]}}"#);
        let decoded = otlp::decode(Signal::Logs, Encoding::Json, json.as_bytes(), 9);
        decoded.unwrap().batch.unwrap()
    }

    fn metrics() -> Batch {
        let schema = Table::Metrics.schema();
        let columns = schema.fields().iter().map(|field| new_null_array(field.data_type(), 0)).collect();
        Batch { table: Table::Metrics, rows: RecordBatch::try_new(schema, columns).unwrap() }
    }

    #[test]
    fn a_full_queue_drops_and_counts_and_takes_no_room_of_the_other_signal() {
        let (out, mut analysis) = logs_and_metrics();
        let trace = "5b8efff798038103d269b633813fc60c";
        (0..QUEUE + 3).for_each(|_| out.offer(&logs(2, trace, "")));
        (0..QUEUE).for_each(|_| out.offer(&metrics()));
        assert_eq!(analysis.missed(), [(Table::Logs, 6), (Table::Metrics, 0)]);
        assert_eq!(analysis.missed(), [(Table::Logs, 0), (Table::Metrics, 0)], "it was told");
        let waiting = analysis.waiting();
        assert_eq!(waiting.len(), 2 * QUEUE);
        assert_eq!(waiting[0].rows.num_columns(), LOG_COLUMNS.len());
        out.offer(&logs(1, "", ""));
        out.offer(&logs(1, trace, ACCESS_LOG));
        assert!(analysis.waiting().is_empty(), "neither is of use: a record without a trace, what spans say");
    }

    #[test]
    fn large_requests_fill_the_queue_by_their_bytes() {
        let (out, mut analysis) = logs_and_metrics();
        let large = logs(50_000, "5b8efff798038103d269b633813fc60c", "");
        (0..QUEUE).for_each(|_| out.offer(&large));
        let waiting = analysis.waiting();
        let bytes: usize = waiting.iter().map(|batch| batch.rows.get_array_memory_size()).sum();
        assert!(waiting.len() < QUEUE && bytes < 2 * QUEUE_BYTES, "{} of {bytes} bytes", waiting.len());
        assert_eq!(analysis.missed()[0].1, 50_000 * (QUEUE - waiting.len()) as u64);
        assert_eq!(analysis.logs.bytes.load(Relaxed), 0);
    }
}
