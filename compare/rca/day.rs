//! [`Day`]: one recorded day of one system: spans, and metrics and logs where there are, as weir's tables have them.

use std::{collections::BTreeMap, fs::File, ops::Range, path::Path, sync::Arc};

use anyhow::Context;
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Float64Array, Int64Array, StringArray},
    compute::cast,
    datatypes::{DataType, Field, Float64Type, Int64Type, Schema},
    record_batch::RecordBatch,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_analyzer::causes::{Incident, Verdict};
use weir_schema::{Batch, Table};

pub(crate) const SECOND: i64 = 1_000_000_000;

/// What is not taken for healthy after a fault was injected. Recorded times are late by up to a minute, so a window just
/// before one may show it: such answers are printed with the service of that fault.
pub(crate) const AFTER: i64 = 300 * SECOND;

/// A window without a fault is this long, or as much of it as was recorded.
const WINDOW: i64 = 60 * SECOND;

/// The metrics that are read: as Nezha names them.
const CPU: [&str; 2] = ["CpuUsageRate(%)", "CpuUsage(m)"];

pub(crate) struct Fault {
    pub(crate) at: i64,
    pub(crate) service: String,
    pub(crate) kind: String,
}

/// What an answer may look at.
#[derive(Clone, Copy)]
pub(crate) struct Signals {
    pub(crate) name: &'static str,
    pub(crate) metrics: bool,
    pub(crate) logs: bool,
}

pub(crate) struct Day {
    pub(crate) name: String,
    pub(crate) spans: Vec<Span>,
    pub(crate) lines: Vec<Line>,
    pub(crate) fault_free: Range<i64>,
    pub(crate) faults: Vec<Fault>,
    spans_batch: RecordBatch,
    lines_batch: Option<RecordBatch>,
    metrics: Option<RecordBatch>,
}

#[derive(Clone)]
pub(crate) struct Span {
    pub(crate) trace: u128,
    pub(crate) id: u64,
    /// 0 for a root.
    pub(crate) parent: u64,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) service: Arc<str>,
    pub(crate) operation: Arc<str>,
}

#[derive(Clone)]
pub(crate) struct Line {
    /// Some carry a nonsense time, as recorded.
    pub(crate) at: i64,
    pub(crate) trace: u128,
    pub(crate) span: u64,
    pub(crate) service: Arc<str>,
    pub(crate) body: Arc<str>,
}

/// What came in one second.
pub(crate) struct Second {
    /// Since 1970.
    pub(crate) number: i64,
    /// Those that ended in it.
    pub(crate) spans: RecordBatch,
    /// Lines and metrics.
    pub(crate) beside: Vec<Batch>,
}

impl Day {
    pub(crate) fn read(folder: &Path) -> Result<Self, anyhow::Error> {
        let rows = read(&folder.join("spans.parquet"))?;
        let mut spans = spans(&rows)?;
        let source = cast(&rows["source"], &DataType::Utf8)?;
        let free = |row: &usize| source.as_string::<i32>().value(*row).starts_with("fault_free");
        let free: Vec<i64> = (0..rows.num_rows()).filter(free).map(|row| spans[row].start).collect();
        let first = free.iter().min().context("no fault_free recording")?;
        let fault_free = *first..free.iter().max().unwrap_or(first) + 1;
        spans.sort_by_key(|span| span.start);
        let mut faults = faults(&std::fs::read(folder.join("faults.json"))?)?;
        faults.sort_by_key(|fault| fault.at);
        let there = |name: &str| Some(folder.join(name)).filter(|path| path.exists());
        let mut lines = there("logs.parquet").map(|path| lines(&read(&path)?)).transpose()?.unwrap_or_default();
        lines.sort_by_key(|line| line.at);
        let metrics = there("metrics.parquet").map(|path| metrics(&read(&path)?)).transpose()?;
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lines_batch = (!lines.is_empty()).then(|| lines_batch(&lines));
        Ok(Self { name, spans_batch: spans_batch(&spans), lines_batch, spans, lines, fault_free, faults, metrics })
    }

