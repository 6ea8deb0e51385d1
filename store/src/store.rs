//! [`Store`]: the ways in and out of an opened data folder.

mod backups;
mod trace;

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{ipc::writer::StreamWriter, record_batch::RecordBatch};
use bytes::Bytes;
use datafusion::{common::ParamValues, sql::sqlparser::ast::Statement};
use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tracing::info;
use weir_schema::{Batch, Encoding, Signal, Table};

use crate::{
    append::{Appended, OtlpRequest},
    committer::{Order, Reply, Shared},
    config::{Config, SqlConfig},
    disk::{Disk, RealDisk},
    error::{AppendError, OpenError, SqlError, StoreError},
    lock::{self, Lock, LockHolder},
    open,
    parquet_spans::{self, ParquetSpans},
    query::{Asker, Described, Engine, SqlAnswer},
    status::{Status, TableStatus},
    view::Views,
    wal::{self, Append, Pace, Payload, Replay, Writer},
};

pub(crate) use trace::TracePlaces;
pub use trace::{TracePlace, TraceRows};

/// Rows that one log record holds at most: a record is replayed in one piece.
const ROWS_PER_RECORD: usize = 65_536;

/// A data folder, opened. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

/// What an opened folder is made of.
pub(crate) struct Inner {
    pub(crate) config: Config,
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) views: Arc<Views>,
    /// Taken when the store closes: without it no append gets in.
    pub(crate) appends: Mutex<Option<mpsc::Sender<Append>>>,
    pub(crate) orders: mpsc::Sender<Order>,
    pub(crate) engine: Engine,
    pub(crate) traces: TracePlaces,
    pub(crate) pace: Arc<Pace>,
    pub(crate) replay: Arc<Replay>,
    pub(crate) shared: Arc<Shared>,
    pub(crate) closing: AtomicBool,
    pub(crate) writer: Mutex<Option<Writer>>,
    /// Runs the committer: Delta work blocks threads, so they are few and its own.
    pub(crate) runtime: Mutex<Option<Runtime>>,
    pub(crate) lock: Mutex<Lock>,
}

