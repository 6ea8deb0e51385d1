//! [`Station`]: an event simulation of one first-come-first-served queue, against which formulas and
//! estimates are tested. Service has mean 1.

use rand::{Rng, SeedableRng, rngs::StdRng};

/// A distribution with mean 1.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Law {
    Deterministic,
    Exponential,
    /// Of so many phases.
    Erlang(u32),
    /// With this squared coefficient of variation, above 1; two phases with balanced means.
    Hyperexponential(f64),
    /// With this squared coefficient of variation.
    Lognormal(f64),
}

/// What is simulated.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Station {
    pub(crate) arrivals: Law,
    pub(crate) service: Law,
    pub(crate) servers: u32,
    /// ρ.
    pub(crate) load: f64,
}

/// One simulated request.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Request {
    pub(crate) arrival: f64,
    pub(crate) start: f64,
    pub(crate) departure: f64,
}

impl Law {
    pub(crate) fn scv(self) -> f64 {
        match self {
            Self::Deterministic => 0.0,
            Self::Exponential => 1.0,
            Self::Erlang(phases) => 1.0 / f64::from(phases),
            Self::Hyperexponential(scv) | Self::Lognormal(scv) => scv,
        }
    }

    pub(crate) fn sample(self, random: &mut StdRng) -> f64 {
        match self {
            Self::Deterministic => 1.0,
            Self::Exponential => exponential(random),
            Self::Erlang(phases) => (0..phases).map(|_| exponential(random)).sum::<f64>() / f64::from(phases),
            Self::Hyperexponential(scv) => {
                let first = 0.5 * (1.0 + ((scv - 1.0) / (scv + 1.0)).sqrt());
                let share = if random.random_bool(first) { first } else { 1.0 - first };
                exponential(random) / (2.0 * share)
            }
            Self::Lognormal(scv) => {
                let variance = (1.0 + scv).ln();
                (normal(random) * variance.sqrt() - variance / 2.0).exp()
            }
        }
    }
}

fn exponential(random: &mut StdRng) -> f64 {
    -(1.0 - random.random::<f64>()).ln()
}

/// Box and Muller.
fn normal(random: &mut StdRng) -> f64 {
    (2.0 * exponential(random)).sqrt() * (std::f64::consts::TAU * random.random::<f64>()).cos()
}

impl Station {
    /// The requests in order of arrival.
    pub(crate) fn run(&self, seed: u64, requests: usize) -> impl Iterator<Item = Request> + use<> {
        let Self { arrivals, service, servers, load } = *self;
        let mut random = StdRng::seed_from_u64(seed);
        let between = 1.0 / (load * f64::from(servers));
        let mut free = vec![0.0_f64; servers as usize];
        let mut now = 0.0;
        (0..requests).map(move |_| {
            now += arrivals.sample(&mut random) * between;
            let first_free = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("at least one server");
            let start = first_free.max(now);
            *first_free = start + service.sample(&mut random);
            Request { arrival: now, start, departure: *first_free }
        })
    }

    /// The same station shared by all who are there, in order of departure. `start` is that of service: at once.
    pub(crate) fn run_shared(&self, seed: u64, requests: usize) -> Vec<Request> {
        let servers = f64::from(self.servers);
        self.run_slowed(seed, requests, |there| (servers / there as f64).min(1.0))
    }

    /// The same where each goes on at `share(n)` of the speed of being alone when n are there.
    pub(crate) fn run_slowed(&self, seed: u64, requests: usize, share: impl Fn(usize) -> f64) -> Vec<Request> {
        let Self { arrivals, service, servers, load } = *self;
        let mut random = StdRng::seed_from_u64(seed);
        let between = 1.0 / (load * f64::from(servers));
        // who is there, and what is left to do for each
        let mut there: Vec<(f64, f64)> = Vec::new();
        let (mut now, mut next) = (0.0, arrivals.sample(&mut random) * between);
        let mut done = Vec::with_capacity(requests);
        while done.len() < requests {
            let share = share(there.len().max(1));
            let first = (0..there.len()).min_by(|a, b| there[*a].1.total_cmp(&there[*b].1));
            let departs = first.map_or(f64::INFINITY, |first| now + there[first].1 / share);
            let until = departs.min(next);
            there.iter_mut().for_each(|(_, left)| *left -= (until - now) * share);
            now = until;
            match first.filter(|_| departs <= next) {
                Some(first) => {
                    let (arrival, _) = there.swap_remove(first);
                    done.push(Request { arrival, start: arrival, departure: now });
                }
                None => {
                    there.push((now, service.sample(&mut random)));
                    next += arrivals.sample(&mut random) * between;
                }
            }
        }
        done
    }

    /// The same station, but whoever waits is taken at random.
    pub(crate) fn run_random_order(&self, seed: u64, requests: usize) -> Vec<Request> {
        let Self { arrivals, service, servers, load } = *self;
        let mut random = StdRng::seed_from_u64(seed);
        let between = 1.0 / (load * f64::from(servers));
        let (mut free, mut waiting) = (vec![0.0_f64; servers as usize], Vec::new());
        let mut next = 0.0;
        let mut done = Vec::with_capacity(requests);
        while done.len() < requests {
            let first = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).expect("at least one server");
            while next <= free[first] || waiting.is_empty() {
                waiting.push(next);
                next += arrivals.sample(&mut random) * between;
            }
            let arrival = waiting.swap_remove(random.random_range(0..waiting.len()));
            let start = free[first].max(arrival);
            free[first] = start + service.sample(&mut random);
            done.push(Request { arrival, start, departure: free[first] });
        }
        done
    }

    /// What was drawn and what came of it, the first tenth left out.
    pub(crate) fn means(&self, seed: u64, requests: usize) -> Means {
        let mut steady = self.run(seed, requests).skip(requests / 10);
        let first = steady.next().expect("requests enough");
        let (mut wait, mut service, mut between, mut last) =
            (Moments::default(), Moments::default(), Moments::default(), first.arrival);
        for request in steady {
            wait.add(request.start - request.arrival);
            service.add(request.departure - request.start);
            between.add(request.arrival - last);
            last = request.arrival;
        }
        Means {
            wait: wait.mean(),
            service: service.mean(),
            cs2: service.scv(),
            arrival_rate: 1.0 / between.mean(),
            ca2: between.scv(),
        }
    }
}

/// Formulas are asked for the rate and the service time that were drawn, not those that were meant: that
/// takes most of the chance out of the comparison.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Means {
    pub(crate) wait: f64,
    pub(crate) service: f64,
    pub(crate) cs2: f64,
    pub(crate) arrival_rate: f64,
    pub(crate) ca2: f64,
}

#[derive(Clone, Copy, Debug, Default)]
struct Moments {
    count: f64,
    sum: f64,
    squares: f64,
}

impl Moments {
    fn add(&mut self, value: f64) {
        self.count += 1.0;
        self.sum += value;
        self.squares += value * value;
    }

    fn mean(&self) -> f64 {
        self.sum / self.count
    }

    fn scv(&self) -> f64 {
        (self.squares / self.count / self.mean().powi(2) - 1.0).max(0.0)
    }
}
