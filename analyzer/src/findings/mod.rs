//! [`Findings`]: what is wrong in the mesh, where it began, whom it costs what, and what to do about it.
//!
//! ```text
//! push(span) ─▶ traces ─▶ complete requests ─▶ facts ─┬▶ detectors ─▶ suspicions ┐
//! window ──────▶ estimates ───────────────────────────┘                          ├▶ join ─▶ merge ─▶ book ─▶ findings
//!                         gathered to fifty requests ──▶ causes (ranking) ───────┘
//! push_logs, push_metrics ─────────────────────────────────▲
//! history ◀── what nobody suspects
//! ```
//!
//! Detectors look at one closed window beside its history, one file for each kind (`kind.rs` says what they mean);
//! thresholds follow from a budget of false alarms (`budget.rs`). The ranking of traces is slower and surer
//! (`live.rs`). What they suspect of a service becomes one suspicion (`merge.rs`), and a finding opens when it was
//! suspected in 3 of 5 windows (`book.rs`). While a fault is open nothing becomes usual, or the fault would.
//!
//! What a finding says of itself rests on: `onset` on the first window that voted, and in it on the change point of own
//! times (`onset.rs`); `impact_ms` on what is lost a second over the entry's requests a second; `impact_ratio` on
//! the share of the entry's complete requests that pass the service, times the share of those that suffer;
//! `confidence` on `suspicion.rs`.

pub(crate) mod action;
mod book;
mod budget;
mod calls;
mod critical;
mod dependency;
mod errors;
mod evidence;
mod facts;
mod family;
mod full;
mod history;
mod hours;
mod instance;
mod kind;
mod live;
mod merge;
mod mismatch;
mod objective;
mod onset;
mod own_time;
mod remember;
mod retries;
mod saturation;
mod scene;
mod statements;
mod surge;
mod suspicion;
mod traces;
mod usual;

use std::{borrow::Cow, collections::BTreeSet};

use arrow::record_batch::RecordBatch;
use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use self::{
    book::Book,
    facts::Facts,
    history::History,
    live::Live,
    remember::Seen,
    scene::{Levels, Scene},
    suspicion::Suspicion,
    traces::Traces,
};
use crate::{
    causes::History as Ranked,
    config::Config,
    graph::ServiceGraph,
    snapshot::{FindingView, Snapshot},
    spans::{Name, Names, Span},
    window::Window,
};

pub(crate) use history::LeftOut;
pub(crate) use kind::Kind;

/// Detectors that look at a scene by themselves.
const DETECTORS: [fn(&Scene) -> Vec<Suspicion>; 9] = [
    errors::suspicions,
    instance::suspicions,
    dependency::suspicions,
    retries::suspicions,
    calls::suspicions,
    saturation::suspicions,
    mismatch::suspicions,
    objective::suspicions,
    full::suspicions,
];

/// The state of all findings and of what they are told from.
#[derive(Debug)]
pub(crate) struct Findings {
    traces: Traces,
    live: Live,
    history: History,
    book: Book,
    /// Requests that were over by then were judged before a restart.
    judged_until: Option<UnixNanos>,
    min_history: usize,
    levels: Levels,
}

/// What a restart must not lose of it; requests that are gathered are read back.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct SavedFindings<'a> {
    history: Cow<'a, History>,
    book: Cow<'a, Book>,
    /// What requests are ranked against.
    #[serde(default)]
    ranked: Cow<'a, Ranked>,
}

impl SavedFindings<'_> {
    /// Leaves out what requests are ranked against, which is learnt again in minutes; when that is gone, half of the keys of each
    /// sort, those that were seen least. Says so of each.
    pub(crate) fn halve(&mut self, left_out: &mut LeftOut) {
        let ranked = self.ranked.windows() as u64;
        if ranked > 0 {
            self.ranked = Cow::default();
            left_out.insert("windows of root causes", ranked);
            return;
        }
        self.history.to_mut().halve(left_out);
    }
}

#[cfg(test)]
impl SavedFindings<'static> {
    /// Own times of so many services, each seen a nanosecond after the one before.
    pub(crate) fn of_services(services: u32) -> Self {
        let mut history = History::default();
        for (name, _) in (0..services).flat_map(|name| (0..30).map(move |window| (name, window))) {
            let own = usual::Sample { median: 10.0 + 1.0 / 3.0, spread: 1.0 / 7.0, requests: 1_000 };
            history.own_ms.remember(name, Some(own), i64::from(name));
        }
        Self { history: Cow::Owned(history), ..Self::default() }
    }

    /// Those that are still in it.
    pub(crate) fn services(&self) -> Vec<Name> {
        self.history.own_ms.keys(0..=Name::MAX).collect()
    }
}

impl Findings {
    pub(crate) fn new(config: &Config) -> Self {
        Self {
            traces: Traces::new(config.max_trace_spans),
            live: Live::new(config),
            history: History::default(),
            book: Book::default(),
            judged_until: None,
            min_history: config.min_history,
            levels: Levels::of(config),
        }
    }

