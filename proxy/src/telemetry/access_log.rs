//! [`LogWriter`]: access logs as lines, in a file or on stdout, written by a thread of its own so that
//! a slow disk or a full pipe holds nothing up; what does not fit is dropped and counted.
//!
//! A file that is renamed or removed (`logrotate` does) is opened anew by its name: on SIGHUP ([`Reopen`]), and by itself
//! within a second. Nobody waits for one that is closed; only at the very end [`finish`] gives all of them a moment.

use std::{
    fmt::Write as _,
    fs::{self, File, Metadata, OpenOptions},
    io::{self, Write},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use tokio::time::Instant;
use tokio_util::task::{TaskTracker, task_tracker::TaskTrackerToken};
use tracing::{info, warn};

use crate::{
    config::LogFormat,
    counters::{Tally, add},
    telemetry::{
        SpanRecord,
        encode::{Attribute, each_attribute},
    },
};

/// 8,192 lines, some 3 MiB, that wait for the disk.
const MAX_LINES: usize = 8_192;

/// 64 KiB in one write, some 150 lines: a system call a line would cost more than the line.
const WRITE_BYTES: usize = 64 * 1024;

/// 1 s between two looks at whether the file is still there under its name: a system call each.
const LOOK: Duration = Duration::from_secs(1);

/// 1 s to open a file: one whose disk hangs, or a named pipe that nobody reads, must not hold up a start or a reload.
const OPEN: Duration = Duration::from_secs(1);

/// 1 s for the last lines when the proxy stops: a pipe that nobody reads must not hold it up.
const FLUSH: Duration = Duration::from_secs(1);

/// Where lines go. When it is dropped those that wait are written yet.
pub(crate) struct LogWriter {
    lines: SyncSender<String>,
    format: LogFormat,
    tally: Arc<Tally>,
    reopen: Reopen,
}

/// Asks the writer to look for its file at once.
#[derive(Clone, Debug, Default)]
pub(crate) struct Reopen(Arc<AtomicBool>);

/// What lines are written to, and those that are to be written in one go.
struct Output {
    to: Sink,
    bytes: Vec<u8>,
    lines: usize,
    /// Whether the last write failed, perhaps in the middle of a line.
    torn: bool,
    reopen: Reopen,
    tally: Arc<Tally>,
}

enum Sink {
    Stdout(io::Stdout),
    File(LogFile),
}

/// A file that is known by its name.
struct LogFile {
    path: PathBuf,
    file: File,
    id: FileId,
    looked: Instant,
    /// Whether it was said that there is no new one.
    complained: bool,
}

/// Which file it is, whatever its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct FileId {
    device: u64,
    inode: u64,
}

impl LogWriter {
    /// Opens `path` for appending, or stdout for `-`; `unfinished` is given back when all lines are written.
    ///
    /// # Errors
    /// It cannot be opened, or is not open after a second.
    pub(crate) fn open(
        path: &Path,
        format: LogFormat,
        tally: Arc<Tally>,
        unfinished: TaskTrackerToken,
    ) -> io::Result<Self> {
        let (lines, waiting) = sync_channel(MAX_LINES);
        let (opens, opened) = sync_channel(1);
        let reopen = Reopen::default();
        let (path, ask, count) = (path.to_owned(), reopen.clone(), tally.clone());
        let thread = std::thread::Builder::new().name("weir-proxy-log".into());
        thread.spawn(move || {
            let sent = match Sink::open(&path) {
                Err(error) => opens.send(Err(error)),
                Ok(to) => opens.send(Ok(())).map(|()| write_all(&waiting, Output::new(to, ask, count))),
            };
            // who no longer waits for it has said so
            drop((sent, unfinished));
        })?;
        match opened.recv_timeout(OPEN) {
            Ok(opened) => opened.map(|()| Self { lines, format, tally, reopen }),
            Err(_) => Err(io::Error::new(
                io::ErrorKind::TimedOut,
                "it is not open after 1 s: does its disk, or who reads the pipe, hang?",
            )),
        }
    }

    /// What asks it to look for its file.
    pub(crate) fn reopen(&self) -> Reopen {
        self.reopen.clone()
    }

    /// Queues the line of a record.
    pub(crate) fn write(&self, record: &SpanRecord) {
        let line = line(record, self.format);
        let sent = self.lines.try_send(line).is_ok();
        add(&self.tally.log_lines_dropped, usize::from(!sent));
    }
}

/// Waits until all logs that were opened with a token of `unfinished`, and closed since, are written.
pub(crate) async fn finish(unfinished: TaskTracker) {
    unfinished.close();
    if tokio::time::timeout(FLUSH, unfinished.wait()).await.is_err() {
        warn!("stopped before the access log was written to its end");
    }
}

impl Reopen {
    /// It looks before it writes on, and within a second.
    pub(crate) fn ask(&self) {
        self.0.store(true, Relaxed);
    }
}

fn write_all(lines: &Receiver<String>, mut output: Output) {
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // nothing waits: whoever follows the file is to see what there is
                output.write();
                match lines.recv_timeout(LOOK) {
                    Ok(line) => line,
                    Err(RecvTimeoutError::Timeout) => continue,
                    Err(RecvTimeoutError::Disconnected) => break,
                }
            }
        };
        output.add(&line);
    }
    output.write();
}

