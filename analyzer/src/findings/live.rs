//! [`Live`]: the ranking of root causes, asked while the windows close.
//!
//! Requests are gathered over windows until there are fifty, or for 150 s: of a window of few requests little can be said.
//! They are ranked against what was gathered before, and become part of that unless the first cause is at 0.5 or more,
//! or a finding of a fault is open. A suspicion that lasts an hour is taken for what is usual now. Where the first cause is neither
//! sure nor nobody, those that come next are ranked together with them, window by window, up to 150 s: of fifty requests few pass a
//! service that is seldom needed; the look that is sure at last votes for all its windows. Sure is a cause that is beyond chance, of enough
//! requests, and by which most is lost: that others lose beside it is no doubt of it. After a silence of so long what was gathered before it says nothing of now.
//!
//! Of more than 20,000 spans a share of the requests is ranked, and what they lost counts for those left out too.
//! Logs and metrics that came until then are looked at with them (`causes/beside.rs`); after a restart the first minutes are
//! judged by spans and the exceptions in them alone, for these are read back and those are not. Lines that are of no error open nothing by themselves:
//! whoever asks what happened wants to know of them, but a new version logs otherwise every day.
//!
//! What is gathered speaks until the next has been. The quick detectors and the ranking make one suspicion of a service
//! together; where the ranking is sure of one service, detectors are not believed of others that it hardly blames.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;
use weir_schema::UnixNanos;

use super::{action, kind::Kind, own_time::Past, scene::Scene, surge, suspicion::Suspicion};
use crate::{
    causes::{Cause, CauseKind, Causes, Ranking, SUSPICIOUS},
    config::Config,
    snapshot::Evidence,
    spans::{Name, Names, Span},
};

/// Requests that are ranked together at least.
const ENOUGH_REQUESTS: usize = 50;

/// How long they are waited for.
const LONGEST_NS: i64 = 150_000_000_000;

/// Spans that are ranked together about at most: of more requests a share is, chosen by their trace ids. Medians and
/// shares of so many are as good, and the cost of a window is bounded.
const RANKED_SPANS: usize = 20_000;

/// Another share than [`Traces`](super::traces::Traces) keeps.
const SHARE_SEED: u64 = 1;

/// A first cause that is less sure is nobody: as much as `weir analyze` only lists.
const NOBODY: f64 = 0.2;

/// Requests that become history at least.
const MIN_REQUESTS: usize = 5;

/// A first cause that is so far beyond chance, and of so many requests, is a suspicion; but one beside which as much is lost
/// elsewhere is not.
const SURE: f64 = 0.8;
const MOST: f64 = 0.5;

/// A service that is blamed for less is not believed to be another cause beside a sure one.
const MIN_SHARE: f64 = 0.25;

/// Evidence of the ranking that is added to a detector's.
const JOINED: usize = 2;

/// Gathered windows that may be withheld from history one after the other: an hour at 10 s.
const WITHHELD: usize = 360;

/// Requests as they are gathered, and what the last of them said.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) causes: Causes,
    gathered: Vec<Vec<Span>>,
    spans: usize,
    /// Spans that are gathered at most.
    max_spans: usize,
    windows: usize,
    /// Those of them that no look has counted yet.
    uncounted: usize,
    since: UnixNanos,
    /// The end of the last window.
    until: UnixNanos,
    withheld: usize,
    /// Until when what happened was usual.
    calm_until: UnixNanos,
    said: Option<Said>,
}

/// How sure a cause is without what lines say that are of no error, of it and of others.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Told {
    /// Its part of what is lost.
    share: f64,
    /// That its part is no chance.
    belief: f64,
}

/// What gathered requests said.
#[derive(Debug)]
pub(super) struct Said {
    ranking: Ranking,
    since: UnixNanos,
    until: UnixNanos,
    /// Spans that were gathered for each that was ranked.
    scale: f64,
    /// Over how many windows they were gathered, as long as nobody counted them.
    votes: usize,
}

impl Live {
    pub(super) fn new(config: &Config) -> Self {
        Self::with(Causes::live(config.max_trace_lines), config.max_trace_spans)
    }

    /// What is usual, and nothing gathered.
    pub(super) fn anew(self) -> Self {
        Self::with(self.causes, self.max_spans)
    }

    fn with(causes: Causes, max_spans: usize) -> Self {
        Self {
            causes,
            gathered: Vec::new(),
            spans: 0,
            max_spans,
            windows: 0,
            uncounted: 0,
            since: 0,
            until: UnixNanos::MAX,
            withheld: 0,
            calm_until: UnixNanos::MAX,
            said: None,
        }
    }

