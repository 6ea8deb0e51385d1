//! [`Held`]: spans remembered for a while: to ignore exact duplicates, to join callers and callees
//! whichever comes first, and to walk from a span to its parent and its children.
//!
//! Two generations: spans live in the young one; when event time or the clock moved by the hold time
//! the old one goes and the young one grows old. A span is so remembered for one to two hold times, at constant
//! cost, and the count is bounded by turning early.
//!
//! Spans stand in a row in the order they came, found by a table of places. A parent that has not come
//! yet has its place already, and its children hang there. So taking in a span costs two looks for itself
//! and two for its parent, and following a trace costs none.

mod node;

use std::{collections::BTreeSet, hash::BuildHasher, hint::black_box};

use hashbrown::HashTable;
use weir_schema::UnixNanos;

use crate::{
    rollup::minute,
    snapshot::NodeKind,
    spans::{Name, Span},
};
use node::Key;
pub(crate) use node::{Node, Place};

/// Memory for so many times the spans of the last hold time is not kept.
const MOST_SPARE: usize = 4;

/// A call from one service to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Name,
    pub(crate) callee: Name,
    pub(crate) callee_kind: NodeKind,
    /// Of the callee's span, or of the caller's where the callee has none.
    pub(crate) start: UnixNanos,
    pub(crate) duration_ns: i64,
    /// When the later of both spans ended: from then on it can be known.
    pub(crate) known_at: UnixNanos,
    pub(crate) error: bool,
    /// Client minus server duration.
    pub(crate) gap_ns: Option<i64>,
    /// How many calls it stands for.
    pub(crate) weight: u32,
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
    places: HashTable<u32>,
    nodes: Vec<Node>,
    /// The minutes of the spans that are not context.
    minutes: BTreeSet<UnixNanos>,
    /// The one that was added last: nearly all spans are of it.
    last_minute: Option<UnixNanos>,
}

/// The two generations.
#[derive(Debug, Default)]
pub(crate) struct Held {
    young: Generation,
    old: Generation,
    /// How often a young one grew old.
    turns: u32,
    hasher: foldhash::fast::RandomState,
    /// Event time of the last turn.
    turned_at: UnixNanos,
    /// The clock then.
    turned_clock: Option<UnixNanos>,
    newest: UnixNanos,
    /// Spans let go before their time.
    pub(crate) evicted: u64,
}

impl Held {
    /// Takes a span in. `None` when it is an exact duplicate, else its place; the calls it completes are added.
    pub(crate) fn insert(&mut self, span: &Span, taken: As, calls: &mut Vec<Call>) -> Option<Place> {
        let key = Key::of(span.key());
        let hash = self.hasher.hash_one(key);
        let in_old = self.old.find(hash, key);
        if in_old.is_some_and(|index| self.old.nodes[index].has_come()) {
            return None;
        }
        let index = match self.young.find(hash, key) {
            Some(index) if self.young.nodes[index].has_come() => return None,
            Some(index) => index,
            None => self.await_in_young(hash, key),
        };
        let place = Place::new(self.turns, index);
        if let Some(in_old) = in_old {
            self.adopt(in_old, place);
        }
        self.young.nodes[index].come(span, taken);
        self.join_children(place, calls);
        if span.parent != 0 && span.parent != span.id {
            self.join_parent(Key::of((span.trace, span.parent)), place, calls);
        }
        if taken == As::New {
            self.young.add_minute(minute(span.start));
        }
        Some(place)
    }

    /// Looks at the places that [`Held::insert`] will look at, for all of these spans: their lines of memory come
    /// side by side, where one insert after the other would wait for each.
    pub(crate) fn look_ahead(&self, spans: &[Span]) {
        let look = |key| {
            let hash = self.hasher.hash_one(key);
            (self.young.find(hash, key), self.old.find(hash, key))
        };
        for span in spans {
            black_box(look(Key::of(span.key())));
            black_box(look(Key::of((span.trace, span.parent))));
        }
    }

    /// Event time moves on: by what spans say, as far as it is believed.
    pub(crate) fn advance(&mut self, to: UnixNanos) {
        self.newest = self.newest.max(to);
    }

    /// A place for a span that has not come.
    fn await_in_young(&mut self, hash: u64, key: Key) -> usize {
        let Generation { places, nodes, .. } = &mut self.young;
        let index = nodes.len();
        nodes.push(Node::awaited(key));
        let place = u32::try_from(index).expect("half of max_held_spans is far below 2^30");
        places.insert_unique(hash, place, |place| self.hasher.hash_one(nodes[*place as usize].key));
        index
    }

