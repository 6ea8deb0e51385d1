//! The committer: moves rows from memory to files, table by table, then trims the log; keeps files
//! few, drops what is too old, sets aside what is damaged. It is the only writer of tables.
//!
//! Order: data file and folder synced → Delta commit, synced → view swapped → log trimmed below
//! the oldest record that any table still holds only in memory. An idle table pins nothing.

mod backup;
mod flush;
mod recompress;
mod scrub;
mod upkeep;

use std::{
    collections::BTreeMap,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};
use weir_schema::Table;

use crate::{
    config::Config,
    disk::{Disk, Step},
    error::StoreError,
    files::DeltaTable,
    view::{TableView, Views},
    wal::Replay,
};

pub(crate) use backup::NAME as BACKUP_NAME;
pub use backup::Restored;
use flush::{Flush, Take};
use recompress::Recompress;
use scrub::Scrub;
use upkeep::Replaced;
pub(crate) use upkeep::quarantined;

/// How often ages are looked at.
const TICK: Duration = Duration::from_millis(250);

/// How long a failed flush is left alone: a full disk has no room a moment later.
const RETRY: Duration = Duration::from_secs(2);

/// How often retention and free space are looked at.
const UPKEEP: Duration = Duration::from_secs(5);

/// A wish of the store.
pub(crate) enum Order {
    /// Everything in memory, now.
    Flush(Reply<()>),
    /// Look at every file, merge, drop what is too old, delete what was replaced: now, not when it is due.
    Upkeep(Reply<()>),
    /// A file's content is not what was written: set it aside.
    Quarantine(Table, String),
    /// A copy of all tables under a folder.
    Backup(PathBuf, Reply<()>),
    /// The rows of such a copy, once.
    Restore(PathBuf, Reply<Restored>),
    /// Flush, then end.
    Close(Reply<()>),
}

/// Where the answer goes; who asked may have gone away.
pub(crate) type Reply<T> = oneshot::Sender<Result<T, StoreError>>;

/// What others see of the committer.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    /// Why the last flush failed, if it did.
    pub(crate) last_error: Mutex<Option<String>>,
    /// Appends are refused: the disk is nearly full.
    pub(crate) disk_full: AtomicBool,
    /// Spans that tail sampling left out of files since the start.
    pub(crate) sampled_out_spans: AtomicU64,
    /// Files that were set aside.
    pub(crate) quarantined: Mutex<Vec<String>>,
    /// The part that panicked, the committer or a thread of the log: nothing is taken any more.
    pub(crate) stopped: OnceLock<&'static str>,
    /// Flushes that failed since the start: their rows stay in memory and in the log.
    pub(crate) failed_flushes: AtomicU64,
}

impl Shared {
    /// A part of the store panicked: from now on requests are refused, and everybody who asks is told.
    pub(crate) fn give_up(&self, part: &'static str) {
        error!(part, "a part of the store panicked: requests are refused until a restart");
        // the first is the cause
        let _ = self.stopped.set(part);
    }

    /// What is wrong, if anything is.
    pub(crate) fn trouble(&self) -> Option<String> {
        let stopped = self.stopped.get().map(|part| format!("{part} stopped: restart weir"));
        stopped.or_else(|| self.last_error.lock().clone())
    }
}

/// The committer's parts.
pub(crate) struct CommitterParts {
    pub(crate) config: Config,
    /// What tells records of this folder's log from those of another.
    pub(crate) lineage: u64,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) views: Arc<Views>,
    pub(crate) tables: BTreeMap<Table, DeltaTable>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) shared: Arc<Shared>,
}

/// The committer.
pub(crate) struct Committer {
    config: Config,
    lineage: u64,
    disk: Arc<dyn Disk>,
    views: Arc<Views>,
    tables: BTreeMap<Table, DeltaTable>,
    replay: Arc<Replay>,
    shared: Arc<Shared>,
    flush: Flush,
    replaced: Replaced,
    recompress: Recompress,
    /// When measured rows last went to files.
    flushed_at: Instant,
    upkeep_at: Instant,
    /// After a failed flush: when the next may be tried.
    retry_at: Option<Instant>,
    scrub: Scrub,
}

impl Committer {
    pub(crate) fn new(parts: CommitterParts) -> Self {
        let CommitterParts { config, lineage, disk, views, tables, replay, shared } = parts;
        let flush = Flush::new(&config);
        Self {
            config,
            lineage,
            disk,
            views,
            tables,
            replay,
            shared,
            flush,
            replaced: Replaced::default(),
            recompress: Recompress::default(),
            flushed_at: Instant::now(),
            upkeep_at: Instant::now(),
            retry_at: None,
            scrub: Scrub::default(),
        }
    }

