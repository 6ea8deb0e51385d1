//! [`Ranking`]: services by what they cost the window as far as it is to be believed, and how sure each is.
//!
//! `confidence = share of the blame · (1 − 3/z) · (1 − e^(−traces/3)) · windows/(windows + ½)`: how much of what the services lose that
//! it is connected with is this one's, how far beyond chance, from how many requests, against how much history. Causes are in
//! the order of it; without history, of what they cost. None of these factors is fitted; on recorded and on made faults it promises
//! less than it keeps.

use std::collections::BTreeMap;

use serde::Serialize;

use super::{
    SUSPICIOUS,
    connected::Connected,
    evidence::{Words, otherwise, slower, surged},
    history::History,
    latency::{self, Blame, GATE},
    marks::Sign,
    observed::{Observed, REST},
    strain::{Strain, Strained},
    structure::{self, Broken},
};
use crate::{snapshot::Evidence, spans::Name};

/// Causes that are listed.
pub(super) const LISTED: usize = 10;

/// What is said of one cause at most.
const MAX_EVIDENCE: usize = 5;

/// A request that breaks off is lost, and made again: it costs as much as so many usual ones.
const BROKEN: f64 = 3.0;

/// Requests below which a change is no evidence that is worth saying.
const WORTH_SAYING: f64 = 0.5;

/// Affected requests that are an e-fold of doubt less.
const FEW_REQUESTS: f64 = 3.0;

/// An instance stands out that has this part of what its service lost, and of its spans at most that.
const INSTANCE_LOST: f64 = 0.8;
const INSTANCE_SPANS: f64 = 0.6;

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
    /// Which services are connected.
    #[serde(skip)]
    pub(crate) connected: Connected,
}

/// One service and what it is blamed for.
#[derive(Clone, Debug, Serialize)]
pub struct Cause {
    /// Which service.
    pub service: String,
    /// The operation that most of it is of, where one stands out.
    pub operation: Option<String>,
    /// The instance that most of it is of, where one stands out among others that do well.
    pub instance: Option<String>,
    /// What it is blamed for most.
    pub kind: CauseKind,
    /// Milliseconds lost in the window, by the requests that were looked at; one that broke off counts as three whole ones.
    pub lost_ms: f64,
    /// Its part of what was lost by all that it is connected with by calls, strained services counting up to twice.
    pub share: f64,
    /// The same for all of these.
    #[serde(skip)]
    pub connected: u32,
    /// Probability that it is the cause.
    pub confidence: f64,
    /// Its part that rests on lines alone which are of no error: a new version logs otherwise too, and nothing is wrong.
    pub harmless: f64,
    /// What it rests on, the heaviest first.
    pub evidence: Vec<Evidence>,
}

/// What a service is blamed for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum CauseKind {
    /// Its own code takes longer.
    SlowService,
    /// It, or calls to it, take longer while its CPU is more used than before.
    StarvedCpu,
    /// Calls to it, or by it, take longer than their answers: network, or a starved host.
    SlowNetwork,
    /// Requests stop early, fail, or call otherwise than before.
    ChangedCalls,
    /// Nothing to compare with: it is only where time goes.
    NoHistory,
}

impl Ranking {
    /// Whether a cause is so sure that it is none of what is usual.
    pub(super) fn is_suspicious(&self) -> bool {
        self.causes.first().is_some_and(|cause| cause.confidence >= SUSPICIOUS)
    }
}

impl CauseKind {
    /// As in findings.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::SlowService => "bottleneck",
            Self::StarvedCpu => "starved_cpu",
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
    /// Of what is broken.
    harmless: f64,
    z: f64,
    slow_traces: f64,
    /// Milliseconds by instance.
    at: BTreeMap<Option<Name>, f64>,
    strain: Strain,
    reasons: Vec<(f64, Option<Name>, Evidence)>,
}

pub(super) fn rank(observed: &Observed, history: &History, strained: &Strained, words: &Words) -> Ranking {
    let mut sums = match history.root_ms() {
        Some(request_ms) => against(observed, history, strained, request_ms, words),
        None => prior(observed),
    };
    sums.iter_mut().for_each(|(service, sums)| sums.strain(*service, strained.get(service), words));
    let connected = Connected::of(observed, history);
    let mut all = BTreeMap::<Name, f64>::new();
    for (service, sums) in &sums {
        *all.entry(connected.set(*service)).or_default() += sums.blame_ms();
    }
    let windows = history.windows();
    let cause = |(service, sums): (Name, Sums)| {
        let blame_ms = sums.blame_ms();
        let instance = sums.instance(observed.instances.get(&service).into_iter().flatten());
        let set = connected.set(service);
        let cause = Cause {
            instance: instance.map(|name| words.text(name).to_owned()),
            connected: set,
            ..cause(service, sums, all[&set], windows, words)
        };
        (blame_ms, cause)
    };
    let with_blame = sums.into_iter().filter(|(_, sums)| sums.lost_ms() > 0.0);
    let mut ranked: Vec<(f64, Cause)> = with_blame.map(cause).collect();
    ranked.sort_by(|a, b| b.1.confidence.total_cmp(&a.1.confidence).then(b.0.total_cmp(&a.0)));
    let causes = ranked.into_iter().take(LISTED).map(|(_, cause)| cause).collect();
    Ranking { causes, requests: observed.requests(), history_windows: windows, connected }
}

