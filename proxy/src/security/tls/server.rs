//! [`ServerTls`]: TLS at a listener, from an accepted socket to a connection whose peer is known.

use std::{io, sync::Arc};

use arc_swap::ArcSwap;
use rustls::{
    HandshakeKind, RootCertStore, ServerConfig,
    crypto::CryptoProvider,
    server::{ServerSessionMemoryCache, WebPkiClientVerifier},
    sign::SingleCertAndKey,
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, server::TlsStream};
use tokio_util::sync::CancellationToken;
use weir_policy::SpiffeId;

use crate::{
    config::{ListenerTls, TlsMode},
    security::{
        SecurityError, SecurityStats,
        stats::count,
        tls::{
            era::{Era, still_trusts},
            identity::unix_s_now,
            material::{Files, Material},
            peer::Peer,
            verify::ClientVerifier,
            watch::{Target, Watched},
        },
    },
};

/// 4,096 sessions (about 8 MiB with their clients' certificates) can go on; the oldest is forgotten first.
const SESSIONS: usize = 4_096;

/// One ticket a handshake: a client that opens several connections at once makes several handshakes.
const TICKETS: usize = 1;

/// The content type with which every TLS handshake begins (RFC 8446 §5.1).
const HANDSHAKE: u8 = 0x16;

/// TLS at one listener.
#[derive(Debug)]
pub(crate) struct ServerTls {
    asked: ListenerTls,
    provider: Arc<CryptoProvider>,
    stats: Arc<SecurityStats>,
    current: ArcSwap<Current>,
    era: Arc<Era>,
}

/// What new handshakes use.
#[derive(Debug)]
struct Current {
    config: Arc<ServerConfig>,
    own: Option<SpiffeId>,
    roots: Option<Arc<RootCertStore>>,
}

/// A connection that may be served.
pub(crate) enum Accepted {
    /// Without TLS; the listener is permissive.
    Plain(TcpStream),
    /// With TLS.
    Tls {
        stream: Box<TlsStream<TcpStream>>,
        peer: Arc<Peer>,
        /// HTTP/2 was agreed on; HTTP/1.1 was; or nothing was said.
        http2: Option<bool>,
    },
}

impl ServerTls {
    /// Reads the files of a listener; the second is for who watches them. Of those `before` a reload, one that lets in the same
    /// clients goes on.
    pub(crate) fn open(
        asked: &ListenerTls,
        key: &str,
        provider: &Arc<CryptoProvider>,
        stats: Arc<SecurityStats>,
        before: &[&Arc<Self>],
    ) -> Result<(Arc<Self>, Watched), SecurityError> {
        let pair = asked.certificate.clone().zip(asked.key.clone());
        let files = Files { key: format!("{key}.tls"), pair, trust: asked.trust.clone() };
        let (material, fingerprint) = Watched::first(&files, provider)?;
        let current = compile(asked, provider, &material).map_err(|why| SecurityError::new(&files.key, why))?;
        let server = Arc::new(Self {
            asked: asked.clone(),
            provider: provider.clone(),
            stats,
            era: before
                .iter()
                .find(|known| known.goes_on_as(asked, &current))
                .map_or_else(Arc::default, |known| known.era.clone()),
            current: ArcSwap::from_pointee(current),
        });
        let target = Target::Server(server.clone());
        Ok((server, Watched::new(files, provider.clone(), &material, fingerprint, target)))
    }

    /// New handshakes use `material`.
    pub(super) fn swap(&self, material: &Material) -> Result<(), String> {
        let now = Arc::new(compile(&self.asked, &self.provider, material)?);
        let before = self.current.swap(now.clone());
        if !still_trusts(before.roots.as_deref(), now.roots.as_deref()) {
            self.era.end();
        }
        Ok(())
    }

    /// What clients that are let in now live in.
    pub(crate) fn era(&self) -> CancellationToken {
        self.era.token()
    }

