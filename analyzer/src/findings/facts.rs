//! [`Facts`]: what the complete requests of one window say: where they entered, whom they passed, how each call went,
//! which calls each operation made.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashMap;
use weir_schema::UnixNanos;

use super::family::{Call, Family};
use crate::{
    snapshot::NodeKind,
    spans::{Name, Side, Span},
};

/// One window's requests.
#[derive(Debug, Default)]
pub(super) struct Facts {
    /// By the service of the root.
    pub(super) entries: BTreeMap<Name, Entry>,
    pub(super) services: BTreeMap<Name, Served>,
    /// By caller and callee.
    pub(super) calls: BTreeMap<(Name, Name), Calls>,
    /// By service and operation: which calls its succeeding requests made.
    pub(super) made: BTreeMap<(Name, Name), Made>,
    /// The entries whose requests pass a service, how many do, and of how many.
    passing: HashMap<Name, Vec<(Name, u32, u32)>>,
}

/// Requests that entered at one service.
#[derive(Debug, Default)]
pub(super) struct Entry {
    pub(super) requests: u32,
    pub(super) duration_ms: Vec<f64>,
    /// How many passed a service, or called it where it sends no spans.
    passing: BTreeMap<Name, u32>,
}

/// What a service did.
#[derive(Debug, Default)]
pub(super) struct Served {
    /// When each request came, and its own time.
    pub(super) own: Vec<(UnixNanos, f64)>,
    /// The same by operation, without when.
    pub(super) own_by_operation: BTreeMap<Name, Vec<f64>>,
    /// Of the longest own time.
    pub(super) slowest: Option<(f64, u128)>,
    /// The same of each replica.
    pub(super) slowest_of: BTreeMap<Name, (f64, u128)>,
    /// Of a request that failed by the service's own doing.
    pub(super) failed: Option<u128>,
    /// Own errors by replica.
    pub(super) failed_by_instance: BTreeMap<Name, u32>,
}

/// Calls of one service to another.
#[derive(Debug, Default)]
pub(super) struct Calls {
    pub(super) calls: u32,
    pub(super) errors: u32,
    /// Calls after a failed one of the same operation under the same parent, each once: those with a span of their own,
    /// and those that a proxy made within one.
    pub(super) retries: u32,
    /// Calls that nobody answered with a span.
    pub(super) unanswered: u32,
    pub(super) kind: NodeKind,
    /// Client minus server duration; the whole where the callee sends no spans.
    pub(super) gap_ms: Vec<f64>,
    pub(super) widest: Option<(f64, u128)>,
    pub(super) failed: Option<u128>,
    pub(super) retried: Option<u128>,
}

/// Succeeding requests of an operation and whom they called.
#[derive(Debug, Default)]
pub(super) struct Made {
    pub(super) requests: u32,
    pub(super) callees: BTreeMap<Name, u32>,
    pub(super) example: Option<u128>,
    /// A request that called so.
    pub(super) examples: BTreeMap<Name, u128>,
}

impl Facts {
    pub(super) fn of(traces: &[Vec<Span>]) -> Self {
        let mut facts = Self::default();
        traces.iter().for_each(|spans| facts.add(spans));
        for (name, entry) in &facts.entries {
            for (service, passing) in &entry.passing {
                facts.passing.entry(*service).or_default().push((*name, *passing, entry.requests));
            }
        }
        facts
    }

    fn add(&mut self, spans: &[Span]) {
        let family = Family::of(spans);
        let Some(root) = family.root() else { return };
        let entry = self.entries.entry(root.service).or_default();
        entry.requests += 1;
        entry.duration_ms.push(ms(root.duration_ns));
        let services = spans.iter().map(|span| span.service);
        let passed = each_once(services.chain(spans.iter().filter_map(|span| span.peer)));
        passed.into_iter().for_each(|service| *entry.passing.entry(service).or_default() += 1);
        for span in spans.iter().filter(|span| family.is_entered(span)) {
            let calls = family.calls_of(span);
            self.served(span, &calls);
            self.called(span, &calls);
        }
    }