    /// Runs until told to close.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                _ = tick.tick() => {
                    self.tick().await;
                    continue;
                }
            };
            match order {
                // who asked may have gone away
                Some(Order::Flush(reply)) => drop(reply.send(self.flush(Take::All, |_, _, _| true).await)),
                Some(Order::Upkeep(reply)) => drop(reply.send(self.upkeep_now().await)),
                Some(Order::Quarantine(table, name)) => self.quarantine(table, &name).await,
                Some(Order::Backup(to, reply)) => drop(reply.send(self.backup(&to).await)),
                Some(Order::Restore(from, reply)) => drop(reply.send(self.restore(&from).await)),
                Some(Order::Close(reply)) => {
                    let flushed = self.flush(Take::All, |_, _, _| true).await;
                    self.recompress.abandon(self.disk.as_ref());
                    self.replaced.delete(self.disk.as_ref(), Duration::ZERO);
                    drop(reply.send(flushed));
                    return;
                }
                None => return,
            }
        }
    }

    async fn tick(&mut self) {
        self.flush_due().await;
        // the replay of a long log waits for room, and most else can wait
        while !self.replay.is_over() && self.upkeep_at.elapsed() < UPKEEP && self.flush_due().await {}
        self.merge().await;
        self.recompress().await;
        if self.upkeep_at.elapsed() >= UPKEEP {
            self.upkeep_at = Instant::now();
            self.look_at_free_space();
            self.look_at_quarantine();
            self.scrub().await;
            if let Err(error) = self.retain().await {
                warn!(%error, "old files could not be dropped");
            }
        }
        self.replaced.delete(self.disk.as_ref(), upkeep::REPLACED_FILE_LINGERS);
    }

    /// Flushes what is big or old enough; a failure is kept for `status` and tried again. Says whether
    /// rows went to files.
    async fn flush_due(&mut self) -> bool {
        if self.retry_at.is_some_and(|at| at > Instant::now()) {
            return false;
        }
        let (rows, age) = (self.config.flush_rows, Duration::from_millis(self.config.flush_age_ms));
        let half_full = self.is_half_full();
        let before = self.flushed_at;
        // what waits for its trace does so while memory has room, and does not hold up the past
        let take = if half_full || !self.replay.is_over() { Take::All } else { Take::Decided };
        let due =
            move |flush: &Flush, table, view: &TableView| half_full || flush.is_due((table, view), take, (rows, age));
        let flushed = self.flush(take, due).await;
        if let Err(error) = &flushed {
            warn!(%error, "flush failed: rows stay in memory and in the log");
            self.shared.failed_flushes.fetch_add(1, Relaxed);
        }
        self.retry_at = flushed.is_err().then(|| Instant::now() + RETRY);
        *self.shared.last_error.lock() = flushed.err().map(|error| error.to_string());
        self.flushed_at > before
    }

    fn is_half_full(&self) -> bool {
        self.views.current().memory_bytes() > self.config.memory_limit_bytes / 2
    }

    /// Threads that encode a file: all there are while somebody waits for memory, else one, so that acks
    /// have the others.
    fn encoders(&self) -> usize {
        match self.replay.is_over() && !self.is_half_full() {
            true => 1,
            false => std::thread::available_parallelism().map_or(1, usize::from),
        }
    }

    /// Finds out what commits did that may or may not have failed, and shows it.
    async fn settle(&mut self) -> Result<(), StoreError> {
        for table in Table::ALL {
            if self.delta(table).settle().await? {
                self.show_files(table).await?;
            }
        }
        Ok(())
    }

    async fn upkeep_now(&mut self) -> Result<(), StoreError> {
        self.look_at_free_space();
        self.scrub_all().await;
        self.merge().await;
        self.recompress_all().await?;
        self.retain().await?;
        self.replaced.delete(self.disk.as_ref(), Duration::ZERO);
        Ok(())
    }

    /// Refuses appends while the disk is nearly full.
    pub(crate) fn look_at_free_space(&self) {
        let Ok(free) = self.disk.free_bytes(&self.config.dir) else { return };
        let full = free < self.config.min_free_bytes;
        if self.shared.disk_full.swap(full, Relaxed) != full {
            match full {
                true => warn!(free_bytes = free, "the disk is nearly full: appends are refused"),
                false => warn!(free_bytes = free, "there is room again: appends are taken"),
            }
        }
    }

    /// A folder that cannot be read changes nothing.
    fn look_at_quarantine(&self) {
        match quarantined(self.disk.as_ref(), &self.config) {
            Ok(names) => *self.shared.quarantined.lock() = names,
            Err(error) => warn!(%error, "the quarantine cannot be listed"),
        }
    }

    fn reached(&self, step: Step, path: &Path) -> Result<(), StoreError> {
        self.disk.reached(step).map_err(|source| StoreError::Io { path: path.to_owned(), source })
    }
}
