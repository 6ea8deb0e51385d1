//! How the quick detectors' suspicions and the ranking's become one.

use super::{
    super::{kind::Kind, scene::Scene, suspicion::Suspicion},
    Live,
    said::JOINED,
    told::{Told, first},
};
use crate::{
    causes::{Cause, CauseKind, SUSPICIOUS},
    spans::Name,
};

impl Live {
    /// The detectors' suspicions and the ranking's as one. What keeps a finding open need not be as sure as what opens it.
    pub(in super::super) fn join(
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
