//! [`Windows`]: spans by the window they ended in, and what a closed window says of each service.
//!
//! A station's visit begins when the proxy lets the request in and lasts as long as the service
//! itself holds it: the time in which it only waits for calls to others is taken off, because that
//! is not service, and a caller must not be accused of it.

mod requests;

use std::{collections::BTreeMap, num::NonZeroU32, sync::Arc};

use hashbrown::{HashMap, HashSet};
use requests::Sampled;
use weir_schema::UnixNanos;

use crate::{
    analyzer::moments,
    departures::Visit,
    held::Held,
    retiming::Request,
    sketch::Sketch,
    snapshot::NodeKind,
    spans::{Name, Side, Span},
    stations::{Ended, Known, StationWindow, Stations},
};

/// Spans of one window kept for estimates; further ones are in the rollups only.
const MAX_SPANS: usize = 500_000;

/// Spans of one service within one request that are looked through for calls.
const MAX_SPANS_WITHIN: usize = 1_000;

/// What one service did in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceWindow {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Errors while no call to another service failed.
    pub(crate) own_errors: u64,
    pub(crate) shed: u64,
    pub(crate) duration_ms: Sketch,
    pub(crate) busy_ns: f64,
    /// Own time of each request: duration without proxy wait and calls to others.
    pub(crate) own_ms: Vec<f64>,
    /// What each request spent waiting for calls to others: it holds a place, but no worker.
    pub(crate) downstream_ms: Vec<f64>,
    /// What is known of its servers.
    pub(crate) known: Known,
    /// Reconstructed, when c is known.
    pub(crate) service_ms: Vec<f64>,
    /// Time in service of requests whose client gave up before its end.
    pub(crate) cut_service_ms: f64,
    pub(crate) app_wait_ms: Vec<f64>,
    pub(crate) proxy_wait_ms: Vec<f64>,
    /// What its stations say.
    pub(crate) station: StationWindow,
    /// Of those that were shed, how many for want of room.
    pub(crate) refused: u64,
    pub(crate) operations: BTreeMap<(Name, Name), (u64, u64, Sketch)>,
    pub(crate) instances: HashSet<Name>,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) first_token_ms: Sketch,
    /// The slowest request.
    pub(crate) slowest: Option<(i64, u128)>,
}

/// What one edge did in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct EdgeWindow {
    pub(crate) calls: u64,
    pub(crate) errors: u64,
    pub(crate) duration_ms: Sketch,
    pub(crate) gap_ms: Sketch,
    /// Time of calls, as the caller sees it.
    pub(crate) waited_ns: i64,
    /// The part of it in which the caller waited for nothing that ended later.
    pub(crate) critical_ns: i64,
    /// Calls that the caller's breaker shed: nobody answered them.
    pub(crate) shed: u64,
    pub(crate) kind: NodeKind,
}

/// A closed window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) end: UnixNanos,
    pub(crate) length_ns: i64,
    pub(crate) services: BTreeMap<Name, ServiceWindow>,
    pub(crate) edges: BTreeMap<(Name, Name), EdgeWindow>,
    /// Some whole requests of the last windows.
    pub(crate) requests: Arc<Vec<Request<Name>>>,
}

/// The open windows.
#[derive(Debug)]
pub(crate) struct Windows {
    length_ns: i64,
    open: BTreeMap<i64, Vec<Span>>,
    /// Windows up to this one are closed.
    closed_until: Option<i64>,
    stations: Stations,
    sampled: Sampled,
    /// Children by parent: a call may end a window before its caller does.
    children: [ChildMap; 2],
    turned_at: i64,
    pub(crate) late: u64,
}

/// A child of a span, as its parent needs it.
#[derive(Clone, Copy, Debug)]
struct Child {
    id: u64,
    start: i64,
    end: i64,
    service: Name,
    side: Side,
    error: bool,
}

type ChildMap = HashMap<(u128, u64), Vec<Child>, foldhash::fast::RandomState>;

impl Windows {
    pub(crate) fn new(length_ns: i64) -> Self {
        Self {
            length_ns,
            open: BTreeMap::new(),
            closed_until: None,
            stations: Stations::default(),
            sampled: Sampled::default(),
            children: Default::default(),
            turned_at: i64::MIN,
            late: 0,
        }
    }

    pub(crate) fn push(&mut self, span: Span) {
        let index = span.end().div_euclid(self.length_ns);
        if self.closed_until.is_some_and(|closed| index <= closed) {
            self.late += 1;
            return;
        }
        let window = self.open.entry(index).or_default();
        if window.len() >= MAX_SPANS {
            return;
        }
        window.push(span);
        if span.parent != 0 {
            let child = Child {
                id: span.id,
                start: span.start,
                end: span.end(),
                service: span.service,
                side: span.side,
                error: span.error,
            };
            self.children[0].entry((span.trace, span.parent)).or_default().push(child);
        }
    }

