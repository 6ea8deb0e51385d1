//! [`Window`]: what a window says of each service, replica, operation and edge.
//!
//! All of it adds up: the state of two sets of requests merged is the state of their union.

use std::collections::BTreeMap;

use hashbrown::HashMap;
use weir_schema::UnixNanos;

use crate::{
    entry::EntryWindow,
    held::Call,
    lm::LmView,
    moments::moments,
    names::OTHER,
    retiming::Request,
    sketch::{Sketch, bucket_of},
    snapshot::NodeKind,
    spans::{Name, Span},
    stations::{Known, StationWindow},
    weights::{Times, Weighed},
};

/// Operations of one service that are told apart in one window; further ones are [`OTHER`]: paths with ids in them.
const MAX_OPERATIONS: usize = 1_000;

/// Replicas of one service that are told apart in one window; further ones are [`OTHER`].
const MAX_INSTANCES: usize = 1_000;

/// Services of one window; of more, those with least requests are [`OTHER`] together.
const MAX_SERVICES: usize = 5_000;

/// Edges of one window; to further callees a caller has one edge, to [`OTHER`].
const MAX_EDGES: usize = 50_000;

/// What one service did in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct ServiceWindow {
    /// By weight: what was sampled stands for more, here and in all counts and sums below. Times of
    /// single requests have their weight beside them.
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Of these requests it is known what they called.
    pub(crate) known_calls: Weighed,
    /// Their errors while no call to another service failed.
    pub(crate) own_errors: u64,
    pub(crate) shed: u64,
    pub(crate) duration_ms: Sketch,
    pub(crate) busy_ns: f64,
    /// Own time of each request: duration without proxy wait and calls to others.
    pub(crate) own_ms: Times,
    /// What each request spent waiting for calls to others: it holds a place, but no worker.
    pub(crate) downstream_ms: Times,
    /// What is known of its servers.
    pub(crate) known: Known,
    /// Reconstructed, when c is known.
    pub(crate) service_ms: Vec<f64>,
    /// Time in service of requests whose client gave up before its end.
    pub(crate) cut_service_ms: f64,
    pub(crate) app_wait_ms: Vec<f64>,
    pub(crate) proxy_wait_ms: Times,
    /// Each by the weight of the request that ends it.
    pub(crate) interarrival_ms: Times,
    /// What its stations say.
    pub(crate) station: StationWindow,
    /// Of those that were shed, how many for want of room.
    pub(crate) refused: u64,
    pub(crate) operations: BTreeMap<(Name, Name), (u64, u64, Sketch)>,
    /// Each replica by itself; what spans do not say the replica of is in none.
    pub(crate) by_instance: BTreeMap<Name, InstanceWindow>,
    pub(crate) input_tokens: i64,
    pub(crate) output_tokens: i64,
    pub(crate) first_token_ms: Sketch,
    /// What is known of its model, if it serves one.
    pub(crate) lm: Option<LmView>,
    /// The slowest request.
    pub(crate) slowest: Option<(i64, u128)>,
    /// Requests of which others were left out: the visits beside them are not known.
    pub(crate) sampled: u64,
    /// Requests whose calls are not known any more: they count, and say nothing of the time they took here.
    pub(crate) let_go: u64,
}

/// What one replica of a service did in a window.
#[derive(Clone, Debug, Default)]
pub(crate) struct InstanceWindow {
    pub(crate) requests: u64,
    pub(crate) errors: u64,
    /// Those that were not shed, and their own time: its median is within 1 %.
    pub(crate) served: Weighed,
    pub(crate) own_ms: Sketch,
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
    /// Of the callee.
    pub(crate) kind: NodeKind,
    /// Of the caller: external when it sends no spans.
    pub(crate) caller_kind: NodeKind,
}

/// A closed window.
#[derive(Clone, Debug, Default)]
pub(crate) struct Window {
    pub(crate) end: UnixNanos,
    pub(crate) length_ns: i64,
    /// Whether not all of its spans came: it says nothing.
    pub(crate) unwatched: bool,
    pub(crate) services: BTreeMap<Name, ServiceWindow>,
    pub(crate) edges: BTreeMap<(Name, Name), EdgeWindow>,
    /// Requests by the service and operation they entered by.
    pub(crate) entries: BTreeMap<(Name, Name), EntryWindow>,
    /// Some whole requests of it.
    pub(crate) requests: Vec<Request<Name>>,
}

