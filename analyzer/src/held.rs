//! [`Held`]: spans remembered for a while: to ignore exact duplicates, and to join callers and
//! callees whichever comes first.
//!
//! Two generations: spans live in the young one; when event time or the clock moved by the hold time
//! the old one goes and the young one grows old. A span is so remembered for one to two hold times, at constant
//! cost, and the count is bounded by turning early.

use std::collections::BTreeSet;

use hashbrown::{HashMap, hash_map::Entry};
use weir_schema::UnixNanos;

use crate::{
    rollup::minute,
    snapshot::NodeKind,
    spans::{Name, Side, Span},
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A call from one service to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Name,
    pub(crate) callee: Name,
    pub(crate) callee_kind: NodeKind,
    /// Of the callee's span, or of the caller's where the callee has none.
    pub(crate) start: UnixNanos,
    pub(crate) duration_ns: i64,
    pub(crate) error: bool,
    /// Client minus server duration.
    pub(crate) gap_ns: Option<i64>,
}

/// Which span: 24 bytes, where `(u128, u64)` takes 32.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Key {
    trace: [u64; 2],
    span: u64,
}

/// What is remembered of a span: 24 bytes, so that with its key it takes 48 and one of the map's own.
#[derive(Clone, Copy, Debug)]
struct Known {
    start: UnixNanos,
    /// Duration above, [`flags`] below.
    bits: u64,
    service: Name,
    /// [`NO_PEER`] when it names none.
    peer: Name,
}

const NO_PEER: Name = Name::MAX;

/// The low bits of [`Known`]: two for the peer's kind, then one each.
mod flags {
    pub(super) const PEER_KIND: u64 = 0b11;
    pub(super) const CLIENT: u64 = 1 << 2;
    pub(super) const ERROR: u64 = 1 << 3;
    /// A span of another service is its child.
    pub(super) const ANSWERED: u64 = 1 << 4;
    /// Read back only so that others find it: what it says alone is in the tables already.
    pub(super) const CONTEXT: u64 = 1 << 5;
    pub(super) const WIDTH: u32 = 8;
}

/// Why a span is taken in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum As {
    /// It just came, or its minute is made anew.
    New,
    /// Its minute is in the tables.
    Context,
}

#[derive(Debug, Default)]
struct Generation {
    known: Map<Key, Known>,
    /// Spans whose parent has not come yet, by that parent.
    waiting: Map<Key, Vec<Known>>,
    /// The minutes of the spans that are not context.
    minutes: BTreeSet<UnixNanos>,
}

impl Generation {
    /// One that takes so many spans without growing, which would copy them all again and again.
    fn with_room(spans: usize) -> Self {
        Self { known: Map::with_capacity_and_hasher(spans, foldhash::fast::RandomState::default()), ..Self::default() }
    }
}

/// The two generations.
#[derive(Debug, Default)]
pub(crate) struct Held {
    young: Generation,
    old: Generation,
    /// Event time of the last turn.
    turned_at: UnixNanos,
    /// The clock then.
    turned_clock: Option<UnixNanos>,
    newest: UnixNanos,
    /// Spans let go before their time.
    pub(crate) evicted: u64,
}

impl Held {
    /// Takes a span in. `None` when it is an exact duplicate, else the calls it completes.
    pub(crate) fn insert(&mut self, span: &Span, taken: As, calls: &mut Vec<Call>) -> Option<()> {
        let key = Key::of(span.key());
        // a look into either map misses every cache: one for each, no more
        if self.old.known.contains_key(&key) {
            return None;
        }
        let Entry::Vacant(place) = self.young.known.entry(key) else { return None };
        self.newest = self.newest.max(span.start);
        let mut known = Known::of(span, taken);
        for children in [self.young.waiting.remove(&key), self.old.waiting.remove(&key)].into_iter().flatten() {
            for child in children {
                join(&mut known, &child, calls);
            }
        }
        place.insert(known);
        if span.parent != 0 {
            self.find_parent(Key::of((span.trace, span.parent)), &known, calls);
        }
        if taken == As::New {
            self.young.minutes.insert(minute(span.start));
        }
        Some(())
    }

    fn find_parent(&mut self, parent_key: Key, known: &Known, calls: &mut Vec<Call>) {
        let parent = self.young.known.get_mut(&parent_key).or_else(|| self.old.known.get_mut(&parent_key));
        match parent {
            Some(parent) => join(parent, known, calls),
            None => self.young.waiting.entry(parent_key).or_default().push(*known),
        }
    }

    /// The service of a remembered span.
    pub(crate) fn service_of(&self, key: (u128, u64)) -> Option<Name> {
        let key = Key::of(key);
        self.young.known.get(&key).or_else(|| self.old.known.get(&key)).map(|known| known.service)
    }

    /// The minutes that a remembered span may still add to.
    pub(crate) fn minutes(&self) -> impl Iterator<Item = UnixNanos> {
        self.young.minutes.iter().chain(&self.old.minutes).copied()
    }

    /// Lets old spans go, when event time or the clock moved by the hold time; client spans that
    /// nobody answered become calls to the peer they name. Without a clock only event time counts.
    pub(crate) fn turn(&mut self, now: Option<UnixNanos>, hold_ns: i64, max_spans: usize, calls: &mut Vec<Call>) {
        let full = self.young.known.len() > max_spans / 2;
        let event_time_moved = self.newest.saturating_sub(self.turned_at) > hold_ns;
        let turned_clock = now.map(|now| (now, *self.turned_clock.get_or_insert(now)));
        let clock_moved = turned_clock.is_some_and(|(now, turned)| now.saturating_sub(turned) > hold_ns);
        let due = event_time_moved || clock_moved;
        if !due && !full {
            return;
        }
        if full && !due {
            self.evicted += self.old.known.len() as u64;
        }
        self.turned_at = self.newest;
        self.turned_clock = now.or(self.turned_clock);
        let as_many = Generation::with_room(self.young.known.len());
        let gone = std::mem::replace(&mut self.old, std::mem::replace(&mut self.young, as_many));
        unanswered(gone, calls);
    }

