//! What the types of `Config` cannot say: names that must exist, numbers that must mean something.

use std::collections::HashSet;

use weir_policy::{Breaker, Policy, PolicySet};

use crate::config::{
    Config, ConfigError, Direction, Listener, ListenerProtocol, PolicySource, RemoteTls, Route, Secret,
    limits::unregulated,
};

/// A year: what is longer is a slip, and would not fit into a clock that runs long enough.
pub(crate) const LONGEST_MS: u64 = 365 * 86_400_000;

/// Fields that say where a message goes and where it ends, in lower case: nobody else may write them.
pub(crate) const OURS: [&str; 8] =
    ["host", "content-length", "transfer-encoding", "connection", "keep-alive", "proxy-connection", "te", "upgrade"];

impl Config {
    /// Checks what the types cannot.
    ///
    /// # Errors
    /// The first key that cannot be used, with what would be accepted.
    pub fn validate(&self) -> Result<(), ConfigError> {
        check(!self.service.is_empty(), || "service is empty: name the workload".into())?;
        check(self.threads != Some(0), || "threads is 0: at least 1, or leave it out for one per core".into())?;
        check(self.servers != Some(0), || "servers is 0: at least 1, or leave it out when it is not known".into())?;
        check(!self.listeners.is_empty(), || "listeners is empty: nothing would be proxied".into())?;
        self.check_admin()?;
        self.check_upstreams()?;
        self.check_listeners()?;
        self.check_security()?;
        self.check_telemetry()?;
        self.http.validate()?;
        self.timeouts.validate()?;
        check(self.max_connections_per_client != Some(0), || {
            "max_connections_per_client is 0: at least 1, or leave it out".into()
        })?;
        self.check_policy()?;
        self.check_limits()?;
        self.static_policy().validate().map_err(|e| ConfigError(format!("limits: {e}")))
    }

    /// The static limits and breakers in the form of a policy, numbered 0.
    pub(crate) fn static_policy(&self) -> PolicySet {
        let limits = self.limits.policy(&self.service);
        let breakers = self.upstreams.iter().filter(|u| u.breaker.is_some() && u.service() != self.service);
        let breakers = breakers.map(|u| Policy { breaker: u.breaker, ..unregulated(u.service(), None) });
        PolicySet { policies: std::iter::once(limits).chain(breakers).collect(), ..PolicySet::default() }
    }

    fn check_admin(&self) -> Result<(), ConfigError> {
        let Some(admin) = self.admin else { return Ok(()) };
        let empty = self.admin_token.as_ref().is_some_and(Secret::is_empty);
        check(!empty, || "admin_token is empty: anybody would know it".into())?;
        check(self.admin_token.is_none() || self.admin_token_file.is_none(), || {
            "admin_token_file: there is an admin_token already".into()
        })?;
        let asks = self.admin_token.is_some() || self.admin_token_file.is_some();
        check(admin.ip().is_loopback() || asks || self.insecure, || {
            format!(
                "admin: {admin} is reachable from other machines and asks for no credentials: set an `admin_token`, or `insecure: true` to accept that"
            )
        })
    }

    fn check_upstreams(&self) -> Result<(), ConfigError> {
        let mut names = HashSet::new();
        for (i, upstream) in self.upstreams.iter().enumerate() {
            check(!upstream.name.is_empty(), || format!("upstreams[{i}].name is empty"))?;
            check(names.insert(&upstream.name), || format!("upstreams[{i}].name repeats {:?}", upstream.name))?;
            upstream.validate(&self.upstreams).map_err(|e| ConfigError(format!("upstreams[{i}].{e}")))?;
            if let Some(tls) = &upstream.tls {
                tls.validate(&format!("upstreams[{i}].tls"))?;
            }
            if let Some(b) = upstream.breaker {
                let usable = Breaker::new(b.error_ratio(), b.min_requests(), b.window()).is_some();
                check(usable, || {
                    format!("upstreams[{i}].breaker: a ratio in (0, 1] over a window above 0 ms is needed")
                })?;
            }
        }
        Ok(())
    }

    fn check_listeners(&self) -> Result<(), ConfigError> {
        let mut route_names = HashSet::new();
        for (i, listener) in self.listeners.iter().enumerate() {
            self.check_protocol(i, listener)?;
            let Listener { routes, istio, direction, .. } = listener;
            let outbound = *direction == Direction::Outbound;
            check(istio.is_empty() || outbound, || format!("listeners[{i}].istio: only at an outbound listener"))?;
            check(listener.believe_peer.is_none() || !outbound, || {
                format!("listeners[{i}].believe_peer: only at an inbound listener; the workload is no sidecar")
            })?;
            check(listener.forwarded.is_none() || !outbound, || {
                format!("listeners[{i}].forwarded: only at an inbound listener; outbound the client is the workload")
            })?;
            check(listener.trusted_hops == 0 || !outbound, || {
                format!("listeners[{i}].trusted_hops: only at an inbound listener; outbound the client is the workload")
            })?;
            for (j, route) in routes.iter().enumerate() {
                route.validate(&self.upstreams).map_err(|e| ConfigError(format!("listeners[{i}].routes[{j}].{e}")))?;
                if let Some(name) = &route.name {
                    check(route_names.insert(name), || format!("listeners[{i}].routes[{j}].name repeats {name:?}"))?;
                }
            }
        }
        Ok(())
    }

