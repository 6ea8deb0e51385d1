//! What an upstream can say: where its endpoints come from, how requests are dealt to them, and when
//! one of them is left out.

use std::{collections::BTreeMap, num::NonZeroU32, time::Duration};

use serde::{Deserialize, Serialize};
use weir_policy::Breaker;

use crate::config::{Discovery, Endpoint, Protocol, UpstreamTls};

/// A day: RFC 8767 gives stale answers one to three.
const KEEP_ENDPOINTS: Duration = Duration::from_secs(86_400);

/// A named group of interchangeable endpoints; outbound, the name is the callee's service.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Upstream {
    /// What routes call it.
    pub name: String,
    /// What policies and spans call it: the callee's service; `name` when absent. Versions of one service share it.
    pub service: Option<String>,
    /// `host:port`, or a map that says more of it; at least one, unless `discover` or `subset_of` finds them.
    pub endpoints: Vec<Endpoint>,
    /// Finds endpoints instead of listing them: by `dns`, `dns_srv`, `file` or `consul`.
    pub discover: Option<Discovery>,
    /// How long endpoints that were found are kept while they cannot be looked up; a day when absent, as RFC 8767 has it of
    /// names. A registry that answers that nothing is there is believed at once.
    pub keep_endpoints_ms: Option<u64>,
    /// The endpoints of another upstream that carry these labels.
    pub subset_of: Option<SubsetOf>,
    /// Whose models the endpoints serve, as spans and metrics of calls to them say in `gen_ai.provider.name`: `openai`, `anthropic`,
    /// or any other word. When absent it is known by the name of a public host (`api.openai.com` and others), or not said.
    pub gen_ai_provider: Option<String>,
    /// What the endpoints speak.
    pub protocol: Protocol,
    /// TLS towards the endpoints; none when absent, and of a subset that of its upstream.
    pub tls: Option<UpstreamTls>,
    /// When calls are shed while no policy says otherwise.
    pub breaker: Option<Breaker>,
    /// Which endpoint a request goes to: `p2c_peak_ewma` (the default), `least_request`, `round_robin`, `random`, or
    /// `ring_hash: { header: NAME }`, and so on with `cookie`, `query` or `source_address`.
    pub balance: Balance,
    /// Prefers endpoints in the proxy's own zone, then in its region, then others, as far as they are healthy.
    pub prefer_local: bool,
    /// When an endpoint is left out for a while; never when absent.
    pub outlier_detection: Option<OutlierDetection>,
    /// Below this share of healthy endpoints health is ignored: it is likelier that the detector errs, and few
    /// endpoints under everyone's load would fail too. 50, as in Envoy, when absent.
    pub panic_threshold_percent: Option<u8>,
    /// How many retries may be under way.
    pub retry_budget: RetryBudget,
    /// Requests in flight from this proxy, copies for a mirror among them; one more gets 503 at once, and a copy is dropped,
    /// though each data thread may let one pass that another counts at the same moment. Unbounded when absent.
    pub max_requests: Option<NonZeroU32>,
    /// The longest wait for a connection; `timeouts.connect_ms` when absent.
    pub connect_timeout_ms: Option<u64>,
    /// How long an idle connection is kept; when absent `timeouts.pool_idle_ms`, and over HTTP/2 `timeouts.http2_idle_ms`.
    pub pool_idle_ms: Option<u64>,
    /// HTTP/1.1 connections from this proxy, each of which carries one request at a time. Unbounded when absent.
    /// With several data threads a connection is then closed after its request, because a thread cannot use what
    /// another one keeps.
    pub max_connections: Option<NonZeroU32>,
    /// Requests that wait when all `max_connections` are busy; one more gets 503. 1,024, as in Envoy, when absent.
    pub max_pending_requests: Option<u32>,
    /// Requests that an HTTP/1.1 connection carries before it is closed; unbounded when absent.
    pub max_requests_per_connection: Option<NonZeroU32>,
    /// Whether `x-weir-peer`, in which this sidecar says whose request it sends, goes along; it does when absent. Say `false` where the
    /// endpoints are outside of the mesh: they need not know what services and machines are called here. Outbound only.
    pub send_peer: Option<bool>,
    /// Whether this proxy adds itself to `Via`, by which it ends requests that come round again; it does when absent. Say
    /// `false` where it does harm: nginx compresses nothing for proxies unless `gzip_proxied` says so.
    pub send_via: Option<bool>,
    /// How often an HTTP/2 connection with requests under way is sent a PING, which must be answered within 20 s. None when absent:
    /// gRPC servers close connections that are pinged more often than every five minutes, and TCP keepalive notices a machine
    /// that is gone within 30 s. For where a load balancer between answers that itself, and the servers allow it.
    pub ping_ms: Option<u64>,
}

