//! The analysis loop: spans, commands and the clock in; snapshot, rows, policy and alerts out.
//!
//! The loop owns the [`Analyzer`], which is pure; everything that waits is here.

use std::{sync::Arc, time::Duration};

use futures::StreamExt;
use tokio::{
    sync::{mpsc, watch},
    time::MissedTickBehavior,
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_analyzer::{Analyzer, Command, Snapshot, Step};
use weir_policy::PolicySet;
use weir_schema::{Batch, Table};
use weir_store::Store;
use weir_web::webhook::Notifier;

use super::{alerts, now_unix_nano};

/// How often windows are closed: well under the shortest window.
const TICK: Duration = Duration::from_millis(250);

/// How much history a restarted analyzer reads back from the store.
const HISTORY_NS: i64 = 120 * 1_000_000_000;

/// The loop's parts.
pub(super) struct Analysis {
    pub(super) analyzer: Analyzer,
    pub(super) store: Store,
    pub(super) notifier: Notifier,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) policy: watch::Sender<Arc<PolicySet>>,
}

/// Every cause of work in the loop.
enum Event {
    Spans(Batch),
    Order(Command),
    Tick,
    Stop,
}

impl Analysis {
    /// Runs until `stop`, then takes in what is still queued and closes all windows.
    pub(super) async fn run(
        mut self,
        mut spans: mpsc::Receiver<Batch>,
        mut orders: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let event = tokio::select! {
                biased;
                () = stop.cancelled() => Event::Stop,
                _ = tick.tick() => Event::Tick,
                Some(order) = orders.recv() => Event::Order(order),
                Some(batch) = spans.recv() => Event::Spans(batch),
            };
            match event {
                Event::Spans(batch) => self.analyzer.push(&batch.rows),
                Event::Order(command) => {
                    self.analyzer.command(command, now_unix_nano());
                    let step = self.analyzer.step(now_unix_nano());
                    self.publish(step).await;
                }
                Event::Tick => {
                    let step = self.analyzer.step(now_unix_nano());
                    self.publish(step).await;
                }
                Event::Stop => break,
            }
        }
        while let Ok(batch) = spans.try_recv() {
            self.analyzer.push(&batch.rows);
        }
        let last = self.analyzer.finish();
        self.publish(last).await;
    }

    async fn publish(&mut self, step: Step) {
        if let Some(policy) = step.policy {
            self.policy.send_replace(Arc::new(policy));
        }
        if let Some(snapshot) = step.snapshot {
            self.snapshot.send_replace(Arc::new(snapshot));
        }
        for batch in step.rows {
            self.append(batch).await;
        }
        for alert in step.alerts {
            self.append(alerts::alert_row(&alert)).await;
            self.notifier.notify(alert);
        }
    }

    /// What weir concludes is a table too; a store that refuses loses these rows, said in the log.
    async fn append(&self, batch: Batch) {
        let (table, rows) = (batch.table.name(), batch.rows.num_rows());
        if rows == 0 {
            return;
        }
        if let Err(error) = self.store.append_rows(batch).await {
            warn!(table, rows, %error, "conclusions not stored");
        }
    }
}

/// An analyzer that has seen what the store holds of the last minutes. Minutes that are already in
/// `operations` are read for history only: their rows are not written again.
pub(super) async fn restore(store: &Store, config: weir_analyzer::Config) -> Analyzer {
    let mut analyzer = Analyzer::new(config);
    let now = now_unix_nano();
    match store.scan_spans(now - HISTORY_NS, now).await {
        Ok(mut batches) => {
            while let Some(batch) = batches.next().await {
                match batch {
                    Ok(batch) => analyzer.push(&batch.rows),
                    Err(error) => warn!(%error, "history is incomplete"),
                }
            }
        }
        Err(error) => warn!(%error, "history is not available"),
    }
    let written = last_minute(store).await;
    analyzer.rollups_written_until(written);
    analyzer
}

/// The end of the last minute in `operations`.
async fn last_minute(store: &Store) -> i64 {
    use arrow::{array::AsArray, datatypes::Int64Type};
    let statement = format!("SELECT max(minute_unix_nano) AS minute FROM {}", Table::Operations.name());
    let Ok(answer) = store.sql(&statement, None).await else { return i64::MIN };
    let batches: Vec<_> = answer.stream.collect().await;
    let minute = batches.into_iter().flatten().find_map(|batch| {
        let column = batch.column(0).as_primitive_opt::<Int64Type>()?.clone();
        column.iter().flatten().next()
    });
    minute.map_or(i64::MIN, |minute| minute + 60_000_000_000)
}
