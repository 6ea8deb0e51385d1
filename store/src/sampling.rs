//! [`Sampler`]: which traces are kept whole in files, decided when their spans leave memory.
//!
//! Off by default. What is derived from spans (rates, edges, estimates, `trace_index`) is made
//! before, from all of them; sampling only saves disk. Traces that people look for are kept; of the
//! rest a share is kept, chosen by trace id, and each kept row says in `sample_weight` how many it
//! stands for, so `sum(coalesce(sample_weight, 1))` stays unbiased (D. Horvitz and D. Thompson, A
//! Generalization of Sampling Without Replacement, JASA 1952).
//!
//! The share is OpenTelemetry's consistent probability sampling: the last 7 bytes of a trace id are
//! a number R uniform in `[0, 2⁵⁶)`, and a trace is kept with probability p when `R ≥ (1 − p)·2⁵⁶`.
//! Every flush and every node decides alike. Spans that a client sampled already carry their weight w
//! and passed R ≥ (1 − 1/w)·2⁵⁶, so p is the share of that.
//!
//! A trace whose spans come over several flushes is judged by what has come: once it is kept, what
//! follows is kept; what was let go before an error came stays gone. So spans wait in memory before they are judged
//! ([`Sampling::decision_wait_ms`]), and what came meanwhile of their traces speaks for them, too.

use std::sync::Arc;

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, Float64Array},
    compute::filter_record_batch,
    datatypes::{Float64Type, Int64Type},
    record_batch::RecordBatch,
};
use hashbrown::HashMap;
use serde::{Deserialize, Serialize};
use weir_schema::{InvalidSetting, MINUTE_NS, UnixNanos};
use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// Longer than this nothing waits in memory.
const MAX_WAIT_MS: u64 = 600_000;

/// 2⁵⁶: how many values the last 7 bytes of a trace id have.
const RANDOMNESS: f64 = (1_u64 << 56) as f64;

/// Traces remembered in each of two generations: 100,000 of them take about 7 MiB.
const REMEMBERED_TRACES: usize = 100_000;

/// Minutes and operations that are counted at once; beyond, the oldest minutes are forgotten, and
/// their operations count as rare again.
const COUNTED_OPERATIONS: usize = 50_000;

/// Which traces are kept in files.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Sampling {
    /// Share of the traces that nothing below speaks for, 0 to 1. 1: all are kept, sampling is off.
    pub share: f64,
    /// Keep every trace with a span of status error.
    pub errors: bool,
    /// Keep every trace that took longer than this from its first start to its last end, in
    /// milliseconds. Absent: duration is no reason.
    pub slower_than_ms: Option<u64>,
    /// Keep the first so many traces of each root operation in each minute: operations rarer than
    /// this are kept whole. 0: rarity is no reason.
    pub rare_per_minute: u32,
    /// How long a span waits in memory before it is decided whether it is kept, in milliseconds. A trace is kept whole when what speaks for
    /// it, such as the end of a slow root, comes so soon after its first span; of a longer one the first spans are gone. While more
    /// than half of `memory_limit_bytes` is used nothing waits. 10 s: the longest request of most meshes.
    pub decision_wait_ms: u64,
}

impl Default for Sampling {
    fn default() -> Self {
        Self { share: 1.0, errors: true, slower_than_ms: None, rare_per_minute: 10, decision_wait_ms: 10_000 }
    }
}

impl Sampling {
    /// Checks that the numbers can work together.
    ///
    /// # Errors
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if !(0.0..=1.0).contains(&self.share) {
            return Err(InvalidSetting::new("share", self.share, "be from 0 to 1"));
        }
        let wait_ms = self.decision_wait_ms;
        if wait_ms > MAX_WAIT_MS {
            return Err(InvalidSetting::new(
                "decision_wait_ms",
                wait_ms,
                format!("be at most {MAX_WAIT_MS} (10 minutes)"),
            ));
        }
        if let Some(limit_ms) = self.slower_than_ms.filter(|limit_ms| *limit_ms > i64::MAX as u64 / 1_000_000) {
            return Err(InvalidSetting::new("slower_than_ms", limit_ms, "be less than 292 years"));
        }
        Ok(())
    }
}

/// Applies [`Sampling`] to spans, flush by flush.
#[derive(Debug)]
pub(crate) struct Sampler {
    config: Sampling,
    traces: Traces,
    /// Traces seen by minute and root operation.
    operations: HashMap<Root, u32>,
    dropped_spans: u64,
}

