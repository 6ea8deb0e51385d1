//! The catalogue of what is counted: each thing is named once, and `/metrics` and OTLP both read it here.
//!
//! `requests` is `weir_proxy_requests_total` for who scrapes and `weir.proxy.requests` for who collects. Distributions, and
//! what is told apart by route or by reason, are written where their labels are known.

use std::sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed};

use crate::{security::Security, upstream::Endpoint, workload::Workload};

/// One thing that is counted, of an `Of`.
pub(crate) struct Entry<Of> {
    name: &'static str,
    pub(crate) kind: Kind,
    pub(crate) unit: &'static str,
    pub(crate) says: &'static str,
    pub(crate) value: fn(&Of) -> f64,
}

/// How a value moves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Up only, since the start.
    Counter,
    /// Up and down.
    Gauge,
}

/// Of the proxy as a whole.
pub(crate) const OWN: &[Entry<Workload>] = &[
    counter("requests", "{request}", "requests that came in", |w| read(&w.tally.requests)),
    counter("shed", "{request}", "requests that limits or breakers turned away", |w| read(&w.tally.shed)),
    counter("retries", "{request}", "attempts beside the first", |w| read(&w.tally.retries)),
    counter("rerouted", "{request}", "of those, requests that never arrived or whose kept connection closed", |w| {
        read(&w.tally.rerouted)
    }),
    counter("retries_refused", "{request}", "retries that a budget or a breaker did not allow", |w| {
        read(&w.tally.retries_refused)
    }),
    counter("mirrored", "{request}", "copies of requests that a mirror answered", |w| read(&w.tally.mirrored)),
    counter("mirrors_dropped", "{request}", "copies not sent or not answered", |w| read(&w.tally.mirrors_dropped)),
    counter(
        "unsampled_here",
        "{request}",
        "requests whose trace span_ratio left out; those recorded stand for them",
        |w| read(&w.tally.unsampled_here),
    ),
    counter(
        "unsampled_by_caller",
        "{request}",
        "requests that a caller wanted unrecorded: rates made of spans miss them",
        |w| read(&w.tally.unsampled_by_caller),
    ),
    counter("spans_recorded", "{span}", "spans to be exported", |w| read(&w.tally.spans_recorded)),
    counter("spans_sent", "{span}", "spans the collector acknowledged", |w| read(&w.tally.spans_sent)),
    counter("spans_rejected", "{span}", "spans the collector refused", |w| read(&w.tally.spans_rejected)),
    counter("spans_dropped", "{span}", "spans given up", |w| read(&w.tally.spans_dropped)),
    counter("logs_sent", "{record}", "access logs the collector acknowledged", |w| read(&w.tally.logs_sent)),
    counter("logs_dropped", "{record}", "access logs given up", |w| read(&w.tally.logs_dropped)),
    counter("log_lines_written", "{line}", "lines of the access log written", |w| read(&w.tally.log_lines_written)),
    counter("log_lines_dropped", "{line}", "lines of the access log given up", |w| read(&w.tally.log_lines_dropped)),
    counter("policies_applied", "{set}", "policy sets applied", |w| read(&w.tally.policies_applied)),
    counter("policies_refused", "{set}", "policy sets refused whole", |w| read(&w.tally.policies_refused)),
    counter("policy_statuses_skipped", "{status}", "answers to policy sets that newer ones replaced unsent", |w| {
        read(&w.tally.policy_statuses_skipped)
    }),
    counter("lm_unread", "{response}", "answers of models that were compressed, and not read", |w| {
        read(&w.tally.lm_unread)
    }),
    counter("slow_clients", "{client}", "clients cut off for slowness", |w| read(&w.tally.slow_clients)),
    counter("connections_refused", "{connection}", "connections closed because as many were open as may be", |w| {
        read(&w.tally.connections_refused)
    }),
    counter("overloaded", "{request}", "requests and connections turned away because memory was at its bound", |w| {
        read(&w.tally.overloaded)
    }),
    counter("tunnels", "{connection}", "connections passed on unread", |w| read(&w.tally.tunnels)),
    gauge("policy_sequence", "1", "the policy in force", |w| w.applied.load().sequence as f64),
    gauge("in_flight", "{request}", "requests admitted to the service now", |w| f64::from(w.gate.load().0)),
    gauge("queued", "{request}", "requests that wait for a place now", |w| f64::from(w.gate.load().1)),
    gauge("expected_wait", "ns", "how long one who came now would wait", |w| w.expected_wait_ns() as f64),
    gauge("local_limit", "{request}", "what the local limiter allows; 0 for no limit", |w| w.local_limit() as f64),
    gauge("memory", "By", "memory that the process has", |w| w.memory.resident_bytes() as f64),
    gauge("memory_bound", "By", "memory from which on nothing new is let in", |w| w.memory.bound_bytes() as f64),
    counter("configs_applied", "{file}", "configurations put in force after the first", |w| {
        read(&w.tally.configs_applied)
    }),
    counter("configs_refused", "{file}", "configurations refused whole", |w| read(&w.tally.configs_refused)),
    gauge("config_refused", "1", "1 while the newest configuration is refused and the one before stays", |w| {
        f64::from(u8::from(w.config_refused.load(Relaxed)))
    }),
];

