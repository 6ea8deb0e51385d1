//! [`Traces`]: spans gathered into whole requests, in bounded memory.
//!
//! A trace is complete when its root ended before the window's end, and the window closed: so all that came within
//! the lateness is in it. Where nobody sends the root (a browser, a lost span) it is complete when nothing of it
//! ended for ten seconds. What comes after that is let go.
//!
//! Above `max_trace_spans` a share of all traces is kept, whole, by a hash of their id: halved until they fit, doubled
//! when there is room. Which are kept does not depend on what is in them, so shares and medians stay right; counts are
//! of a sample, and `sampled_out` says how many spans are not in it.

use std::{
    cmp::Reverse,
    collections::{BinaryHeap, HashSet},
    hash::{BuildHasher, Hasher},
};

use foldhash::{fast::RandomState, quality::FixedState};
use hashbrown::{HashMap, hash_map::Entry};
use weir_schema::UnixNanos;

use crate::spans::Span;

/// A trace without a root is complete when nothing of it ended for so long.
const ORPHAN_NS: i64 = 10_000_000_000;

/// Spans of one trace; one with more says nothing that one with so many does not, and is left out.
const MAX_OF_ONE: usize = 10_000;

/// Spans for which room is made when a trace begins, 9 kB; beyond it the room is doubled.
const MOST_ROOM: usize = 64;

/// Completed traces whose late spans are recognized: two generations of 16 bytes each.
const MAX_FINISHED: usize = 100_000;

/// The share is doubled when no more than this part of the room was needed.
const ROOMY: usize = 4;

/// Requests of which not all has ended.
#[derive(Debug)]
pub(crate) struct Traces {
    max_spans: usize,
    open: HashMap<u128, Trace, RandomState>,
    spans: usize,
    /// The most there were since the last window.
    peak: usize,
    /// Ends of roots, and whose, the earliest on top.
    ended: BinaryHeap<Reverse<(UnixNanos, u128)>>,
    /// Spans of a request in the last window: the next will have about as many.
    usual_spans: usize,
    finished: [HashSet<u128, RandomState>; 2],
    sample: Sample,
    newest: UnixNanos,
    /// Spans of traces that were left out.
    pub(crate) sampled_out: u64,
}

#[derive(Debug, Default)]
struct Trace {
    spans: Vec<Span>,
    has_root: bool,
    /// The first start.
    oldest: UnixNanos,
    /// The last end.
    newest: UnixNanos,
    too_many: bool,
}

/// Which traces are kept: those whose hash is below `below`.
#[derive(Clone, Copy, Debug)]
struct Sample {
    below: u64,
    /// The bound before it was raised, and when that was: of traces between the bounds the beginning may be missing.
    before: u64,
    raised_at: UnixNanos,
}

impl Trace {
    fn with_room(spans: usize) -> Self {
        Self { spans: Vec::with_capacity(spans), oldest: UnixNanos::MAX, ..Self::default() }
    }
}

impl Traces {
    pub(crate) fn new(max_spans: usize) -> Self {
        Self {
            max_spans,
            open: HashMap::default(),
            spans: 0,
            peak: 0,
            ended: BinaryHeap::new(),
            usual_spans: 0,
            finished: Default::default(),
            sample: Sample { below: u64::MAX, before: u64::MAX, raised_at: 0 },
            newest: 0,
            sampled_out: 0,
        }
    }

    /// Whether requests with this id are kept.
    pub(crate) fn keep(&self, trace: u128) -> bool {
        self.sample.below == u64::MAX || hashed(trace) <= self.sample.below
    }

    pub(crate) fn push(&mut self, span: &Span) {
        if !self.keep(span.trace) {
            self.sampled_out += 1;
            return;
        }
        let trace = match self.open.entry(span.trace) {
            Entry::Occupied(known) => known.into_mut(),
            Entry::Vacant(_) if self.finished.iter().any(|finished| finished.contains(&span.trace)) => return,
            Entry::Vacant(place) => place.insert(Trace::with_room(self.usual_spans)),
        };
        if trace.spans.len() >= MAX_OF_ONE {
            trace.too_many = true;
            self.sampled_out += 1;
            return;
        }
        trace.spans.push(*span);
        trace.oldest = trace.oldest.min(span.start);
        trace.newest = trace.newest.max(span.end());
        if span.parent == 0 {
            trace.has_root = true;
            self.ended.push(Reverse((span.end(), span.trace)));
        }
        self.newest = self.newest.max(span.end());
        self.spans += 1;
        self.peak = self.peak.max(self.spans);
        if self.spans > self.max_spans {
            self.thin_out();
        }
    }

