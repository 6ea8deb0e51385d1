//! What a route can say: which requests it takes, where they go, and what becomes of them on the way.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::config::{Match, RouteLimits};

/// Which requests go where. Exactly one of `upstream`, `split`, `redirect` and `respond` says where. Beside the last two, which send
/// the request nowhere, what is said of requests that go on is an error: `rewrite`, `request_headers`, `retries`, `mirror`, and all times.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Route {
    /// Names the span and lets a policy regulate this route alone.
    pub name: Option<String>,
    /// What a request must look like.
    #[serde(rename = "match")]
    pub matches: Match,
    /// An upstream's name.
    pub upstream: Option<String>,
    /// Several upstreams and how much each gets: 90 and 10 send nine of ten requests to the first.
    pub split: Vec<Share>,
    /// An answer that sends the client elsewhere.
    pub redirect: Option<Redirect>,
    /// An answer of the proxy itself.
    pub respond: Option<Respond>,
    /// How the request is addressed when it goes on.
    pub rewrite: Rewrite,
    /// What changes in the request's fields.
    pub request_headers: HeaderEdits,
    /// What changes in the answer's fields.
    pub response_headers: HeaderEdits,
    /// Trouble made on purpose.
    pub fault: Fault,
    /// The longest wait for the response's head, queueing and retries included; `timeouts.response_ms` when absent. It counts from when
    /// the request is there: from its head, after a `fault.delay`, or, if it has a body, from the last part of that which was handed
    /// on. While the client still sends it does not run.
    pub timeout_ms: Option<u64>,
    /// The longest time from the request's beginning to the end of the response's body; unbounded when absent, because streams may be long.
    pub max_stream_duration_ms: Option<u64>,
    /// The longest time to the end of the response's body, counted from where `timeout_ms` counts: what Istio calls `timeout`. So it
    /// bounds the wait for the head, too, where it is the shorter of both. A head that is late is a 504, a body that is late breaks off.
    /// Unbounded when absent.
    pub answer_timeout_ms: Option<u64>,
    /// The longest silence of the upstream inside the response's body; `timeouts.stream_idle_ms` when absent.
    pub idle_timeout_ms: Option<u64>,
    /// Which requests go out again when they fail. When absent only what certainly never arrived does, once, and, where the method is
    /// idempotent and there is no body, what a kept connection closed upon; `attempts: 0` for nothing at all.
    pub retries: Option<Retries>,
    /// Another upstream that gets copies.
    pub mirror: Option<Mirror>,
    /// What this route is held to beside the service's limits.
    pub limits: RouteLimits,
}

/// A share of a route's requests.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Share {
    /// An upstream's name.
    pub upstream: String,
    /// Its part of the sum of all weights.
    pub weight: u32,
    /// What changes in the request's fields; what the route itself changes comes after.
    #[serde(default)]
    pub request_headers: HeaderEdits,
    /// What changes in the answer's fields; what the route itself changes comes after.
    #[serde(default)]
    pub response_headers: HeaderEdits,
}

/// An answer that sends the client elsewhere; what is absent stays as the client asked.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Redirect {
    /// The new path; the query stays.
    pub path: Option<String>,
    /// The new host, with its port if it has one.
    pub host: Option<String>,
    /// `http` or `https`; when absent that of the client's connection to this listener, whatever `x-forwarded-proto` says.
    pub scheme: Option<String>,
    /// 301, 302, 303, 307 or 308.
    pub status: u16,
}

/// An answer of the proxy itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Respond {
    /// From 200 to 599.
    pub status: u16,
    /// Its text; none when absent.
    #[serde(default)]
    pub body: String,
}

/// How a request is addressed when it goes on.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Rewrite {
    /// Takes the place of the prefix that matched, or of the whole path when it was not matched by a prefix. What follows stays as it
    /// came; where there is a `.` or `..` in it, it is resolved, `//` merged.
    pub path: Option<String>,
    /// The new `Host` or `:authority`.
    pub host: Option<String>,
}

