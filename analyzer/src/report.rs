//! [`Report`]: the answer of `weir analyze`, after an incident: the same analyzer, fed with stored
//! spans in event time.

use std::{collections::BTreeMap, ops::Range};

use arrow::record_batch::RecordBatch;
use serde::Serialize;
use weir_schema::UnixNanos;

use crate::{
    analyzer::{Analyzer, Step},
    causes::{Cause, CauseKind, Incident, Verdict},
    config::Config,
    findings::{Kind, action},
    lm::LmView,
    snapshot::{Estimate, Evidence, FindingView, NodeKind, QueueWait, ServiceView, Snapshot, WhatIf},
    view::middle_of,
};

/// What happened in a time range.
#[derive(Clone, Debug, Serialize)]
pub struct Report {
    /// Every service.
    pub services: Vec<ServiceReport>,
    /// Every edge.
    pub edges: Vec<EdgeReport>,
    /// Findings, worst first.
    pub findings: Vec<FindingReport>,
    /// The response time at each entry under more load; `None` where a queue on the way would grow
    /// without bound or is not identifiable.
    pub what_if: Vec<EntryWhatIf>,
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
    /// 1 is the worst.
    pub rank: u32,
    /// The cause.
    pub service: String,
    /// The operation, when one stands out.
    pub operation: Option<String>,
    /// What it is.
    pub kind: String,
    /// When it began, RFC 3339.
    pub onset: String,
    /// Milliseconds that requests lost by it; higher is worse.
    pub score: f64,
    /// Probability that it is right.
    pub confidence: f64,
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
    /// Its response time then.
    pub response_time_ms: Option<f64>,
}

/// Rows of the range and of the history together, in any order; none where there are none.
#[derive(Clone, Debug, Default)]
pub struct Beside {
    /// Of `logs`.
    pub logs: Vec<RecordBatch>,
    /// Of `metrics`.
    pub metrics: Vec<RecordBatch>,
}

/// Analyzes spans of `range` given by start time, with those of `history` to compare with and what was recorded beside.
pub fn report(
    spans: impl Iterator<Item = RecordBatch>,
    before: impl Iterator<Item = RecordBatch>,
    beside: &Beside,
    history: &Range<UnixNanos>,
    range: &Range<UnixNanos>,
    config: Config,
) -> Report {
    let mut analyzer = Analyzer::new(Config { lateness_ms: 0, ..config });
    let mut incident = Incident::new();
    run(&mut analyzer, before.inspect(|batch| incident.add(batch)), |_| {});
    let mut gathered = Gathered::default();
    run(&mut analyzer, spans.inspect(|batch| incident.add(batch)), |step| gathered.take(step));
    beside.logs.iter().for_each(|logs| incident.add_logs(logs));
    beside.metrics.iter().for_each(|metrics| incident.add_metrics(metrics));
    gathered.report(incident.verdict(history, range))
}

/// The last whole window of spans given by start time: one that others follow. `None` when there is none.
pub fn last_window(spans: impl Iterator<Item = RecordBatch>, config: Config) -> Option<Snapshot> {
    let mut analyzer = Analyzer::new(Config { lateness_ms: 0, ..config });
    let (mut last, mut before) = (None, None);
    run(&mut analyzer, spans, |step| {
        if step.snapshot.is_some() {
            before = last.take();
            last = step.snapshot;
        }
    });
    before
}

fn run(analyzer: &mut Analyzer, batches: impl Iterator<Item = RecordBatch>, mut each: impl FnMut(Step)) {
    use arrow::{array::AsArray, datatypes::Int64Type};
    for batch in batches {
        analyzer.push(&batch);
        let starts = batch.column_by_name("start_unix_nano").and_then(|c| c.as_primitive_opt::<Int64Type>());
        let newest = starts.and_then(arrow::compute::max);
        // spans are sorted by start but windows go by end: leave room for long ones
        if let Some(newest) = newest {
            each(analyzer.step(newest.saturating_sub(30_000_000_000)));
        }
    }
    each(analyzer.finish());
}

#[derive(Default)]
struct Gathered {
    services: BTreeMap<String, Vec<ServiceView>>,
    edges: BTreeMap<(String, String), Vec<crate::snapshot::EdgeView>>,
    findings: BTreeMap<String, FindingView>,
    entries: Vec<String>,
}

impl Gathered {
    fn take(&mut self, step: Step) {
        let Some(snapshot) = step.snapshot else { return };
        self.entries = entries(&snapshot);
        for service in snapshot.services {
            self.services.entry(service.service.clone()).or_default().push(service);
        }
        for edge in snapshot.edges {
            self.edges.entry((edge.caller.clone(), edge.callee.clone())).or_default().push(edge);
        }
        for finding in snapshot.findings {
            let known = self.findings.entry(finding.finding_id.clone()).or_insert_with(|| finding.clone());
            if finding.score >= known.score {
                *known = finding;
            }
        }
    }

