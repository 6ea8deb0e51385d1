//! [`Judge`]: which service is slow by itself, and which only wait for it.
//!
//! A service is accused when both hold for 3 of the last 5 windows: local cause (its *own* time,
//! calls to others taken off, is far above its history, by median and MAD) and impact (the excess
//! is a visible share of what the entry takes). Callers that wait have the wait in their calls, not
//! in their own time, so they are victims. What half of all services share (a busy machine slows every
//! one a little) is nobody's own and is taken off first. A finding closes after 5 windows without cause.
//!
//! History is frozen while a service is under suspicion, or the fault would become its normal.

use std::collections::{BTreeMap, VecDeque};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    graph::ServiceGraph,
    snapshot::{Evidence, FindingState, FindingView},
    spans::{Name, Names},
    window::{ServiceWindow, Window},
};

/// Windows of history: the last five minutes at 10 s.
const HISTORY: usize = 30;

/// Windows that vote on a finding.
const VOTES: usize = 5;

/// Votes that open one.
const OPENING_VOTES: usize = 3;

/// Windows without cause that close one.
const CLOSING_WINDOWS: u32 = 5;

/// Requests a window needs before it says anything of a service.
const MIN_REQUESTS: usize = 8;

/// Robust standard deviations above history.
const MIN_DEVIATIONS: f64 = 6.0;

/// Own time at least this many times its history.
const MIN_RATIO: f64 = 1.5;

/// Excess as a share of the entry's usual duration.
const MIN_IMPACT: f64 = 0.05;

/// Share of own errors that is a cause.
const MIN_ERROR_RATIO: f64 = 0.1;

/// Another service is accused beside the worst one only if its excess is this share of it.
const MIN_SHARE_OF_WORST: f64 = 0.5;

/// Fewer services than this share nothing that could be told from a fault of one of them.
const MIN_SHARING: usize = 4;

/// What is shared is said when it is this share of a service's own excess.
const SHARED_WORTH_SAYING: f64 = 0.1;

/// Findings that are over and still shown.
const KEPT_CLOSED: usize = 50;

/// The state of all services and findings.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Judge {
    histories: BTreeMap<Name, History>,
    findings: Vec<FindingView>,
    made: u64,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
struct History {
    own_ms: VecDeque<f64>,
    duration_ms: VecDeque<f64>,
    error_ratio: VecDeque<f64>,
    votes: VecDeque<bool>,
    first_vote: Option<UnixNanos>,
    quiet: u32,
}

/// The own time of a service in one window beside its history, in milliseconds.
#[derive(Clone, Copy, Debug)]
struct OwnTime {
    now: f64,
    usual: f64,
    /// Robust standard deviation of its history.
    spread: f64,
    /// What most services are slower by in this window.
    shared: f64,
}

/// What speaks against a service in one window.
#[derive(Clone, Debug)]
struct Suspicion {
    service: Name,
    kind: &'static str,
    /// Milliseconds of excess per second, or failed requests per second.
    score: f64,
    deviations: f64,
    evidence: Vec<Evidence>,
    summary: String,
    operation: Option<Name>,
}

/// How a finding changed.
pub(crate) struct Change {
    pub(crate) finding: FindingView,
}

impl Judge {
    /// Looks at a closed window; says which findings opened or closed.
    pub(crate) fn window(
        &mut self,
        window: &Window,
        names: &Names,
        graph: &ServiceGraph,
        min_history: usize,
    ) -> Vec<Change> {
        let mut suspicions = self.suspicions(window, names, graph, min_history);
        suspicions.sort_by(|a, b| b.score.total_cmp(&a.score));
        let worst = suspicions.first().map_or(0.0, |s| s.score);
        suspicions.retain(|s| s.kind != "bottleneck" || s.score >= MIN_SHARE_OF_WORST * worst);
        let mut changes = self.vote(window, &suspicions, names, graph);
        changes.extend(self.close(window, names));
        self.remember(window, &suspicions);
        self.rank();
        changes
    }

