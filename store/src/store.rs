//! [`Store`]: opens a data folder, replays its log, and gives the ways in and out.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use arrow::{
    array::{AsArray, BooleanArray},
    compute::filter_record_batch,
    ipc::{reader::StreamReader, writer::StreamWriter},
    record_batch::RecordBatch,
};
use bytes::Bytes;
use datafusion::{common::ParamValues, sql::sqlparser::ast::Statement};
use futures::{StreamExt, stream::BoxStream};
use parking_lot::Mutex;
use tokio::{
    runtime::Runtime,
    sync::{mpsc, oneshot},
};
use tracing::info;
use weir_schema::{Batch, Encoding, Signal, Table, UnixNanos, otlp};

use crate::{
    append::{Appended, OtlpRequest},
    checkpoint,
    committer::{Committer, Order},
    config::{Config, SqlConfig},
    error::{AppendError, OpenError, SqlError, StoreError},
    files::DeltaTable,
    lock::{self, Lock, LockHolder},
    parquet_spans::{self, ParquetSpans},
    query::{Described, Engine, SqlAnswer},
    status::{Status, TableStatus},
    view::Views,
    wal::{self, Append, Payload, Recent, Record, Writer, WriterParts},
};

/// Rows that one log record holds at most: a record is replayed in one piece.
const ROWS_PER_RECORD: usize = 65_536;

/// A data folder, opened. Clones share it.
#[derive(Clone)]
pub struct Store {
    inner: Arc<Inner>,
}

struct Inner {
    config: Config,
    views: Arc<Views>,
    /// Taken when the store closes: without it no append gets in.
    appends: Mutex<Option<mpsc::Sender<Append>>>,
    orders: mpsc::Sender<Order>,
    engine: Engine,
    last_error: Arc<Mutex<Option<String>>>,
    closing: AtomicBool,
    writer: Mutex<Option<Writer>>,
    /// Runs the committer: Delta work blocks threads, so they are few and its own.
    runtime: Mutex<Option<Runtime>>,
    lock: Mutex<Lock>,
}

impl Store {
    /// Opens a folder, making it if needed: takes the lock, loads the tables, replays the log.
    ///
    /// # Errors
    /// A folder in use, or one that cannot be read.
    pub async fn open(config: Config) -> Result<Self, OpenError> {
        let (out, opened) = oneshot::channel();
        std::thread::Builder::new()
            .name("weir-open".into())
            .spawn(move || {
                // the opener may have been cancelled
                let _ = out.send(Self::open_blocking(config));
            })
            .map_err(|source| OpenError::Io { path: PathBuf::from("."), source })?;
        opened.await.unwrap_or(Err(OpenError::Store(StoreError::Closed)))
    }

    fn open_blocking(mut config: Config) -> Result<Self, OpenError> {
        let io = |path: &Path| {
            let path = path.to_owned();
            move |source| OpenError::Io { path, source }
        };
        let (wal_dir, tables_dir) = (config.dir.join("wal"), config.dir.join("tables"));
        for dir in [&wal_dir, &tables_dir] {
            std::fs::create_dir_all(dir).map_err(io(dir))?;
        }
        config.dir = config.dir.canonicalize().map_err(io(&config.dir))?;
        let (wal_dir, tables_dir) = (config.dir.join("wal"), config.dir.join("tables"));
        let lock = match Lock::take(&config.dir).map_err(io(&config.dir))? {
            Ok(lock) => lock,
            Err(LockHolder { pid, url }) => return Err(OpenError::Locked { dir: config.dir, pid, url }),
        };
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .thread_name("weir-commit")
            .worker_threads(1)
            .max_blocking_threads(4)
            .enable_all()
            .build()
            .map_err(io(&config.dir))?;
        let views = Arc::new(Views::default());
        let tables = runtime.block_on(open_tables(&tables_dir, &config.node, &views))?;
        let replayed = replay(&wal_dir, &tables, &views)?;
        let tables = tables.into_iter().map(|(table, delta, _)| (table, delta)).collect();
        let writer = Writer::start(WriterParts {
            dir: wal_dir.clone(),
            next_sequence: replayed.next_sequence,
            recent: replayed.recent,
            views: views.clone(),
            segment_bytes: config.wal_segment_bytes,
        })?;
        let last_error = Arc::new(Mutex::new(None));
        let (orders, orders_in) = mpsc::channel(16);
        let committer = Committer {
            config: config.clone(),
            wal_dir,
            views: views.clone(),
            tables,
            last_error: last_error.clone(),
            replaced: Vec::new(),
        };
        runtime.spawn(committer.run(orders_in));
        let engine = Engine::new(config.sql.clone(), tables_dir)?;
        let inner = Inner {
            config,
            views,
            appends: Mutex::new(Some(writer.queue())),
            orders,
            engine,
            last_error,
            closing: AtomicBool::new(false),
            writer: Mutex::new(Some(writer)),
            runtime: Mutex::new(Some(runtime)),
            lock: Mutex::new(lock),
        };
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
        let hash = request_hash(&request);
        self.append(Payload::Otlp { request, hash }, batch).await
    }