impl Sink {
    fn open(path: &Path) -> io::Result<Self> {
        Ok(if path == Path::new("-") { Self::Stdout(io::stdout()) } else { Self::File(LogFile::open(path)?) })
    }
}

impl Output {
    fn new(to: Sink, reopen: Reopen, tally: Arc<Tally>) -> Self {
        Self { to, bytes: Vec::with_capacity(WRITE_BYTES), lines: 0, torn: false, reopen, tally }
    }

    fn add(&mut self, line: &str) {
        self.bytes.extend_from_slice(line.as_bytes());
        self.lines += 1;
        if self.bytes.len() >= WRITE_BYTES {
            self.write();
        }
    }

    /// Writes what there is, to the file that has the name now.
    fn write(&mut self) {
        if let Sink::File(file) = &mut self.to {
            // a new file has no line that was cut
            self.torn &= !file.look(self.reopen.0.swap(false, Relaxed), Instant::now());
        }
        if self.lines == 0 {
            return;
        }
        let written = self.try_write();
        if let (Err(error), false) = (&written, self.torn) {
            warn!(%error, "the access log cannot be written");
        }
        self.torn = written.is_err();
        let count = if self.torn { &self.tally.log_lines_dropped } else { &self.tally.log_lines_written };
        add(count, self.lines);
        self.bytes.clear();
        self.lines = 0;
    }

    fn try_write(&mut self) -> io::Result<()> {
        let to: &mut dyn Write = match &mut self.to {
            Sink::Stdout(stdout) => stdout,
            Sink::File(file) => &mut file.file,
        };
        if self.torn {
            to.write_all(b"\n")?;
        }
        to.write_all(&self.bytes)?;
        to.flush()
    }
}

impl LogFile {
    fn open(path: &Path) -> io::Result<Self> {
        let file = OpenOptions::new().create(true).append(true).open(path)?;
        let id = FileId::of(&file.metadata()?);
        Ok(Self { path: path.to_owned(), file, id, looked: Instant::now(), complained: false })
    }

    /// Opens the file anew if another one, or none, has its name, and says whether it did. While none can be had the old one
    /// serves on.
    fn look(&mut self, asked: bool, now: Instant) -> bool {
        if !asked && now.duration_since(self.looked) < LOOK {
            return false;
        }
        self.looked = now;
        let named = fs::metadata(&self.path).map(|found| FileId::of(&found));
        if named.is_ok_and(|named| named == self.id) {
            self.complained = false;
            return false;
        }
        let path = self.path.display();
        match Self::open(&self.path) {
            Ok(newer) => {
                info!(%path, "the access log was moved away; a new one is written");
                *self = Self { looked: now, ..newer };
                true
            }
            Err(error) => {
                if !self.complained {
                    warn!(%path, %error, "the access log was moved away, and no new one can be opened");
                }
                self.complained = true;
                false
            }
        }
    }
}

impl FileId {
    fn of(found: &Metadata) -> Self {
        Self { device: found.dev(), inode: found.ino() }
    }
}

/// One record as a line, its end included.
pub(crate) fn line(record: &SpanRecord, format: LogFormat) -> String {
    match format {
        LogFormat::Json => json(record),
        LogFormat::Text => text(record),
    }
}

/// Time, direction, route, method, path, status, duration, bytes, wait, what policy did, peer, trace, client, host, agent,
/// protocol.
fn text(record: &SpanRecord) -> String {
    let said = &record.said;
    let (path, peer) = (said.path().unwrap_or("-"), said.caller().unwrap_or("-"));
    let millis = |ns: u64| ns as f64 / 1e6;
    let mut line = format!(
        "{} {} {} {} {path} {} {:.3}ms {}B wait={:.3}ms {} peer={peer:?} trace=",
        time(record),
        record.route.direction.as_str(),
        record.route.name,
        record.method,
        record.status,
        millis(record.duration_ns),
        record.response_bytes,
        millis(record.queue_wait_ns),
        record.action.as_str(),
    );
    hex(&mut line, &record.trace.trace_id);
    let (client, host) = (said.address().unwrap_or("-"), said.host().unwrap_or("-"));
    let (agent, protocol) = (said.agent().unwrap_or("-"), record.protocol_version().unwrap_or("-"));
    let _ = writeln!(line, " client={client} host={host:?} agent={agent:?} protocol={protocol}");
    line
}

/// The attributes of the span by their names, and when, how long and in which trace.
fn json(record: &SpanRecord) -> String {
    let mut line = format!("{{\"time\":\"{}\",\"duration_ns\":{},\"trace_id\":\"", time(record), record.duration_ns);
    hex(&mut line, &record.trace.trace_id);
    line.push_str("\",\"span_id\":\"");
    hex(&mut line, &record.trace.span_id);
    line.push('"');
    each_attribute(record, |key, value| {
        // writing to a String cannot fail, and what serde_json is given here it can write
        let quoted = |text: &str| serde_json::to_string(text).unwrap_or_default();
        let _ = match value {
            Attribute::Text(text) => write!(line, ",\"{key}\":{}", quoted(text)),
            Attribute::Int(int) => write!(line, ",\"{key}\":{int}"),
            Attribute::List(texts) => write!(line, ",\"{key}\":{}", serde_json::to_string(texts).unwrap_or_default()),
        };
    });
    line.push_str("}\n");
    line
}

