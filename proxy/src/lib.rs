//! The sidecar: it measures every request that passes and holds the traffic to a policy.
//!
//! [`Config`] (YAML) → [`Proxy::start`] binds the listeners, then runs N data threads, each with its
//! own runtime, sockets and connection pool, and one control thread that exports telemetry, follows
//! the policy stream and answers the admin address. A request walks match → admit → pick → forward →
//! observe (`traffic`); what holds it back is pure and tested without a network (`regulate`); what is
//! seen of it leaves as OTLP (`telemetry`).

mod config;
mod control;
mod counters;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod lm;
mod proxy;
mod regulate;
mod telemetry;
mod traffic;
mod workload;

pub use config::{
    AccessLog, Config, ConfigError, Direction, Limits, Listener, LocalLimit, LogFormat, Match, PolicySource,
    Propagation, Protocol, Route, RouteLimits, Secret, Telemetry, Timeouts, Upstream, suggest,
};
pub use counters::Counters;
pub use proxy::{Proxy, StartError};
pub use regulate::Priority;
