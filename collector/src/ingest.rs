//! [`Ingest`]: what the collector asks of whoever stores.

use std::time::Duration;

use bytes::Bytes;
use weir_schema::{Encoding, Signal, UnixNanos, otlp::Decoded};

/// An OTLP request, inflated and decoded.
#[derive(Debug)]
pub struct Received {
    /// What it carries.
    pub signal: Signal,
    /// How its bytes are written.
    pub encoding: Encoding,
    /// Its bytes, inflated.
    pub body: Bytes,
    /// When it came.
    pub received_unix_nano: UnixNanos,
    /// Its rows.
    pub decoded: Decoded,
}

/// It is durable and visible.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The same bytes were stored before and were not stored again.
    pub duplicate: bool,
}

/// Why it is not stored. The sender keeps it and comes back.
#[derive(Clone, Debug, thiserror::Error)]
pub enum Refused {
    /// More comes than can be stored.
    #[error("overloaded: come back in {retry_after:?}")]
    Overloaded {
        /// When to come back.
        retry_after: Duration,
    },
    /// There is no room.
    #[error("the disk is full: come back in {retry_after:?}")]
    DiskFull {
        /// When to come back.
        retry_after: Duration,
    },
    /// It cannot be stored now.
    #[error("the disk fails: come back in {retry_after:?}")]
    DiskFails {
        /// When to come back.
        retry_after: Duration,
    },
    /// The server is stopping.
    #[error("the server is stopping")]
    Closed,
}

/// Stores requests. When `ingest` returns `Ok`, the request is acked.
pub trait Ingest: Clone + Send + Sync + 'static {
    /// Whether a request of `bytes` would be taken now. Asked before its body is read and again before
    /// it is decoded, so it must be cheap; `ingest` may still refuse.
    ///
    /// # Errors
    /// As [`Ingest::ingest`] would.
    fn admit(&self, bytes: usize) -> Result<(), Refused> {
        let _ = bytes;
        Ok(())
    }

    /// Stores one request durably.
    fn ingest(&self, received: Received) -> impl Future<Output = Result<Stored, Refused>> + Send;
}

impl Refused {
    /// When to come back.
    #[must_use]
    pub fn retry_after(&self) -> Duration {
        match self {
            Self::Overloaded { retry_after } | Self::DiskFull { retry_after } | Self::DiskFails { retry_after } => {
                *retry_after
            }
            Self::Closed => Duration::from_secs(1),
        }
    }
}
