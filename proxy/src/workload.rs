//! [`Workload`]: the configuration compiled into what requests touch; shared by all threads.
//!
//! Routes, upstreams and endpoints are fixed at start. Limits, breakers and counts are state beside
//! them, so a policy changes a number and nothing is compiled again.

use std::{
    collections::HashMap,
    net::SocketAddr,
    sync::{Arc, atomic::AtomicU32},
    time::Duration,
};

use arc_swap::ArcSwap;
use http::Request;
use parking_lot::Mutex;
use tokio::time::Instant;
use weir_policy::{Policy, PolicySet};

use crate::{
    config::{Config, Direction, Protocol, Timeouts},
    counters::Tally,
    regulate::{Circuit, Gate},
    routing::Route,
    telemetry::SpanSender,
    traffic::PeakEwma,
};

/// The proxy as requests see it.
pub(crate) struct Workload {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) servers: Option<u32>,
    pub(crate) listeners: Vec<Vec<Arc<Route>>>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) span_ratio: f64,
    /// The limits of the service as a whole, at its inbound listeners.
    pub(crate) gate: Gate,
    pub(crate) tally: Arc<Tally>,
    pub(crate) spans: Option<SpanSender>,
    /// What is enforced now; the gates and circuits hold its numbers.
    pub(crate) applied: ArcSwap<PolicySet>,
    static_policy: PolicySet,
}

/// Interchangeable endpoints.
pub(crate) struct Upstream {
    pub(crate) name: String,
    /// What policies and spans call it.
    pub(crate) service: String,
    pub(crate) protocol: Protocol,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) circuit: Circuit,
}

/// One address of an upstream and what is known of it.
pub(crate) struct Endpoint {
    /// Its place among all endpoints of the proxy: the key of the connection pools.
    pub(crate) id: usize,
    pub(crate) address: String,
    pub(crate) in_flight: AtomicU32,
    pub(crate) latency: Mutex<PeakEwma>,
}

impl Workload {
    /// Compiles `config`; `first` is the address of the first listener.
    pub(crate) fn new(config: &Config, first: SocketAddr, tally: Arc<Tally>, spans: Option<SpanSender>) -> Self {
        let upstreams = upstreams(config);
        let by_name: HashMap<&str, &Arc<Upstream>> = upstreams.iter().map(|u| (u.name.as_str(), u)).collect();
        let listeners = config.listeners.iter().map(|listener| {
            let routes = listener.routes.iter().map(|route| {
                let upstream = |name: &str| (*by_name.get(name).expect("validated: the upstream exists")).clone();
                let timeout = route.timeout_ms.map_or(config.timeouts.response(), Duration::from_millis);
                let compiled = Route::new(route, listener.direction, timeout, upstream);
                Arc::new(compiled.expect("validated: the route compiles"))
            });
            routes.collect()
        });
        let workload = Self {
            service: config.service.clone(),
            instance: config.instance.clone().unwrap_or_else(|| first.to_string()),
            servers: config.servers,
            listeners: listeners.collect(),
            upstreams,
            timeouts: config.timeouts,
            span_ratio: config.telemetry.span_ratio,
            gate: Gate::default(),
            tally,
            spans,
            applied: ArcSwap::default(),
            static_policy: config.static_policy(),
        };
        workload.apply(Arc::new(workload.static_policy.clone()));
        workload
    }

    /// Enforces `set`; what it does not mention is held to the static configuration.
    pub(crate) fn apply(&self, set: Arc<PolicySet>) {
        let of_service = |name: &str| set.for_service(name).or_else(|| self.static_policy.for_service(name));
        self.gate.set(of_service(&self.service));
        for upstream in &self.upstreams {
            upstream.circuit.set(breaker(of_service(&upstream.service)));
        }
        for route in self.routes() {
            let regulated = match route.direction {
                Direction::Inbound => Some(self.service.as_str()),
                Direction::Outbound => route.callee(),
            };
            let policy = regulated.and_then(|service| set.for_route(service, &route.name));
            route.gate.set(policy.filter(|_| route.direction == Direction::Inbound));
            route.circuit.set(breaker(policy.filter(|_| route.direction == Direction::Outbound)));
        }
        self.applied.store(set);
    }

    /// Falls back to the static configuration; never to "unlimited".
    pub(crate) fn decay(&self) {
        let numbered = PolicySet { sequence: self.applied.load().sequence, ..self.static_policy.clone() };
        self.apply(Arc::new(numbered));
    }

    /// Every route of every listener.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.listeners.iter().flatten()
    }

    /// How many endpoints there are.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.upstreams.iter().map(|u| u.endpoints.len()).sum()
    }

    /// The first route of a listener that matches.
    pub(crate) fn route<B>(&self, listener: usize, request: &Request<B>) -> Option<Arc<Route>> {
        self.listeners[listener].iter().find(|route| route.accepts(request)).cloned()
    }
}

fn breaker(policy: Option<&Policy>) -> Option<weir_policy::Breaker> {
    policy.and_then(|p| p.breaker)
}

fn upstreams(config: &Config) -> Vec<Arc<Upstream>> {
    let mut ids = 0..;
    let endpoint = |address: &String| Endpoint {
        id: ids.next().expect("a range without end"),
        address: address.clone(),
        in_flight: AtomicU32::new(0),
        latency: Mutex::new(PeakEwma::new(Instant::now())),
    };
    let mut endpoint = endpoint;
    let upstream = |u: &crate::config::Upstream| {
        let endpoints = u.endpoints.iter().map(&mut endpoint).collect();
        let (name, protocol) = (u.name.clone(), u.protocol);
        let service = u.service().to_owned();
        Arc::new(Upstream { name, service, protocol, endpoints, circuit: Circuit::default() })
    };
    config.upstreams.iter().map(upstream).collect()
}
