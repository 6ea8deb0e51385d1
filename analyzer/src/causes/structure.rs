//! Blame by structure: spans with children that are seen more often than chance allows, and who made them so.
//!
//! Of an operation's N spans now, `N·p` are expected to have a signature that c of H had, `p = (c + ½)/(H + 1)`; the
//! variance adds what the share varies by between windows. Beyond three standard deviations each such span is
//! abnormal by the share of them that is in excess.
//!
//! The deepest abnormal span of a trace keeps the blame, and a trace fails once. But a span that stops after a
//! call may stop because of what it called: a callee is blamed when it too behaves otherwise (its own
//! time or tail has another distribution: A. Kolmogorov, 1933; N. Smirnov, 1948), or when different
//! callers or places stop after it. Where nothing tells caller from callee, the caller has the larger part.

use super::{
    Operation,
    history::History,
    latency::GATE,
    observed::{Map, Observed, OwnKey},
    tree::Tree,
};
use crate::spans::Name;

/// Spans of an operation in history without which its structure is not known.
const MIN_HISTORY: u32 = 5;

/// An abnormal span is more likely than not one of the excess.
const MIN_ABNORMAL: f64 = 0.5;

/// How far down a stop is followed, in spans and in services.
const MAX_DEPTH: usize = 12;
const MAX_CHAIN: usize = 4;

/// Distance of distributions that is another behaviour.
const OTHER_BEHAVIOUR: f64 = 0.8;

/// Samples each side needs for that.
const MIN_SAMPLES: usize = 5;

/// What a place must have of all stops after a callee to count as a further one, and at least so many.
const MIN_PLACE_SHARE: f64 = 0.1;
const MIN_PLACE: f64 = 2.0;

/// The caller's part where nothing tells it from its callees.
const CALLERS_PART: f64 = 0.6;

/// Requests that a service is blamed for breaking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub(super) service: Name,
    /// Whose children are otherwise.
    pub(super) at: Operation,
    pub(super) requests: f64,
    pub(super) z: f64,
}

/// An abnormal span that keeps blame.
struct Stop {
    at: OwnKey,
    requests: f64,
    z: f64,
    /// What was called last before it stopped, and what that called last.
    chain: Vec<Operation>,
}

pub(super) fn broken(observed: &Observed, history: &History) -> Vec<Broken> {
    let abnormal = abnormal(observed, history);
    if abnormal.is_empty() {
        return Vec::new();
    }
    let stops: Vec<Stop> = observed.trees.iter().flat_map(|tree| stops(tree, observed, &abnormal)).collect();
    let after = After::of(&stops, observed, history);
    stops.iter().flat_map(|stop| after.blame(stop)).collect()
}

/// By how much a span of each key is abnormal, and how sure that is.
fn abnormal(observed: &Observed, history: &History) -> Map<OwnKey, (f64, f64)> {
    let mut abnormal = Map::default();
    for (operation, all) in &observed.signatures {
        for (signature, count) in &all.counts {
            let usual = history.share(operation, *signature);
            if usual.of_operation < MIN_HISTORY {
                break;
            }
            let (spans, before) = (f64::from(all.spans), f64::from(usual.of_operation));
            let p = (f64::from(usual.of_signature) + 0.5) / (before + 1.0);
            let expected = spans * p;
            let chance = spans * p * (1.0 - p) * (1.0 + spans / before) + 0.25 + (spans * usual.between).powi(2);
            // spans of one trace are one draw
            let variance = chance * (spans / f64::from(all.traces.max(1))).max(1.0);
            let count = f64::from(*count);
            let (z, share) = ((count - expected) / variance.sqrt(), 1.0 - expected / count);
            if z > GATE && share >= MIN_ABNORMAL {
                abnormal.insert((operation.0, operation.1, *signature), (share, z));
            }
        }
    }
    abnormal
}

fn stops(tree: &Tree, observed: &Observed, abnormal: &Map<OwnKey, (f64, f64)>) -> Vec<Stop> {
    let weight = |place: usize| abnormal.get(&observed.key(&tree.nodes[place])).copied().unwrap_or_default();
    let mut below = vec![0.0_f64; tree.nodes.len()];
    let mut found = Vec::new();
    for place in tree.children_first() {
        let (share, z) = weight(place);
        let kept = share * (1.0 - below[place]);
        if let Some(parent) = tree.nodes[place].parent {
            below[parent] = below[parent].max(share).max(below[place]);
        }
        if kept > 0.0 {
            let chain = chain(tree, place);
            found.push(Stop { at: observed.key(&tree.nodes[place]), requests: kept, z, chain });
        }
    }
    let most = found.iter().map(|stop| stop.requests).fold(0.0, f64::max);
    let all: f64 = found.iter().map(|stop| stop.requests).sum();
    found.iter_mut().for_each(|stop| stop.requests *= most / all);
    found
}

fn chain(tree: &Tree, from: usize) -> Vec<Operation> {
    let mut chain = Vec::new();
    let mut place = from;
    for _ in 0..MAX_DEPTH {
        let Some(last) = tree.nodes[place].children.last() else { break };
        if tree.nodes[*last].service != tree.nodes[place].service && chain.len() < MAX_CHAIN {
            chain.push((tree.nodes[*last].service, tree.nodes[*last].operation));
        }
        place = *last;
    }
    chain
}

/// What speaks against operations after whose call something stopped.
struct After {
    requests: Map<Operation, f64>,
    /// Whether different callers or places stop after it.
    several: Map<Operation, bool>,
    /// Whether it behaves otherwise itself.
    changed: Map<Operation, bool>,
}

impl After {
    fn of(stops: &[Stop], observed: &Observed, history: &History) -> Self {
        let mut places = Map::<Operation, Map<OwnKey, f64>>::default();
        for stop in stops {
            for called in &stop.chain {
                *places.entry(*called).or_default().entry(stop.at).or_default() += stop.requests;
            }
        }
        let requests: Map<Operation, f64> = places.iter().map(|(called, at)| (*called, at.values().sum())).collect();
        let several = |(called, at): (&Operation, &Map<OwnKey, f64>)| {
            let least = (MIN_PLACE_SHARE * requests[called]).max(MIN_PLACE);
            (*called, at.values().filter(|stopped| **stopped >= least).count() >= 2)
        };
        let several = places.iter().map(several).collect();
        let changed = requests.keys().map(|called| (*called, behaves_otherwise(called, observed, history))).collect();
        Self { requests, several, changed }
    }

    fn blame(&self, stop: &Stop) -> Vec<Broken> {
        let blame = |service, requests| Broken { service, at: (stop.at.0, stop.at.1), requests, z: stop.z };
        let suspects = stop.chain.iter().filter(|called| self.changed[*called] || self.several[*called]);
        let most = suspects.clone().map(|called| self.requests[called]).fold(0.0, f64::max);
        let suspects: Vec<&Operation> = suspects.filter(|called| self.requests[*called] >= 0.9 * most).collect();
        let deepest_changed = suspects.iter().rev().find(|called| self.changed[**called]);
        if let Some(called) = deepest_changed.or(suspects.first()) {
            return vec![blame(called.0, stop.requests)];
        }
        if stop.chain.is_empty() {
            return vec![blame(stop.at.0, stop.requests)];
        }
        let each = (1.0 - CALLERS_PART) / stop.chain.len() as f64;
        let callees = stop.chain.iter().map(|called| blame(called.0, each * stop.requests));
        std::iter::once(blame(stop.at.0, CALLERS_PART * stop.requests)).chain(callees).collect()
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
