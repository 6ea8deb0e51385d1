//! Opening a data folder: lock, tables, the end of the log, then the parts that run.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, atomic::AtomicBool},
};

use parking_lot::Mutex;
use tokio::{runtime::Runtime, sync::mpsc};
use tracing::warn;
use weir_schema::Table;

use crate::{
    committer::{Committer, CommitterParts, Order, Shared},
    config::Config,
    disk::{self, Disk},
    error::{OpenError, StoreError},
    files::DeltaTable,
    lock::{Lock, LockHolder},
    query::{Engine, EngineParts},
    store::{Inner, TracePlaces},
    view::Views,
    wal::{Alarm, Pace, Past, Replay, ReplayParts, Through, Writer, WriterParts},
};

/// Orders waiting for the committer; the next one waits in its own task.
const ORDERS: usize = 16;

/// Opens a folder. Blocks the thread.
pub(crate) fn open(config: Config, disk: Arc<dyn Disk>) -> Result<Inner, OpenError> {
    let Folder { config, lock, lineage } = begin_folder(config, disk.as_ref())?;
    let runtime = committers_runtime().map_err(io(&config.dir))?;
    let views = Arc::new(Views::default());
    let tables = runtime.block_on(open_tables(&config, &disk, &views))?;
    let shared = Arc::new(Shared::default());
    // one that cannot be listed now is listed by the next upkeep
    *shared.quarantined.lock() = crate::committer::quarantined(disk.as_ref(), &config).unwrap_or_default();
    let Log { replay, writer, pace } = start_log(&config, &disk, &views, &shared, tables.through)?;
    let committer = CommitterParts {
        config: config.clone(),
        lineage,
        disk: disk.clone(),
        views: views.clone(),
        tables: tables.tables,
        replay: replay.clone(),
        shared: shared.clone(),
    };
    let orders = start_committer(committer, &runtime);
    let parts = EngineParts {
        disk: disk.clone(),
        views: views.clone(),
        replay: replay.clone(),
        orders: orders.clone(),
        committer: shared.clone(),
    };
    let engine = Engine::new(&config, parts)?;
    Ok(Inner {
        config,
        disk,
        views,
        appends: Mutex::new(Some(writer.queue())),
        orders,
        engine,
        pace,
        traces: TracePlaces::default(),
        replay,
        shared,
        closing: AtomicBool::new(false),
        writer: Mutex::new(Some(writer)),
        runtime: Mutex::new(Some(runtime)),
        lock: Mutex::new(lock),
    })
}

/// A folder that nobody else has.
struct Folder {
    /// With the folder's own node, and its path without links.
    config: Config,
    lock: Lock,
    lineage: u64,
}

/// The parts of the log, running.
struct Log {
    replay: Arc<Replay>,
    writer: Writer,
    pace: Arc<Pace>,
}

/// Makes the folder if it is not there, and takes its lock.
fn begin_folder(mut config: Config, disk: &dyn Disk) -> Result<Folder, OpenError> {
    for dir in [config.wal_dir(), config.tables_dir()] {
        disk::make_dir(disk, &dir).map_err(io(&dir))?;
    }
    config.dir = disk.canonical(&config.dir).map_err(io(&config.dir))?;
    disk::sync_names_to(disk, &config.wal_dir()).map_err(io(&config.dir))?;
    let lock = match Lock::take(disk, &config.dir).map_err(io(&config.dir))? {
        Ok(lock) => lock,
        Err(LockHolder { pid, url }) => return Err(OpenError::Locked { dir: config.dir, pid, url }),
    };
    config.node = settle_node(disk, &config).map_err(io(&config.dir))?;
    let lineage = settle_lineage(disk, &config).map_err(io(&config.dir))?;
    Ok(Folder { config, lock, lineage })
}

