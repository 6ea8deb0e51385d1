//! [`Workload`]: the configuration compiled into what requests touch; shared by all threads.
//!
//! Routes, upstreams and endpoints are fixed until the configuration is read again. Limits, breakers and counts are state beside
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
    config::{Config, Connect, Direction, Http, ListenerProtocol, Match, Protocol, Timeouts},
    counters::Tally,
    regulate::{Circuit, Gate},
    sockets::{ListenerKey, listener_keys},
    telemetry::{RouteStats, SpanSender},
    traffic::{PeakEwma, Via},
};

/// The proxy as requests see it.
pub(crate) struct Workload {
    pub(crate) service: String,
    pub(crate) instance: String,
    pub(crate) servers: Option<u32>,
    pub(crate) listeners: Vec<Vec<Arc<Route>>>,
    /// What each listener takes, in the same order.
    pub(crate) accepts: Vec<Accepts>,
    pub(crate) http: Http,
    pub(crate) max_connections: usize,
    pub(crate) upstreams: Vec<Arc<Upstream>>,
    pub(crate) timeouts: Timeouts,
    pub(crate) span_ratio: f64,
    /// The limits of the service as a whole, at its inbound listeners.
    pub(crate) gate: Arc<Gate>,
    pub(crate) tally: Arc<Tally>,
    pub(crate) spans: Option<SpanSender>,
    /// What is enforced now; the gates and circuits hold its numbers.
    pub(crate) applied: ArcSwap<PolicySet>,
    static_policy: PolicySet,
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
}

/// One route of one listener.
pub(crate) struct Route {
    /// As configured, else the name of its upstream.
    pub(crate) name: String,
    pub(crate) direction: Direction,
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) timeout: Duration,
    pub(crate) gate: Arc<Gate>,
    pub(crate) circuit: Arc<Circuit>,
    pub(crate) stats: Arc<RouteStats>,
    matches: Match,
}

/// Interchangeable endpoints.
pub(crate) struct Upstream {
    pub(crate) name: String,
    pub(crate) protocol: Protocol,
    pub(crate) endpoints: Vec<Endpoint>,
    pub(crate) circuit: Arc<Circuit>,
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
        let instance = config.instance.clone().unwrap_or_else(|| first.to_string());
        let workload = Self::compile(config, instance, tally, spans, None);
        workload.apply(Arc::new(workload.static_policy.clone()));
        workload
    }

    /// Compiles what follows this one: same process, other routes. What is known of routes and upstreams
    /// that stay is shared with it, and so is the policy.
    pub(crate) fn succeeded_by(&self, config: &Config) -> Self {
        let after = Self::compile(config, self.instance.clone(), self.tally.clone(), self.spans.clone(), Some(self));
        after.inherit_policy(self);
        after
    }

    /// Enforces what `before` does; the static limits, though, are its own.
    pub(crate) fn inherit_policy(&self, before: &Self) {
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
        spans: Option<SpanSender>,
        before: Option<&Self>,
    ) -> Self {
        let upstreams = upstreams(config, before);
        let by_name: HashMap<&str, &Arc<Upstream>> = upstreams.iter().map(|u| (u.name.as_str(), u)).collect();
        let named = |name: &str| (*by_name.get(name).expect("validated: the upstream exists")).clone();
        let response = config.timeouts.response();
        let mut known: Vec<&Arc<Route>> = before.iter().flat_map(|before| before.routes()).collect();
        let (mut listeners, mut accepts) = (Vec::new(), Vec::new());
        for (key, listener) in listener_keys(config).into_iter().zip(&config.listeners) {
            let routes = listener.routes.iter().map(|route| {
                let timeout = route.timeout_ms.map_or(response, Duration::from_millis);
                let (name, upstream) = (route.name.clone(), named(&route.upstream));
                Route::new(name, listener.direction, upstream, timeout, route.matches.clone()).known_by(&mut known)
            });
            listeners.push(routes.collect());
            let tcp = listener.upstream.as_deref().map(|upstream| {
                let route = Route::new(None, listener.direction, named(upstream), response, Match::default());
                route.known_by(&mut known)
            });
            let via = Via::new(accepts.len());
            accepts.push(Accepts { key, protocol: listener.protocol, connect: listener.connect, tcp, via });
        }
        Self {
            service: config.service.clone(),
            instance,
            servers: config.servers,
            listeners,
            accepts,
            http: config.http,
            max_connections: config.max_connections,
            upstreams,
            timeouts: config.timeouts,
            span_ratio: config.telemetry.span_ratio,
            gate: before.map(|before| before.gate.clone()).unwrap_or_default(),
            tally,
            spans,
            applied: ArcSwap::default(),
            static_policy: config.static_policy(),
        }
    }

    /// Enforces `set`; what it does not mention is held to the static configuration.
    pub(crate) fn apply(&self, set: Arc<PolicySet>) {
        let of_service = |name: &str| set.for_service(name).or_else(|| self.static_policy.for_service(name));
        self.gate.set(of_service(&self.service));
        for upstream in &self.upstreams {
            upstream.circuit.set(breaker(of_service(&upstream.name)));
        }
        for route in self.routes() {
            let regulated = match route.direction {
                Direction::Inbound => &self.service,
                Direction::Outbound => &route.upstream.name,
            };
            let policy = set.for_route(regulated, &route.name);
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
        self.listeners.iter().flatten().chain(self.accepts.iter().filter_map(|a| a.tcp.as_ref()))
    }

    /// How many endpoints there are.
    pub(crate) fn endpoint_count(&self) -> usize {
        self.upstreams.iter().map(|u| u.endpoints.len()).sum()
    }

    /// The first route of a listener that matches.
    pub(crate) fn route<B>(&self, listener: usize, request: &Request<B>) -> Option<Arc<Route>> {
        self.listeners[listener].iter().find(|route| route.matches.accepts(request)).cloned()
    }
}

