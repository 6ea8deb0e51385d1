//! [`Writer`]: the one thread that writes the log.

use std::{io, path::PathBuf, sync::Arc, thread::JoinHandle};

use tokio::sync::{mpsc, oneshot};
use tracing::{error, warn};
use weir_schema::Batch;

use super::{Alarm, Pace, Payload, recent::Recent, record, refused::Refused, segment::Segment};
use crate::{
    append::Appended,
    disk::{Disk, Step},
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
    /// Where it writes.
    pub(crate) disk: Arc<dyn Disk>,
    /// The folder of segments.
    pub(crate) dir: PathBuf,
    /// The first sequence that was never used.
    pub(crate) next_sequence: u64,
    /// Requests of the last minutes.
    pub(crate) recent: Recent,
    /// What the log may have although it was refused.
    pub(crate) refused: Refused,
    /// Where rows become visible.
    pub(crate) views: Arc<Views>,
    /// Size at which a new segment starts.
    pub(crate) segment_bytes: u64,
    /// Where times of groups are kept.
    pub(crate) pace: Arc<Pace>,
    /// Held by the thread: rings when it panics.
    pub(crate) _alarm: Alarm,
}

/// The writer's handle.
pub(crate) struct Writer {
    queue: mpsc::Sender<Append>,
    thread: JoinHandle<()>,
}

impl Writer {
    pub(crate) fn start(parts: WriterParts) -> Result<Self, StoreError> {
        let (queue, appends) = mpsc::channel(QUEUE);
        let dir = parts.dir.clone();
        // the first segment is made with the first group: a store that is only read writes nothing
        let log = Log { parts, segment: None, buffer: Vec::new() };
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
    /// `None` at the start and after a failed sync: the next group starts a new one.
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
            let first_sequence = self.parts.next_sequence;
            let mut group = vec![self.stage(first)];
            while self.buffer.len() < GROUP_BYTES {
                let Ok(next) = appends.try_recv() else { break };
                group.push(self.stage(next));
            }
            let pace = self.parts.pace.clone();
            match pace.measure(|| self.write(first_sequence)) {
                Ok(()) => self.publish(group),
                Err(failed) => self.refuse(group, &failed),
            }
        }
    }

    /// Puts the record into the buffer, unless its request is already in the log.
    fn stage(&mut self, append: Append) -> Pending {
        if let Payload::Otlp { request, hash } = &append.payload {
            if let Some(wal_sequence) = self.parts.recent.find(*hash, request.received_unix_nano) {
                return Pending { append, appended: Appended { wal_sequence, duplicate: true } };
            }
            self.parts.recent.insert(*hash, self.parts.next_sequence, request.received_unix_nano);
        }
        let wal_sequence = self.parts.next_sequence;
        self.parts.next_sequence += 1;
        record::encode(wal_sequence, &append.payload, &mut self.buffer);
        Pending { append, appended: Appended { wal_sequence, duplicate: false } }
    }

    /// Writes the group whose first record has this sequence.
    fn write(&mut self, first_sequence: u64) -> Result<(), AppendError> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        let mut segment = match self.segment.take().filter(|segment| segment.record_bytes() < self.parts.segment_bytes)
        {
            Some(segment) => segment,
            None => self.next_segment(first_sequence).map_err(|error| refused(&error))?,
        };
        let Err(failed) = segment.write(self.parts.disk.as_ref(), &self.buffer) else {
            self.segment = Some(segment);
            return Ok(());
        };
        error!(segment = %segment.path().display(), error = %failed, "the log cannot be written");
        // pages of a failed sync may be lost although a later sync succeeds: this file is done with
        if let Err(error) = segment.cut() {
            warn!(segment = %segment.path().display(), %error, "the failed group may stand in the log although it was refused");
            self.parts.refused.add(first_sequence..self.parts.next_sequence);
        }
        Err(refused(&failed))
    }

    /// A new segment, named by a sequence that no record of an older one reaches. Trimming old
    /// segments must not forget their requests: each segment opens with the hashes. It says too which records of older
    /// ones are not to be replayed: what is stored behind them is never without it.
    fn next_segment(&self, first_sequence: u64) -> io::Result<Segment> {
        let mut opening = Vec::new();
        // the requests of this group are not in the log yet
        let entries = self.parts.recent.entries_before(first_sequence);
        record::encode(0, &Payload::Recent(entries), &mut opening);
        if self.parts.refused != Refused::default() {
            record::encode(0, &Payload::Refused(self.parts.refused.clone()), &mut opening);
        }
        Segment::create(self.parts.disk.as_ref(), &self.parts.dir, first_sequence, &opening)
    }

    fn publish(&mut self, group: Vec<Pending>) {
        let rows = group.iter().filter(|pending| !pending.appended.duplicate);
        let rows = rows.filter_map(|p| Some((p.appended.wal_sequence, p.append.batch.clone()?)));
        self.parts.views.append(rows.collect());
        if self.parts.disk.reached(Step::GroupPublished).is_err() {
            return; // the machine is gone: nobody is told
        }
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

fn refused(error: &io::Error) -> AppendError {
    match error.kind() {
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => AppendError::DiskFull,
        _ => AppendError::Disk(error.to_string()),
    }
}