    /// Takes in the requests of a window that began and ended so.
    pub(super) fn window(
        &mut self,
        requests: Vec<Vec<Span>>,
        (start, end): (UnixNanos, UnixNanos),
        names: &Names,
        quiet: bool,
    ) {
        let silence = start.saturating_sub(self.until);
        if silence >= LONGEST_NS {
            if self.windows > 0 {
                self.rank(self.until, names, quiet);
                self.let_go();
            }
            self.said = None;
        }
        self.until = end;
        if self.windows == 0 {
            self.since = start;
        }
        self.windows += 1;
        self.uncounted += 1;
        // what policy turned away stops early by design, not by a fault
        let served = requests.into_iter().filter(|spans| !spans.iter().any(|span| span.shed));
        for spans in served {
            self.spans += spans.len();
            self.gathered.push(spans);
        }
        let enough = self.gathered.len() >= ENOUGH_REQUESTS || self.spans >= self.max_spans;
        if let Some(said) = &mut self.said {
            said.votes = 1;
        }
        if enough || end - self.since >= LONGEST_NS {
            self.rank(end, names, quiet);
        }
    }

    /// Ranks what was gathered; it is let go of unless more of the same may tell more.
    fn rank(&mut self, until: UnixNanos, names: &Names, quiet: bool) {
        let (requests, scale) = some_of(&self.gathered, self.spans);
        let (ranking, observed) = self.causes.rank_live(&requests, names, (self.calm_until, until));
        let ranked = requests.len();
        let told = first(&ranking).map_or(0.0, |(_, told)| told.confidence());
        let is_sure = first(&ranking).is_some_and(|(_, told)| told.is_sure());
        self.said = Some(Said { ranking, since: self.since, until, scale, votes: self.uncounted });
        // a look that was not sure has not spoken: the next speaks for its windows too
        if is_sure {
            self.uncounted = 0;
        }
        let over = until - self.since >= LONGEST_NS || self.spans >= self.max_spans;
        if told >= NOBODY && !is_sure && !over {
            return;
        }
        // one that is sure may be told at less: others lose too
        let usual = quiet && !is_sure && told < SUSPICIOUS;
        self.withheld = if usual { 0 } else { self.withheld + self.windows };
        if usual {
            self.calm_until = until;
        }
        if (usual || self.withheld > WITHHELD) && ranked >= MIN_REQUESTS {
            self.causes.remember(observed);
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        self.gathered.iter().filter_map(|spans| spans.first()).for_each(|span| self.causes.let_go(span.trace));
        self.gathered.clear();
        (self.spans, self.windows, self.uncounted) = (0, 0, 0);
    }

    /// The detectors' suspicions and the ranking's as one. What keeps a finding open need not be as sure as what opens it.
    pub(super) fn join(
        &self,
        scene: &Scene,
        mut suspicions: Vec<Suspicion>,
        is_open: impl Fn(&str) -> bool,
    ) -> Vec<Suspicion> {
        let Some(said) = self.said.as_ref().filter(|said| scene.is_known(said.ranking.history_windows)) else {
            return suspicions;
        };
        let speaks = |(cause, told): &(&Cause, Told)| {
            told.is_sure() || is_open(&cause.service) && told.confidence() >= SUSPICIOUS
        };
        let Some((first, told)) = first(&said.ranking).filter(speaks) else {
            said.add_evidence(scene, &mut suspicions);
            return suspicions;
        };
        let Some(service) = scene.names.find(&first.service) else { return suspicions };
        let explained = |suspicion: &Suspicion| explains(suspicion, service, first);
        suspicions.retain(|suspicion| suspicion.standing || explained(suspicion) || said.leaves(scene, suspicion));
        said.add_evidence(scene, &mut suspicions);
        if let Some(known) = suspicions.iter_mut().find(|suspicion| !suspicion.standing && explained(suspicion)) {
            known.confidence = known.confidence.max(told.confidence());
            known.votes = known.votes.max(said.votes);
            if known.service != service {
                known.evidence.extend(first.evidence.iter().take(JOINED).cloned());
            }
            if first.kind == CauseKind::StarvedCpu {
                known.starved(said.suspicion(scene, service, first));
            }
        } else {
            suspicions.push(said.suspicion(scene, service, first));
        }
        suspicions
    }
}

/// Requests of about [`RANKED_SPANS`], and for how many spans each of theirs stands.
fn some_of(requests: &[Vec<Span>], spans: usize) -> (Vec<&[Span]>, f64) {
    let all = requests.iter().map(Vec::as_slice);
    if spans <= RANKED_SPANS {
        return (all.collect(), 1.0);
    }
    let most = (u64::MAX as f64 * RANKED_SPANS as f64 / spans as f64) as u64;
    let some: Vec<&[Span]> =
        all.filter(|request| request.first().is_some_and(|span| hashed(span.trace) <= most)).collect();
    let kept: usize = some.iter().map(|request| request.len()).sum();
    (some, spans as f64 / kept.max(1) as f64)
}

/// The same for a trace wherever and whenever it is asked.
fn hashed(trace: u128) -> u64 {
    let mut hasher = FixedState::with_seed(SHARE_SEED).build_hasher();
    hasher.write_u128(trace);
    hasher.finish()
}

/// The surest cause, and how sure it is.
fn first(ranking: &Ranking) -> Option<(&Cause, Told)> {
    // of two that are as sure the first stays
    let causes = ranking.causes.iter().rev().map(|cause| (cause, Told::of(ranking, cause)));
    causes.max_by(|a, b| a.1.confidence().total_cmp(&b.1.confidence()))
}

impl Told {
    fn of(ranking: &Ranking, cause: &Cause) -> Self {
        let harmless: f64 = ranking.causes.iter().map(|cause| cause.share * cause.harmless).sum();
        let share = (cause.share * (1.0 - cause.harmless) / (1.0 - harmless).max(f64::EPSILON)).min(1.0);
        Self { share, belief: cause.confidence / cause.share.max(f64::EPSILON) }
    }