fn against(
    observed: &Observed,
    history: &History,
    strained: &Strained,
    request_ms: f64,
    words: &Words,
) -> BTreeMap<Name, Sums> {
    let mut sums = BTreeMap::<Name, Sums>::new();
    let at = |instance: Option<Name>| instance.map_or(String::new(), |name| format!(" at {}", words.text(name)));
    for blame in latency::blames(observed, history, strained) {
        match blame {
            Blame::Own { service, instance, operation, excess } => {
                let sums = sums.entry(service).or_default();
                sums.own_ms += excess.ms;
                sums.saw(excess.z, excess.now.traces * excess.gate);
                *sums.at.entry(instance).or_default() += excess.ms;
                let what = format!("own time of {}{}", words.text(operation), at(instance));
                sums.reasons.push((excess.ms, Some(operation), slower(&what, &excess)));
            }
            Blame::Gap { service, instance, caller, callee, excess, share } => {
                let sums = sums.entry(service).or_default();
                sums.gap_ms += share * excess.ms;
                sums.saw(share * excess.z, share * excess.now.traces * excess.gate);
                *sums.at.entry(instance.filter(|_| service == callee)).or_default() += share * excess.ms;
                let what = format!("between {} and {}{}", words.text(caller), words.text(callee), at(instance));
                sums.reasons.push((share * excess.ms, None, slower(&what, &excess)));
            }
        }
    }
    let mut places = BTreeMap::<(Name, Name, Name, Sign), (f64, f64)>::new();
    let broken_ms = BROKEN * request_ms;
    for broken in structure::broken(observed, history) {
        let Broken { service, instance, at, sign, harmless, requests, weight, z } = broken;
        let sums = sums.entry(service).or_default();
        let lost_ms = requests * weight * broken_ms;
        sums.broken += lost_ms;
        sums.harmless += if harmless { lost_ms } else { 0.0 };
        sums.z = sums.z.max(z);
        *sums.at.entry(instance).or_default() += lost_ms;
        let place = places.entry((service, at.0, at.1, sign)).or_default();
        *place = (place.0 + requests, place.1 + lost_ms);
    }
    for ((service, at, operation, sign), (requests, lost_ms)) in places {
        let sums = sums.entry(service).or_default();
        sums.slow_traces += requests;
        if requests >= WORTH_SAYING {
            let own = (at == service).then_some(operation);
            let evidence = otherwise(service, (at, operation), sign, requests, words);
            sums.reasons.push((lost_ms, own, evidence));
        }
    }
    sums
}