impl Route {
    fn new(
        name: Option<String>,
        direction: Direction,
        upstream: Arc<Upstream>,
        timeout: Duration,
        matches: Match,
    ) -> Self {
        Self {
            name: name.unwrap_or_else(|| upstream.name.clone()),
            direction,
            upstream,
            timeout,
            gate: Arc::default(),
            circuit: Arc::default(),
            stats: Arc::default(),
            matches,
        }
    }

    /// Shares limits, breaker and counts with the route of the same name before a reload, which no other
    /// may then have.
    fn known_by(mut self, known: &mut Vec<&Arc<Self>>) -> Arc<Self> {
        let same = |route: &&Arc<Self>| route.name == self.name && route.direction == self.direction;
        if let Some(at) = known.iter().position(same) {
            let route = known.remove(at);
            self.gate = route.gate.clone();
            self.circuit = route.circuit.clone();
            self.stats = route.stats.clone();
        }
        Arc::new(self)
    }
}

impl Match {
    fn accepts<B>(&self, request: &Request<B>) -> bool {
        let path = self.path_prefix.as_ref().is_none_or(|prefix| starts_with_segments(request.uri().path(), prefix));
        path && self.host.as_ref().is_none_or(|host| host_of(request).is_some_and(|h| h.eq_ignore_ascii_case(host)))
    }
}

fn starts_with_segments(path: &str, prefix: &str) -> bool {
    let Some(rest) = path.strip_prefix(prefix) else { return false };
    prefix.ends_with('/') || rest.is_empty() || rest.starts_with('/')
}

fn host_of<B>(request: &Request<B>) -> Option<&str> {
    let from_header = || request.headers().get(http::header::HOST)?.to_str().ok();
    let authority = request.uri().authority().map(http::uri::Authority::as_str).or_else(from_header)?;
    // the port goes; an IPv6 literal keeps its brackets
    let end = authority.rfind(':').filter(|at| !authority[*at..].contains(']')).unwrap_or(authority.len());
    Some(&authority[..end])
}

fn breaker(policy: Option<&Policy>) -> Option<weir_policy::Breaker> {
    policy.and_then(|p| p.breaker)
}

fn upstreams(config: &Config, before: Option<&Workload>) -> Vec<Arc<Upstream>> {
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
        let known = before.and_then(|before| before.upstreams.iter().find(|known| known.name == name));
        let circuit = known.map(|known| known.circuit.clone()).unwrap_or_default();
        Arc::new(Upstream { name, protocol, endpoints, circuit })
    };
    config.upstreams.iter().map(upstream).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_match_by_whole_segments_and_hosts_without_port_or_case() {
        for (prefix, host, path, authority, expected) in [
            (Some("/api"), None, "/api", "a", true),
            (Some("/api"), None, "/api/x", "a", true),
            (Some("/api"), None, "/apix", "a", false),
            (Some("/api/"), None, "/api/x", "a", true),
            (Some("/"), None, "/anything", "a", true),
            (None, Some("Tagger"), "/", "tagger:8080", true),
            (None, Some("[::1]"), "/", "[::1]:8080", true),
            (None, Some("[::1]"), "/", "[::1]", true),
            (None, Some("tagger"), "/", "parser", false),
        ] {
            let matches = Match { path_prefix: prefix.map(Into::into), host: host.map(Into::into) };
            let request = Request::builder().uri(path).header("host", authority).body(()).unwrap();
            assert_eq!(matches.accepts(&request), expected, "{matches:?} on {authority}{path}");
        }
    }
}