/// What changes in the fields of a message, in this order; those that say where it goes and ends (`content-length`,
/// `transfer-encoding`, `connection`, …) are refused.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct HeaderEdits {
    /// Fields that go.
    pub remove: Vec<String>,
    /// Fields that have this value and no other.
    pub set: BTreeMap<String, String>,
    /// Values beside those that are there.
    pub add: BTreeMap<String, String>,
}

/// Which requests go out again when they fail.
///
/// Only where that is safe: the method is idempotent, or the request never reached the upstream, or a gRPC status
/// listed in `on` says so. A response that began is never taken back, and nothing goes out after the deadline.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Retries {
    /// 2 attempts beside the first, as in Istio.
    pub attempts: u32,
    /// The longest wait of one attempt; only the route's timeout when absent.
    pub per_try_timeout_ms: Option<u64>,
    /// What is tried again, in Envoy's words: 5xx, gateway-error, reset, connect-failure, retriable-4xx,
    /// refused-stream, cancelled, deadline-exceeded, internal, resource-exhausted, unavailable, or a status.
    pub on: Vec<String>,
    /// Says that repeating does no harm even for POST and PATCH.
    pub non_idempotent: bool,
    /// 64 KiB of a request's body that are kept for another attempt, as in Linkerd; a longer one goes out once.
    pub body_bytes: usize,
    /// 25 ms before the first retry, doubled for each, jittered; `Retry-After` makes it longer.
    pub backoff_ms: u64,
    /// 250 ms at most, ten times the first, as in Envoy.
    pub max_backoff_ms: u64,
}

/// Another upstream that gets copies of requests; its answers go to nobody.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mirror {
    /// An upstream's name.
    pub upstream: String,
    /// How many of a hundred requests, from 0 to 100.
    #[serde(default = "all")]
    pub percent: f64,
    /// 64 KiB of a request's body; a longer request is not copied.
    #[serde(default = "mirror_body_bytes")]
    pub body_bytes: usize,
    /// 64 copies under way at once, some 4 MiB at worst; one more is dropped and counted.
    #[serde(default = "mirror_max_in_flight")]
    pub max_in_flight: u32,
}

/// Trouble made on purpose, to see what becomes of it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Fault {
    /// Requests that wait before they go on.
    pub delay: Option<Delay>,
    /// Requests that are answered here.
    pub abort: Option<Abort>,
}

/// A wait.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Delay {
    /// How many of a hundred requests, from 0 to 100.
    #[serde(default = "all")]
    pub percent: f64,
    /// How long.
    pub ms: u64,
}

/// An answer of the proxy's own.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Abort {
    /// How many of a hundred requests, from 0 to 100.
    #[serde(default = "all")]
    pub percent: f64,
    /// From 200 to 599; gRPC is told UNAVAILABLE.
    pub status: u16,
}

fn all() -> f64 {
    100.0
}

fn mirror_body_bytes() -> usize {
    64 << 10
}

fn mirror_max_in_flight() -> u32 {
    64
}

impl Default for Retries {
    fn default() -> Self {
        Self {
            attempts: 2,
            per_try_timeout_ms: None,
            on: ["connect-failure", "refused-stream", "unavailable", "cancelled", "503"].map(Into::into).into(),
            non_idempotent: false,
            body_bytes: 64 << 10,
            backoff_ms: 25,
            max_backoff_ms: 250,
        }
    }
}

impl Default for Redirect {
    fn default() -> Self {
        Self { path: None, host: None, scheme: None, status: 301 }
    }
}

impl Mirror {
    /// Every request, within the default bounds.
    #[must_use]
    pub fn to(upstream: impl Into<String>) -> Self {
        let (body_bytes, max_in_flight) = (mirror_body_bytes(), mirror_max_in_flight());
        Self { upstream: upstream.into(), percent: all(), body_bytes, max_in_flight }
    }
}

impl Route {
    /// A route that sends everything to one upstream.
    #[must_use]
    pub fn to(upstream: impl Into<String>) -> Self {
        Self { upstream: Some(upstream.into()), ..Self::default() }
    }
}