    /// Stores rows of a table; when this returns, they are durable and visible.
    ///
    /// # Errors
    /// As [`Store::append_otlp`].
    pub async fn append_rows(&self, batch: Batch) -> Result<Appended, AppendError> {
        let mut appended = Appended { wal_sequence: 0, duplicate: false };
        for offset in (0..batch.rows.num_rows()).step_by(ROWS_PER_RECORD) {
            let rows = batch.rows.slice(offset, ROWS_PER_RECORD.min(batch.rows.num_rows() - offset));
            let ipc = to_ipc(&rows).map_err(|error| AppendError::Disk(error.to_string()))?;
            let payload = Payload::Rows { table: batch.table, ipc };
            appended = self.append(payload, Some(Batch { table: batch.table, rows })).await?;
        }
        Ok(appended)
    }

    async fn append(&self, payload: Payload, batch: Option<Batch>) -> Result<Appended, AppendError> {
        let (held_bytes, limit_bytes) =
            (self.inner.views.current().memory_bytes(), self.inner.config.memory_limit_bytes);
        if held_bytes > limit_bytes {
            return Err(AppendError::Overloaded { held_bytes, limit_bytes });
        }
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
        self.inner.engine.run(statement, self.inner.views.current(), limits).await
    }

    /// The statements in a PostgreSQL client's text.
    pub(crate) fn parse_postgres(&self, text: &str) -> Result<Vec<Statement>, SqlError> {
        self.inner.engine.parse_postgres(text)
    }

    /// As [`Store::sql`], for a statement of a PostgreSQL client.
    pub(crate) async fn run_postgres(
        &self,
        statement: Statement,
        parameters: Option<ParamValues>,
    ) -> Result<SqlAnswer, SqlError> {
        self.inner.engine.run_postgres(statement, parameters, self.inner.views.current()).await
    }

    /// What a statement of a PostgreSQL client would answer.
    pub(crate) async fn describe_postgres(&self, statement: Statement) -> Result<Described, SqlError> {
        self.inner.engine.describe_postgres(statement, self.inner.views.current()).await
    }

