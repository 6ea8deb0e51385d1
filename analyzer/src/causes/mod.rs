//! [`Incident`]: which service a window's trouble comes from, by what its traces do otherwise than those before.
//!
//! Kinds of evidence, each against history by robust statistics:
//!
//! - **latency**: own time of spans and the gap between a call as its caller and as its callee saw it, on the
//!   critical path only (`latency.rs`);
//! - **structure**: spans whose set of children became more frequent than chance, which is what code that
//!   returns early or throws looks like from outside (`structure.rs`);
//! - **marks**: failures, exceptions and log lines that spans show or no longer show (`marks.rs`), where there are logs;
//! - **strain**: CPU and network errors, where there are metrics (`strain.rs`): they strengthen, and name the kind.
//!
//! A past range is judged by [`Incident`], with all that is stored of it; live windows by the same code with what came
//! until they closed (`beside.rs`).
//!
//! All ends as milliseconds lost, a request that broke off counts as three whole ones; the services are ranked by it
//! (`ranking.rs`). On recorded faults the constants may be moved by factors of two and more without changing
//! the first rank; `compare/rca/ablation.md` has the table.

mod abnormal;
mod beside;
mod by_trace;
mod connected;
mod evidence;
mod history;
mod incident;
mod kept;
mod latency;
mod lines;
mod marks;
mod observed;
mod pieces;
mod ranking;
mod readings;
mod statements;
mod strain;
mod structure;
mod suspects;
mod templates;
mod tree;
mod voices;

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::spans::{Name, Names, Span};
use evidence::Words;
pub(crate) use history::History;
pub use incident::{Incident, Stretch, Verdict};
pub use kept::Sampled;
use lines::Lines;
pub use lines::{ACCESS_LOG, LOG_COLUMNS};
use observed::Observed;
pub use ranking::{Cause, CauseKind, Ranking};
pub use readings::METRIC_COLUMNS;
use readings::Readings;
use strain::Strained;

/// Statements show so much time before a window, to compare with.
const SHOWN_NS: i64 = 600_000_000_000;

/// A window whose first cause is at least this sure does not enter history: a fault must not become normal.
pub(crate) const SUSPICIOUS: f64 = 0.5;

/// What is known of the past and beside spans, and the ranking of windows against it.
#[derive(Debug, Default)]
pub(crate) struct Causes {
    history: History,
    lines: Lines,
    readings: Readings,
    strained: Strained,
}

impl Causes {
    /// Ranks what happened in these traces, each a list of its spans, against what was remembered.
    pub(crate) fn rank(&self, traces: &[&[Span]], names: &Names) -> (Ranking, Observed) {
        let observed = Observed::of(traces, &self.lines);
        (self.ranking(&observed, traces, names), observed)
    }

    fn ranking(&self, observed: &Observed, traces: &[&[Span]], names: &Names) -> Ranking {
        let spans = || traces.iter().copied().flatten();
        let (start, end) = (spans().map(|span| span.start).min(), spans().map(Span::end).max());
        let shown = start.unwrap_or(0).saturating_sub(SHOWN_NS)..end.unwrap_or(0).saturating_add(1);
        let words = Words { names, templates: &self.lines.templates, shown };
        ranking::rank(observed, &self.history, &self.strained, &words)
    }

    /// What a restart must not lose: what is usual.
    pub(crate) fn history(&self) -> &History {
        &self.history
    }

    #[cfg(test)]
    pub(crate) fn lines(&self) -> usize {
        self.lines.count()
    }

    /// Brings it back.
    pub(crate) fn restore(&mut self, history: History) {
        self.history = history;
    }

    /// Makes a window part of what is usual.
    pub(crate) fn remember(&mut self, observed: Observed) {
        self.history.push(observed);
    }
}

/// What a label, a signature or another set of names comes to: no two are expected to meet in 64 bits.
fn hashed(parts: impl IntoIterator<Item = u64>) -> u64 {
    let mut hasher = FixedState::default().build_hasher();
    parts.into_iter().for_each(|part| hasher.write_u64(part));
    hasher.finish()
}

/// A service and its operation.
type Operation = (Name, Name);

#[cfg(test)]
mod tests;
