//! [`Config`]: what `proxy.yaml` can say, with its defaults and why they are what they are.
//!
//! File → validated `Config` → running parts; nothing reads the environment later.

mod authorization;
mod check_route;
mod check_upstream;
mod discovery;
mod endpoint;
mod http;
mod jwt;
mod limits;
mod matching;
mod route;
mod secret;
mod tls;
mod upstream;
mod validate;
mod yaml;

pub use authorization::{Authorization, AuthorizationAction, AuthorizationRule, Conditions};
pub use discovery::{ConsulService, Discovery, DnsName, SrvName};
pub use endpoint::{Endpoint, Locality};
pub use http::Http;
pub use jwt::{ClaimToHeader, Jwks, Jwt, JwtIssuer, JwtPlace};
pub use limits::{Limits, LocalLimit, RouteLimits};
pub use matching::{Match, ValueMatch};
pub use route::{Abort, Delay, Fault, HeaderEdits, Mirror, Redirect, Respond, Retries, Rewrite, Route, Share};
pub use secret::Secret;
pub use tls::{ForwardClientCert, ListenerTls, TlsMode, UpstreamTls, Verify};
pub use upstream::{Balance, CookieKey, HashOn, OutlierDetection, RetryBudget, SubsetOf, Upstream};
pub(crate) use validate::LONGEST_MS;
pub use yaml::suggest;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

/// Everything a proxy can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The workload this proxy stands beside.
    pub service: String,
    /// Which of the service's instances; `host:port` of the first listener when absent.
    #[serde(default)]
    pub instance: Option<String>,
    /// How many requests the workload serves at once (c), when known.
    #[serde(default)]
    pub servers: Option<u32>,
    /// Where the workload runs: `prefer_local` measures nearness from here.
    #[serde(default)]
    pub locality: Option<Locality>,
    /// Where `/metrics`, `/policy`, `/endpoints`, `/config`, `/tap`, `/healthz` and `/drain` are answered; nowhere when absent.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Data threads; one per core when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// 10,000 connections a data thread keeps open: about 200 MiB at worst; one more is closed at once.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// What who asks at the admin address has to know, as `authorization: Bearer …`; needed beyond loopback.
    #[serde(default)]
    pub admin_token: Option<Secret>,
    /// A file that holds the `admin_token`, so that it need not stand here.
    #[serde(default)]
    pub admin_token_file: Option<PathBuf>,
    /// Allows an admin address beyond loopback although it asks for no credentials.
    #[serde(default)]
    pub insecure: bool,
    /// Where traffic comes in.
    pub listeners: Vec<Listener>,
    /// Where traffic goes.
    pub upstreams: Vec<Upstream>,
    /// What the service is held to while no policy says otherwise.
    #[serde(default)]
    pub limits: Limits,
    /// What one client may cost.
    #[serde(default)]
    pub http: Http,
    /// How long things may take.
    #[serde(default)]
    pub timeouts: Timeouts,
    /// Where spans, metrics and access logs go.
    #[serde(default)]
    pub telemetry: Telemetry,
    /// Where limits come from.
    #[serde(default)]
    pub policy: Option<PolicySource>,
}

/// One address that takes traffic.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Listener {
    /// Port 0 takes a free one. HTTP/1.1 and prior-knowledge h2c are told apart by the first bytes.
    pub address: SocketAddr,
    /// Which side of the workload this is.
    pub direction: Direction,
    /// What clients may speak here.
    #[serde(default)]
    pub protocol: ListenerProtocol,
    /// The first that matches is taken. None where only plain TCP is spoken.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Files of Istio's `VirtualService` and `DestinationRule`, outbound only; their routes come after those above.
    /// A host in them is the upstream of that name, short or fully qualified. What cannot be honoured is an error.
    /// Paths are as seen from where the proxy was started.
    #[serde(default)]
    pub istio: Vec<PathBuf>,
    /// Where plain TCP goes: an upstream's name, for `protocol: tcp` and `detect` only.
    #[serde(default)]
    pub upstream: Option<String>,
    /// What becomes of `CONNECT`.
    #[serde(default)]
    pub connect: Connect,
    /// Who may connect, and how they prove it; no TLS when absent.
    #[serde(default)]
    pub tls: Option<ListenerTls>,
    /// Whose tokens are believed; none are looked at when absent.
    #[serde(default)]
    pub jwt: Option<Jwt>,
    /// Who may do what; all may when absent.
    #[serde(default)]
    pub authorization: Option<Authorization>,
}

/// What clients of a listener may speak.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ListenerProtocol {
    /// HTTP/1.1 and prior-knowledge HTTP/2.
    #[default]
    Http,
    /// Anything; bytes are passed on unread.
    Tcp,
    /// HTTP where the first bytes are HTTP, else TCP; TCP too when the client says nothing for `timeouts.detect_ms`.
    Detect,
}

/// What becomes of `CONNECT`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Connect {
    /// A 405: a sidecar that tunnels anywhere is a way around its own rules.
    #[default]
    Refused,
    /// A tunnel to an endpoint of the upstream whose route matches the host; never to an address of the client's choice.
    Tunnelled,
}

/// Which side of the workload a listener is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// Others call the workload.
    Inbound,
    /// The workload calls others.
    Outbound,
}

/// What an upstream speaks.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Protocol {
    /// HTTP/1.1 with kept-alive connections.
    #[default]
    Http1,
    /// HTTP/2: without TLS known beforehand, with TLS agreed on by ALPN.
    H2,
}

