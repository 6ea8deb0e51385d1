//! [`Exporter`]: takes records off the queue and sends them as OTLP/gRPC, a batch at a time.
//!
//! A batch leaves when it is full or old enough. While the collector is away it is tried again, with
//! back-off and when the collector asks for it, until `retry_ms` have passed; the queue behind it is bounded, and what
//! does not fit is dropped and counted, so a data thread never waits. At the end there is `flush_ms`, and no more: a call that a
//! collector leaves unanswered is cut off then.

use std::time::{Duration, SystemTime};

use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsServiceRequest, logs_service_client::LogsServiceClient},
    metrics::v1::metrics_service_client::MetricsServiceClient,
};
use tokio::{
    sync::mpsc,
    time::{Instant, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tonic::{Status, transport::Channel};
use tracing::{info, warn};

use crate::{
    config::Telemetry,
    counters::{add, nanos},
    telemetry::{
        Loss, SpanRecord,
        client::TraceClient,
        encode, measures,
        retry::{Retry, loss_of},
        wire::SpanWriter,
    },
    workload::Current,
};

/// One call to the collector may take this long: it answers after a disk has synced.
const CALL_TIMEOUT: Duration = Duration::from_secs(10);

/// The loop that sends them.
pub(crate) struct Exporter {
    config: Telemetry,
    current: Current,
    records: mpsc::Receiver<SpanRecord>,
    traces: TraceClient,
    writer: SpanWriter,
    logs: LogsServiceClient<Channel>,
    metrics: MetricsServiceClient<Channel>,
    started_unix_nano: u64,
    batch: Vec<SpanRecord>,
    /// Whether the batch's spans are counted already; its access logs follow.
    spans_settled: bool,
}

enum Event {
    /// So many more are in the batch.
    Records(usize),
    BatchOld,
    MetricsDue,
    Closed,
}

impl Exporter {
    /// `channel` is connected on first use; counts are said to be since `started_unix_nano`, whoever exported them before.
    pub(crate) fn new(
        config: Telemetry,
        current: Current,
        records: mpsc::Receiver<SpanRecord>,
        channel: Channel,
        started_unix_nano: u64,
    ) -> Self {
        Self {
            batch: Vec::with_capacity(config.batch_spans),
            config,
            current,
            records,
            traces: TraceClient::new(channel.clone()),
            writer: SpanWriter::default(),
            logs: LogsServiceClient::new(channel.clone()),
            metrics: MetricsServiceClient::new(channel),
            started_unix_nano,
            spans_settled: false,
        }
    }

    /// Sends until `stop`; what is under way or queued then gets `flush_ms`.
    pub(crate) async fn run(mut self, stop: CancellationToken) {
        let flush = Duration::from_millis(self.config.flush_ms);
        let too_late = async {
            stop.cancelled().await;
            tokio::time::sleep(flush).await;
        };
        let in_time = tokio::select! {
            () = self.send_all(&stop) => true,
            () = too_late => false,
        };
        if !in_time {
            self.give_up();
        }
    }

    async fn send_all(&mut self, stop: &CancellationToken) {
        let mut metrics_due = tokio::time::interval(Duration::from_millis(self.config.metrics_interval_ms));
        metrics_due.set_missed_tick_behavior(MissedTickBehavior::Delay);
        metrics_due.tick().await;
        let age = Duration::from_millis(self.config.batch_age_ms);
        let mut oldest = Instant::now();
        loop {
            let waiting = !self.batch.is_empty();
            let room = self.config.batch_spans - self.batch.len();
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Closed,
                _ = metrics_due.tick() => Event::MetricsDue,
                () = tokio::time::sleep_until(oldest + age), if waiting => Event::BatchOld,
                // all that are there at once: to wait costs more than to take one
                count = self.records.recv_many(&mut self.batch, room) => Event::Records(count),
            };
            match event {
                Event::Records(0) | Event::Closed => break,
                Event::Records(_) => {
                    if !waiting {
                        oldest = Instant::now();
                    }
                    if self.batch.len() >= self.config.batch_spans {
                        self.send_batch(stop).await;
                    }
                }
                Event::BatchOld => self.send_batch(stop).await,
                Event::MetricsDue => self.send_metrics().await,
            }
        }
        self.flush().await;
    }

    async fn flush(&mut self) {
        let never = CancellationToken::new();
        loop {
            // the gatherer stops as we do, and closes the queue behind its last record
            while self.batch.len() < self.config.batch_spans
                && let Some(record) = self.records.recv().await
            {
                self.batch.push(record);
            }
            if self.batch.is_empty() {
                break;
            }
            self.send_batch(&never).await;
        }
        self.send_metrics().await;
    }

    /// Counts what is left as dropped; whoever comes later finds the queue closed.
    fn give_up(&mut self) {
        let tally = &self.current.load().tally;
        self.records.close();
        let mut left = count(&self.batch);
        if self.spans_settled {
            left.0 = 0;
        }
        while let Ok(record) = self.records.try_recv() {
            let (spans, logs) = count([&record]);
            left = (left.0 + spans, left.1 + logs);
        }
        let (spans, logs) = left;
        tally.lose(Loss::Stopped, spans, logs);
        warn!(spans, logs, "stopped before the collector took these");
    }

    async fn send_batch(&mut self, stop: &CancellationToken) {
        let (span_count, _) = count(&self.batch);
        if span_count > 0 && !self.send_spans(span_count, stop).await {
            return; // stopping: the batch stays for the flush
        }
        self.spans_settled = true;
        let logs: Vec<&SpanRecord> = self.batch.iter().filter(|r| r.log).collect();
        if !logs.is_empty() {
            let (request, count) = (encode::logs(&self.current.load(), &logs), logs.len());
            self.send_logs(request, count).await;
        }
        self.batch.clear();
        self.spans_settled = false;
    }

    /// False when `stop` came before an answer that settles the batch.
    async fn send_spans(&mut self, spans: usize, stop: &CancellationToken) -> bool {
        let mut retry = Retry::until(Instant::now() + Duration::from_millis(self.config.retry_ms));
        let tally = self.current.load().tally.clone();
        let mut retried = false;
        loop {
            // made anew for each try: the same records give the same bytes, by which the collector knows a repetition
            let sampled = self.batch.iter().filter(|r| r.trace.sampled);
            let request = self.writer.request(&self.current.load(), sampled);
            let error = match timed(self.traces.export(request)).await {
                Ok(answer) => {
                    let partial = answer.into_inner().partial_success.unwrap_or_default();
                    let rejected = usize::try_from(partial.rejected_spans).unwrap_or(0).min(spans);
                    add(&tally.spans_rejected, rejected);
                    add(&tally.spans_sent, spans - rejected);
                    if rejected > 0 {
                        warn!(rejected, why = partial.error_message, "the collector refused spans");
                    }
                    if retried {
                        info!("the collector takes spans again");
                    }
                    return true;
                }
                Err(error) => error,
            };
            let wait = match retry.after(&error, Instant::now()) {
                Ok(wait) => wait,
                Err(why) => {
                    warn!(spans, %error, "spans dropped: the collector does not take them");
                    tally.lose(why, spans, 0);
                    return true;
                }
            };
            if !retried {
                warn!(%error, "the collector does not take spans now; trying again");
            }
            retried = true;
            tokio::select! {
                () = stop.cancelled() => return false,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    /// Access logs are tried once: the spans beside them tell the same.
    async fn send_logs(&mut self, request: ExportLogsServiceRequest, logs: usize) {
        let tally = &self.current.load().tally;
        match timed(self.logs.export(request)).await {
            Ok(_) => add(&tally.logs_sent, logs),
            Err(error) => {
                tally.lose(loss_of(&error), 0, logs);
                warn!(%error, logs, "access logs dropped");
            }
        }
    }

    /// Metrics are cumulative, so one that is lost is made good by the next.
    async fn send_metrics(&mut self) {
        let request = measures::metrics(&self.current.load(), self.started_unix_nano, unix_nano_now());
        if let Err(error) = timed(self.metrics.export(request)).await {
            warn!(%error, "metrics not taken");
        }
    }
}

/// How many spans and access logs these are.
fn count<'a>(records: impl IntoIterator<Item = &'a SpanRecord>) -> (usize, usize) {
    let add = |(spans, logs), record: &SpanRecord| {
        (spans + usize::from(record.trace.sampled), logs + usize::from(record.log))
    };
    records.into_iter().fold((0, 0), add)
}

async fn timed<T>(call: impl Future<Output = Result<T, Status>>) -> Result<T, Status> {
    let in_time = tokio::time::timeout(CALL_TIMEOUT, call).await;
    in_time.unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer in time")))
}

/// Nanoseconds since the Unix epoch.
pub(crate) fn unix_nano_now() -> u64 {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    nanos(since)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arc_swap::ArcSwap;
    use tokio::net::TcpListener;

    use super::*;
    use crate::{
        control::Reach,
        telemetry::wire::tests::{record, workload},
    };

    /// A call that was under way when the proxy stopped was waited for before the flush began.
    #[tokio::test(start_paused = true)]
    async fn a_collector_that_never_answers_gets_the_flush_and_no_more() {
        let silent = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let url = format!("http://{}", silent.local_addr().unwrap());
        let config = Telemetry { flush_ms: 2_000, ..Telemetry::default() };
        let workload = workload();
        let (span, tally) = (record(&workload), workload.tally.clone());
        let current = Arc::new(ArcSwap::from_pointee(workload));
        let (records, queued) = mpsc::channel(config.queue_records);
        let exporter = Exporter::new(config, current, queued, Reach::new(url, None).unwrap().channel(), 0);
        let stop = CancellationToken::new();
        let running = tokio::spawn(exporter.run(stop.clone()));
        for _ in 0..3 {
            add(&tally.spans_recorded, 1);
            records.send(SpanRecord { log: true, ..span.clone() }).await.unwrap();
            // the first batch is on its way, the others wait behind it
            tokio::time::sleep(Duration::from_secs(1)).await;
        }
        stop.cancel();
        let stopped = Instant::now();
        drop(records);
        running.await.unwrap();
        assert!(stopped.elapsed() <= Duration::from_millis(2_100), "{:?}", stopped.elapsed());
        let counters = tally.read();
        assert_eq!((counters.spans_sent, counters.spans_dropped, counters.logs_dropped), (0, 3, 3));
        assert!(tally.lost().all(|(why, counts)| counts == if why == Loss::Stopped { [3, 3] } else { [0, 0] }));
    }
}
