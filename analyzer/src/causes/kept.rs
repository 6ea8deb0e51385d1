//! [`Kept`]: the requests of a past time, whole, in bounded memory.
//!
//! While there is room all are kept. When there is none, every other request goes, by a hash of its trace id, and again
//! whenever the room is full: of all requests a half, a quarter, an eighth … stay, each with all its spans. Which stay depends
//! neither on what is in them nor on the order in which they come, so medians and shares of operations stay right, and
//! each request that stays stands for 2, 4, 8 … of them. Doubt follows from how many are looked at, as it must.

use std::hash::{BuildHasher, Hasher};

use foldhash::{HashMap, HashMapExt, quality::FixedState};
use serde::Serialize;

use crate::spans::Span;

/// Spans that all requests together have room for: 260 MB at 128 bytes each. What a request has room for may be twice
/// what it has.
pub(super) const ROOM: usize = 2_000_000;

/// Spans of one request; one with more says nothing that one with so many does not, and is left out.
const MAX_OF_ONE: usize = 100_000;

/// Which part of the requests was looked at, where there were too many for all.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Sampled {
    /// A half, a quarter, an eighth … of all requests, chosen by a hash of the trace id.
    pub share: f64,
    /// Spans that were looked at.
    pub spans: u64,
    /// Spans that there were.
    pub of_spans: u64,
}

/// A share of all requests, or of other things that have a number.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Share {
    halvings: u32,
}

/// Spans by their trace.
#[derive(Debug)]
pub(super) struct Kept {
    traces: HashMap<u128, Vec<Span>>,
    share: Share,
    /// What the lists of spans have room for.
    places: usize,
    /// Spans that were given.
    given: u64,
}

impl Share {
    /// Whether the one of this number is of it.
    pub(super) fn keeps(self, number: u128) -> bool {
        hashed(number) <= u64::MAX.checked_shr(self.halvings).unwrap_or(0)
    }

    pub(super) fn halved(self) -> Self {
        Self { halvings: self.halvings + 1 }
    }

    /// How many requests one of it stands for.
    pub(super) fn weight(self) -> f64 {
        f64::from(self.halvings).exp2()
    }

    /// Whether halving it again leaves anything.
    pub(super) fn is_divisible(self) -> bool {
        self.halvings < u64::BITS
    }
}

impl Default for Kept {
    fn default() -> Self {
        Self { traces: HashMap::new(), share: Share::default(), places: 0, given: 0 }
    }
}

impl Kept {
    pub(super) fn add(&mut self, span: &Span) {
        self.given += 1;
        if !self.share.keeps(span.trace) {
            return;
        }
        let spans = self.traces.entry(span.trace).or_default();
        if spans.len() < MAX_OF_ONE {
            let before = spans.capacity();
            spans.push(*span);
            self.places += spans.capacity() - before;
        }
    }

    /// Lets every other request go.
    pub(super) fn halve(&mut self) {
        self.share = self.share.halved();
        self.traces.retain(|trace, _| self.share.keeps(*trace));
        self.places = self.traces.values().map(Vec::capacity).sum();
    }

    pub(super) fn share(&self) -> Share {
        self.share
    }

    pub(super) fn places(&self) -> usize {
        self.places
    }

    /// `None` when all requests are there.
    pub(super) fn sampled(&self) -> Option<Sampled> {
        let whole = self.traces.values().filter(|spans| spans.len() < MAX_OF_ONE);
        let spans = whole.map(|spans| spans.len() as u64).sum();
        let left_out = spans < self.given;
        left_out.then(|| Sampled { share: 1.0 / self.share.weight(), spans, of_spans: self.given })
    }

    /// The requests, in no order.
    pub(super) fn into_traces(self) -> impl Iterator<Item = Vec<Span>> {
        self.traces.into_values().filter(|spans| spans.len() < MAX_OF_ONE)
    }
}

/// The same wherever and whenever it is asked.
fn hashed(number: u128) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u128(number);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn add(kept: &mut Kept, trace: u128, spans: u64) {
        (1..=spans).for_each(|id| kept.add(&Span { trace, id, ..Span::default() }));
    }

    #[test]
    fn halves_of_the_requests_stay_whole_whatever_the_order() {
        let mut forward = Kept::default();
        (0..4_000).for_each(|trace| add(&mut forward, trace, 3));
        assert_eq!(forward.sampled(), None);
        forward.halve();
        forward.halve();
        let mut backward = Kept::default();
        backward.halve();
        (0..4_000).rev().for_each(|trace| add(&mut backward, trace, 3));
        backward.halve();
        let sampled = forward.sampled().unwrap();
        assert_eq!((sampled.share, sampled.of_spans), (0.25, 12_000));
        assert!((2_700..3_300).contains(&sampled.spans), "{sampled:?}");
        let ids = |kept: Kept| {
            let mut all: Vec<(u128, usize)> = kept.into_traces().map(|spans| (spans[0].trace, spans.len())).collect();
            all.sort_unstable();
            all
        };
        let stayed = ids(forward);
        assert!(stayed.iter().all(|(_, spans)| *spans == 3));
        assert_eq!(stayed, ids(backward));
    }

    #[test]
    fn a_request_without_end_is_left_out_and_said() {
        let mut kept = Kept::default();
        add(&mut kept, 1, MAX_OF_ONE as u64 + 5);
        add(&mut kept, 2, 2);
        let said = Sampled { share: 1.0, spans: 2, of_spans: MAX_OF_ONE as u64 + 7 };
        assert_eq!(kept.sampled(), Some(said));
        assert_eq!(kept.into_traces().count(), 1);
    }

    #[test]
    fn a_share_can_be_halved_until_nothing_is_left() {
        let mut share = Share::default();
        while share.is_divisible() {
            share = share.halved();
        }
        assert!((0..1_000_u128).all(|trace| !share.keeps(trace)));
    }
}
