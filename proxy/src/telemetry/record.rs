//! [`SpanRecord`]: everything that is kept of one request.
//!
//! What comes from the configuration is shared. What the client said is copied, and cut: its own bytes are slices of
//! a read buffer of 8 KiB and more, which would stay for as long as a record waits for its collector.

use std::sync::Arc;

use http::Method;

use crate::{
    lm::{FinishReasons, Name, Operation},
    regulate::Refusal,
    routing::Route,
    security::{Decision, Peer},
    telemetry::Said,
    traffic::{TraceContext, http_status},
    upstream::{Endpoint, Upstream},
};

/// Rings are made of these: it is to stay small, and what few requests have stands behind a pointer.
const _: () = assert!(size_of::<SpanRecord>() <= 272);

/// One span and its access log.
#[derive(Clone)]
pub(crate) struct SpanRecord {
    pub(crate) trace: TraceContext,
    pub(crate) route: Arc<Route>,
    /// Where the request goes; nowhere when the proxy answers itself.
    pub(crate) upstream: Option<Arc<Upstream>>,
    pub(crate) start_unix_nano: u64,
    pub(crate) duration_ns: u64,
    pub(crate) method: Method,
    pub(crate) said: Said,
    /// What a tunnel carried: `tcp`, or what the request asked for. Nothing for requests with an answer.
    pub(crate) tunnel: Option<Box<str>>,
    /// Who the two ends are and what rules said, where that is known.
    pub(crate) proof: Option<Box<Proof>>,
    pub(crate) status: u16,
    /// What gRPC says beside it.
    pub(crate) grpc_status: Option<u16>,
    pub(crate) action: Action,
    pub(crate) failure: Option<Failure>,
    pub(crate) queue_wait_ns: u64,
    pub(crate) in_flight: u32,
    /// That of the last attempt.
    pub(crate) endpoint: Option<Arc<Endpoint>>,
    /// Attempts beside the first.
    pub(crate) retries: u32,
    pub(crate) response_bytes: u64,
    /// Whether an access log of it is wanted.
    pub(crate) log: bool,
    /// What is known of a call to a model.
    pub(crate) lm: Option<Box<LmRecord>>,
}

/// Who TLS has proved the two ends to be, and what rules said.
#[derive(Clone, Debug, Default)]
pub(crate) struct Proof {
    /// The client, if it came by TLS.
    pub(crate) source: Option<Arc<Peer>>,
    /// The server, if it was reached by TLS.
    pub(crate) destination: Option<Arc<Peer>>,
    /// What rules said, if there are any.
    pub(crate) decision: Option<Arc<Decision>>,
}

/// A call to a language model.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct LmRecord {
    pub(crate) operation: Option<Operation>,
    pub(crate) request_model: Option<Name>,
    pub(crate) response_model: Option<Name>,
    /// All of them, whether or not a cache had them.
    pub(crate) input_tokens: Option<u64>,
    pub(crate) cache_read_tokens: Option<u64>,
    pub(crate) cache_creation_tokens: Option<u64>,
    pub(crate) output_tokens: Option<u64>,
    pub(crate) time_to_first_token_ns: Option<u64>,
    pub(crate) time_per_output_token_ns: Option<u64>,
    pub(crate) finish_reasons: FinishReasons,
    /// The answer was compressed, and was not read.
    pub(crate) compressed: bool,
}

/// What policy did with the request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    Admitted,
    Queued,
    Shed(Refusal),
    /// It may not do what it asks, or does not prove who it is.
    Denied,
    /// It contradicts itself, asks for what is not done here, or has no route; why, as in `x-weir-reason`.
    Rejected(&'static str),
}

