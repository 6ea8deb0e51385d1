//! Where endpoints are found when they are not listed.

use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::config::RemoteTls;

/// Where endpoints are found.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::large_enum_variant, reason = "an upstream has one, and it is moved once")]
pub enum Discovery {
    /// The addresses (A, AAAA) of a name, asked again when their time to live ends.
    Dns(DnsName),
    /// The targets, ports, priorities and weights (SRV) of a name, asked again when their time to live ends.
    DnsSrv(SrvName),
    /// A YAML or JSON file that holds a list as under `endpoints`; looked at again every second.
    File(PathBuf),
    /// The healthy instances of a service in Consul's catalogue.
    Consul(ConsulService),
}

/// A name with addresses.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DnsName {
    /// The name.
    pub name: String,
    /// The port at each of its addresses.
    pub port: u16,
    /// `host:port` of the server to ask; the system's when absent.
    #[serde(default)]
    pub server: Option<std::net::SocketAddr>,
}

/// A name with services.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SrvName {
    /// The name, such as `_http._tcp.reviews.example`.
    pub name: String,
    /// `host:port` of the server to ask; the system's when absent.
    #[serde(default)]
    pub server: Option<std::net::SocketAddr>,
}

/// A service in Consul's catalogue.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConsulService {
    /// Its name there.
    pub service: String,
    /// The agent, as `http://host:port` or `https://host:port`.
    #[serde(default = "agent")]
    pub address: String,
    /// How the agent of an `https://` address is known and whom this workload shows itself as; by the system's roots and the
    /// host's name when absent.
    #[serde(default)]
    pub tls: Option<RemoteTls>,
    /// Another data centre than the agent's.
    #[serde(default)]
    pub datacenter: Option<String>,
    /// Another namespace than the token's (Consul Enterprise).
    #[serde(default)]
    pub namespace: Option<String>,
    /// Only instances with this tag.
    #[serde(default)]
    pub tag: Option<String>,
    /// 60 s until Consul answers although nothing changed: it notices a dead agent and costs nothing.
    #[serde(default = "wait")]
    pub wait_ms: u64,
    /// A file that holds the token; read with each question, because tokens are renewed.
    #[serde(default)]
    pub token_file: Option<PathBuf>,
}

fn agent() -> String {
    "http://127.0.0.1:8500".to_owned()
}

fn wait() -> u64 {
    60_000
}
