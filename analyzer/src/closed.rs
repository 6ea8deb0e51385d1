//! [`Closed`]: whether those who ask wait for their answer before they ask again, and how many they are.
//!
//! Of an open stream the arrivals know nothing of how many are there. N clients that wait for their answer come at
//! `(N − n)/Z` when n of their requests are in flight, with Z the time they think between: fewer the more wait, and none
//! when all do. (The finite-source queue: L. Kleinrock, "Queueing Systems, Volume I", 1975, section 3.8.) Both
//! are fitted by likelihood to the time spent with n there and the arrivals it saw; a closed loop is said only when it
//! explains them far better and its N is near the most that were ever there. The open stream may come at a rate of its own when nobody is
//! there, for regular arrivals do: a long gap both empties a station and is about to end. With many clients of which few wait the two are the
//! same, and open is said.

/// A closed loop of clients.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Closed {
    /// N.
    pub(crate) clients: u32,
    /// Z, nanoseconds.
    pub(crate) think_ns: f64,
}

/// Requests that tell one from the other.
const MIN_REQUESTS: usize = 500;

/// N is at most this many times the most that were there at once: of more clients a loop is not told from an open stream.
const MAX_CLIENTS_OF_MOST: f64 = 1.5;

/// The most clients looked for; more are as good as an open stream.
const MAX_CLIENTS: usize = 512;

/// Of what the number there tells of the rate of arrivals, the share that a loop must explain: regular arrivals at several servers depend on it
/// too, but a loop explains 0.3 to 0.87 of that, and 0.93 or more of its own.
const MIN_EXPLAINED: f64 = 0.9;

/// A single client's requests must fill this share of the time; rarer ones hardly ever meet anyway.
const MIN_BUSY_OF_ONE: f64 = 0.3;

/// Difference of log-likelihoods: chance reaches it once in 10⁸.
const MIN_EVIDENCE: f64 = 16.0;

impl Closed {
    /// From requests in flight as start and end.
    pub(crate) fn detect(requests: impl Iterator<Item = (i64, i64)>) -> Option<Self> {
        let by_there = ByThere::of(requests)?;
        let most = by_there.states.len().saturating_sub(1);
        let limit = ((most as f64 * MAX_CLIENTS_OF_MOST) as usize).max(most + 1).min(MAX_CLIENTS);
        let candidates = most.max(1)..=if most <= 1 { 1 } else { limit };
        let (clients, likelihood) = candidates
            .map(|clients| (clients, by_there.likelihood(|n| clients as f64 - n as f64)))
            .max_by(|a, b| a.1.total_cmp(&b.1))?;
        // of one client all arrivals find nobody there, which a station that is mostly idle shows as well
        let told = match most {
            0 | 1 => by_there.busy_share() > MIN_BUSY_OF_ONE,
            _ => clients < limit && by_there.is_explained(likelihood),
        };
        told.then(|| Self {
            clients: u32::try_from(clients).unwrap_or(u32::MAX),
            think_ns: by_there.time_per_arrival(|n| clients as f64 - n as f64),
        })
    }
}

/// Time spent with n there, and arrivals that came meanwhile.
struct ByThere {
    states: Vec<(f64, f64)>,
}

impl ByThere {
    fn of(requests: impl Iterator<Item = (i64, i64)>) -> Option<Self> {
        let mut events: Vec<(i64, i32)> =
            requests.flat_map(|(start, end)| [(start, 1), (end.max(start), -1)]).collect();
        if events.len() < 2 * MIN_REQUESTS {
            return None;
        }
        // who asks again at once has his answer already: ends before starts
        events.sort_unstable();
        // those there before the first are not seen: begin when the stretch looked at is a tenth over
        let skipped = events.len() / 10;
        let mut there = events[..skipped].iter().map(|(_, change)| *change).sum::<i32>();
        let mut last = events[skipped].0;
        let mut states: Vec<(f64, f64)> = Vec::new();
        // and after nine tenths more are there than are known to be: their ends are not seen yet
        for (time, change) in &events[skipped..events.len() - skipped] {
            let state = usize::try_from(there).unwrap_or(0);
            if states.len() <= state {
                states.resize(state + 1, (0.0, 0.0));
            }
            states[state].0 += (time - last) as f64;
            states[state].1 += f64::from(*change > 0);
            (there, last) = (there + change, *time);
        }
        Some(Self { states })
    }