    fn report(self, verdict: Verdict) -> Report {
        let services: Vec<ServiceReport> =
            self.services.iter().map(|(name, views)| service_report(name, views)).collect();
        let edges = self.edges.iter().map(|((caller, callee), views)| {
            let middle = |value: fn(&crate::snapshot::EdgeView) -> f64| {
                middle_of(&views.iter().map(value).collect::<Vec<_>>()).unwrap_or(0.0)
            };
            EdgeReport {
                caller: caller.clone(),
                callee: callee.clone(),
                rate_per_s: middle(|v| v.rate_per_s),
                error_ratio: middle(|v| v.error_ratio),
                duration_ms_p50: middle(|v| v.duration_ms_p50),
                duration_ms_p99: middle(|v| v.duration_ms_p99),
            }
        });
        let findings = findings(verdict, self.findings.into_values().collect());
        let what_if = self.entries.iter().flat_map(|entry| entry_what_if(entry, &services, &self.services)).collect();
        Report { services, edges: edges.collect(), findings, what_if }
    }
}

fn entries(snapshot: &Snapshot) -> Vec<String> {
    // who sends no spans is outside: traffic enters where it calls
    let inside = || snapshot.edges.iter().filter(|edge| edge.caller_kind == NodeKind::Service);
    let called = |service: &str| inside().any(|edge| edge.callee == service);
    let services = snapshot.services.iter().filter(|service| service.kind == NodeKind::Service);
    services.map(|s| s.service.clone()).filter(|service| !called(service)).collect()
}

fn service_report(name: &str, views: &[ServiceView]) -> ServiceReport {
    let estimates: Vec<&Estimate> = views.iter().map(|view| &view.estimate).collect();
    let middle = |value: &dyn Fn(&Estimate) -> Option<f64>| {
        middle_of(&estimates.iter().filter_map(|e| value(e)).collect::<Vec<_>>())
    };
    let last = estimates.iter().rev().find(|e| e.service_time_ms.is_some()).or(estimates.last());
    let wait = |value: fn(&QueueWait) -> Option<f64>| middle(&|e: &Estimate| value(&e.queue_wait_ms));
    ServiceReport {
        service: name.to_owned(),
        arrival_rate_per_s: middle(&|e| Some(e.arrival_rate_per_s)).unwrap_or(0.0),
        service_time_ms: middle(&|e| e.service_time_ms),
        servers: last.and_then(|e| e.servers),
        utilization: middle(&|e| e.utilization),
        queue_wait_ms: QueueWait {
            predicted: wait(|w| w.predicted),
            observed: wait(|w| w.observed),
            observed_proxy: wait(|w| w.observed_proxy),
            observed_app: wait(|w| w.observed_app),
            predicted_low: wait(|w| w.predicted_low),
            predicted_high: wait(|w| w.predicted_high),
        },
        headroom: middle(&|e| e.headroom),
        model: last.map_or_else(|| "unknown".to_owned(), |e| e.model.clone()),
        confidence: middle(&|e| Some(e.confidence)).unwrap_or(0.0),
        reason: last.and_then(|e| e.reason.clone()),
        what_if: last.map(|e| e.what_if.clone()).unwrap_or_default(),
        lm: last_lm(views),
    }
}

/// The newest that was identified, else why the newest was not.
fn last_lm(views: &[ServiceView]) -> Option<LmView> {
    let known: Vec<&LmView> = views.iter().filter_map(|view| view.lm.as_ref()).collect();
    let identified = known.iter().rev().find(|lm| lm.server.is_some());
    identified.or(known.last()).map(|lm| (*lm).clone())
}

/// The causes by rank, then what the windows found beside them. Of a cause that a window found too, the finding says
/// the kind where it is the more precise, and whom it costs what.
fn findings(verdict: Verdict, mut found: Vec<FindingView>) -> Vec<FindingReport> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    let requests = verdict.ranking.requests.max(1) as f64;
    let caused = |service: &str| verdict.ranking.causes.iter().any(|cause| cause.service == service);
    let causes = verdict.ranking.causes.iter().map(|cause| {
        let windows = found.iter().filter(|f| f.service == cause.service && Kind::is_fault(&f.kind));
        let onset = windows.clone().map(|finding| finding.onset_unix_nano).min().unwrap_or(verdict.onset);
        of_cause(cause, windows.into_iter().next(), onset, requests)
    });
    let beside = found.iter().filter(|finding| !caused(&finding.service)).map(of_finding);
    let mut all: Vec<FindingReport> = causes.chain(beside).collect();
    all.iter_mut().zip(1..).for_each(|(finding, rank)| finding.rank = rank);
    all
}

