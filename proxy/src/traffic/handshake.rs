//! TLS with a client, where its listener asks for it: from an accepted socket to a connection whose peer is known.

use std::{cell::Cell, sync::Arc};

use tokio::net::TcpStream;
use tokio_rustls::server::TlsStream;
use tokio_util::either::Either;
use tracing::debug;

use crate::{
    security::{Accepted, Peer},
    traffic::{lifetime::Proof, listener::Slot},
};

/// What a client's bytes come on.
pub(crate) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// A connection that may be served.
pub(crate) struct Secured {
    pub(crate) wire: Wire,
    pub(crate) peer: Option<Arc<Peer>>,
    /// HTTP/2 was agreed on; HTTP/1.1 was; or nothing was said.
    pub(crate) http2: Option<bool>,
    /// What the client was let in by.
    pub(crate) proof: Proof,
}

/// Counts as a handshake under way until it is dropped.
struct UnderWay<'a>(&'a Cell<usize>);

/// Shakes hands, if that is asked for; one handshake too many is closed at once, and so are those under way when
/// the listener closes: nothing of them was a request yet.
pub(crate) async fn secure(slot: &Slot, stream: TcpStream) -> Option<Secured> {
    let (worker, listener) = slot.current();
    let Some(tls) = worker.workload.security.server_tls(listener).cloned() else {
        return Some(Secured { wire: Either::Left(stream), peer: None, http2: None, proof: Proof::default() });
    };
    if slot.handshakes.get() >= tls.max_handshakes() {
        tls.shed();
        return None;
    }
    let _under_way = UnderWay::new(&slot.handshakes);
    // taken first: roots that go meanwhile end this connection too
    let trust = Some(tls.era());
    let accepted = tokio::select! {
        accepted = tls.accept(stream) => accepted,
        () = slot.closing.cancelled() => return None,
    };
    match accepted {
        Ok(Accepted::Plain(stream)) => {
            Some(Secured { wire: Either::Left(stream), peer: None, http2: None, proof: Proof::default() })
        }
        Ok(Accepted::Tls { stream, peer, http2 }) => {
            let proof = Proof { trust, certificate: peer.ends };
            Some(Secured { wire: Either::Right(stream), peer: Some(peer), http2, proof })
        }
        Err(error) => {
            debug!(%error, "no TLS with the client");
            None
        }
    }
}

impl<'a> UnderWay<'a> {
    fn new(count: &'a Cell<usize>) -> Self {
        count.set(count.get() + 1);
        Self(count)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.set(self.0.get() - 1);
    }
}
