//! Power of two choices over peak EWMA: of two endpoints drawn at random, the one with the smaller
//! `latency × (in flight + 1)`.
//!
//! The latency estimate jumps up to a slow answer at once and decays towards fast ones with time
//! constant [`DECAY`], so a stalled endpoint is left at once and trusted again slowly. A failure counts
//! as [`PENALTY`]. Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::workload::{Endpoint, Upstream};

/// 10 s: as long as a person would watch before trusting an endpoint again.
const DECAY: Duration = Duration::from_secs(10);

/// What a failed call counts as: worse than any healthy answer.
pub(crate) const PENALTY: Duration = Duration::from_secs(5);

/// The latency of one endpoint.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    seconds: f64,
    updated: Instant,
}

/// A call that is under way at an endpoint.
pub(crate) struct Pick {
    pub(crate) upstream: Arc<Upstream>,
    /// Among the upstream's endpoints.
    pub(crate) index: usize,
}

impl PeakEwma {
    pub(crate) fn new(now: Instant) -> Self {
        Self { seconds: 0.0, updated: now }
    }

    pub(crate) fn observe(&mut self, latency: Duration, now: Instant) {
        let new = latency.as_secs_f64();
        let old = self.value(now);
        let keep = (-(now.duration_since(self.updated).as_secs_f64()) / DECAY.as_secs_f64()).exp();
        self.seconds = if new >= old { new } else { old * keep + new * (1.0 - keep) };
        self.updated = now;
    }

    /// Decays while nothing is heard, so that an endpoint nobody picks is tried again.
    fn value(&self, now: Instant) -> f64 {
        let idle = now.duration_since(self.updated).as_secs_f64() / DECAY.as_secs_f64();
        self.seconds * (-idle).exp()
    }
}

impl Pick {
    /// Picks an endpoint; it counts as in flight until the pick is dropped.
    pub(crate) fn of(upstream: &Arc<Upstream>, now: Instant) -> Self {
        let endpoints = &upstream.endpoints;
        let index = match endpoints.len() {
            1 => 0,
            n => {
                let first = rand::random_range(0..n);
                let second = (first + rand::random_range(1..n)) % n;
                if cost(&endpoints[second], now) < cost(&endpoints[first], now) { second } else { first }
            }
        };
        endpoints[index].in_flight.fetch_add(1, Relaxed);
        Self { upstream: upstream.clone(), index }
    }

    pub(crate) fn endpoint(&self) -> &Endpoint {
        &self.upstream.endpoints[self.index]
    }

    /// Takes note of how long the head of the response took, or that the call failed.
    pub(crate) fn observe(&self, latency: Duration, failed: bool, now: Instant) {
        if self.upstream.endpoints.len() > 1 {
            let latency = if failed { latency.max(PENALTY) } else { latency };
            self.endpoint().latency.lock().observe(latency, now);
        }
    }
}

impl Drop for Pick {
    fn drop(&mut self) {
        self.endpoint().in_flight.fetch_sub(1, Relaxed);
    }
}

fn cost(endpoint: &Endpoint, now: Instant) -> f64 {
    /// Below this two endpoints are alike, and the one with less in flight wins.
    const FLOOR_S: f64 = 1e-5;
    let latency = endpoint.latency.lock().value(now).max(FLOOR_S);
    latency * (f64::from(endpoint.in_flight.load(Relaxed)) + 1.0)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicU32;

    use parking_lot::Mutex;

    use super::*;
    use crate::config::Protocol;

    fn upstream(n: usize) -> Arc<Upstream> {
        let endpoint = |id| Endpoint {
            id,
            address: format!("127.0.0.1:{}", 9000 + id),
            in_flight: AtomicU32::new(0),
            latency: Mutex::new(PeakEwma::new(Instant::now())),
        };
        let endpoints = (0..n).map(endpoint).collect();
        Arc::new(Upstream { name: "u".into(), protocol: Protocol::Http1, endpoints, circuit: Arc::default() })
    }

    #[tokio::test(start_paused = true)]
    async fn a_slow_endpoint_is_left_and_tried_again() {
        let (upstream, now) = (upstream(2), Instant::now());
        upstream.endpoints[0].latency.lock().observe(Duration::from_millis(500), now);
        upstream.endpoints[1].latency.lock().observe(Duration::from_millis(5), now);
        let to_slow = |now| (0..100).filter(|_| Pick::of(&upstream, now).index == 0).count();
        assert_eq!(to_slow(now), 0);
        let later = now + Duration::from_secs(120);
        upstream.endpoints[1].latency.lock().observe(Duration::from_millis(5), later);
        assert_eq!(to_slow(later), 100, "nothing was heard of it for long: it is tried again");
    }

    #[tokio::test(start_paused = true)]
    async fn calls_spread_by_what_is_in_flight() {
        let (upstream, now) = (upstream(4), Instant::now());
        let picks: Vec<Pick> = (0..400).map(|_| Pick::of(&upstream, now)).collect();
        let loads: Vec<u32> = upstream.endpoints.iter().map(|e| e.in_flight.load(Relaxed)).collect();
        assert!(loads.iter().all(|n| (95..=105).contains(n)), "{loads:?}");
        drop(picks);
        assert!(upstream.endpoints.iter().all(|e| e.in_flight.load(Relaxed) == 0));
    }

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(Duration::from_secs(1), now);
        assert_eq!(ewma.value(now), 1.0);
        ewma.observe(Duration::from_millis(100), now + Duration::from_millis(10));
        assert!(ewma.value(now + Duration::from_millis(10)) > 0.99);
        assert!(ewma.value(now + DECAY) < 0.4);
    }
}
