//! Where requests go: endpoints, which of them are well, and which of those the next request gets.
//!
//! The set of endpoints is swapped whole, so that discovery changes it under traffic: a request keeps
//! the endpoint it picked until it ends, whether or not the set still holds it.

mod affinity;
mod balance;
mod budget;
mod deal;
mod endpoint;
mod ewma;
mod outlier;
mod rest;
mod ring;
mod view;

use std::{
    num::NonZeroU32,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::time::{Duration, Instant};
use weir_policy::ConcurrencyLimit;

use crate::{
    config::{self, Locality, Protocol},
    regulate::{Admission, Ask, Circuit, Gate, Refusal},
    security::{ClientTls, Peer},
};

pub(crate) use affinity::Affinity;
pub(crate) use budget::RetryPermit;
pub(crate) use deal::Deal;
pub(crate) use endpoint::{Endpoint, EndpointStats, Pick};
pub(crate) use outlier::Verdict;
use {budget::Budget, outlier::Detector, view::View};

/// Interchangeable endpoints.
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// What policies and spans call it.
    pub(crate) service: String,
    /// Which part or version of the service it is, where it is not all of it.
    pub(crate) subset: Option<String>,
    /// Whose models it serves, if it is known to.
    pub(crate) gen_ai_provider: Option<Arc<str>>,
    pub(crate) protocol: Protocol,
    pub(crate) circuit: Arc<Circuit>,
    pub(crate) tls: Option<Arc<ClientTls>>,
    pub(crate) connect_timeout: Option<Duration>,
    pub(crate) pool_idle: Option<Duration>,
    pub(crate) sends_peer: bool,
    pub(crate) sends_via: bool,
    /// How often a shared connection with requests under way is asked whether it lives.
    pub(crate) ping: Option<Duration>,
    /// How many requests a connection carries.
    pub(crate) requests_per_connection: u32,
    /// The connections, when they are bounded.
    connections: Option<Arc<Gate>>,
    /// What its endpoints come from, for people.
    pub(crate) source: &'static str,
    /// Since when that cannot be asked.
    pub(crate) failing_since: Arc<Mutex<Option<Instant>>>,
    config: config::Upstream,
    own_locality: Option<Locality>,
    hash_on: Option<affinity::HashKey>,
    budget: Budget,
    detector: Option<Detector>,
    view: ArcSwap<View>,
    /// One change of the view at a time.
    changing: Mutex<()>,
}

impl Upstream {
    /// Without endpoints: they come by [`Self::update`], listed or found.
    pub(crate) fn new(
        config: &config::Upstream,
        own_locality: Option<&Locality>,
        threads: usize,
        tls: Option<Arc<ClientTls>>,
    ) -> Self {
        let reused = config.max_connections.is_none() || threads == 1;
        let most = config.max_requests_per_connection.map_or(u32::MAX, NonZeroU32::get);
        Self {
            name: config.name.clone(),
            service: config.service().to_owned(),
            subset: subset(config),
            gen_ai_provider: None,
            protocol: config.protocol,
            circuit: Arc::default(),
            tls,
            pool_idle: config.pool_idle_ms.map(Duration::from_millis),
            sends_peer: config.send_peer.unwrap_or(true),
            sends_via: config.send_via.unwrap_or(true),
            ping: config.ping_ms.map(Duration::from_millis),
            requests_per_connection: if reused { most } else { 1 },
            connections: config.max_connections.map(|limit| Arc::new(Gate::of(connection_limit(limit, config)))),
            connect_timeout: config.connect_timeout_ms.map(Duration::from_millis),
            source: config.source(),
            failing_since: Arc::default(),
            own_locality: own_locality.filter(|_| config.prefer_local).cloned(),
            hash_on: affinity::HashKey::of(&config.balance),
            budget: Budget::new(config.retry_budget),
            detector: config.outlier_detection.map(Detector::new),
            view: ArcSwap::from_pointee(View::default()),
            changing: Mutex::new(()),
            config: config.clone(),
        }
    }

    /// Shares what is known of the same upstream before a reload: its breaker, its endpoints, and who is on the way.
    pub(crate) fn known_by(mut self, known: &Self, ids: &AtomicUsize) -> Self {
        self.circuit = known.circuit.clone();
        self.budget.goes_on_from(&known.budget);
        if self.config.discover == known.config.discover {
            self.failing_since = known.failing_since.clone();
        }
        if let (Some(limit), Some(connections)) = (self.config.max_connections, &known.connections) {
            connections.hold_to(connection_limit(limit, &self.config));
            self.connections = Some(connections.clone());
        }
        self.part_of(known, ids)
    }

    /// Shares the endpoints of `known` that it takes. Where TLS is another they are new ones, because connections that
    /// are kept are not what is asked for now.
    pub(crate) fn part_of(self, known: &Self, ids: &AtomicUsize) -> Self {
        // as it is compiled, for a part may have it from its whole
        let asked = |upstream: &Self| upstream.tls.as_ref().map(|tls| tls.asked().clone());
        let (now, as_before) = (Instant::now(), asked(&self) == asked(known));
        let renewed = |old: &Endpoint| Arc::new(Endpoint::new(ids.fetch_add(1, Relaxed), old.spec.clone(), now));
        let endpoints = known.endpoints().into_iter().filter(|endpoint| self.takes(&endpoint.spec));
        let endpoints = endpoints.map(|endpoint| if as_before { endpoint } else { renewed(&endpoint) }).collect();
        self.show(endpoints, now);
        self
    }

