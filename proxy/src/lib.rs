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
mod discovery;
#[cfg(feature = "fuzzing")]
pub mod fuzz;
mod istio;
mod lm;
mod proxy;
mod regulate;
mod routing;
mod telemetry;
mod traffic;
mod upstream;
mod workload;

pub use config::{
    Abort, AccessLog, Balance, Config, ConfigError, ConsulService, CookieKey, Delay, Direction, Discovery, DnsName,
    Endpoint, Fault, HashOn, HeaderEdits, Limits, Listener, LocalLimit, Locality, LogFormat, Match, Mirror,
    OutlierDetection, PolicySource, Propagation, Protocol, Redirect, Respond, Retries, RetryBudget, Rewrite, Route,
    RouteLimits, Secret, Share, SrvName, SubsetOf, Telemetry, Timeouts, Upstream, ValueMatch, suggest,
};
pub use counters::Counters;
pub use proxy::{Proxy, StartError};
pub use regulate::Priority;