/// Reads the end of the log, then replays the rest of it beside the writer. `through` is what files have of it.
fn start_log(
    config: &Config,
    disk: &Arc<dyn Disk>,
    views: &Arc<Views>,
    shared: &Arc<Shared>,
    through: Through,
) -> Result<Log, OpenError> {
    let past = Past::read(disk.as_ref(), &config.wal_dir())?;
    let next_sequence = through.values().map(|through| through + 1).fold(past.next_sequence, u64::max);
    let alarm = |part: &'static str| {
        let shared = shared.clone();
        Alarm::new(move || shared.give_up(part))
    };
    let quarantined = shared.clone();
    let replay = Replay::start(ReplayParts {
        disk: disk.clone(),
        quarantine: config.quarantine_dir(),
        set_aside: Box::new(move |name| quarantined.quarantined.lock().push(name)),
        segments: past.segments.clone(),
        until: next_sequence,
        through,
        refused: past.refused.clone(),
        views: views.clone(),
        // flushes begin at half of it; on a full disk the past has most of the rest
        memory_bytes: config.memory_limit_bytes / 8 * 7,
        _alarm: alarm("the replay of the log"),
    });
    let replay = Arc::new(replay.map_err(io(&config.wal_dir()))?);
    let pace = Arc::new(Pace::default());
    let writer = Writer::start(WriterParts {
        disk: disk.clone(),
        dir: config.wal_dir(),
        next_sequence,
        recent: past.recent,
        refused: past.refused,
        views: views.clone(),
        segment_bytes: config.wal_segment_bytes,
        pace: pace.clone(),
        _alarm: alarm("the writer of the log"),
    })?;
    Ok(Log { replay, writer, pace })
}

/// Starts the committer; gives its queue.
fn start_committer(parts: CommitterParts, runtime: &Runtime) -> mpsc::Sender<Order> {
    let shared = parts.shared.clone();
    let (orders, orders_in) = mpsc::channel(ORDERS);
    let committer = Committer::new(parts);
    // before the first append, not at the first upkeep
    committer.look_at_free_space();
    runtime.spawn(watch(committer.run(orders_in), shared));
    orders
}

fn io(path: &Path) -> impl FnOnce(std::io::Error) -> OpenError + use<> {
    let path = path.to_owned();
    move |source| OpenError::Io { path, source }
}

/// The node that a folder's rows are counted by: the one it was begun with. Another name would take
/// what is in files for what is only in the log.
fn settle_node(disk: &dyn Disk, config: &Config) -> std::io::Result<String> {
    let path = config.dir.join("node");
    let begun_with = match disk.read(&path) {
        Ok(name) => String::from_utf8_lossy(&name).trim().to_owned(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => String::new(),
        Err(error) => return Err(error),
    };
    if begun_with.is_empty() {
        disk::replace(disk, &path, config.node.as_bytes())?;
        return Ok(config.node.clone());
    }
    if begun_with != config.node && config.node != Config::default().node {
        warn!(node = begun_with, configured = config.node, "the folder was begun as another node, which it stays");
    }
    Ok(begun_with)
}

/// A number drawn when the folder was begun. A backup has none, so one that becomes a store of its own draws another.
fn settle_lineage(disk: &dyn Disk, config: &Config) -> std::io::Result<u64> {
    let path = config.dir.join("lineage");
    let drawn = match disk.read(&path) {
        Ok(text) => u64::from_str_radix(String::from_utf8_lossy(&text).trim(), 16).ok(),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => None,
        Err(error) => return Err(error),
    };
    if let Some(lineage) = drawn {
        return Ok(lineage);
    }
    let (_, lineage) = uuid::Uuid::new_v4().as_u64_pair();
    disk::replace(disk, &path, format!("{lineage:016x}\n").as_bytes())?;
    Ok(lineage)
}

/// Runs the committer. Should it panic, requests are refused from then on: the log has what was acked.
async fn watch(run: impl Future<Output = ()> + Send + 'static, shared: Arc<Shared>) {
    if let Err(ended) = tokio::spawn(run).await
        && ended.is_panic()
    {
        shared.give_up("the committer");
    }
}

fn committers_runtime() -> std::io::Result<Runtime> {
    tokio::runtime::Builder::new_multi_thread()
        .thread_name("weir-commit")
        .worker_threads(1)
        .max_blocking_threads(4)
        .enable_all()
        .build()
}

struct OpenedTables {
    tables: BTreeMap<Table, DeltaTable>,
    through: Through,
}

async fn open_tables(config: &Config, disk: &Arc<dyn Disk>, views: &Views) -> Result<OpenedTables, StoreError> {
    let mut opened = OpenedTables { tables: BTreeMap::new(), through: Through::new() };
    for table in Table::ALL {
        let mut delta = DeltaTable::open(table, config.tables_dir().join(table.name()), disk.clone()).await?;
        views.set_files(table, delta.files());
        if let Some(through) = delta.through(&config.node).await? {
            opened.through.insert(table, through);
        }
        opened.tables.insert(table, delta);
    }
    Ok(opened)
}
