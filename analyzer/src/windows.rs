//! [`Windows`]: spans and calls by the window they ended in, until it closes.
//!
//! A station's visit begins when the proxy lets the request in and lasts as long as the service
//! itself holds it: the time in which it only waits for calls to others is taken off, because that
//! is not service, and a caller must not be accused of it.
//!
//! A window says only what is known by its end: a call counts when the later of its two spans ended, and
//! spans that end later are not looked at, whether they have come or not. So the answer is the same
//! live, where they have not, and replayed, where they have.

mod requests;

use std::{collections::BTreeMap, num::NonZeroU32, ops::Range};

use hashbrown::{HashMap, HashSet};
use requests::Sampled;
use weir_schema::UnixNanos;

use crate::{
    calls::{Calls, is_answered},
    departures::Visit,
    entry::{Entered, Follow},
    held::{Call, Held, Place},
    lm::LmServices,
    names::UNKNOWN_CLIENT,
    snapshot::NodeKind,
    spans::{Name, Side, Span},
    stations::{Ended, Known, SavedStation, Stations},
    window::{Edges, ServiceWindow, Window, add_request},
};

/// Spans of one window kept for estimates, 84 MB; further ones are in the rollups only, and counted.
const MAX_SPANS: usize = 500_000;

/// A parent that has not come this long after its child ended never comes: its sender is not instrumented.
const ORPHAN_NS: i64 = 30_000_000_000;

/// Requests whose parent may still come, 14 MB; of further ones it stays open who called.
const MAX_ORPHANS: usize = 200_000;

/// Names remembered of who sends spans and who answers for whom; a mesh that changes more starts anew.
const MAX_SENDERS: usize = 50_000;

/// The open windows.
#[derive(Debug)]
pub(crate) struct Windows {
    length_ns: i64,
    open: BTreeMap<i64, Open>,
    /// Windows up to this one are closed.
    closed_until: Option<i64>,
    stations: Stations,
    lm: LmServices,
    sampled: Sampled,
    /// Services that sent spans, and peers that one of them answered for.
    senders: HashSet<Name, foldhash::fast::RandomState>,
    orphans: Vec<Orphan>,
    calls: Calls,
    follow: Follow,
    /// Spans and edges of the last window: the next will have about as many.
    room: (usize, usize),
    /// Times of which not all spans came.
    unwatched: Vec<Range<UnixNanos>>,
    /// What ends later cannot be: its sender's clock is wrong.
    pub(crate) believed_until: UnixNanos,
    pub(crate) late: u64,
    pub(crate) skewed: u64,
    pub(crate) beyond: u64,
}

/// A window that is not closed.
#[derive(Debug, Default)]
struct Open {
    spans: Vec<(Span, Place)>,
    edges: Edges,
}

impl Open {
    /// One that takes so much without growing, which would copy it all again and again.
    fn with_room(spans: usize, edges: usize) -> Self {
        Self { spans: Vec::with_capacity(spans), edges: Edges::with_room(edges) }
    }
}

/// A request whose parent had not come when its window closed.
#[derive(Clone, Copy, Debug)]
struct Orphan {
    entered: Entered,
    end: UnixNanos,
    duration_ns: i64,
    error: bool,
    caller: Option<Name>,
}

/// What is gathered of a closing window.
#[derive(Default)]
struct Closing {
    end: UnixNanos,
    window: Window,
    edges: Edges,
    services: HashMap<Name, Box<(ServiceWindow, Vec<Ended>)>, foldhash::fast::RandomState>,
    /// Requests that came from outside.
    entered: Vec<Entered>,
    /// Client spans that nobody answered.
    alone: Vec<Span>,
    /// Requests without a parent that say who called.
    called: Vec<Span>,
}