    /// Spans that start in `[from, to)`, by start.
    ///
    /// # Errors
    /// As [`Store::sql`].
    pub async fn scan_spans(
        &self,
        from: UnixNanos,
        to: UnixNanos,
    ) -> Result<BoxStream<'static, Result<Batch, SqlError>>, SqlError> {
        let statement = format!(
            "SELECT * FROM spans WHERE start_unix_nano >= {from} AND start_unix_nano < {to} ORDER BY start_unix_nano"
        );
        let limits = SqlConfig { max_rows: usize::MAX, timeout_ms: 600_000, ..self.inner.config.sql.clone() };
        let answer = self.sql(&statement, Some(limits)).await?;
        Ok(answer.stream.map(|rows| rows.map(|rows| Batch { table: Table::Spans, rows })).boxed())
    }

    /// The spans of a trace by start, exact duplicates left out.
    ///
    /// # Errors
    /// As [`Store::sql`].
    pub async fn trace(&self, trace_id: [u8; 16]) -> Result<Vec<RecordBatch>, SqlError> {
        let id = hex::encode(trace_id);
        let statement =
            format!("SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC");
        let mut answer = self.sql(&statement, None).await?;
        let mut seen = std::collections::HashSet::new();
        let mut batches = Vec::new();
        while let Some(rows) = answer.stream.next().await {
            let rows = rows?;
            let (ids, services) = (rows["span_id"].as_binary::<i32>(), rows["service"].as_string::<i32>());
            let starts = rows["start_unix_nano"].as_primitive::<arrow::datatypes::Int64Type>();
            let new =
                |row: usize| seen.insert((ids.value(row).to_vec(), starts.value(row), services.value(row).to_owned()));
            let keep: BooleanArray = (0..rows.num_rows()).map(new).map(Some).collect();
            batches.push(filter_record_batch(&rows, &keep).map_err(|e| SqlError::Execution(e.to_string()))?);
        }
        Ok(batches)
    }

    /// Moves everything in memory to files.
    ///
    /// # Errors
    /// When files cannot be written; nothing is lost then.
    pub async fn flush(&self) -> Result<(), StoreError> {
        self.order(Order::Flush).await
    }

    async fn order(
        &self,
        order: impl FnOnce(oneshot::Sender<Result<(), StoreError>>) -> Order,
    ) -> Result<(), StoreError> {
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
        let wal_bytes = wal::segments(&self.inner.config.dir.join("wal")).map_or(0, |segments| {
            segments.iter().filter_map(|segment| segment.path.metadata().ok()).map(|metadata| metadata.len()).sum()
        });
        let last_error = self.inner.last_error.lock().clone();
        let memory_bytes = view.memory_bytes();
        Status {
            wal_bytes,
            memory_bytes,
            memory_rows,
            tables: tables.to_vec(),
            quarantined: Vec::new(),
            replaying: false,
            last_error,
        }
    }

    /// Keeps a small value across restarts.
    ///
    /// # Errors
    /// When it cannot be written.
    pub fn checkpoint(&self, name: &str, bytes: &[u8], wal_sequence: u64) -> io::Result<()> {
        checkpoint::write(&self.inner.config.dir.join("checkpoints"), name, bytes, wal_sequence)
    }

    /// The value that was kept.
    #[must_use]
    pub fn read_checkpoint(&self, name: &str) -> Option<(Vec<u8>, u64)> {
        checkpoint::read(&self.inner.config.dir.join("checkpoints"), name)
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

type OpenedTable = (Table, DeltaTable, Option<u64>);

async fn open_tables(dir: &Path, node: &str, views: &Views) -> Result<Vec<OpenedTable>, StoreError> {
    let mut tables = Vec::new();
    for table in Table::ALL {
        let delta = DeltaTable::open(table, dir.join(table.name()), node).await?;
        views.set_files(table, delta.files());
        let flushed = delta.flushed_sequence().await?;
        tables.push((table, delta, flushed));
    }
    Ok(tables)
}

struct Replayed {
    next_sequence: u64,
    recent: Recent,
}

/// Reads the whole log; a record that its table already has in files is skipped.
fn replay(dir: &Path, tables: &[OpenedTable], views: &Views) -> Result<Replayed, StoreError> {
    let flushed = |table: Table| tables.iter().find(|(t, ..)| *t == table).and_then(|(.., flushed)| *flushed);
    let highest_flushed = tables.iter().filter_map(|(.., flushed)| *flushed).max().unwrap_or(0);
    let mut replayed = Replayed { next_sequence: highest_flushed + 1, recent: Recent::default() };
    let (mut records, mut rows) = (0, 0);
    for segment in wal::segments(dir)? {
        replayed.next_sequence = replayed.next_sequence.max(segment.first_sequence + 1);
        for record in wal::Replay::open(&segment)? {
            let sequence = record.sequence;
            replayed.next_sequence = replayed.next_sequence.max(sequence + 1);
            records += 1;
            let Some(batch) = rows_of(record, &mut replayed.recent)? else { continue };
            if flushed(batch.table).is_none_or(|flushed| sequence > flushed) {
                rows += batch.rows.num_rows();
                views.append(vec![(sequence, batch)]);
            }
        }
    }
    if records > 0 {
        info!(records, rows, "log replayed");
    }
    Ok(replayed)
}

fn rows_of(record: Record, recent: &mut Recent) -> Result<Option<Batch>, StoreError> {
    let sequence = record.sequence;
    let bad = |message: String| StoreError::Record { sequence, message };
    match record.payload {
        Payload::Otlp { request, hash } => {
            recent.insert(hash, sequence, request.received_unix_nano);
            let decoded = otlp::decode(request.signal, request.encoding, &request.body, request.received_unix_nano);
            Ok(decoded.map_err(|e| bad(e.to_string()))?.batch)
        }
        Payload::Rows { table, ipc } => {
            let reader = StreamReader::try_new(io::Cursor::new(ipc), None)?;
            let rows: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
            let rows = arrow::compute::concat_batches(&table.schema(), &rows).map_err(|e| bad(e.to_string()))?;
            Ok(Some(Batch { table, rows }))
        }
        Payload::Recent(hashes) => {
            hashes.into_iter().for_each(|(hash, received)| recent.insert(hash, sequence, received));
            Ok(None)
        }
    }
}

fn to_ipc(rows: &RecordBatch) -> Result<Bytes, arrow::error::ArrowError> {
    let mut writer = StreamWriter::try_new(Vec::new(), &rows.schema())?;
    writer.write(rows)?;
    Ok(Bytes::from(writer.into_inner()?))
}

#[cfg(test)]
pub(crate) mod tests;