impl Store {
    /// Opens a folder, making it if needed: takes the lock, loads the tables, reads the end of the
    /// log. The rest of the log is replayed while requests are taken.
    ///
    /// # Errors
    /// A folder in use, or one that cannot be read.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        Self::open_on(config, Arc::new(RealDisk)).await
    }

    /// As [`Store::open`], on any disk.
    pub(crate) async fn open_on(config: Config, disk: Arc<dyn Disk>) -> Result<Self, OpenError> {
        let (out, opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("weir-open".into())
            .spawn(move || {
                // the opener may have been cancelled
                let _ = out.send(open::open(config, disk));
            })
            .map_err(|source| OpenError::Io { path: PathBuf::from("."), source })?;
        let inner = opened.await.unwrap_or(Err(OpenError::Store(StoreError::Closed)))?;
        Ok(Self { inner: Arc::new(inner) })
    }

    /// Who holds a folder, if anybody does.
    #[must_use]
    pub fn locked_by(dir: &Path) -> Option<LockHolder> {
        lock::holder(dir)
    }

    /// Leaves the server's address in the lock file.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn set_server_url(&self, url: &str) -> io::Result<()> {
        self.inner.lock.lock().write(Some(url))
    }

    /// Stores a request; when this returns, its rows are durable and visible.
    ///
    /// # Errors
    /// Nothing of it is acked then; see [`AppendError`] for when to come back.
    pub async fn append_otlp(&self, request: OtlpRequest, batch: Option<Batch>) -> Result<Appended, AppendError> {
        // the door asked before it read and before it decoded: what is decoded since then is not refused for its last bytes
        self.room(self.inner.config.memory_limit_bytes / 16 * 17)?;
        let hash = request_hash(&request);
        self.append(Payload::Otlp { request, hash }, batch).await
    }

    /// Stores rows of a table; when this returns, they are durable and visible. What is concluded from
    /// requests is little beside them and cannot be sent again, so it still has room when they have none.
    ///
    /// # Errors
    /// As [`Store::append_otlp`].
    pub async fn append_rows(&self, batch: Batch) -> Result<Appended, AppendError> {
        let mut appended = Appended { wal_sequence: 0, duplicate: false };
        for offset in (0..batch.rows.num_rows()).step_by(ROWS_PER_RECORD) {
            let rows = batch.rows.slice(offset, ROWS_PER_RECORD.min(batch.rows.num_rows() - offset));
            let ipc = to_ipc(&rows).map_err(|error| AppendError::Disk(error.to_string()))?;
            self.room(self.inner.config.memory_limit_bytes / 8 * 9)?;
            let payload = Payload::Rows { table: batch.table, ipc };
            appended = self.append(payload, Some(Batch { table: batch.table, rows })).await?;
        }
        Ok(appended)
    }

    /// Whether an append would be taken now: asked before the work of decoding is done.
    ///
    /// # Errors
    /// Why it would not.
    pub fn has_room(&self) -> Result<(), AppendError> {
        self.room(self.inner.config.memory_limit_bytes)
    }

    fn room(&self, limit_bytes: u64) -> Result<(), AppendError> {
        if self.inner.shared.disk_full.load(Ordering::Relaxed) {
            return Err(AppendError::DiskFull);
        }
        if let Some(part) = self.inner.shared.stopped.get() {
            return Err(AppendError::Disk(format!("{part} stopped: restart weir, the log has all that was acked")));
        }
        let held_bytes = self.inner.views.current().memory_bytes();
        if held_bytes > limit_bytes {
            return Err(AppendError::Overloaded { held_bytes, limit_bytes });
        }
        Ok(())
    }

    async fn append(&self, payload: Payload, batch: Option<Batch>) -> Result<Appended, AppendError> {
        let appends = self.inner.appends.lock().clone().ok_or(AppendError::Closed)?;
        let (reply, answer) = oneshot::channel();
        appends.send(Append { payload, batch, reply }).await.map_err(|_| AppendError::Closed)?;
        drop(appends);
        answer.await.unwrap_or(Err(AppendError::Closed))
    }

    /// Runs one read-only statement over everything acked so far.
    ///
    /// # Errors
    /// See [`SqlError`]: the limit that was met, or what is wrong with the statement.
    pub async fn sql(&self, statement: &str, limits: Option<SqlConfig>) -> Result<SqlAnswer, SqlError> {
        self.inner.engine.run(statement, Asker::Reader, limits).await
    }

    /// As [`Store::sql`], for a statement of the server itself: it waits for no reader's statement.
    ///
    /// # Errors
    /// As [`Store::sql`].
    pub async fn ask(&self, statement: &str, limits: Option<SqlConfig>) -> Result<SqlAnswer, SqlError> {
        self.inner.engine.run(statement, Asker::Server, limits).await
    }

    /// What every answer lacks while the log is still being replayed; `None` afterwards.
    #[must_use]
    pub fn recovering(&self) -> Option<String> {
        self.inner.replay.warning()
    }

    /// The statements in a PostgreSQL client's text.
    pub(crate) fn parse_postgres(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        self.inner.engine.parse_postgres(text)
    }

    /// How long a statement may take, in milliseconds.
    pub(crate) fn sql_timeout_ms(&self) -> u64 {
        self.inner.engine.timeout_ms()
    }

    /// As [`Store::sql`], for a statement of a PostgreSQL client; `timeout_ms` is what its session gives it.
    pub(crate) async fn run_postgres(
        &self,
        statement: Statement,
        parameters: Option<ParamValues>,
        timeout_ms: u64,
    ) -> Result<SqlAnswer, SqlError> {
        self.inner.engine.run_postgres(statement, parameters, timeout_ms).await
    }

    /// What a statement of a PostgreSQL client would answer.
    pub(crate) async fn describe_postgres(&self, statement: Statement) -> Result<Described, SqlError> {
        self.inner.engine.describe_postgres(statement).await
    }

    /// Moves everything in memory to files, the log's past included.
    ///
    /// # Errors
    /// When files cannot be written; nothing is lost then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.replayed().await;
        self.order(Order::Flush).await
    }

    /// Waits until everything of the log's past is visible.
    pub async fn replayed(&self) {
        let replay = self.inner.replay.clone();
        if !replay.is_over() {
            // a runtime that ends takes the wait with it
            let _ = tokio::task::spawn_blocking(move || replay.wait()).await;
        }
    }

    /// Looks at every file, merges, drops what is too old and deletes what was replaced, now.
    ///
    /// # Errors
    /// When old files cannot be dropped.
    pub async fn upkeep(&self) -> Result<(), StoreError> {
        self.order(Order::Upkeep).await
    }

    async fn order<T>(&self, order: impl FnOnce(Reply<T>) -> Order) -> Result<T, StoreError> {
        let (reply, done) = oneshot::channel();
        self.inner.orders.send(order(reply)).await.map_err(|_| StoreError::Closed)?;
        done.await.unwrap_or(Err(StoreError::Closed))
    }

    /// What the store says of itself.
    #[must_use]
    pub fn status(&self) -> Status {
        let view = self.inner.views.current();
        let tables = Table::ALL.map(|table| {
            let files = &view.table(table).files;
            let (rows, bytes) = files.iter().fold((0, 0), |(rows, bytes), file| (rows + file.rows, bytes + file.bytes));
            TableStatus { name: table.name(), files: files.len(), rows, bytes }
        });
        let memory_rows = Table::ALL.iter().map(|table| view.table(*table).memory_rows() as u64).sum();
        let wal_dir = self.inner.config.wal_dir();
        let wal_bytes = wal::segments(self.inner.disk.as_ref(), &wal_dir)
            .map_or(0, |segments| segments.iter().map(|segment| segment.bytes).sum());
        let (replayed_bytes, replay_bytes) = self.inner.replay.progress();
        Status {
            wal_bytes,
            memory_bytes: view.memory_bytes(),
            memory_rows,
            tables: tables.to_vec(),
            quarantined: self.quarantined(),
            sampled_out_spans: self.inner.shared.sampled_out_spans.load(Ordering::Relaxed),
            damaged_records: self.inner.replay.damaged(),
            replaying: !self.inner.replay.is_over(),
            replayed_bytes,
            replay_bytes,
            disk_full: self.inner.shared.disk_full.load(Ordering::Relaxed),
            last_error: self.inner.shared.trouble(),
            failed_flushes: self.inner.shared.failed_flushes.load(Ordering::Relaxed),
            log_waits_ms: u64::try_from(self.inner.pace.waits().as_millis()).unwrap_or(u64::MAX),
            log_times: self.inner.pace.times(),
        }
    }

    /// What is set aside at this moment: the replay of the log may have added to it since the committer looked.
    fn quarantined(&self) -> Vec<String> {
        let listed = crate::committer::quarantined(self.inner.disk.as_ref(), &self.inner.config);
        let mut known = self.inner.shared.quarantined.lock();
        if let Ok(names) = listed {
            *known = names;
        }
        known.clone()
    }

    /// Opens somebody else's Parquet file of spans.
    ///
    /// # Errors
    /// A file that is not Parquet.
    pub fn read_parquet_spans(path: &Path) -> Result<ParquetSpans, StoreError> {
        parquet_spans::open(path)
    }

    /// Writes everything to files and lets go of the folder. Other clones refuse appends from here on.
    ///
    /// # Errors
    /// When the last flush fails; the log still has everything.
    pub async fn close(self) -> Result<(), StoreError> {
        if self.inner.closing.swap(true, Ordering::SeqCst) {
            return Ok(());
        }
        self.inner.appends.lock().take();
        let writer = self.inner.writer.lock().take();
        if let Some(writer) = writer {
            // appends in the air keep the writer alive until they are answered
            let _ = tokio::task::spawn_blocking(move || writer.join()).await;
        }
        let replay = self.inner.replay.clone();
        let _ = tokio::task::spawn_blocking(move || replay.stop()).await;
        let closed = self.order(Order::Close).await;
        let runtime = self.inner.runtime.lock().take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
        info!(dir = %self.inner.config.dir.display(), "store closed");
        closed
    }
}

impl Drop for Inner {
    fn drop(&mut self) {
        self.appends.lock().take();
        self.replay.stop();
        if let Some(runtime) = self.runtime.lock().take() {
            runtime.shutdown_background();
        }
    }
}

/// Equal requests hash alike, whenever they come.
fn request_hash(request: &OtlpRequest) -> u128 {
    let signal = match request.signal {
        Signal::Traces => 1,
        Signal::Metrics => 2,
        Signal::Logs => 3,
    };
    let encoding = match request.encoding {
        Encoding::Protobuf => 4,
        Encoding::Json => 8,
    };
    xxhash_rust::xxh3::xxh3_128_with_seed(&request.body, signal | encoding)
}

fn to_ipc(rows: &RecordBatch) -> Result<Bytes, arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    Ok(Bytes::from(writer.into_inner()?))
}

#[cfg(test)]
mod kills;
#[cfg(test)]
mod simulation;
#[cfg(test)]
pub(crate) mod tests;
