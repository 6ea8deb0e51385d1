//! [`Collector`]: both transports over one way in.

use std::{io, num::NonZeroUsize, sync::Arc, thread};

use bytes::Bytes;
use tokio::{
    net::TcpListener,
    sync::{Semaphore, watch},
    task::JoinError,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use weir_accept::Bound;
use weir_policy::PolicySet;
use weir_schema::{
    Encoding, Signal, UnixNanos,
    otlp::{self, DecodeError, Decoded},
};

use crate::{
    admission::{Admission, Full},
    body::BodyError,
    config::Config,
    cors::Cors,
    ending::Ending,
    grpc, http,
    inflate::{Coding, InflateError, inflate},
    ingest::{Ingest, Received, Refused},
    patience::Patience,
    proxies::Proxies,
    queue::Queue,
    reservation::{INFLATION, Reservation, likely_bytes, most_bytes},
    stats::{Now, Stats, add},
};

/// Bodies below this are read in the task that got them: a thread switch costs more. 64 KiB decode
/// in a tenth of a millisecond.
const INLINE_BYTES: usize = 64 << 10;

/// OTLP in, policy out.
#[derive(Clone)]
pub struct Collector<I> {
    pub(crate) config: Config,
    pub(crate) cors: Arc<Cors>,
    ingest: I,
    pub(crate) policy: watch::Receiver<Arc<PolicySet>>,
    pub(crate) proxies: Proxies,
    pub(crate) stats: Arc<Stats>,
    /// Room for connections of both doors.
    pub(crate) connections: Arc<Bound>,
    admission: Admission,
    /// Requests that wait unread for room in flight.
    unread: Arc<Queue>,
    /// Requests that are larger than was thought at the door and wait for more.
    growing: Arc<Queue>,
    /// Requests that were read and wait for room in the store.
    read: Arc<Queue>,
    /// One place per core: more large bodies at once would only hold more memory.
    decoders: Arc<Semaphore>,
    /// Requests that are being stored, whether their senders still wait or not.
    storing: TaskTracker,
}

/// A request whose body is there.
pub(crate) struct Arrived {
    pub(crate) signal: Signal,
    pub(crate) encoding: Encoding,
    pub(crate) coding: Coding,
    pub(crate) body: Bytes,
    pub(crate) reservation: Reservation,
}

/// What an accepted request is answered: how many rows were not, and why; or none, and what others are stored without.
#[derive(Debug, Default)]
pub(crate) struct Accepted {
    pub(crate) rejected: u64,
    pub(crate) message: String,
}

/// Why a request is not accepted.
#[derive(Debug)]
pub(crate) enum NotAccepted {
    Malformed(String),
    TooLarge { limit: usize },
    TimedOut,
    Refused(Refused),
}

impl Accepted {
    /// Whether there is something to say.
    pub(crate) fn is_partial(&self) -> bool {
        self.rejected > 0 || !self.message.is_empty()
    }
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
        let cores = thread::available_parallelism().map_or(1, NonZeroUsize::get);
        let admission = Admission::new(config.max_in_flight_bytes);
        let places = config.places_in_queue();
        let [unread, growing, read] = std::array::from_fn(|_| Arc::new(Queue::new(places)));
        let connections = Arc::new(Bound::new(config.max_connections));
        stats.watch(Now {
            connections: connections.clone(),
            admission: admission.clone(),
            unread: unread.clone(),
            growing: growing.clone(),
            read: read.clone(),
        });
        // a validated configuration has no other origins
        let cors = Arc::new(Cors::new(&config.cors_allowed_origins).unwrap_or_default());
        Self {
            cors,
            ingest,
            policy,
            proxies,
            stats,
            connections,
            admission,
            unread,
            growing,
            read,
            decoders: Arc::new(Semaphore::new(cores)),
            storing: TaskTracker::new(),
            config,
        }
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

    /// A reservation for a request that announces so many bytes, or no length, before any of them is read.
    pub(crate) async fn admit(
        &self,
        coding: Coding,
        announced: Option<usize>,
        patience: Patience,
    ) -> Result<Reservation, NotAccepted> {
        let limit = self.config.max_body_bytes;
        if announced.is_some_and(|bytes| bytes > limit) {
            return Err(NotAccepted::TooLarge { limit });
        }
        let bytes = likely_bytes(coding, announced, limit);
        let room = || {
            if self.growing.waiting() > 0 {
                return Err(Full { retry_after: self.admission.retry_after() }.into());
            }
            let admitted = self.admission.admit(bytes)?;
            self.ingest.admit(bytes)?;
            Ok(admitted)
        };
        let _asking = self.admission.asks(bytes);
        let admitted = self.unread.wait(patience.unread_until, room).await?;
        Ok(Reservation::new(admitted, self.growing.clone(), most_bytes(coding, limit), patience.until))
    }

    /// Waits until the store has room for what was read: once decoded, a request has cost too much to be refused.
    async fn room(&self, arrived: &Arrived) -> Result<(), Refused> {
        self.read.wait(arrived.reservation.until(), || self.ingest.admit(arrived.body.len())).await
    }

    /// The one way in: inflate, decode, store. It goes on when the sender hangs up: what was begun is
    /// stored and analyzed as a whole, and its reservation is not given away while its bytes are held.
    pub(crate) async fn accept(&self, arrived: Arrived) -> Result<Accepted, NotAccepted> {
        let collector = self.clone();
        let stored = self.storing.spawn(async move { collector.store(arrived).await });
        stored.await.unwrap_or_else(|error| Err(unfinished(error)))
    }

    /// Waits until nothing is being stored.
    pub(crate) async fn stored(&self) {
        self.storing.close();
        self.storing.wait().await;
    }

    /// A request of this signal is here: how it ends will be counted.
    pub(crate) fn begins(&self, signal: Signal) -> Ending {
        Ending::new(self.stats.clone(), signal)
    }

    async fn store(&self, arrived: Arrived) -> Result<Accepted, NotAccepted> {
        let (signal, encoding) = (arrived.signal, arrived.encoding);
        let received_unix_nano = now_unix_nano();
        let Opened { body, decoded, reservation } = self.open(arrived, received_unix_nano).await?;
        add(&self.stats.of(signal).bytes, body.len() as u64);
        let (accepted, rejected) = (decoded.accepted, decoded.rejected);
        add(&self.stats.of(signal).rejected, rejected);
        let message = decoded.first_rejection.clone().or_else(|| decoded.first_warning.clone()).unwrap_or_default();
        if decoded.batch.is_some() {
            let received = Received { signal, encoding, body, received_unix_nano, decoded };
            let stored = self.ingest.ingest(received).await?;
            let stats = self.stats.of(signal);
            if stored.duplicate {
                add(&stats.duplicates, 1);
            } else {
                add(&stats.accepted, accepted);
            }
        }
        drop(reservation);
        Ok(Accepted { rejected, message })
    }

    /// Inflates and decodes, when there is room for what comes of it.
    async fn open(&self, mut arrived: Arrived, received_unix_nano: UnixNanos) -> Result<Opened, NotAccepted> {
        loop {
            match self.try_open(arrived, received_unix_nano).await? {
                Opening::Opened(opened) => return Ok(opened),
                Opening::NoRoom { unopened, wanted } => {
                    arrived = unopened;
                    arrived.reservation.grow_to(wanted).await?;
                }
            }
        }
    }

    /// As far as there is room now: who waits for more keeps nobody from the decoders.
    async fn try_open(&self, arrived: Arrived, received_unix_nano: UnixNanos) -> Result<Opening, NotAccepted> {
        let limit = self.config.max_body_bytes;
        let weight = if arrived.coding == Coding::Identity { 1 } else { INFLATION };
        if arrived.body.len() * weight < INLINE_BYTES {
            self.room(&arrived).await?;
            return arrived.open(limit, received_unix_nano);
        }
        let decoder = self.decoders.clone().acquire_owned().await;
        self.room(&arrived).await?;
        let opened = tokio::task::spawn_blocking(move || {
            let _decoder = decoder;
            arrived.open(limit, received_unix_nano)
        });
        opened.await.unwrap_or_else(|error| Err(unfinished(error)))
    }
}

/// How far a request came.
enum Opening {
    Opened(Opened),
    /// It needs a reservation of so many bytes first.
    NoRoom {
        unopened: Arrived,
        wanted: usize,
    },
}

/// A request that was read.
struct Opened {
    body: Bytes,
    decoded: Decoded,
    reservation: Reservation,
}

impl Arrived {
    fn open(mut self, limit: usize, received_unix_nano: UnixNanos) -> Result<Opening, NotAccepted> {
        let body = match inflate(&self.body, self.coding, limit, &mut self.reservation) {
            Err(InflateError::NoRoom { wanted, .. }) => return Ok(Opening::NoRoom { unopened: self, wanted }),
            inflated => inflated?,
        };
        let Self { signal, encoding, mut reservation, body: sent, coding: _ } = self;
        drop(sent);
        reservation.set(body.len());
        let decoded = otlp::decode(signal, encoding, &body, received_unix_nano)?;
        let rows_bytes = decoded.batch.as_ref().map_or(0, |batch| batch.rows.get_array_memory_size());
        reservation.set(body.len() + rows_bytes);
        Ok(Opening::Opened(Opened { body, decoded, reservation }))
    }
}

/// A task that did not end by itself: the runtime stops, or a defect was met. The sender keeps what
/// it has and comes back.
fn unfinished(error: JoinError) -> NotAccepted {
    tracing::error!(%error, "a request was not read to its end");
    NotAccepted::Refused(Refused::Closed)
}

impl From<Full> for Refused {
    fn from(Full { retry_after }: Full) -> Self {
        Self::Overloaded { retry_after }
    }
}

impl From<Full> for NotAccepted {
    fn from(full: Full) -> Self {
        Self::Refused(full.into())
    }
}

impl From<Refused> for NotAccepted {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused)
    }
}

impl From<DecodeError> for NotAccepted {
    fn from(error: DecodeError) -> Self {
        Self::Malformed(error.to_string())
    }
}

impl From<InflateError> for NotAccepted {
    fn from(error: InflateError) -> Self {
        match error {
            InflateError::TooLarge { limit } => Self::TooLarge { limit },
            InflateError::NoRoom { full, .. } => full.into(),
            InflateError::Malformed { .. } => Self::Malformed(error.to_string()),
        }
    }
}

impl From<BodyError> for NotAccepted {
    fn from(error: BodyError) -> Self {
        match error {
            BodyError::TooLarge { limit } => Self::TooLarge { limit },
            BodyError::Refused(refused) => refused.into(),
            BodyError::TimedOut => Self::TimedOut,
            BodyError::Broken(_) => Self::Malformed(error.to_string()),
        }
    }
}

pub(crate) fn now_unix_nano() -> UnixNanos {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    UnixNanos::try_from(since.as_nanos()).unwrap_or(UnixNanos::MAX)
}