    /// Log-likelihood, up to what all share, of arrivals in proportion to `weight(n)`.
    fn likelihood(&self, weight: impl Fn(usize) -> f64 + Copy) -> f64 {
        let scale = self.time_per_arrival(weight);
        let states = self.states.iter().enumerate().filter(|(_, (_, arrivals))| *arrivals > 0.0);
        states.map(|(n, (_, arrivals))| arrivals * (weight(n) / scale).max(1e-300).ln()).sum()
    }

    /// The same of an open stream that has a rate of its own while nobody is there.
    fn open_likelihood(&self) -> f64 {
        let rate = |states: &[(f64, f64)]| {
            let (time, arrivals) = states.iter().fold((0.0, 0.0), |(t, a), (time, arrivals)| (t + time, a + arrivals));
            if arrivals > 0.0 { arrivals * (arrivals / time).ln() } else { 0.0 }
        };
        let (empty, busy) = self.states.split_at(1.min(self.states.len()));
        rate(empty) + rate(busy)
    }

    /// Whether a loop of so much likelihood is far better than an open stream, and nearly as good as a rate of its own for every state.
    fn is_explained(&self, closed: f64) -> bool {
        let own_rate = |(time, arrivals): &(f64, f64)| {
            if *arrivals > 0.0 && *time > 0.0 { arrivals * (arrivals / time).ln() } else { 0.0 }
        };
        let (open, best) = (self.open_likelihood(), self.states.iter().map(own_rate).sum::<f64>());
        closed - open > MIN_EVIDENCE && closed - open > MIN_EXPLAINED * (best - open)
    }

    fn busy_share(&self) -> f64 {
        let all: f64 = self.states.iter().map(|(time, _)| time).sum();
        1.0 - self.states.first().map_or(0.0, |(time, _)| *time) / all.max(1.0)
    }

    /// `Σ weight(n)·time(n) / arrivals`: Z when weights count clients.
    fn time_per_arrival(&self, weight: impl Fn(usize) -> f64) -> f64 {
        let weighted: f64 = self.states.iter().enumerate().map(|(n, (time, _))| weight(n).max(0.0) * time).sum();
        weighted / self.states.iter().map(|(_, arrivals)| arrivals).sum::<f64>().max(1.0)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BinaryHeap;

    use rand::{SeedableRng, rngs::StdRng};

    use super::*;
    use crate::queueing::simulation::{Law, Station};

    /// One server of mean 1, clients that think for `think`, in milliseconds.
    fn loop_of(clients: usize, think: f64, seed: u64, requests: usize) -> Vec<(i64, i64)> {
        let mut random = StdRng::seed_from_u64(seed);
        let key = |time: f64| std::cmp::Reverse((time * 1e6) as i64);
        let mut asks: BinaryHeap<_> = (0..clients).map(|_| key(think * Law::Exponential.sample(&mut random))).collect();
        let mut free = 0.0_f64;
        let mut done = Vec::new();
        while let Some(std::cmp::Reverse(start)) = asks.pop().filter(|_| done.len() < requests) {
            free = free.max(start as f64 / 1e6) + Law::Exponential.sample(&mut random);
            done.push((start, (free * 1e6) as i64));
            asks.push(key(free + think * Law::Exponential.sample(&mut random)));
        }
        done
    }

    #[test]
    fn few_clients_that_wait_are_counted() {
        for (clients, think, seed) in [(1, 1.0, 1), (4, 2.0, 2), (8, 4.0, 3), (20, 10.0, 4)] {
            let found = Closed::detect(loop_of(clients, think, seed, 4_000).into_iter()).expect("it is closed");
            println!("seed {seed}: {clients} thinking {think}: {found:?}");
            assert!((f64::from(found.clients) - clients as f64).abs() <= (0.15 * clients as f64).max(0.1), "{found:?}");
            assert!((found.think_ns / 1e6 / think - 1.0).abs() < 0.25, "{found:?}");
        }
    }

    #[test]
    fn open_streams_are_not_taken_for_closed() {
        let arrivals = [Law::Erlang(4), Law::Exponential, Law::Hyperexponential(4.0)];
        let stations = arrivals.into_iter().flat_map(|arrivals| {
            [(1, 0.5), (1, 0.9), (4, 0.7), (8, 0.95)].map(|(servers, load)| Station {
                arrivals,
                service: Law::Exponential,
                servers,
                load,
            })
        });
        for (seed, station) in (10..).zip(stations) {
            let requests = station.run(seed, 4_000).map(|r| ((r.arrival * 1e6) as i64, (r.departure * 1e6) as i64));
            assert_eq!(Closed::detect(requests), None, "seed {seed} {station:?}");
        }
    }
}