impl Windows {
    pub(crate) fn new(length_ns: i64) -> Self {
        Self {
            length_ns,
            open: BTreeMap::new(),
            closed_until: None,
            stations: Stations::default(),
            lm: LmServices::default(),
            sampled: Sampled::default(),
            senders: HashSet::default(),
            orphans: Vec::new(),
            calls: Calls::default(),
            follow: Follow::default(),
            room: (0, 0),
            unwatched: Vec::new(),
            believed_until: UnixNanos::MAX,
            late: 0,
            skewed: 0,
            beyond: 0,
        }
    }

    /// Takes a span in; says whether its window is open and its clock believed.
    pub(crate) fn push(&mut self, span: Span, place: Place) -> bool {
        if span.end() > self.believed_until {
            self.skewed += 1;
            return false;
        }
        let Some(window) = self.of(span.end()) else {
            self.late += 1;
            return false;
        };
        if window.spans.len() >= MAX_SPANS {
            self.beyond += 1;
        } else {
            window.spans.push((span, place));
        }
        true
    }

    /// The same of a span that is read back: one of a closed window is not late, it was there before.
    pub(crate) fn push_stored(&mut self, span: Span, place: Place) -> bool {
        let late = self.late;
        let taken = self.push(span, place);
        self.late = late;
        taken
    }

    /// Counts a call that both ends tell of.
    pub(crate) fn call(&mut self, call: &Call) {
        if call.known_at <= self.believed_until
            && let Some(window) = self.of(call.known_at)
        {
            window.edges.call(call);
        }
    }

    /// The window of a moment; `None` when it is closed.
    fn of(&mut self, time: UnixNanos) -> Option<&mut Open> {
        let index = time.div_euclid(self.length_ns);
        let closed = self.closed_until.is_some_and(|closed| index <= closed);
        let (spans, edges) = self.room;
        (!closed).then(|| self.open.entry(index).or_insert_with(|| Open::with_room(spans, edges)))
    }

    /// Stations as a checkpoint holds them, and the end of the last closed window.
    pub(crate) fn save(&self) -> (Vec<SavedStation>, Option<UnixNanos>) {
        let end = self.closed_until.map(|index| (index + 1).saturating_mul(self.length_ns));
        (self.stations.save(), end)
    }

    /// What ended before `end` was judged already.
    pub(crate) fn restore(&mut self, stations: Vec<SavedStation>, end: Option<UnixNanos>) {
        self.stations.restore(stations);
        self.closed_until = end.map(|end| (end - 1).div_euclid(self.length_ns)).max(self.closed_until);
    }

    /// Of this time not all spans came: a window that holds some of it is not judged.
    pub(crate) fn unwatched(&mut self, time: Range<UnixNanos>) {
        self.unwatched.push(time);
    }

    /// The end of the oldest window that is open.
    pub(crate) fn next_end(&self) -> Option<UnixNanos> {
        self.open.first_key_value().map(|(index, _)| (index + 1).saturating_mul(self.length_ns))
    }

    /// Windows that ended before `before`, oldest first.
    pub(crate) fn close(
        &mut self,
        before: UnixNanos,
        held: &mut Held,
        servers: &HashMap<Name, NonZeroU32>,
    ) -> Vec<Window> {
        let mut closed = Vec::new();
        while let Some(end) = self.next_end().filter(|end| *end <= before) {
            let Some((index, open)) = self.open.pop_first() else { break };
            self.closed_until = Some(index);
            closed.push(match self.is_whole(end) {
                true => self.summarize(end, open, held, servers),
                false => Window { end, length_ns: self.length_ns, unwatched: true, ..Window::default() },
            });
        }
        closed
    }

    fn is_whole(&self, end: UnixNanos) -> bool {
        !self.unwatched.iter().any(|time| time.start < end && end - self.length_ns < time.end)
    }

