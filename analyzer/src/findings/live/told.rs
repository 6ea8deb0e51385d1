//! [`Told`]: how sure a first cause is, as findings take it.

use crate::causes::{Cause, Ranking};

/// A first cause that is so far beyond chance, and of so many requests, is a suspicion; but one beside which as much is lost
/// elsewhere is not.
pub(super) const SURE: f64 = 0.8;
const MOST: f64 = 0.5;

/// How sure a cause is without what lines say that are of no error, of it and of others.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Told {
    /// Its part of what is lost.
    pub(super) share: f64,
    /// That its part is no chance.
    pub(super) belief: f64,
}

/// The surest cause, and how sure it is.
pub(super) fn first(ranking: &Ranking) -> Option<(&Cause, Told)> {
    // of two that are as sure the first stays
    let causes = ranking.causes.iter().rev().map(|cause| (cause, Told::of(ranking, cause)));
    causes.max_by(|a, b| a.1.confidence().total_cmp(&b.1.confidence()))
}

/// The surest cause of each set of services that are connected, in the order of the ranking.
pub(super) fn firsts(ranking: &Ranking) -> Vec<(&Cause, Told)> {
    let mut firsts: Vec<(&Cause, Told)> = Vec::new();
    for (cause, told) in ranking.causes.iter().map(|cause| (cause, Told::of(ranking, cause))) {
        match firsts.iter_mut().find(|(first, _)| first.connected == cause.connected) {
            Some(first) if told.confidence() > first.1.confidence() => *first = (cause, told),
            Some(_) => {}
            None => firsts.push((cause, told)),
        }
    }
    firsts
}

/// Whether a cause is sure: of applications that have nothing to do with each other each has its first one.
pub(super) fn any_is_sure(ranking: &Ranking) -> bool {
    firsts(ranking).iter().any(|(_, told)| told.is_sure())
}

impl Told {
    pub(super) fn of(ranking: &Ranking, cause: &Cause) -> Self {
        let connected = ranking.causes.iter().filter(|other| other.connected == cause.connected);
        let harmless: f64 = connected.map(|cause| cause.share * cause.harmless).sum();
        let share = (cause.share * (1.0 - cause.harmless) / (1.0 - harmless).max(f64::EPSILON)).min(1.0);
        Self { share, belief: cause.confidence / cause.share.max(f64::EPSILON) }
    }

    pub(super) fn confidence(self) -> f64 {
        self.share * self.belief
    }

    /// Whether it is beyond doubt, and more is lost by it than by all others together.
    pub(super) fn is_sure(self) -> bool {
        self.belief >= SURE && self.share >= MOST
    }
}