/// Edges as they are gathered.
#[derive(Debug, Default)]
pub(crate) struct Edges(HashMap<(Name, Name), EdgeWindow, foldhash::fast::RandomState>);

impl Edges {
    pub(crate) fn with_room(edges: usize) -> Self {
        Self(HashMap::with_capacity_and_hasher(edges, foldhash::fast::RandomState::default()))
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    /// The edge between two services, or to the others when there are too many.
    pub(crate) fn of(&mut self, caller: Name, callee: Name) -> &mut EdgeWindow {
        let full = self.0.len() >= MAX_EDGES && !self.0.contains_key(&(caller, callee));
        self.0.entry((caller, if full { OTHER } else { callee })).or_default()
    }

    /// Counts a call.
    pub(crate) fn call(&mut self, call: &Call) -> &mut EdgeWindow {
        let edge = self.of(call.caller, call.callee);
        edge.calls += u64::from(call.weight);
        edge.errors += u64::from(call.error) * u64::from(call.weight);
        edge.duration_ms.add_many(call.duration_ns as f64 / 1e6, i64::from(call.weight));
        if let Some(gap_ns) = call.gap_ns {
            edge.gap_ms.add_many(gap_ns as f64 / 1e6, i64::from(call.weight));
        }
        edge.kind = call.callee_kind;
        edge
    }

    pub(crate) fn into_sorted(self) -> BTreeMap<(Name, Name), EdgeWindow> {
        self.0.into_iter().collect()
    }
}

impl Window {
    /// What is beyond the bound on services becomes one service, so that all requests are there still.
    pub(crate) fn fold_least(&mut self) {
        if self.services.len() <= MAX_SERVICES {
            return;
        }
        let mut by_requests: Vec<(u64, Name)> = self.services.iter().map(|(name, s)| (s.requests, *name)).collect();
        by_requests.sort_unstable_by_key(|(requests, name)| (std::cmp::Reverse(*requests), *name));
        for (_, name) in by_requests.drain(MAX_SERVICES - 1..).filter(|(_, name)| *name != OTHER) {
            if let Some(least) = self.services.remove(&name) {
                self.services.entry(OTHER).or_default().merge(least);
            }
        }
    }
}

impl EdgeWindow {
    /// Takes in what another part of the calls came to.
    pub(crate) fn merge(&mut self, other: &Self) {
        self.calls += other.calls;
        self.errors += other.errors;
        self.shed += other.shed;
        self.duration_ms.merge(&other.duration_ms);
        self.gap_ms.merge(&other.gap_ms);
        self.waited_ns = self.waited_ns.saturating_add(other.waited_ns);
        self.critical_ns = self.critical_ns.saturating_add(other.critical_ns);
        let known = |mine, theirs| if mine == NodeKind::Service { theirs } else { mine };
        self.kind = known(self.kind, other.kind);
        self.caller_kind = known(self.caller_kind, other.caller_kind);
    }
}

impl InstanceWindow {
    fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.errors += other.errors;
        self.served.merge(other.served);
        self.own_ms.merge(&other.own_ms);
    }
}

impl ServiceWindow {
    /// Takes in what another part of the requests came to. Of two that were identified apart nothing is
    /// known together.
    pub(crate) fn merge(&mut self, other: Self) {
        if self.known == Known::Unseen {
            self.known = other.known.clone();
        } else if self.known != other.known {
            self.known = Known::Unknown("services are taken together".into());
        }
        self.requests += other.requests;
        self.errors += other.errors;
        self.known_calls.merge(other.known_calls);
        self.own_errors += other.own_errors;
        self.shed += other.shed;
        self.refused += other.refused;
        self.sampled += other.sampled;
        self.let_go += other.let_go;
        self.busy_ns += other.busy_ns;
        self.cut_service_ms += other.cut_service_ms;
        self.input_tokens = self.input_tokens.saturating_add(other.input_tokens);
        self.output_tokens = self.output_tokens.saturating_add(other.output_tokens);
        self.duration_ms.merge(&other.duration_ms);
        self.first_token_ms.merge(&other.first_token_ms);
        self.slowest = self.slowest.max(other.slowest);
        self.own_ms.extend(other.own_ms);
        self.downstream_ms.extend(other.downstream_ms);
        self.service_ms.extend(other.service_ms);
        self.app_wait_ms.extend(other.app_wait_ms);
        self.proxy_wait_ms.extend(other.proxy_wait_ms);
        self.interarrival_ms.extend(other.interarrival_ms);
        for (key, (count, errors, durations)) in other.operations {
            let mine = bounded(&mut self.operations, key, (OTHER, key.1), MAX_OPERATIONS);
            mine.0 += count;
            mine.1 += errors;
            mine.2.merge(&durations);
        }
        for (name, instance) in &other.by_instance {
            bounded(&mut self.by_instance, *name, OTHER, MAX_INSTANCES).merge(instance);
        }
    }