    fn summarize(
        &mut self,
        end: UnixNanos,
        open: Open,
        held: &mut Held,
        servers: &HashMap<Name, NonZeroU32>,
    ) -> Window {
        self.room = (open.spans.len(), open.edges.len());
        let mut closing = Closing { end, edges: open.edges, ..Closing::default() };
        if self.senders.len() > MAX_SENDERS {
            self.senders.clear();
        }
        for (span, place) in &open.spans {
            self.span(&mut closing, span, *place, held);
        }
        self.name_peers(&mut closing);
        self.judge_orphans(&mut closing, held);
        let Closing { mut window, edges, services, entered, .. } = closing;
        entered.iter().for_each(|entered| self.follow.request(&mut window.entries, entered, held, end));
        (window.end, window.length_ns, window.edges) = (end, self.length_ns, edges.into_sorted());
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_unstable_by_key(|(name, _)| *name);
        for (name, gathered) in services {
            let (mut service, visits) = *gathered;
            self.estimate(name, &mut service, visits, servers.get(&name).copied(), end);
            window.services.insert(name, service);
        }
        self.stations.identify(end, |name| servers.contains_key(&name));
        self.lm.close(end);
        window.services.iter_mut().for_each(|(name, service)| service.lm = self.lm.view(*name));
        self.sampled.window(&open.spans, held, end);
        window.requests = self.sampled.requests();
        window.fold_least();
        window
    }

    fn span(&mut self, closing: &mut Closing, span: &Span, place: Place, held: &mut Held) {
        if span.side == Side::Client {
            self.client(closing, span, place, held);
            return;
        }
        let parent = held.parent_of(place).filter(|parent| parent.end() <= closing.end);
        let inside = parent.is_some_and(|parent| parent.service == span.service);
        if inside || (span.side == Side::Internal && span.parent != 0) {
            return;
        }
        // a client span without a parent of its own is where a request began that its callee serves
        let enters = parent.map_or(span.parent == 0, |parent| parent.is_client() && parent.is_root());
        let unknown = parent.is_none() && span.parent != 0;
        self.calls.look(place, span, held, closing.end);
        let own_ns = self.calls.own_time(span);
        let failed = self.calls.failed;
        self.calls.add_waits(&mut closing.edges, span, held);
        let (service, visits) = &mut **closing.services.entry(span.service).or_default();
        add_request(service, span, own_ns, failed);
        self.lm.push(span);
        visits.extend(ended(span, own_ns, failed));
        let entered = Entered { place, service: span.service, operation: span.operation, weight: span.weight };
        if enters {
            closing.entered.push(entered);
        }
        if unknown {
            self.orphan(span, entered);
        } else if span.parent == 0 && span.peer.is_some() {
            closing.called.push(*span);
        }
    }

    /// A client span says who is called when nobody else does.
    fn client(&mut self, closing: &mut Closing, span: &Span, place: Place, held: &Held) {
        if span.parent == 0 {
            self.senders.insert(span.service);
        }
        let Some(peer) = span.peer.filter(|peer| *peer != span.service) else { return };
        if span.shed {
            closing.edges.of(span.service, peer).shed += u64::from(span.weight);
        } else if is_answered(place, span, held, closing.end) {
            self.senders.insert(peer);
        } else {
            closing.alone.push(*span);
        }
    }

    /// Databases, queues and hosts that send no spans become nodes by what their callers say, and clients
    /// by what those they call say. A host that somebody answered for does send spans: this call's are only lost.
    fn name_peers(&mut self, closing: &mut Closing) {
        self.senders.extend(closing.services.keys());
        for span in std::mem::take(&mut closing.alone) {
            let Some(peer) = span.peer else { continue };
            if span.peer_kind == NodeKind::External && self.senders.contains(&peer) {
                continue;
            }
            closing.edges.call(&call_of(&span, (span.service, peer), span.peer_kind));
        }
        for span in std::mem::take(&mut closing.called) {
            let Some(caller) = span.peer.filter(|peer| *peer != span.service) else { continue };
            let edge = closing.edges.call(&call_of(&span, (caller, span.service), NodeKind::Service));
            edge.caller_kind = self.kind_of_caller(caller);
        }
    }

