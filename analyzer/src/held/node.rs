//! [`Node`]: a span as it is remembered, 64 bytes, one line of a cache; and [`Place`]: where it stands.

use std::hash::{Hash, Hasher};

use weir_schema::UnixNanos;

use super::{As, Call};
use crate::{
    snapshot::NodeKind,
    spans::{Name, Side, Span},
};

/// Which span: 24 bytes, where `(u128, u64)` takes 32.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Key {
    trace: [u64; 2],
    pub(super) span: u64,
}

impl Hash for Key {
    /// Word by word: a slice would be hashed as bytes of any length, and a span asks for four hashes.
    fn hash<H: Hasher>(&self, state: &mut H) {
        [self.trace[0], self.trace[1], self.span].into_iter().for_each(|word| state.write_u64(word));
    }
}

/// Where a span stands: two bits of its generation's number, thirty of its place in it. Who remembers a
/// place for longer than three turns may meet another span there, and asks [`Held::holds`](super::Held::holds); nodes live
/// for less.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Place(u32);

/// What is remembered of a span.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Node {
    pub(super) key: Key,
    start: UnixNanos,
    /// Duration above, [`flags`] below.
    bits: u64,
    pub(crate) service: Name,
    /// [`NO_PEER`] when it names none.
    peer: Name,
    pub(super) parent: Place,
    pub(super) first_child: Place,
    /// The next child of the same parent.
    pub(super) next: Place,
    weight: u32,
}

const NO_PEER: Name = Name::MAX;

/// The low bits of [`Node`]: two for the peer's kind, then one each.
pub(super) mod flags {
    pub(super) const PEER_KIND: u64 = 0b11;
    pub(super) const CLIENT: u64 = 1 << 2;
    pub(super) const ERROR: u64 = 1 << 3;
    /// A span of another service is its child.
    pub(super) const ANSWERED: u64 = 1 << 4;
    /// Read back only so that others find it: what it says alone is in the tables already.
    pub(super) const CONTEXT: u64 = 1 << 5;
    /// It has come; else only its children have.
    pub(super) const COME: u64 = 1 << 6;
    /// Its parent waited for it and for nothing that ended later.
    pub(super) const CRITICAL: u64 = 1 << 7;
    pub(super) const WIDTH: u32 = 8;
}

impl Place {
    pub(super) const NONE: Self = Self(u32::MAX);

    const INDEX_BITS: u32 = 30;

    pub(super) fn new(generation: u32, index: usize) -> Self {
        debug_assert!(index >> Self::INDEX_BITS == 0, "a generation holds far fewer");
        Self(generation << Self::INDEX_BITS | index as u32)
    }

    /// How many turns ago its generation was young.
    pub(super) fn age(self, turns: u32) -> u32 {
        turns.wrapping_sub(self.0 >> Self::INDEX_BITS) & 0b11
    }

    pub(super) fn index(self) -> usize {
        (self.0 & (u32::MAX >> (u32::BITS - Self::INDEX_BITS))) as usize
    }
}

impl Key {
    pub(super) fn of((trace, span): (u128, u64)) -> Self {
        Self { trace: [(trace >> 64) as u64, trace as u64], span }
    }
}

impl Node {
    pub(super) fn awaited(key: Key) -> Self {
        Self {
            key,
            start: 0,
            bits: 0,
            service: 0,
            peer: NO_PEER,
            parent: Place::NONE,
            first_child: Place::NONE,
            next: Place::NONE,
            weight: 0,
        }
    }

    /// The span itself: what hangs below stays.
    pub(super) fn come(&mut self, span: &Span, taken: As) {
        let flag = |holds: bool, flag: u64| if holds { flag } else { 0 };
        let flags = span.peer_kind as u64 & flags::PEER_KIND
            | flags::COME
            | flag(span.side == Side::Client, flags::CLIENT)
            | flag(span.error, flags::ERROR)
            | flag(taken == As::Context, flags::CONTEXT);
        // two years in 56 bits; a span that is said to last longer lasts that long
        let duration = (span.duration_ns.max(0) as u64).min(u64::MAX >> flags::WIDTH);
        self.bits = duration << flags::WIDTH | flags;
        (self.start, self.service, self.weight) = (span.start, span.service, span.weight);
        self.peer = span.peer.unwrap_or(NO_PEER);
    }

