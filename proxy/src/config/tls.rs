//! What `proxy.yaml` says of TLS: who the workload is, whom it trusts, whom it expects.

use std::{path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};
use weir_policy::{SpiffeId, identity::is_trust_domain};

use crate::config::{ConfigError, validate::check};

/// TLS at a listener. The files are watched: what replaces them is used for new connections within a second.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ListenerTls {
    /// Whether connections without TLS are taken.
    #[serde(default)]
    pub mode: TlsMode,
    /// The workload's certificate and what signed it, as PEM, the workload's first.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of the certificate, as PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The roots that clients' certificates must lead to, as PEM.
    #[serde(default)]
    pub trust: Option<PathBuf>,
    /// A client without a certificate is refused. `false` still checks one that is shown.
    #[serde(default = "yes")]
    pub require_client_certificate: bool,
    /// The trust domains whose workloads may call; the one of the own certificate when empty. If that has none either,
    /// any certificate that leads to `trust` is taken. Every root in `trust` may speak for each of these.
    #[serde(default)]
    pub trust_domains: Vec<String>,
    /// What becomes of the header `X-Forwarded-Client-Cert`.
    #[serde(default)]
    pub forward_client_cert: ForwardClientCert,
    /// 5 s for a handshake: ten round trips around the world; a client that dawdles holds a place.
    #[serde(default = "handshake_timeout_ms")]
    pub handshake_timeout_ms: u64,
    /// 256 handshakes under way in a data thread: about ¼ s of its work; one more is closed at once and counted.
    #[serde(default = "max_handshakes")]
    pub max_handshakes: usize,
}

/// Whether a listener speaks TLS, as Istio's `PeerAuthentication` names it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum TlsMode {
    /// TLS only: what does not begin with a handshake is closed.
    #[default]
    Strict,
    /// TLS or none, told apart by the first byte; for a mesh on its way to `strict`.
    Permissive,
    /// None.
    Off,
}

/// What becomes of `X-Forwarded-Client-Cert`; names and meaning are Envoy's. Where the client showed no certificate, all but
/// `always_forward_only` remove it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ForwardClientCert {
    /// It is removed.
    Sanitize,
    /// It is replaced by what the client's certificate says: nobody but this proxy is believed.
    #[default]
    SanitizeSet,
    /// What the client's certificate says is added to it.
    AppendForward,
    /// It is passed on as the client sent it.
    ForwardOnly,
    /// It is passed on even from clients without a certificate; only behind a proxy that removes it.
    AlwaysForwardOnly,
}

/// TLS towards an upstream. The files are watched as those of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct UpstreamTls {
    /// The certificate this workload shows, as PEM; none is shown when absent.
    #[serde(default)]
    pub certificate: Option<PathBuf>,
    /// The key of the certificate, as PEM.
    #[serde(default)]
    pub key: Option<PathBuf>,
    /// The roots that the upstream's certificate must lead to, as PEM.
    pub trust: PathBuf,
    /// Whom the certificate must name.
    #[serde(default)]
    pub verify: Verify,
}

/// TLS towards somebody who is no upstream: the control plane, the collector. The files are watched as those of a listener.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RemoteTls {
    /// The certificate this workload shows, as PEM; none is shown when absent.
    pub certificate: Option<PathBuf>,
    /// The key of the certificate, as PEM.
    pub key: Option<PathBuf>,
    /// The roots that the other end's certificate must lead to, as PEM; the system's when absent.
    pub trust: Option<PathBuf>,
    /// Whom the certificate must name.
    pub verify: Verify,
}

/// Whom the certificate of the other end must name; the host of its address when nothing is said.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Verify {
    /// One of these SPIFFE ids; one that ends in `*` stands for all that begin so.
    pub spiffe_ids: Vec<String>,
    /// This host name, which is also asked for (SNI).
    pub server_name: Option<String>,
}

fn yes() -> bool {
    true
}

fn handshake_timeout_ms() -> u64 {
    5_000
}

fn max_handshakes() -> usize {
    256
}

impl ListenerTls {
    pub(crate) fn handshake_timeout(&self) -> Duration {
        Duration::from_millis(self.handshake_timeout_ms)
    }

