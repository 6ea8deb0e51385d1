//! [`Closing`]: the spans of a window that closes, read into what each service, edge and entry did; and what is kept of
//! windows before for that.
//!
//! A station's visit begins when the proxy lets the request in and lasts as long as the service
//! itself holds it: the time in which it only waits for calls to others is taken off, because that
//! is not service, and a caller must not be accused of it. Of a span that was let go before its window
//! closed (a flood, a restart) the calls are not known: it counts, and says nothing of its own time.

use std::num::NonZeroU32;

use hashbrown::HashMap;
use weir_schema::UnixNanos;

use super::{
    outside::Outside,
    requests::{self, Root},
};
use crate::{
    calls::{Calls, is_answered},
    departures::Visit,
    entry::{Entered, Follow},
    held::{Held, Place},
    lm::LmServices,
    spans::{Name, Side, Span},
    stations::{Ended, Known, Stations},
    weights::{MISSING, Times},
    window::{Edges, Own, ServiceWindow, Window, add_request},
};

/// What is kept between windows.
#[derive(Debug, Default)]
pub(super) struct Closing {
    pub(super) stations: Stations,
    pub(super) lm: LmServices,
    outside: Outside,
    calls: Calls,
    follow: Follow,
}

/// What is gathered of one window.
#[derive(Default)]
struct Gathered {
    end: UnixNanos,
    edges: Edges,
    services: HashMap<Name, Box<(ServiceWindow, Vec<Ended>)>, foldhash::fast::RandomState>,
    /// Requests that came from outside.
    entered: Vec<Entered>,
    /// The same, and those of which it is not known yet: where requests begin that what-if may look at.
    roots: Vec<Root>,
    /// Client spans that nobody answered.
    alone: Vec<Span>,
    /// Requests without a parent that say who called.
    called: Vec<Span>,
}

impl Closing {
    /// What a window that ended at `end` says.
    pub(super) fn window(
        &mut self,
        (end, length_ns): (UnixNanos, i64),
        spans: &[(Span, Place)],
        edges: Edges,
        held: &mut Held,
        servers: &HashMap<Name, NonZeroU32>,
    ) -> Window {
        let mut gathered = Gathered { end, edges, ..Gathered::default() };
        self.outside.make_room();
        self.lm.begin();
        for (span, place) in spans {
            self.span(&mut gathered, span, *place, held);
        }
        let Gathered { mut edges, services, mut entered, roots, alone, called, .. } = gathered;
        self.outside.sends(services.keys());
        self.outside.name_callees(&alone, &mut edges);
        self.outside.name_callers(&called, &mut edges);
        entered.extend(self.outside.judge_orphans(end, held, &mut edges));
        let mut window = Window { end, length_ns, edges: edges.into_sorted(), ..Window::default() };
        entered.iter().for_each(|entered| self.follow.request(&mut window.entries, entered, held, end));
        let mut services: Vec<_> = services.into_iter().collect();
        services.sort_unstable_by_key(|(name, _)| *name);
        for (name, gathered) in services {
            let (mut service, visits) = *gathered;
            self.estimate(name, &mut service, visits, servers.get(&name).copied(), (end, length_ns));
            window.services.insert(name, service);
        }
        self.stations.identify(end);
        self.lm.close(end);
        window.services.iter_mut().for_each(|(name, service)| service.lm = self.lm.view(*name));
        window.requests = requests::some_of(&roots, held, end);
        window.fold_least();
        window
    }

    fn span(&mut self, gathered: &mut Gathered, span: &Span, place: Place, held: &mut Held) {
        let is_held = held.holds(place, span.id);
        if span.side == Side::Client {
            self.client(gathered, span, is_held.then_some(place), held);
            return;
        }
        let parent = if is_held { held.parent_of(place) } else { None };
        let parent = parent.filter(|parent| parent.end() <= gathered.end);
        let inside = parent.is_some_and(|parent| parent.service == span.service);
        if inside || (span.side == Side::Internal && span.parent != 0) {
            return;
        }
        // a client span without a parent of its own is where a request began that its callee serves
        let enters = parent.map_or(span.parent == 0, |parent| parent.is_client() && parent.is_root());
        let unknown = parent.is_none() && span.parent != 0;
        let own = is_held.then(|| self.own(gathered, span, place, held));
        let (service, visits) = &mut **gathered.services.entry(span.service).or_default();
        add_request(service, span, own);
        self.lm.push(span);
        visits.extend(own.and_then(|own| ended(span, own)));
        if !is_held {
            return;
        }
        let entered = Entered { place, service: span.service, operation: span.operation, weight: span.weight };
        let begins = || held.parent_of(place).is_none_or(|parent| parent.is_client() && parent.is_root());
        if !span.shed && (enters || unknown && begins()) {
            gathered.roots.push(Root::new(span, place));
        }
        if enters {
            gathered.entered.push(entered);
        }
        if unknown {
            self.outside.orphan(span, entered);
        } else if span.parent == 0 && span.peer.is_some() {
            gathered.called.push(*span);
        }
    }

