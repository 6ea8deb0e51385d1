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
mod listener;
mod matching;
mod route;
mod secret;
mod telemetry;
mod timeouts;
mod tls;
mod upstream;
mod validate;
mod yaml;

pub use authorization::{Authorization, AuthorizationAction, AuthorizationRule, Conditions};
pub(crate) use check_upstream::no_labels;
pub use discovery::{ConsulService, Discovery, DnsName, SrvName};
pub use endpoint::{Endpoint, Locality};
pub use http::Http;
pub use jwt::{ClaimToHeader, Jwks, Jwt, JwtIssuer, JwtPlace};
pub use limits::{Limits, LocalLimit, RouteLimits};
pub use listener::{Connect, Direction, Forwarded, Listener, ListenerProtocol};
pub use matching::{Match, ValueMatch};
pub use route::{Abort, Delay, Fault, HeaderEdits, Mirror, Redirect, Respond, Retries, Rewrite, Route, Share};
pub use secret::Secret;
pub use telemetry::{AccessLog, LogFormat, Propagation, Telemetry};
pub use timeouts::Timeouts;
pub use tls::{ForwardClientCert, ListenerTls, RemoteTls, TlsMode, UpstreamTls, Verify};
pub use upstream::{Balance, CookieKey, HashOn, OutlierDetection, RetryBudget, SubsetOf, Upstream};
pub(crate) use validate::{LONGEST_MS, OURS};
pub use yaml::suggest;

use std::{net::SocketAddr, num::NonZeroU32, path::PathBuf};

use serde::{Deserialize, Serialize};

/// Everything a proxy can be told.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The workload this proxy stands beside.
    pub service: String,
    /// Which of the service's instances: each needs another. `host:port` of the first listener when absent, with the machine's name where
    /// that listens on all addresses or on loopback.
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
    /// 10,000 connections a data thread keeps open; one more is closed at once. Idle they take some 200 MiB. One that is busy
    /// may hold up to three times `http.max_header_bytes`, and over HTTP/2 1 MiB of uploads and 64 KiB of each answer nobody reads,
    /// 7.4 MiB with 100 streams, and 256 KiB more of each where the upstream speaks HTTP/2: where clients are strangers, `max_connections_per_client` is the bound on what each can cost.
    #[serde(default = "max_connections")]
    pub max_connections: usize,
    /// How many of them one client's address may have; half of them when absent, and from the same machine all.
    #[serde(default)]
    pub max_connections_per_client: Option<usize>,
    /// MiB of memory that the process may have, with all its buffers. From there on nothing new is let in: connections are closed
    /// at once, and requests on open ones get 503. When absent, nine tenths of what its control group or the machine has.
    #[serde(default)]
    pub max_memory_mib: Option<NonZeroU32>,
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

/// Where limits come from.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySource {
    /// The controller's gRPC address, as `http://host:port` or `https://host:port`. Whoever can answer there sets limits, and
    /// without TLS whoever can answer for it does, too.
    pub from: String,
    /// How the controller of an `https://` address is known and whom this workload shows itself as; by the system's roots and
    /// the host's name when absent.
    #[serde(default)]
    pub tls: Option<RemoteTls>,
    /// Where the last good policy is kept for the next start; nowhere when absent.
    #[serde(default)]
    pub state_dir: Option<PathBuf>,
    /// The least rate that a policy may hold this replica to; a set with less is refused. 0.001, a request in a quarter of
    /// an hour, unless it says otherwise: less is a slip, or worse. Nor can a policy's concurrency limit be less than
    /// `servers`, where that is known.
    #[serde(default = "min_rate_per_s")]
    pub min_rate_per_s: f64,
}

/// A configuration that cannot be used: which key, and what would be accepted.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct ConfigError(pub String);

fn min_rate_per_s() -> f64 {
    0.001
}

fn max_connections() -> usize {
    10_000
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

#[cfg(test)]
mod tests;