/// How long things may take, in milliseconds.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Timeouts {
    /// 1 s: a connection inside a cluster takes well under 1 ms, and one lost SYN is sent again after 1 s.
    pub connect_ms: u64,
    /// 10 s to send a request's head; also how long an idle client connection is kept.
    pub header_read_ms: u64,
    /// 60 s for the head of a response: model services may think for long before the first token.
    pub response_ms: u64,
    /// 1 s that a client of a listener with `protocol: detect` may stay silent before the server is let speak first.
    pub detect_ms: u64,
    /// 5 min without a byte of a request's body: long streams think, and nothing is gathered meanwhile.
    pub body_idle_ms: u64,
    /// 60 s that a client may not read while an answer waits for it.
    pub write_idle_ms: u64,
    /// 1 h in which nothing moves in a tunnel (TCP, WebSocket, `CONNECT`): database pools stay idle for long.
    pub tunnel_idle_ms: u64,
    /// 8 s an idle upstream connection is kept: below the 10 s after which our own inbound side closes it.
    pub pool_idle_ms: u64,
    /// 10 s that requests in flight get to finish when the proxy drains.
    pub drain_ms: u64,
}

/// Where spans, metrics and access logs go, and how many of them.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Telemetry {
    /// OTLP/gRPC, as `http://host:port`; nothing is recorded when absent.
    pub otlp: Option<String>,
    /// The share of traces started here that is recorded; a trace that comes in is recorded if its caller says so.
    pub span_ratio: f64,
    /// How traces are continued: the first form that a request has is believed, all are written.
    pub propagation: Vec<Propagation>,
    /// Which requests leave an access log.
    pub access_log: AccessLog,
    /// The share of those that leave one.
    pub access_log_ratio: f64,
    /// A file that access logs are appended to as lines, `-` for stdout, beside those sent as OTLP.
    pub access_log_file: Option<PathBuf>,
    /// What the lines look like.
    pub access_log_format: LogFormat,
    /// 65,536 records (about 20 MiB) that wait while the collector is away; newer ones are dropped and counted.
    pub queue_records: usize,
    /// 512 spans: about 150 KiB, well under the collector's 4 MiB.
    pub batch_spans: usize,
    /// 200 ms until a batch leaves although it is not full.
    pub batch_age_ms: u64,
    /// 5 s between two exports of metrics.
    pub metrics_interval_ms: u64,
    /// 30 s that one batch is tried again before it is given up.
    pub retry_ms: u64,
    /// 5 s that the last batches get when the proxy stops.
    pub flush_ms: u64,
}

/// A form in which a trace's context travels; the words of `OTEL_PROPAGATORS`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Propagation {
    /// W3C: `traceparent` and `tracestate`.
    Tracecontext,
    /// B3 in one field, `b3`.
    B3,
    /// B3 in several fields, `x-b3-…`.
    B3multi,
}

/// What a line of the access log looks like.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum LogFormat {
    /// An object with the attributes of the span.
    #[default]
    Json,
    /// Words in a fixed order.
    Text,
}

/// Which requests leave an access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that were shed, denied, failed, or were answered with a 5xx.
    #[default]
    Errors,
    /// Every one.
    All,
}

/// Where limits come from.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    /// The controller's gRPC address, as `http://host:port`.
    pub from: String,
    /// Where the last good policy is kept for the next start; nowhere when absent.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
}

/// A configuration that cannot be used: which key, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn max_connections() -> usize {
    10_000
}

impl Default for Timeouts {
    fn default() -> Self {
        Self {
            connect_ms: 1_000,
            header_read_ms: 10_000,
            response_ms: 60_000,
            detect_ms: 1_000,
            body_idle_ms: 300_000,
            write_idle_ms: 60_000,
            tunnel_idle_ms: 3_600_000,
            pool_idle_ms: 8_000,
            drain_ms: 10_000,
        }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp: None,
            span_ratio: 1.0,
            propagation: vec![Propagation::Tracecontext],
            access_log: AccessLog::default(),
            access_log_ratio: 1.0,
            access_log_file: None,
            access_log_format: LogFormat::default(),
            queue_records: 65_536,
            batch_spans: 512,
            batch_age_ms: 200,
            metrics_interval_ms: 5_000,
            retry_ms: 30_000,
            flush_ms: 5_000,
        }
    }
}

impl Config {
    /// Reads and checks a `proxy.yaml`.
    ///
    /// # Errors
    /// A [`ConfigError`] that names the key, with the nearest known one if it is not known.
    pub fn from_yaml(text: &str) -> Result<Self, ConfigError> {
        let config: Self = yaml::parse(text)?;
        config.validate()?;
        Ok(config)
    }

    /// How many data threads run.
    #[must_use]
    pub fn thread_count(&self) -> usize {
        let cores = || std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
        self.threads.unwrap_or_else(cores)
    }
}

impl Direction {
    /// As in the attribute `weir.direction`.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Inbound => "inbound",
            Self::Outbound => "outbound",
        }
    }
}

impl Timeouts {
    pub(crate) fn connect(&self) -> Duration {
        Duration::from_millis(self.connect_ms)
    }
    pub(crate) fn header_read(&self) -> Duration {
        Duration::from_millis(self.header_read_ms)
    }
    pub(crate) fn response(&self) -> Duration {
        Duration::from_millis(self.response_ms)
    }
    pub(crate) fn detect(&self) -> Duration {
        Duration::from_millis(self.detect_ms)
    }
    pub(crate) fn body_idle(&self) -> Duration {
        Duration::from_millis(self.body_idle_ms)
    }
    pub(crate) fn write_idle(&self) -> Duration {
        Duration::from_millis(self.write_idle_ms)
    }
    pub(crate) fn tunnel_idle(&self) -> Duration {
        Duration::from_millis(self.tunnel_idle_ms)
    }
    pub(crate) fn pool_idle(&self) -> Duration {
        Duration::from_millis(self.pool_idle_ms)
    }
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

#[cfg(test)]
mod tests;