    /// Lets everything go.
    pub(crate) fn finish(&mut self, calls: &mut Vec<Call>) {
        unanswered(std::mem::take(&mut self.old), calls);
        unanswered(std::mem::take(&mut self.young), calls);
    }
}

impl Key {
    fn of((trace, span): (u128, u64)) -> Self {
        Self { trace: [(trace >> 64) as u64, trace as u64], span }
    }
}

impl Known {
    fn of(span: &Span, taken: As) -> Self {
        let flag = |holds: bool, flag: u64| if holds { flag } else { 0 };
        let flags = span.peer_kind as u64 & flags::PEER_KIND
            | flag(span.side == Side::Client, flags::CLIENT)
            | flag(span.error, flags::ERROR)
            | flag(taken == As::Context, flags::CONTEXT);
        // two years in 56 bits; a span that is said to last longer lasts that long
        let duration = (span.duration_ns.max(0) as u64).min(u64::MAX >> flags::WIDTH);
        let bits = duration << flags::WIDTH | flags;
        Self { start: span.start, bits, service: span.service, peer: span.peer.unwrap_or(NO_PEER) }
    }

    fn is(&self, flag: u64) -> bool {
        self.bits & flag != 0
    }

    fn duration_ns(&self) -> i64 {
        (self.bits >> flags::WIDTH) as i64
    }

    fn peer_kind(&self) -> NodeKind {
        let kinds = [NodeKind::Service, NodeKind::Database, NodeKind::Messaging, NodeKind::External];
        kinds.into_iter().find(|kind| *kind as u64 == self.bits & flags::PEER_KIND).unwrap_or_default()
    }
}

/// A child in another service is a call, and answers its parent.
fn join(parent: &mut Known, child: &Known, calls: &mut Vec<Call>) {
    if parent.service == child.service {
        return;
    }
    parent.bits |= flags::ANSWERED;
    calls.push(Call {
        caller: parent.service,
        callee: child.service,
        callee_kind: NodeKind::Service,
        start: child.start,
        duration_ns: child.duration_ns(),
        error: child.is(flags::ERROR),
        gap_ns: parent.is(flags::CLIENT).then_some(parent.duration_ns() - child.duration_ns()),
    });
}

fn unanswered(generation: Generation, calls: &mut Vec<Call>) {
    for known in generation.known.into_values() {
        let (caller, callee) = (known.service, known.peer);
        let alone = known.is(flags::CLIENT) && !known.is(flags::ANSWERED) && !known.is(flags::CONTEXT);
        if alone && callee != NO_PEER && callee != caller {
            let (start, duration_ns, error) = (known.start, known.duration_ns(), known.is(flags::ERROR));
            calls.push(Call {
                caller,
                callee,
                callee_kind: known.peer_kind(),
                start,
                duration_ns,
                error,
                gap_ns: None,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_span_takes_48_bytes_and_keeps_what_a_call_needs() {
        assert_eq!(size_of::<(Key, Known)>(), 48);
        for (kind, side, error) in [
            (NodeKind::Service, Side::Client, true),
            (NodeKind::Database, Side::Client, false),
            (NodeKind::Messaging, Side::Client, true),
            (NodeKind::External, Side::Server, false),
        ] {
            let span = Span { peer_kind: kind, peer: Some(7), side, error, duration_ns: 123_456_789_012_345, ..span() };
            let known = Known::of(&span, As::New);
            assert_eq!((known.peer_kind(), known.peer, known.duration_ns()), (kind, 7, span.duration_ns));
            assert_eq!((known.is(flags::CLIENT), known.is(flags::ERROR)), (side == Side::Client, error));
        }
    }

    #[test]
    fn context_joins_others_and_says_nothing_alone() {
        let (mut held, mut calls) = (Held::default(), Vec::new());
        let client = Span { id: 1, side: Side::Client, peer: Some(9), peer_kind: NodeKind::Database, ..span() };
        held.insert(&client, As::Context, &mut calls).unwrap();
        assert!(held.insert(&client, As::New, &mut calls).is_none(), "a duplicate of it is one");
        assert_eq!(held.minutes().count(), 0);
        held.insert(&Span { id: 2, parent: 1, service: 5, ..span() }, As::New, &mut calls).unwrap();
        assert_eq!((calls.len(), calls[0].callee), (1, 5));
        held.insert(&Span { id: 3, ..client }, As::Context, &mut calls).unwrap();
        held.insert(&Span { id: 4, ..client }, As::New, &mut calls).unwrap();
        held.finish(&mut calls);
        assert_eq!(calls.len(), 2, "only the new one is a call to the database");
    }

    fn span() -> Span {
        Span {
            trace: 1,
            id: 1,
            parent: 0,
            start: 5,
            duration_ns: 7,
            service: 1,
            operation: 2,
            kind: 3,
            side: Side::Server,
            error: false,
            abandoned: false,
            peer: None,
            peer_kind: NodeKind::Service,
            instance: None,
            queue_wait_ns: None,
            shed: false,
            refused: false,
            input_tokens: 0,
            output_tokens: 0,
            first_token_ns: None,
        }
    }
}
