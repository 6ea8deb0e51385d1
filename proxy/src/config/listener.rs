//! [`Listener`]: one address that takes traffic: what may be spoken there, by whom, and where it goes.

use std::{net::SocketAddr, path::PathBuf};

use serde::{Deserialize, Serialize};

use crate::config::{Authorization, Jwt, ListenerTls, Route};

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
    /// Whether `x-weir-peer`, in which a sidecar says whose request it sends, is believed: it becomes an edge of the service
    /// graph. When absent: where `tls.trust` lets clients prove who they are, from those who have, elsewhere from everybody.
    /// Say `false` where clients come in from outside the mesh. Inbound only.
    #[serde(default)]
    pub believe_peer: Option<bool>,
    /// What becomes of `X-Forwarded-For` and `X-Forwarded-Proto`, in which the application reads whom a request is from and
    /// how it came: `append` when absent. Say `replace` where clients come in from outside the mesh. Inbound only.
    #[serde(default)]
    pub forwarded: Option<Forwarded>,
    /// How many proxies that are trusted stand before this listener, a load balancer say, each of which adds to `X-Forwarded-For` who asks
    /// it: Envoy's `xff_num_trusted_hops`. The client is then the address that stands as many places from the right of the field; 0,
    /// or a field that has none there, is whoever connects. Spans and access logs (`client.address`), `source_address` of `ring_hash`
    /// and `forwarded: replace` mean that client; `max_connections_per_client` and plain TCP, whoever connects. Say it only where nobody
    /// can connect but by those proxies. Inbound only.
    #[serde(default)]
    pub trusted_hops: u32,
}

/// What becomes of `X-Forwarded-For` and `X-Forwarded-Proto`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Forwarded {
    /// The address of who connects comes behind those that are there, and the protocol where none is said: who was before is believed.
    #[default]
    Append,
    /// What came goes: the address is the client's, and the protocol the one it speaks here, or as its `trusted_hops` say.
    Replace,
    /// Both stay as they came.
    Keep,
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