/// What is remembered of a trace that may have more spans to come.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Judged {
    start: UnixNanos,
    end: UnixNanos,
    verdict: Verdict,
    /// Whether its root was counted.
    counted: bool,
}

/// What becomes of a trace's spans.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Verdict {
    /// All are kept and stand for themselves.
    Whole,
    /// Kept with this probability, by trace id.
    Share(f64),
}

/// Two generations of traces: the young one grows old when it is full, and the old one goes.
#[derive(Debug, Default)]
struct Traces {
    young: HashMap<u128, Judged>,
    old: HashMap<u128, Judged>,
}

/// The spans of one trace in one flush, in whichever requests they came.
struct Group {
    trace: u128,
    start: UnixNanos,
    end: UnixNanos,
    error: bool,
    root: Option<Root>,
    /// The smallest weight among them: what the least sampled of them stands for.
    weight: f64,
}

/// What a root is counted by: its minute, and a hash of its service and operation.
type Root = (UnixNanos, u64);

impl Sampler {
    pub(crate) fn new(config: Sampling) -> Self {
        Self { config, traces: Traces::default(), operations: HashMap::new(), dropped_spans: 0 }
    }

    /// The spans of a flush that are kept, in order, with their weights; a trace is judged by its spans in all batches, and in
    /// those that wait for a later flush.
    pub(crate) fn apply(&mut self, batches: &[RecordBatch], waiting: &[RecordBatch]) -> Vec<RecordBatch> {
        if self.config.share >= 1.0 {
            return batches.to_vec();
        }
        let (groups, groups_of) = groups(batches, waiting);
        let verdicts: Vec<Verdict> = groups.iter().map(|group| self.judge(group)).collect();
        let judged = |group: &u32| (groups[*group as usize].trace, verdicts[*group as usize]);
        let kept = batches.iter().zip(&groups_of).map(|(rows, group_of)| kept(rows, group_of.iter().map(judged)));
        let kept: Vec<RecordBatch> = kept.collect();
        let rows = |batches: &[RecordBatch]| batches.iter().map(RecordBatch::num_rows).sum::<usize>();
        self.dropped_spans += (rows(batches) - rows(&kept)) as u64;
        kept
    }

    /// Spans that were let go.
    pub(crate) fn dropped_spans(&self) -> u64 {
        self.dropped_spans
    }

    fn judge(&mut self, group: &Group) -> Verdict {
        let before = self.traces.get(group.trace);
        let start = before.map_or(group.start, |judged| judged.start.min(group.start));
        let end = before.map_or(group.end, |judged| judged.end.max(group.end));
        let slow = self.config.slower_than_ms.is_some_and(|ms| end.saturating_sub(start) > ms as i64 * 1_000_000);
        // every root is counted once, also of traces that are kept anyway
        let counted = before.is_some_and(|judged| judged.counted);
        let rare = group.root.filter(|_| !counted).is_some_and(|root| self.is_rare(root));
        let counted = counted || group.root.is_some();
        let whole = slow || rare || (self.config.errors && group.error);
        let verdict = match before.map(|judged| judged.verdict) {
            Some(verdict @ Verdict::Whole) => verdict,
            _ if whole => Verdict::Whole,
            Some(verdict) => verdict,
            None => Verdict::Share(self.config.share / group.weight),
        };
        self.traces.insert(group.trace, Judged { start, end, verdict, counted });
        verdict
    }

    fn is_rare(&mut self, root: Root) -> bool {
        if self.config.rare_per_minute == 0 {
            return false;
        }
        if self.operations.len() >= COUNTED_OPERATIONS {
            self.forget_old_minutes();
        }
        let seen = self.operations.entry(root).or_default();
        *seen = seen.saturating_add(1);
        *seen <= self.config.rare_per_minute
    }

    /// Keeps the newer half of the minutes.
    fn forget_old_minutes(&mut self) {
        let mut minutes: Vec<_> = self.operations.keys().map(|(minute, _)| *minute).collect();
        minutes.sort_unstable();
        let middle = minutes[minutes.len() / 2];
        self.operations.retain(|(minute, _), _| *minute > middle);
    }
}

impl Verdict {
    fn keeps(self, trace: u128) -> bool {
        match self {
            Self::Whole => true,
            Self::Share(probability) => {
                let randomness = (trace as u64 & ((1 << 56) - 1)) as f64;
                // the largest 56-bit number rounds up to 2⁵⁶
                probability > 0.0 && randomness >= (1.0 - probability) * RANDOMNESS
            }
        }
    }
}