    pub(crate) fn save(&self) -> SavedFindings<'_> {
        let ranked = Cow::Borrowed(self.live.causes.history());
        SavedFindings { history: Cow::Borrowed(&self.history), book: Cow::Borrowed(&self.book), ranked }
    }

    /// Requests that were over by `judged_until` are in it.
    pub(crate) fn restore(&mut self, saved: SavedFindings, judged_until: Option<UnixNanos>) {
        (self.history, self.book) = (saved.history.into_owned(), saved.book.into_owned());
        self.live.causes.restore(saved.ranked.into_owned());
        self.judged_until = judged_until;
    }

    /// Goes to another time, of which nothing was seen yet, with what is usual.
    pub(crate) fn moved_to(&mut self, before: Self, at: UnixNanos) {
        (self.history, self.live) = (before.history.moved_to(at), before.live.anew());
    }

    /// Takes in a span that is no duplicate.
    pub(crate) fn push(&mut self, span: &Span) {
        self.traces.push(span);
    }

    /// Takes in the exceptions that rows of `spans` carry, of requests that are kept.
    pub(crate) fn push_events(&mut self, spans: &RecordBatch, names: &mut Names) {
        self.live.causes.add_events(spans, names, |trace| self.traces.keep(trace));
    }

    /// Takes in rows of `logs`, of requests that are kept.
    pub(crate) fn push_logs(&mut self, logs: &RecordBatch, names: &Names) {
        self.live.causes.add_logs(logs, names, |trace| self.traces.keep(trace));
    }

    /// Takes in rows of `metrics`.
    pub(crate) fn push_metrics(&mut self, metrics: &RecordBatch, names: &mut Names) {
        self.live.causes.add_metrics(metrics, names);
    }

    /// Log records did not come here.
    pub(crate) fn lost_logs(&mut self) {
        self.live.causes.lost_logs();
    }

    /// Uses of keys of what is usual for which there was no room, since the last time.
    pub(crate) fn take_refused(&mut self) -> u64 {
        self.history.take_refused()
    }

    /// Log records and readings that the ranking left out because there were too many.
    pub(crate) fn dropped(&self) -> (u64, u64) {
        self.live.causes.dropped()
    }

    /// Looks at a closed window and its estimates; says which findings opened or closed.
    pub(crate) fn window(
        &mut self,
        window: &Window,
        snapshot: &Snapshot,
        names: &Names,
        graph: &ServiceGraph,
    ) -> Vec<FindingView> {
        let requests = self.requests(window.end);
        let facts = Facts::of(&requests);
        let quiet = self.book.is_quiet();
        self.live.window(requests, (window.end - window.length_ns, window.end), names, quiet);
        let (min_history, levels) = (self.min_history, self.levels);
        let seen = Seen { window, snapshot, names, facts: &facts };
        self.history.follow(&seen);
        let history = &self.history;
        let scene = Scene { window, snapshot, names, graph, facts: &facts, history, min_history, levels };
        let is_open =
            |service: &str| self.book.open().any(|finding| finding.service == service && finding.is_new_fault());
        // what was gathered before says nothing of a window in which nothing came
        let silent = window.services.is_empty() && facts.entries.is_empty();
        let suspicions = if silent { Vec::new() } else { self.live.join(&scene, suspicions(&scene), is_open) };
        let suspected = if self.book.is_lasting() { BTreeSet::new() } else { suspected(&suspicions) };
        let mixed = own_time::mixed_otherwise(&scene);
        let changes = self.book.window(&scene, &merge::merged(suspicions, &scene));
        mixed.into_iter().for_each(|service| self.history.begin_hours(service));
        if self.book.is_lasting() {
            let lasting = self.book.open().filter(|finding| finding.is_new_fault());
            let lasting = lasting.filter_map(|finding| names.find(&finding.service));
            lasting.for_each(|service| self.history.begin_hours(service));
        }
        if self.book.is_quiet() {
            self.history.remember(&seen, &suspected);
        }
        changes
    }

    /// Lets the requests of a window go that is not judged.
    pub(crate) fn skip(&mut self, end: UnixNanos) {
        drop(self.requests(end));
    }

    /// Requests that were over by `end` and that nobody has judged yet.
    fn requests(&mut self, end: UnixNanos) -> Vec<Vec<Span>> {
        if let Some(until) = self.judged_until.take() {
            drop(self.traces.complete(until));
        }
        self.traces.complete(end)
    }

    /// Open findings by rank, then closed ones, newest first.
    pub(crate) fn all(&self) -> Vec<FindingView> {
        self.book.all()
    }

    pub(crate) fn open(&self) -> impl Iterator<Item = &FindingView> {
        self.book.open()
    }

    /// Whether what happens now is usual.
    pub(crate) fn is_quiet(&self) -> bool {
        self.book.is_quiet()
    }

    /// Windows that requests are ranked against.
    #[cfg(test)]
    pub(crate) fn ranked(&self) -> usize {
        self.live.causes.history().windows()
    }

    /// Lines and exceptions of requests that are gathered.
    #[cfg(test)]
    pub(crate) fn lines(&self) -> usize {
        self.live.causes.lines()
    }

    /// Spans of requests that were left out of the ranking because there were too many.
    pub(crate) fn sampled_out(&self) -> u64 {
        self.traces.sampled_out
    }
}

/// What the detectors say of a window.
fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let (mut found, mut loaded) = (Vec::new(), Vec::new());
    for slow in own_time::slow(scene) {
        match surge::behind(scene, &slow) {
            Some(surge) => loaded.push((surge, slow)),
            None => found.push(own_time::bottleneck(scene, &slow)),
        }
    }
    found.extend(surge::suspicions(scene, &loaded));
    found.extend(DETECTORS.iter().flat_map(|detector| detector(scene)));
    found
}

/// Everybody whose window is not usual: who is suspected of a fault, and whom it loads.
fn suspected(suspicions: &[Suspicion]) -> BTreeSet<Name> {
    let faults = suspicions.iter().filter(|suspicion| suspicion.is_new_fault());
    faults.flat_map(|suspicion| suspicion.victims.iter().copied().chain([suspicion.service])).collect()
}

#[cfg(test)]
mod tests;