/// A part of another upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SubsetOf {
    /// That upstream's name.
    pub upstream: String,
    /// All of them must be there with these values. None can be said where endpoints are found by DNS, which knows no labels.
    pub labels: BTreeMap<String, String>,
}

/// Which endpoint a request goes to.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Balance {
    /// Of two drawn at random, the one with the smaller product of latency and requests in flight.
    #[default]
    P2cPeakEwma,
    /// Of two drawn at random, the one with fewer requests in flight.
    LeastRequest,
    /// One after the other, as often as its weight says.
    RoundRobin,
    /// Drawn at random.
    Random,
    /// The same for the same key, as long as it is healthy.
    RingHash(HashOn),
}

/// What the key of a ring is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum HashOn {
    /// The value of this field.
    Header(String),
    /// The value of this cookie; a client without one is given it.
    Cookie(CookieKey),
    /// The value of this query parameter.
    Query(String),
    /// The client's address without its port.
    SourceAddress,
}

/// A cookie that says which client it is.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CookieKey {
    /// Its name.
    pub name: String,
    /// Where it is sent back; the request's path when absent.
    #[serde(default)]
    pub path: Option<String>,
    /// How long a cookie that the proxy sets is kept; until the browser closes when 0. None is set when absent.
    #[serde(default)]
    pub ttl_s: Option<u64>,
}

/// When an endpoint is left out, and for how long. Words and defaults are Envoy's unless it says why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OutlierDetection {
    /// 5 answers of 500 to 599, or none at all, in a row; 0 turns it off.
    pub consecutive_5xx: u32,
    /// 5 answers of 502, 503 or 504, or none at all, in a row; 0 turns it off.
    pub consecutive_gateway_errors: u32,
    /// 10 s without an ejection take one from the count that makes ejections longer.
    pub interval_ms: u64,
    /// 30 s for the first ejection, twice that for the second, and so on.
    pub base_ejection_time_ms: u64,
    /// 300 s at most.
    pub max_ejection_time_ms: u64,
    /// 50: Envoy's 10 would let a single one of few endpoints go. One of several may always go, unless this is 0; the last
    /// one only if it is 100.
    pub max_ejection_percent: u8,
}

/// How many retries may be under way at once: the larger of both numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RetryBudget {
    /// 20 % of the requests under way, as in Envoy and Linkerd: retries never double the load of an overload.
    pub budget_percent: u32,
    /// 3, so that few requests can be retried too.
    pub min_retry_concurrency: u32,
    /// A bound above both; none when absent.
    pub max_retries: Option<u32>,
}

impl Upstream {
    /// An upstream with these endpoints and nothing else said.
    #[must_use]
    pub fn new(name: impl Into<String>, endpoints: Vec<Endpoint>) -> Self {
        Self { name: name.into(), endpoints, ..Self::default() }
    }

    /// Where its endpoints come from.
    pub(crate) fn source(&self) -> &'static str {
        match (&self.discover, &self.subset_of) {
            (Some(Discovery::Dns(_)), _) => "dns",
            (Some(Discovery::DnsSrv(_)), _) => "dns_srv",
            (Some(Discovery::File(_)), _) => "file",
            (Some(Discovery::Consul(_)), _) => "consul",
            (None, Some(_)) => "subset",
            (None, None) => "static",
        }
    }

    /// Whether its endpoints can have labels.
    pub(crate) fn finds_labels(&self) -> bool {
        !matches!(self.discover, Some(Discovery::Dns(_) | Discovery::DnsSrv(_)))
    }

    /// How long endpoints outlive what found them.
    pub(crate) fn keep_endpoints(&self) -> Duration {
        self.keep_endpoints_ms.map_or(KEEP_ENDPOINTS, Duration::from_millis)
    }

    /// What policies and spans call it.
    #[must_use]
    pub fn service(&self) -> &str {
        self.service.as_deref().unwrap_or(&self.name)
    }
}

impl Default for OutlierDetection {
    fn default() -> Self {
        Self {
            consecutive_5xx: 5,
            consecutive_gateway_errors: 5,
            interval_ms: 10_000,
            base_ejection_time_ms: 30_000,
            max_ejection_time_ms: 300_000,
            max_ejection_percent: 50,
        }
    }
}

impl Default for RetryBudget {
    fn default() -> Self {
        Self { budget_percent: 20, min_retry_concurrency: 3, max_retries: None }
    }
}