/// Why a request failed in the proxy or on its way.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    NoEndpoint,
    ConnectFailed,
    ConnectTimeout,
    /// TLS with the upstream: it is not who it should be, or speaks none.
    TlsFailed,
    UpstreamTimeout,
    UpstreamReset,
    /// Before the upstream began to work on it.
    StreamRefused,
    /// gRPC was sent over HTTP/1.1, as the file says, and whoever heard it did not understand.
    GrpcOverHttp1,
    /// The answer's body stopped for too long.
    IdleTimeout,
    /// The answer's body took too long as a whole.
    StreamTimeout,
    ClientDisconnected,
    RequestTooLarge,
    RequestTooSlow,
    RequestMalformed,
    TunnelIdle,
}

impl SpanRecord {
    /// Whether logs have it as a failure; which spans are errors says [`Self::is_error`]. That a client has left in the middle of an answer is none: so
    /// people stop a model.
    pub(crate) fn failed(&self) -> bool {
        let left_an_answer = self.failure == Some(Failure::ClientDisconnected) && self.status < 400;
        (self.failure.is_some() && !left_an_answer) || self.as_http() >= 500
    }

    /// The status as HTTP would have it.
    pub(crate) fn as_http(&self) -> u16 {
        match self.grpc_status {
            Some(grpc) if grpc > 0 && self.status < 400 => http_status(grpc),
            _ => self.status,
        }
    }
}

impl Action {
    /// As in the attribute `weir.policy_action`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Admitted => "admitted",
            Self::Queued => "queued",
            Self::Shed(refusal) => refusal.as_str(),
            Self::Denied => "denied",
            Self::Rejected(_) => "rejected",
        }
    }
}

impl Refusal {
    /// Every reason, in the order of [`Self::index`].
    pub(crate) const REASONS: [&str; 8] = [
        "rate_limited",
        "queue_full",
        "queue_timeout",
        "deadline_unmeetable",
        "displaced",
        "breaker_open",
        "tokens_exhausted",
        "upstream_overflow",
    ];

    /// Its place among [`Self::REASONS`].
    pub(crate) fn index(self) -> usize {
        match self {
            Self::RateLimited { .. } => 0,
            Self::QueueFull => 1,
            Self::QueueTimeout => 2,
            Self::DeadlineUnmeetable { .. } => 3,
            Self::Displaced => 4,
            Self::BreakerOpen => 5,
            Self::TokensExhausted { .. } => 6,
            Self::UpstreamOverflow => 7,
        }
    }

    /// As in the attribute `weir.policy_action` and the header `x-weir-reason`.
    pub(crate) fn as_str(self) -> &'static str {
        Self::REASONS[self.index()]
    }
}

impl Failure {
    /// Whether the client broke its own request, of which the upstream is innocent.
    pub(crate) fn is_the_clients(self) -> bool {
        matches!(self, Self::RequestTooLarge | Self::RequestTooSlow | Self::RequestMalformed)
    }

    /// Whether it says nothing of the endpoint that was asked: there was none, or it was asked in the wrong tongue.
    pub(crate) fn is_nobodys(self) -> bool {
        matches!(self, Self::NoEndpoint | Self::GrpcOverHttp1)
    }

    /// Whether there was no connection at all.
    pub(crate) fn is_unreachable(self) -> bool {
        matches!(self, Self::ConnectFailed | Self::ConnectTimeout | Self::TlsFailed)
    }

    /// As in the attribute `error.type` and the header `x-weir-reason`.
    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::NoEndpoint => "no_endpoint",
            Self::ConnectFailed => "connect_failed",
            Self::ConnectTimeout => "connect_timeout",
            Self::TlsFailed => "tls_failed",
            Self::UpstreamTimeout => "upstream_timeout",
            Self::UpstreamReset => "upstream_reset",
            Self::StreamRefused => "stream_refused",
            Self::GrpcOverHttp1 => "grpc_over_http1",
            Self::IdleTimeout => "idle_timeout",
            Self::StreamTimeout => "stream_timeout",
            Self::ClientDisconnected => "client_disconnected",
            Self::RequestTooLarge => "request_too_large",
            Self::RequestTooSlow => "request_too_slow",
            Self::RequestMalformed => "request_malformed",
            Self::TunnelIdle => "tunnel_idle",
        }
    }
}