    /// Requests that were over by `end`, in the order in which they began.
    pub(crate) fn complete(&mut self, end: UnixNanos) -> Vec<Vec<Span>> {
        let mut complete = Vec::new();
        while self.ended.peek().is_some_and(|Reverse((at, _))| *at < end) {
            let Some(Reverse((_, id))) = self.ended.pop() else { break };
            complete.extend(self.take(id));
        }
        let silent = |trace: &Trace| !trace.has_root && trace.newest.saturating_add(ORPHAN_NS) < end;
        let orphans: Vec<u128> = self.open.iter().filter(|(_, trace)| silent(trace)).map(|(id, _)| *id).collect();
        complete.extend(orphans.into_iter().filter_map(|id| self.take(id)));
        complete.sort_unstable_by_key(|(began, id, _)| (*began, *id));
        let complete: Vec<Vec<Span>> = complete.into_iter().map(|(.., spans)| spans).collect();
        let spans: usize = complete.iter().map(Vec::len).sum();
        self.usual_spans = (spans / complete.len().max(1)).min(MOST_ROOM);
        self.make_room();
        complete
    }

    /// When it began, and its spans; `None` when it is gone, or not whole.
    fn take(&mut self, id: u128) -> Option<(UnixNanos, u128, Vec<Span>)> {
        let trace = self.open.remove(&id)?;
        self.spans -= trace.spans.len();
        if self.finished[0].len() >= MAX_FINISHED {
            self.finished.swap(0, 1);
            self.finished[0].clear();
        }
        self.finished[0].insert(id);
        let begun_before = trace.oldest < self.sample.raised_at && hashed(id) > self.sample.before;
        (!begun_before && !trace.too_many).then_some((trace.oldest, id, trace.spans))
    }

    fn thin_out(&mut self) {
        while self.spans > self.max_spans && self.sample.below > 0 {
            self.sample.below /= 2;
            let below = self.sample.below;
            let mut gone = 0;
            self.open.retain(|id, trace| {
                let stays = hashed(*id) <= below;
                gone += if stays { 0 } else { trace.spans.len() };
                stays
            });
            self.spans -= gone;
            self.sampled_out += gone as u64;
        }
        self.ended.retain(|Reverse((_, id))| self.open.contains_key(id));
        self.sample.before = self.sample.before.min(self.sample.below);
    }

    fn make_room(&mut self) {
        if self.peak < self.max_spans / ROOMY && self.sample.below < u64::MAX {
            let before = self.sample.below;
            self.sample = Sample { below: before.saturating_mul(2) | 1, before, raised_at: self.newest };
        }
        self.peak = self.spans;
    }
}

/// The same for a trace wherever and whenever it is asked.
fn hashed(trace: u128) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    hasher.write_u128(trace);
    hasher.finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::spans::Side;

    fn span(trace: u128, id: u64, parent: u64, start: i64, end: i64) -> Span {
        let (duration_ns, side) = (end - start, Side::Server);
        Span { trace, id, parent, start, duration_ns, service: 1, operation: 2, kind: 3, side, ..Span::default() }
    }

    #[test]
    fn a_trace_is_given_once_whole_and_after_its_root_ended() {
        let mut traces = Traces::new(1_000);
        traces.push(&span(1, 2, 1, 5, 90));
        traces.push(&span(1, 1, 0, 0, 100));
        traces.push(&span(2, 1, 0, 0, 300));
        assert!(traces.complete(100).is_empty(), "the root ends when the window does");
        traces.push(&span(1, 3, 1, 6, 80));
        let complete = traces.complete(200);
        assert_eq!((complete.len(), complete[0].len()), (1, 3), "what came late is in it");
        traces.push(&span(1, 4, 1, 6, 80));
        assert_eq!(traces.complete(400).len(), 1, "what comes later makes no trace of its own");
        assert_eq!(traces.spans, 0);
    }

    #[test]
    fn a_span_takes_what_the_configuration_says() {
        assert_eq!(size_of::<Span>(), 128);
    }

    #[test]
    fn without_a_root_silence_completes() {
        let mut traces = Traces::new(1_000);
        traces.push(&span(1, 2, 1, 5, 90));
        assert!(traces.complete(ORPHAN_NS).is_empty());
        assert_eq!(traces.complete(ORPHAN_NS + 200).len(), 1);
    }

    #[test]
    fn memory_is_bounded_by_leaving_whole_traces_out_and_what_is_kept_stays_whole() {
        let mut traces = Traces::new(1_000);
        let (mut given, mut sent) = (0, 0);
        let mut now = 0;
        let mut send = |traces: &mut Traces, requests: u128, given: &mut usize| {
            let first = u128::from(now as u64) * 1_000_000;
            for trace in first..first + requests {
                (0..4).for_each(|id| traces.push(&span(trace, id + 1, id, now, now + 50)));
                assert!(traces.spans <= 1_000);
                sent += 4;
            }
            now += 100;
            for trace in traces.complete(now) {
                assert_eq!(trace.len(), 4, "whole");
                *given += 4;
            }
        };
        (0..5).for_each(|_| send(&mut traces, 5_000, &mut given));
        assert!(traces.sampled_out > 0 && traces.sample.below < u64::MAX / 16);
        // a trace under way when there is room again lacks its beginning, and is not given
        (0..20).for_each(|_| send(&mut traces, 10, &mut given));
        assert_eq!(traces.sample.below, u64::MAX, "all are kept again");
        assert_eq!(given as u64 + traces.sampled_out, sent);
    }
}
