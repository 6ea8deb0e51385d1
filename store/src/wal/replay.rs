//! [`Replay`]: makes the rows of the log's past visible, in the background, while requests are taken.
//!
//! It goes on only while memory has room: the committer moves what was replayed to files first, so
//! a log of any length is replayed in bounded memory. A damaged record is set aside and counted; the
//! records behind it are replayed.

use std::{
    collections::BTreeMap,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed, Ordering::SeqCst},
    },
    thread::JoinHandle,
    time::Duration,
};

use arrow::{ipc::reader::StreamReader, record_batch::RecordBatch};
use parking_lot::{Condvar, Mutex};
use tracing::{error, info, warn};
use weir_schema::{Batch, Table, otlp};

use super::{
    Alarm, Payload,
    record::{self, Record},
    refused::Refused,
    segment::{Found, Records, SegmentFile},
};
use crate::{
    disk::{self, Disk},
    error::StoreError,
    view::Views,
};

/// Records made visible at once: each time replaces the view.
const RECORDS: usize = 64;

/// Bytes of records made visible at once.
const BYTES: usize = 4 << 20;

/// How long a wait goes on before it looks for itself.
const WAIT: Duration = Duration::from_millis(100);

/// How often a segment is read before it is given up.
const TRIES: u32 = 10;

/// Through which record the files of each table are.
pub(crate) type Through = BTreeMap<Table, u64>;

/// What a replay starts from.
pub(crate) struct ReplayParts {
    pub(crate) disk: Arc<dyn Disk>,
    /// Where damaged records are set aside.
    pub(crate) quarantine: PathBuf,
    /// Told the name of each thing that is set aside there.
    pub(crate) set_aside: Box<dyn Fn(String) + Send>,
    pub(crate) segments: Vec<SegmentFile>,
    /// Records from this sequence on are not of the past.
    pub(crate) until: u64,
    pub(crate) through: Through,
    /// Records that are not of the store.
    pub(crate) refused: Refused,
    pub(crate) views: Arc<Views>,
    /// Bytes in memory at which it waits for the committer.
    pub(crate) memory_bytes: u64,
    /// Held by the thread: rings when it panics.
    pub(crate) _alarm: Alarm,
}

/// A replay under way, or over.
#[derive(Debug)]
pub(crate) struct Replay {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug, Default)]
struct Shared {
    total_bytes: u64,
    done_bytes: AtomicU64,
    damaged: AtomicU64,
    over: AtomicBool,
    /// A segment could be neither read nor set aside.
    keeps_log: AtomicBool,
    stop: AtomicBool,
    room: Mutex<()>,
    room_made: Condvar,
}

impl Replay {
    /// Starts; an empty past is over at once.
    pub(crate) fn start(parts: ReplayParts) -> io::Result<Self> {
        let total_bytes = parts.segments.iter().map(|segment| segment.bytes).sum();
        let shared = Arc::new(Shared { total_bytes, ..Shared::default() });
        let work = Work { parts, shared: shared.clone(), rows: Vec::new(), bytes: 0, records: 0 };
        if work.parts.segments.is_empty() {
            shared.over.store(true, SeqCst);
            return Ok(Self { shared, thread: Mutex::new(None) });
        }
        let thread = std::thread::Builder::new().name("weir-replay".into()).spawn(move || work.run())?;
        Ok(Self { shared, thread: Mutex::new(Some(thread)) })
    }

    /// Whether everything of the past is visible.
    pub(crate) fn is_over(&self) -> bool {
        self.shared.over.load(SeqCst)
    }

    /// Whether the log may lose what is in files: not while it has what could not be replayed.
    pub(crate) fn allows_trim(&self) -> bool {
        self.is_over() && !self.shared.keeps_log.load(SeqCst)
    }

    /// Bytes replayed, and bytes there are.
    pub(crate) fn progress(&self) -> (u64, u64) {
        (self.shared.done_bytes.load(Relaxed), self.shared.total_bytes)
    }

    /// What answers say while it goes on.
    pub(crate) fn warning(&self) -> Option<String> {
        let (done, all) = self.progress();
        let text = format!(
            "the log is being replayed after the start ({} of {} MiB): rows that were stored before it may be missing",
            done >> 20,
            all.div_ceil(1 << 20)
        );
        (!self.is_over()).then_some(text)
    }