impl Traces {
    fn get(&self, trace: u128) -> Option<Judged> {
        self.young.get(&trace).or_else(|| self.old.get(&trace)).copied()
    }

    fn insert(&mut self, trace: u128, judged: Judged) {
        if self.young.len() >= REMEMBERED_TRACES && !self.young.contains_key(&trace) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(trace, judged);
    }
}

/// The traces of a flush, as they first appear, with what waits of them, and the trace of each row of each batch.
fn groups(batches: &[RecordBatch], waiting: &[RecordBatch]) -> (Vec<Group>, Vec<Vec<u32>>) {
    let (mut groups, mut places) = (Vec::new(), HashMap::new());
    let groups_of = batches.iter().map(|rows| group_rows(rows, &mut groups, &mut places)).collect();
    let in_flush = groups.len();
    for rows in waiting {
        group_rows(rows, &mut groups, &mut places);
    }
    // those that only wait are judged in their turn
    groups.truncate(in_flush);
    (groups, groups_of)
}

fn group_rows(rows: &RecordBatch, groups: &mut Vec<Group>, places: &mut HashMap<u128, u32>) -> Vec<u32> {
    let ids = rows["trace_id"].as_binary::<i32>();
    let parents = &rows["parent_span_id"];
    let starts = rows["start_unix_nano"].as_primitive::<Int64Type>().values();
    let durations = rows["duration_ns"].as_primitive::<Int64Type>().values();
    let statuses = rows["status"].as_string::<i32>();
    let weights = rows["sample_weight"].as_primitive::<Float64Type>();
    let group_of = |row: usize| {
        let trace = number(ids.value(row));
        let place = *places.entry(trace).or_insert(groups.len() as u32);
        let (start, end) = (starts[row], starts[row].saturating_add(durations[row]));
        if place as usize == groups.len() {
            groups.push(Group { trace, start, end, error: false, root: None, weight: f64::INFINITY });
        }
        let group = &mut groups[place as usize];
        group.start = group.start.min(start);
        group.end = group.end.max(end);
        group.error |= statuses.value(row) == "error";
        group.weight = group.weight.min(if weights.is_valid(row) { weights.value(row).max(1.0) } else { 1.0 });
        if parents.is_null(row) {
            group.root.get_or_insert_with(|| (start.div_euclid(MINUTE_NS), operation(rows, row)));
        }
        place
    };
    (0..rows.num_rows()).map(group_of).collect()
}

/// A hash of a row's service and operation.
fn operation(rows: &RecordBatch, row: usize) -> u64 {
    let text = |column: &str| rows[column].as_string::<i32>().value(row).as_bytes();
    xxh3_64_with_seed(text("operation"), xxh3_64(text("service")))
}

/// The rows that are kept, each by the trace it is of and what became of that.
fn kept(rows: &RecordBatch, judged: impl Iterator<Item = (u128, Verdict)> + Clone) -> RecordBatch {
    let keep: BooleanArray = judged.clone().map(|(trace, verdict)| Some(verdict.keeps(trace))).collect();
    let weights = rows["sample_weight"].as_primitive::<Float64Type>();
    let weight = |(row, (_, verdict)): (usize, (u128, Verdict))| {
        let weight = weights.is_valid(row).then(|| weights.value(row));
        match verdict {
            Verdict::Whole => weight,
            Verdict::Share(probability) => Some(weight.unwrap_or(1.0).max(1.0 / probability)),
        }
    };
    let weights: Float64Array = judged.enumerate().map(weight).collect();
    filter_record_batch(&with_weights(rows, weights), &keep).expect("one answer for each row")
}

/// A trace id as a number; of a longer one the last 16 bytes.
fn number(id: &[u8]) -> u128 {
    id.iter().fold(0, |number, byte| number << 8 | u128::from(*byte))
}

fn with_weights(rows: &RecordBatch, weights: Float64Array) -> RecordBatch {
    let place = rows.schema_ref().index_of("sample_weight").expect("rows of spans have a weight");
    let mut columns: Vec<ArrayRef> = rows.columns().to_vec();
    columns[place] = Arc::new(weights);
    RecordBatch::try_new(rows.schema(), columns).expect("only the weights are others")
}

#[cfg(test)]
mod tests;
