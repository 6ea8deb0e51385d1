//! One suspicion for one cause.
//!
//! Of a service that several detectors suspect, the most precise kind stays, else the one by which most is lost; the
//! others become its evidence. A service that loses little beside the worst is not accused of being slow: it waits
//! for it in a way that its own time shows, or shares its machine. Confidence is multiplied by the share of what is lost.

use std::collections::BTreeMap;

use super::{
    kind::{Class, Kind},
    suspicion::Suspicion,
};
use crate::{snapshot::Evidence, spans::Name};

/// Another service is accused beside the worst one only if it loses this share of it.
const MIN_SHARE_OF_WORST: f64 = 0.5;

/// What is said of one finding at most.
const MAX_EVIDENCE: usize = 12;

pub(super) fn merged(suspicions: Vec<Suspicion>) -> Vec<Suspicion> {
    let mut by_service: BTreeMap<Name, Vec<Suspicion>> = BTreeMap::new();
    for suspicion in suspicions {
        by_service.entry(suspicion.service).or_default().push(suspicion);
    }
    let mut merged: Vec<Suspicion> = by_service.into_values().filter_map(one).collect();
    let faults = || merged.iter().filter(|suspicion| suspicion.kind.class() == Class::Fault);
    let worst = faults().map(|suspicion| suspicion.lost_ms_per_s).fold(0.0, f64::max);
    let all: f64 = faults().map(|suspicion| suspicion.lost_ms_per_s).sum();
    for suspicion in merged.iter_mut().filter(|suspicion| suspicion.kind.class() == Class::Fault && all > 0.0) {
        suspicion.confidence *= suspicion.lost_ms_per_s / all;
    }
    merged.retain(|suspicion| !may_wait(suspicion.kind) || suspicion.lost_ms_per_s >= MIN_SHARE_OF_WORST * worst);
    merged.sort_by(|a, b| b.lost_ms_per_s.total_cmp(&a.lost_ms_per_s));
    merged
}

/// Kinds that a service is suspected of because of another.
fn may_wait(kind: Kind) -> bool {
    use Kind::{Bottleneck, ChangedCalls, MissingCalls, NewCalls, SlowDependency};
    matches!(kind, Bottleneck | SlowDependency | ChangedCalls | MissingCalls | NewCalls)
}

/// All that is said of one service.
fn one(mut suspicions: Vec<Suspicion>) -> Option<Suspicion> {
    suspicions.sort_by(|a, b| b.lost_ms_per_s.total_cmp(&a.lost_ms_per_s));
    let precise = |place: &usize| {
        let kind = suspicions[*place].kind;
        !suspicions.iter().any(|other| other.kind.explains(kind))
    };
    let first = (0..suspicions.len()).find(precise).unwrap_or(0);
    let mut kept = suspicions.remove(first);
    for other in suspicions {
        kept.confidence = kept.confidence.max(other.confidence);
        kept.lost_ms_per_s = kept.lost_ms_per_s.max(other.lost_ms_per_s);
        kept.onset = kept.onset.min(other.onset);
        kept.votes = kept.votes.max(other.votes);
        if other.kind != kept.kind {
            let also = format!("also {}: {}", other.kind.as_str(), other.summary);
            kept.evidence.push(Evidence { text: also, ..Evidence::default() });
        }
        kept.evidence.extend(other.evidence);
        kept.victims.extend(other.victims);
    }
    kept.evidence.truncate(MAX_EVIDENCE);
    Some(kept)
}
