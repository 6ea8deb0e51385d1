//! [`Kind`]: stations that serve in other ways than in order, which must be told from those that do, or refused.

use std::collections::BinaryHeap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_analyzer::queueing::usl::Usl;

use crate::simulation::{Law, Request, Station};

/// How a simulated station serves.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    /// First come, first served.
    InOrder,
    /// All at once, each slower.
    Shared,
    /// All at once, and each hinders the others, by Gunther's law.
    Contended,
    /// Whoever waits is taken at random.
    RandomOrder,
    /// Who came last is taken first.
    LastFirst,
    /// Three in ten go before the others.
    Priorities,
    /// A server takes up to eight who wait and serves them in one go.
    Batches,
    /// Servers come and go: as many as said, then thrice as many, every 400 requests.
    VaryingServers,
    /// A server for everybody.
    Infinite,
    /// So little to do that hardly anybody waits.
    Idle,
    /// Too few requests.
    TooFew,
}

/// How a kind should be answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Answer {
    InOrder,
    Shared,
    Contended,
    Refused,
}

/// σ and κ of the contended station: most throughput is 5.9 times that of one, with 15 there; beyond it collapses, so its load stays well below.
pub(crate) const CONTENDED: Usl = Usl { gamma: 1.0, sigma: 0.05, kappa: 0.004 };

impl Kind {
    pub(crate) const ALL: [Self; 11] = [
        Self::InOrder,
        Self::Shared,
        Self::Contended,
        Self::RandomOrder,
        Self::LastFirst,
        Self::Priorities,
        Self::Batches,
        Self::VaryingServers,
        Self::Infinite,
        Self::Idle,
        Self::TooFew,
    ];

    pub(crate) fn answer(self) -> Answer {
        match self {
            Self::InOrder => Answer::InOrder,
            Self::Shared => Answer::Shared,
            Self::Contended => Answer::Contended,
            _ => Answer::Refused,
        }
    }

    /// Requests of such a station with exponential arrivals.
    pub(crate) fn run(self, service: Law, servers: u32, load: f64, seed: u64, requests: usize) -> Vec<Request> {
        let station = Station { arrivals: Law::Exponential, service, servers, load };
        match self {
            Self::InOrder => station.run(seed, requests).collect(),
            Self::Shared => station.run_shared(seed, requests),
            Self::Contended => {
                let slowed = |there: usize| CONTENDED.throughput(there as f64) / there as f64;
                Station { servers: 1, load: 4.2 * load, ..station }.run_slowed(seed, requests, slowed)
            }
            Self::RandomOrder => station.run_random_order(seed, requests),
            Self::LastFirst => line(&station, seed, requests, |_, waiting| waiting.len() - 1),
            Self::Priorities => line(&station, seed, requests, |_, waiting| {
                waiting.iter().position(|waiting| waiting.first).unwrap_or(0)
            }),
            Self::Batches => batches(&station, seed, requests),
            Self::VaryingServers => varying(&station, seed, requests),
            Self::Infinite => Station { servers: 200, load: 0.02, ..station }.run(seed, requests).collect(),
            Self::Idle => Station { load: 0.002, ..station }.run(seed, requests).collect(),
            Self::TooFew => station.run(seed, 150).collect(),
        }
    }
}

/// Somebody who waits.
#[derive(Clone, Copy, Debug)]
struct Waiting {
    arrival: f64,
    first: bool,
}

/// A station that takes the next one by `pick` of those who wait, in order of arrival.
fn line(
    station: &Station,
    seed: u64,
    requests: usize,
    pick: impl Fn(&mut StdRng, &[Waiting]) -> usize,
) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    let between = 1.0 / (station.load * f64::from(station.servers));
    let (mut free, mut waiting) = (vec![0.0_f64; station.servers as usize], Vec::new());
    let mut next = 0.0;
    let mut done = Vec::with_capacity(requests);
    while done.len() < requests {
        let first = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("at least one server");
        while next <= free[first] || waiting.is_empty() {
            waiting.push(Waiting { arrival: next, first: random.random_bool(0.3) });
            next += station.arrivals.sample(&mut random) * between;
        }
        let place = pick(&mut random, &waiting);
        let arrival = waiting.remove(place).arrival;
        let start = free[first].max(arrival);
        free[first] = start + station.service.sample(&mut random);
        done.push(Request { arrival, start, departure: free[first] });
    }
    done
}

fn batches(station: &Station, seed: u64, requests: usize) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    // a batch of three on average keeps the servers as busy
    let between = 1.0 / (3.0 * station.load * f64::from(station.servers));
    let (mut free, mut waiting) = (vec![0.0_f64; station.servers as usize], Vec::new());
    let mut next = 0.0;
    let mut done = Vec::with_capacity(requests);
    while done.len() < requests {
        let first = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("at least one server");
        while next <= free[first] || waiting.is_empty() {
            waiting.push(next);
            next += station.arrivals.sample(&mut random) * between;
        }
        let start = free[first].max(waiting[0]);
        free[first] = start + station.service.sample(&mut random);
        let together = waiting.len().min(8);
        done.extend(waiting.drain(..together).map(|arrival| Request { arrival, start, departure: free[first] }));
    }
    done
}

fn varying(station: &Station, seed: u64, requests: usize) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    let key = |time: f64| std::cmp::Reverse((time * 1e9) as u64);
    let mut free: BinaryHeap<_> = (0..station.servers).map(|_| key(0.0)).collect();
    let between = 1.0 / (station.load * f64::from(station.servers));
    let mut now = 0.0;
    let mut done = Vec::with_capacity(requests);
    for place in 0..requests {
        let most = if (place / 400) % 2 == 0 { station.servers } else { 3 * station.servers } as usize;
        now += station.arrivals.sample(&mut random) * between;
        while free.len() < most {
            free.push(key(now));
        }
        while free.len() > most {
            free.pop();
        }
        let std::cmp::Reverse(at) = free.pop().expect("at least one server");
        let start = (at as f64 / 1e9).max(now);
        let departure = start + station.service.sample(&mut random);
        free.push(key(departure));
        done.push(Request { arrival: now, start, departure });
    }
    done
}
