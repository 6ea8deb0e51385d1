//! [`SecurityStats`]: what was let in, refused and renewed.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

/// Counts since the start.
#[derive(Debug, Default)]
pub(crate) struct SecurityStats {
    /// Handshakes that listeners finished.
    pub(crate) handshakes: AtomicU64,
    /// Of those, the ones that went on with an earlier session.
    pub(crate) handshakes_resumed: AtomicU64,
    /// Handshakes that failed or took too long.
    pub(crate) handshakes_failed: AtomicU64,
    /// Connections closed because as many handshakes were under way as may.
    pub(crate) handshakes_shed: AtomicU64,
    /// Connections without TLS at a permissive listener.
    pub(crate) plain_connections: AtomicU64,
    /// Certificates, keys or roots replaced by newer ones.
    pub(crate) certificates_reloaded: AtomicU64,
    /// Times that newer ones could not be used.
    pub(crate) certificates_refused: AtomicU64,
    /// Key sets of token issuers read.
    pub(crate) jwks_loaded: AtomicU64,
    /// Times that a key set could not be read.
    pub(crate) jwks_failed: AtomicU64,
    /// Requests answered with 401.
    pub(crate) unauthenticated: AtomicU64,
    /// Requests that rules let through.
    pub(crate) allowed: AtomicU64,
    /// Requests answered with 403.
    pub(crate) denied: AtomicU64,
}

/// Adds one.
pub(crate) fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}