    /// Mean service time and its squared coefficient of variation; `None` with fewer than two requests
    /// served. The mean is time in service per completion: services that were cut short were the long
    /// ones, and leaving their time out would bias it. (For exponential times it is the maximum
    /// likelihood under censoring: B. Epstein and M. Sobel, Life Testing, 1953.)
    pub(crate) fn service_time(&self) -> Option<(f64, f64)> {
        let (mean, cs2) = moments(&self.service_ms)?;
        Some((mean + self.cut_service_ms / self.service_ms.len() as f64, cs2))
    }
}

/// What a request did itself, as far as its calls are known.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Own {
    /// Without the wait in the proxy and without calls.
    pub(crate) ns: i64,
    /// Whether one of its calls failed.
    pub(crate) call_failed: bool,
}

/// Counts a request that ended here.
pub(crate) fn add_request(service: &mut ServiceWindow, span: &Span, own: Option<Own>) {
    let (weight, times) = (u64::from(span.weight), i64::from(span.weight));
    let errors = if span.error { weight } else { 0 };
    service.requests += weight;
    service.errors += errors;
    service.shed += if span.shed { weight } else { 0 };
    service.refused += if span.refused { weight } else { 0 };
    service.sampled += if span.sampled { weight } else { 0 };
    service.input_tokens = service.input_tokens.saturating_add(span.input_tokens.saturating_mul(times));
    service.output_tokens = service.output_tokens.saturating_add(span.output_tokens.saturating_mul(times));
    if let Some(first) = span.first_token_ns.get() {
        service.first_token_ms.add_many(first as f64 / 1e6, times);
    }
    let duration = bucket_of(span.duration_ns as f64 / 1e6);
    let operation = bounded(&mut service.operations, (span.operation, span.kind), (OTHER, span.kind), MAX_OPERATIONS);
    operation.0 += weight;
    operation.1 += errors;
    operation.2.add_bucket(duration, times);
    if let Some(instance) = span.instance {
        add_to_instance(bounded(&mut service.by_instance, instance, OTHER, MAX_INSTANCES), span, own);
    }
    if !span.shed {
        service.duration_ms.add_bucket(duration, times);
        add_served(service, span);
    }
    match own {
        Some(own) => add_own(service, span, own),
        None => service.let_go += weight,
    }
}

/// What only a request that was let in says.
fn add_served(service: &mut ServiceWindow, span: &Span) {
    service.busy_ns += span.duration_ns as f64 * f64::from(span.weight);
    if let Some(wait) = span.queue_wait_ns.get() {
        service.proxy_wait_ms.push(wait as f64 / 1e6, span.weight);
    }
    service.slowest = service.slowest.max(Some((span.duration_ns, span.trace)));
}

/// What only one says whose calls are known.
fn add_own(service: &mut ServiceWindow, span: &Span, own: Own) {
    service.known_calls.add(span.weight);
    if span.error && !own.call_failed && !span.shed && !span.abandoned {
        service.own_errors += u64::from(span.weight);
    }
    if !span.shed {
        let held_ns = span.duration_ns - span.queue_wait_ns.or_zero();
        service.own_ms.push(own.ns as f64 / 1e6, span.weight);
        service.downstream_ms.push((held_ns - own.ns).max(0) as f64 / 1e6, span.weight);
    }
}

fn add_to_instance(instance: &mut InstanceWindow, span: &Span, own: Option<Own>) {
    instance.requests += u64::from(span.weight);
    instance.errors += if span.error { u64::from(span.weight) } else { 0 };
    if let Some(own) = own.filter(|_| !span.shed) {
        instance.served.add(span.weight);
        instance.own_ms.add_many(own.ns as f64 / 1e6, i64::from(span.weight));
    }
}

/// The value of a key, or of `other` when it is new and there are too many.
fn bounded<K: Ord, V: Default>(map: &mut BTreeMap<K, V>, key: K, other: K, bound: usize) -> &mut V {
    let full = map.len() >= bound && !map.contains_key(&key);
    map.entry(if full { other } else { key }).or_default()
}

#[cfg(test)]
mod tests;
