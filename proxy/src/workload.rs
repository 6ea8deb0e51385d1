//! [`Workload`]: the configuration compiled into what requests touch; shared by all threads.
//!
//! Routes and upstreams are fixed at start; the endpoints of an upstream are swapped as a whole. Limits,
//! breakers and counts are state beside them, so a policy changes a number and nothing is compiled again.

use std::{
    collections::{HashMap, HashSet},
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use http::{HeaderName, Request};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use weir_policy::{Policy, PolicySet};

use crate::{
    config::{self, Config, Direction, Propagation, Timeouts},
    counters::Tally,
    regulate::{Gate, Latencies},
    routing::{Route, Standing},
    security::Security,
    telemetry::LmStats,
    upstream::Upstream,
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
    /// Who is believed about priorities.
    pub(crate) priority_header: Option<HeaderName>,
    /// What the local limiter steers by, and what it allows; 0 for no limit.
    pub(crate) latencies: Latencies,
    pub(crate) local_limit: AtomicU32,
    pub(crate) lm_stats: LmStats,
    /// Moves with every word of the control plane.
    pub(crate) policy_news: watch::Sender<Option<Instant>>,
    pub(crate) tally: Arc<Tally>,
    /// Who may connect and what requests may do.
    pub(crate) security: Security,
    /// In which forms traces are continued.
    pub(crate) propagation: Vec<Propagation>,
    /// Where what is enforced came from, and when.
    pub(crate) origin: Mutex<(Origin, Instant)>,
    /// What is enforced now; the gates and circuits hold its numbers.
    pub(crate) applied: ArcSwap<PolicySet>,
    static_policy: PolicySet,
    endpoint_ids: AtomicUsize,
    /// How often endpoints went; the connection pools of the data threads follow it.
    pub(crate) endpoint_changes: AtomicUsize,
}

/// Where the limits in force come from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    Static,
    Disk,
    ControlPlane,
    /// The policy had its time to live without news: the static limits hold again.
    Decayed,
}

impl Workload {
    /// Compiles `config`; `first` is the address of the first listener.
    pub(crate) fn new(config: &Config, first: SocketAddr, tally: Arc<Tally>, security: Security) -> Self {
        let endpoint_ids = AtomicUsize::new(0);
        let threads = config.thread_count();
        let upstream = |(index, u)| {
            let tls = security.client_tls(index).cloned();
            Arc::new(Upstream::new(u, config.locality.as_ref(), threads, tls))
        };
        let upstreams: Vec<Arc<Upstream>> = config.upstreams.iter().enumerate().map(upstream).collect();
        let by_name: HashMap<&str, &Arc<Upstream>> = upstreams.iter().map(|u| (u.name.as_str(), u)).collect();
        let listeners = config.listeners.iter().map(|listener| {
            let routes = listener.routes.iter().map(|route| {
                let upstream = |name: &str| (*by_name.get(name).expect("validated: the upstream exists")).clone();
                let (service, timeout) = (config.service.as_str(), config.timeouts.response());
                let compiled =
                    Route::new(route, Standing { service, direction: listener.direction, timeout }, upstream);
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
            priority_header: config.limits.priority_header.as_ref().and_then(|name| name.parse().ok()),
            latencies: Latencies::default(),
            local_limit: AtomicU32::new(0),
            lm_stats: LmStats::default(),
            policy_news: watch::Sender::new(None),
            tally,
            security,
            propagation: config.telemetry.propagation.clone(),
            origin: Mutex::new((Origin::Static, Instant::now())),
            applied: ArcSwap::default(),
            static_policy: config.static_policy(),
            endpoint_ids,
            endpoint_changes: AtomicUsize::new(0),
        };
        for upstream in config.upstreams.iter().filter(|upstream| upstream.subset_of.is_none()) {
            workload.publish(&upstream.name, &upstream.endpoints);
        }
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
            let (inbound, own) = (route.direction == Direction::Inbound, route.static_policy.as_ref());
            route.gate.set(policy.filter(|_| inbound).or(own));
            route.circuit.set(breaker(policy.filter(|_| !inbound).or(own)));
        }
        self.applied.store(set);
    }

    /// As [`Self::apply`], and keeps in mind where the set came from.
    pub(crate) fn apply_from(&self, origin: Origin, set: Arc<PolicySet>) {
        self.apply(set);
        *self.origin.lock() = (origin, Instant::now());
    }

    /// Falls back to the static configuration; never to "unlimited".
    pub(crate) fn decay(&self) {
        let numbered = PolicySet { sequence: self.applied.load().sequence, ..self.static_policy.clone() };
        self.apply_from(Origin::Decayed, Arc::new(numbered));
    }

    /// How long one who came to the service now would wait, as far as is known.
    pub(crate) fn expected_wait_ns(&self) -> u64 {
        self.gate.expected_wait().map_or(0, |wait| u64::try_from(wait.as_nanos()).unwrap_or(u64::MAX))
    }

    /// What the local limiter allows; 0 for no limit.
    pub(crate) fn local_limit(&self) -> u64 {
        u64::from(self.local_limit.load(Relaxed))
    }

    /// Every route of every listener.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        self.listeners.iter().flatten()
    }

    /// Replaces the endpoints of an upstream and of its subsets. Requests under way at one that goes finish there.
    pub(crate) fn publish(&self, name: &str, endpoints: &[config::Endpoint]) {
        let now = Instant::now();
        let concerned =
            self.upstreams.iter().filter(|upstream| upstream.name == name || upstream.parent() == Some(name));
        let went = concerned.filter(|upstream| upstream.update(endpoints, &self.endpoint_ids, now)).count();
        self.endpoint_changes.fetch_add(went, Relaxed);
    }

    /// The endpoints that are there.
    pub(crate) fn endpoint_ids(&self) -> HashSet<usize> {
        self.upstreams.iter().flat_map(|upstream| upstream.endpoints()).map(|endpoint| endpoint.id).collect()
    }

    /// The first route of a listener that matches.
    pub(crate) fn route<B>(&self, listener: usize, request: &Request<B>) -> Option<Arc<Route>> {
        self.listeners[listener].iter().find(|route| route.accepts(request)).cloned()
    }
}

impl Origin {
    /// As `/policy` shows it.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Static => "static",
            Self::Disk => "disk",
            Self::ControlPlane => "control_plane",
            Self::Decayed => "decayed",
        }
    }
}

fn breaker(policy: Option<&Policy>) -> Option<weir_policy::Breaker> {
    policy.and_then(|p| p.breaker)
}
