//! [`Report`]: the answer of `weir analyze`, after an incident: the same analyzer, fed with stored
//! spans in event time.
//!
//! ```text
//! before, spans ─┬▶ replay ─▶ windows ─▶ gathered (medians, findings)  ┐
//!                └▶ incident (whole requests, bounded) ◀─ logs, metrics ├▶ report
//!                                  └▶ ranking of causes ────────────────┘
//! ```
//!
//! Rows come as streams and nothing is held twice. Memory is that of a live analyzer, of the incident's requests
//! ([`Incident`] says how many), and of a few numbers a service and edge (`gathered.rs`): it does not grow with the range. What a
//! long range leaves out is said in the report ([`LeftOut`]).

mod entries;
mod findings;
mod gathered;
mod replay;
mod series;
#[cfg(test)]
mod tests;
mod time;

use std::ops::Range;

use arrow::record_batch::RecordBatch;
use serde::Serialize;
use weir_schema::UnixNanos;

use self::{gathered::Gathered, replay::Replay};
use crate::{
    causes::{Incident, Sampled, Verdict},
    config::Config,
    lm::LmView,
    snapshot::{Evidence, QueueWait, Snapshot, WhatIf},
};

/// What happened in a time range.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every service.
    pub services: Vec<ServiceReport>,
    /// Every edge.
    pub edges: Vec<EdgeReport>,
    /// Findings, the surest first; what is not yet wrong last.
    pub findings: Vec<FindingReport>,
    /// The response time at each entry under more load, as `weir whatif` has it of the last whole window.
    pub what_if: Vec<EntryWhatIf>,
    /// What was left out of a long range; absent when nothing was.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub left_out: Option<LeftOut>,
}

/// What of a long range is not in a report, because memory is bounded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct LeftOut {
    /// The part of the requests, of range and history alike, that root causes rest on; `None` when it is all of them. Milliseconds are of all.
    pub requests: Option<Sampled>,
    /// Medians of services and edges are of every so many-th window.
    pub windows_every: u64,
}

/// One service: medians over the windows of the range.
#[derive(Clone, Debug, Serialize)]
pub struct ServiceReport {
    /// Its name.
    pub service: String,
    /// λ.
    pub arrival_rate_per_s: f64,
    /// S.
    pub service_time_ms: Option<f64>,
    /// c.
    pub servers: Option<u32>,
    /// ρ.
    pub utilization: Option<f64>,
    /// Wq.
    pub queue_wait_ms: QueueWait,
    /// Room to grow.
    pub headroom: Option<f64>,
    /// The model.
    pub model: String,
    /// How sure.
    pub confidence: f64,
    /// Why something is not identifiable.
    pub reason: Option<String>,
    /// The wait under more load.
    pub what_if: Vec<WhatIf>,
    /// Its model server as last estimated, if it streams a model's answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lm: Option<LmView>,
}

/// One edge.
#[derive(Clone, Debug, Serialize)]
pub struct EdgeReport {
    /// Who calls.
    pub caller: String,
    /// Who is called.
    pub callee: String,
    /// Calls per second, median over windows.
    pub rate_per_s: f64,
    /// Share that failed.
    pub error_ratio: f64,
    /// Median duration.
    pub duration_ms_p50: f64,
    /// 99th percentile.
    pub duration_ms_p99: f64,
}