/// Of handshakes, tokens and rules.
pub(crate) const SECURITY: &[Entry<Security>] = &[
    counter("tls_handshakes", "{handshake}", "handshakes that listeners finished", |s| read(&s.stats.handshakes)),
    counter("tls_handshakes_resumed", "{handshake}", "of those, the ones that went on with an earlier session", |s| {
        read(&s.stats.handshakes_resumed)
    }),
    counter("tls_handshakes_failed", "{handshake}", "handshakes that failed or took too long", |s| {
        read(&s.stats.handshakes_failed)
    }),
    counter(
        "tls_handshakes_shed",
        "{handshake}",
        "handshakes not begun because as many were under way as may be",
        |s| read(&s.stats.handshakes_shed),
    ),
    counter("plain_connections", "{connection}", "connections without TLS at a permissive listener", |s| {
        read(&s.stats.plain_connections)
    }),
    counter("certificates_reloaded", "{change}", "certificates, keys or roots replaced by newer ones", |s| {
        read(&s.stats.certificates_reloaded)
    }),
    counter("certificates_refused", "{change}", "new certificates, keys or roots unfit for use", |s| {
        read(&s.stats.certificates_refused)
    }),
    counter("jwks_loaded", "{set}", "key sets of token issuers read", |s| read(&s.stats.jwks_loaded)),
    counter("jwks_failed", "{set}", "key sets of token issuers that could not be read", |s| read(&s.stats.jwks_failed)),
    counter("unauthenticated", "{request}", "requests answered with 401", |s| read(&s.stats.unauthenticated)),
    counter("authorization_allowed", "{request}", "requests that rules let through", |s| read(&s.stats.allowed)),
    counter("authorization_denied", "{request}", "requests answered with 403", |s| read(&s.stats.denied)),
];

/// Of each endpoint.
pub(crate) const ENDPOINT: &[Entry<Endpoint>] = &[
    counter("endpoint.requests", "{request}", "calls that an endpoint answered or failed", |e| read(&e.stats.requests)),
    counter("endpoint.failures", "{request}", "calls that failed or were answered with a 5xx", |e| {
        read(&e.stats.failures)
    }),
    counter("endpoint.latency", "s", "time to the heads of answers, summed", |e| read(&e.stats.latency_ns) / 1e9),
    gauge("endpoint.in_flight", "{request}", "calls under way", |e| now(&e.in_flight)),
    counter("endpoint.connects", "{connection}", "connections opened", |e| read(&e.stats.connects)),
    counter("endpoint.connect_failures", "{connection}", "connections that could not be opened", |e| {
        read(&e.stats.connect_failures)
    }),
    counter("endpoint.resets", "{connection}", "connections closed before the answer came", |e| read(&e.stats.resets)),
    gauge("endpoint.connections_open", "{connection}", "connections open now", |e| now(&e.stats.open)),
    gauge("endpoint.connections_idle", "{connection}", "connections kept that no request uses", |e| now(&e.stats.idle)),
];

impl<Of> Entry<Of> {
    /// As Prometheus has it: the unit in the name, and `_total` behind a counter.
    pub(crate) fn prometheus(&self) -> String {
        let unit = match self.unit {
            "s" => "_seconds",
            "ns" => "_ns",
            "By" => "_bytes",
            _ => "",
        };
        let total = if self.kind == Kind::Counter { "_total" } else { "" };
        format!("weir_proxy_{}{unit}{total}", self.name.replace('.', "_"))
    }

    /// As OpenTelemetry has it.
    pub(crate) fn otlp(&self) -> String {
        format!("weir.proxy.{}", self.name)
    }
}

impl Kind {
    /// As in the exposition format.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Counter => "counter",
            Self::Gauge => "gauge",
        }
    }
}

const fn counter<Of>(name: &'static str, unit: &'static str, says: &'static str, value: fn(&Of) -> f64) -> Entry<Of> {
    Entry { name, kind: Kind::Counter, unit, says, value }
}

const fn gauge<Of>(name: &'static str, unit: &'static str, says: &'static str, value: fn(&Of) -> f64) -> Entry<Of> {
    Entry { name, kind: Kind::Gauge, unit, says, value }
}

fn read(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

fn now(gauge: &AtomicU32) -> f64 {
    f64::from(gauge.load(Relaxed))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_are_as_either_side_has_them() {
        for (name, prometheus, otlp) in [
            ("requests", "weir_proxy_requests_total", "weir.proxy.requests"),
            ("expected_wait", "weir_proxy_expected_wait_ns", "weir.proxy.expected_wait"),
        ] {
            let entry = OWN.iter().find(|entry| entry.name == name).unwrap();
            assert_eq!((entry.prometheus().as_str(), entry.otlp().as_str()), (prometheus, otlp));
        }
        assert_eq!(ENDPOINT[2].prometheus(), "weir_proxy_endpoint_latency_seconds_total");
        assert_eq!(ENDPOINT[2].otlp(), "weir.proxy.endpoint.latency");
        let all = OWN.iter().map(Entry::otlp).chain(SECURITY.iter().map(Entry::otlp));
        let all: Vec<String> = all.chain(ENDPOINT.iter().map(Entry::otlp)).collect();
        assert_eq!(all.iter().collect::<BTreeSet<_>>().len(), all.len(), "one name, one thing");
    }
}
