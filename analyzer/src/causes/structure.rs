//! Blame by structure: the deepest abnormal span of a trace keeps the blame, and a trace fails once.
//!
//! But a span that stops after a call may stop because of what it called: `suspects.rs` tells. A call that fails, or
//! that nobody answers any more, is who was called.

use super::{
    Operation,
    abnormal::Abnormal,
    history::History,
    marks::{Change, Sign},
    observed::{Observed, OwnKey},
    suspects::After,
    tree::Tree,
};
use crate::spans::Name;

/// How far down a stop is followed, in spans and in services.
const MAX_DEPTH: usize = 12;
const MAX_CHAIN: usize = 4;

/// Requests that a service is blamed for breaking.
#[derive(Clone, Copy, Debug)]
pub(super) struct Broken {
    pub(super) service: Name,
    pub(super) instance: Option<Name>,
    /// What is otherwise, and how.
    pub(super) at: Operation,
    pub(super) sign: Sign,
    /// Whether nothing else is otherwise but lines that are of no error.
    pub(super) harmless: bool,
    pub(super) requests: f64,
    /// How many each stands for.
    pub(super) weight: f64,
    pub(super) z: f64,
}

/// An abnormal span that keeps blame.
pub(super) struct Stop {
    pub(super) at: OwnKey,
    pub(super) instance: Option<Name>,
    pub(super) sign: Sign,
    pub(super) harmless: bool,
    pub(super) requests: f64,
    pub(super) weight: f64,
    pub(super) z: f64,
    /// Whom it called in vain, when it is a call.
    pub(super) callee: Option<Name>,
    /// What was called last before it stopped, and what that called last.
    pub(super) chain: Vec<Called>,
}

#[derive(Clone, Copy)]
pub(super) struct Called {
    pub(super) operation: Operation,
    pub(super) instance: Option<Name>,
}

pub(super) fn broken(observed: &Observed, history: &History) -> Vec<Broken> {
    let abnormal = Abnormal::of(observed, history);
    if abnormal.signatures.is_empty() && abnormal.marks.is_empty() {
        return Vec::new();
    }
    let stops: Vec<Stop> = observed.trees.iter().flat_map(|tree| stops(tree, &abnormal)).collect();
    let after = After::of(&stops, &abnormal);
    stops.iter().flat_map(|stop| after.blame(stop)).collect()
}

fn stops(tree: &Tree, abnormal: &Abnormal) -> Vec<Stop> {
    let mut below = vec![0.0_f64; tree.nodes.len()];
    let mut found = Vec::new();
    for place in tree.children_first() {
        let node = &tree.nodes[place];
        let change = abnormal.of_span(node);
        let share = change.map_or(0.0, |change| change.share);
        if let Some(parent) = node.parent {
            below[parent] = below[parent].max(share).max(below[place]);
        }
        if let Some(Change { sign, z, .. }) = change.filter(|change| change.share * (1.0 - below[place]) > 0.0) {
            found.push(Stop {
                at: abnormal.observed.key(node),
                instance: node.instance,
                sign,
                harmless: abnormal.is_harmless(node),
                requests: share * (1.0 - below[place]),
                weight: node.weight,
                z,
                callee: abnormal.called_in_vain(node, sign),
                chain: chain(tree, place),
            });
        }
    }
    let most = found.iter().map(|stop| stop.requests).fold(0.0, f64::max);
    let all: f64 = found.iter().map(|stop| stop.requests).sum();
    found.iter_mut().for_each(|stop| stop.requests *= most / all);
    found
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
