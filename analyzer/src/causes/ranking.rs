//! [`Ranking`]: services by what they cost the window, and how sure the first is.
//!
//! `confidence = share of all blame · (1 − 3/z) · (1 − e^(−traces/3)) · windows/(windows + ½)`: how much of it
//! is this service's, how far beyond chance, from how many requests, against how much history. No factor is
//! fitted; on recorded and on made faults it promises less than it keeps.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    history::History,
    latency::{self, Blame, GATE},
    observed::Observed,
    structure,
};
use crate::{
    snapshot::Evidence,
    spans::{Name, Names},
};

/// Causes that are listed.
const LISTED: usize = 10;

/// What is said of one cause at most.
const MAX_EVIDENCE: usize = 5;

/// Affected requests that are an e-fold of doubt less.
const FEW_REQUESTS: f64 = 3.0;

/// Windows of history that halve the doubt.
const FEW_WINDOWS: f64 = 0.5;

/// Services by blame, the worst first.
#[derive(Clone, Debug, Default, Serialize)]
pub struct Ranking {
    /// At most ten, only those with blame.
    pub causes: Vec<Cause>,
    /// Requests that were looked at.
    pub requests: usize,
    /// Windows they were compared with.
    pub history_windows: usize,
}

/// One service and what it is blamed for.
#[derive(Clone, Debug, Serialize)]
pub struct Cause {
    /// Which service.
    pub service: String,
    /// The operation that most of it is of, where one stands out.
    pub operation: Option<String>,
    /// What it is blamed for most.
    pub kind: CauseKind,
    /// Milliseconds lost in the window.
    pub lost_ms: f64,
    /// Its part of all that was lost.
    pub share: f64,
    /// Probability that it is the cause.
    pub confidence: f64,
    /// What it rests on, the heaviest first.
    pub evidence: Vec<Evidence>,
}

/// What a service is blamed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Its own code takes longer.
    SlowService,
    /// Calls to it, or by it, take longer than their answers: network, or a starved host.
    SlowNetwork,
    /// Requests stop early, fail, or call otherwise than before.
    ChangedCalls,
    /// Nothing to compare with: it is only where time goes.
    NoHistory,
}

impl CauseKind {
    /// As in findings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowService => "bottleneck",
            Self::SlowNetwork => "slow_dependency",
            Self::ChangedCalls => "changed_calls",
            Self::NoHistory => "no_history",
        }
    }
}

/// The sums of one service.
#[derive(Default)]
struct Sums {
    own_ms: f64,
    gap_ms: f64,
    broken: f64,
    z: f64,
    slow_traces: f64,
    reasons: Vec<(f64, Option<Name>, Evidence)>,
}

pub(super) fn rank(observed: &Observed, history: &History, names: &Names) -> Ranking {
    let sums = match history.root_ms() {
        Some(request_ms) => against(observed, history, request_ms, names),
        None => prior(observed),
    };
    let cost = |sums: &Sums| sums.own_ms + sums.gap_ms + sums.broken;
    let all: f64 = sums.values().map(cost).sum();
    let mut ranked: Vec<(Name, Sums)> = sums.into_iter().filter(|(_, sums)| cost(sums) > 0.0).collect();
    ranked.sort_by(|a, b| cost(&b.1).total_cmp(&cost(&a.1)));
    let windows = history.windows();
    let cause = |(service, sums): (Name, Sums)| cause(service, sums, all, windows, names);
    Ranking {
        causes: ranked.into_iter().take(LISTED).map(cause).collect(),
        requests: observed.requests(),
        history_windows: windows,
    }
}