    /// Records that were set aside.
    pub(crate) fn damaged(&self) -> u64 {
        self.shared.damaged.load(Relaxed)
    }

    /// The committer made room.
    pub(crate) fn wake(&self) {
        self.shared.room_made.notify_all();
    }

    /// Waits until it is over or stopped. Blocks the thread.
    pub(crate) fn wait(&self) {
        let mut room = self.shared.room.lock();
        while !self.is_over() && !self.shared.stop.load(SeqCst) {
            self.shared.room_made.wait_for(&mut room, WAIT);
        }
    }

    /// Ends it where it is: the log has the rest.
    pub(crate) fn stop(&self) {
        self.shared.stop.store(true, SeqCst);
        self.wake();
        if let Some(thread) = self.thread.lock().take()
            && thread.join().is_err()
        {
            error!("the replay of the log panicked");
        }
    }
}

struct Work {
    parts: ReplayParts,
    shared: Arc<Shared>,
    rows: Vec<(u64, Batch)>,
    bytes: usize,
    records: u64,
}

impl Work {
    fn run(mut self) {
        let started = std::time::Instant::now();
        let segments = std::mem::take(&mut self.parts.segments);
        let followers = segments.iter().skip(1).map(|next| next.first_sequence).chain([0]);
        for (segment, next_first) in segments.iter().zip(followers) {
            if self.shared.stop.load(SeqCst) {
                return;
            }
            if let Err(error) = self.segment(segment, next_first) {
                self.keep_segment(segment, &error);
            }
            self.shared.done_bytes.fetch_add(segment.bytes, Relaxed);
        }
        self.publish();
        if self.shared.stop.load(SeqCst) {
            return;
        }
        let (bytes, ms) = (self.shared.total_bytes, started.elapsed().as_millis());
        info!(records = self.records, bytes, ms, "log replayed");
        self.shared.over.store(true, SeqCst);
        self.shared.room_made.notify_all();
    }

    /// A segment that cannot be read is kept for people; the rest of the log is replayed.
    fn keep_segment(&self, segment: &SegmentFile, error: &StoreError) {
        self.shared.damaged.fetch_add(1, Relaxed);
        let (disk, quarantine) = (self.parts.disk.as_ref(), &self.parts.quarantine);
        let path = quarantine.join(segment.path.file_name().unwrap_or_default());
        error!(segment = %segment.path.display(), %error, kept = %path.display(), "a log segment cannot be replayed");
        let kept = disk::make_dir(disk, quarantine).and_then(|()| match disk.link(&segment.path, &path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => Err(error),
            _ => disk.sync_dir(quarantine),
        });
        self.names(&path);
        if let Err(error) = kept {
            error!(%error, "it could not be set aside: the log is not trimmed until the next start");
            self.shared.keeps_log.store(true, SeqCst);
        }
    }

    /// Opens a segment; what a disk cannot read now it may read in a moment.
    fn open(&self, segment: &SegmentFile) -> Result<Records, StoreError> {
        let mut tries = 1;
        loop {
            match Records::open(self.parts.disk.as_ref(), segment) {
                Err(error) if tries < TRIES && !self.shared.stop.load(SeqCst) => {
                    warn!(segment = %segment.path.display(), %error, tries, "a log segment cannot be read: once more");
                    tries += 1;
                    self.shared.room_made.wait_for(&mut self.shared.room.lock(), WAIT);
                }
                opened => return opened,
            }
        }
    }

    /// `next_first` is the first sequence of the segment behind it; 0 when it is the last.
    fn segment(&mut self, segment: &SegmentFile, next_first: u64) -> Result<(), StoreError> {
        let name = || segment.path.file_stem().map(|stem| stem.to_string_lossy().into_owned()).unwrap_or_default();
        let mut next_sequence = segment.first_sequence;
        for found in self.open(segment)? {
            if self.shared.stop.load(SeqCst) {
                return Ok(());
            }
            match found {
                Found::Record(record) => {
                    next_sequence = next_sequence.max(record.sequence + 1);
                    self.record(*record);
                }
                // what is left of a group that was refused
                Found::Damaged(_) | Found::Torn(_) if self.parts.refused.has(next_sequence) => {}
                Found::Damaged(bytes) => self.set_aside(&name(), &bytes, "a damaged record"),
                // what was never synced has its sequences given to others; these were not, so they were synced
                Found::Torn(bytes) if next_sequence < next_first => {
                    self.set_aside(&name(), &bytes, "a damaged end of a segment");
                }
                Found::Torn(bytes) => {
                    let bytes = bytes.len();
                    warn!(segment = %segment.path.display(), bytes, "log tail is torn: cut at the last valid record");
                }
            }
        }
        Ok(())
    }

