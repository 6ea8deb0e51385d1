//! Which endpoint of a level the next request gets.
//!
//! By default power of two choices over peak EWMA: of two endpoints drawn at random, the one with the
//! smaller `latency × (in flight + 1)`; one that has not answered yet gets one request at a time.
//! Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", 2001.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    config::Balance,
    upstream::{deal::Deal, endpoint::Endpoint, ring::Ring},
};

/// Endpoints that are equally welcome.
#[derive(Default)]
pub(super) struct Level {
    endpoints: Vec<Arc<Endpoint>>,
    deal: Deal,
    /// All weigh the same, so a place is drawn without a search.
    even: bool,
    ring: Option<Ring>,
}

impl Level {
    pub(super) fn new(endpoints: Vec<Arc<Endpoint>>, with_ring: bool) -> Self {
        let even = endpoints.windows(2).all(|pair| pair[0].spec.weight == pair[1].spec.weight);
        let deal = Deal::new(endpoints.iter().map(|endpoint| endpoint.spec.weight));
        let ring = with_ring.then(|| Ring::new(&endpoints));
        Self { endpoints, deal, even, ring }
    }

    pub(super) fn choose(
        &self,
        balance: &Balance,
        hash: Option<u64>,
        tried: &[usize],
        now: Instant,
    ) -> Option<&Arc<Endpoint>> {
        if self.endpoints.len() < 2 {
            return self.endpoints.first();
        }
        let untried = !tried.is_empty() && self.has_others_than(tried);
        let skip = |place: usize| untried && tried.contains(&self.endpoints[place].id);
        let hashed = self.ring.as_ref().zip(hash).and_then(|(ring, hash)| ring.owner(hash, skip));
        let place = hashed.or_else(|| if untried { self.other(tried, now) } else { self.next(balance, now) })?;
        self.endpoints.get(place)
    }

    pub(super) fn has_others_than(&self, tried: &[usize]) -> bool {
        self.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.id))
    }

    fn next(&self, balance: &Balance, now: Instant) -> Option<usize> {
        match balance {
            Balance::RoundRobin => self.deal.next(),
            Balance::Random => self.draw(),
            Balance::LeastRequest => self.better_of_two(Endpoint::load),
            Balance::P2cPeakEwma | Balance::RingHash(_) => self.better_of_two(|endpoint| cost(endpoint, now)),
        }
    }

    /// The best of those that were not tried: retries are few, so all are looked at.
    fn other(&self, tried: &[usize], now: Instant) -> Option<usize> {
        let untried = self.endpoints.iter().enumerate().filter(|(_, endpoint)| !tried.contains(&endpoint.id));
        untried.min_by(|(_, a), (_, b)| cost(a, now).total_cmp(&cost(b, now))).map(|(place, _)| place)
    }

    fn better_of_two(&self, cost: impl Fn(&Endpoint) -> f64) -> Option<usize> {
        let first = self.draw()?;
        let second = if self.even {
            let n = self.endpoints.len();
            (first + rand::random_range(1..n)) % n
        } else {
            self.draw()?
        };
        Some(if cost(&self.endpoints[second]) < cost(&self.endpoints[first]) { second } else { first })
    }

    fn draw(&self) -> Option<usize> {
        if self.even { Some(rand::random_range(0..self.endpoints.len())) } else { self.deal.draw() }
    }
}

/// An endpoint of which nothing is known, new or long rested, is probed by one request at a time: without that it would
/// look like the fastest of all until its first answer, and everything would go there.
fn cost(endpoint: &Endpoint, now: Instant) -> f64 {
    /// Below this nothing is known, or it is forgotten.
    const FLOOR_S: f64 = 1e-5;
    /// More than any latency times any number in flight; small enough that the load still tells two of these apart.
    const PROBED: f64 = 1e12;
    let (seconds, load) = (endpoint.latency.lock().seconds(now), endpoint.load());
    if seconds < FLOOR_S && load > 0.0 { PROBED + load } else { seconds.max(FLOOR_S) * (load + 1.0) }
}