fn against(observed: &Observed, history: &History, request_ms: f64, names: &Names) -> BTreeMap<Name, Sums> {
    let mut sums = BTreeMap::<Name, Sums>::new();
    for blame in latency::blames(observed, history) {
        match blame {
            Blame::Own { service, operation, excess } => {
                let sums = sums.entry(service).or_default();
                sums.own_ms += excess.ms;
                sums.saw(excess.z, f64::from(excess.now.traces) * excess.gate);
                let what = format!("own time of {}", names.text(operation));
                sums.reasons.push((excess.ms, Some(operation), slower(&what, &excess)));
            }
            Blame::Gap { service, caller, callee, excess, share } => {
                let sums = sums.entry(service).or_default();
                sums.gap_ms += share * excess.ms;
                sums.saw(share * excess.z, share * f64::from(excess.now.traces) * excess.gate);
                let what = format!("between {} and {}", names.text(caller), names.text(callee));
                sums.reasons.push((share * excess.ms, None, slower(&what, &excess)));
            }
        }
    }
    let mut places = BTreeMap::<(Name, Name, Name), f64>::new();
    for broken in structure::broken(observed, history) {
        let sums = sums.entry(broken.service).or_default();
        sums.broken += broken.requests * request_ms;
        sums.z = sums.z.max(broken.z);
        *places.entry((broken.service, broken.at.0, broken.at.1)).or_default() += broken.requests;
    }
    for ((service, at, operation), requests) in places {
        let sums = sums.entry(service).or_default();
        sums.slow_traces += requests;
        let whose =
            if at == service { String::new() } else { format!(" of {}, which called it last,", names.text(at)) };
        let text = format!(
            "{requests:.0} requests: {}{whose} stops early, fails or calls otherwise than before",
            names.text(operation)
        );
        let evidence =
            Evidence { text, value: Some(requests), unit: Some("requests".into()), trace_id: None, sql: None };
        sums.reasons.push((requests * request_ms, (at == service).then_some(operation), evidence));
    }
    sums
}

/// Without history: where the requests' time goes, a gap half to either side.
fn prior(observed: &Observed) -> BTreeMap<Name, Sums> {
    let mut sums = BTreeMap::<Name, Sums>::new();
    for ((service, ..), stat) in &observed.own {
        sums.entry(*service).or_default().own_ms += stat.median * f64::from(stat.spans);
    }
    for ((caller, callee, _), stat) in &observed.gap {
        let half = stat.median.max(0.0) * f64::from(stat.spans) / 2.0;
        sums.entry(*caller).or_default().gap_ms += half;
        sums.entry(*callee).or_default().gap_ms += half;
    }
    sums
}

impl Sums {
    fn saw(&mut self, z: f64, traces: f64) {
        self.z = self.z.max(z);
        self.slow_traces = self.slow_traces.max(traces);
    }

    fn kind(&self) -> CauseKind {
        if self.broken >= self.own_ms.max(self.gap_ms) {
            CauseKind::ChangedCalls
        } else if self.own_ms >= self.gap_ms {
            CauseKind::SlowService
        } else {
            CauseKind::SlowNetwork
        }
    }
}

fn cause(service: Name, mut sums: Sums, all: f64, windows: usize, names: &Names) -> Cause {
    sums.reasons.sort_by(|a, b| b.0.total_cmp(&a.0));
    let lost_ms = sums.own_ms + sums.gap_ms + sums.broken;
    let share = lost_ms / all;
    let beyond_chance = (1.0 - GATE / sums.z.max(GATE)).max(0.0);
    let enough = 1.0 - (-sums.slow_traces / FEW_REQUESTS).exp();
    let known = windows as f64 / (windows as f64 + FEW_WINDOWS);
    let heaviest = sums.reasons.first().filter(|(ms, ..)| *ms >= lost_ms / 2.0);
    Cause {
        service: names.text(service).to_owned(),
        operation: heaviest.and_then(|(_, operation, _)| *operation).map(|name| names.text(name).to_owned()),
        kind: if windows == 0 { CauseKind::NoHistory } else { sums.kind() },
        lost_ms,
        share,
        confidence: share * beyond_chance * enough * known,
        evidence: sums.reasons.into_iter().take(MAX_EVIDENCE).map(|(_, _, evidence)| evidence).collect(),
    }
}

fn slower(what: &str, excess: &latency::Excess) -> Evidence {
    let (now, usual) = (excess.now.median, excess.usual.median);
    let text = format!(
        "{what}: {now:.1} ms instead of {usual:.1} ms in {} requests ({:.0} standard deviations)",
        excess.now.traces, excess.z
    );
    Evidence { text, value: Some(now), unit: Some("ms".into()), trace_id: None, sql: None }
}
