//! The analysis loop: spans, what came beside them, commands and the clock in; snapshot, rows, policy and alerts out.
//!
//! The loop owns the [`Analyzer`], which is pure; everything that waits is here. What a crash may
//! lose of `operations` and `edges` is made good at the next start, see [`restore`].

use std::{
    collections::BTreeSet,
    convert::Infallible,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use futures::FutureExt;
use tokio::{
    sync::{mpsc, watch},
    time::{Interval, MissedTickBehavior},
};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_analyzer::{Analyzer, Command, Snapshot, Step};
use weir_policy::PolicySet;
use weir_schema::{Batch, UnixNanos};
use weir_store::Store;
use weir_web::webhook::Notifier;

use super::{alerts, logs_and_metrics::LogsAndMetricsIn, now_unix_nano};

mod checkpoint;
mod restore;

pub(crate) use checkpoint::Checkpoint;
pub(crate) use restore::{complete_backup, complete_minutes};

/// How often windows are closed: well under the shortest window.
const TICK: Duration = Duration::from_millis(250);

/// How often open minutes are noted. A restart reads back the spans that came since: seconds of
/// them cost little, and a note costs a synced file.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(5);

/// Findings that ended so long before a crash are told to be over again.
const TOLD_AGAIN_NS: i64 = 600_000_000_000;

/// How often what the analyzer learnt is noted, in checkpoints: once a minute. It is up to some megabytes, and
/// a start after a crash lacks a minute of it at most.
const HISTORY_EVERY: u32 = 12;

/// Spans held while a start reads the past back: seconds of a busy mesh, about 250 MB.
const EARLY_SPANS: usize = 1_000_000;

/// How long a stop waits for a start that still reads the past back.
const RESTORE_PATIENCE: Duration = Duration::from_secs(20);

/// What the loop starts from.
pub(super) struct Start {
    pub(super) config: weir_analyzer::Config,
    pub(super) store: Store,
    pub(super) notifier: Notifier,
    pub(super) snapshot: watch::Sender<Arc<Snapshot>>,
    pub(super) policy: watch::Sender<Arc<PolicySet>>,
    /// Set when spans are wanted: those acked before are read from the store.
    pub(super) live: Arc<AtomicBool>,
    /// Since when requests are taken.
    pub(super) since: UnixNanos,
}

/// The loop's parts.
struct Analysis {
    analyzer: Analyzer,
    store: Store,
    notifier: Notifier,
    snapshot: watch::Sender<Arc<Snapshot>>,
    policy: watch::Sender<Arc<PolicySet>>,
    /// When what a crash left was made good; without it nothing new is noted.
    restored_at: Option<UnixNanos>,
    /// Minutes of `operations` and `edges` that the store refused: the next start makes them good.
    unwritten: BTreeSet<UnixNanos>,
}

/// Every cause of work in the loop.
enum Event {
    Spans(Batch),
    /// Logs or metrics.
    Beside(Batch),
    Order(Command),
    Tick,
    Checkpoint,
    Stop,
}

impl Start {
    /// Waits for the log's past, while requests are taken; then restores and runs until `stop`.
    pub(super) async fn run(
        self,
        mut spans: mpsc::Receiver<Batch>,
        beside: LogsAndMetricsIn,
        orders: mpsc::Receiver<Command>,
        stop: CancellationToken,
    ) {
        tokio::select! {
            biased;
            () = self.store.replayed() => {}
            () = stop.cancelled() => {} // it may come as the replay ends
        }
        if self.store.status().replaying {
            return; // the next start makes good what was acked meanwhile
        }
        // a span that is both read and sent counts once: the analyzer ignores exact duplicates
        self.live.store(true, SeqCst);
        let Self { config, store, notifier, snapshot, policy, live: _, since } = self;
        let mut early = Early::default();
        let restored = tokio::select! {
            biased;
            restored = restore::restore(&store, config, since) => restored,
            never = early.take_in(&mut spans) => match never {},
            // a stop lets it end, so that all is counted; what takes longer the next start does
            () = stop.cancelled().then(|()| tokio::time::sleep(RESTORE_PATIENCE)) => return,
        };
        let (mut analyzer, restored_at) = (restored.analyzer, restored.at);
        if analyzer.policy().sequence > 0 {
            // what was in force goes on: proxies must not take a start for the end of it
            policy.send_replace(Arc::new(analyzer.policy().clone()));
        }
        // what people ordered shows before the first window
        snapshot.send_replace(Arc::new(analyzer.regulated()));
        if restored.after_a_crash {
            // what was not delivered then was in memory only: receivers know by its id what they have
            let again = analyzer.alerts_since(now_unix_nano().saturating_sub(TOLD_AGAIN_NS));
            again.into_iter().for_each(|alert| notifier.notify(alert));
        }
        early.batches.iter().for_each(|batch| analyzer.push(&batch.rows));
        let analysis =
            Analysis { analyzer, store, notifier, snapshot, policy, restored_at, unwritten: BTreeSet::new() };
        analysis.run(Inputs { spans, beside, orders }, stop).await;
    }
}

/// What comes from outside, each queue with its bound.
struct Inputs {
    spans: mpsc::Receiver<Batch>,
    beside: LogsAndMetricsIn,
    orders: mpsc::Receiver<Command>,
}

/// What comes by itself.
struct Clocks {
    tick: Interval,
    checkpoint: Interval,
}

impl Clocks {
    fn start() -> Self {
        let [mut tick, mut checkpoint] = [TICK, CHECKPOINT_EVERY].map(tokio::time::interval);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        checkpoint.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Self { tick, checkpoint }
    }
}

impl Inputs {
    async fn next(&mut self, clocks: &mut Clocks, stop: &CancellationToken) -> Event {
        tokio::select! {
            biased;
            () = stop.cancelled() => Event::Stop,
            _ = clocks.checkpoint.tick() => Event::Checkpoint,
            _ = clocks.tick.tick() => Event::Tick,
            Some(order) = self.orders.recv() => Event::Order(order),
            Some(batch) = self.spans.recv() => Event::Spans(batch),
            // last: estimates need all spans, causes do with fewer logs
            Some(batch) = self.beside.next() => Event::Beside(batch),
        }
    }
}

/// Spans that come while the past is read: their acks do not wait for it, up to a bound.
#[derive(Default)]
struct Early {
    batches: Vec<Batch>,
    rows: usize,
}

impl Early {
    /// Takes in what comes; with [`EARLY_SPANS`] held the rest waits in the queue. Never ends.
    async fn take_in(&mut self, spans: &mut mpsc::Receiver<Batch>) -> Infallible {
        while self.rows < EARLY_SPANS {
            let Some(batch) = spans.recv().await else { break };
            self.rows += batch.rows.num_rows();
            self.batches.push(batch);
        }
        std::future::pending().await
    }
}

impl Analysis {
    /// Runs until `stop`, then takes in what is still queued, notes what was learnt, and writes the rows of open minutes.
    async fn run(mut self, mut inputs: Inputs, stop: CancellationToken) {
        let mut clocks = Clocks::start();
        let mut checkpoints = 0_u32;
        loop {
            match inputs.next(&mut clocks, &stop).await {
                Event::Spans(batch) => self.analyzer.push(&batch.rows),
                Event::Beside(batch) => self.analyzer.push_beside(&batch),
                Event::Order(command) => {
                    self.analyzer.command(command);
                    self.step(&mut inputs.beside).await;
                    if inputs.orders.is_empty() {
                        // it must hold although nobody knows when the next note is due
                        self.note_history().await;
                    }
                }
                Event::Tick => self.step(&mut inputs.beside).await,
                Event::Checkpoint => {
                    self.checkpoint(false).await;
                    checkpoints = checkpoints.wrapping_add(1);
                    if checkpoints.is_multiple_of(HISTORY_EVERY) {
                        self.note_history().await;
                    }
                }
                Event::Stop => break,
            }
        }
        self.end(inputs).await;
    }

    /// What is still queued counts; windows that are not over stay open: a restart reads their spans back.
    async fn end(mut self, mut inputs: Inputs) {
        while let Ok(batch) = inputs.spans.try_recv() {
            self.analyzer.push(&batch.rows);
        }
        while let Ok(order) = inputs.orders.try_recv() {
            self.analyzer.command(order);
        }
        self.step(&mut inputs.beside).await;
        self.note_history().await;
        for rows in self.analyzer.stop() {
            self.append(rows).await;
        }
        self.checkpoint(self.unwritten.is_empty()).await;
    }

    /// Closes windows that are over, with all that came beside them by now.
    async fn step(&mut self, beside: &mut LogsAndMetricsIn) {
        self.take_in(beside);
        let now = now_unix_nano();
        self.analyzer.set_clock(now);
        let step = self.analyzer.step(now);
        self.publish(step).await;
    }

    /// Takes in logs and metrics that wait. What was missed is told after what waited: that came before it.
    fn take_in(&mut self, beside: &mut LogsAndMetricsIn) {
        let missed = beside.missed();
        beside.waiting().iter().for_each(|batch| self.analyzer.push_beside(batch));
        missed.into_iter().for_each(|(table, rows)| self.analyzer.missed_beside(table, rows));
    }

    /// Notes what the analyzer learnt, which stored spans give back only in time.
    async fn note_history(&mut self) {
        match self.analyzer.checkpoint() {
            Some(history) => {
                let left_out = self.analyzer.left_out();
                if !left_out.is_empty() {
                    warn!(
                        ?left_out,
                        "the note of what is usual had no room for keys seen least: a restart learns them anew"
                    );
                }
                checkpoint::write_history(&self.store, history).await;
            }
            None => warn!("what the analyzer learnt is too large to note: a restart learns it anew"),
        }
    }

    /// Notes what a start after a crash has to make anew.
    async fn checkpoint(&self, complete: bool) {
        let Some(restored_at) = self.restored_at else { return };
        let mut minutes = self.analyzer.open_minutes();
        minutes.extend(&self.unwritten);
        // what was received before the start was made good by it; a clock that was ahead and is set right must not say that
        // nothing is missing until that time comes
        let received_until = self.analyzer.received_until().max(restored_at).min(now_unix_nano());
        Checkpoint { received_until, minutes, open_from: None, complete }.write(&self.store).await;
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
    /// Those of `operations` and `edges` are made good at the next start.
    async fn append(&mut self, batch: Batch) {
        let (table, rows) = (batch.table, batch.rows.num_rows());
        if rows == 0 {
            return;
        }
        let minutes = checkpoint::minutes_of(&batch);
        if let Err(error) = self.store.append_rows(batch).await {
            warn!(table = table.name(), rows, %error, "conclusions not stored");
            self.unwritten.extend(minutes);
        }
    }
}
