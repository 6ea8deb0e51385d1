//! When a connection has to end although its client would go on: the proxy or its listener drains, the listener asks for
//! another proof than the client was let in by, a root was taken out, or the client's certificate has ended.

use tokio::time::{Instant, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

/// Cancelled when the connection has to end; requests under way on it may finish.
pub(crate) struct Lifetime {
    pub(crate) over: CancellationToken,
    /// Ends what watches, when the connection has ended by itself.
    _ended: DropGuard,
}

/// What a client was let in by, as far as it can end.
#[derive(Debug, Default)]
pub(crate) struct Proof {
    /// Cancelled when the listener trusts fewer than it did.
    pub(crate) trust: Option<CancellationToken>,
    /// When the client's certificate ends.
    pub(crate) certificate: Option<Instant>,
}

impl Lifetime {
    /// `listener` is cancelled when it drains or asks for another proof. Without TLS nothing else has to be watched.
    pub(crate) fn begin(listener: &CancellationToken, proof: Proof) -> Self {
        let over = listener.child_token();
        if proof.trust.is_some() || proof.certificate.is_some() {
            tokio::task::spawn_local(watch(proof, over.clone()));
        }
        Self { _ended: over.clone().drop_guard(), over }
    }
}

async fn watch(Proof { trust, certificate }: Proof, over: CancellationToken) {
    let trust = async {
        match trust {
            Some(trust) => trust.cancelled().await,
            None => std::future::pending().await,
        }
    };
    let certificate = async {
        match certificate {
            Some(end) => sleep_until(end).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        () = over.cancelled() => {}
        () = trust => over.cancel(),
        () = certificate => over.cancel(),
    }
}
