//! [`Era`]: for how long clients that a listener has let in may stay: until it trusts fewer than it did then.

use parking_lot::Mutex;
use rustls::RootCertStore;
use tokio_util::sync::CancellationToken;

/// The era of now.
#[derive(Debug, Default)]
pub(super) struct Era(Mutex<CancellationToken>);

impl Era {
    /// What a client that is let in now lives in.
    pub(super) fn token(&self) -> CancellationToken {
        self.0.lock().clone()
    }

    /// Another one begins.
    pub(super) fn end(&self) {
        std::mem::take(&mut *self.0.lock()).cancel();
    }
}

/// Whether everybody who was believed by `before` is by `now`: roots may be added, but none is gone.
pub(super) fn still_trusts(before: Option<&RootCertStore>, now: Option<&RootCertStore>) -> bool {
    match (before, now) {
        (None, _) => true,
        (Some(before), Some(now)) => before.roots.iter().all(|root| now.roots.contains(root)),
        (Some(_), None) => false,
    }
}
