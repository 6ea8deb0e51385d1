//! [`Analyzer`]: takes spans, closes windows, and says what follows.

mod bottlenecks;
mod restart;
mod shedding;
mod usual;

use std::{collections::BTreeMap, num::NonZeroU32};

use arrow::record_batch::RecordBatch;
use hashbrown::HashMap;
use weir_policy::PolicySet;
use weir_schema::{Batch, Table, UnixNanos};

use crate::{
    alert::Alert,
    config::Config,
    control::{Bottleneck, Command, Controller},
    findings::{Findings, LeftOut},
    findings_rows,
    graph::ServiceGraph,
    held::{As, Call, Held},
    rollup::Rollup,
    snapshot::{Counters, NodeKind, Snapshot},
    spans::{Name, Names, Span, SpanColumns},
    view,
    window::Window,
    windows::{Due, Windows},
};

/// The state of the analysis.
#[derive(Debug)]
pub struct Analyzer {
    config: Config,
    names: Names,
    held: Held,
    windows: Windows,
    rollup: Rollup,
    findings: Findings,
    controller: Controller,
    /// Requests per second of each service in healthy windows, for visit ratios.
    usual_rates: BTreeMap<Name, f64>,
    /// Service time of each service in healthy windows, in milliseconds.
    usual_service_ms: BTreeMap<Name, f64>,
    graph: ServiceGraph,
    counters: Counters,
    /// Log records and readings that were not pushed.
    missed: (u64, u64),
    calls: Vec<Call>,
    /// The newest start seen: event time.
    newest: UnixNanos,
    /// When the collector took the newest span that was pushed.
    received_until: UnixNanos,
    last_snapshot: Option<Snapshot>,
    /// What the last note for a restart had no room for.
    left_out: LeftOut,
}

/// Clocks are off by less: what a span says of later times than this after its receipt is not believed.
const MAX_AHEAD_NS: i64 = 60_000_000_000;

/// Spans whose places are looked at before the first of them is taken in: their memory is waited for at once.
const LOOKED_AT_TOGETHER: usize = 64;

/// Windows that one step closes at most: further ones wait for the next, which comes at once.
const CLOSED_A_STEP: usize = 100;

/// What a step says.
#[derive(Debug, Default)]
pub struct Step {
    /// The mesh, when a window closed.
    pub snapshot: Option<Snapshot>,
    /// Rows of `operations`, `edges`, `findings` and `policy_changes`.
    pub rows: Vec<Batch>,
    /// The policy, when it changed.
    pub policy: Option<PolicySet>,
    /// What people are told.
    pub alerts: Vec<Alert>,
}

impl Analyzer {
    /// Nothing seen yet.
    #[must_use]
    pub fn new(config: Config) -> Self {
        let length_ns = i64::try_from(config.window_ms).unwrap_or(10_000) * 1_000_000;
        Self {
            controller: Controller::new(config.control.clone()),
            windows: Windows::new(length_ns),
            findings: Findings::new(&config),
            config,
            names: Names::default(),
            held: Held::default(),
            rollup: Rollup::default(),
            usual_rates: BTreeMap::new(),
            usual_service_ms: BTreeMap::new(),
            graph: ServiceGraph::default(),
            counters: Counters::default(),
            missed: (0, 0),
            calls: Vec::new(),
            newest: 0,
            received_until: 0,
            last_snapshot: None,
            left_out: LeftOut::new(),
        }
    }

    /// Takes in rows of `spans`; exact duplicates are ignored.
    pub fn push(&mut self, spans: &RecordBatch) {
        let Some(columns) = SpanColumns::of(spans) else { return };
        self.received(&columns);
        let mut together = Vec::with_capacity(LOOKED_AT_TOGETHER);
        for first in (0..columns.rows()).step_by(LOOKED_AT_TOGETHER) {
            let rows = first..columns.rows().min(first + LOOKED_AT_TOGETHER);
            together.extend(rows.map(|row| columns.span(row, &mut self.names)));
            self.held.look_ahead(&together);
            together.iter().for_each(|span| self.take(span));
            together.clear();
        }
        self.findings.push_events(spans, &mut self.names);
    }

    fn take(&mut self, span: &Span) {
        let Some(place) = self.held.insert(span, As::New, &mut self.calls) else {
            self.counters.duplicates += 1;
            return;
        };
        self.counters.spans += 1;
        self.started(span.start);
        self.rollup.span(span);
        if self.windows.push(span, place) {
            self.findings.push(span);
        }
        for call in self.calls.drain(..) {
            self.rollup.call(&call);
            self.windows.call(&call);
        }
    }

