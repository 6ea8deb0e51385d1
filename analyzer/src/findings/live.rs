//! [`Live`]: the ranking of root causes, asked while the windows close.
//!
//! 1. Requests are gathered over windows until there are fifty, or for 150 s: of a window of few requests little can be said.
//! 2. They are ranked against what was gathered before (`told.rs` says when a cause is sure).
//! 3. If a cause is sure, the ranking votes once for each window that was gathered, and the next fifty are gathered.
//! 4. If the first cause is doubtful (0.2 or more, and not sure), the requests of the next windows are added and all are ranked
//!    again, up to 150 s: few of fifty requests pass a service that is seldom needed.
//! 5. Requests become history when the first cause is below 0.5, none is sure and no finding of a fault is open; and when a
//!    suspicion has lasted an hour, for then it is what is usual.
//! 6. After 150 s without windows what was gathered is let go.
//!
//! Of more than 20,000 spans a share of the requests is ranked, and what they lost counts for those left out too.
//! Logs and metrics that came until then are looked at with them (`causes/beside.rs`); after a restart the first minutes are
//! judged by spans and the exceptions in them alone, for these are read back and those are not. A log line that is no error opens no finding:
//! a new version logs other lines every day. `weir analyze` lists it, for people who ask what happened.
//!
//! What one look at gathered requests said stands until the next. The quick detectors' suspicion of a service and the ranking's become one.
//! Where the ranking is sure of a service, what detectors suspect of services connected with it is dropped, unless the ranking blames these for a
//! quarter or more, or knows less of such things than the detectors do (`Said::leaves`).

mod join;
mod said;
mod share;
mod told;

use weir_schema::UnixNanos;

use self::{
    said::Said,
    share::some_of,
    told::{any_is_sure, first},
};
use crate::{
    causes::{Causes, SUSPICIOUS},
    config::Config,
    spans::{Names, Span},
};

/// Requests that are ranked together at least.
const ENOUGH_REQUESTS: usize = 50;

/// How long they are waited for.
const LONGEST_NS: i64 = 150_000_000_000;

/// A first cause that is less sure than this is taken for none; `weir analyze` lists it and no more.
const NOBODY: f64 = 0.2;

/// Requests that become history at least.
const MIN_REQUESTS: usize = 5;

/// Gathered windows that may be withheld from history one after the other: an hour at 10 s.
const WITHHELD: usize = 360;

/// Requests as they are gathered, and what the last of them said.
#[derive(Debug)]
pub(super) struct Live {
    pub(super) causes: Causes,
    gathered: Vec<Vec<Span>>,
    spans: usize,
    /// Spans that are gathered at most.
    max_spans: usize,
    windows: usize,
    /// Those of them that no look has counted yet.
    uncounted: usize,
    since: UnixNanos,
    /// The end of the last window.
    until: UnixNanos,
    withheld: usize,
    /// Until when what happened was usual.
    calm_until: UnixNanos,
    said: Option<Said>,
}

impl Live {
    pub(super) fn new(config: &Config) -> Self {
        Self::with(Causes::live(config.max_trace_lines), config.max_trace_spans)
    }

    /// What is usual, and nothing gathered.
    pub(super) fn anew(self) -> Self {
        Self::with(self.causes, self.max_spans)
    }

    fn with(causes: Causes, max_spans: usize) -> Self {
        Self {
            causes,
            gathered: Vec::new(),
            spans: 0,
            max_spans,
            windows: 0,
            uncounted: 0,
            since: 0,
            until: UnixNanos::MAX,
            withheld: 0,
            calm_until: UnixNanos::MAX,
            said: None,
        }
    }

    /// Takes in the requests of a window that began and ended so.
    pub(super) fn window(
        &mut self,
        requests: Vec<Vec<Span>>,
        (start, end): (UnixNanos, UnixNanos),
        names: &Names,
        quiet: bool,
    ) {
        let silence = start.saturating_sub(self.until);
        if silence >= LONGEST_NS {
            if self.windows > 0 {
                self.rank(self.until, names, quiet);
                self.let_go();
            }
            self.said = None;
        }
        self.until = end;
        if self.windows == 0 {
            self.since = start;
        }
        self.windows += 1;
        self.uncounted += 1;
        // what policy turned away stops early by design, not by a fault
        let served = requests.into_iter().filter(|spans| !spans.iter().any(|span| span.shed));
        for spans in served {
            self.spans += spans.len();
            self.gathered.push(spans);
        }
        let enough = self.gathered.len() >= ENOUGH_REQUESTS || self.spans >= self.max_spans;
        if let Some(said) = &mut self.said {
            said.votes = 1;
        }
        if enough || end - self.since >= LONGEST_NS {
            self.rank(end, names, quiet);
        }
    }

    /// Ranks what was gathered; it is let go of unless more of the same may tell more.
    fn rank(&mut self, until: UnixNanos, names: &Names, quiet: bool) {
        let (requests, scale) = some_of(&self.gathered, self.spans);
        let (ranking, observed) = self.causes.rank_live(&requests, names, (self.calm_until, until));
        let ranked = requests.len();
        let told = first(&ranking).map_or(0.0, |(_, told)| told.confidence());
        let is_sure = any_is_sure(&ranking);
        self.said = Some(Said { ranking, since: self.since, until, scale, votes: self.uncounted });
        // votes are of windows: a look that was not sure cast none, so the next one votes for its windows, too
        if is_sure {
            self.uncounted = 0;
        }
        let over = until - self.since >= LONGEST_NS || self.spans >= self.max_spans;
        if told >= NOBODY && !is_sure && !over {
            return;
        }
        // a sure cause may have less confidence than that: services connected with it lose something, too
        let usual = quiet && !is_sure && told < SUSPICIOUS;
        self.withheld = if usual { 0 } else { self.withheld + self.windows };
        if usual {
            self.calm_until = until;
        }
        if (usual || self.withheld > WITHHELD) && ranked >= MIN_REQUESTS {
            self.causes.remember(observed);
        }
        self.let_go();
    }

    fn let_go(&mut self) {
        self.gathered.iter().filter_map(|spans| spans.first()).for_each(|span| self.causes.let_go(span.trace));
        self.gathered.clear();
        (self.spans, self.windows, self.uncounted) = (0, 0, 0);
    }
}

#[cfg(test)]
mod tests;
