//! [`Door`]: what the collector calls "ingest": store durably, then tell the analyzer, then ack.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::SeqCst},
    },
    time::Duration,
};

use tokio::sync::mpsc;
use weir_collector::{Ingest, Received, Refused, Stored};
use weir_schema::{Batch, Signal, otlp};
use weir_store::{AppendError, OtlpRequest, Store};

use crate::server::LogsAndMetricsOut;

/// When a sender should come back: one group commit and a flush are over by then.
const RETRY_AFTER: Duration = Duration::from_secs(1);

/// When a sender should come back to a full disk: people or retention have to act first. Well after an idle connection
/// is closed (10 s): who came back in that moment would lose the request to the close.
const RETRY_AFTER_DISK_FULL: Duration = Duration::from_secs(15);

/// The collector's way into the store and the analyzer.
#[derive(Clone)]
pub(crate) struct Door {
    store: Store,
    analysis: mpsc::Sender<Batch>,
    beside: LogsAndMetricsOut,
    /// Until it is set, the analysis reads spans from the store.
    live: Arc<AtomicBool>,
}

impl Door {
    /// A door to `store`; spans also go to `analysis`, logs and metrics `beside` them.
    #[must_use]
    pub(crate) fn new(
        store: Store,
        analysis: mpsc::Sender<Batch>,
        beside: LogsAndMetricsOut,
        live: Arc<AtomicBool>,
    ) -> Self {
        Self { store, analysis, beside, live }
    }
}

impl Ingest for Door {
    fn admit(&self, _bytes: usize) -> Result<(), Refused> {
        self.store.has_room().map_err(|error| refused(&error))
    }

    /// Durable and visible first. A full analysis queue makes the ack of spans wait: the collector's bound on
    /// bytes in flight then refuses further requests, so none is dropped in between. Logs and metrics wait for nothing.
    async fn ingest(&self, received: Received) -> Result<Stored, Refused> {
        let Received { signal, encoding, body, received_unix_nano, decoded } = received;
        let codec_version = otlp::CODEC_VERSION;
        let request = OtlpRequest { signal, encoding, codec_version, received_unix_nano, body };
        let appended = self.store.append_otlp(request, decoded.batch.clone()).await.map_err(|e| refused(&e))?;
        let new = decoded.batch.filter(|_| !appended.duplicate && self.live.load(SeqCst));
        match new {
            // the loop is gone only while the server stops, when the spans are already durable
            Some(spans) if signal == Signal::Traces => drop(self.analysis.send(spans).await),
            Some(other) => self.beside.offer(&other),
            None => {}
        }
        Ok(Stored { duplicate: appended.duplicate })
    }
}

fn refused(error: &AppendError) -> Refused {
    match error {
        AppendError::DiskFull => Refused::DiskFull { retry_after: RETRY_AFTER_DISK_FULL },
        AppendError::Closed => Refused::Closed,
        AppendError::Disk(_) => Refused::DiskFails { retry_after: RETRY_AFTER },
        AppendError::Overloaded { .. } => Refused::Overloaded { retry_after: RETRY_AFTER },
    }
}
