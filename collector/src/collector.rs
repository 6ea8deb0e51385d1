//! [`Collector`]: both transports over one way in.

use std::{io, sync::Arc};

use bytes::Bytes;
use tokio::{net::TcpListener, sync::watch};
use tokio_util::sync::CancellationToken;
use weir_policy::PolicySet;
use weir_schema::{
    Encoding, Signal, UnixNanos,
    otlp::{self, DecodeError, Decoded},
};

use crate::{
    admission::Admission,
    config::Config,
    grpc, http,
    ingest::{Ingest, Received, Refused},
    proxies::Proxies,
    stats::{Stats, add},
};

/// Bodies below this decode in the task that read them: a thread switch costs more.
const INLINE_BYTES: usize = 64 << 10;

/// OTLP in, policy out.
#[derive(Clone)]
pub struct Collector<I> {
    pub(crate) config: Config,
    ingest: I,
    pub(crate) policy: watch::Receiver<Arc<PolicySet>>,
    pub(crate) proxies: Proxies,
    pub(crate) stats: Arc<Stats>,
    admission: Admission,
}

/// What an accepted request is answered.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) rejected: u64,
    pub(crate) message: String,
}

/// Why a request is not accepted.
#[derive(Debug)]
pub(crate) enum NotAccepted {
    Malformed(DecodeError),
    Refused(Refused),
}

impl<I: Ingest> Collector<I> {
    /// A collector that stores through `ingest` and sends `policy` to proxies.
    pub fn new(
        config: Config,
        ingest: I,
        policy: watch::Receiver<Arc<PolicySet>>,
        proxies: Proxies,
        stats: Arc<Stats>,
    ) -> Self {
        let admission = Admission::new(config.max_in_flight_bytes);
        Self { config, ingest, policy, proxies, stats, admission }
    }

    /// Serves OTLP/gRPC and the policy stream until `shutdown`, then lets requests in the air end.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve_grpc(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        grpc::serve(self, listener, shutdown).await
    }

    /// Serves OTLP/HTTP until `shutdown`, then lets requests in the air end.
    ///
    /// # Errors
    /// When the listener fails.
    pub async fn serve_http(self, listener: TcpListener, shutdown: CancellationToken) -> io::Result<()> {
        http::serve(self, listener, shutdown).await
    }

    /// The one way in: admit, decode, store, count.
    pub(crate) async fn accept(
        &self,
        signal: Signal,
        encoding: Encoding,
        body: Bytes,
    ) -> Result<Accepted, NotAccepted> {
        let stats = self.stats.of(signal);
        add(&stats.requests, 1);
        add(&stats.bytes, body.len() as u64);
        let Some(_admitted) = self.admission.admit(body.len().max(1)) else {
            add(&stats.refused, 1);
            return Err(NotAccepted::Refused(Refused::Overloaded { retry_after: std::time::Duration::from_secs(1) }));
        };
        let received_unix_nano = now_unix_nano();
        let decoded = decode(signal, encoding, body.clone(), received_unix_nano).await;
        let decoded = decoded.inspect_err(|_| add(&stats.malformed, 1)).map_err(NotAccepted::Malformed)?;
        let (accepted, rejected) = (decoded.accepted, decoded.rejected);
        let message = decoded.first_rejection.clone().unwrap_or_default();
        add(&stats.rejected, rejected);
        if decoded.batch.is_some() {
            let received = Received { signal, encoding, body, received_unix_nano, decoded };
            let stored = self.ingest.ingest(received).await;
            let stored = stored.inspect_err(|_| add(&stats.refused, 1)).map_err(NotAccepted::Refused)?;
            if stored.duplicate {
                add(&stats.duplicates, 1);
            } else {
                add(&stats.accepted, accepted);
            }
        }
        Ok(Accepted { rejected, message })
    }
}

async fn decode(signal: Signal, encoding: Encoding, body: Bytes, received: UnixNanos) -> Result<Decoded, DecodeError> {
    if body.len() < INLINE_BYTES {
        return otlp::decode(signal, encoding, &body, received);
    }
    let decoded = tokio::task::spawn_blocking(move || otlp::decode(signal, encoding, &body, received)).await;
    decoded.expect("decoding is pure and does not panic")
}

pub(crate) fn now_unix_nano() -> UnixNanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixNanos::try_from(since.as_nanos()).unwrap_or(UnixNanos::MAX)
}
