//! What the types of `Config` cannot say: names that must exist, numbers that must mean something.

use std::collections::HashSet;

use weir_policy::{Breaker, Policy, PolicySet};

use crate::config::{Config, ConfigError, Listener, ListenerProtocol};

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
        self.check_telemetry()?;
        self.http.validate()?;
        self.static_policy().validate().map_err(|e| ConfigError(format!("limits: {e}")))
    }

    /// The static limits and breakers in the form of a policy, numbered 0.
    pub(crate) fn static_policy(&self) -> PolicySet {
        let limits = Policy {
            concurrency_limit: self.limits.concurrency_limit,
            rate_limit: self.limits.rate_limit,
            ..unregulated(&self.service)
        };
        let breakers = self.upstreams.iter().filter(|u| u.breaker.is_some() && u.name != self.service);
        let breakers = breakers.map(|u| Policy { breaker: u.breaker, ..unregulated(&u.name) });
        PolicySet { policies: std::iter::once(limits).chain(breakers).collect(), ..PolicySet::default() }
    }

    fn check_admin(&self) -> Result<(), ConfigError> {
        let Some(admin) = self.admin else { return Ok(()) };
        let safe = admin.ip().is_loopback() || self.insecure;
        check(safe, || {
            format!(
                "admin: {admin} is reachable from other machines and asks for no credentials: set `insecure: true` to accept that"
            )
        })
    }

    fn check_upstreams(&self) -> Result<(), ConfigError> {
        let mut names = HashSet::new();
        for (i, upstream) in self.upstreams.iter().enumerate() {
            check(!upstream.name.is_empty(), || format!("upstreams[{i}].name is empty"))?;
            check(names.insert(&upstream.name), || format!("upstreams[{i}].name repeats {:?}", upstream.name))?;
            check(!upstream.endpoints.is_empty(), || {
                format!("upstreams[{i}].endpoints is empty: at least one host:port")
            })?;
            for (j, endpoint) in upstream.endpoints.iter().enumerate() {
                let port =
                    endpoint.rsplit_once(':').and_then(|(host, port)| (!host.is_empty()).then(|| port.parse::<u16>()));
                let usable = matches!(port, Some(Ok(port)) if port > 0);
                check(usable, || format!("upstreams[{i}].endpoints[{j}] is {endpoint:?}: expected host:port"))?;
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
            let routes = &listener.routes;
            for (j, route) in routes.iter().enumerate() {
                let known = self.upstreams.iter().any(|u| u.name == route.upstream);
                check(known, || {
                    format!("listeners[{i}].routes[{j}].upstream: no upstream is named {:?}", route.upstream)
                })?;
                let rooted = route.matches.path_prefix.as_ref().is_none_or(|p| p.starts_with('/'));
                check(rooted, || format!("listeners[{i}].routes[{j}].match.path_prefix must start with /"))?;
                if let Some(name) = &route.name {
                    check(route_names.insert(name), || format!("listeners[{i}].routes[{j}].name repeats {name:?}"))?;
                }
            }
        }
        Ok(())
    }

    /// Routes are for HTTP, an upstream of its own for TCP; `detect` needs both.
    fn check_protocol(&self, i: usize, listener: &Listener) -> Result<(), ConfigError> {
        let Listener { protocol, routes, upstream, .. } = listener;
        let (http, tcp) = match protocol {
            ListenerProtocol::Http => (true, false),
            ListenerProtocol::Tcp => (false, true),
            ListenerProtocol::Detect => (true, true),
        };
        check(!http || !routes.is_empty(), || {
            format!("listeners[{i}].routes is empty: every request would get a 404")
        })?;
        check(http || routes.is_empty(), || {
            format!("listeners[{i}].routes: requests are not read where protocol is tcp; use `upstream`")
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

    fn check_telemetry(&self) -> Result<(), ConfigError> {
        let t = &self.telemetry;
        check((0.0..=1.0).contains(&t.span_ratio), || {
            format!("telemetry.span_ratio is {}: from 0 to 1", t.span_ratio)
        })?;
        let bounds = [
            ("queue_records", t.queue_records),
            ("batch_spans", t.batch_spans),
            ("metrics_interval_ms", usize::try_from(t.metrics_interval_ms).unwrap_or(usize::MAX)),
        ];
        for (key, value) in bounds {
            check(value > 0, || format!("telemetry.{key} is 0: at least 1"))?;
        }
        let urls = [("telemetry.otlp", t.otlp.as_ref()), ("policy.from", self.policy.as_ref().map(|p| &p.from))];
        for (key, url) in urls {
            let usable = url
                .is_none_or(|u| u.starts_with("http://") && tonic::transport::Endpoint::from_shared(u.clone()).is_ok());
            check(usable, || format!("{key} is {url:?}: expected http://host:port"))?;
        }
        Ok(())
    }
}

fn unregulated(service: &str) -> Policy {
    let reason = "static configuration".to_owned();
    Policy {
        service: service.to_owned(),
        route: None,
        concurrency_limit: None,
        rate_limit: None,
        breaker: None,
        reason,
    }
}

fn check(usable: bool, why: impl FnOnce() -> String) -> Result<(), ConfigError> {
    if usable { Ok(()) } else { Err(ConfigError(why())) }
}