    /// A day without a fault, of which there is nothing but spans, by start.
    pub(crate) fn of_spans(spans: Vec<Span>) -> Self {
        Self {
            name: String::new(),
            spans_batch: spans_batch(&spans),
            spans,
            lines: Vec::new(),
            fault_free: 0..0,
            faults: Vec::new(),
            lines_batch: None,
            metrics: None,
        }
    }

    /// The sets of signals that there are, from little to much.
    pub(crate) fn signals(&self) -> Vec<Signals> {
        let mut all = vec![Signals { name: "spans only", metrics: false, logs: false }];
        if self.metrics.is_some() {
            all.push(Signals { name: "+ metrics", metrics: true, logs: false });
        }
        if self.lines_batch.is_some() {
            all.push(Signals { name: "+ logs", metrics: self.metrics.is_some(), logs: true });
        }
        all
    }

    pub(crate) fn verdict(&self, history: &Range<i64>, range: &Range<i64>, signals: Signals) -> Verdict {
        let mut incident = Incident::new();
        for range in [history, range] {
            self.add_spans(&mut incident, range);
        }
        for range in [history, range] {
            self.add_beside(&mut incident, range, signals);
        }
        incident.verdict(history, range)
    }

    /// As [`Day::verdict`], with other spans and lines in `range`. Metrics are left out: they are not made.
    pub(crate) fn verdict_of(
        &self,
        history: &Range<i64>,
        range: &Range<i64>,
        made: (&[Span], &[Line]),
        signals: Signals,
    ) -> Verdict {
        let mut incident = Incident::new();
        self.add_spans(&mut incident, history);
        incident.add(&spans_batch(made.0));
        let signals = Signals { metrics: false, ..signals };
        self.add_beside(&mut incident, history, signals);
        if signals.logs {
            incident.add_logs(&lines_batch(made.1));
        }
        incident.verdict(history, range)
    }

    fn add_spans(&self, incident: &mut Incident, range: &Range<i64>) {
        let place = |at: i64| self.spans.partition_point(|span| span.start < at);
        let (low, high) = (place(range.start), place(range.end));
        incident.add(&self.spans_batch.slice(low, high - low));
    }

    fn add_beside(&self, incident: &mut Incident, range: &Range<i64>, signals: Signals) {
        if let Some(lines) = self.lines_batch.as_ref().filter(|_| signals.logs) {
            let place = |at: i64| self.lines.partition_point(|line| line.at < at);
            let (low, high) = (place(range.start), place(range.end));
            incident.add_logs(&lines.slice(low, high - low));
        }
        if let Some(metrics) = self.metrics_of(range.start, range.end).filter(|_| signals.metrics) {
            incident.add_metrics(&metrics);
        }
    }

    /// What came in each second that has spans, by time.
    pub(crate) fn seconds(&self, signals: Signals) -> Vec<Second> {
        let mut ends: Vec<usize> = (0..self.spans.len()).collect();
        ends.sort_by_key(|place| self.spans[*place].end);
        let ends_of: BTreeMap<(u128, u64), i64> =
            self.spans.iter().map(|span| ((span.trace, span.id), span.end / SECOND)).collect();
        let mut lines: BTreeMap<i64, Vec<Line>> = BTreeMap::new();
        for line in self.lines.iter().filter(|_| signals.logs) {
            if let Some(second) = ends_of.get(&(line.trace, line.span)) {
                // its own time is as recorded, and some are nonsense
                lines.entry(*second).or_default().push(Line { at: second * SECOND, ..line.clone() });
            }
        }
        let mut from = i64::MIN;
        let second = |spans: &[usize]| {
            let number = self.spans[spans[0]].end / SECOND;
            let spans: Vec<Span> = spans.iter().map(|place| self.spans[*place].clone()).collect();
            let metrics = self.metrics_of(std::mem::replace(&mut from, (number + 1) * SECOND), (number + 1) * SECOND);
            let metrics = metrics.filter(|_| signals.metrics).map(|rows| Batch { table: Table::Metrics, rows });
            let lines = lines.remove(&number).map(|lines| Batch { table: Table::Logs, rows: lines_batch(&lines) });
            Second { number, spans: spans_batch(&spans), beside: lines.into_iter().chain(metrics).collect() }
        };
        ends.chunk_by(|a, b| self.spans[*a].end / SECOND == self.spans[*b].end / SECOND).map(second).collect()
    }