fn time(record: &SpanRecord) -> String {
    let at = jiff::Timestamp::from_nanosecond(i128::from(record.start_unix_nano)).unwrap_or_default();
    format!("{at:.6}")
}

fn hex(to: &mut String, bytes: &[u8]) {
    for byte in bytes {
        let _ = write!(to, "{byte:02x}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn text(path: &Path) -> String {
        fs::read_to_string(path).unwrap_or_else(|error| format!("{error}"))
    }

    /// After a rotation lines went on into the file that had been moved away.
    #[test]
    fn a_file_that_is_moved_away_is_followed_by_one_of_its_name() {
        let folder = tempfile::tempdir().unwrap();
        let (path, old) = (folder.path().join("access.log"), folder.path().join("access.log.1"));
        let mut file = LogFile::open(&path).unwrap();
        let start = file.looked;
        let mut write = |asked, after_ms, line: &str| {
            file.look(asked, start + Duration::from_millis(after_ms));
            writeln!(file.file, "{line}").unwrap();
        };
        write(false, 0, "one");
        fs::rename(&path, &old).unwrap();
        write(false, 999, "two");
        assert_eq!(text(&old), "one\ntwo\n", "a second has not passed");
        write(false, 1_000, "three");
        fs::remove_file(&path).unwrap();
        write(true, 1_001, "four");
        assert_eq!((text(&old).as_str(), text(&path).as_str()), ("one\ntwo\n", "four\n"), "asked, it looks at once");
        write(true, 1_002, "five");
        assert_eq!(text(&path), "four\nfive\n", "the same file goes on");
    }

    #[test]
    fn while_no_new_file_can_be_had_the_old_one_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let (logs, moved) = (folder.path().join("logs"), folder.path().join("moved"));
        fs::create_dir(&logs).unwrap();
        let mut file = LogFile::open(&logs.join("access.log")).unwrap();
        fs::rename(&logs, &moved).unwrap();
        for line in ["one", "two"] {
            file.look(true, file.looked);
            writeln!(file.file, "{line}").unwrap();
        }
        assert!(file.complained);
        assert_eq!(text(&moved.join("access.log")), "one\ntwo\n");
    }

    /// Whoever let go of a log once waited a second for a disk that hung, on a thread that had more to do.
    #[tokio::test]
    async fn to_close_a_log_that_hangs_takes_no_time_and_what_waits_is_written() {
        let (mut reader, writer) = io::pipe().unwrap();
        let path = PathBuf::from(format!("/proc/self/fd/{}", std::os::fd::AsRawFd::as_raw_fd(&writer)));
        let (tally, unfinished) = (Arc::new(Tally::default()), TaskTracker::new());
        let open = || LogWriter::open(&path, LogFormat::Text, tally.clone(), unfinished.token()).unwrap();
        let log = open();
        let line = format!("{}\n", "x".repeat(999));
        // more than a pipe holds
        (0..200).for_each(|_| log.lines.send(line.clone()).unwrap());
        let began = Instant::now();
        drop(log);
        assert!(began.elapsed() < FLUSH / 2);
        assert_eq!(unfinished.len(), 1, "it hangs");
        drop(writer);
        let reading = tokio::task::spawn_blocking(move || {
            let mut read = String::new();
            io::Read::read_to_string(&mut reader, &mut read).map(|_| read)
        });
        assert_eq!(reading.await.unwrap().unwrap().lines().count(), 200);
        finish(unfinished).await;
        assert_eq!(tally.read().log_lines_written, 200);
    }

    /// A reload once waited for ever for a log on a disk that hung.
    #[test]
    fn a_log_that_does_not_open_is_given_up_after_a_second() {
        let folder = tempfile::tempdir().unwrap();
        let pipe = folder.path().join("nobody-reads");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let (tally, unfinished) = (Arc::new(Tally::default()), TaskTracker::new());
        let began = Instant::now();
        let opened = LogWriter::open(&pipe, LogFormat::Text, tally, unfinished.token());
        let took = began.elapsed();
        assert!(opened.err().is_some_and(|error| error.kind() == io::ErrorKind::TimedOut));
        assert!(took >= OPEN && took < 5 * OPEN, "{took:?}");
    }

    /// Lines counted as written when they had only been buffered for a disk that was full.
    #[test]
    fn lines_that_a_full_disk_refuses_are_counted_as_dropped() {
        let tally = Arc::new(Tally::default());
        let to = Sink::open(Path::new("/dev/full")).unwrap();
        let mut output = Output::new(to, Reopen::default(), tally.clone());
        ["one\n", "two\n"].iter().for_each(|line| output.add(line));
        output.write();
        let counters = tally.read();
        assert_eq!((counters.log_lines_written, counters.log_lines_dropped, output.torn), (0, 2, true));
    }
}
