//! [`Said`]: what gathered requests said, and the suspicion that is.

use weir_schema::UnixNanos;

use super::{
    super::{action, kind::Kind, own_time::Past, scene::Scene, statements, surge, suspicion::Suspicion},
    told::Told,
};
use crate::{
    causes::{Cause, CauseKind, Ranking},
    snapshot::Evidence,
    spans::Name,
};

/// A service that is blamed for less is not believed to be another cause beside a sure one.
const MIN_SHARE: f64 = 0.25;

/// Evidence of the ranking that is added to a detector's.
pub(super) const JOINED: usize = 2;

/// What gathered requests said.
#[derive(Debug)]
pub(super) struct Said {
    pub(super) ranking: Ranking,
    pub(super) since: UnixNanos,
    pub(super) until: UnixNanos,
    /// Spans that were gathered for each that was ranked.
    pub(super) scale: f64,
    /// Over how many windows they were gathered, as long as nobody counted them.
    pub(super) votes: usize,
}

impl Said {
    /// Whether a detector is believed of a service that is not the first cause.
    pub(super) fn leaves(&self, scene: &Scene, suspicion: &Suspicion) -> bool {
        let text = scene.text(suspicion.service);
        let blamed = self.ranking.causes.iter().any(|cause| cause.service == text && cause.share >= MIN_SHARE);
        // of replicas, peers without spans and arrivals the ranking knows less
        let beyond =
            matches!(suspicion.kind, Kind::SlowInstance | Kind::UpstreamSurge | Kind::RetryStorm | Kind::ErrorSource);
        blamed || beyond || !Kind::is_fault(suspicion.kind.as_str())
    }

    pub(super) fn add_evidence(&self, scene: &Scene, suspicions: &mut [Suspicion]) {
        for suspicion in suspicions.iter_mut().filter(|suspicion| suspicion.is_new_fault()) {
            let text = scene.text(suspicion.service);
            let Some(cause) = self.ranking.causes.iter().find(|cause| cause.service == text) else { continue };
            if cause.confidence > 0.0 {
                suspicion.evidence.extend(cause.evidence.iter().take(JOINED).cloned());
            }
        }
    }

    pub(super) fn suspicion(&self, scene: &Scene, service: Name, cause: &Cause) -> Suspicion {
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
        let sql = statements::durations(&cause.service, &scene.shown());
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
