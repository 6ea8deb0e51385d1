//! The sidecar: it measures every request that passes and holds the traffic to a policy.
//!
//! [`Config`] (YAML) → [`Proxy::start`] binds the listeners, then runs N data threads, each with its
//! own runtime, sockets and connection pool, and one control thread that exports telemetry, follows
//! the policy stream and answers the admin address. What a client sends is read strictly before it is
//! believed (`connection`). A request walks match → authorize → admit → pick →
//! forward → observe (`traffic`); who sends it and what it may do is settled in `security`; what holds it
//! back is pure and tested without a network (`regulate`); what is seen of it leaves as OTLP (`telemetry`).

mod authority;
mod config;
mod config_files;
mod connection;
mod control;
mod counters;
mod discovery;
#[cfg(any(test, feature = "fuzzing"))]
pub mod fuzz;
mod istio;
mod lm;
mod memory;
mod path;
mod probe;
mod proxy;
mod regulate;
mod reload;
mod routing;
mod security;
mod sockets;
mod telemetry;
mod traffic;
mod upstream;
mod watch_files;
mod workload;

pub use config::{
    Abort, AccessLog, Authorization, AuthorizationAction, AuthorizationRule, Balance, ClaimToHeader, Conditions,
    Config, ConfigError, Connect, ConsulService, CookieKey, Delay, Direction, Discovery, DnsName, Endpoint, Fault,
    ForwardClientCert, Forwarded, HashOn, HeaderEdits, Http, Jwks, Jwt, JwtIssuer, JwtPlace, Limits, Listener,
    ListenerProtocol, ListenerTls, LocalLimit, Locality, LogFormat, Match, Mirror, OutlierDetection, PolicySource,
    Propagation, Protocol, Redirect, RemoteTls, Respond, Retries, RetryBudget, Rewrite, Route, RouteLimits, Secret,
    Share, SrvName, SubsetOf, Telemetry, Timeouts, TlsMode, Upstream, UpstreamTls, ValueMatch, Verify, suggest,
};
pub use config_files::ConfigFiles;
pub use counters::Counters;
pub use memory::given_bytes;
pub use probe::Probe;
pub use proxy::{Proxy, StartError};
pub use regulate::Priority;
pub use reload::ReloadError;
pub use security::SecurityError;
pub use watch_files::watch_files;