    fn metrics_of(&self, from: i64, to: i64) -> Option<RecordBatch> {
        let metrics = self.metrics.as_ref()?;
        let times = metrics["time_unix_nano"].as_primitive::<Int64Type>().values();
        let (low, high) = (times.partition_point(|at| *at < from), times.partition_point(|at| *at < to));
        (low < high).then(|| metrics.slice(low, high - low))
    }

    /// Whether a fault was injected not long before.
    pub(crate) fn is_disturbed(&self, at: i64) -> bool {
        self.faults.iter().any(|fault| (fault.at..fault.at + AFTER).contains(&at))
    }

    /// Recorded time before a fault was injected, or long after.
    pub(crate) fn quiet_windows(&self) -> Vec<Range<i64>> {
        let mut windows = Vec::new();
        let mut at = self.spans[0].start;
        while let Some(start) =
            self.spans.get(self.spans.partition_point(|span| span.start < at)).map(|span| span.start)
        {
            let fault = self.faults.iter().map(|fault| fault.at).filter(|fault| *fault > start).min();
            let end = (start + WINDOW).min(fault.unwrap_or(i64::MAX));
            if !self.is_disturbed(start) && end - start >= WINDOW / 2 {
                windows.push(start..end);
            }
            at = end.max(at + SECOND);
        }
        windows
    }
}

fn read(path: &Path) -> Result<RecordBatch, anyhow::Error> {
    let reader =
        ParquetRecordBatchReaderBuilder::try_new(File::open(path)?)?.with_batch_size(usize::MAX >> 1).build()?;
    let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
    Ok(arrow::compute::concat_batches(&batches[0].schema(), &batches)?)
}

/// A column as text.
fn text(rows: &RecordBatch, name: &str) -> Result<StringArray, anyhow::Error> {
    Ok(cast(&rows[name], &DataType::Utf8)?.as_string::<i32>().clone())
}

/// Each name once.
#[derive(Default)]
struct Shared(BTreeMap<String, Arc<str>>);

impl Shared {
    fn of(&mut self, text: &str) -> Arc<str> {
        self.0.entry(text.to_owned()).or_insert_with(|| text.into()).clone()
    }
}

fn spans(rows: &RecordBatch) -> Result<Vec<Span>, anyhow::Error> {
    let (trace, span, parent) = (text(rows, "trace_id")?, text(rows, "span_id")?, text(rows, "parent_id")?);
    let (pod, operation) = (text(rows, "pod")?, text(rows, "operation")?);
    let starts = rows["start_unix_nano"].as_primitive::<Int64Type>();
    let ends = rows["end_unix_nano"].as_primitive::<Int64Type>();
    let mut names = Shared::default();
    let mut span = |row: usize| Span {
        trace: id(trace.value(row)),
        id: id(span.value(row)) as u64,
        parent: if parent.value(row) == "root" { 0 } else { id(parent.value(row)) as u64 },
        start: starts.value(row),
        end: ends.value(row),
        service: names.of(service(pod.value(row))),
        operation: names.of(operation.value(row)),
    };
    Ok((0..rows.num_rows()).map(&mut span).collect())
}

fn lines(rows: &RecordBatch) -> Result<Vec<Line>, anyhow::Error> {
    let (trace, span) = (text(rows, "trace_id")?, text(rows, "span_id")?);
    let (pod, body) = (text(rows, "pod")?, text(rows, "body")?);
    let times = rows["time_unix_nano"].as_primitive::<Int64Type>();
    let mut names = Shared::default();
    let mut line = |row: usize| Line {
        at: times.value(row),
        trace: id(trace.value(row)),
        span: id(span.value(row)) as u64,
        service: names.of(service(pod.value(row))),
        body: body.value(row).into(),
    };
    Ok((0..rows.num_rows()).map(&mut line).collect())
}