    fn kind_of_caller(&self, caller: Name) -> NodeKind {
        if self.senders.contains(&caller) { NodeKind::Service } else { NodeKind::External }
    }

    /// A request whose parent has not come waits for it.
    fn orphan(&mut self, span: &Span, entered: Entered) {
        if self.orphans.len() < MAX_ORPHANS {
            let caller = span.peer.filter(|peer| *peer != span.service);
            let (end, duration_ns) = (span.end(), span.duration_ns);
            self.orphans.push(Orphan { entered, end, duration_ns, error: span.error, caller });
        }
    }

    /// Those whose parent never came were sent by somebody without instrumentation.
    fn judge_orphans(&mut self, closing: &mut Closing, held: &Held) {
        let due = |orphan: &Orphan| closing.end.saturating_sub(orphan.end) >= ORPHAN_NS;
        let (due, waiting): (Vec<_>, Vec<_>) = std::mem::take(&mut self.orphans).into_iter().partition(due);
        self.orphans = waiting;
        for orphan in due {
            if held.node(orphan.entered.place).is_none() {
                continue;
            }
            match held.parent_of(orphan.entered.place).filter(|parent| parent.end() <= closing.end) {
                Some(parent) if parent.is_client() && parent.is_root() => closing.entered.push(orphan.entered),
                Some(_) => {}
                None => {
                    closing.entered.push(orphan.entered);
                    let call = orphan.call();
                    closing.edges.call(&call).caller_kind = self.kind_of_caller(call.caller);
                }
            }
        }
    }

    /// What the visits say of the queue. A stream that was thinned at random hides who was there beside
    /// whom: it is not looked at.
    fn estimate(
        &mut self,
        name: Name,
        service: &mut ServiceWindow,
        visits: Vec<Ended>,
        configured: Option<NonZeroU32>,
        end: UnixNanos,
    ) {
        if service.sampled > 0 {
            let share = 100.0 * visits.len() as f64 / (service.requests - service.shed).max(1) as f64;
            let reason = format!("not identifiable: sampled, the spans of {share:.0} % of its requests are there");
            service.known = Known::Unknown(reason);
            self.stations.forget(name);
            return;
        }
        service.interarrival_ms = between_arrivals(&visits);
        self.stations.window(name, service, visits, configured, (end, self.length_ns));
    }
}

impl Orphan {
    fn call(&self) -> Call {
        Call {
            caller: self.caller.unwrap_or(UNKNOWN_CLIENT),
            callee: self.entered.service,
            callee_kind: NodeKind::Service,
            start: self.end - self.duration_ns,
            duration_ns: self.duration_ns,
            known_at: self.end,
            error: self.error,
            gap_ns: None,
            weight: self.entered.weight,
        }
    }
}

/// The call that one span alone tells of.
fn call_of(span: &Span, (caller, callee): (Name, Name), callee_kind: NodeKind) -> Call {
    Call {
        caller,
        callee,
        callee_kind,
        start: span.start,
        duration_ns: span.duration_ns,
        known_at: span.end(),
        error: span.error,
        gap_ns: None,
        weight: span.weight,
    }
}

/// A visit to the station, unless it was turned away.
fn ended(span: &Span, own_ns: i64, call_failed: bool) -> Option<Ended> {
    let arrival = span.start + span.queue_wait_ns.unwrap_or(0);
    // a client that leaves while a call is under way leaves that call: the work here was done
    let gave_up = span.abandoned && !call_failed;
    let visit = Visit { arrival, departure: arrival + own_ns, gave_up };
    let ended = Ended { visit, instance: span.instance, operation: span.operation, start: span.start, end: span.end() };
    (!span.shed).then_some(ended)
}

fn between_arrivals(visits: &[Ended]) -> Vec<f64> {
    let mut arrivals: Vec<i64> = visits.iter().map(|ended| ended.visit.arrival).collect();
    arrivals.sort_unstable();
    arrivals.windows(2).map(|pair| (pair[1] - pair[0]) as f64 / 1e6).collect()
}
