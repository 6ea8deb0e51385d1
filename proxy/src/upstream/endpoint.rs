//! [`Endpoint`]: one address of an upstream and what is known of it; [`Pick`]: a request under way there.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;

use crate::{
    config,
    counters::{add, nanos},
    upstream::{Upstream, ewma::PeakEwma, outlier::Health, rest::Rest},
};

/// One address of an upstream and what is known of it.
pub(crate) struct Endpoint {
    /// Unlike that of every other endpoint the proxy ever had: the key of the connection pools.
    pub(crate) id: usize,
    pub(crate) spec: config::Endpoint,
    pub(crate) in_flight: AtomicU32,
    pub(crate) latency: Mutex<PeakEwma>,
    pub(crate) health: Health,
    pub(crate) rest: Rest,
    pub(crate) stats: EndpointStats,
}

/// What was seen of an endpoint and of the connections to it.
#[derive(Debug, Default)]
pub(crate) struct EndpointStats {
    pub(crate) requests: AtomicU64,
    pub(crate) failures: AtomicU64,
    pub(crate) latency_ns: AtomicU64,
    pub(crate) connects: AtomicU64,
    pub(crate) connect_failures: AtomicU64,
    pub(crate) resets: AtomicU64,
    pub(crate) open: AtomicU32,
    pub(crate) idle: AtomicU32,
}

/// A request that is under way at an endpoint; it counts there until this is dropped.
pub(crate) struct Pick {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) endpoint: Arc<Endpoint>,
}

impl Endpoint {
    pub(crate) fn new(id: usize, spec: config::Endpoint, now: Instant) -> Self {
        let (in_flight, latency) = (AtomicU32::new(0), Mutex::new(PeakEwma::new(now)));
        let (health, rest, stats) = (Health::default(), Rest::new(now), EndpointStats::default());
        Self { id, spec, in_flight, latency, health, rest, stats }
    }

    pub(crate) fn address(&self) -> &str {
        &self.spec.address
    }

    /// Requests in flight per unit of weight.
    pub(crate) fn load(&self) -> f64 {
        f64::from(self.in_flight.load(Relaxed)) / f64::from(self.spec.weight.max(1))
    }
}

impl Pick {
    pub(crate) fn of(upstream: Arc<Upstream>, endpoint: Arc<Endpoint>) -> Self {
        endpoint.in_flight.fetch_add(1, Relaxed);
        Self { upstream, endpoint }
    }

    /// Takes note of how long the head of the response took, or that the call failed; `rest` is how long the
    /// endpoint asked to be left alone.
    pub(crate) fn observe(&self, latency: Duration, failed: bool, rest: Option<Duration>, now: Instant) {
        let stats = &self.endpoint.stats;
        add(&stats.requests, 1);
        add(&stats.failures, usize::from(failed));
        stats.latency_ns.fetch_add(nanos(latency), Relaxed);
        if let Some(rest) = rest {
            self.endpoint.rest.until(now + rest);
        }
        let mut known = self.endpoint.latency.lock();
        if failed { known.observe_failure(latency, now) } else { known.observe(latency, now) }
    }

    /// An answer that began well has ended in a failure.
    pub(crate) fn failed(&self, now: Instant) {
        add(&self.endpoint.stats.failures, 1);
        self.endpoint.latency.lock().observe_failure(Duration::ZERO, now);
    }

    /// The client gave up, and the endpoint owed an answer since `since`. Tells whether it has answered nobody meanwhile.
    pub(crate) fn given_up(&self, since: Instant, now: Instant) -> bool {
        let mut latency = self.endpoint.latency.lock();
        latency.observe_at_least(now.saturating_duration_since(since), now);
        latency.heard() < since
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint.in_flight.fetch_sub(1, Relaxed);
    }
}