    /// Children are kept for two to four windows after the one they ended in.
    fn turn_children(&mut self, closed_end: UnixNanos) {
        if closed_end.saturating_sub(self.turned_at) > 2 * self.length_ns.max(15_000_000_000) {
            self.turned_at = closed_end;
            self.children[1] = std::mem::take(&mut self.children[0]);
        }
    }

    /// What a span called: client spans, and children in other services, its own and those of spans
    /// between them in the same service.
    fn calls_of(&self, span: &Span) -> Calls {
        let mut calls = Calls::default();
        let mut within = vec![span.id];
        let mut looked_at = 0;
        while let Some(parent) = within.pop() {
            looked_at += 1;
            if looked_at > MAX_SPANS_WITHIN {
                break;
            }
            for child in self.children_of(span.trace, parent) {
                if child.side == Side::Client || child.service != span.service {
                    let callee = self.callee(span, child);
                    calls.made.push(Call { start: child.start, end: child.end, callee });
                    calls.failed |= child.error;
                } else if child.id != parent {
                    within.push(child.id);
                }
            }
        }
        calls
    }

    /// Whether somebody else's span hangs below this one.
    fn is_answered(&self, span: &Span) -> bool {
        let mut children = self.children_of(span.trace, span.id);
        children.any(|child| child.side == Side::Client || child.service != span.service)
    }

    fn children_of(&self, trace: u128, parent: u64) -> impl Iterator<Item = &Child> {
        self.children.iter().filter_map(move |map| map.get(&(trace, parent))).flatten()
    }

    /// Who answered: the service of the child, or of a client span's own child.
    fn callee(&self, span: &Span, child: &Child) -> Option<Name> {
        if child.service != span.service {
            return Some(child.service);
        }
        self.children_of(span.trace, child.id).map(|answer| answer.service).find(|service| *service != span.service)
    }

    /// Windows that ended before `before`, oldest first.
    pub(crate) fn close(&mut self, before: UnixNanos, held: &Held, servers: &HashMap<Name, NonZeroU32>) -> Vec<Window> {
        let mut closed = Vec::new();
        while let Some((index, _)) = self.open.first_key_value() {
            let end = (index + 1) * self.length_ns;
            if end > before {
                break;
            }
            let Some((index, spans)) = self.open.pop_first() else { break };
            self.closed_until = Some(index);
            closed.push(self.summarize(end, &spans, held, servers));
            self.turn_children(end);
        }
        closed
    }

    fn summarize(
        &mut self,
        end: UnixNanos,
        spans: &[Span],
        held: &Held,
        servers: &HashMap<Name, NonZeroU32>,
    ) -> Window {
        let mut window = Window { end, length_ns: self.length_ns, ..Window::default() };
        let mut visits: HashMap<Name, Vec<Ended>> = HashMap::new();
        for span in spans {
            let parent = (span.parent != 0).then(|| held.service_of((span.trace, span.parent))).flatten();
            add_edge(&mut window, span, parent, !self.is_answered(span));
            if !is_entry(span, parent) {
                continue;
            }
            let calls = self.calls_of(span);
            let own_ns = own_time(span, &calls.made);
            let failed = calls.failed;
            add_waits(&mut window, span, calls.made);
            let service = window.services.entry(span.service).or_default();
            add_request(service, span, own_ns, failed);
            if !span.shed {
                let arrival = span.start + span.queue_wait_ns.unwrap_or(0);
                // a client that leaves while a call is under way leaves that call: the work here was done
                let gave_up = span.abandoned && !failed;
                let visit = Visit { arrival, departure: arrival + own_ns, gave_up };
                let ended = Ended {
                    visit,
                    instance: span.instance,
                    operation: span.operation,
                    start: span.start,
                    end: span.end(),
                };
                visits.entry(span.service).or_default().push(ended);
            }
        }
        for (name, visits) in visits {
            let Some(service) = window.services.get_mut(&name) else { continue };
            let configured = servers.get(&name).copied();
            self.stations.window(name, service, visits, configured, (end, self.length_ns));
        }
        self.stations.identify(end, |name| servers.contains_key(&name));
        self.sample(spans, held);
        window.requests = self.sampled.requests();
        window
    }
}

impl ServiceWindow {
    /// Mean service time and its squared coefficient of variation; `None` with fewer than two requests
    /// served. The mean is time in service per completion: services that were cut short were the long
    /// ones, and leaving their time out would bias it. (For exponential times it is the maximum
    /// likelihood under censoring: B. Epstein and M. Sobel, Life Testing, 1953.)
    pub(crate) fn service_time(&self) -> Option<(f64, f64)> {
        let (mean, cs2) = moments(&self.service_ms)?;
        Some((mean + self.cut_service_ms / self.service_ms.len() as f64, cs2))
    }
}