    /// Whether whoever is let in by one is by the other, from one configuration to the next.
    pub(crate) fn is_of_the_era_of(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.era, &other.era)
    }

    fn goes_on_as(&self, asked: &ListenerTls, now: &Current) -> bool {
        self.asked.lets_in_as(asked) && still_trusts(self.current.load().roots.as_deref(), now.roots.as_deref())
    }

    /// How many handshakes may be under way in a data thread.
    pub(crate) fn max_handshakes(&self) -> usize {
        self.asked.max_handshakes
    }

    /// One more was not begun.
    pub(crate) fn shed(&self) {
        count(&self.stats.handshakes_shed);
    }

    /// Shakes hands within the time it may take.
    ///
    /// # Errors
    /// Why the connection is closed; it is counted.
    pub(crate) async fn accept(&self, stream: TcpStream) -> io::Result<Accepted> {
        let accepted = tokio::time::timeout(self.asked.handshake_timeout(), self.negotiate(stream)).await;
        let accepted = accepted.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()));
        match &accepted {
            Ok(Accepted::Plain(_)) => count(&self.stats.plain_connections),
            Ok(Accepted::Tls { .. }) => count(&self.stats.handshakes),
            Err(_) => count(&self.stats.handshakes_failed),
        }
        accepted
    }

    async fn negotiate(&self, stream: TcpStream) -> io::Result<Accepted> {
        if self.asked.mode == TlsMode::Permissive && !begins_handshake(&stream).await? {
            return Ok(Accepted::Plain(stream));
        }
        let current = self.current.load_full();
        let stream = TlsAcceptor::from(current.config.clone()).accept(stream).await?;
        let session = stream.get_ref().1;
        let peer = Peer::of(session.peer_certificates(), current.own.as_ref(), unix_s_now());
        let peer = Arc::new(peer.map_err(io::Error::other)?);
        let http2 = session.alpn_protocol().map(|protocol| protocol == b"h2");
        if session.handshake_kind() == Some(HandshakeKind::Resumed) {
            count(&self.stats.handshakes_resumed);
        }
        Ok(Accepted::Tls { stream: Box::new(stream), peer, http2 })
    }
}

async fn begins_handshake(stream: &TcpStream) -> io::Result<bool> {
    let mut first = [0];
    match stream.peek(&mut first).await? {
        0 => Err(io::ErrorKind::UnexpectedEof.into()),
        _ => Ok(first[0] == HANDSHAKE),
    }
}

fn compile(asked: &ListenerTls, provider: &Arc<CryptoProvider>, material: &Material) -> Result<Current, String> {
    let own = material.leaf.as_ref().and_then(|leaf| leaf.spiffe_id.clone());
    let pair = material.pair.as_deref().ok_or("a certificate is missing")?;
    let builder = ServerConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    let builder = match &material.roots {
        None => builder.with_no_client_auth(),
        Some(roots) => {
            let chain = WebPkiClientVerifier::builder_with_provider(roots.clone(), provider.clone());
            let chain = if asked.require_client_certificate { chain } else { chain.allow_unauthenticated() };
            let chain = chain.build().map_err(|error| error.to_string())?;
            let trust_domains = trust_domains(asked, own.as_ref());
            builder.with_client_cert_verifier(Arc::new(ClientVerifier { chain, trust_domains }))
        }
    };
    let mut config = builder.with_cert_resolver(Arc::new(SingleCertAndKey::from(pair.clone())));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    config.session_storage = ServerSessionMemoryCache::new(SESSIONS);
    config.send_tls13_tickets = TICKETS;
    Ok(Current { config: Arc::new(config), own, roots: material.roots.clone() })
}

fn trust_domains(asked: &ListenerTls, own: Option<&SpiffeId>) -> Vec<String> {
    match own {
        Some(own) if asked.trust_domains.is_empty() => vec![own.trust_domain().to_owned()],
        _ => asked.trust_domains.clone(),
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn without_a_word_the_own_trust_domain_counts() {
        let asked = |domains: &[&str]| -> ListenerTls {
            let text = format!("{{ certificate: c, key: k, trust: t, trust_domains: {domains:?} }}");
            serde_saphyr::from_str(&text).unwrap()
        };
        let own: SpiffeId = "spiffe://mesh.local/tagger".parse().unwrap();
        assert_eq!(trust_domains(&asked(&[]), Some(&own)), ["mesh.local"]);
        assert_eq!(trust_domains(&asked(&["other.local"]), Some(&own)), ["other.local"]);
        assert!(trust_domains(&asked(&[]), None).is_empty());
        assert_eq!(asked(&[]).handshake_timeout(), Duration::from_secs(5));
    }
}