    /// Children that wait in the old generation wait for the same span in the young one, behind those there:
    /// when the old generation goes, only they drop off.
    fn adopt(&mut self, in_old: usize, place: Place) {
        let first = std::mem::replace(&mut self.old.nodes[in_old].first_child, Place::NONE);
        let mut adopted = first;
        while let Some(child) = self.node_mut(adopted) {
            child.parent = place;
            adopted = child.next;
        }
        match self.children(place).last().map(|(last, _)| last) {
            Some(last) => self.node_mut(last).into_iter().for_each(|last| last.next = first),
            None => self.node_mut(place).into_iter().for_each(|parent| parent.first_child = first),
        }
    }

    fn join_children(&mut self, place: Place, calls: &mut Vec<Call>) {
        // most spans that come have nothing below them yet
        let Some(mut parent) = self.node(place).filter(|node| node.first_child != Place::NONE).copied() else { return };
        self.children(place).for_each(|(_, child)| parent.join(child, calls));
        self.node_mut(place).into_iter().for_each(|node| *node = parent);
    }

    fn join_parent(&mut self, key: Key, place: Place, calls: &mut Vec<Call>) {
        let parent_place = self.parent_place(key);
        let Some(parent) = self.node_mut(parent_place) else { return };
        let before = std::mem::replace(&mut parent.first_child, place);
        let Some(child) = self.node_mut(place) else { return };
        (child.parent, child.next) = (parent_place, before);
        let child = *child;
        if let Some(parent) = self.node_mut(parent_place).filter(|parent| parent.has_come()) {
            parent.join(&child, calls);
        }
    }

    /// Where a parent is, or will be.
    fn parent_place(&mut self, key: Key) -> Place {
        let hash = self.hasher.hash_one(key);
        if let Some(index) = self.young.find(hash, key) {
            return Place::new(self.turns, index);
        }
        let in_old = self.old.find(hash, key);
        if let Some(index) = in_old.filter(|index| self.old.nodes[*index].has_come()) {
            return Place::new(self.turns.wrapping_sub(1), index);
        }
        let place = Place::new(self.turns, self.await_in_young(hash, key));
        if let Some(in_old) = in_old {
            self.adopt(in_old, place);
        }
        place
    }

    /// Whether a span is still remembered where it was put: a place of four turns ago is another's.
    pub(crate) fn holds(&self, place: Place, id: u64) -> bool {
        self.node(place).is_some_and(|node| node.id() == id)
    }

    /// A span that is remembered, or awaited.
    pub(crate) fn node(&self, place: Place) -> Option<&Node> {
        match place.age(self.turns) {
            0 => self.young.nodes.get(place.index()),
            1 => self.old.nodes.get(place.index()),
            _ => None,
        }
    }

    fn node_mut(&mut self, place: Place) -> Option<&mut Node> {
        match place.age(self.turns) {
            0 => self.young.nodes.get_mut(place.index()),
            1 => self.old.nodes.get_mut(place.index()),
            _ => None,
        }
    }

    /// The parent of a span, when it has come.
    pub(crate) fn parent_of(&self, place: Place) -> Option<&Node> {
        self.node(self.node(place)?.parent).filter(|parent| parent.has_come())
    }

    /// The spans below a span, whichever come last first.
    pub(crate) fn children(&self, place: Place) -> impl Iterator<Item = (Place, &Node)> {
        let mut next = self.node(place).map_or(Place::NONE, |node| node.first_child);
        std::iter::from_fn(move || {
            let (place, node) = (next, self.node(next)?);
            next = node.next;
            Some((place, node))
        })
    }

    /// Notes that the parent of a call waited for it and for nothing that ended later.
    pub(crate) fn mark_critical(&mut self, place: Place) {
        self.node_mut(place).into_iter().for_each(Node::mark_critical);
    }

    /// The minutes that a remembered span may still add to.
    pub(crate) fn minutes(&self) -> impl Iterator<Item = UnixNanos> {
        self.young.minutes.iter().chain(&self.old.minutes).copied()
    }

    /// Lets old spans go, when event time or the clock moved by the hold time; client spans that
    /// nobody answered become calls to the peer they name. Without a clock only event time counts.
    pub(crate) fn turn(&mut self, now: Option<UnixNanos>, hold_ns: i64, max_spans: usize, calls: &mut Vec<Call>) {
        let full = self.young.nodes.len() > max_spans / 2;
        let event_time_moved = self.newest.saturating_sub(self.turned_at) > hold_ns;
        let turned_clock = now.map(|now| (now, *self.turned_clock.get_or_insert(now)));
        // also back: a clock that was ahead is set right
        let clock_moved =
            turned_clock.is_some_and(|(now, turned)| now.saturating_sub(turned).saturating_abs() > hold_ns);
        let due = event_time_moved || clock_moved;
        if !due && !full {
            return;
        }
        if full && !due {
            self.evicted += self.old.nodes.len() as u64;
        }
        self.turned_at = self.newest;
        self.turned_clock = now.or(self.turned_clock);
        let gone = std::mem::take(&mut self.old);
        gone.unanswered(calls);
        let next = gone.emptied(self.young.nodes.len());
        self.old = std::mem::replace(&mut self.young, next);
        self.turns = self.turns.wrapping_add(1);
    }