    /// Whether it asks clients for the same proof as `other`, which it may read from files.
    pub(crate) fn lets_in_as(&self, other: &Self) -> bool {
        let asks = |tls: &Self| (tls.mode, tls.require_client_certificate);
        asks(self) == asks(other) && self.trust == other.trust && self.trust_domains == other.trust_domains
    }

    /// `key` is where it stands in the file.
    pub(crate) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        if self.mode == TlsMode::Off {
            return Ok(());
        }
        check(self.certificate.is_some(), || format!("{key}.certificate is missing: the workload's, as PEM"))?;
        check(self.key.is_some(), || format!("{key}.key is missing: the key of the certificate, as PEM"))?;
        check(self.trust.is_some() || !self.require_client_certificate, || {
            format!("{key}.trust is missing: clients' certificates are required, but none could be checked")
        })?;
        check(self.trust_domains.is_empty() || self.trust.is_some(), || {
            format!("{key}.trust_domains needs {key}.trust: no client could be identified")
        })?;
        for (i, domain) in self.trust_domains.iter().enumerate() {
            check(is_trust_domain(domain), || {
                format!(
                    "{key}.trust_domains[{i}] is {domain:?}: expected a name such as cluster.local, without spiffe://"
                )
            })?;
        }
        check(self.handshake_timeout_ms > 0, || format!("{key}.handshake_timeout_ms is 0: at least 1"))?;
        check(self.max_handshakes > 0, || format!("{key}.max_handshakes is 0: at least 1"))
    }
}

impl UpstreamTls {
    pub(crate) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        RemoteTls::from(self).validate(key)
    }
}

impl From<&UpstreamTls> for RemoteTls {
    fn from(tls: &UpstreamTls) -> Self {
        let UpstreamTls { certificate, key, trust, verify } = tls.clone();
        Self { certificate, key, trust: Some(trust), verify }
    }
}

impl RemoteTls {
    pub(crate) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        let pair = self.certificate.is_some() == self.key.is_some();
        check(pair, || format!("{key}: certificate and key belong together; one of them is missing"))?;
        let Verify { spiffe_ids, server_name } = &self.verify;
        check(spiffe_ids.is_empty() || server_name.is_none(), || {
            format!("{key}.verify: spiffe_ids or server_name, not both")
        })?;
        check(spiffe_ids.is_empty() || self.trust.is_some(), || {
            format!("{key}.verify.spiffe_ids needs {key}.trust: the system's roots vouch for no SPIFFE id")
        })?;
        for (i, id) in spiffe_ids.iter().enumerate() {
            check(is_id_or_prefix(id), || {
                format!(
                    "{key}.verify.spiffe_ids[{i}] is {id:?}: expected spiffe://trust-domain/path, or its beginning and *"
                )
            })?;
        }
        let usable = server_name.as_ref().is_none_or(|n| rustls::pki_types::ServerName::try_from(n.as_str()).is_ok());
        check(usable, || format!("{key}.verify.server_name is {server_name:?}: expected a host name"))
    }
}

/// A prefix must hold the whole trust domain: `spiffe://mesh*` would trust whoever names his domain so.
fn is_id_or_prefix(text: &str) -> bool {
    let Some(prefix) = text.strip_suffix('*') else { return text.parse::<SpiffeId>().is_ok() };
    let whole = prefix.strip_suffix('/').unwrap_or(prefix);
    let rooted = prefix.strip_prefix("spiffe://").is_some_and(|rest| rest.contains('/'));
    rooted && whole.parse::<SpiffeId>().is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_whole_or_begin_with_a_whole_trust_domain() {
        for (text, expected) in [
            ("spiffe://mesh.local/ns/shop/sa/tagger", true),
            ("spiffe://mesh.local/ns/shop/*", true),
            ("spiffe://mesh.local/ns/shop/sa/tag*", true),
            ("spiffe://mesh.local/*", true),
            ("spiffe://mesh.local*", false),
            ("spiffe://*", false),
            ("*", false),
            ("mesh.local/tagger", false),
            ("spiffe://mesh.local/a*b", false),
        ] {
            assert_eq!(is_id_or_prefix(text), expected, "{text}");
        }
    }
}
