//! [`Incident`]: the ranking of a past time range, from stored spans of it and of the time before.
//!
//! The time before is cut into minutes that become history one after the other, unless one looks like a
//! fault itself. A long range is cut too, and the piece that says most speaks for it.

use arrow::record_batch::RecordBatch;
use foldhash::{HashMap, HashMapExt};
use weir_schema::UnixNanos;

use super::{Causes, Ranking, SUSPICIOUS};
use crate::spans::{Names, Span, SpanColumns};

/// A minute: traces of less say too little where requests are few.
const HISTORY_NS: i64 = 60_000_000_000;

/// A range up to this long is looked at as one.
const PIECE_NS: i64 = 150_000_000_000;

/// Requests of which a minute of history must hold so many.
const MIN_REQUESTS: usize = 5;

/// Windows before which nothing is suspicious: there is too little to compare with.
const MIN_WINDOWS: usize = 2;

/// Spans of an incident and of the time before it.
#[derive(Debug, Default)]
pub struct Incident {
    names: Names,
    traces: HashMap<u128, Vec<Span>>,
}

/// The ranking of an incident and when the piece of the range began that it is of.
#[derive(Clone, Debug)]
pub struct Verdict {
    /// Services by blame.
    pub ranking: Ranking,
    /// The start of that piece.
    pub onset: UnixNanos,
}

impl Incident {
    /// Nothing read yet.
    #[must_use]
    pub fn new() -> Self {
        Self { names: Names::default(), traces: HashMap::new() }
    }

    /// Takes in spans in any order. A batch that lacks the columns of `spans` is ignored.
    pub fn add(&mut self, spans: &RecordBatch) {
        let Some(columns) = SpanColumns::of(spans) else { return };
        for row in 0..columns.rows() {
            let span = columns.span(row, &mut self.names);
            self.traces.entry(span.trace).or_default().push(span);
        }
    }

    /// Ranks the requests that began in `[from, to)` against those that began before. Requests that had not ended by `to`
    /// are left out: their last calls are not known.
    #[must_use]
    pub fn verdict(self, from: UnixNanos, to: UnixNanos) -> Verdict {
        let Self { names, traces } = self;
        let mut traces: Vec<(UnixNanos, Vec<Span>)> =
            traces.into_values().filter_map(|spans| whole(spans, to)).collect();
        traces.sort_by_key(|(start, spans)| (*start, spans[0].trace));
        let during = traces.split_off(traces.partition_point(|(start, _)| *start < from));
        let mut causes = Causes::default();
        for minute in traces.chunk_by(|a, b| (from - a.0) / HISTORY_NS == (from - b.0) / HISTORY_NS) {
            causes.learn(minute, &names);
        }
        let pieces = during.chunk_by(|a, b| (a.0 - from) / PIECE_NS == (b.0 - from) / PIECE_NS);
        let mut verdicts: Vec<Verdict> = Vec::new();
        for piece in pieces {
            let ranking = causes.learn(piece, &names);
            verdicts.push(Verdict { ranking, onset: from + (piece[0].0 - from) / PIECE_NS * PIECE_NS });
        }
        let sure = |verdict: &Verdict| verdict.ranking.causes.first().map_or(-1.0, |cause| cause.confidence);
        let surest = verdicts.into_iter().reduce(|best, next| if sure(&next) > sure(&best) { next } else { best });
        surest.unwrap_or(Verdict { ranking: Ranking::default(), onset: from })
    }
}

impl Causes {
    /// Ranks a window, then remembers it unless it looks like a fault.
    fn learn(&mut self, window: &[(UnixNanos, Vec<Span>)], names: &Names) -> Ranking {
        let traces: Vec<&[Span]> = window.iter().map(|(_, spans)| spans.as_slice()).collect();
        let (ranking, observed) = self.rank(&traces, names);
        let suspicious = ranking.history_windows >= MIN_WINDOWS
            && ranking.causes.first().is_some_and(|cause| cause.confidence >= SUSPICIOUS);
        if !suspicious && traces.len() >= MIN_REQUESTS {
            self.remember(observed);
        }
        ranking
    }
}

/// The spans of a trace, each once, with its start; `None` when its longest root ends after `to`.
fn whole(mut spans: Vec<Span>, to: UnixNanos) -> Option<(UnixNanos, Vec<Span>)> {
    spans.sort_by_key(|span| (span.start, span.id));
    spans.dedup_by_key(|span| span.id);
    let roots = spans.iter().filter(|span| span.parent == 0);
    let root = roots.max_by_key(|span| span.duration_ns).or(spans.first())?;
    let (start, end) = (root.start, root.end());
    (end <= to).then_some((start, spans))
}
