//! [`Config`]: what `proxy.yaml` can say, with its defaults and why they are what they are.
//!
//! File → validated `Config` → running parts; nothing reads the environment later.

mod check_upstream;
mod discovery;
mod endpoint;
mod matching;
mod route;
mod upstream;
mod validate;
mod yaml;

pub use discovery::{ConsulService, Discovery, DnsName, SrvName};
pub use endpoint::{Endpoint, Locality};
pub use matching::{Match, ValueMatch};
pub use route::{Abort, Delay, Fault, HeaderEdits, Mirror, Redirect, Respond, Retries, Rewrite, Route, Share};
pub use upstream::{Balance, CookieKey, HashOn, OutlierDetection, RetryBudget, SubsetOf, Upstream};
pub(crate) use validate::LONGEST_MS;
pub use yaml::suggest;

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use weir_policy::{ConcurrencyLimit, RateLimit};

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
    /// Where `/metrics`, `/policy`, `/endpoints`, `/healthz` and `/drain` are answered; nowhere when absent.
    #[serde(default)]
    pub admin: Option<SocketAddr>,
    /// Data threads; one per core when absent.
    #[serde(default)]
    pub threads: Option<usize>,
    /// 10,000 connections a data thread keeps open: about 200 MiB at worst; one more is closed at once.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
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
    /// The first that matches is taken.
    #[serde(default)]
    pub routes: Vec<Route>,
    /// Files of Istio's `VirtualService` and `DestinationRule`, outbound only; their routes come after those above.
    /// A host in them is the upstream of that name, short or fully qualified. What cannot be honoured is an error.
    /// Paths are as seen from where the proxy was started.
    #[serde(default)]
    pub istio: Vec<PathBuf>,
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
    /// HTTP/2 without TLS, known beforehand.
    H2,
}

/// The static limits of the service, obeyed at its inbound listeners.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in flight.
    pub concurrency_limit: Option<ConcurrencyLimit>,
    /// Requests per second.
    pub rate_limit: Option<RateLimit>,
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
    /// Which requests leave an access log.
    pub access_log: AccessLog,
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

/// Which requests leave an access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AccessLog {
    /// None.
    Off,
    /// Those that were shed, failed, or were answered with a 5xx.
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
        Self { connect_ms: 1_000, header_read_ms: 10_000, response_ms: 60_000, pool_idle_ms: 8_000, drain_ms: 10_000 }
    }
}

impl Default for Telemetry {
    fn default() -> Self {
        Self {
            otlp: None,
            span_ratio: 1.0,
            access_log: AccessLog::default(),
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
    pub(crate) fn pool_idle(&self) -> Duration {
        Duration::from_millis(self.pool_idle_ms)
    }
    pub(crate) fn drain(&self) -> Duration {
        Duration::from_millis(self.drain_ms)
    }
}

#[cfg(test)]
mod tests;
