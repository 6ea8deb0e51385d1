//! Which endpoint of a level the next request gets.
//!
//! By default power of two choices over peak EWMA: of two endpoints drawn at random, the one with the
//! smaller `latency × (in flight + 1)`; one that has not answered yet gets one request at a time.
//! One that asked to be left alone (`Retry-After`) is passed over, however endpoints are chosen, unless all of them rest.
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
        let untried = |place: usize| !tried.contains(&self.endpoints[place].id);
        let awake = |place: usize| !self.endpoints[place].rest.lasts(now);
        let place = self.among(balance, hash, tried, now, &|place| untried(place) && awake(place));
        // who rests is asked sooner than who has failed this very request
        let place = place.or_else(|| self.among(balance, hash, tried, now, &untried));
        let place = place.or_else(|| self.among(balance, hash, &[], now, &|_| true))?;
        self.endpoints.get(place)
    }

    /// Whether it has one that was not tried and does not rest.
    pub(super) fn has_awake_others_than(&self, tried: &[usize], now: Instant) -> bool {
        self.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.id) && !endpoint.rest.lasts(now))
    }

    pub(super) fn has_others_than(&self, tried: &[usize]) -> bool {
        self.endpoints.iter().any(|endpoint| !tried.contains(&endpoint.id))
    }

    /// Of the places that are `free`; none if none is.
    fn among(
        &self,
        balance: &Balance,
        hash: Option<u64>,
        tried: &[usize],
        now: Instant,
        free: &impl Fn(usize) -> bool,
    ) -> Option<usize> {
        if !(0..self.endpoints.len()).any(free) {
            return None;
        }
        let hashed = self.ring.as_ref().zip(hash).and_then(|(ring, hash)| ring.owner(hash, |place| !free(place)));
        hashed.or_else(|| if tried.is_empty() { self.next(balance, free, now) } else { self.best(free, now) })
    }

    fn next(&self, balance: &Balance, free: &impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        match balance {
            Balance::RoundRobin => self.redrawn(|| self.deal.next(), free, now),
            Balance::Random => self.redrawn(|| self.draw(), free, now),
            Balance::LeastRequest => self.better_of_two(Endpoint::load, free, now),
            Balance::P2cPeakEwma | Balance::RingHash(_) => {
                self.better_of_two(|endpoint| cost(endpoint, now), free, now)
            }
        }
    }

    /// The best of all: retries are few, so every one is looked at.
    fn best(&self, free: &impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        let cost = |place: &usize| cost(&self.endpoints[*place], now);
        (0..self.endpoints.len()).filter(|place| free(*place)).min_by(|a, b| cost(a).total_cmp(&cost(b)))
    }

    fn better_of_two(
        &self,
        cost: impl Fn(&Endpoint) -> f64,
        free: &impl Fn(usize) -> bool,
        now: Instant,
    ) -> Option<usize> {
        let first = self.redrawn(|| self.draw(), free, now)?;
        let other = || {
            let n = self.endpoints.len();
            if self.even { Some((first + rand::random_range(1..n)) % n) } else { self.draw() }
        };
        let second = self.redrawn(other, free, now)?;
        Some(if cost(&self.endpoints[second]) < cost(&self.endpoints[first]) { second } else { first })
    }

    /// A draw that is free; where most are not, and chance does not find it, the best of those that are.
    fn redrawn(&self, draw: impl Fn() -> Option<usize>, free: &impl Fn(usize) -> bool, now: Instant) -> Option<usize> {
        /// One of eight that is free is found with a probability of 0.99.
        const DRAWS: usize = 32;
        let found = (0..DRAWS).find_map(|_| draw().filter(|place| free(*place)));
        found.or_else(|| self.best(free, now))
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