    /// Replaces the endpoints; one that stays as it was keeps what is known of it. Tells whether one went.
    pub(crate) fn update(&self, specs: &[config::Endpoint], ids: &AtomicUsize, now: Instant) -> bool {
        let _changing = self.changing.lock();
        let old = self.view.load();
        let endpoint = |spec: &config::Endpoint| {
            let known = old.endpoints().iter().find(|known| known.spec == *spec).cloned();
            known.unwrap_or_else(|| Arc::new(Endpoint::new(ids.fetch_add(1, Relaxed), spec.clone(), now)))
        };
        let endpoints: Vec<Arc<Endpoint>> = specs.iter().filter(|spec| self.takes(spec)).map(endpoint).collect();
        let went = old.endpoints().iter().any(|known| !endpoints.iter().any(|kept| kept.id == known.id));
        self.show(endpoints, now);
        went
    }

    /// An endpoint for a request; `tried` are the ids of those that failed it already.
    pub(crate) fn pick(self: &Arc<Self>, hash: Option<u64>, tried: &[usize], now: Instant) -> Option<Pick> {
        let mut view = self.view.load();
        if view.is_outdated(now) {
            self.look_again(now);
            view = self.view.load();
        }
        let endpoint = view.choose(&self.config.balance, hash, tried, now)?.clone();
        Some(Pick::of(self.clone(), endpoint))
    }

    /// Takes note of how an attempt at an endpoint ended; one that fails again and again is left out.
    pub(crate) fn observe(&self, endpoint: &Endpoint, verdict: Verdict, now: Instant) {
        let Some(detector) = &self.detector else { return };
        if !endpoint.health.trips(verdict, detector) {
            return;
        }
        let _changing = self.changing.lock();
        let view = self.view.load();
        let out = view.endpoints().iter().filter(|other| other.health.is_ejected(now)).count();
        if detector.allows_one_more(out, view.endpoints().len()) {
            endpoint.health.eject(detector, now);
            tracing::warn!(upstream = self.name, endpoint = endpoint.spec.address, "endpoint ejected");
            self.show(view.endpoints().to_vec(), now);
        }
    }

    /// Whether who is at the other end of a kept connection would be believed now.
    pub(crate) fn believes(&self, peer: Option<&Peer>) -> bool {
        match (&self.tls, peer) {
            (Some(tls), Some(peer)) => tls.believes(peer),
            (tls, peer) => tls.is_none() && peer.is_none(),
        }
    }

    /// A place for one more retry, if the budget has one.
    pub(crate) fn retry_permit(self: &Arc<Self>) -> Option<RetryPermit> {
        RetryPermit::take(self, &self.budget, self.in_flight())
    }

    /// Whether one more request may be sent.
    pub(crate) fn has_room(&self) -> bool {
        self.config.max_requests.is_none_or(|max| self.in_flight() < max.get())
    }

    /// A place for a request whose connections are bounded, at once or when one becomes free.
    pub(crate) async fn enter(&self, ask: Ask) -> Result<Option<Admission>, Refusal> {
        let Some(connections) = &self.connections else { return Ok(None) };
        connections.admit(ask).await.map(Some).map_err(|_| Refusal::UpstreamOverflow)
    }

    /// Whether a request may have to wait for a connection.
    pub(crate) fn is_bounded(&self) -> bool {
        self.connections.is_some()
    }

    pub(crate) fn endpoints(&self) -> Vec<Arc<Endpoint>> {
        self.view.load().endpoints().to_vec()
    }

    /// Whether its endpoints are found rather than listed.
    pub(crate) fn is_looked_for(&self) -> bool {
        self.config.discover.is_some()
    }

    /// The upstream whose endpoints it shares, if it is a part of one.
    pub(crate) fn parent(&self) -> Option<&str> {
        self.config.subset_of.as_ref().map(|subset| subset.upstream.as_str())
    }

    /// What picks an endpoint by the request, when the balance asks for that.
    pub(crate) fn hash_on(&self) -> Option<&affinity::HashKey> {
        self.hash_on.as_ref()
    }

    fn in_flight(&self) -> u32 {
        self.view.load().endpoints().iter().map(|endpoint| endpoint.in_flight.load(Relaxed)).sum()
    }

    fn takes(&self, spec: &config::Endpoint) -> bool {
        let wanted = self.config.subset_of.iter().flat_map(|subset| &subset.labels);
        wanted.into_iter().all(|(label, value)| spec.labels.get(label) == Some(value))
    }

    fn look_again(&self, now: Instant) {
        let _changing = self.changing.lock();
        self.show(self.view.load().endpoints().to_vec(), now);
    }

    fn show(&self, endpoints: Vec<Arc<Endpoint>>, now: Instant) {
        let panic_percent = self.config.panic_threshold_percent.unwrap_or(50);
        let ring = self.hash_on.is_some();
        let view = View::new(endpoints, self.own_locality.as_ref(), panic_percent, ring, now);
        self.view.store(Arc::new(view));
    }
}

/// As the destination rule calls it, or as the file does.
fn subset(config: &config::Upstream) -> Option<String> {
    let whole = config.subset_of.as_ref().map(|subset| subset.upstream.as_str());
    let part = whole.and_then(|whole| config.name.strip_prefix(whole)?.strip_prefix('/'));
    (config.name != config.service()).then(|| part.unwrap_or(&config.name).to_owned())
}

/// Whoever waits for a connection does so until the request itself stops making sense.
fn connection_limit(limit: NonZeroU32, config: &config::Upstream) -> ConcurrencyLimit {
    /// As in Envoy.
    const PENDING: u32 = 1_024;
    /// A day: the request's own deadline comes first.
    const LONGEST_WAIT_MS: u64 = 86_400_000;
    let queue = config.max_pending_requests.unwrap_or(PENDING);
    ConcurrencyLimit { limit, queue, queue_timeout_ms: LONGEST_WAIT_MS }
}

#[cfg(test)]
mod tests;