    /// Open findings by rank, then closed ones, newest first.
    pub(crate) fn findings(&self) -> Vec<FindingView> {
        let mut findings = self.findings.clone();
        findings.sort_by_key(|f| (f.state == FindingState::Closed, f.rank, std::cmp::Reverse(f.onset_unix_nano)));
        findings
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &FindingView> {
        self.findings.iter().filter(|finding| finding.state == FindingState::Open)
    }

    fn suspicions(&self, window: &Window, names: &Names, graph: &ServiceGraph, min_history: usize) -> Vec<Suspicion> {
        let own_times = self.own_times(window, min_history);
        let mut suspicions = Vec::new();
        for (name, service) in &window.services {
            let Some(history) = self.histories.get(name).filter(|h| h.own_ms.len() >= min_history) else { continue };
            if let Some(own) = own_times.get(name) {
                suspicions.extend(self.slow(window, *name, service, own, names, graph));
            }
            suspicions.extend(failing(window, *name, service, history, names));
        }
        suspicions
    }

    /// Of every service with requests and history enough.
    fn own_times(&self, window: &Window, min_history: usize) -> BTreeMap<Name, OwnTime> {
        let own_time = |(name, service): (&Name, &ServiceWindow)| {
            let history = &self.histories.get(name).filter(|h| h.own_ms.len() >= min_history)?.own_ms;
            let now = median(service.own_ms.iter().copied()).filter(|_| service.own_ms.len() >= MIN_REQUESTS)?;
            let usual = median(history.iter().copied())?;
            let spread = 1.4826 * median(history.iter().map(|v| (v - usual).abs()))?;
            Some((*name, OwnTime { now, usual, spread, shared: 0.0 }))
        };
        let mut own_times: BTreeMap<Name, OwnTime> = window.services.iter().filter_map(own_time).collect();
        if own_times.len() >= MIN_SHARING {
            let mut excesses: Vec<f64> = own_times.values().map(|own| own.now - own.usual).collect();
            excesses.sort_by(f64::total_cmp);
            // of an even number the lower: two slow services of four share nothing
            let shared = excesses[(excesses.len() - 1) / 2].max(0.0);
            own_times.values_mut().for_each(|own| own.shared = shared);
        }
        own_times
    }

    fn slow(
        &self,
        window: &Window,
        name: Name,
        service: &ServiceWindow,
        own: &OwnTime,
        names: &Names,
        graph: &ServiceGraph,
    ) -> Option<Suspicion> {
        let OwnTime { now, usual, spread, shared } = *own;
        let excess = now - usual - shared;
        let deviations = excess / spread.max(0.05 * usual).max(0.2);
        let entry = self.usual_entry_duration(names.text(name), names, graph).unwrap_or(usual);
        if deviations < MIN_DEVIATIONS || usual + excess < MIN_RATIO * usual || excess < MIN_IMPACT * entry {
            return None;
        }
        let rate = service.own_ms.len() as f64 / (window.length_ns as f64 / 1e9);
        let text = names.text(name);
        let mut evidence = vec![number(
            format!("own time of {text} is {now:.1} ms, usually {usual:.1} ms ({deviations:.0} robust deviations)"),
            now,
            "ms",
        )];
        if shared >= SHARED_WORTH_SAYING * excess {
            evidence.push(number(format!("most services are {shared:.1} ms slower; that is taken off"), shared, "ms"));
        }
        if let Some((service_ms, _)) = service.service_time() {
            evidence.push(number(format!("service time from departures is {service_ms:.1} ms"), service_ms, "ms"));
        }
        if let Some(wait) = mean(&service.app_wait_ms) {
            evidence.push(number(format!("requests wait {wait:.1} ms for its workers"), wait, "ms"));
        }
        if let Some((duration_ns, trace)) = service.slowest {
            let trace_id = Some(format!("{trace:032x}"));
            let text = format!("the slowest request took {:.0} ms", duration_ns as f64 / 1e6);
            evidence.push(Evidence {
                text,
                value: Some(duration_ns as f64 / 1e6),
                unit: Some("ms".into()),
                trace_id,
                sql: None,
            });
        }
        let summary = format!("{text} is slow by itself: {now:.0} ms own time instead of {usual:.0} ms");
        let operation = (service.operations.len() == 1)
            .then(|| service.operations.keys().next().map(|(operation, _)| *operation))
            .flatten();
        Some(Suspicion {
            service: name,
            kind: "bottleneck",
            score: excess * rate,
            deviations,
            evidence,
            summary,
            operation,
        })
    }

    /// What a request through the entry above `service` usually takes.
    fn usual_entry_duration(&self, service: &str, names: &Names, graph: &ServiceGraph) -> Option<f64> {
        let entry = names.find(&graph.entry_of(service)?)?;
        median(self.histories.get(&entry)?.duration_ms.iter().copied())
    }

    fn vote(&mut self, window: &Window, suspicions: &[Suspicion], names: &Names, graph: &ServiceGraph) -> Vec<Change> {
        let mut opened = Vec::new();
        for name in window.services.keys() {
            let suspicion = suspicions.iter().find(|s| s.service == *name);
            let history = self.histories.entry(*name).or_default();
            history.votes.push_back(suspicion.is_some());
            if history.votes.len() > VOTES {
                history.votes.pop_front();
            }
            let Some(suspicion) = suspicion else {
                if !history.votes.contains(&true) {
                    history.first_vote = None;
                }
                continue;
            };
            let onset = *history.first_vote.get_or_insert(window.end - window.length_ns);
            let votes = history.votes.iter().filter(|vote| **vote).count();
            if let Some(open) = open_finding(&mut self.findings, names.text(*name)) {
                open.score = suspicion.score;
                open.evidence.clone_from(&suspicion.evidence);
                open.summary.clone_from(&suspicion.summary);
            } else if votes >= OPENING_VOTES {
                self.made += 1;
                let finding = opened_finding(self.made, onset, suspicion, names, graph);
                self.findings.push(finding.clone());
                opened.push(Change { finding });
            }
        }
        opened
    }

    fn close(&mut self, window: &Window, names: &Names) -> Vec<Change> {
        let mut closed = Vec::new();
        for finding in self.findings.iter_mut().filter(|f| f.state == FindingState::Open) {
            let Some(history) = names.find(&finding.service).and_then(|name| self.histories.get_mut(&name)) else {
                continue;
            };
            let suspected = history.votes.back().copied().unwrap_or(false)
                && window.services.contains_key(&names.find(&finding.service).unwrap_or(Name::MAX));
            history.quiet = if suspected { 0 } else { history.quiet + 1 };
            if history.quiet >= CLOSING_WINDOWS {
                (finding.state, finding.rank) = (FindingState::Closed, 0);
                finding.closed_unix_nano = Some(window.end);
                history.quiet = 0;
                history.votes.clear();
                closed.push(Change { finding: finding.clone() });
            }
        }
        let over = self.findings.iter().filter(|f| f.state == FindingState::Closed).count();
        if over > KEPT_CLOSED
            && let Some(oldest) = self.findings.iter().position(|f| f.state == FindingState::Closed)
        {
            self.findings.remove(oldest);
        }
        closed
    }

    /// A window enters the history of services that are neither suspected nor named by a finding.
    /// While a finding is open nobody's history moves: waiting callers and starved callees are not normal.
    fn remember(&mut self, window: &Window, suspicions: &[Suspicion]) {
        if self.open().next().is_some() {
            return;
        }
        for (name, service) in &window.services {
            let suspected = suspicions.iter().any(|s| s.service == *name);
            if suspected || service.own_ms.len() < MIN_REQUESTS {
                continue;
            }
            let history = self.histories.entry(*name).or_default();
            remember(&mut history.own_ms, median(service.own_ms.iter().copied()));
            remember(&mut history.duration_ms, service.duration_ms.quantile(0.5));
            remember(&mut history.error_ratio, Some(service.own_errors as f64 / service.requests.max(1) as f64));
        }
    }

    fn rank(&mut self) {
        let mut open: Vec<&mut FindingView> =
            self.findings.iter_mut().filter(|f| f.state == FindingState::Open).collect();
        open.sort_by(|a, b| b.score.total_cmp(&a.score));
        for (place, finding) in open.into_iter().enumerate() {
            finding.rank = place as u32 + 1;
        }
    }
}

/// Errors that begin here: no call of the failed request failed.
fn failing(
    window: &Window,
    name: Name,
    service: &ServiceWindow,
    history: &History,
    names: &Names,
) -> Option<Suspicion> {
    let requests = service.requests.max(1) as f64;
    let ratio = service.own_errors as f64 / requests;
    let usual = median(history.error_ratio.iter().copied()).unwrap_or(0.0);
    let enough = service.own_errors >= 3 && ratio > MIN_ERROR_RATIO && ratio > 2.0 * usual + 0.02;
    if !enough {
        return None;
    }
    let text = names.text(name);
    let share = ratio * 100.0;
    let summary = format!("{share:.0} % of requests to {text} fail there, while its own calls succeed");
    let sentence = format!("{} of {} requests failed without a failed call", service.own_errors, service.requests);
    let evidence = vec![number(sentence, share, "%")];
    let score = service.own_errors as f64 / (window.length_ns as f64 / 1e9);
    Some(Suspicion {
        service: name,
        kind: "error_source",
        score,
        deviations: 10.0 * ratio,
        evidence,
        summary,
        operation: None,
    })
}

fn opened_finding(
    number: u64,
    onset: UnixNanos,
    suspicion: &Suspicion,
    names: &Names,
    graph: &ServiceGraph,
) -> FindingView {
    let service = names.text(suspicion.service).to_owned();
    let confidence = (1.0 - (-suspicion.deviations / 8.0).exp()).clamp(0.5, 0.97);
    FindingView {
        finding_id: format!("f{}-{number}", onset / 1_000_000_000),
        rank: 0,
        state: FindingState::Open,
        victims: graph.upstream(&service).into_iter().collect(),
        service,
        operation: suspicion.operation.map(|operation| names.text(operation).to_owned()),
        kind: suspicion.kind.to_owned(),
        onset_unix_nano: onset,
        closed_unix_nano: None,
        score: suspicion.score,
        confidence,
        summary: suspicion.summary.clone(),
        evidence: suspicion.evidence.clone(),
    }
}

fn open_finding<'a>(findings: &'a mut [FindingView], service: &str) -> Option<&'a mut FindingView> {
    findings.iter_mut().find(|f| f.state == FindingState::Open && f.service == service)
}

fn number(text: String, value: f64, unit: &str) -> Evidence {
    Evidence { text, value: Some(value), unit: Some(unit.to_owned()), trace_id: None, sql: None }
}

fn remember(history: &mut VecDeque<f64>, value: Option<f64>) {
    history.extend(value);
    if history.len() > HISTORY {
        history.pop_front();
    }
}

pub(crate) fn mean(values: &[f64]) -> Option<f64> {
    (!values.is_empty()).then(|| values.iter().sum::<f64>() / values.len() as f64)
}

pub(crate) fn median(values: impl Iterator<Item = f64>) -> Option<f64> {
    let mut values: Vec<f64> = values.collect();
    let middle = values.len() / 2;
    (!values.is_empty()).then(|| *values.select_nth_unstable_by(middle, f64::total_cmp).1)
}
