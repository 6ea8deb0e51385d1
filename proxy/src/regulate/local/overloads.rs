//! The limiter at simulated stations (M/G/c behind its gate) whose load steps, bursts, or stays as it is: how soon it acts, and
//! whom it turns away although all is well.

use std::collections::VecDeque;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::regulate::{Latencies, ages::Age};

/// Of simulated time; a request takes tens of it.
const TICK: Duration = Duration::from_micros(500);

const QUEUE_WAIT: Duration = Duration::from_millis(50);

/// As by custom.
const QUEUE: usize = 64;

/// c workers, first come first served, behind a gate with a queue.
struct Station {
    workers: u32,
    service_s: f64,
    exponential: bool,
    random: StdRng,
    start: Instant,
    now: Instant,
    limiter: LocalLimiter,
    latencies: Latencies,
    /// At the gate, by when they came.
    waiting: VecDeque<Instant>,
    /// Let in, not taken up.
    behind: VecDeque<Asked>,
    served: Vec<(Instant, Asked)>,
    asked: u32,
    refused: u32,
    /// When somebody first had waited too long at the workers, and when a limit first was there, since [`Station::forget`].
    too_long_at: Option<Instant>,
    limited_at: Option<Instant>,
}

/// One request at the workers.
struct Asked {
    at: Instant,
    in_flight: u32,
    _age: Option<Age>,
}

impl Station {
    fn new(workers: u32, service_s: f64, exponential: bool, seed: u64) -> Self {
        let now = Instant::now();
        let latencies = Latencies::default();
        latencies.want();
        Self {
            workers,
            service_s,
            exponential,
            random: StdRng::seed_from_u64(seed),
            start: now,
            now,
            limiter: LocalLimiter::new(QUEUE_WAIT, workers, now),
            latencies,
            waiting: VecDeque::new(),
            behind: VecDeque::new(),
            served: Vec::new(),
            asked: 0,
            refused: 0,
            too_long_at: None,
            limited_at: None,
        }
    }

    /// Lets time pass with arrivals at so many times what it can do.
    fn run(&mut self, seconds: f64, load: f64) {
        let rate_per_tick = load * f64::from(self.workers) / self.service_s * TICK.as_secs_f64();
        let ticks = (seconds / TICK.as_secs_f64()) as u32;
        for _ in 0..ticks {
            let arrivals = self.poisson(rate_per_tick);
            self.tick(arrivals);
        }
    }

    fn tick(&mut self, arrivals: u32) {
        self.now += TICK;
        self.asked += arrivals;
        self.waiting.extend((0..arrivals).map(|_| self.now));
        self.answer();
        self.let_in();
        self.take_up();
        let since_start = self.now.duration_since(self.start);
        if since_start.as_micros() % STEP.as_micros() < TICK.as_micros() {
            self.step();
        }
    }

    fn answer(&mut self) {
        let now = self.now;
        for (_, asked) in self.served.extract_if(.., |(ends, _)| *ends <= now) {
            self.latencies.observe(now.duration_since(asked.at), asked.in_flight);
        }
    }

    fn let_in(&mut self) {
        while !self.waiting.is_empty() && self.limiter.limit.is_none_or(|limit| self.in_flight() < limit) {
            self.waiting.pop_front();
            let in_flight = self.in_flight() + 1;
            self.behind.push_back(Asked { at: self.now, in_flight, _age: self.latencies.begin(self.now) });
        }
        let before = self.waiting.len();
        self.waiting.truncate(QUEUE);
        self.waiting.retain(|came| self.now.duration_since(*came) < QUEUE_WAIT);
        self.refused += (before - self.waiting.len()) as u32;
    }

    fn take_up(&mut self) {
        while self.served.len() < self.workers as usize {
            let Some(asked) = self.behind.pop_front() else { break };
            let service_s = if self.exponential { self.exponential_s() } else { self.service_s };
            self.served.push((self.now + Duration::from_secs_f64(service_s), asked));
        }
        if self.behind.front().is_some_and(|asked| self.now.duration_since(asked.at) > QUEUE_WAIT) {
            self.too_long_at.get_or_insert(self.now);
        }
    }

    fn step(&mut self) {
        let in_flight = self.in_flight();
        let used_up = self.limiter.limit.is_some_and(|limit| in_flight >= limit);
        let waited = self.latencies.behind(self.workers, self.now);
        let (limit, taken) = self.limiter.step(self.latencies.look(), Load { in_flight, used_up, waited }, self.now);
        if taken {
            self.latencies.clear();
        }
        if limit.is_some() {
            self.limited_at.get_or_insert(self.now);
        }
    }