/// Without history: where the requests' time goes, a gap half to either side.
fn prior(observed: &Observed) -> BTreeMap<Name, Sums> {
    let mut sums = BTreeMap::<Name, Sums>::new();
    for ((service, ..), stat) in &observed.own {
        sums.entry(*service).or_default().own_ms += stat.median * stat.spans;
    }
    for ((caller, callee, _), stat) in &observed.gap {
        let half = stat.median.max(0.0) * stat.spans / 2.0;
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

    fn lost_ms(&self) -> f64 {
        self.own_ms + self.gap_ms + self.broken
    }

    /// The same as strengthened by metrics: what services are compared by, and no time that anybody lost.
    fn blame_ms(&self) -> f64 {
        self.strain.factor() * self.lost_ms()
    }

    /// How far it is beyond chance and of many requests: 0 to 1.
    fn belief(&self) -> f64 {
        let beyond_chance = (1.0 - GATE / self.z.max(GATE)).max(0.0);
        beyond_chance * (1.0 - (-self.slow_traces / FEW_REQUESTS).exp())
    }

    /// Metrics strengthen what there is.
    fn strain(&mut self, service: Name, strain: Option<&Strain>, words: &Words) {
        let Some(strain) = strain else { return };
        self.strain = *strain;
        let surges = [(("CPU", "cpu"), strain.cpu), (("network errors", "network"), strain.network)];
        for (what, surge) in surges.into_iter().filter_map(|(what, surge)| Some((what, surge?))) {
            // shown first: it is what tells the kind
            self.reasons.push((f64::MAX, None, surged(service, what, &surge, words)));
        }
    }

    /// The operation that half of all or more was lost by itself, however many kinds of its requests did.
    fn operation(&self) -> Option<Name> {
        let mut by_operation = BTreeMap::<Name, f64>::new();
        for (ms, operation, _) in &self.reasons {
            operation.iter().for_each(|name| *by_operation.entry(*name).or_default() += ms);
        }
        let (worst, ms) = by_operation.into_iter().max_by(|a, b| a.1.total_cmp(&b.1))?;
        (ms >= self.lost_ms() / 2.0).then_some(worst)
    }

    fn instance<'a>(&self, spans: impl Iterator<Item = (&'a Name, &'a f64)> + Clone) -> Option<Name> {
        let all: f64 = spans.clone().map(|(_, count)| count).sum();
        let lost: f64 = self.at.values().sum();
        let (worst, worst_ms) = self.at.iter().max_by(|a, b| a.1.total_cmp(b.1))?;
        let instance = worst.filter(|name| *name != REST)?;
        let of_worst = spans.into_iter().find(|(name, _)| **name == instance).map_or(0.0, |(_, count)| *count);
        let alone = *worst_ms >= INSTANCE_LOST * lost;
        (alone && of_worst <= INSTANCE_SPANS * all).then_some(instance)
    }

    fn kind(&self) -> CauseKind {
        if self.broken >= self.own_ms.max(self.gap_ms) {
            CauseKind::ChangedCalls
        } else if self.strain.cpu.is_some() {
            CauseKind::StarvedCpu
        } else if self.own_ms >= self.gap_ms {
            CauseKind::SlowService
        } else {
            CauseKind::SlowNetwork
        }
    }
}

fn cause(service: Name, mut sums: Sums, all: f64, windows: usize, words: &Words) -> Cause {
    sums.reasons.sort_by(|a, b| b.0.total_cmp(&a.0));
    let lost_ms = sums.lost_ms();
    let share = sums.blame_ms() / all;
    let known = windows as f64 / (windows as f64 + FEW_WINDOWS);
    Cause {
        service: words.text(service).to_owned(),
        operation: sums.operation().map(|name| words.text(name).to_owned()),
        instance: None,
        kind: if windows == 0 { CauseKind::NoHistory } else { sums.kind() },
        lost_ms,
        share,
        connected: 0,
        confidence: share * sums.belief() * known,
        harmless: sums.harmless / lost_ms,
        evidence: sums.reasons.into_iter().take(MAX_EVIDENCE).map(|(_, _, evidence)| evidence).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::{super::strain::Surge, *};

    /// Half of what was lost had to be of one kind of an operation's requests, and twice that where CPU was strained.
    #[test]
    fn an_operation_that_lost_most_stands_out_whatever_kinds_its_requests_are_of() {
        let surge = Surge { instance: None, now: 0.9, usual: 0.1, z: 30.0 };
        let operation = |parts: &[(f64, Option<Name>)], cpu: Option<Surge>| {
            let reasons = parts.iter().map(|(ms, operation)| (*ms, *operation, Evidence::default())).collect();
            let own_ms = parts.iter().map(|(ms, _)| ms).sum();
            Sums { own_ms, reasons, strain: Strain { cpu, network: None }, ..Sums::default() }.operation()
        };
        let (tag, read) = (Some(7), Some(8));
        assert_eq!(operation(&[(40.0, read), (30.0, tag), (30.0, tag)], None), tag);
        assert_eq!(operation(&[(60.0, tag), (40.0, read)], Some(surge)), tag);
        assert_eq!(operation(&[(40.0, tag), (30.0, read), (30.0, None)], None), None);
    }

    #[test]
    fn instances_that_are_counted_together_are_none() {
        let instance = |name| {
            let sums = Sums { own_ms: 9.0, at: [(Some(name), 9.0)].into(), ..Sums::default() };
            sums.instance([(1, 5.0), (2, 5.0)].iter().map(|(name, spans)| (name, spans)))
        };
        assert_eq!((instance(1), instance(REST)), (Some(1), None));
    }

    /// Metrics strengthen a service beside others; they are no time that requests lose.
    #[test]
    fn strain_counts_in_what_is_compared_and_not_in_what_is_said_to_be_lost() {
        let surge = Surge { instance: None, now: 9.0, usual: 0.0, z: 1_000.0 };
        let strain = Strain { cpu: None, network: Some(surge) };
        let sums = Sums { gap_ms: 100.0, strain, ..Sums::default() };
        assert_eq!((sums.lost_ms(), sums.blame_ms().round()), (100.0, 200.0));
    }
}