    /// Routes are for HTTP, an upstream of its own for TCP; `detect` needs both.
    fn check_protocol(&self, i: usize, listener: &Listener) -> Result<(), ConfigError> {
        let Listener { protocol, routes, istio, upstream, jwt, trusted_hops, .. } = listener;
        let (http, tcp) = match protocol {
            ListenerProtocol::Http => (true, false),
            ListenerProtocol::Tcp => (false, true),
            ListenerProtocol::Detect => (true, true),
        };
        let routed = !routes.is_empty() || !istio.is_empty();
        check(!http || routed, || format!("listeners[{i}].routes is empty: every request would get a 404"))?;
        check(http || !routed, || {
            format!("listeners[{i}].routes: requests are not read where protocol is tcp; use `upstream`")
        })?;
        check(!tcp || jwt.is_none(), || {
            format!("listeners[{i}].jwt: tokens come with requests, and plain TCP would pass beside them")
        })?;
        check(http || *trusted_hops == 0, || {
            format!("listeners[{i}].trusted_hops: plain TCP has no X-Forwarded-For to look in; leave it out")
        })?;
        match upstream {
            None => check(!tcp, || format!("listeners[{i}].upstream is missing: plain TCP needs one")),
            Some(_) if !tcp => Err(ConfigError(format!(
                "listeners[{i}].upstream: only plain TCP goes there; set protocol to tcp or detect, or use `routes`"
            ))),
            Some(name) => check(self.upstreams.iter().any(|u| u.name == *name), || {
                format!("listeners[{i}].upstream: no upstream is named {name:?}")
            }),
        }
    }

    fn check_limits(&self) -> Result<(), ConfigError> {
        if let Some(name) = &self.limits.priority_header {
            let usable = http::HeaderName::from_bytes(name.as_bytes()).is_ok();
            check(usable, || format!("limits.priority_header is {name:?}: not the name of a header"))?;
        }
        if let Some(local) = &self.limits.local_limit {
            check(local.queue_wait_ms > 0, || "limits.local_limit.queue_wait_ms is 0: at least 1".into())?;
        }
        for (i, listener) in self.listeners.iter().enumerate() {
            for (j, Route { limits, redirect, respond, .. }) in listener.routes.iter().enumerate() {
                let key = format!("listeners[{i}].routes[{j}].limits");
                if redirect.is_some() || respond.is_some() {
                    limits.check_answered_here(&key)?;
                }
                let inbound = listener.direction == Direction::Inbound;
                check(!(inbound && limits.breaker.is_some()), || {
                    format!("{key}.breaker: a breaker acts where calls leave, on outbound routes")
                })?;
                let policies = limits.policy(&self.service, "").into_iter().collect();
                let set = PolicySet { policies, ..PolicySet::default() };
                set.validate().map_err(|error| ConfigError(error.to_string().replace("policies[0]", &key)))?;
            }
        }
        Ok(())
    }

    fn check_security(&self) -> Result<(), ConfigError> {
        for (i, listener) in self.listeners.iter().enumerate() {
            if let Some(tls) = &listener.tls {
                tls.validate(&format!("listeners[{i}].tls"))?;
            }
            if let Some(jwt) = &listener.jwt {
                jwt.validate(&format!("listeners[{i}].jwt"))?;
            }
            if let Some(authorization) = &listener.authorization {
                authorization.validate(&format!("listeners[{i}].authorization"), listener)?;
            }
        }
        Ok(())
    }

    fn check_telemetry(&self) -> Result<(), ConfigError> {
        let t = &self.telemetry;
        check((0.0..=1.0).contains(&t.span_ratio), || {
            format!("telemetry.span_ratio is {}: from 0 to 1", t.span_ratio)
        })?;
        check((0.0..=1.0).contains(&t.access_log_ratio), || {
            format!("telemetry.access_log_ratio is {}: from 0 to 1", t.access_log_ratio)
        })?;
        for (i, form) in t.propagation.iter().enumerate() {
            check(!t.propagation[..i].contains(form), || format!("telemetry.propagation[{i}] repeats {form:?}"))?;
        }
        let bounds = [
            ("queue_records", t.queue_records),
            ("batch_spans", t.batch_spans),
            ("metrics_interval_ms", usize::try_from(t.metrics_interval_ms).unwrap_or(usize::MAX)),
        ];
        for (key, value) in bounds {
            check(value > 0, || format!("telemetry.{key} is 0: at least 1"))?;
        }
        if let Some(url) = &t.otlp {
            check_remote("telemetry.otlp", url, "telemetry.tls", t.tls.as_ref())?;
        }
        check(t.otlp.is_some() || t.tls.is_none(), || "telemetry.tls: there is no telemetry.otlp to reach".into())
    }

    fn check_policy(&self) -> Result<(), ConfigError> {
        let Some(PolicySource { from, tls, min_rate_per_s: least, .. }) = &self.policy else { return Ok(()) };
        check_remote("policy.from", from, "policy.tls", tls.as_ref())?;
        let usable = least.is_finite() && *least >= 0.0;
        check(usable, || format!("policy.min_rate_per_s is {least}: a finite number, at least 0"))
    }
}

/// An address over HTTP, and how its owner is known.
pub(super) fn check_remote(key: &str, url: &str, tls_key: &str, tls: Option<&RemoteTls>) -> Result<(), ConfigError> {
    let (plain, secure) = (url.starts_with("http://"), url.starts_with("https://"));
    let usable = (plain || secure) && tonic::transport::Endpoint::from_shared(url.to_owned()).is_ok();
    check(usable, || format!("{key} is {url:?}: expected http://host:port or https://host:port"))?;
    let Some(tls) = tls else { return Ok(()) };
    check(secure, || format!("{tls_key}: {key} is {url:?}, where nothing is asked of it: say https://"))?;
    tls.validate(tls_key)
}

/// An error unless `usable`.
pub(crate) fn check(usable: bool, why: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if usable { Ok(()) } else { Err(ConfigError(why())) }
}