/// The metrics of pods that may say something, one a row, by time.
fn metrics(rows: &RecordBatch) -> Result<RecordBatch, anyhow::Error> {
    let pod = text(rows, "PodName")?;
    let seconds = rows["TimeStamp"].as_primitive::<Int64Type>();
    let mut points: Vec<(i64, &str, &str, f64)> = Vec::new();
    for name in CPU {
        let values = rows[name].as_primitive::<Float64Type>();
        let there = (0..rows.num_rows()).filter(|row| pod.is_valid(*row) && values.is_valid(*row));
        points.extend(there.map(|row| (seconds.value(row) * SECOND, pod.value(row), name, values.value(row))));
    }
    points.sort_by(|a, b| (a.0, a.1, a.2).cmp(&(b.0, b.1, b.2)));
    let strings = |of: fn(&(i64, &str, &str, f64)) -> String| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(points.iter().map(of)))
    };
    Ok(batch(vec![
        ("time_unix_nano", Arc::new(Int64Array::from_iter_values(points.iter().map(|point| point.0)))),
        ("service", strings(|point| service(point.1).to_owned())),
        ("instance", strings(|point| point.1.to_owned())),
        ("name", strings(|point| point.2.to_owned())),
        ("kind", strings(|_| "gauge".to_owned())),
        ("value", Arc::new(Float64Array::from_iter_values(points.iter().map(|point| point.3)))),
    ]))
}

fn spans_batch(spans: &[Span]) -> RecordBatch {
    let strings = |of: fn(&Span) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(spans.iter().map(of))) };
    let longs = |of: fn(&Span) -> i64| -> ArrayRef { Arc::new(Int64Array::from_iter_values(spans.iter().map(of))) };
    let id = |of: fn(&Span) -> u64| -> ArrayRef {
        Arc::new(BinaryArray::from_iter(
            spans.iter().map(|span| Some(of(span)).filter(|id| *id != 0).map(u64::to_be_bytes)),
        ))
    };
    batch(vec![
        ("trace_id", Arc::new(BinaryArray::from_iter_values(spans.iter().map(|span| span.trace.to_be_bytes())))),
        ("span_id", id(|span| span.id)),
        ("parent_span_id", id(|span| span.parent)),
        ("start_unix_nano", longs(|span| span.start)),
        ("duration_ns", longs(|span| span.end - span.start)),
        ("service", strings(|span| &span.service)),
        ("operation", strings(|span| &span.operation)),
        ("kind", strings(|_| "unspecified")),
        ("status", strings(|_| "unset")),
    ])
}

fn lines_batch(lines: &[Line]) -> RecordBatch {
    let strings = |of: fn(&Line) -> &str| -> ArrayRef { Arc::new(StringArray::from_iter_values(lines.iter().map(of))) };
    batch(vec![
        ("time_unix_nano", Arc::new(Int64Array::from_iter_values(lines.iter().map(|line| line.at)))),
        ("service", strings(|line| &line.service)),
        ("trace_id", Arc::new(BinaryArray::from_iter_values(lines.iter().map(|line| line.trace.to_be_bytes())))),
        ("span_id", Arc::new(BinaryArray::from_iter_values(lines.iter().map(|line| line.span.to_be_bytes())))),
        ("body", strings(|line| &line.body)),
    ])
}

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    let columns = columns.into_iter().map(|(_, column)| column).collect();
    RecordBatch::try_new(Arc::new(schema), columns).expect("columns as long as each other")
}

/// The number that an id is.
fn id(text: &str) -> u128 {
    u128::from_str_radix(text, 16).unwrap_or(0)
}

/// A pod's name without the two parts of its hash.
fn service(pod: &str) -> &str {
    pod.rsplitn(3, '-').last().unwrap_or(pod)
}

fn faults(json: &[u8]) -> Result<Vec<Fault>, anyhow::Error> {
    let hours: BTreeMap<String, Vec<BTreeMap<String, serde_json::Value>>> = serde_json::from_slice(json)?;
    let fault = |fields: BTreeMap<String, serde_json::Value>| {
        let text =
            |name: &str| fields.get(name).and_then(|v| v.as_str()).map(str::to_owned).context("a field is missing");
        let time = format!("{}Z", text("inject_time")?.replace(' ', "T"));
        let at = i64::try_from(time.parse::<jiff::Timestamp>()?.as_nanosecond())?;
        Ok(Fault { at, service: service(&text("inject_pod")?).to_owned(), kind: text("inject_type")? })
    };
    hours.into_values().flatten().map(fault).collect()
}
