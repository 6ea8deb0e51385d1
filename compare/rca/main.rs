//! Ranks the root causes of recorded faults and prints which rank the true one has: from spans only, with
//! past-only history and, apart from it, with the fault-free recording as a known-healthy reference; also windows
//! without a fault, and how sure the answers were.
//!
//! `rca DIR…`: folders with `spans.parquet` and `faults.json` as in README.md beside this file.

#![allow(clippy::print_stdout)] // its output is the result

use std::{collections::BTreeMap, fs::File, ops::Range, path::Path, sync::Arc};

use anyhow::Context;
use arrow::{
    array::{Array, ArrayRef, AsArray, BinaryArray, Int64Array, StringArray},
    datatypes::{DataType, Field, Int64Type, Schema},
    record_batch::RecordBatch,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use weir_analyzer::causes::{Incident, Verdict};

const SECOND: i64 = 1_000_000_000;

/// As long as a fault is looked at.
const FAULT: i64 = 150 * SECOND;

/// What is not taken for healthy after a fault was injected. Recorded times are late by up to a minute, so a window just
/// before one may show it: such answers are printed with the service of that fault.
const AFTER: i64 = 300 * SECOND;

/// A window without a fault is this long, or as much of it as was recorded.
const WINDOW: i64 = 60 * SECOND;

struct Fault {
    at: i64,
    service: String,
    kind: String,
}

/// One day of one system.
struct Day {
    name: String,
    spans: RecordBatch,
    starts: Vec<i64>,
    fault_free: Range<i64>,
    faults: Vec<Fault>,
}

fn main() -> Result<(), anyhow::Error> {
    let mut answers: Vec<(f64, bool)> = Vec::new();
    let (mut confident, mut healthy) = (0, 0);
    for folder in std::env::args().skip(1) {
        let day = Day::read(Path::new(&folder)).with_context(|| folder.clone())?;
        println!("\n## {}\n", day.name);
        day.past_only(&mut answers);
        day.reference();
        let (sure, windows) = day.without_fault();
        (confident, healthy) = (confident + sure, healthy + windows);
    }
    println!("\n## Confidence, past-only\n\n| said | right | of |\n|---|---|---|");
    for (low, high) in [(0.8, 1.01), (0.6, 0.8), (0.4, 0.6), (0.2, 0.4), (0.0, 0.2)] {
        let said: Vec<_> = answers.iter().filter(|(confidence, _)| (low..high).contains(confidence)).collect();
        println!("| {low} to {high:.1} | {} | {} |", said.iter().filter(|(_, right)| *right).count(), said.len());
    }
    println!(
        "\nWindows without a fault: {confident} of {healthy} with a finding at 0.8 or more {}",
        wilson(confident, healthy)
    );
    Ok(())
}

impl Day {
    fn read(folder: &Path) -> Result<Self, anyhow::Error> {
        let file = File::open(folder.join("spans.parquet"))?;
        let reader = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(usize::MAX >> 1).build()?;
        let batches: Vec<RecordBatch> = reader.collect::<Result<_, _>>()?;
        let rows = arrow::compute::concat_batches(&batches[0].schema(), &batches)?;
        let order = arrow::compute::sort_to_indices(&rows["start_unix_nano"], None, None)?;
        let rows = arrow::compute::take_record_batch(&rows, &order)?;
        let spans = spans(&rows)?;
        let starts = spans["start_unix_nano"].as_primitive::<Int64Type>().values().to_vec();
        let source = arrow::compute::cast(&rows["source"], &DataType::Utf8)?;
        let free = |row: &usize| source.as_string::<i32>().value(*row).starts_with("fault_free");
        let mut free_starts = (0..rows.num_rows()).filter(free).map(|row| starts[row]);
        let first = free_starts.next().context("no fault_free recording")?;
        let fault_free = first..free_starts.next_back().unwrap_or(first) + 1;
        let mut faults = faults(&std::fs::read(folder.join("faults.json"))?)?;
        faults.sort_by_key(|fault| fault.at);
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        Ok(Self { name, spans, starts, fault_free, faults })
    }

    /// Everything from the day's first span to `at`, earlier faults and all.
    fn past_only(&self, answers: &mut Vec<(f64, bool)>) {
        let first = self.starts[0];
        let mut table = Table::new("past-only");
        for fault in &self.faults {
            let Some((rank, confidence, seen)) = self.rank_of(fault, &(first..fault.at)) else { continue };
            table.add(&fault.kind, rank);
            if seen {
                answers.push((confidence, rank == Some(1)));
            }
        }
        table.print();
    }

    /// Only the fault-free recording, in pieces.
    fn reference(&self) {
        let mut table = Table::new("healthy reference");
        for fault in &self.faults {
            if let Some((rank, ..)) = self.rank_of(fault, &self.fault_free) {
                table.add(&fault.kind, rank);
            }
        }
        table.print();
    }

    /// The rank of the true cause, the confidence of the first, whether there was history. `None` without data.
    fn rank_of(&self, fault: &Fault, history: &Range<i64>) -> Option<(Option<usize>, f64, bool)> {
        let verdict = self.verdict(history, &(fault.at..fault.at + FAULT));
        let causes = &verdict.ranking.causes;
        if verdict.ranking.requests == 0 {
            return None;
        }
        let rank = causes.iter().position(|cause| cause.service == fault.service).map(|place| place + 1);
        let first = causes.first().map_or(0.0, |cause| cause.confidence);
        if rank != Some(1) || std::env::var_os("VERBOSE").is_some() {
            let said: Vec<String> = causes
                .iter()
                .take(3)
                .map(|c| format!("{} {:.0} ms {:.2}", c.service, c.lost_ms, c.confidence))
                .collect();
            println!("- {} {} at {}: rank {rank:?}; {}", fault.service, fault.kind, fault.at / SECOND, said.join(", "));
            for evidence in causes.first().iter().flat_map(|cause| &cause.evidence) {
                println!("    {}", evidence.text);
            }
        }
        Some((rank, first, verdict.ranking.history_windows > 0))
    }

    fn without_fault(&self) -> (usize, usize) {
        let (mut confident, mut windows) = (0, 0);
        for window in self.quiet_windows() {
            let verdict = self.verdict(&(self.starts[0]..window.start), &window);
            if verdict.ranking.requests < 5 || verdict.ranking.history_windows == 0 {
                continue;
            }
            windows += 1;
            let Some(cause) = verdict.ranking.causes.first().filter(|cause| cause.confidence >= 0.8) else { continue };
            confident += 1;
            let next = self.faults.iter().find(|fault| fault.at >= window.end);
            let next = next.map_or(String::new(), |f| {
                format!("; {} s later {} in {}", (f.at - window.end) / SECOND, f.kind, f.service)
            });
            println!("- without a fault at {}: {} {:.2}{next}", window.start / SECOND, cause.service, cause.confidence);
        }
        println!("\n{windows} windows of up to a minute without a fault, {confident} with a finding at 0.8 or more");
        (confident, windows)
    }

    /// Recorded time before a fault was injected, or long after.
    fn quiet_windows(&self) -> Vec<Range<i64>> {
        let disturbed = |at: i64| self.faults.iter().any(|fault| (fault.at..fault.at + AFTER).contains(&at));
        let mut windows = Vec::new();
        let mut at = self.starts[0];
        while let Some(start) = self.starts.get(self.place(at)).copied() {
            let fault = self.faults.iter().map(|fault| fault.at).filter(|fault| *fault > start).min();
            let end = (start + WINDOW).min(fault.unwrap_or(i64::MAX));
            if !disturbed(start) && end - start >= WINDOW / 2 {
                windows.push(start..end);
            }
            at = end.max(at + SECOND);
        }
        windows
    }

    fn verdict(&self, history: &Range<i64>, range: &Range<i64>) -> Verdict {
        let mut incident = Incident::new();
        for range in [history, range] {
            let (low, high) = (self.place(range.start), self.place(range.end));
            incident.add(&self.spans.slice(low, high - low));
        }
        incident.verdict(history, range)
    }

    fn place(&self, at: i64) -> usize {
        self.starts.partition_point(|start| *start < at)
    }
}

/// The columns of `spans` that are there.
fn spans(rows: &RecordBatch) -> Result<RecordBatch, anyhow::Error> {
    let text = |name: &str| -> Result<StringArray, anyhow::Error> {
        Ok(arrow::compute::cast(&rows[name], &DataType::Utf8)?.as_string::<i32>().clone())
    };
    let (trace, span, parent) = (text("trace_id")?, text("span_id")?, text("parent_id")?);
    let (pod, operation) = (text("pod")?, text("operation")?);
    let starts = rows["start_unix_nano"].as_primitive::<Int64Type>();
    let ends = rows["end_unix_nano"].as_primitive::<Int64Type>();
    let ids = |ids: &StringArray, bytes: usize| -> ArrayRef {
        let id = |text: Option<&str>| text.filter(|text| *text != "root").map(|text| id(text, bytes));
        Arc::new(BinaryArray::from_iter(ids.iter().map(id)))
    };
    let durations = starts.values().iter().zip(ends.values()).map(|(start, end)| end - start);
    let count = rows.num_rows();
    let constant = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; count])) };
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("trace_id", ids(&trace, 16)),
        ("span_id", ids(&span, 8)),
        ("parent_span_id", ids(&parent, 8)),
        ("start_unix_nano", Arc::new(starts.clone())),
        ("duration_ns", Arc::new(Int64Array::from_iter_values(durations))),
        ("service", Arc::new(StringArray::from_iter_values(pod.iter().flatten().map(service)))),
        ("operation", Arc::new(operation)),
        ("kind", constant("unspecified")),
        ("status", constant("unset")),
    ];
    let field = |(name, column): &(&str, ArrayRef)| Field::new(*name, column.data_type().clone(), true);
    let schema = Schema::new(columns.iter().map(field).collect::<Vec<_>>());
    Ok(RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect())?)
}

