//! [`EntryWindow`]: requests by where they entered, and which services they needed.
//!
//! A request that enters is followed down its trace, so that it is known and not inferred which services
//! it needed, how often, and which of them it waited for: at the critical ones an error or a delay is the
//! request's own.

use std::collections::BTreeMap;

use weir_schema::UnixNanos;

use crate::{
    held::{Held, Node, Place},
    names::OTHER,
    snapshot::NodeKind,
    spans::Name,
};

/// Entry operations told apart in one window; further ones are each service's [`OTHER`].
const MAX_ENTRIES: usize = 2_000;

/// Services that one entry operation is said to need.
const MAX_NEEDED: usize = 2_000;

/// Spans of one request that are followed.
const MAX_SPANS: usize = 10_000;

/// What requests that entered by one operation needed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct EntryWindow {
    pub(crate) requests: u64,
    /// The entry itself is among them.
    pub(crate) needed: BTreeMap<Name, Need>,
}

/// How requests need a service.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Need {
    /// Requests that called it, directly or not.
    pub(crate) requests: u64,
    /// Those that waited for it.
    pub(crate) critical: u64,
    /// Calls to it.
    pub(crate) visits: u64,
}

/// Where a request entered.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Entered {
    pub(crate) place: Place,
    pub(crate) service: Name,
    pub(crate) operation: Name,
    pub(crate) weight: u32,
}

/// Follows requests, one at a time, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Follow {
    /// Spans to look at, and whether the request waits for them.
    work: Vec<(Place, bool)>,
    /// Visits, and whether they were waited for.
    visits: Vec<(Name, bool)>,
}

impl Follow {
    /// Adds a request's needs to those of its entry.
    pub(crate) fn request(
        &mut self,
        entries: &mut BTreeMap<(Name, Name), EntryWindow>,
        entered: &Entered,
        held: &Held,
        known_until: UnixNanos,
    ) {
        self.visits.clear();
        self.visits.push((entered.service, true));
        self.work.push((entered.place, true));
        let mut followed = 0;
        while let Some((place, critical)) = self.work.pop() {
            followed += 1;
            let Some(node) = held.node(place).filter(|_| followed <= MAX_SPANS) else { continue };
            self.below(place, node, critical, held, known_until);
        }
        let mut key = (entered.service, entered.operation);
        if entries.len() >= MAX_ENTRIES && !entries.contains_key(&key) {
            key.1 = OTHER;
        }
        entries.entry(key).or_default().add(&mut self.visits, u64::from(entered.weight));
    }

    fn below(&mut self, place: Place, node: &Node, critical: bool, held: &Held, known_until: UnixNanos) {
        let mut answered = false;
        for (child_place, child) in held.children(place).filter(|(_, child)| child.end() <= known_until) {
            let of_other = child.service != node.service;
            answered |= of_other || child.is_client();
            // of a call itself it is noted whether it was waited for; what it leads to shares its lot
            let call = !node.is_client() && (of_other || child.is_client());
            let critical = critical && (!call || child.is_critical());
            if of_other && !child.is_client() {
                self.visits.push((child.service, critical));
            }
            self.work.push((child_place, critical));
        }
        let named = node.peer().filter(|(_, kind)| matches!(kind, NodeKind::Database | NodeKind::Messaging));
        self.visits.extend(named.filter(|_| node.is_client() && !answered).map(|(peer, _)| (peer, critical)));
    }
}

impl EntryWindow {
    fn add(&mut self, visits: &mut [(Name, bool)], weight: u64) {
        self.requests += weight;
        visits.sort_unstable();
        for visits in visits.chunk_by(|a, b| a.0 == b.0) {
            let name = visits[0].0;
            if self.needed.len() >= MAX_NEEDED && !self.needed.contains_key(&name) {
                continue;
            }
            let need = self.needed.entry(name).or_default();
            need.requests += weight;
            need.visits += weight * visits.len() as u64;
            need.critical += if visits.iter().any(|(_, critical)| *critical) { weight } else { 0 };
        }
    }
}
