//! What comes beside spans while windows close: log records and metrics, as far as they are here when requests are ranked; and
//! the exceptions that spans carry.
//!
//! The same templates, marks and readings as of a past range, in bounded memory:
//!
//! | what | bound | beyond it |
//! |---|---|---|
//! | lines of requests under way | `max_trace_lines`, and ten minutes | further lines are left out, counted |
//! | templates | 512 of a service, 20,000; an hour or two without use | records of further ones are left out, counted |
//! | series of metrics | 4,000; an hour without a reading | further series are left out, counted |
//! | readings of a series | 240 | the oldest go |
//!
//! Lines of a request go when it is not ranked any more. Metrics are looked at only of whom the spans blame, so a calm window costs nothing.

use std::collections::BTreeSet;

use arrow::record_batch::RecordBatch;
use weir_schema::UnixNanos;

use super::{Causes, Ranking, lines::Lines, observed::Observed, readings::Readings, strain::Strained};
use crate::spans::{Names, Span};

impl Causes {
    /// For windows as they close: with so many lines of requests that are not ranked yet.
    pub(crate) fn live(max_lines: usize) -> Self {
        Self { lines: Lines::live(max_lines), readings: Readings::live(), ..Self::default() }
    }

    /// Takes in rows of `logs` of traces that are wanted.
    pub(crate) fn add_logs(&mut self, logs: &RecordBatch, names: &Names, wanted: impl Fn(u128) -> bool) {
        self.lines.add(logs, names, wanted);
    }

    /// Takes in the exceptions that spans of wanted traces carry.
    pub(crate) fn add_events(&mut self, spans: &RecordBatch, names: &mut Names, wanted: impl Fn(u128) -> bool) {
        self.lines.add_events(spans, names, wanted);
    }

    /// Takes in rows of `metrics`.
    pub(crate) fn add_metrics(&mut self, metrics: &RecordBatch, names: &mut Names) {
        self.readings.add(metrics, names);
    }

    /// Log records did not come here: nobody's silence means anything until more come.
    pub(crate) fn lost_logs(&mut self) {
        self.lines.lost();
    }

    /// As [`Causes::rank`], of a window that ended at `end`, after all was well until `calm_until`.
    pub(crate) fn rank_live(
        &mut self,
        traces: &[&[Span]],
        names: &Names,
        (calm_until, end): (UnixNanos, UnixNanos),
    ) -> (Ranking, Observed) {
        self.strained = Strained::new();
        let (mut ranking, observed) = self.rank(traces, names);
        let blamed: BTreeSet<_> = ranking.causes.iter().filter_map(|cause| names.find(&cause.service)).collect();
        self.strained = self.readings.strained_now(&blamed, calm_until, end);
        if !self.strained.is_empty() {
            ranking = self.ranking(&observed, traces, names);
        }
        self.lines.turn(end);
        self.readings.turn(end);
        (ranking, observed)
    }

    /// Lets go of the lines of a request that is not ranked again.
    pub(crate) fn let_go(&mut self, trace: u128) {
        self.lines.let_go(trace);
    }

    /// Log records and readings that were left out for want of room.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        (self.lines.dropped(), self.readings.dropped)
    }
}
