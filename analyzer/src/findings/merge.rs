//! One suspicion for one cause.
//!
//! Of a service that several detectors suspect, the most precise kind stays, else the one by which most is lost; the
//! others become its evidence. A service that loses little beside the worst of those it calls, or that call it, is not accused of being
//! slow: it waits for it in a way that its own time shows. A service that is called anew, and was never called before, is no cause of its own: what
//! it takes is part of the finding that it is called. Of two of which one calls the other, directly or not, one may be
//! the cause of both: confidence is multiplied by the share of what all such lose. Two that have nothing to do with each other
//! are two causes, each as sure as it is.

use std::collections::{BTreeMap, BTreeSet};

use super::{kind::Kind, scene::Scene, suspicion::Suspicion};
use crate::{snapshot::Evidence, spans::Name};

/// Another service is accused beside the worst one of its calls only if it loses this share of it.
const MIN_SHARE_OF_WORST: f64 = 0.5;

/// What is said of one finding at most.
const MAX_EVIDENCE: usize = 12;

pub(super) fn merged(suspicions: Vec<Suspicion>, scene: &Scene) -> Vec<Suspicion> {
    let mut by_service: BTreeMap<Name, Vec<Suspicion>> = BTreeMap::new();
    for suspicion in suspicions {
        by_service.entry(suspicion.service).or_default().push(suspicion);
    }
    let mut merged: Vec<Suspicion> = by_service.into_values().filter_map(one).collect();
    fold_new_callees(&mut merged, scene);
    let stand = standing(merged.iter().filter(|suspicion| suspicion.is_new_fault()), scene);
    for suspicion in &mut merged {
        suspicion.confidence *= stand.get(&suspicion.service).map_or(1.0, |stands| stands.share);
    }
    let waits = |suspicion: &Suspicion| !suspicion.standing && may_wait(suspicion.kind);
    let of_worst = |suspicion: &Suspicion| stand.get(&suspicion.service).map_or(1.0, |stands| stands.of_worst);
    merged.retain(|suspicion| !waits(suspicion) || of_worst(suspicion) >= MIN_SHARE_OF_WORST);
    merged.sort_by(|a, b| b.lost_ms_per_s.total_cmp(&a.lost_ms_per_s));
    merged
}

/// Makes what is said of services that nobody called before part of what is said of who calls them now.
fn fold_new_callees(suspicions: &mut Vec<Suspicion>, scene: &Scene) {
    let is_new_calls = |suspicion: &Suspicion| suspicion.kind == Kind::NewCalls && !suspicion.standing;
    let callees: BTreeSet<Name> =
        suspicions.iter().filter(|suspicion| is_new_calls(suspicion)).filter_map(|new| new.peer).collect();
    let is_slow = |suspicion: &Suspicion| {
        suspicion.is_new_fault() && matches!(suspicion.kind, Kind::Bottleneck | Kind::SlowDependency)
    };
    let (folded, mut kept): (Vec<Suspicion>, Vec<Suspicion>) =
        std::mem::take(suspicions).into_iter().partition(|suspicion| {
            is_slow(suspicion) && callees.contains(&suspicion.service) && !scene.was_called(suspicion.service)
        });
    for callee in folded {
        let of_it = |new: &&mut Suspicion| is_new_calls(new) && new.peer == Some(callee.service);
        if let Some(new) = kept.iter_mut().find(of_it) {
            new.take(callee);
        }
    }
    *suspicions = kept;
}

/// What a service loses beside those that may be of one cause with it.
#[derive(Clone, Copy, Debug)]
struct Stands {
    /// Of all that they lose.
    share: f64,
    /// Of what the worst of them loses.
    of_worst: f64,
}

fn standing<'a>(faults: impl Iterator<Item = &'a Suspicion> + Clone, scene: &Scene) -> BTreeMap<Name, Stands> {
    let upstream = |service: Name| scene.graph.upstream(scene.text(service));
    let callers: BTreeMap<Name, BTreeSet<String>> =
        faults.clone().map(|fault| (fault.service, upstream(fault.service))).collect();
    let calls = |a: &Suspicion, b: &Suspicion| callers[&b.service].contains(scene.text(a.service));
    let beside = |a: &Suspicion, b: &Suspicion| a.service == b.service || calls(a, b) || calls(b, a);
    let lost = |fault: &Suspicion| fault.lost_ms_per_s;
    let stands = |fault: &Suspicion| {
        let related = faults.clone().filter(|other| beside(fault, other)).map(lost);
        let (all, worst) = related.fold((0.0, 0.0), |(all, worst), lost| (all + lost, f64::max(worst, lost)));
        let of = |other: f64| if other > 0.0 { lost(fault) / other } else { 1.0 };
        (fault.service, Stands { share: of(all), of_worst: of(worst) })
    };
    faults.clone().map(stands).collect()
}

/// Kinds that a service is suspected of because of another.
fn may_wait(kind: Kind) -> bool {
    use Kind::{Bottleneck, ChangedCalls, MissingCalls, NewCalls, SlowDependency};
    matches!(kind, Bottleneck | SlowDependency | ChangedCalls | MissingCalls | NewCalls)
}

/// All that is said of one service.
fn one(mut suspicions: Vec<Suspicion>) -> Option<Suspicion> {
    // what is told against history says when it began and what changed
    suspicions.sort_by(|a, b| a.standing.cmp(&b.standing).then(b.lost_ms_per_s.total_cmp(&a.lost_ms_per_s)));
    let precise = |place: &usize| {
        let kind = suspicions[*place].kind;
        !suspicions.iter().any(|other| other.kind.explains(kind))
    };
    let first = (0..suspicions.len()).find(precise).unwrap_or(0);
    let mut kept = suspicions.remove(first);
    for other in suspicions {
        kept.take(other);
    }
    kept.evidence.truncate(MAX_EVIDENCE); // of the ranking it may have more by itself
    Some(kept)
}

impl Suspicion {
    /// Makes another part of this one.
    fn take(&mut self, other: Self) {
        self.confidence = self.confidence.max(other.confidence);
        if self.standing == other.standing {
            self.lost_ms_per_s = self.lost_ms_per_s.max(other.lost_ms_per_s);
            self.onset = self.onset.min(other.onset);
        }
        self.votes = self.votes.max(other.votes);
        if other.kind != self.kind || other.standing != self.standing {
            let also = format!("also {}: {}", other.kind.as_str(), other.summary);
            self.evidence.push(Evidence { text: also, ..Evidence::default() });
        }
        self.evidence.extend(other.evidence);
        self.evidence.truncate(MAX_EVIDENCE);
        self.victims.extend(other.victims.into_iter().filter(|victim| *victim != self.service));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(service: Name, rows: usize) -> Suspicion {
        Suspicion {
            service,
            kind: Kind::Bottleneck,
            operation: None,
            instance: None,
            peer: None,
            lost_ms_per_s: 1.0,
            touched: 1.0,
            confidence: 0.5,
            standing: false,
            votes: 1,
            onset: 0,
            summary: String::new(),
            action: String::new(),
            evidence: vec![Evidence::default(); rows],
            victims: BTreeSet::new(),
        }
    }

    /// What was folded into a suspicion came to its evidence without bound.
    #[test]
    fn what_is_said_of_one_stays_within_its_bound_when_another_becomes_part_of_it() {
        let mut new = said(1, 9);
        (2..5).for_each(|callee| new.take(said(callee, 9)));
        assert_eq!(new.evidence.len(), MAX_EVIDENCE);
    }
}