/// One finding.
#[derive(Clone, Debug, Serialize)]
pub struct FindingReport {
    /// 1 is the surest.
    pub rank: u32,
    /// The cause.
    pub service: String,
    /// The operation, when one stands out.
    pub operation: Option<String>,
    /// What it is.
    pub kind: String,
    /// When it began, RFC 3339.
    pub onset: String,
    /// Milliseconds that requests lose per second by it, while it lasts; higher is worse.
    pub score: f64,
    /// Probability that it is right.
    pub confidence: f64,
    /// Whether it is told against a level (the objective `slo_ms`, or servers that are full) and not against what was usual.
    pub standing: bool,
    /// What it rests on.
    pub evidence: Vec<Evidence>,
    /// Milliseconds that a request loses by it, on average.
    pub impact_ms: f64,
    /// Share of the requests at its entry that it touches; `None` where no window told.
    pub impact_ratio: Option<f64>,
    /// The replica, when it is one of several.
    pub instance: Option<String>,
    /// The other side, as in findings of windows.
    pub peer: Option<String>,
    /// Services that only wait for it.
    pub victims: Vec<String>,
    /// What to do about it.
    pub action: String,
}

/// The end-to-end effect of more load.
#[derive(Clone, Debug, Serialize)]
pub struct EntryWhatIf {
    /// The service where traffic enters.
    pub entry: String,
    /// Its load is multiplied by this.
    pub load_factor: f64,
    /// Its response time then; `None` where a queue on the way would grow without bound.
    pub response_time_ms: Option<f64>,
    /// Services on the way of which nothing is known: their wait is taken not to change.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub not_identified: Vec<String>,
}

/// Batches of a table, by time.
pub type Rows<'a> = Box<dyn Iterator<Item = RecordBatch> + 'a>;

/// What is stored of a range and of the history that it is compared with, read in this order.
pub struct Recorded<'a> {
    /// Of `spans`, those that start in the history.
    pub before: Rows<'a>,
    /// Of `spans`, those that start in the range.
    pub spans: Rows<'a>,
    /// Of `logs`, of both times.
    pub logs: Rows<'a>,
    /// Of `metrics`, of both times.
    pub metrics: Rows<'a>,
}

/// Analyzes `range` against `history`, which may be before or after and must not overlap it.
#[must_use]
pub fn report(recorded: Recorded<'_>, history: &Range<UnixNanos>, range: &Range<UnixNanos>, config: Config) -> Report {
    let Recorded { before, spans, logs, metrics } = recorded;
    let (mut replay, mut incident, mut gathered) = (Replay::new(config), Incident::new(), Gathered::default());
    replay.run(before.inspect(|batch| incident.add(batch)), |_| {});
    if history.end != range.start {
        replay.finish(|_| {});
        replay = replay.moved_to(range.start);
    }
    // windows at the end of a history that goes over into the range close with the range's spans
    let mut take = |snapshot: Snapshot| {
        if snapshot.time_unix_nano > range.start {
            gathered.take(snapshot, range);
        }
    };
    replay.run(spans.inspect(|batch| incident.add(batch)), &mut take);
    replay.finish(&mut take);
    logs.for_each(|logs| incident.add_logs(&logs));
    metrics.for_each(|metrics| incident.add_metrics(&metrics));
    Report::of(gathered, incident.verdict(history, range))
}

/// The last whole window of spans given by start time: later spans follow it. `None` when there is none.
#[must_use]
pub fn last_window(spans: impl Iterator<Item = RecordBatch>, config: Config) -> Option<Snapshot> {
    let mut replay = Replay::new(config);
    let mut last = None;
    replay.run(spans, |snapshot| last = Some(snapshot));
    let newest = replay.newest;
    replay.finish(|snapshot| {
        if snapshot.time_unix_nano <= newest {
            last = Some(snapshot);
        }
    });
    last
}

impl Report {
    fn of(gathered: Gathered, verdict: Verdict) -> Self {
        let (services, edges) = (gathered.services(), gathered.edges());
        let what_if = entries::what_if(&gathered.entries(), gathered.last());
        let windows_every = series::every(gathered.windows);
        let left_out = LeftOut { requests: verdict.sampled, windows_every };
        let findings = findings::ranked(verdict, gathered.into_findings());
        let whole = left_out.requests.is_none() && windows_every == 1;
        Self { services, edges, findings, what_if, left_out: (!whole).then_some(left_out) }
    }
}