    /// Lets everything go.
    pub(crate) fn finish(&mut self, calls: &mut Vec<Call>) {
        std::mem::take(&mut self.old).unanswered(calls);
        std::mem::take(&mut self.young).unanswered(calls);
    }
}

impl Generation {
    /// The same memory, for so many spans: new one is zeroed page by page before its first use. What a flood left is let go.
    fn emptied(mut self, spans: usize) -> Self {
        if self.nodes.capacity() / MOST_SPARE > spans {
            return Self::with_room(spans);
        }
        self.nodes.clear();
        self.places.clear();
        self.minutes.clear();
        self.last_minute = None;
        self.nodes.reserve(spans);
        self.places.reserve(spans, |_| 0); // of none no hash is asked
        self
    }

    /// One that takes so many spans without growing, which would copy them all again and again.
    fn with_room(spans: usize) -> Self {
        Self { places: HashTable::with_capacity(spans), nodes: Vec::with_capacity(spans), ..Self::default() }
    }

    fn add_minute(&mut self, minute: UnixNanos) {
        if self.last_minute.replace(minute) != Some(minute) {
            self.minutes.insert(minute);
        }
    }

    fn find(&self, hash: u64, key: Key) -> Option<usize> {
        self.places.find(hash, |index| self.nodes[*index as usize].key == key).map(|index| *index as usize)
    }

    fn unanswered(&self, calls: &mut Vec<Call>) {
        calls.extend(self.nodes.iter().filter_map(Node::call_alone));
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::Side;

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

    /// A parent and three children, in every order, with a turn at every moment that a turn may come.
    #[test]
    fn families_find_each_other_in_any_order_and_over_a_turn() {
        let family = [(1, 0, 1), (2, 1, 2), (3, 1, 3), (4, 1, 4)];
        for order in permutations(4) {
            for turn_at in 0..=4 {
                let (mut held, mut calls, mut places) = (Held::default(), Vec::new(), Vec::new());
                for (nth, of_family) in order.iter().enumerate() {
                    if nth == turn_at {
                        held.advance(nth as i64 + 100);
                        held.turn(None, 50, 1_000, &mut calls);
                    }
                    let (id, parent, service) = family[*of_family];
                    let span = Span { id, parent, service, ..span() };
                    places.push((id, held.insert(&span, As::New, &mut calls).unwrap()));
                    assert!(held.insert(&span, As::New, &mut calls).is_none());
                }
                let mut callees: Vec<_> = calls.iter().map(|call| (call.caller, call.callee)).collect();
                callees.sort_unstable();
                assert_eq!(callees, [(1, 2), (1, 3), (1, 4)], "{order:?}, turned at {turn_at}");
                let place = |of: u64| places.iter().find(|(id, _)| *id == of).unwrap().1;
                let mut below: Vec<_> = held.children(place(1)).map(|(_, node)| node.service).collect();
                below.sort_unstable();
                assert_eq!(below, [2, 3, 4], "{order:?}, turned at {turn_at}");
                assert!((2..=4).all(|child| held.parent_of(place(child)).unwrap().service == 1));
            }
        }
    }

    #[test]
    fn what_is_gone_is_not_found_and_the_count_is_bounded() {
        let (mut held, mut calls) = (Held::default(), Vec::new());
        let mut places = Vec::new();
        for id in 1..=10_000 {
            places.push(held.insert(&Span { id, parent: id + 1_000_000, ..span() }, As::New, &mut calls).unwrap());
            held.turn(None, i64::MAX, 1_000, &mut calls);
            assert!(held.young.nodes.len() + held.old.nodes.len() <= 1_004);
        }
        assert!(held.node(places[0]).is_none());
        assert!(held.node(places[9_999]).is_some());
        // a place that is four turns old is another span's
        let is_strangers = |id: u64, place: Place| held.node(place).is_some_and(|node| node.id() != id);
        let strangers: Vec<_> = (1..).zip(&places).filter(|(id, place)| is_strangers(*id, **place)).collect();
        assert!(strangers.len() > 1_000, "{}", strangers.len());
        assert!(strangers.iter().all(|(id, place)| !held.holds(**place, *id)) && held.holds(places[9_999], 10_000));
        assert!(held.evicted > 8_000);
    }

    fn permutations(count: usize) -> Vec<Vec<usize>> {
        let Some(last) = count.checked_sub(1) else { return vec![Vec::new()] };
        let shorter = permutations(last);
        let with_last = |at: usize| move |order: &Vec<usize>| [&order[..at], &[last], &order[at..]].concat();
        (0..count).flat_map(|at| shorter.iter().map(with_last(at))).collect()
    }

    fn span() -> Span {
        Span { trace: 1, id: 1, start: 5, duration_ns: 7, service: 1, side: Side::Server, ..Span::default() }
    }
}