fn of_cause(cause: &Cause, found: Option<&FindingView>, onset: UnixNanos, requests: f64) -> FindingReport {
    let kind = Kind::of_cause(cause.kind);
    let precise = found.filter(|found| Kind::of_name(&found.kind).is_some_and(|found| found.explains(kind)));
    let known = cause.kind != CauseKind::NoHistory;
    let impact_ms = if known { cause.lost_ms / requests } else { 0.0 };
    let action = action::cause(&cause.service, cause.operation.as_deref(), impact_ms);
    FindingReport {
        rank: 0,
        service: cause.service.clone(),
        operation: cause.operation.clone(),
        kind: precise.map_or_else(|| cause.kind.as_str().to_owned(), |found| found.kind.clone()),
        onset: rfc3339(onset),
        score: cause.lost_ms,
        confidence: cause.confidence,
        evidence: cause.evidence.iter().chain(found.map_or(&[][..], |found| &found.evidence)).cloned().collect(),
        impact_ms,
        impact_ratio: found.map(|found| found.impact_ratio),
        instance: cause.instance.clone().or_else(|| found.and_then(|found| found.instance.clone())),
        peer: found.and_then(|found| found.peer.clone()),
        victims: found.map(|found| found.victims.clone()).unwrap_or_default(),
        action: found.map(|found| found.action.clone()).or(known.then_some(action)).unwrap_or_default(),
    }
}

/// It has the windows' votes, but no part in what requests lost against history.
fn of_finding(finding: &FindingView) -> FindingReport {
    FindingReport {
        rank: 0,
        service: finding.service.clone(),
        operation: finding.operation.clone(),
        kind: finding.kind.clone(),
        onset: rfc3339(finding.onset_unix_nano),
        score: finding.score,
        confidence: finding.confidence / 2.0,
        evidence: finding.evidence.clone(),
        impact_ms: finding.impact_ms,
        impact_ratio: Some(finding.impact_ratio),
        instance: finding.instance.clone(),
        peer: finding.peer.clone(),
        victims: finding.victims.clone(),
        action: finding.action.clone(),
    }
}

/// Measured response time plus what each queue adds, in proportion to the load.
fn entry_what_if(
    entry: &str,
    services: &[ServiceReport],
    views: &BTreeMap<String, Vec<ServiceView>>,
) -> Vec<EntryWhatIf> {
    let measured =
        views.get(entry).and_then(|views| middle_of(&views.iter().map(|v| v.duration_ms_p50).collect::<Vec<_>>()));
    let entry_rate = services.iter().find(|s| s.service == entry).map_or(0.0, |s| s.arrival_rate_per_s);
    let at = |load_factor: f64| {
        let identified = services.iter().all(|s| s.servers.is_some() && !s.what_if.is_empty());
        let added = services.iter().map(|service| {
            let visits = service.arrival_rate_per_s / entry_rate.max(1e-9);
            let then = service.what_if.iter().find(|w| w.load_factor == load_factor)?.queue_wait_ms?;
            Some(visits * (then - service.queue_wait_ms.predicted?))
        });
        let added: Option<f64> = added.sum();
        let response_time_ms =
            if identified { measured.zip(added).map(|(measured, added)| measured + added) } else { None };
        EntryWhatIf { entry: entry.to_owned(), load_factor, response_time_ms }
    };
    [1.1, 1.2, 1.5, 2.0].map(at).to_vec()
}

/// Nanoseconds since the epoch as RFC 3339 in UTC (civil date by the algorithm of H. Hinnant).
fn rfc3339(unix_nano: i64) -> String {
    let (seconds, nanos) = (unix_nano.div_euclid(1_000_000_000), unix_nano.rem_euclid(1_000_000_000));
    let (days, second) = (seconds.div_euclid(86_400), seconds.rem_euclid(86_400));
    let z = days + 719_468;
    let era = z.div_euclid(146_097);
    let day_of_era = z.rem_euclid(146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 { shifted + 3 } else { shifted - 9 };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{:03}Z", nanos / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_rfc_3339() {
        let cases = [
            (0, "1970-01-01T00:00:00.000Z"),
            (1_661_256_085_250_000_000, "2022-08-23T12:01:25.250Z"),
            (951_782_400_000_000_000, "2000-02-29T00:00:00.000Z"),
        ];
        for (nanos, text) in cases {
            assert_eq!(rfc3339(nanos), text);
        }
    }
}
