//! Blame by structure: spans with children, failures or log lines that are seen more often than chance allows, and
//! who made them so.
//!
//! Of an operation's N spans now, `N·p` are expected to have a signature that c of H had, `p = (c + ½)/(H + 1)`; the
//! variance adds what the share varies by between windows. Beyond three standard deviations each such span is
//! abnormal by the share of them that is in excess. Marks (`marks.rs`) are counted in the same way.
//!
//! The deepest abnormal span of a trace keeps the blame, and a trace fails once. But a span that stops after a
//! call may stop because of what it called: a callee is blamed when it too behaves otherwise (its own
//! time or tail has another distribution: A. Kolmogorov, 1933; N. Smirnov, 1948), or when different
//! callers or places stop after it. Where nothing tells caller from callee, the caller has the larger part; all of it
//! when the callee logs as usual or the caller failed and the callee did not. A call that fails, or that nobody
//! answers any more, is who was called.

use super::{
    Operation,
    history::{History, UsualShare},
    latency::GATE,
    marks::{self, Change, Mark, Sign},
    observed::{Map, Observed, OwnKey, Signatures},
    tree::{Node, Tree},
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

/// The share of calls that are answered, of those where a missing answer says something.
const MOSTLY: f64 = 0.5;

/// The caller's part where nothing tells it from its callees.
const CALLERS_PART: f64 = 0.6;

/// Requests that a service is blamed for breaking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub(super) service: Name,
    pub(super) instance: Option<Name>,
    /// What is otherwise, and how.
    pub(super) at: Operation,
    pub(super) sign: Sign,
    pub(super) requests: f64,
    pub(super) z: f64,
}

/// An abnormal span that keeps blame.
struct Stop {
    at: OwnKey,
    instance: Option<Name>,
    sign: Sign,
    requests: f64,
    z: f64,
    /// Whom it called in vain, when it is a call.
    callee: Option<Name>,
    /// What was called last before it stopped, and what that called last.
    chain: Vec<Called>,
}

#[derive(Clone, Copy)]
struct Called {
    operation: Operation,
    instance: Option<Name>,
}

pub(super) fn broken(observed: &Observed, history: &History) -> Vec<Broken> {
    let abnormal = Abnormal::of(observed, history);
    if abnormal.signatures.is_empty() && abnormal.marks.is_empty() {
        return Vec::new();
    }
    let stops: Vec<Stop> = observed.trees.iter().flat_map(|tree| abnormal.stops(tree)).collect();
    let after = After::of(&stops, &abnormal);
    stops.iter().flat_map(|stop| after.blame(stop)).collect()
}

/// What became more frequent, and by how much a span that has it is abnormal.
struct Abnormal<'a> {
    observed: &'a Observed,
    history: &'a History,
    signatures: Map<OwnKey, Change>,
    marks: Map<Operation, Vec<Change>>,
}

impl<'a> Abnormal<'a> {
    fn of(observed: &'a Observed, history: &'a History) -> Self {
        let mut signatures = Map::default();
        for (operation, all) in &observed.signatures {
            for (signature, count) in &all.counts {
                if let Some((share, z)) = excess(*count, all, &history.share(operation, *signature)) {
                    signatures.insert((operation.0, operation.1, *signature), Change { sign: Sign::Calls, share, z });
                }
            }
        }
        Self { observed, history, signatures, marks: marks::changes(observed, history) }
    }

    /// The most that is abnormal of a span.
    fn of_span(&self, node: &Node) -> Option<Change> {
        let marks = self.marks.get(&(node.service, node.operation)).into_iter().flatten();
        let marks = marks.filter(|change| match change.sign {
            Sign::Calls => false,
            Sign::Shows(mark) => node.marks.contains(&mark),
            Sign::Lacks(mark) => !node.marks.contains(&mark),
        });
        let all = self.signatures.get(&self.observed.key(node)).into_iter().chain(marks).copied();
        all.max_by(|a, b| a.share.total_cmp(&b.share).then(a.z.total_cmp(&b.z)))
    }

