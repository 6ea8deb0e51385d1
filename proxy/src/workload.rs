//! [`Workload`]: the configuration compiled into what requests touch; shared by all threads.
//!
//! Routes and upstreams are fixed until the configuration is read again; the endpoints of an upstream are swapped as a whole. Limits,
//! breakers and counts are state beside them, so a policy changes a number and nothing is compiled again.

mod compile;

use std::{
    borrow::Cow,
    collections::HashSet,
    env, fs,
    net::{IpAddr, SocketAddr},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU32, AtomicUsize, Ordering::Relaxed},
    },
};

use arc_swap::ArcSwap;
use http::{HeaderName, Request};
use parking_lot::Mutex;
use tokio::{sync::watch, time::Instant};
use weir_policy::{Policy, PolicySet};

use crate::{
    config::{self, Config, Connect, Direction, Forwarded, Http, ListenerProtocol, Propagation, Timeouts},
    counters::{Tally, nanos},
    memory::Memory,
    path::as_routed,
    regulate::{Gate, Latencies},
    routing::Route,
    security::Security,
    sockets::ListenerKey,
    telemetry::{LmStats, Wanted},
    traffic::{Believed, Sampler, Via},
    upstream::Upstream,
    workload::compile::{Listeners, listeners, upstreams},
};

/// The proxy as requests see it.
pub(crate) struct Workload {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) servers: Option<u32>,
    pub(crate) listeners: Vec<Vec<Arc<Route>>>,
    /// What each listener takes, in the same order.
    pub(crate) accepts: Vec<Accepts>,
    /// Of each direction that there is.
    unmatched: Vec<Arc<Route>>,
    pub(crate) http: Http,
    pub(crate) max_connections: usize,
    max_connections_per_client: Option<usize>,
    /// What the process may have, if the file says so.
    pub(crate) max_memory_bytes: Option<u64>,
    pub(crate) memory: Arc<Memory>,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) sampler: Sampler,
    /// Whom records are for.
    pub(crate) wanted: Wanted,
    /// The limits of the service as a whole, at its inbound listeners.
    pub(crate) gate: Arc<Gate>,
    /// Who is believed about priorities.
    pub(crate) priority_header: Option<HeaderName>,
    /// What the local limiter steers by, and what it allows; 0 for no limit.
    pub(crate) latencies: Arc<Latencies>,
    pub(crate) local_limit: Arc<AtomicU32>,
    pub(crate) lm_stats: Arc<LmStats>,
    /// Moves with every word of the control plane.
    pub(crate) policy_news: Arc<watch::Sender<Option<Instant>>>,
    pub(crate) tally: Arc<Tally>,
    /// Whether the newest configuration is not this one, because it was refused.
    pub(crate) config_refused: Arc<AtomicBool>,
    /// Who may connect and what requests may do.
    pub(crate) security: Security,
    /// In which forms traces are continued.
    pub(crate) propagation: Vec<Propagation>,
    /// Where what is enforced came from, and when.
    pub(crate) origin: Arc<Mutex<(Origin, Instant)>>,
    /// What is enforced now; the gates and circuits hold its numbers.
    pub(crate) applied: ArcSwap<PolicySet>,
    static_policy: PolicySet,
    endpoint_ids: Arc<AtomicUsize>,
    /// How often endpoints went; the connection pools of the data threads follow it.
    pub(crate) endpoint_changes: Arc<AtomicUsize>,
}

/// The workload in force, for those who outlive it.
pub(crate) type Current = Arc<ArcSwap<Workload>>;