    /// What a request did while it waited for nobody; edges hear of whom it waited for.
    fn own(&mut self, gathered: &mut Gathered, span: &Span, place: Place, held: &mut Held) -> Own {
        self.calls.look(place, span, held, gathered.end);
        let own = Own { ns: self.calls.own_time(span), call_failed: self.calls.failed };
        self.calls.add_waits(&mut gathered.edges, span, held);
        own
    }

    /// A client span says who is called when nobody else does. Without its place it is not known whether somebody does.
    fn client(&mut self, gathered: &mut Gathered, span: &Span, place: Option<Place>, held: &Held) {
        if span.parent == 0 {
            self.outside.sends([&span.service]);
        }
        let Some(peer) = span.peer.filter(|peer| *peer != span.service) else { return };
        if span.shed {
            gathered.edges.of(span.service, peer).shed += u64::from(span.weight);
            return;
        }
        match place.map(|place| is_answered(place, span, held, gathered.end)) {
            Some(true) => self.outside.sends([&peer]),
            Some(false) => gathered.alone.push(*span),
            None => {}
        }
    }

    /// What the visits say of the queue. A stream that was thinned hides who was there beside
    /// whom: it is not looked at.
    fn estimate(
        &mut self,
        name: Name,
        service: &mut ServiceWindow,
        visits: Vec<Ended>,
        configured: Option<NonZeroU32>,
        (end, length_ns): (UnixNanos, i64),
    ) {
        service.interarrival_ms = between_arrivals(&visits);
        let Some(reason) = missing(service, visits.len()) else {
            self.stations.window(name, service, visits, configured, (end, length_ns));
            return;
        };
        service.known = Known::Unknown(reason);
        // one window without some of its visits is a gap; a stream that is sampled has nothing but gaps
        if 2 * service.sampled > service.requests {
            self.stations.forget(name);
        }
    }
}

/// Why the visits that are there are not all, when they are not.
fn missing(service: &ServiceWindow, visits: usize) -> Option<String> {
    let of = |count: u64| count as f64 / service.requests.max(1) as f64;
    let (sampled, let_go) = (of(service.sampled), of(service.let_go));
    if sampled + let_go <= MISSING {
        return None;
    }
    let share = 100.0 * visits as f64 / (service.requests - service.shed).max(1) as f64;
    Some(if sampled >= let_go {
        format!("not identifiable: sampled, the spans of {share:.0} % of its requests are there")
    } else {
        format!(
            "not identifiable: there were more spans than are held (max_held_spans), and the calls of {:.0} % of its \
             requests are not known",
            100.0 * let_go
        )
    })
}

/// A visit to the station, unless it was turned away.
fn ended(span: &Span, own: Own) -> Option<Ended> {
    let arrival = span.start + span.queue_wait_ns.or_zero();
    // a client that leaves while a call is under way leaves that call: the work here was done
    let gave_up = span.abandoned && !own.call_failed;
    let visit = Visit { arrival, departure: arrival + own.ns, gave_up };
    let (start, end, weight) = (span.start, span.end(), span.weight);
    let called_ns = (end - visit.departure).max(0);
    let Span { instance, operation, servers, .. } = *span;
    let ended = Ended { visit, called_ns, instance, operation, servers, start, end, weight };
    (!span.shed).then_some(ended)
}

/// Times from one arrival to the next, each by the weight of the latter: between sampled ones others came.
fn between_arrivals(visits: &[Ended]) -> Times {
    let mut arrivals: Vec<(i64, u32)> = visits.iter().map(|ended| (ended.visit.arrival, ended.weight)).collect();
    arrivals.sort_unstable();
    let mut between = Times::default();
    arrivals.windows(2).for_each(|pair| between.push((pair[1].0 - pair[0].0) as f64 / 1e6, pair[1].1));
    between
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stream_is_sampled_by_what_its_senders_say_and_not_by_one_of_them() {
        let own = Some(Own { ns: 1_000, call_failed: false });
        let of = |spans: &[(usize, Span, Option<Own>)]| {
            let mut service = ServiceWindow::default();
            let each = spans.iter().flat_map(|(count, span, own)| std::iter::repeat_n((span, own), *count));
            each.for_each(|(span, own)| add_request(&mut service, span, *own));
            let visits = spans.iter().map(|(count, ..)| count).sum();
            missing(&service, visits)
        };
        let plain = Span::default();
        // 4/3 as whole numbers is 1 for two of three: a small window need not have a 2
        let thinned = Span { weight: 1, sampled: true, ..plain };
        let heavy = Span { weight: 8, sampled: true, ..plain };
        assert_eq!(of(&[(50, plain, own)]), None);
        assert!(of(&[(50, thinned, own)]).is_some_and(|why| why.starts_with("not identifiable: sampled")));
        assert_eq!(
            of(&[(1_000, plain, own), (1, heavy, own)]),
            None,
            "one sender in a hundred requests is not the stream"
        );
        assert!(of(&[(100, plain, own), (10, heavy, own)]).is_some());
        assert_eq!(of(&[(1_000, plain, own), (9, plain, None)]), None);
        assert!(of(&[(100, plain, own), (50, plain, None)]).is_some_and(|why| why.contains("33 %")));
    }
}
