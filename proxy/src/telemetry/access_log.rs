//! [`LogWriter`]: access logs as lines, in a file or on stdout, written by a thread of its own so that
//! a slow disk or a full pipe holds nothing up; what does not fit is dropped and counted.

use std::{
    fmt::Write as _,
    fs::OpenOptions,
    io::{self, BufWriter, Write},
    path::Path,
    sync::{
        Arc,
        mpsc::{Receiver, RecvTimeoutError, SyncSender, TryRecvError, sync_channel},
    },
    time::Duration,
};

use tracing::warn;

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

/// 1 s for the last lines when the proxy stops: a pipe that nobody reads must not hold it up.
const FLUSH: Duration = Duration::from_secs(1);

/// Where lines go.
pub(crate) struct LogWriter {
    lines: Option<SyncSender<String>>,
    format: LogFormat,
    tally: Arc<Tally>,
    /// Closes when everything is written.
    written: Receiver<()>,
}

impl LogWriter {
    /// Opens `path` for appending, or stdout for `-`.
    pub(crate) fn open(path: &Path, format: LogFormat, tally: Arc<Tally>) -> io::Result<Self> {
        let to: Box<dyn Write + Send> = if path == Path::new("-") {
            Box::new(io::stdout())
        } else {
            Box::new(OpenOptions::new().create(true).append(true).open(path)?)
        };
        let (lines, waiting) = sync_channel(MAX_LINES);
        let thread = std::thread::Builder::new().name("weir-proxy-log".into());
        let (counts, (done, written)) = (tally.clone(), sync_channel(0));
        thread.spawn(move || {
            write_all(&waiting, BufWriter::new(to), &counts);
            drop(done);
        })?;
        Ok(Self { lines: Some(lines), format, tally, written })
    }

    /// Queues the line of a record.
    pub(crate) fn write(&self, record: &SpanRecord) {
        let line = line(record, self.format);
        let sent = self.lines.as_ref().is_some_and(|lines| lines.try_send(line).is_ok());
        add(&self.tally.log_lines_dropped, usize::from(!sent));
    }
}

impl Drop for LogWriter {
    fn drop(&mut self) {
        self.lines = None;
        if self.written.recv_timeout(FLUSH) == Err(RecvTimeoutError::Timeout) {
            warn!("stopped before the access log was written to its end");
        }
    }
}

fn write_all(lines: &Receiver<String>, mut to: BufWriter<Box<dyn Write + Send>>, tally: &Tally) {
    loop {
        let line = match lines.try_recv() {
            Ok(line) => line,
            Err(TryRecvError::Disconnected) => break,
            Err(TryRecvError::Empty) => {
                // nothing waits: whoever follows the file is to see what there is
                let _ = to.flush();
                match lines.recv() {
                    Ok(line) => line,
                    Err(_) => break,
                }
            }
        };
        let written = to.write_all(line.as_bytes()).is_ok();
        add(if written { &tally.log_lines_written } else { &tally.log_lines_dropped }, 1);
    }
    let _ = to.flush();
}

/// One record as a line, its end included.
pub(crate) fn line(record: &SpanRecord, format: LogFormat) -> String {
    match format {
        LogFormat::Json => json(record),
        LogFormat::Text => text(record),
    }
}

/// Time, direction, route, method, path, status, duration, bytes, wait, what policy did, peer, trace.
fn text(record: &SpanRecord) -> String {
    let path = record.path.as_deref().unwrap_or("-");
    let peer = record.caller.as_deref().unwrap_or("-");
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
    line.push('\n');
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
