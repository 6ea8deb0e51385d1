//! [`After`]: whether a span that stops after a call stops by itself or because of what it called.
//!
//! A callee is blamed when it too behaves otherwise (its own time or tail has another distribution: A. Kolmogorov,
//! 1933; N. Smirnov, 1948), or when different callers or places stop after it, unless it logs as usual. Where nothing
//! tells caller from callee the caller has the larger part; all of it when the callee logs as usual, or when the caller
//! failed and the callee did not.

use super::{
    Operation,
    abnormal::Abnormal,
    history::History,
    marks::{self, Mark, Sign},
    observed::{Map, Observed, OwnKey},
    structure::{Broken, Called, Stop},
};
use crate::spans::Name;

/// Distance of distributions that is another behaviour.
const OTHER_BEHAVIOUR: f64 = 0.8;

/// Samples each side needs for that.
const MIN_SAMPLES: usize = 5;

/// What a place must have of all stops after a callee to count as a further one, and at least so many.
const MIN_PLACE_SHARE: f64 = 0.1;
const MIN_PLACE: f64 = 2.0;

/// The caller's part where nothing tells it from its callees.
const CALLERS_PART: f64 = 0.6;

/// What speaks for and against operations after whose call something stopped.
pub(super) struct After {
    requests: Map<Operation, f64>,
    /// Whether different callers or places stop after it.
    several: Map<Operation, bool>,
    /// Whether it behaves otherwise itself.
    changed: Map<Operation, bool>,
    /// Whether its service logs, and as usual.
    as_usual: Map<Name, bool>,
}

impl After {
    pub(super) fn of(stops: &[Stop], abnormal: &Abnormal) -> Self {
        let Abnormal { observed, history, .. } = abnormal;
        let mut places = Map::<Operation, Map<OwnKey, f64>>::default();
        for stop in stops {
            for called in &stop.chain {
                *places.entry(called.operation).or_default().entry(stop.at).or_default() += stop.requests;
            }
        }
        let requests: Map<Operation, f64> = places.iter().map(|(called, at)| (*called, at.values().sum())).collect();
        let several = |(called, at): (&Operation, &Map<OwnKey, f64>)| {
            let least = (MIN_PLACE_SHARE * requests[called]).max(MIN_PLACE);
            (*called, at.values().filter(|stopped| **stopped >= least).count() >= 2)
        };
        let several = places.iter().map(several).collect();
        let changed = requests.keys().map(|called| (*called, behaves_otherwise(called, observed, history))).collect();
        let services: std::collections::BTreeSet<Name> = requests.keys().map(|called| called.0).collect();
        let logs_as_usual = |service| (service, marks::logs_as_usual(service, observed, history, &abnormal.marks));
        let as_usual = services.into_iter().map(logs_as_usual).collect();
        Self { requests, several, changed, as_usual }
    }

    pub(super) fn blame(&self, stop: &Stop) -> Vec<Broken> {
        let blame = |service, instance, requests| {
            let at = (stop.at.0, stop.at.1);
            Broken { service, instance, at, sign: stop.sign, harmless: stop.harmless, requests, z: stop.z }
        };
        if let Some(callee) = stop.callee {
            return vec![blame(callee, None, stop.requests)];
        }
        if let Some(called) = self.suspect(stop) {
            return vec![blame(called.operation.0, called.instance, stop.requests)];
        }
        let excused = |called: &&Called| self.as_usual[&called.operation.0] || stop.sign == Sign::Shows(Mark::Failed);
        let doubtful: Vec<&Called> = stop.chain.iter().filter(|called| !excused(called)).collect();
        if doubtful.is_empty() {
            return vec![blame(stop.at.0, stop.instance, stop.requests)];
        }
        let each = (1.0 - CALLERS_PART) / doubtful.len() as f64 * stop.requests;
        let callees = doubtful.iter().map(|called| blame(called.operation.0, called.instance, each));
        std::iter::once(blame(stop.at.0, stop.instance, CALLERS_PART * stop.requests)).chain(callees).collect()
    }

    /// Who of those called last the evidence is against.
    fn suspect(&self, stop: &Stop) -> Option<Called> {
        let several = |it: &Operation| self.several[it] && !self.as_usual[&it.0];
        let suspects = stop.chain.iter().filter(|it| self.changed[&it.operation] || several(&it.operation));
        let most = suspects.clone().map(|called| self.requests[&called.operation]).fold(0.0, f64::max);
        let suspects: Vec<&Called> = suspects.filter(|it| self.requests[&it.operation] >= 0.9 * most).collect();
        let deepest_changed = suspects.iter().rev().find(|called| self.changed[&called.operation]);
        deepest_changed.or(suspects.first()).map(|called| **called)
    }
}

fn behaves_otherwise(called: &Operation, observed: &Observed, history: &History) -> bool {
    let keys = observed.shapes.iter().filter(|((service, operation, _), _)| (*service, *operation) == *called);
    let mut distances = keys.filter_map(|(key, now)| {
        let before = history.shape(key);
        let own = distance(&now.own, &before.own);
        let tail = distance(&now.tail, &before.tail).unwrap_or(0.0);
        own.map(|own| own.max(tail))
    });
    distances.any(|distance| distance >= OTHER_BEHAVIOUR)
}

/// The largest distance between two distribution functions; `None` when either has too few samples.
fn distance(a: &[i32], b: &[i32]) -> Option<f64> {
    if a.len() < MIN_SAMPLES || b.len() < MIN_SAMPLES {
        return None;
    }
    let sorted = |values: &[i32]| {
        let mut values = values.to_vec();
        values.sort_unstable();
        values
    };
    let (a, b) = (sorted(a), sorted(b));
    let below = |values: &[i32], at: i32| values.partition_point(|value| *value <= at) as f64 / values.len() as f64;
    let distances = a.iter().chain(&b).map(|at| (below(&a, *at) - below(&b, *at)).abs());
    Some(distances.fold(0.0, f64::max))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_that_of_distribution_functions() {
        assert_eq!(distance(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]), Some(0.0));
        assert_eq!(distance(&[1, 2, 3, 4, 5], &[6, 7, 8, 9, 10]), Some(1.0));
        assert!((distance(&[1, 1, 1, 9, 9], &[1, 9, 9, 9, 9]).unwrap() - 0.4).abs() < 1e-9);
        assert_eq!(distance(&[1], &[1, 2, 3, 4, 5]), None);
    }
}
