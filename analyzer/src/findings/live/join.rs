//! How the quick detectors' suspicions and the ranking's become one: of each set of services that are connected by calls the ranking has
//! its first cause.

use super::{
    super::{kind::Kind, scene::Scene, suspicion::Suspicion},
    Live,
    said::{JOINED, Said},
    told::{Told, firsts},
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
        let speaking = firsts(&said.ranking).into_iter().filter(speaks);
        let first: Vec<(Name, &Cause, Told)> =
            speaking.filter_map(|(cause, told)| Some((scene.names.find(&cause.service)?, cause, told))).collect();
        let connected = &said.ranking.connected;
        for (service, cause, _) in &first {
            let set = connected.set(*service);
            suspicions.retain(|suspicion| {
                suspicion.standing
                    || connected.set(suspicion.service) != set
                    || explains(scene, suspicion, *service, cause)
                    || said.leaves(scene, suspicion)
            });
        }
        said.add_evidence(scene, &mut suspicions);
        for (service, cause, told) in first {
            said.join(scene, &mut suspicions, (service, cause, told));
        }
        suspicions
    }
}

impl Said {
    /// What a first cause says, with a detector's suspicion of the same or as one of its own.
    fn join(&self, scene: &Scene, suspicions: &mut Vec<Suspicion>, (service, cause, told): (Name, &Cause, Told)) {
        let of_it = |suspicion: &&mut Suspicion| !suspicion.standing && explains(scene, suspicion, service, cause);
        let Some(known) = suspicions.iter_mut().find(of_it) else {
            return suspicions.push(self.suspicion(scene, service, cause));
        };
        known.confidence = known.confidence.max(told.confidence());
        known.votes = known.votes.max(self.votes);
        if known.service != service {
            known.evidence.extend(cause.evidence.iter().take(JOINED).cloned());
        }
        if cause.kind == CauseKind::StarvedCpu {
            known.starved(self.suspicion(scene, service, cause));
        }
    }
}

/// Whether a detector's suspicion is of what the ranking blames a service for.
fn explains(scene: &Scene, suspicion: &Suspicion, service: Name, cause: &Cause) -> bool {
    let slow = matches!(cause.kind, CauseKind::SlowService | CauseKind::StarvedCpu | CauseKind::SlowNetwork);
    match suspicion.kind {
        Kind::SaturationAhead | Kind::ModelMismatch => false,
        Kind::UpstreamSurge => slow && (suspicion.service == service || suspicion.victims.contains(&service)),
        // the caller of who fails or is late looks otherwise too
        Kind::ErrorSource | Kind::RetryStorm | Kind::SlowDependency => {
            suspicion.service == service || suspicion.peer == Some(service)
        }
        // whoever was not called before is neither slow nor fast
        Kind::NewCalls if suspicion.peer == Some(service) => slow && !scene.was_called(service),
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::{scene::Stage, usual::Share};

    #[test]
    fn that_a_service_is_slow_is_why_calls_are_new_only_of_one_that_is_new() {
        let [caller, known, new] = [1, 2, 3];
        let mut stage = Stage::default();
        (0..4).for_each(|window| stage.history.operations.remember_share((known, 9), Share { hits: 5, of: 5 }, window));
        let scene = stage.scene();
        let cause = |kind| Cause {
            service: String::new(),
            operation: None,
            instance: None,
            kind,
            lost_ms: 100.0,
            share: 1.0,
            connected: 0,
            confidence: 0.9,
            harmless: 0.0,
            evidence: Vec::new(),
        };
        let cases = [
            // (whom it calls now, whom the ranking blames, what for) → whether that is the same
            (new, new, CauseKind::SlowService, true),
            (new, new, CauseKind::ChangedCalls, false),
            (known, known, CauseKind::SlowService, false),
            (new, known, CauseKind::SlowService, false),
            (new, caller, CauseKind::ChangedCalls, true),
        ];
        for (peer, blamed, kind, same) in cases {
            let calls = Suspicion { peer: Some(peer), ..Suspicion::of(Kind::NewCalls, caller, &scene) };
            assert_eq!(explains(&scene, &calls, blamed, &cause(kind)), same, "{peer} {blamed} {kind:?}");
        }
    }
}
