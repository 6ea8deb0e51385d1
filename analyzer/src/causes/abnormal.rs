//! [`Abnormal`]: spans with children, failures or log lines that are seen more often than chance allows.
//!
//! Of an operation's N spans now, `N·p` are expected to have a signature that c of H had, `p = (c + ½)/(H + 1)`; the
//! variance adds what the share varies by between windows. Beyond three standard deviations each such span is
//! abnormal by the share of them that is in excess. Marks (`marks.rs`) are counted in the same way.

use super::{
    Operation,
    history::{History, UsualShare},
    latency::GATE,
    marks::{self, Change, Sign},
    observed::{Map, Observed, OwnKey, Signatures},
    tree::Node,
};
use crate::spans::Name;

/// Spans of an operation in history without which its structure is not known.
const MIN_HISTORY: f64 = 5.0;

/// An abnormal span is more likely than not one of the excess.
const MIN_ABNORMAL: f64 = 0.5;

/// A weight that is none: what is left of sums that are equal.
const LEAST_WEIGHT: f64 = 1e-6;

/// The share of calls that are answered, of those where a missing answer says something.
const MOSTLY: f64 = 0.5;

/// What became more frequent, and by how much a span that has it is abnormal.
pub(super) struct Abnormal<'a> {
    pub(super) observed: &'a Observed,
    pub(super) history: &'a History,
    pub(super) signatures: Map<OwnKey, Change>,
    pub(super) marks: Map<Operation, Vec<Change>>,
}

impl<'a> Abnormal<'a> {
    pub(super) fn of(observed: &'a Observed, history: &'a History) -> Self {
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
    pub(super) fn of_span(&self, node: &Node) -> Option<Change> {
        self.changes(node).max_by(|a, b| a.share.total_cmp(&b.share).then(a.z.total_cmp(&b.z)))
    }

    /// Whether nothing is abnormal of a span but lines that are of no error.
    pub(super) fn is_harmless(&self, node: &Node) -> bool {
        self.changes(node).all(|change| change.sign.is_harmless())
    }

    fn changes(&self, node: &Node) -> impl Iterator<Item = Change> {
        let marks = self.marks.get(&(node.service, node.operation)).into_iter().flatten();
        let marks = marks.filter(move |change| match change.sign {
            Sign::Calls => false,
            Sign::Shows(mark) => node.marks.contains(&mark),
            Sign::Lacks(mark) => node.heard && !node.marks.contains(&mark),
        });
        self.signatures.get(&self.observed.key(node)).into_iter().chain(marks).copied()
    }

    /// Who is called by a span that fails or has no answer.
    pub(super) fn called_in_vain(&self, node: &Node, sign: Sign) -> Option<Name> {
        let named = node.call.map(|call| call.callee).filter(|_| sign.is_failure());
        if node.unanswered && node.children.is_empty() { self.missing(node).or(named) } else { named }
    }

    /// Who answers fewer calls of this operation than usually, if most have an answer.
    fn missing(&self, node: &Node) -> Option<Name> {
        let operation = (node.service, node.operation);
        let usual = self.history.answers(&operation);
        let before = self.history.weight(&operation);
        let share = |count: f64, of: f64| if of > 0.0 { count / of } else { 0.0 };
        if share(usual.values().sum(), before) < MOSTLY {
            return None;
        }
        let (now, spans) = (self.observed.answers.get(&operation), self.observed.signatures[&operation].weight);
        let lost = |callee: &Name, count: f64| {
            let now = now.and_then(|now| now.get(callee)).copied().unwrap_or(0.0);
            share(count, before) - share(now, spans)
        };
        let lost = usual.iter().map(|(callee, count)| (lost(callee, *count), *callee));
        lost.max_by(|a, b| a.0.total_cmp(&b.0).then(b.1.cmp(&a.1))).map(|(_, callee)| callee)
    }
}

/// The share of the spans of so much weight that is more than chance, and how far beyond it; `None` for what may be chance.
pub(super) fn excess(weight: f64, all: &Signatures, usual: &UsualShare) -> Option<(f64, f64)> {
    if usual.of_operation < MIN_HISTORY || weight < LEAST_WEIGHT {
        return None;
    }
    let (spans, before) = (all.effective(), usual.of_operation);
    let p = (usual.of_signature + 0.5) / (before + 1.0);
    let expected = spans * p;
    let chance = spans * p * (1.0 - p) * (1.0 + spans / before) + 0.25 + (spans * usual.between).powi(2);
    // spans of one trace are one draw
    let variance = chance * all.spans_a_trace();
    let count = all.of_effective(weight);
    let (z, share) = ((count - expected) / variance.sqrt(), 1.0 - expected / count);
    (z > GATE && share >= MIN_ABNORMAL).then_some((share, z))
}