    fn confidence(self) -> f64 {
        self.share * self.belief
    }

    /// Whether it is beyond doubt, and more is lost by it than by all others together.
    fn is_sure(self) -> bool {
        self.belief >= SURE && self.share >= MOST
    }
}

/// Whether a detector's suspicion is of what the ranking blames a service for.
fn explains(suspicion: &Suspicion, service: Name, cause: &Cause) -> bool {
    let slow = matches!(cause.kind, CauseKind::SlowService | CauseKind::StarvedCpu | CauseKind::SlowNetwork);
    match suspicion.kind {
        Kind::SaturationAhead | Kind::ModelMismatch => false,
        Kind::UpstreamSurge => slow && (suspicion.service == service || suspicion.victims.contains(&service)),
        // the caller of who fails or is late looks otherwise too
        Kind::ErrorSource | Kind::RetryStorm | Kind::SlowDependency => {
            suspicion.service == service || suspicion.peer == Some(service)
        }
        _ => suspicion.service == service,
    }
}

impl Said {
    /// Whether a detector is believed of a service that is not the first cause.
    fn leaves(&self, scene: &Scene, suspicion: &Suspicion) -> bool {
        let text = scene.text(suspicion.service);
        let blamed = self.ranking.causes.iter().any(|cause| cause.service == text && cause.share >= MIN_SHARE);
        // of replicas, peers without spans and arrivals the ranking knows less
        let beyond =
            matches!(suspicion.kind, Kind::SlowInstance | Kind::UpstreamSurge | Kind::RetryStorm | Kind::ErrorSource);
        blamed || beyond || !Kind::is_fault(suspicion.kind.as_str())
    }

    fn add_evidence(&self, scene: &Scene, suspicions: &mut [Suspicion]) {
        for suspicion in suspicions.iter_mut().filter(|suspicion| suspicion.is_new_fault()) {
            let text = scene.text(suspicion.service);
            let Some(cause) = self.ranking.causes.iter().find(|cause| cause.service == text) else { continue };
            if cause.confidence > 0.0 {
                suspicion.evidence.extend(cause.evidence.iter().take(JOINED).cloned());
            }
        }
    }

