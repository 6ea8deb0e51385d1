//! The sidecar: it measures every request that passes and holds the traffic to a policy.
//!
//! [`Config`] (YAML) → [`Proxy::start`] binds the listeners, then runs N data threads, each with its
//! own runtime, sockets and connection pool, and one control thread that exports telemetry, follows
//! the policy stream and answers the admin address. A request walks match → authorize → admit → pick →
//! forward → observe (`traffic`); who sends it and what it may do is settled in `security`; what holds it
//! back is pure and tested without a network (`regulate`); what is seen of it leaves as OTLP (`telemetry`).

mod config;
mod control;
mod counters;
mod proxy;
mod regulate;
mod security;
mod telemetry;
mod traffic;
mod workload;

pub use config::{
    AccessLog, Authorization, AuthorizationAction, AuthorizationRule, ClaimToHeader, Conditions, Config, ConfigError,
    Direction, ForwardClientCert, Jwks, Jwt, JwtIssuer, JwtPlace, Limits, Listener, ListenerTls, Match, PolicySource,
    Protocol, Route, Telemetry, Timeouts, TlsMode, Upstream, UpstreamTls, Verify, suggest,
};
pub use counters::Counters;
pub use proxy::{Proxy, StartError};
pub use security::SecurityError;