/// What a listener takes besides requests that match a route.
pub(crate) struct Accepts {
    pub(crate) key: ListenerKey,
    pub(crate) protocol: ListenerProtocol,
    pub(crate) connect: Connect,
    /// Where plain TCP goes.
    pub(crate) tcp: Option<Arc<Route>>,
    /// What this listener adds to `Via`, by which it knows a request that comes round again.
    pub(crate) via: Via,
    /// Whose word counts on who calls.
    pub(crate) believed: Believed,
    /// What the application is told of the client.
    pub(crate) forwarded: Forwarded,
    /// How many proxies before it say whom a request is from.
    pub(crate) trusted_hops: u32,
    /// What requests are booked on that no route takes, one for all listeners of a direction.
    pub(crate) unmatched: Arc<Route>,
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
        let instance = config.instance.clone().unwrap_or_else(|| instance_at(first));
        let workload = Self::compile(config, instance, tally, security, None);
        workload.apply(Arc::new(workload.static_policy.clone()));
        workload
    }

    fn succeeded_by(&self, config: &Config, security: Security) -> Self {
        let after = Self::compile(config, self.instance.clone(), self.tally.clone(), security, Some(self));
        after.inherit_policy(self);
        // some endpoints may have gone with the old configuration
        after.endpoint_changes.fetch_add(1, Relaxed);
        after
    }

    /// Enforces what `before` does; the static limits, though, are its own.
    fn inherit_policy(&self, before: &Self) {
        let set = before.applied.load_full();
        if set.policies == before.static_policy.policies {
            self.apply(Arc::new(PolicySet { sequence: set.sequence, ..self.static_policy.clone() }));
        } else {
            self.apply(set);
        }
    }

    fn compile(
        config: &Config,
        instance: String,
        tally: Arc<Tally>,
        security: Security,
        before: Option<&Self>,
    ) -> Self {
        let endpoint_ids = shared(before, |before| &before.endpoint_ids);
        let upstreams = upstreams(config, &security, before, &endpoint_ids);
        let Listeners { listeners, accepts, unmatched } = listeners(config, &upstreams, before);
        let workload = Self {
            service: config.service.clone(),
            instance,
            servers: config.servers,
            listeners,
            accepts,
            unmatched,
            http: config.http,
            max_connections: config.max_connections,
            max_connections_per_client: config.max_connections_per_client,
            max_memory_bytes: config.max_memory_mib.map(|mib| u64::from(mib.get()) << 20),
            memory: shared(before, |before| &before.memory),
            upstreams,
            timeouts: config.timeouts,
            sampler: Sampler::new(config.telemetry.span_ratio),
            wanted: Wanted::new(&config.telemetry),
            gate: shared(before, |before| &before.gate),
            priority_header: config.limits.priority_header.as_ref().and_then(|name| name.parse().ok()),
            latencies: shared(before, |before| &before.latencies),
            local_limit: shared(before, |before| &before.local_limit),
            lm_stats: shared(before, |before| &before.lm_stats),
            policy_news: shared(before, |before| &before.policy_news),
            tally,
            config_refused: shared(before, |before| &before.config_refused),
            security,
            propagation: config.telemetry.propagation.clone(),
            origin: before
                .map_or_else(|| Arc::new(Mutex::new((Origin::Static, Instant::now()))), |before| before.origin.clone()),
            applied: ArcSwap::default(),
            static_policy: config.static_policy(),
            endpoint_ids,
            endpoint_changes: shared(before, |before| &before.endpoint_changes),
        };
        for upstream in config.upstreams.iter().filter(|upstream| !upstream.endpoints.is_empty()) {
            workload.publish(&upstream.name, &upstream.endpoints);
        }
        workload
    }

    /// Enforces `set`; what it does not mention, limit by limit, is held to the static configuration.
    pub(crate) fn apply(&self, set: Arc<PolicySet>) {
        let of_service = |name: &str| over(set.for_service(name), self.static_policy.for_service(name));
        self.gate.set(of_service(&self.service).as_deref());
        for upstream in &self.upstreams {
            upstream.circuit.set(breaker(of_service(&upstream.service).as_deref()));
        }
        for route in self.routes() {
            let regulated = match route.direction {
                Direction::Inbound => Some(self.service.as_str()),
                Direction::Outbound => route.callee(),
            };
            let policy = regulated.and_then(|service| set.for_route(service, &route.name));
            let (inbound, own) = (route.direction == Direction::Inbound, route.static_policy.as_ref());
            route.gate.set(over(policy.filter(|_| inbound), own).as_deref());
            route.circuit.set(breaker(over(policy.filter(|_| !inbound), own).as_deref()));
        }
        self.applied.store(set);
    }

    /// Enforces `set` in the workload in force, and keeps in mind where it came from.
    pub(crate) fn enforce(current: &Current, origin: Origin, set: Arc<PolicySet>) {
        Self::regulate(current, origin, |_| set);
    }

    /// Falls back to the static configuration; never to "unlimited".
    pub(crate) fn decay(current: &Current) {
        let numbered = |workload: &Self| {
            let sequence = workload.applied.load().sequence;
            Arc::new(PolicySet { sequence, ..workload.static_policy.clone() })
        };
        Self::regulate(current, Origin::Decayed, numbered);
    }

    /// A reload takes the same lock: it can neither miss a set nor put an older one back.
    fn regulate(current: &Current, origin: Origin, set: impl FnOnce(&Self) -> Arc<PolicySet>) {
        let known = current.load().origin.clone();
        let mut known = known.lock();
        let workload = current.load();
        workload.apply(set(&workload));
        *known = (origin, Instant::now());
    }

    /// Puts what follows this configuration in force: same process, other routes. What is known of routes, upstreams and
    /// endpoints that stay is shared, and so is the policy.
    pub(crate) fn succeed(current: &Current, config: &Config, security: Security) -> Arc<Self> {
        let before = current.load_full();
        let _nobody_regulates = before.origin.lock();
        let after = Arc::new(before.succeeded_by(config, security));
        current.store(after.clone());
        after
    }

    /// How long one who came to the service now would wait, as far as is known.
    pub(crate) fn expected_wait_ns(&self) -> u64 {
        self.gate.expected_wait().map_or(0, nanos)
    }

    /// What the local limiter allows; 0 for no limit.
    pub(crate) fn local_limit(&self) -> u64 {
        u64::from(self.local_limit.load(Relaxed))
    }

    /// How many connections `client` may have open on a thread. Half of all, unless the file says otherwise: one that goes
    /// astray then leaves room for the others. From this machine all of them: there the workload is the only client.
    pub(crate) fn connections_of(&self, client: IpAddr) -> usize {
        let unsaid = if client.is_loopback() { self.max_connections } else { self.max_connections.div_ceil(2) };
        self.max_connections_per_client.unwrap_or(unsaid)
    }

    /// Whether another machine can connect to any of its listeners.
    pub(crate) fn is_reachable(&self) -> bool {
        self.accepts.iter().any(|accepts| !accepts.key.address.ip().is_loopback())
    }

    /// Every route of every listener.
    pub(crate) fn routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let tcp = self.accepts.iter().filter_map(|accepts| accepts.tcp.as_ref());
        self.listeners.iter().flatten().chain(tcp).chain(&self.unmatched)
    }

    /// One of each name and direction, for all that are counted together.
    pub(crate) fn counted_routes(&self) -> impl Iterator<Item = &Arc<Route>> {
        let mut seen = HashSet::new();
        self.routes().filter(move |route| seen.insert(Arc::as_ptr(&route.stats)))
    }

    /// Requests in flight at the routes that are counted with this one, and those that wait.
    pub(crate) fn load_of(&self, route: &Route) -> (u32, u32) {
        let together = self.routes().filter(|other| Arc::ptr_eq(&other.stats, &route.stats));
        together.map(|route| route.gate.load()).fold((0, 0), |(a, b), (c, d)| (a + c, b + d))
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
        let path = as_routed(request.uri().path());
        self.listeners[listener].iter().find(|route| route.accepts(request, &path)).cloned()
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

/// What is known since before, or nothing yet.
fn shared<T: Default>(before: Option<&Workload>, of: impl Fn(&Workload) -> &Arc<T>) -> Arc<T> {
    before.map(|before| of(before).clone()).unwrap_or_default()
}

/// What `said` says, and `file` where it says nothing.
fn over<'a>(said: Option<&'a Policy>, file: Option<&'a Policy>) -> Option<Cow<'a, Policy>> {
    match (said, file) {
        (Some(said), Some(file)) => Some(Cow::Owned(said.or(file))),
        (said, file) => said.or(file).map(Cow::Borrowed),
    }
}

fn breaker(policy: Option<&Policy>) -> Option<weir_policy::Breaker> {
    policy.and_then(|p| p.breaker)
}
/// What tells a replica whose first listener is at `first` from others: its address, or where other machines have the same one
/// (all of theirs, or loopback, as in every pod) the machine's name instead.
fn instance_at(first: SocketAddr) -> String {
    let name = || fs::read_to_string("/proc/sys/kernel/hostname").ok().or_else(|| env::var("HOSTNAME").ok());
    let anywhere = first.ip().is_unspecified() || first.ip().is_loopback();
    match anywhere.then(name).flatten() {
        Some(name) if !name.trim().is_empty() => format!("{}:{}", name.trim(), first.port()),
        _ => first.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// All replicas of a deployment had the name `0.0.0.0:8080`, and were taken for one; so
    /// were those whose first listener is for their workload alone, at `127.0.0.1:15001`.
    #[test]
    fn a_replica_that_listens_where_others_do_has_the_name_of_its_machine() {
        assert_eq!(instance_at("10.1.2.3:8080".parse().unwrap()), "10.1.2.3:8080");
        for everywhere in ["0.0.0.0:8080", "[::]:8080", "127.0.0.1:8080", "[::1]:8080"] {
            let name = instance_at(everywhere.parse().unwrap());
            let (host, port) = name.rsplit_once(':').unwrap();
            assert!(!host.is_empty() && !everywhere.starts_with(host) && port == "8080", "{name}");
        }
    }
}
