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
    marks,
    observed::{Map, OwnKey, Shape},
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
        let mut shapes = Map::<Operation, Vec<(&OwnKey, &Shape)>>::default();
        for (key, shape) in &observed.shapes {
            shapes.entry((key.0, key.1)).or_default().push((key, shape));
        }
        let otherwise =
            |called: &Operation| shapes.get(called).is_some_and(|shapes| behaves_otherwise(shapes, history));
        let changed = requests.keys().map(|called| (*called, otherwise(called))).collect();
        let mut operations: Map<Name, Vec<Operation>> = requests.keys().map(|called| (called.0, Vec::new())).collect();
        for operation in observed.signatures.keys() {
            operations.entry(operation.0).and_modify(|operations| operations.push(*operation));
        }
        let logs_as_usual = |(service, operations): (Name, Vec<Operation>)| {
            (service, marks::logs_as_usual(&operations, observed, history, &abnormal.marks))
        };
        let as_usual = operations.into_iter().map(logs_as_usual).collect();
        Self { requests, several, changed, as_usual }
    }

    pub(super) fn blame(&self, stop: &Stop) -> Vec<Broken> {
        let blame = |service, instance, requests| {
            let at = (stop.at.0, stop.at.1);
            let (sign, harmless, weight, z) = (stop.sign, stop.harmless, stop.weight, stop.z);
            Broken { service, instance, at, sign, harmless, requests, weight, z }
        };
        if let Some(callee) = stop.callee {
            return vec![blame(callee, None, stop.requests)];
        }
        if let Some(called) = self.suspect(stop) {
            return vec![blame(called.operation.0, called.instance, stop.requests)];
        }
        let excused = |called: &&Called| self.as_usual[&called.operation.0] || stop.sign.is_failure();
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

/// Whether one of an operation's shapes is far from what it was.
fn behaves_otherwise(shapes: &[(&OwnKey, &Shape)], history: &History) -> bool {
    let mut distances = shapes.iter().filter_map(|(key, now)| {
        let before = history.shape(key);
        let own = distance(&now.own, &before.own);
        let tail = distance(&now.tail, &before.tail).unwrap_or(0.0);
        own.map(|own| own.max(tail))
    });
    distances.any(|distance| distance >= OTHER_BEHAVIOUR)
}

/// The largest distance between two distribution functions; `None` when either has too few samples.
fn distance(a: &[(i32, f64)], b: &[(i32, f64)]) -> Option<f64> {
    if a.len() < MIN_SAMPLES || b.len() < MIN_SAMPLES {
        return None;
    }
    let (of_a, of_b) = (Distribution::of(a), Distribution::of(b));
    let distances = a.iter().chain(b).map(|(at, _)| (of_a.below(*at) - of_b.below(*at)).abs());
    Some(distances.fold(0.0, f64::max))
}

/// Values in order, each with the weight of all up to it.
struct Distribution(Vec<(i32, f64)>);

impl Distribution {
    fn of(values: &[(i32, f64)]) -> Self {
        let mut sorted = values.to_vec();
        sorted.sort_unstable_by_key(|(value, _)| *value);
        let mut sum = 0.0;
        for (_, weight) in &mut sorted {
            sum += *weight;
            *weight = sum;
        }
        Self(sorted)
    }

    /// Which share is at most so much.
    fn below(&self, at: i32) -> f64 {
        let all = self.0.last().map_or(1.0, |(_, all)| *all);
        let place = self.0.partition_point(|(value, _)| *value <= at);
        place.checked_sub(1).map_or(0.0, |last| self.0[last].1 / all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_is_that_of_distribution_functions() {
        let ones = |values: &[i32]| values.iter().map(|value| (*value, 1.0)).collect::<Vec<_>>();
        let distance_of = |a: &[i32], b: &[i32]| distance(&ones(a), &ones(b));
        assert_eq!(distance_of(&[1, 2, 3, 4, 5], &[1, 2, 3, 4, 5]), Some(0.0));
        assert_eq!(distance_of(&[1, 2, 3, 4, 5], &[6, 7, 8, 9, 10]), Some(1.0));
        assert!((distance_of(&[1, 1, 1, 9, 9], &[1, 9, 9, 9, 9]).unwrap() - 0.4).abs() < 1e-9);
        assert_eq!(distance_of(&[1], &[1, 2, 3, 4, 5]), None);
        // of which one stands for three
        let weighed = [(1, 3.0), (9, 1.0), (9, 1.0), (9, 0.5), (9, 0.5)];
        assert!((distance(&weighed, &ones(&[1, 1, 1, 9, 9, 9])).unwrap()).abs() < 1e-9);
    }
}
