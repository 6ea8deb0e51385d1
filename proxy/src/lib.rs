//! The sidecar: it measures every request that passes and holds the traffic to a policy.
//!
//! [`Config`] (YAML) → [`Proxy::start`] binds the listeners, then runs N data threads, each with its
//! own runtime, sockets and connection pool, and one control thread that exports telemetry, follows
//! the policy stream and answers the admin address. What a client sends is read strictly before it is
//! believed (`connection`). A request walks match → admit → pick → forward →
//! observe (`traffic`); what holds it back is pure and tested without a network (`regulate`); what is
//! seen of it leaves as OTLP (`telemetry`).

mod config;
mod connection;
mod control;
mod counters;
mod proxy;
mod regulate;
mod reload;
mod sockets;
mod telemetry;
mod traffic;
mod watch_file;
mod workload;

pub use config::{
    AccessLog, Config, ConfigError, Connect, Direction, Http, Limits, Listener, ListenerProtocol, Match, PolicySource,
    Protocol, Route, Telemetry, Timeouts, Upstream, suggest,
};
pub use counters::Counters;
pub use proxy::{Proxy, StartError};
pub use reload::ReloadError;
pub use watch_file::watch_file;