    fn suspicion(&self, scene: &Scene, service: Name, cause: &Cause) -> Suspicion {
        let seconds = (self.until - self.since).max(1) as f64 / 1e9;
        let requests = self.ranking.requests.max(1) as f64;
        let surge = surge::behind_past(scene, service, Past::Minutes).filter(|_| cause.kind == CauseKind::SlowService);
        let of_surge = surge.map(|surge| surge::of_service(scene, &surge, service));
        let suspicion = of_surge.unwrap_or_else(|| Suspicion {
            operation: cause.operation.as_ref().and_then(|operation| scene.names.find(operation)),
            summary: summary(cause),
            action: action::cause(&cause.service, cause.operation.as_deref(), cause.lost_ms / requests),
            ..Suspicion::of(Kind::of_cause(cause.kind), service, scene)
        });
        let mut evidence: Vec<Evidence> = suspicion.evidence.iter().chain(&cause.evidence).cloned().collect();
        let sql = super::statements::durations(&cause.service, &scene.shown());
        if let Some(first) = evidence.iter_mut().find(|evidence| evidence.sql.is_none()) {
            first.sql = Some(sql);
        }
        if let Some(first) = evidence.iter_mut().find(|evidence| evidence.trace_id.is_none()) {
            *first = std::mem::take(first).with_trace(example(scene, service));
        }
        Suspicion {
            lost_ms_per_s: self.scale * scene.per_s(cause.lost_ms) * scene.seconds() / seconds,
            confidence: Told::of(&self.ranking, cause).confidence(),
            votes: self.votes,
            onset: self.since,
            evidence,
            ..suspicion
        }
    }
}

impl Suspicion {
    /// Metrics tell what spans do not: that calls are late because who answers, or asks, lacks CPU.
    fn starved(&mut self, told: Suspicion) {
        if self.kind != Kind::SlowDependency {
            return;
        }
        if self.service != told.service {
            self.peer = Some(self.service);
        }
        let Suspicion { kind, service, operation, summary, action, .. } = told;
        (self.kind, self.service, self.operation) = (kind, service, operation);
        (self.summary, self.action) = (summary, action);
    }
}

fn example(scene: &Scene, service: Name) -> Option<u128> {
    let served = scene.facts.services.get(&service)?;
    served.failed.or(served.slowest.map(|(_, trace)| trace))
}

fn summary(cause: &Cause) -> String {
    let Cause { service, share, .. } = cause;
    let percent = share * 100.0;
    match cause.kind {
        CauseKind::SlowService | CauseKind::NoHistory => {
            format!("{service} is slow by itself: {percent:.0} % of what requests lose against before is lost there")
        }
        CauseKind::StarvedCpu => {
            format!("{service} lacks CPU: {percent:.0} % of what requests lose against before is lost there")
        }
        CauseKind::SlowNetwork => {
            format!("calls to or by {service} take longer than their answers: {percent:.0} % of what requests lose")
        }
        CauseKind::ChangedCalls => {
            format!("requests stop early, fail or call otherwise at {service}: {percent:.0} % of what requests lose")
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::Side;

    fn requests(count: u128, shed: bool) -> Vec<Vec<Span>> {
        let request = |trace| {
            let (start, duration_ns) = (trace as i64 * 1_000_000, 500_000);
            let (side, error) = (Side::Server, shed);
            vec![Span { trace, id: 1, start, duration_ns, operation: 1, kind: 2, side, error, shed, ..Span::default() }]
        };
        (0..count).map(request).collect()
    }

    #[test]
    fn lines_of_no_error_open_nothing_and_hide_nothing() {
        let cause = |service: &str, share: f64, harmless: f64| Cause {
            service: service.into(),
            operation: None,
            instance: None,
            kind: CauseKind::ChangedCalls,
            lost_ms: 100.0 * share,
            share,
            confidence: 0.9 * share,
            harmless,
            evidence: Vec::new(),
        };
        let cases = [
            (vec![cause("tagger", 1.0, 0.0)], "tagger", 0.9),
            (vec![cause("tagger", 1.0, 1.0)], "tagger", 0.0),
            (vec![cause("parser", 0.8, 1.0), cause("tagger", 0.2, 0.0)], "tagger", 0.9),
            (vec![cause("parser", 0.6, 0.5), cause("tagger", 0.4, 0.0)], "tagger", 0.9 * 0.4 / 0.7),
        ];
        for (causes, service, expect) in cases {
            let ranking = Ranking { causes, ..Ranking::default() };
            let (surest, told) = first(&ranking).unwrap();
            assert_eq!(surest.service, service, "{ranking:?}");
            assert!((told.confidence() - expect).abs() < 1e-9, "{told:?} of {ranking:?}");
        }
    }

    #[test]
    fn a_cause_is_sure_by_what_it_shows_and_first_by_what_it_costs() {
        let cases = [
            // (share, belief) → sure
            ((0.70, 0.96), true),
            ((1.00, 0.81), true),
            ((0.45, 0.99), false),
            ((1.00, 0.75), false),
        ];
        for ((share, belief), sure) in cases {
            assert_eq!(Told { share, belief }.is_sure(), sure, "{share} {belief}");
        }
    }

    #[test]
    fn requests_are_gathered_to_fifty_and_what_policy_shed_is_none() {
        let mut names = Names::default();
        for name in ["gateway", "GET /", "server"] {
            names.intern(name);
        }
        let mut live = Live::new(&Config { max_trace_spans: 1_000, ..Config::default() });
        let second = 1_000_000_000;
        live.window(requests(30, false), (0, 10 * second), &names, true);
        live.window(requests(80, true), (10 * second, 20 * second), &names, true);
        assert!(live.said.is_none() && live.gathered.len() == 30);
        live.window(requests(20, false), (20 * second, 30 * second), &names, true);
        let said = live.said.as_ref().unwrap();
        assert_eq!((said.ranking.requests, said.votes, said.since, said.until), (50, 3, 0, 30 * second));
        for window in 3..18 {
            live.window(requests(1, false), (window * 10 * second, (window + 1) * 10 * second), &names, true);
        }
        assert_eq!(live.said.as_ref().unwrap().ranking.requests, 15, "150 s are long enough");
    }

    #[test]
    fn who_is_not_sure_looks_at_more_of_the_same() {
        let mut names = Names::default();
        for name in ["gateway", "GET /", "server", "GET /gift"] {
            names.intern(name);
        }
        let mut live = Live::new(&Config::default());
        // two of sixty requests are for gifts, which take half a millisecond each, and later fifty
        let window = |number: i64, gift_ms: i64| {
            let mut requests = requests(60, false);
            for gift in &mut requests[..2] {
                (gift[0].operation, gift[0].duration_ns) = (3, gift_ms * 500_000);
            }
            (requests, (number * 10_000_000_000, (number + 1) * 10_000_000_000))
        };
        for number in 0..10 {
            let (requests, time) = window(number, 1);
            live.window(requests, time, &names, true);
        }
        assert!(live.gathered.is_empty() && live.causes.history().windows() == 10);
        let told = |live: &Live| first(&live.said.as_ref().unwrap().ranking).map_or(0.0, |(_, told)| told.confidence());
        let (mut sure, mut votes) = (Vec::new(), Vec::new());
        for number in 10..16 {
            let (requests, time) = window(number, 100);
            live.window(requests, time, &names, true);
            sure.push(told(&live));
            votes.push(live.said.as_ref().unwrap().votes);
        }
        assert!((NOBODY..SURE).contains(&sure[0]), "two alone say little: {sure:?}");
        assert!(sure.iter().any(|told| *told >= SURE), "{sure:?}");
        assert_eq!(live.causes.history().windows(), 10, "none of it is usual");
        let windows = sure.iter().position(|told| *told >= SURE).unwrap() + 1;
        assert!(windows >= 2 && votes[windows - 1] == windows, "it speaks for all that it looked at: {votes:?}");
    }

    #[test]
    fn after_a_silence_what_was_gathered_before_says_nothing() {
        let mut names = Names::default();
        names.intern("gateway");
        let mut live = Live::new(&Config::default());
        let second = 1_000_000_000;
        live.window(requests(60, false), (0, 10 * second), &names, true);
        live.window(requests(30, false), (10 * second, 20 * second), &names, true);
        assert!(live.said.is_some() && live.gathered.len() == 30);
        live.window(requests(7, false), (500 * second, 510 * second), &names, true);
        assert!(live.said.is_none() && live.gathered.len() == 7 && live.since == 500 * second);
        assert_eq!(live.causes.history().windows(), 2, "it was usual all the same");
    }

    #[test]
    fn of_very_many_requests_a_share_is_ranked_and_stands_for_all() {
        let hundred = requests(100, false);
        let (some, scale) = some_of(&hundred, 100);
        assert_eq!((some.len(), scale), (100, 1.0));
        let all = 5 * RANKED_SPANS;
        let (one, other) = (requests(all as u128, false), requests(all as u128, false));
        let (some, scale) = some_of(&one, all);
        assert!(some.len().abs_diff(RANKED_SPANS) < RANKED_SPANS / 20, "{} were kept", some.len());
        assert!((scale * some.len() as f64 - all as f64).abs() < 1e-6);
        let again = some_of(&other, all).0;
        assert_eq!(
            some.iter().map(|r| r[0].trace).collect::<Vec<_>>(),
            again.iter().map(|r| r[0].trace).collect::<Vec<_>>()
        );
    }
}