    fn served(&mut self, span: &Span, calls: &[Call]) {
        let failed_below = calls.iter().any(|call| call.span.error);
        let own_ms = own_ms(span, calls);
        let served = self.services.entry(span.service).or_default();
        if !span.shed {
            served.own.push((span.start, own_ms));
            served.own_by_operation.entry(span.operation).or_default().push(own_ms);
            if served.slowest.is_none_or(|(most, _)| own_ms > most) {
                served.slowest = Some((own_ms, span.trace));
            }
            if let Some(instance) = span.instance {
                let slowest = served.slowest_of.entry(instance).or_insert((own_ms, span.trace));
                if own_ms > slowest.0 {
                    *slowest = (own_ms, span.trace);
                }
            }
        }
        if span.error && !failed_below && !span.shed && !span.abandoned {
            served.failed.get_or_insert(span.trace);
            if let Some(instance) = span.instance {
                *served.failed_by_instance.entry(instance).or_default() += 1;
            }
        }
        if !span.error && !failed_below && !span.shed && !span.abandoned {
            let made = self.made.entry((span.service, span.operation)).or_default();
            made.requests += 1;
            for callee in each_once(calls.iter().filter_map(|call| call.callee)) {
                *made.callees.entry(callee).or_default() += 1;
                made.examples.entry(callee).or_insert(span.trace);
            }
            made.example = Some(span.trace);
        }
    }

    fn called(&mut self, span: &Span, calls: &[Call]) {
        let mut failed_before: BTreeSet<(Name, Name)> = BTreeSet::new();
        for call in calls {
            let Some(callee) = call.callee.filter(|callee| *callee != span.service) else { continue };
            if call.span.shed {
                continue;
            }
            let edge = self.calls.entry((span.service, callee)).or_default();
            let failed = call.span.error && !call.span.abandoned;
            // what went out again had failed, whatever came of it at last
            let hidden = u32::from(call.span.repeats);
            edge.calls += 1 + hidden;
            edge.errors += u32::from(failed) + hidden;
            edge.retries += hidden;
            if failed {
                edge.failed.get_or_insert(span.trace);
            }
            let what = (callee, call.answer.map_or(call.span.operation, |answer| answer.operation));
            let again = failed_before.contains(&what) || call.span.is_repeat;
            edge.retries += u32::from(again);
            if again || hidden > 0 {
                edge.retried.get_or_insert(span.trace);
            }
            if failed {
                failed_before.insert(what);
            }
            edge.took(call, span.trace);
        }
    }

    /// Where requests that pass a service enter, how many of them do, and of how many; by entry.
    pub(super) fn passing(&self, service: Name) -> impl Iterator<Item = (Name, u32, u32)> {
        self.passing.get(&service).into_iter().flatten().copied()
    }
}

impl Calls {
    fn took(&mut self, call: &Call, trace: u128) {
        if call.answer.is_none() {
            self.unanswered += 1 + u32::from(call.span.repeats);
            self.kind = call.span.peer_kind;
        }
        // of several attempts in one span no single one's time is known
        if call.span.repeats > 0 {
            return;
        }
        // a call that failed at once says nothing of how long calls take
        if call.span.error && call.answer.is_none() || call.span.side != Side::Client {
            return;
        }
        let gap_ms = ms(call.span.duration_ns - call.answer.map_or(0, |answer| answer.duration_ns));
        self.gap_ms.push(gap_ms);
        if self.widest.is_none_or(|(most, _)| gap_ms > most) {
            self.widest = Some((gap_ms, trace));
        }
    }

    /// Whether most of them went to somebody who sends no spans.
    pub(super) fn is_unseen(&self) -> bool {
        2 * self.unanswered > self.calls
    }
}

fn each_once(names: impl Iterator<Item = Name>) -> Vec<Name> {
    let mut names: Vec<Name> = names.collect();
    names.sort_unstable();
    names.dedup();
    names
}

/// Duration without the wait in the proxy and without calls, where they do not overlap.
fn own_ms(span: &Span, calls: &[Call]) -> f64 {
    let from = span.start + span.queue_wait_ns.or_zero();
    let (mut covered, mut until) = (0, from);
    for call in calls {
        let (start, end) = (call.span.start.max(until), call.span.end().min(span.end()));
        if end > start {
            covered += end - start;
            until = end;
        }
    }
    ms((span.end() - from - covered).max(0))
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