/// The calls a span made.
#[derive(Default)]
struct Calls {
    made: Vec<Call>,
    failed: bool,
}

/// One call.
#[derive(Clone, Copy, Debug)]
struct Call {
    start: i64,
    end: i64,
    callee: Option<Name>,
}

/// A span that a request enters a service by. One whose parent is not known is taken for one.
fn is_entry(span: &Span, parent: Option<Name>) -> bool {
    span.side != Side::Client
        && parent.is_none_or(|parent| parent != span.service)
        && (span.side != Side::Internal || span.parent == 0)
}

fn own_time(span: &Span, calls: &[Call]) -> i64 {
    let from = span.start + span.queue_wait_ns.unwrap_or(0);
    let mut calls: Vec<_> = calls.iter().map(|call| (call.start.max(from), call.end.min(span.end()))).collect();
    calls.sort_unstable();
    let (mut covered, mut until) = (0, from);
    for (start, end) in calls {
        let start = start.max(until);
        if end > start {
            covered += end - start;
            until = end;
        }
    }
    (span.end() - from - covered).max(0)
}

/// Walks back from the span's end: the call that ended last was waited for, and before its start the one
/// that ended last by then. Others ran beside them.
fn add_waits(window: &mut Window, span: &Span, mut calls: Vec<Call>) {
    calls.sort_unstable_by_key(|call| std::cmp::Reverse((call.end.min(span.end()), call.start)));
    let mut cursor = span.end();
    for Call { start, end, callee } in calls {
        let (start, end) = (start.max(span.start), end.min(span.end()));
        if end <= start {
            continue;
        }
        let waited_for = end <= cursor;
        if waited_for {
            cursor = start;
        }
        let Some(callee) = callee else { continue };
        let edge = window.edges.entry((span.service, callee)).or_default();
        edge.waited_ns += end - start;
        edge.critical_ns += if waited_for { end - start } else { 0 };
    }
}

fn add_request(service: &mut ServiceWindow, span: &Span, own_ns: i64, call_failed: bool) {
    service.requests += 1;
    service.errors += u64::from(span.error);
    service.own_errors += u64::from(span.error && !call_failed && !span.shed && !span.abandoned);
    service.shed += u64::from(span.shed);
    service.refused += u64::from(span.refused);
    let duration_ms = span.duration_ns as f64 / 1e6;
    let operation = service.operations.entry((span.operation, span.kind)).or_default();
    operation.0 += 1;
    operation.1 += u64::from(span.error);
    operation.2.add(duration_ms);
    service.input_tokens += span.input_tokens;
    service.output_tokens += span.output_tokens;
    service.instances.extend(span.instance);
    if let Some(first) = span.first_token_ns {
        service.first_token_ms.add(first as f64 / 1e6);
    }
    if span.shed {
        return;
    }
    service.duration_ms.add(duration_ms);
    service.busy_ns += span.duration_ns as f64;
    service.own_ms.push(own_ns as f64 / 1e6);
    let held_ns = span.duration_ns - span.queue_wait_ns.unwrap_or(0);
    service.downstream_ms.push((held_ns - own_ns).max(0) as f64 / 1e6);
    if let Some(wait) = span.queue_wait_ns {
        service.proxy_wait_ms.push(wait as f64 / 1e6);
    }
    if service.slowest.is_none_or(|(duration, _)| span.duration_ns > duration) {
        service.slowest = Some((span.duration_ns, span.trace));
    }
}

fn add_edge(window: &mut Window, span: &Span, parent: Option<Name>, childless: bool) {
    if let Some(caller) = parent.filter(|caller| *caller != span.service) {
        let edge = window.edges.entry((caller, span.service)).or_default();
        edge.calls += 1;
        edge.errors += u64::from(span.error);
        edge.duration_ms.add(span.duration_ns as f64 / 1e6);
        return;
    }
    if let Some(peer) = span.peer.filter(|_| span.side == Side::Client && span.shed) {
        window.edges.entry((span.service, peer)).or_default().shed += 1;
        return;
    }
    let unanswered = span.side == Side::Client && childless;
    let virtual_peer =
        span.peer.filter(|peer| unanswered && *peer != span.service && span.peer_kind != NodeKind::External);
    if let Some(peer) = virtual_peer {
        let edge = window.edges.entry((span.service, peer)).or_default();
        edge.calls += 1;
        edge.errors += u64::from(span.error);
        edge.duration_ms.add(span.duration_ns as f64 / 1e6);
        edge.kind = span.peer_kind;
    }
}