/// The last digits of an id, as bytes.
fn id(text: &str, bytes: usize) -> Vec<u8> {
    let digits = u128::from_str_radix(text, 16).unwrap_or(0).to_be_bytes();
    digits[16 - bytes..].to_vec()
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

/// Ranks by kind of fault.
struct Table {
    title: &'static str,
    ranks: BTreeMap<String, Vec<Option<usize>>>,
}

impl Table {
    fn new(title: &'static str) -> Self {
        Self { title, ranks: BTreeMap::new() }
    }

    fn add(&mut self, kind: &str, rank: Option<usize>) {
        let class = if matches!(kind, "return" | "exception") { "all code faults" } else { "all latency faults" };
        for of in [kind, class, "all"] {
            self.ranks.entry(of.to_owned()).or_default().push(rank);
        }
    }

    fn print(&self) {
        println!("\n| {} | n | top-1 | top-3 | top-5 | top-1, 95 % |\n|---|---|---|---|---|---|", self.title);
        for (kind, ranks) in &self.ranks {
            let within = |most: usize| ranks.iter().filter(|rank| rank.is_some_and(|rank| rank <= most)).count();
            println!(
                "| {kind} | {} | {} | {} | {} | {} |",
                ranks.len(),
                within(1),
                within(3),
                within(5),
                wilson(within(1), ranks.len())
            );
        }
    }
}

/// Wilson's interval of a share, in percent.
fn wilson(hits: usize, n: usize) -> String {
    if n == 0 {
        return String::new();
    }
    let (n, p, z) = (n as f64, hits as f64 / n as f64, 1.96_f64);
    let middle = (p + z * z / (2.0 * n)) / (1.0 + z * z / n);
    let half = z / (1.0 + z * z / n) * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    format!("{:.0} % [{:.0}, {:.0}]", p * 100.0, (middle - half).max(0.0) * 100.0, (middle + half).min(1.0) * 100.0)
}
