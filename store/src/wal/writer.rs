//! The one thread that writes the log.

use std::{io, path::PathBuf, sync::Arc, thread::JoinHandle};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};
use weir_schema::Batch;

use super::{
    recent::Recent,
    record::{self, Payload},
    segment::Segment,
};
use crate::{
    append::Appended,
    error::{AppendError, StoreError},
    view::Views,
};

/// Appends waiting for the writer; the next one waits in its own task.
const QUEUE: usize = 1024;

/// Bytes written in one group at most: about 60 ms at the speed of a slow disk.
const GROUP_BYTES: usize = 8 << 20;

/// One append on its way to the log.
pub(crate) struct Append {
    /// What goes into the log.
    pub(crate) payload: Payload,
    /// What becomes visible.
    pub(crate) batch: Option<Batch>,
    /// Who waits.
    pub(crate) reply: oneshot::Sender<Result<Appended, AppendError>>,
}

/// What the writer starts from.
pub(crate) struct WriterParts {
    /// The folder of segments.
    pub(crate) dir: PathBuf,
    /// The first sequence that was never used.
    pub(crate) next_sequence: u64,
    /// Requests of the last minutes.
    pub(crate) recent: Recent,
    /// Where rows become visible.
    pub(crate) views: Arc<Views>,
    /// Size at which a new segment starts.
    pub(crate) segment_bytes: u64,
}

/// The writer's handle.
pub(crate) struct Writer {
    queue: mpsc::Sender<Append>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(parts: WriterParts) -> Result<Self, StoreError> {
        let io = |source| StoreError::Io { path: parts.dir.clone(), source };
        let segment = Segment::create(&parts.dir, parts.next_sequence).map_err(io)?;
        let (queue, appends) = mpsc::channel(QUEUE);
        let dir = parts.dir.clone();
        let mut log = Log { parts, segment: Some(segment), buffer: Vec::new() };
        log.carry_recent();
        let thread = std::thread::Builder::new().name("weir-wal".into()).spawn(move || log.run(appends));
        let thread = thread.map_err(|source| StoreError::Io { path: dir, source })?;
        Ok(Self { queue, thread })
    }

    /// A way in; closed when the writer ended.
    pub(crate) fn queue(&self) -> mpsc::Sender<Append> {
        self.queue.clone()
    }

    /// Ends once all ways in are gone and everything queued is written.
    pub(crate) fn join(self) {
        drop(self.queue);
        if self.thread.join().is_err() {
            error!("the log writer panicked");
        }
    }
}

struct Log {
    parts: WriterParts,
    /// `None` after a failed sync: the next group starts a new one.
    segment: Option<Segment>,
    buffer: Vec<u8>,
}

/// An append whose record is in the buffer.
struct Pending {
    append: Append,
    appended: Appended,
}

impl Log {
    fn run(mut self, mut appends: mpsc::Receiver<Append>) {
        while let Some(first) = appends.blocking_recv() {
            self.buffer.clear();
            let mut group = vec![self.stage(first)];
            while self.buffer.len() < GROUP_BYTES {
                let Ok(next) = appends.try_recv() else { break };
                group.push(self.stage(next));
            }
            match self.write() {
                Ok(()) => self.publish(group),
                Err(failed) => self.refuse(group, &failed),
            }
        }
    }

    /// Puts the record into the buffer, unless its request is already in the log.
    fn stage(&mut self, append: Append) -> Pending {
        if let Payload::Otlp { request, hash } = &append.payload {
            if let Some(wal_sequence) = self.parts.recent.find(*hash) {
                return Pending { append, appended: Appended { wal_sequence, duplicate: true } };
            }
            self.parts.recent.insert(*hash, self.parts.next_sequence, request.received_unix_nano);
        }
        let wal_sequence = self.parts.next_sequence;
        self.parts.next_sequence += 1;
        record::encode(wal_sequence, &append.payload, &mut self.buffer);
        Pending { append, appended: Appended { wal_sequence, duplicate: false } }
    }

    fn write(&mut self) -> Result<(), AppendError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.segment.as_ref().is_none_or(|segment| segment.length() >= self.parts.segment_bytes) {
            self.rotate()?;
        }
        let Some(segment) = &mut self.segment else { return Err(AppendError::DiskFull) };
        let Err(failed) = segment.write(&self.buffer) else { return Ok(()) };
        let full = failed.kind() == io::ErrorKind::StorageFull;
        error!(segment = %segment.path().display(), error = %failed, "the log cannot be written");
        // pages of a failed sync may be lost although a later sync succeeds: this file is done with
        if let Err(error) = segment.cut() {
            warn!(segment = %segment.path().display(), %error, "the failed group may be replayed although it was refused");
        }
        self.segment = None;
        Err(if full { AppendError::DiskFull } else { AppendError::Disk(failed.to_string()) })
    }

    /// A new segment; its name is a sequence that no record of an older one reaches.
    fn rotate(&mut self) -> Result<(), AppendError> {
        let group_first = record_sequence(&self.buffer).unwrap_or(self.parts.next_sequence);
        let refused = |error: &io::Error| match error.kind() {
            io::ErrorKind::StorageFull => AppendError::DiskFull,
            _ => AppendError::Disk(error.to_string()),
        };
        let segment = Segment::create(&self.parts.dir, group_first).map_err(|e| refused(&e))?;
        self.segment = Some(segment);
        self.carry_recent();
        Ok(())
    }

    /// Trimming old segments must not forget their requests: each segment opens with the hashes.
    fn carry_recent(&mut self) {
        let entries = self.parts.recent.entries();
        let Some(segment) = &mut self.segment else { return };
        if entries.is_empty() {
            return;
        }
        let mut bytes = Vec::new();
        record::encode(0, &Payload::Recent(entries), &mut bytes);
        if let Err(error) = segment.write(&bytes) {
            warn!(%error, "retries across a restart may be stored twice");
            self.segment = None;
        }
    }

    fn publish(&mut self, group: Vec<Pending>) {
        let rows = group.iter().filter(|pending| !pending.appended.duplicate);
        let rows = rows.filter_map(|p| Some((p.appended.wal_sequence, p.append.batch.clone()?)));
        self.parts.views.append(rows.collect());
        for Pending { append, appended } in group {
            // a caller that went away has its rows stored all the same
            let _ = append.reply.send(Ok(appended));
        }
    }

    fn refuse(&mut self, group: Vec<Pending>, why: &AppendError) {
        for Pending { append, appended } in group {
            if let (Payload::Otlp { hash, .. }, false) = (&append.payload, appended.duplicate) {
                self.parts.recent.remove(*hash);
            }
            // a duplicate may repeat a request of this very group: the sender tries again
            let _ = append.reply.send(Err(why.clone()));
        }
    }
}

/// The sequence of the first record in a buffer.
fn record_sequence(buffer: &[u8]) -> Option<u64> {
    let bytes = buffer.get(record::HEADER..record::HEADER + 8)?;
    Some(u64::from_le_bytes(bytes.try_into().ok()?))
}
