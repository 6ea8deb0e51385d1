//! [`ClientTls`]: TLS towards an upstream, the control plane or the collector.

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    ClientConfig, RootCertStore, client::Resumption, crypto::CryptoProvider, pki_types::ServerName,
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use crate::{
    authority::split_port,
    config::{Protocol, RemoteTls},
    security::{
        SecurityError,
        tls::{
            era::{Era, still_trusts},
            identity::unix_s_now,
            material::{Files, Material, system_roots},
            peer::Peer,
            trusted::Trusted,
            verify::ServerVerifier,
            watch::{Target, Watched},
        },
    },
};

/// Endpoints whose sessions can go on; an upstream has fewer.
const SESSIONS: usize = 256;

/// TLS towards one of them.
#[derive(Debug)]
pub(crate) struct ClientTls {
    asked: RemoteTls,
    protocol: Protocol,
    provider: Arc<CryptoProvider>,
    current: ArcSwap<Current>,
    era: Era,
}

/// What handshakes are made with now.
#[derive(Debug)]
struct Current {
    config: Arc<ClientConfig>,
    roots: Arc<RootCertStore>,
}

impl ClientTls {
    /// Reads the files; the second is for who watches them.
    pub(crate) fn open(
        asked: &RemoteTls,
        key: &str,
        protocol: Protocol,
        provider: &Arc<CryptoProvider>,
    ) -> Result<(Arc<Self>, Watched), SecurityError> {
        let pair = asked.certificate.clone().zip(asked.key.clone());
        let files = Files { key: key.to_owned(), pair, trust: asked.trust.clone() };
        let (material, fingerprint) = Watched::first(&files, provider)?;
        let current = compile(asked, protocol, provider, &material).map_err(|why| SecurityError::new(key, why))?;
        let (asked, provider) = (asked.clone(), provider.clone());
        let client =
            Arc::new(Self { asked, protocol, provider, current: ArcSwap::from_pointee(current), era: Era::default() });
        let target = Target::Client(client.clone());
        let watched = Watched::new(files, client.provider.clone(), &material, fingerprint, target);
        Ok((client, watched))
    }

    /// What is asked of the other end, and shown to it.
    pub(crate) fn asked(&self) -> &RemoteTls {
        &self.asked
    }

    /// New handshakes use `material`.
    pub(super) fn swap(&self, material: &Material) -> Result<(), String> {
        let mut now = compile(&self.asked, self.protocol, &self.provider, material)?;
        let before = self.current.load_full();
        let trusts_all = still_trusts(Some(&before.roots), Some(&now.roots));
        if trusts_all && now.roots.len() == before.roots.len() {
            // the same: each request asks whether its connection is believed, and must not compare them one by one
            now.roots = before.roots.clone();
        }
        self.current.store(Arc::new(now));
        if !trusts_all {
            self.era.end();
        }
        Ok(())
    }

    /// Shakes hands with the endpoint at `address`; the caller bounds the time.
    ///
    /// # Errors
    /// Who answers is not whom it should be, or speaks no TLS, or not the protocol.
    pub(crate) async fn connect(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<(TlsStream<TcpStream>, Arc<Peer>)> {
        let name = self.server_name(address)?;
        let Current { config, roots } = &*self.current.load_full();
        let stream = TlsConnector::from(config.clone()).connect(name, stream).await?;
        let session = stream.get_ref().1;
        // HTTP/1.1 is what a server without ALPN speaks; HTTP/2 must be agreed on (RFC 9113 §3.2)
        if self.protocol == Protocol::H2 && session.alpn_protocol() != Some(b"h2") {
            return Err(io::Error::other("it does not speak HTTP/2"));
        }
        let peer = Peer::of(session.peer_certificates(), None, unix_s_now()).map_err(io::Error::other)?;
        Ok((stream, Arc::new(Peer { by: Some(roots.clone()), ..peer })))
    }

    /// As [`Self::connect`], to somebody who is talked to for as long as the connection lasts.
    pub(crate) async fn connect_while_trusted(
        &self,
        address: &str,
        stream: TcpStream,
    ) -> io::Result<Trusted<TlsStream<TcpStream>>> {
        // before the handshake: one by roots that go meanwhile must not outlive them
        let era = self.era.token();
        let (stream, _) = self.connect(address, stream).await?;
        Ok(Trusted::new(stream, era))
    }

    /// Whether who was connected to would be believed now: roots may have been added, but none of then is gone.
    pub(crate) fn believes(&self, peer: &Peer) -> bool {
        let now = &self.current.load().roots;
        peer.by.as_ref().is_some_and(|then| Arc::ptr_eq(then, now) || still_trusts(Some(then), Some(now)))
    }

    fn server_name(&self, address: &str) -> io::Result<ServerName<'static>> {
        let host = split_port(address).0.trim_matches(['[', ']']);
        let name = self.asked.verify.server_name.as_deref().unwrap_or(host);
        ServerName::try_from(name.to_owned()).map_err(io::Error::other)
    }
}

fn compile(
    asked: &RemoteTls,
    protocol: Protocol,
    provider: &Arc<CryptoProvider>,
    material: &Material,
) -> Result<Current, String> {
    let roots = material.roots.clone().map_or_else(|| system_roots().map(Arc::new), Ok)?;
    let verifier = ServerVerifier {
        roots: roots.clone(),
        spiffe_ids: asked.verify.spiffe_ids.clone(),
        algorithms: provider.signature_verification_algorithms,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    // "dangerous" is rustls's word for any verifier but its own; ours asks its functions and for the SPIFFE id
    let builder = builder.dangerous().with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match material.pair.as_deref() {
        Some(pair) => builder.with_client_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone()))),
        None => builder.with_no_client_auth(),
    };
    config.alpn_protocols = vec![match protocol {
        Protocol::Http1 => b"http/1.1".to_vec(),
        Protocol::H2 => b"h2".to_vec(),
    }];
    config.resumption = Resumption::in_memory_sessions(SESSIONS);
    Ok(Current { config: Arc::new(config), roots })
}

#[cfg(test)]
mod tests {
    use rustls::pki_types::{Der, TrustAnchor};

    use super::*;

    fn roots(names: &[&'static str]) -> Material {
        let anchor = |name: &&'static str| TrustAnchor {
            subject: Der::from_slice(name.as_bytes()),
            subject_public_key_info: Der::from_slice(b"key"),
            name_constraints: None,
        };
        Material {
            pair: None,
            leaf: None,
            roots: Some(Arc::new(RootCertStore { roots: names.iter().map(anchor).collect() })),
        }
    }

    /// A new certificate beside the same roots made every request on a connection of before compare all of these.
    #[test]
    fn roots_that_stay_the_same_are_the_same() {
        let (asked, provider) = (RemoteTls::default(), Arc::new(rustls::crypto::aws_lc_rs::default_provider()));
        let current = compile(&asked, Protocol::H2, &provider, &roots(&["a", "b"])).unwrap();
        let client = ClientTls {
            asked,
            protocol: Protocol::H2,
            provider,
            current: ArcSwap::from_pointee(current),
            era: Era::default(),
        };
        let first = client.current.load().roots.clone();
        for (names, same, ended) in
            [(&["b", "a"][..], true, false), (&["a", "b", "c"], false, false), (&["a"], false, true)]
        {
            let era = client.era.token();
            client.swap(&roots(names)).unwrap();
            assert_eq!(Arc::ptr_eq(&client.current.load().roots, &first), same, "{names:?}");
            assert_eq!(era.is_cancelled(), ended, "{names:?}");
        }
    }
}
