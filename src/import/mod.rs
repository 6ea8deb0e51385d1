//! `weir import FILE…`: brings recorded spans into a store: OTLP (JSON, JSON lines, protobuf),
//! Jaeger JSON, Zipkin v2 JSON and Parquet.
//!
//! Every format becomes one stream of chunks in the order of the file, or by start time where
//! the file can be sorted (Parquet). A chunk is either an OTLP request, which takes the same road
//! as one from the network, or rows of `spans`. A bad record is reported with its position,
//! counted, and the rest goes on. `operations` and `edges` are made by the analyzer from the same
//! batches, as they are live.

mod jaeger;
mod otlp;
mod parquet;
mod sink;
mod zipkin;

use std::{
    collections::BTreeMap,
    fs,
    io::IsTerminal,
    path::{Path, PathBuf},
};

use anyhow::Context;
use bytes::Bytes;
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use weir_schema::{Batch, Encoding};

use crate::{cli::ImportArgs, exit::Exit};
use sink::Sink;

/// Bad records that are printed; the rest are only counted.
const SHOWN_PROBLEMS: usize = 10;

/// A piece of a file, ready to be stored.
pub(crate) enum Chunk {
    /// An `ExportTraceServiceRequest`.
    Otlp {
        /// How it is written.
        encoding: Encoding,
        /// Its bytes.
        body: Bytes,
        /// Which of several in the file it is, `line 3`; empty when it is the only one.
        place: String,
    },
    /// Rows of `spans`.
    Rows(Batch),
}

impl Chunk {
    /// What to say before a problem in it.
    fn place(&self) -> String {
        match self {
            Self::Otlp { place, .. } if !place.is_empty() => format!("{place}: "),
            _ => String::new(),
        }
    }
}

/// One thing a reader met on its way through a file.
pub(crate) enum Item {
    /// Something to store, and how far into the file (bytes or rows) it reaches.
    Chunk(Chunk, u64),
    /// A record that cannot be used: where, and why.
    Bad(String),
}

/// A file that is being read: how long it is in its own unit, and its items.
pub(crate) struct Reader {
    /// Bytes or rows.
    pub(crate) length: u64,
    /// What `length` counts.
    pub(crate) unit: &'static str,
    /// The items, lazily.
    pub(crate) items: Box<dyn Iterator<Item = Item>>,
}

/// What became of the files, also the JSON of `weir import --json`.
#[derive(Debug, Default, Serialize)]
pub struct Summary {
    /// Files read.
    pub files: usize,
    /// Spans stored.
    pub spans: u64,
    /// Spans that a request stored minutes ago already held.
    pub duplicates: u64,
    /// Records that could not be used.
    pub bad_records: u64,
    /// Wall time, in milliseconds.
    pub elapsed_ms: u64,
}

/// Runs `weir import`.
///
/// # Errors
/// A file that cannot be opened, or a store that cannot be reached or written.
pub async fn run(args: ImportArgs) -> Result<Exit, anyhow::Error> {
    let started = std::time::Instant::now();
    let mut sink = Sink::open(&args.target).await?;
    let mut summary = Summary::default();
    for path in &args.files {
        import_file(path, &mut sink, &mut summary).await?;
        summary.files += 1;
    }
    sink.finish().await?;
    summary.elapsed_ms = u64::try_from(started.elapsed().as_millis()).unwrap_or(u64::MAX);
    report(&summary, args.json)?;
    let nothing_usable = summary.spans + summary.duplicates == 0 && summary.bad_records > 0;
    Ok(if nothing_usable { Exit::Failure } else { Exit::Ok })
}

