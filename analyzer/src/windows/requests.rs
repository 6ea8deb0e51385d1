//! [`some_of`]: some whole requests of every entry, for what-if. Which ones is decided by their trace ids, so that it depends
//! neither on the order of arrival nor on how long they took.

use std::{collections::BTreeMap, hash::BuildHasher};

use weir_schema::UnixNanos;

use crate::{
    held::{Held, Node, Place},
    retiming::{Call, Request},
    spans::{Name, Span},
};

/// Requests of an entry taken from a window: five windows of them ([`Requests`](crate::snapshot::Requests)) know a mean
/// to 4 % of its scatter.
const A_WINDOW: usize = 100;

/// Requests taken from a window at most; with [`MAX_PARTS`] each, 13 MB at worst.
const MOST_A_WINDOW: usize = 1_000;

/// Parts (one per service entered) of a request that is kept.
const MAX_PARTS: usize = 200;

/// Where a request entered the mesh: nobody called, or a client of which nothing more is known.
#[derive(Clone, Copy, Debug)]
pub(super) struct Root {
    service: Name,
    trace: u128,
    id: u64,
    place: Place,
}

impl Root {
    pub(super) fn new(span: &Span, place: Place) -> Self {
        Self { service: span.service, trace: span.trace, id: span.id, place }
    }
}

/// Some of the requests that entered there.
pub(super) fn some_of(roots: &[Root], held: &Held, known_until: UnixNanos) -> Vec<Request<Name>> {
    let hash = foldhash::fast::FixedState::default();
    let mut by_entry: BTreeMap<Name, Vec<(u64, u64, Place)>> = BTreeMap::new();
    for Root { service, trace, id, place } in roots {
        by_entry.entry(*service).or_default().push((hash.hash_one(*trace), *id, *place));
    }
    let whole = Whole { held, known_until };
    let mut taken = Vec::new();
    for mut roots in by_entry.into_values() {
        roots.sort_unstable_by_key(|(hash, id, _)| (*hash, *id));
        let some = roots.into_iter().take(A_WINDOW.min(MOST_A_WINDOW - taken.len()));
        taken.extend(some.filter_map(|(.., place)| whole.part(place, held.node(place)?, &mut 0)));
    }
    taken
}

/// Reads requests from the spans that had ended by then.
struct Whole<'a> {
    held: &'a Held,
    known_until: UnixNanos,
}

impl Whole<'_> {
    /// One service's part, and those of whom it called; `None` when there are too many.
    fn part(&self, place: Place, node: &Node, parts: &mut usize) -> Option<Request<Name>> {
        let mut calls = Vec::new();
        let mut within = vec![place];
        while let Some(parent) = within.pop() {
            *parts += 1;
            if *parts > MAX_PARTS {
                return None;
            }
            for (place, child) in self.children(parent) {
                if child.is_client() || child.service != node.service {
                    calls.push((child.id(), self.call(node, place, child, parts)?));
                } else {
                    within.push(place);
                }
            }
        }
        // of two that began together one comes first, always the same
        calls.sort_by(|(a_id, a), (b_id, b)| a.start_ms.total_cmp(&b.start_ms).then(a_id.cmp(b_id)));
        let calls = calls.into_iter().map(|(_, call)| call).collect();
        Some(Request { service: node.service, duration_ms: ms(node.end() - node.start()), calls })
    }

    fn call(&self, caller: &Node, place: Place, child: &Node, parts: &mut usize) -> Option<Call<Name>> {
        let answer = if child.service != caller.service {
            Some((place, child))
        } else {
            let answers = self.children(place).filter(|(_, answer)| answer.service != caller.service);
            answers.min_by_key(|(_, answer)| answer.id())
        };
        let callee = match answer {
            Some((place, answer)) => Some(Box::new(self.part(place, answer, parts)?)),
            None => None,
        };
        let start_ms = ms(child.start() - caller.start()).max(0.0);
        Some(Call { start_ms, end_ms: ms(child.end() - caller.start()), callee })
    }

    fn children(&self, place: Place) -> impl Iterator<Item = (Place, &Node)> {
        self.held.children(place).filter(|(_, child)| child.end() <= self.known_until)
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