    /// Takes in rows of `logs` and `metrics`, which root causes look at beside the spans of windows that are open; of other
    /// tables nothing. They are not read back after a restart: its first minutes are judged by spans, and the exceptions in them, alone.
    pub fn push_beside(&mut self, batch: &Batch) {
        match batch.table {
            Table::Logs => self.findings.push_logs(&batch.rows, &self.names),
            Table::Metrics => self.findings.push_metrics(&batch.rows, &mut self.names),
            _ => {}
        }
    }

    /// Says that so many rows of `logs` or `metrics` came too fast to be pushed: what of a log is missing is not taken for
    /// silence.
    pub fn missed_beside(&mut self, table: Table, rows: u64) {
        match table {
            Table::Logs if rows > 0 => {
                self.missed.0 += rows;
                self.findings.lost_logs();
            }
            Table::Metrics => self.missed.1 += rows,
            _ => {}
        }
    }

    /// Where spans come as they end, says what time it is: at a start after [`Analyzer::restore_history`], and before each
    /// [`Analyzer::step`]. What was noted of times that have not come (a clock was ahead, and is set right) is let go. A replay
    /// of the past has no such clock.
    pub fn set_clock(&mut self, now: UnixNanos) {
        let latest = now.saturating_add(MAX_AHEAD_NS);
        if self.received_until > latest {
            self.received_until = now;
            self.windows.believed_until = latest;
        }
        self.windows.listen(now);
        self.windows.set_clock(latest);
    }

    /// When spans were received says how far their own times can be.
    fn received(&mut self, columns: &SpanColumns<'_>) {
        self.received_until = self.received_until.max(columns.received_until());
        if self.received_until > 0 {
            self.windows.believed_until = self.received_until.saturating_add(MAX_AHEAD_NS);
        }
    }

    /// Event time moves on, as far as it is believed.
    fn started(&mut self, start: UnixNanos) {
        let start = start.min(self.windows.believed_until);
        self.newest = self.newest.max(start);
        self.held.advance(start);
    }

    /// When the collector took the newest span that was pushed; 0 before the first.
    #[must_use]
    pub fn received_until(&self) -> UnixNanos {
        self.received_until
    }

    fn hold_ns(&self) -> i64 {
        i64::try_from(self.config.hold_ms).unwrap_or(60_000) * 1_000_000
    }

    fn lateness_ns(&self) -> i64 {
        i64::try_from(self.config.lateness_ms).unwrap_or(0) * 1_000_000
    }

    /// How long a minute stays open after it ended: its spans may come late.
    fn slack_ns(&self) -> i64 {
        2 * self.lateness_ns() + 5_000_000_000
    }

    /// Takes an order.
    pub fn command(&mut self, command: Command) {
        self.controller.command(command);
    }

    /// Closes what ended long enough before `now`.
    pub fn step(&mut self, now: UnixNanos) -> Step {
        let hold_ns = self.hold_ns();
        let before = now.saturating_sub(self.lateness_ns());
        let mut step = self.close_until(before, now, CLOSED_A_STEP);
        self.held.turn(Some(now), hold_ns, self.config.max_held_spans, &mut self.calls);
        self.calls.drain(..).for_each(|call| self.rollup.call(&call));
        step.rows.extend(self.rollup.closed(now.saturating_sub(self.slack_ns()), &self.names));
        if self.names.turn(now) {
            let Self { names, usual_rates, usual_service_ms, .. } = self;
            usual_rates.retain(|name, _| names.knows(*name));
            usual_service_ms.retain(|name, _| names.knows(*name));
        }
        step
    }

    /// Closes the oldest open window that ended by `before` and is judged, and says what is seen then.
    pub(crate) fn next_window(&mut self, before: UnixNanos) -> Option<Snapshot> {
        while let Some(end) = self.windows.next_end().filter(|end| *end <= before) {
            if let Some(snapshot) = self.close_until(end, end, usize::MAX).snapshot {
                return Some(snapshot);
            }
        }
        None
    }

    /// Closes everything.
    pub fn finish(&mut self) -> Step {
        let mut step = self.close_until(UnixNanos::MAX, self.newest, usize::MAX);
        step.rows.extend(self.stop());
        step
    }

    /// At a stop, the rows of minutes that are open. Windows stay open: half of one must not be judged as a whole one. What a restart reads
    /// back of them it knows not to be whole, see [`Analyzer::was_away`].
    pub fn stop(&mut self) -> Vec<Batch> {
        self.held.finish(&mut self.calls);
        self.calls.drain(..).for_each(|call| self.rollup.call(&call));
        self.rollup.closed(UnixNanos::MAX, &self.names)
    }

    /// What is regulated now.
    #[must_use]
    pub fn policy(&self) -> &PolicySet {
        self.controller.policy()
    }

    /// What is regulated now and nothing else: what can be shown before the first window.
    #[must_use]
    pub fn regulated(&self) -> Snapshot {
        let mut snapshot = Snapshot::default();
        view::regulate(&mut snapshot, self.controller.policy(), self.controller.view());
        snapshot
    }

