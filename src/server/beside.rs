//! [`BesideOut`] and [`BesideIn`]: the bounded way of received logs and metrics from the doors to the analysis.
//!
//! Spans make an ack wait when the analysis is behind, because estimates need them all. Logs and metrics only tell apart
//! what spans leave open, so they never do: what finds no room is dropped and counted, and the analysis is told, for a
//! line that was dropped looks like one that was not logged. They are stored whatever becomes of them here.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use arrow::array::{Array, AsArray};
use tokio::sync::mpsc;
use weir_analyzer::causes::{ACCESS_LOG, LOG_COLUMNS, METRIC_COLUMNS};
use weir_schema::{Batch, Table};

/// Requests of one signal that wait for the analysis. Their columns stay in memory meanwhile: at the collector's bound of
/// 4 MiB a request some 64 MB, of usual ones a second or two.
const QUEUE: usize = 16;

/// The doors' end.
#[derive(Clone)]
pub(crate) struct BesideOut {
    logs: Way,
    metrics: Way,
}

/// The analysis' end.
pub(super) struct BesideIn {
    logs: mpsc::Receiver<Batch>,
    metrics: mpsc::Receiver<Batch>,
    dropped: [(Table, Arc<AtomicU64>); 2],
}

/// One signal's: logs crowd no metrics out.
#[derive(Clone)]
struct Way {
    queue: mpsc::Sender<Batch>,
    /// Rows since the analysis asked last.
    dropped: Arc<AtomicU64>,
}

/// Both ends.
pub(super) fn beside() -> (BesideOut, BesideIn) {
    let (logs, logs_in) = mpsc::channel(QUEUE);
    let (metrics, metrics_in) = mpsc::channel(QUEUE);
    let way = |queue| Way { queue, dropped: Arc::default() };
    let out = BesideOut { logs: way(logs), metrics: way(metrics) };
    let dropped = [(Table::Logs, out.logs.dropped.clone()), (Table::Metrics, out.metrics.dropped.clone())];
    (out, BesideIn { logs: logs_in, metrics: metrics_in, dropped })
}

impl BesideOut {
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
        let count = rows.num_rows() as u64;
        if self.queue.try_send(Batch { table: batch.table, rows }).is_err() {
            self.dropped.fetch_add(count, Relaxed);
        }
    }
}

impl BesideIn {
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
        let (logs, metrics) = (self.logs.len(), self.metrics.len());
        let logs = (0..logs).map_while(|_| self.logs.try_recv().ok());
        logs.chain((0..metrics).map_while(|_| self.metrics.try_recv().ok())).collect()
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
        let (out, mut analysis) = beside();
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
}