    fn stops(&self, tree: &Tree) -> Vec<Stop> {
        let mut below = vec![0.0_f64; tree.nodes.len()];
        let mut found = Vec::new();
        for place in tree.children_first() {
            let node = &tree.nodes[place];
            let change = self.of_span(node);
            let share = change.map_or(0.0, |change| change.share);
            if let Some(parent) = node.parent {
                below[parent] = below[parent].max(share).max(below[place]);
            }
            if let Some(Change { sign, z, .. }) = change.filter(|change| change.share * (1.0 - below[place]) > 0.0) {
                found.push(Stop {
                    at: self.observed.key(node),
                    instance: node.instance,
                    sign,
                    requests: share * (1.0 - below[place]),
                    z,
                    callee: self.called_in_vain(node, sign),
                    chain: chain(tree, place),
                });
            }
        }
        let most = found.iter().map(|stop| stop.requests).fold(0.0, f64::max);
        let all: f64 = found.iter().map(|stop| stop.requests).sum();
        found.iter_mut().for_each(|stop| stop.requests *= most / all);
        found
    }

    /// Who is called by a span that fails or has no answer.
    fn called_in_vain(&self, node: &Node, sign: Sign) -> Option<Name> {
        let named = node.call.map(|call| call.callee).filter(|_| sign == Sign::Shows(Mark::Failed));
        if node.unanswered && node.children.is_empty() { self.missing(node).or(named) } else { named }
    }

    /// Who answers fewer calls of this operation than usually, if most have an answer.
    fn missing(&self, node: &Node) -> Option<Name> {
        let operation = (node.service, node.operation);
        let usual = self.history.answers(&operation);
        let before = self.history.share(&operation, node.signature).of_operation;
        let share = |count: u32, of: u32| f64::from(count) / f64::from(of.max(1));
        if share(usual.values().sum(), before) < MOSTLY {
            return None;
        }
        let (now, spans) = (self.observed.answers.get(&operation), self.observed.signatures[&operation].spans);
        let lost = |callee: &Name, count: u32| {
            let now = now.and_then(|now| now.get(callee)).copied().unwrap_or(0);
            share(count, before) - share(now, spans)
        };
        let lost = usual.iter().map(|(callee, count)| (lost(callee, *count), *callee));
        lost.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, callee)| callee)
    }
}

/// The share of these spans that is more than chance, and how far beyond it; `None` for what may be chance.
pub(super) fn excess(count: u32, all: &Signatures, usual: &UsualShare) -> Option<(f64, f64)> {
    if usual.of_operation < MIN_HISTORY || count == 0 {
        return None;
    }
    let (spans, before) = (f64::from(all.spans), f64::from(usual.of_operation));
    let p = (f64::from(usual.of_signature) + 0.5) / (before + 1.0);
    let expected = spans * p;
    let chance = spans * p * (1.0 - p) * (1.0 + spans / before) + 0.25 + (spans * usual.between).powi(2);
    // spans of one trace are one draw
    let variance = chance * (spans / f64::from(all.traces.max(1))).max(1.0);
    let count = f64::from(count);
    let (z, share) = ((count - expected) / variance.sqrt(), 1.0 - expected / count);
    (z > GATE && share >= MIN_ABNORMAL).then_some((share, z))
}

fn chain(tree: &Tree, from: usize) -> Vec<Called> {
    let mut chain = Vec::new();
    let mut place = from;
    for _ in 0..MAX_DEPTH {
        let Some(last) = tree.nodes[place].children.last() else { break };
        let node = &tree.nodes[*last];
        if node.service != tree.nodes[place].service && chain.len() < MAX_CHAIN {
            chain.push(Called { operation: (node.service, node.operation), instance: node.instance });
        }
        place = *last;
    }
    chain
}

/// What speaks for and against operations after whose call something stopped.
struct After {
    requests: Map<Operation, f64>,
    /// Whether different callers or places stop after it.
    several: Map<Operation, bool>,
    /// Whether it behaves otherwise itself.
    changed: Map<Operation, bool>,
    /// Whether its service logs, and as usual.
    as_usual: Map<Name, bool>,
}

impl After {
    fn of(stops: &[Stop], abnormal: &Abnormal) -> Self {
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

    fn blame(&self, stop: &Stop) -> Vec<Broken> {
        let blame = |service, instance, requests| {
            let at = (stop.at.0, stop.at.1);
            Broken { service, instance, at, sign: stop.sign, requests, z: stop.z }
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
        let suspects = stop.chain.iter().filter(|it| self.changed[&it.operation] || self.several[&it.operation]);
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
