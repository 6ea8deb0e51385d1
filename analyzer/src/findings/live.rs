//! [`Live`]: the ranking of root causes, asked while the windows close.
//!
//! Requests are gathered over windows until there are fifty, or for 150 s: of a window of few requests little can be said.
//! They are ranked against what was gathered before, and become part of that unless the first cause is at 0.5 or more,
//! or a finding of a fault is open. A suspicion that lasts an hour is taken for what is usual now.
//!
//! What is gathered speaks until the next has been. The quick detectors and the ranking make one suspicion of a service
//! together; where the ranking is sure of one service, detectors are not believed of others that it hardly blames.

use weir_schema::UnixNanos;

use super::{action, kind::Kind, scene::Scene, surge, suspicion::Suspicion};
use crate::{
    causes::{Cause, CauseKind, Causes, Ranking, SUSPICIOUS},
    snapshot::Evidence,
    spans::{Name, Names, Span},
};

/// Requests that are ranked together at least.
const ENOUGH_REQUESTS: usize = 50;

/// How long they are waited for.
const LONGEST_NS: i64 = 150_000_000_000;

/// Requests that become history at least.
const MIN_REQUESTS: usize = 5;

/// A first cause that is so sure is a suspicion.
const SURE: f64 = 0.8;

/// A service that is blamed for less is not believed to be another cause beside a sure one.
const MIN_SHARE: f64 = 0.25;

/// Evidence of the ranking that is added to a detector's.
const JOINED: usize = 2;

/// Gathered windows that may be withheld from history one after the other: an hour at 10 s.
const WITHHELD: usize = 360;

/// Requests as they are gathered, and what the last of them said.
#[derive(Debug)]
pub(super) struct Live {
    causes: Causes,
    gathered: Vec<Vec<Span>>,
    spans: usize,
    /// Spans that are gathered at most.
    max_spans: usize,
    windows: usize,
    since: UnixNanos,
    withheld: usize,
    said: Option<Said>,
}

/// What gathered requests said.
#[derive(Debug)]
pub(super) struct Said {
    ranking: Ranking,
    since: UnixNanos,
    until: UnixNanos,
    /// Over how many windows they were gathered, as long as nobody counted them.
    votes: usize,
}

impl Live {
    pub(super) fn new(max_spans: usize) -> Self {
        Self {
            causes: Causes::default(),
            gathered: Vec::new(),
            spans: 0,
            max_spans,
            windows: 0,
            since: 0,
            withheld: 0,
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
        if self.windows == 0 {
            self.since = start;
        }
        self.windows += 1;
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

    fn rank(&mut self, until: UnixNanos, names: &Names, quiet: bool) {
        let gathered = std::mem::take(&mut self.gathered);
        let votes = std::mem::take(&mut self.windows);
        self.spans = 0;
        let requests: Vec<&[Span]> = gathered.iter().map(Vec::as_slice).collect();
        let (ranking, observed) = self.causes.rank(&requests, names);
        let suspicious = ranking.causes.first().is_some_and(|cause| cause.confidence >= SUSPICIOUS);
        let usual = quiet && !suspicious;
        self.withheld = if usual { 0 } else { self.withheld + votes };
        if (usual || self.withheld > WITHHELD) && gathered.len() >= MIN_REQUESTS {
            self.causes.remember(observed);
        }
        self.said = Some(Said { ranking, since: self.since, until, votes });
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
        let least = |cause: &Cause| if is_open(&cause.service) { SUSPICIOUS } else { SURE };
        let Some(first) = said.ranking.causes.first().filter(|first| first.confidence >= least(first)) else {
            said.add_evidence(scene, &mut suspicions);
            return suspicions;
        };
        let Some(service) = scene.names.find(&first.service) else { return suspicions };
        let explained = |suspicion: &Suspicion| explains(suspicion, service, first);
        suspicions.retain(|suspicion| explained(suspicion) || said.leaves(scene, suspicion));
        said.add_evidence(scene, &mut suspicions);
        if let Some(known) = suspicions.iter_mut().find(|suspicion| explained(suspicion)) {
            known.confidence = known.confidence.max(first.confidence);
            known.votes = known.votes.max(said.votes);
            if known.service != service {
                known.evidence.extend(first.evidence.iter().take(JOINED).cloned());
            }
        } else {
            suspicions.push(said.suspicion(scene, service, first));
        }
        suspicions
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
        for suspicion in suspicions.iter_mut().filter(|suspicion| Kind::is_fault(suspicion.kind.as_str())) {
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
        let surge = surge::behind(scene, service).filter(|_| cause.kind == CauseKind::SlowService);
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
            lost_ms_per_s: scene.per_s(cause.lost_ms) * scene.seconds() / seconds,
            confidence: cause.confidence,
            votes: self.votes,
            onset: self.since,
            evidence,
            ..suspicion
        }
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
    fn requests_are_gathered_to_fifty_and_what_policy_shed_is_none() {
        let mut names = Names::default();
        for name in ["gateway", "GET /", "server"] {
            names.intern(name);
        }
        let mut live = Live::new(1_000);
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
}
