//! [`SpanRecord`]: everything that is kept of one request; strings are shared, not copied.

use std::sync::Arc;

use http::{HeaderValue, Method, uri::PathAndQuery};

use crate::{regulate::Refusal, traffic::TraceContext, workload::Route};

/// One span and its access log.
#[derive(Clone)]
pub(crate) struct SpanRecord {
    pub(crate) trace: TraceContext,
    pub(crate) route: Arc<Route>,
    pub(crate) start_unix_nano: u64,
    pub(crate) duration_ns: u64,
    pub(crate) method: Method,
    pub(crate) path: Option<PathAndQuery>,
    /// What a tunnel carried: `tcp`, or what the request asked for. Nothing for requests with an answer.
    pub(crate) tunnel: Option<HeaderValue>,
    /// `service/instance` of the caller, as its sidecar said; inbound only.
    pub(crate) caller: Option<HeaderValue>,
    pub(crate) status: u16,
    pub(crate) action: Action,
    pub(crate) failure: Option<Failure>,
    pub(crate) queue_wait_ns: u64,
    pub(crate) in_flight: u32,
    /// The index among the upstream's endpoints.
    pub(crate) endpoint: Option<usize>,
    pub(crate) response_bytes: u64,
    pub(crate) time_to_first_token_ns: Option<u64>,
    pub(crate) usage: Option<Usage>,
}

/// Tokens as a language model's answer counts them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Usage {
    pub(crate) input_tokens: u64,
    pub(crate) output_tokens: u64,
}

/// What policy did with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Admitted,
    Queued,
    Shed(Refusal),
}

/// Why a request failed in the proxy or on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    ConnectFailed,
    ConnectTimeout,
    UpstreamTimeout,
    UpstreamReset,
    ClientDisconnected,
    RequestTooLarge,
    RequestTooSlow,
    RequestMalformed,
    TunnelIdle,
}

impl SpanRecord {
    /// Whether the collector wants to hear of it as a failure.
    pub(crate) fn failed(&self) -> bool {
        self.failure.is_some() || self.status >= 500
    }
}

impl Action {
    /// As in the attribute `weir.policy_action`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Queued => "queued",
            Self::Shed(refusal) => refusal.as_str(),
        }
    }
}

impl Refusal {
    /// As in the attribute `weir.policy_action` and the header `x-weir-reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::RateLimited { .. } => "rate_limited",
            Self::QueueFull => "queue_full",
            Self::QueueTimeout => "queue_timeout",
            Self::BreakerOpen => "breaker_open",
        }
    }
}

impl Failure {
    /// As in the attribute `error.type` and the header `x-weir-reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::ClientDisconnected => "client_disconnected",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestTooSlow => "request_too_slow",
            Self::RequestMalformed => "request_malformed",
            Self::TunnelIdle => "tunnel_idle",
        }
    }
}
