//! The sidecar: it measures every request that passes and holds the traffic to a policy.
//!
//! [`Config`] (YAML) → [`Proxy::start`] binds the listeners, then runs N data threads, each with its
//! own runtime, sockets and connection pool, and one control thread that exports telemetry, follows
//! the policy stream and answers the admin address. A request walks match → authorize → admit → pick →
//! forward → observe (`traffic`); who sends it and what it may do is settled in `security`; what holds it
//! back is pure and tested without a network (`regulate`); what is seen of it leaves as OTLP (`telemetry`).

mod authority;
mod config;
mod control;
mod counters;
mod discovery;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod istio;
mod lm;
mod proxy;
mod regulate;
mod routing;
mod security;
mod telemetry;
mod traffic;
mod upstream;
mod workload;

pub use config::{
    Abort, AccessLog, Authorization, AuthorizationAction, AuthorizationRule, Balance, ClaimToHeader, Conditions,
    Config, ConfigError, ConsulService, CookieKey, Delay, Direction, Discovery, DnsName, Endpoint, Fault,
    ForwardClientCert, HashOn, HeaderEdits, Jwks, Jwt, JwtIssuer, JwtPlace, Limits, Listener, ListenerTls, LocalLimit,
    Locality, LogFormat, Match, Mirror, OutlierDetection, PolicySource, Propagation, Protocol, Redirect, Respond,
    Retries, RetryBudget, Rewrite, Route, RouteLimits, Secret, Share, SrvName, SubsetOf, Telemetry, Timeouts, TlsMode,
    Upstream, UpstreamTls, ValueMatch, Verify, suggest,
};
pub use counters::Counters;
pub use proxy::{Proxy, StartError};
pub use regulate::Priority;
pub use security::SecurityError;