    fn is(&self, flag: u64) -> bool {
        self.bits & flag != 0
    }

    pub(crate) fn has_come(&self) -> bool {
        self.is(flags::COME)
    }

    pub(crate) fn is_client(&self) -> bool {
        self.is(flags::CLIENT)
    }

    /// Whether it names no parent.
    pub(crate) fn is_root(&self) -> bool {
        self.parent == Place::NONE
    }

    pub(crate) fn is_error(&self) -> bool {
        self.is(flags::ERROR)
    }

    pub(crate) fn is_critical(&self) -> bool {
        self.is(flags::CRITICAL)
    }

    pub(super) fn mark_critical(&mut self) {
        self.bits |= flags::CRITICAL;
    }

    pub(crate) fn id(&self) -> u64 {
        self.key.span
    }

    pub(crate) fn start(&self) -> UnixNanos {
        self.start
    }

    pub(crate) fn end(&self) -> UnixNanos {
        self.start.saturating_add(self.duration_ns())
    }

    fn duration_ns(&self) -> i64 {
        (self.bits >> flags::WIDTH) as i64
    }

    /// Who a span without children in other services names at the other end.
    pub(crate) fn peer(&self) -> Option<(Name, NodeKind)> {
        (self.peer != NO_PEER && self.peer != self.service).then(|| (self.peer, self.peer_kind()))
    }

    fn peer_kind(&self) -> NodeKind {
        let kinds = [NodeKind::Service, NodeKind::Database, NodeKind::Messaging, NodeKind::External];
        kinds.into_iter().find(|kind| *kind as u64 == self.bits & flags::PEER_KIND).unwrap_or_default()
    }

    /// A child in another service is a call, and answers its parent.
    pub(super) fn join(&mut self, child: &Self, calls: &mut Vec<Call>) {
        if self.service == child.service {
            return;
        }
        self.bits |= flags::ANSWERED;
        calls.push(Call {
            caller: self.service,
            callee: child.service,
            callee_kind: NodeKind::Service,
            start: child.start,
            duration_ns: child.duration_ns(),
            known_at: self.end().max(child.end()),
            error: child.is_error(),
            gap_ns: self.is_client().then_some(self.duration_ns() - child.duration_ns()),
            weight: child.weight,
        });
    }

    /// The call of a client span that nobody answered, to the peer it names.
    pub(super) fn call_alone(&self) -> Option<Call> {
        let alone = self.is_client() && !self.is(flags::ANSWERED) && !self.is(flags::CONTEXT);
        let (callee, callee_kind) = self.peer().filter(|_| alone)?;
        Some(Call {
            caller: self.service,
            callee,
            callee_kind,
            start: self.start,
            duration_ns: self.duration_ns(),
            known_at: self.end(),
            error: self.is_error(),
            gap_ns: None,
            weight: self.weight,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_held_span_takes_64_bytes_and_keeps_what_a_call_needs() {
        assert_eq!(size_of::<Node>(), 64);
        for (kind, side, error) in [
            (NodeKind::Service, Side::Client, true),
            (NodeKind::Database, Side::Client, false),
            (NodeKind::Messaging, Side::Client, true),
            (NodeKind::External, Side::Server, false),
        ] {
            let duration_ns = 123_456_789_012_345;
            let span = Span { service: 1, peer_kind: kind, peer: Some(7), side, error, duration_ns, ..Span::default() };
            let mut node = Node::awaited(Key::of((1, 2)));
            assert!(!node.has_come());
            node.come(&span, As::New);
            assert_eq!((node.peer(), node.duration_ns(), node.id()), (Some((7, kind)), duration_ns, 2));
            assert_eq!((node.is_client(), node.is_error()), (side == Side::Client, error));
            assert!(node.has_come() && !node.is_critical());
        }
    }

    #[test]
    fn a_place_knows_its_age_over_four_turns() {
        for turns in [0, 1, 2, 3, 7, u32::MAX] {
            let place = Place::new(turns, 12_345);
            assert_eq!((place.index(), place.age(turns)), (12_345, 0));
            assert_eq!(place.age(turns.wrapping_add(1)), 1);
            assert_eq!(place.age(turns.wrapping_add(3)), 3);
        }
    }
}