    fn close_until(&mut self, before: UnixNanos, now: UnixNanos, most: usize) -> Step {
        let servers = self.servers();
        let mut step = Step::default();
        let (mut closed, mut judged) = (0, 0);
        while closed < most {
            let due = self.due(before);
            let Some(window) = self.windows.close(due, &mut self.held, &servers) else { break };
            judged += usize::from(!window.unwatched);
            self.window(&window, &mut step);
            closed += 1;
        }
        if judged == 0 {
            // an order from people does not wait for a window
            let decision = self.controller.obey(now);
            step.rows.extend(decision.rows);
            step.policy = decision.policy;
        }
        self.counters.late = self.windows.late;
        self.counters.skewed = self.windows.skewed;
        self.counters.beyond_window = self.windows.beyond;
        self.counters.names_refused = self.names.refused;
        self.counters.rows_refused = self.rollup.refused;
        let (stations, lm) = self.windows.take_refused();
        self.counters.stations_refused += stations;
        self.counters.lm_refused += lm;
        self.counters.history_refused += self.findings.take_refused();
        self.counters.evicted = self.held.evicted;
        self.counters.sampled_out = self.findings.sampled_out();
        let (logs, metrics) = self.findings.dropped();
        self.counters.logs_dropped = self.missed.0 + logs;
        self.counters.metrics_dropped = self.missed.1 + metrics;
        if step.policy.is_some() || step.snapshot.is_some() {
            let mut snapshot = step.snapshot.take().or_else(|| self.last_snapshot.clone()).unwrap_or_default();
            view::regulate(&mut snapshot, self.controller.policy(), self.controller.view());
            snapshot.counters = self.counters;
            self.last_snapshot = Some(snapshot.clone());
            step.snapshot = Some(snapshot);
        }
        step
    }

    /// While a finding is open a silent window is one without its cause, unless these are the last, or nobody listened.
    fn due(&self, before: UnixNanos) -> Due {
        Due { before, silent: before < UnixNanos::MAX && self.findings.open().next().is_some() }
    }

    fn window(&mut self, window: &Window, step: &mut Step) {
        if window.unwatched {
            self.findings.skip(window.end);
            return;
        }
        self.graph = self.graph_of(window);
        let mut snapshot = view::snapshot(window, &self.names);
        let changed = self.findings.window(window, &snapshot, &self.names, &self.graph);
        if self.findings.is_quiet() {
            self.remember_usual(window);
        }
        if let Some(before) = step.snapshot.as_ref().or(self.last_snapshot.as_ref()) {
            view::carry_over(&mut snapshot, before);
        }
        view::judge(&mut snapshot, self.findings.all());
        if !changed.is_empty() {
            step.alerts.extend(changed.iter().map(Alert::of_finding));
            step.rows.push(findings_rows::batch(&changed, window.end));
        }
        let bottlenecks = self.bottlenecks(&snapshot);
        self.decide(&bottlenecks, window.end, step);
        step.snapshot = Some(snapshot);
    }

    fn decide(&mut self, bottlenecks: &[Bottleneck], now: UnixNanos, step: &mut Step) {
        let decision = self.controller.step(bottlenecks, now);
        step.rows.extend(decision.rows);
        step.policy = decision.policy.or(step.policy.take());
    }

    /// Configured workers, by the names seen so far.
    fn servers(&self) -> HashMap<Name, NonZeroU32> {
        let known = self.config.servers.iter();
        known.filter_map(|(service, c)| Some((self.names.find(service)?, NonZeroU32::new(*c)?))).collect()
    }

    fn graph_of(&self, window: &Window) -> ServiceGraph {
        let seconds = window.length_ns as f64 / 1e9;
        let nodes = window.services.keys().map(|name| self.names.text(*name));
        // who sends no spans is outside: traffic enters where it calls
        let edges = window.edges.iter().filter(|(_, edge)| edge.caller_kind == NodeKind::Service);
        let edges =
            edges.map(|((from, to), edge)| (self.names.text(*from), self.names.text(*to), edge.calls as f64 / seconds));
        ServiceGraph::new(nodes, edges)
    }
}

#[cfg(test)]
mod checkpoint_tests;
#[cfg(test)]
mod let_go_tests;
#[cfg(test)]
pub(crate) mod made;
#[cfg(test)]
mod pool_tests;
#[cfg(test)]
mod queue_tests;
#[cfg(test)]
mod replay_tests;
#[cfg(test)]
mod replicas_tests;
#[cfg(test)]
mod restart_tests;
#[cfg(test)]
mod restore_tests;
#[cfg(test)]
mod sampled_tests;
#[cfg(test)]
mod tests;