async fn import_file(path: &Path, sink: &mut Sink, summary: &mut Summary) -> Result<(), anyhow::Error> {
    let reader = open(path).with_context(|| format!("reading {}", path.display()))?;
    let bar = progress_bar(path, &reader);
    let mut problems = Problems::new(path);
    for item in reader.items {
        match item {
            Item::Bad(why) => problems.add(&bar, why),
            Item::Chunk(chunk, position) => {
                let place = chunk.place();
                let stored = sink.store(chunk).await.with_context(|| format!("storing {}", path.display()))?;
                summary.spans += stored.spans;
                summary.duplicates += stored.duplicates;
                problems.add_rejected(&bar, stored.rejected, stored.first_rejection.map(|why| place + &why));
                bar.set_position(position);
            }
        }
    }
    bar.finish_and_clear();
    summary.bad_records += problems.count;
    Ok(())
}

/// Tells the format by the file's first bytes, not by its name.
fn open(path: &Path) -> Result<Reader, anyhow::Error> {
    let mut head = [0_u8; 4];
    let read = {
        use std::io::Read;
        let mut file = fs::File::open(path)?;
        file.read(&mut head)?
    };
    anyhow::ensure!(read > 0, "the file is empty");
    if &head == b"PAR1" {
        return parquet::open(path);
    }
    let bytes = Bytes::from(fs::read(path)?);
    match bytes.iter().find(|byte| !byte.is_ascii_whitespace()) {
        Some(b'{') => open_json_object(bytes),
        Some(b'[') => zipkin::open(&bytes),
        _ => otlp::open_protobuf(bytes),
    }
}

/// A JSON object is an OTLP request, lines of them, or Jaeger's `{"data":[…]}`.
fn open_json_object(bytes: Bytes) -> Result<Reader, anyhow::Error> {
    let one: Option<BTreeMap<String, Box<serde_json::value::RawValue>>> = serde_json::from_slice(&bytes).ok();
    match one {
        Some(object) if object.contains_key("data") => jaeger::open(&bytes),
        Some(object) if !object.contains_key("resourceSpans") && !object.contains_key("resource_spans") => {
            let keys: Vec<_> = object.keys().take(5).cloned().collect();
            anyhow::bail!("a JSON object with keys {keys:?} is neither OTLP (resourceSpans) nor Jaeger (data)")
        }
        _ => Ok(otlp::open_json_lines(bytes)),
    }
}

fn progress_bar(path: &Path, reader: &Reader) -> ProgressBar {
    if !std::io::stderr().is_terminal() {
        return ProgressBar::hidden();
    }
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let template = match reader.unit {
        "bytes" => "{msg} [{bar:30}] {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        _ => "{msg} [{bar:30}] {human_pos}/{human_len} rows {per_sec} {eta}",
    };
    let style = ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
    ProgressBar::new(reader.length).with_style(style.progress_chars("=> ")).with_message(name)
}

fn report(summary: &Summary, json: bool) -> Result<(), anyhow::Error> {
    if json {
        crate::output::line(&serde_json::to_string(summary)?)?;
    } else {
        let seconds = summary.elapsed_ms as f64 / 1e3;
        let Summary { files, spans, duplicates, bad_records, .. } = summary;
        let text = format!(
            "{spans} spans from {files} file(s) in {seconds:.1} s; {duplicates} already stored, {bad_records} bad records"
        );
        crate::output::note(&text);
    }
    Ok(())
}

/// Bad records of one file: the first few are shown, all are counted.
struct Problems {
    path: PathBuf,
    count: u64,
    shown: usize,
}

impl Problems {
    fn new(path: &Path) -> Self {
        Self { path: path.to_owned(), count: 0, shown: 0 }
    }

    fn add(&mut self, bar: &ProgressBar, why: String) {
        self.add_rejected(bar, 1, Some(why));
    }

    fn add_rejected(&mut self, bar: &ProgressBar, count: u64, why: Option<String>) {
        self.count += count;
        if count == 0 || self.shown == SHOWN_PROBLEMS {
            return;
        }
        self.shown += 1;
        let why = why.unwrap_or_else(|| "rejected".into());
        bar.suspend(|| crate::output::note(&format!("{}: {why}", self.path.display())));
        if self.shown == SHOWN_PROBLEMS {
            bar.suspend(|| crate::output::note("further bad records are only counted"));
        }
    }
}