    fn record(&mut self, record: Record) {
        if record.sequence >= self.parts.until || self.parts.refused.has(record.sequence) {
            return;
        }
        self.records += 1;
        let sequence = record.sequence;
        let (table, bytes) = match &record.payload {
            Payload::Otlp { request, .. } => (Table::of(request.signal), request.body.len()),
            Payload::Rows { table, ipc } => (*table, ipc.len()),
            Payload::Recent(_) | Payload::Refused(_) => return,
        };
        if self.parts.through.get(&table).is_some_and(|through| sequence <= *through) {
            return;
        }
        let payload = record.payload.clone();
        // a decoder that panics at one record shall not cost all those behind it, now and at every start
        let decoded = catch_unwind(AssertUnwindSafe(|| rows_of(record)));
        let panicked = |_| Err(StoreError::Record { sequence, message: "reading it panicked".into() });
        match decoded.unwrap_or_else(panicked) {
            Ok(batch) => self.rows.extend(batch.map(|batch| (sequence, batch))),
            Err(error) => {
                error!(%error, "a log record cannot be decoded");
                let mut bytes = Vec::new();
                record::encode(sequence, &payload, &mut bytes);
                self.set_aside(&format!("{sequence:020}"), &bytes, "a record that this version cannot decode");
            }
        }
        self.bytes += bytes;
        if self.rows.len() >= RECORDS || self.bytes >= BYTES {
            self.publish();
        }
    }

    fn publish(&mut self) {
        let mut room = self.shared.room.lock();
        while self.parts.views.current().memory_bytes() > self.parts.memory_bytes && !self.shared.stop.load(SeqCst) {
            self.shared.room_made.wait_for(&mut room, WAIT);
        }
        drop(room);
        self.parts.views.replay(std::mem::take(&mut self.rows));
        self.bytes = 0;
    }

    /// Answers name it from now on.
    fn names(&self, path: &Path) {
        let name = path.file_name().unwrap_or_default().to_string_lossy();
        (self.parts.set_aside)(name.into_owned());
    }

    /// Keeps the bytes for people: the segment itself is deleted once the rest is in files.
    fn set_aside(&self, name: &str, bytes: &[u8], what: &str) {
        let count = self.shared.damaged.fetch_add(1, Relaxed) + 1;
        let path = self.parts.quarantine.join(format!("{name}-{count}.record"));
        error!(name, bytes = bytes.len(), kept = %path.display(), "{what} is left out");
        let disk = self.parts.disk.as_ref();
        let kept = disk::make_dir(disk, &self.parts.quarantine).and_then(|()| disk::replace(disk, &path, bytes));
        self.names(&path);
        if let Err(error) = kept {
            error!(%error, "it could not be kept");
        }
    }
}

fn rows_of(record: Record) -> Result<Option<Batch>, StoreError> {
    let sequence = record.sequence;
    let bad = |message: String| StoreError::Record { sequence, message };
    match record.payload {
        Payload::Otlp { request, .. } => {
            let decoded = otlp::decode(request.signal, request.encoding, &request.body, request.received_unix_nano);
            Ok(decoded.map_err(|e| bad(e.to_string()))?.batch)
        }
        Payload::Rows { table, ipc } => {
            let reader = StreamReader::try_new(io::Cursor::new(ipc), None)?;
            let rows: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
            let rows = arrow::compute::concat_batches(&table.schema(), &rows).map_err(|e| bad(e.to_string()))?;
            Ok(Some(Batch { table, rows }))
        }
        Payload::Recent(_) | Payload::Refused(_) => Ok(None),
    }
}
