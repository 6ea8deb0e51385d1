//! [`Incident`]: the ranking of a past time range, from stored spans, logs and metrics of it and of the time before.
//!
//! The time before is cut into minutes that become history one after the other, unless one looks like a
//! fault itself. A long range is cut too, and what its suspicious pieces say is put together (`pieces.rs`). Of very many requests a
//! share is looked at (`kept.rs`).

use std::{collections::BTreeSet, ops::Range};

use arrow::record_batch::RecordBatch;
use weir_schema::UnixNanos;

use super::{
    Causes, Ranking,
    kept::{Kept, ROOM, Sampled},
    pieces::{Piece, together},
};
use crate::spans::{Name, Names, Span, SpanColumns};

/// A minute: traces of less say too little where requests are few.
const HISTORY_NS: i64 = 60_000_000_000;

/// A range up to this long is looked at as one.
const PIECE_NS: i64 = 150_000_000_000;

/// Requests of which a minute of history must hold so many.
const MIN_REQUESTS: usize = 5;

/// Windows before which nothing is suspicious: there is too little to compare with.
const MIN_WINDOWS: usize = 2;

/// Lines that take as much memory as a span.
const LINES_A_SPAN: usize = 8;

/// Spans of an incident and of the time before it, and what was recorded beside: some 300 MB at most of spans and lines, and
/// 200 MB of readings. Of more spans and lines than have room a half, a quarter, … of all requests is looked at.
#[derive(Debug)]
pub struct Incident {
    names: Names,
    kept: Kept,
    causes: Causes,
    /// Spans that there is room for.
    room: usize,
}

/// The ranking of an incident.
#[derive(Clone, Debug, Default)]
pub struct Verdict {
    /// Services by blame, the surest first; of the requests of all pieces that are suspicious, or of the surest where none is.
    pub ranking: Ranking,
    /// What blames each of these, in their order.
    pub stretches: Vec<Stretch>,
    /// The part of the requests that was looked at; `None` when it was all of them. The ranking's counts are of this part, what was lost
    /// is of all.
    pub sampled: Option<Sampled>,
    /// Services that requests of the history passed or called, so that none of these is new.
    pub known: BTreeSet<String>,
}

/// The pieces of a range that blame a service.
#[derive(Clone, Copy, Debug)]
pub struct Stretch {
    /// The start of the first that is suspicious.
    pub onset: UnixNanos,
    /// How long they are together, in nanoseconds.
    pub length_ns: i64,
    /// Their requests that were looked at.
    pub requests: u64,
}

impl Incident {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self::with_room(ROOM)
    }

    /// The same with room for so many spans.
    pub(crate) fn with_room(room: usize) -> Self {
        Self { names: Names::default(), kept: Kept::default(), causes: Causes::default(), room }
    }

    /// Takes in spans in any order. A batch that lacks the columns of `spans` is ignored.
    pub fn add(&mut self, spans: &RecordBatch) {
        let Some(columns) = SpanColumns::of(spans) else { return };
        for row in 0..columns.rows() {
            self.kept.add(&columns.span(row, &mut self.names));
        }
        self.causes.lines.add_events(spans, &mut self.names, |_| true);
        self.make_room();
    }

    /// Takes in log records in any order, after the spans: they belong to their traces, and only services that have spans
    /// are looked at. A batch that lacks the columns of `logs` is ignored.
    pub fn add_logs(&mut self, logs: &RecordBatch) {
        self.causes.lines.add(logs, &self.names, |_| true);
        self.make_room();
    }

    fn make_room(&mut self) {
        let lines = &mut self.causes.lines;
        while self.kept.places() + lines.count() / LINES_A_SPAN > self.room && self.kept.share().is_divisible() {
            self.kept.halve();
            lines.keep(self.kept.share());
        }
    }

    /// Takes in metrics in any order, after the spans: only services that have spans are looked at. A batch that lacks
    /// the columns of `metrics` is ignored.
    pub fn add_metrics(&mut self, metrics: &RecordBatch) {
        self.causes.readings.add(metrics, &mut self.names);
    }

    /// Ranks the requests that began in `range` against those that began in `history`, which may be before or after.
    /// Requests that had not ended by the end of what was read are left out: their last calls are not known.
    #[must_use]
    pub fn verdict(self, history: &Range<UnixNanos>, range: &Range<UnixNanos>) -> Verdict {
        let Self { names, kept, mut causes, .. } = self;
        let (sampled, weight) = (kept.sampled(), kept.share().weight());
        let known_until = if history.end == range.start { range.end } else { history.end };
        let mut traces: Vec<Trace> = kept.into_traces().filter_map(Trace::of).collect();
        traces.sort_by_key(|trace| (trace.start, trace.spans[0].trace));
        let began_in = |time: &Range<UnixNanos>, known_until: UnixNanos| {
            let inside = |trace: &&Trace| time.contains(&trace.start) && trace.end <= known_until;
            traces.iter().filter(inside).collect::<Vec<_>>()
        };
        let minute = |trace: &&Trace| (history.end - trace.start) / HISTORY_NS;
        let before = began_in(history, known_until);
        let known = passed(&before).into_iter().map(|service| names.text(service).to_owned()).collect();
        for minute in before.chunk_by(|a, b| minute(a) == minute(b)) {
            causes.learn(minute, &names);
        }
        let piece = |trace: &&Trace| (trace.start - range.start) / PIECE_NS;
        let during = began_in(range, range.end);
        let pieces = during.chunk_by(|a, b| piece(a) == piece(b)).map(|traces| {
            let start = range.start + piece(&traces[0]) * PIECE_NS;
            let time = start..(start + PIECE_NS).min(range.end);
            causes.strained = causes.readings.strained(history, &time);
            let mut ranking = causes.learn(traces, &names);
            ranking.causes.iter_mut().for_each(|cause| cause.lost_ms *= weight);
            Piece { ranking, time }
        });
        Verdict { sampled, known, ..together(pieces.collect()) }
    }
}

impl Default for Incident {
    fn default() -> Self {
        Self::new()
    }
}

impl Causes {
    /// Ranks a window, then remembers it unless it looks like a fault.
    fn learn(&mut self, window: &[&Trace], names: &Names) -> Ranking {
        let traces: Vec<&[Span]> = window.iter().map(|trace| trace.spans.as_slice()).collect();
        let (ranking, observed) = self.rank(&traces, names);
        let suspicious = ranking.history_windows >= MIN_WINDOWS && ranking.is_suspicious();
        if !suspicious && traces.len() >= MIN_REQUESTS {
            self.remember(observed);
        }
        ranking
    }
}

/// Services that requests passed or called.
fn passed(traces: &[&Trace]) -> BTreeSet<Name> {
    let spans = traces.iter().flat_map(|trace| &trace.spans);
    spans.flat_map(|span| std::iter::once(span.service).chain(span.peer)).collect()
}

/// A trace and when its longest root was.
struct Trace {
    start: UnixNanos,
    end: UnixNanos,
    /// Each once, by start.
    spans: Vec<Span>,
}

impl Trace {
    fn of(mut spans: Vec<Span>) -> Option<Self> {
        spans.sort_by_key(|span| (span.start, span.id));
        spans.dedup_by_key(|span| span.id);
        let roots = spans.iter().filter(|span| span.parent == 0);
        let root = roots.max_by_key(|span| span.duration_ns).or(spans.first())?;
        Some(Self { start: root.start, end: root.end(), spans })
    }
}