    /// What was until now is not asked about.
    fn forget(&mut self) {
        (self.too_long_at, self.limited_at) = (None, None);
        (self.asked, self.refused) = (0, 0);
    }

    fn in_flight(&self) -> u32 {
        (self.behind.len() + self.served.len()) as u32
    }

    fn exponential_s(&mut self) -> f64 {
        -self.service_s * (1.0 - self.random.random::<f64>()).ln()
    }

    fn poisson(&mut self, mean: f64) -> u32 {
        let (mut count, mut left) = (0, self.random.random::<f64>());
        let mut probability = (-mean).exp();
        while left > probability {
            left -= probability;
            count += 1;
            probability *= mean / f64::from(count);
        }
        count
    }
}

/// Found by measuring: with a real upstream it acted after the answers of those who had waited too long, and that took as
/// long as they waited.
#[test]
fn an_overload_is_met_before_those_who_wait_too_long_are_answered() {
    let mut late = Vec::new();
    for (workers, service_s, exponential, load, within_ms) in [
        (4, 0.020, false, 1.5, 100),
        (4, 0.020, false, 3.0, 100),
        (4, 0.020, true, 1.5, 100),
        (4, 0.020, true, 3.0, 100),
        (16, 0.050, true, 2.0, 100),
        (1, 0.005, true, 2.0, 100),
        // at a service of long times a wait of 50 ms is nothing unusual: it takes about one of those
        (8, 0.400, true, 3.0, 600),
    ] {
        let mut took = Vec::new();
        for seed in 1..=10 {
            let mut station = Station::new(workers, service_s, exponential, seed);
            station.run(10.0, 0.5);
            station.forget();
            station.run(5.0, load);
            let (too_long, limited) = (station.too_long_at.unwrap(), station.limited_at.unwrap());
            took.push(limited.saturating_duration_since(too_long).as_millis());
        }
        println!("{workers} of {service_s} s, {load}: {took:?} ms");
        late.extend(took.iter().any(|ms| *ms > within_ms).then_some((workers, service_s, load, took)));
    }
    assert!(late.is_empty(), "{late:?}");
}

#[test]
fn a_service_that_is_well_turns_nobody_away() {
    let mut shed = Vec::new();
    for (workers, service_s, load) in [
        (4, 0.020, 0.5),
        (4, 0.020, 0.7),
        (16, 0.050, 0.7),
        (1, 0.005, 0.5),
        (8, 0.400, 0.5),
        (8, 2.0, 0.5),
        (32, 2.0, 0.7),
    ] {
        let (mut asked, mut refused) = (0, 0);
        for seed in 1..=3 {
            let mut station = Station::new(workers, service_s, true, seed);
            station.run(300.0, load);
            (asked, refused) = (asked + station.asked, refused + station.refused);
        }
        println!("{workers} of {service_s} s at {load}: {refused} of {asked}");
        shed.extend((refused * 1_000 > asked).then_some((workers, service_s, load, refused, asked)));
    }
    assert!(shed.is_empty(), "{shed:?}");
}

/// As many as it serves in 70 ms, at once and every second.
#[test]
fn a_burst_that_it_works_off_turns_nobody_away() {
    let mut station = Station::new(4, 0.020, true, 7);
    station.run(5.0, 0.3);
    for _ in 0..60 {
        station.tick(14);
        station.run(1.0, 0.3);
    }
    assert!(station.refused * 1_000 <= station.asked, "{} of {}", station.refused, station.asked);
}

#[test]
fn one_request_that_hangs_is_no_overload() {
    let mut station = Station::new(4, 0.020, false, 7);
    station.run(5.0, 0.25);
    let never = station.now + Duration::from_secs(86_400);
    let hung = Asked { at: station.now, in_flight: 1, _age: station.latencies.begin(station.now) };
    station.served.push((never, hung));
    station.run(60.0, 0.25);
    assert_eq!((station.limited_at, station.refused), (None, 0));
    // and alone
    station.run(60.0, 0.0);
    assert_eq!(station.limited_at, None);
}

/// What was taken for an overload by chance does not stay.
#[test]
fn a_limit_that_nobody_needs_goes() {
    let mut station = Station::new(4, 0.020, false, 7);
    station.run(5.0, 0.5);
    station.tick(16);
    station.run(0.1, 0.5);
    assert!(station.limiter.limit.is_some());
    station.run(10.0, 0.2);
    assert_eq!((station.limiter.limit, station.refused), (None, 0));
}
