//! [`Load`]: an open-loop generator: requests are sent when they are due, whether or not earlier ones
//! were answered, so a slow mesh does not slow its own load.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use http::{Request, header::CONTENT_TYPE};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use tokio::time::Instant;
use tokio_util::task::TaskTracker;

use crate::{Arrivals, arrivals::Arrival, service::Prompt};

/// A client that waits longer has gone away.
const CLIENT_TIMEOUT: Duration = Duration::from_secs(15);

/// Requests under way at once; above it new ones count as failed, so memory stays bounded.
const MAX_IN_FLIGHT: u64 = 20_000;

/// The generator.
pub struct Load {
    arrivals: Arrivals,
    sender: Arc<Sender>,
    tasks: TaskTracker,
}

/// What became of the requests so far.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    /// Sent.
    pub sent: u64,
    /// Answered in full with 2xx within the SLO.
    pub good: u64,
    /// Turned away by policy: 429 or 503.
    pub shed: u64,
    /// Everything else that ended.
    pub late_or_failed: u64,
}

struct Sender {
    client: Client<HttpConnector, Full<Bytes>>,
    url: String,
    slo: Duration,
    sent: AtomicU64,
    good: AtomicU64,
    shed: AtomicU64,
    late_or_failed: AtomicU64,
}

impl Load {
    /// Sends to `entry` (`host:port`).
    #[must_use]
    pub fn new(entry: &str, arrivals: Arrivals, slo: Duration) -> Self {
        let sender = Sender {
            client: Client::builder(TokioExecutor::new()).build_http(),
            url: format!("http://{entry}/v1/generate"),
            slo,
            sent: AtomicU64::default(),
            good: AtomicU64::default(),
            shed: AtomicU64::default(),
            late_or_failed: AtomicU64::default(),
        };
        Self { arrivals, sender: Arc::new(sender), tasks: TaskTracker::new() }
    }

    /// A view of the counts that outlives a run.
    pub fn watch(&self) -> impl Fn() -> Tally + Send + Sync + 'static {
        let sender = self.sender.clone();
        move || sender.tally()
    }

    /// Sends for `length`. Requests may still be under way when it returns.
    pub async fn run(&mut self, length: Duration) {
        let start = Instant::now();
        let mut due = start;
        loop {
            let arrival = self.arrivals.next();
            due += arrival.gap;
            if due.duration_since(start) > length {
                tokio::time::sleep_until(start + length).await;
                return;
            }
            tokio::time::sleep_until(due).await;
            let sender = self.sender.clone();
            self.tasks.spawn(async move { sender.send(arrival).await });
        }
    }

    /// Waits until every request has ended.
    pub async fn drain(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        self.tasks.reopen();
    }
}

impl Sender {
    fn tally(&self) -> Tally {
        Tally {
            sent: self.sent.load(Relaxed),
            good: self.good.load(Relaxed),
            shed: self.shed.load(Relaxed),
            late_or_failed: self.late_or_failed.load(Relaxed),
        }
    }

    async fn send(&self, arrival: Arrival) {
        let sent = self.sent.fetch_add(1, Relaxed) + 1;
        let Tally { good, shed, late_or_failed, .. } = self.tally();
        let started = Instant::now();
        let in_flight = sent.saturating_sub(good + shed + late_or_failed);
        let status = if in_flight > MAX_IN_FLIGHT { None } else { self.ask(arrival).await };
        let counter = match status {
            Some(200..=299) if started.elapsed() <= self.slo => &self.good,
            Some(429 | 503) => &self.shed,
            _ => &self.late_or_failed,
        };
        counter.fetch_add(1, Relaxed);
    }

    /// The status of an answer that was read to its end.
    async fn ask(&self, arrival: Arrival) -> Option<u16> {
        let Arrival { context_tokens, output_tokens, .. } = arrival;
        let prompt = serde_json::to_vec(&Prompt { context_tokens, output_tokens }).ok()?;
        let request = Request::post(&self.url).header(CONTENT_TYPE, "application/json");
        let request = request.body(Full::new(Bytes::from(prompt))).ok()?;
        let answer = async {
            let response = self.client.request(request).await.ok()?;
            let status = response.status().as_u16();
            let mut body = response.into_body();
            while let Some(frame) = body.frame().await {
                frame.ok()?;
            }
            Some(status)
        };
        tokio::time::timeout(CLIENT_TIMEOUT, answer).await.ok()?
    }
}
