//! [`LocalLimiter`]: finds the concurrency limit of a service from its own latencies, for as long as
//! the control plane is silent.
//!
//! With `S` the latency without queueing, `W` the latency now, and `N` what was in flight when those
//! requests were admitted, a saturated service has `W` proportional to `N` (Little's law, `N = X · W`
//! at a throughput `X` that no longer grows). So the load that yields the latency `S + T`, `T` being the
//! queue wait allowed, is
//!
//! ```text
//! N' = N · (S + T) / W
//! ```
//!
//! which is `c · (1 + T / S)` for `c` workers: one step, no gain to tune. `W` and `N` are of the same
//! requests, so the step does not overshoot while old ones still come back. Below the target a limit
//! that is used up grows towards `N'` by at most its square root a step, as in Netflix's gradient limiter
//! (`concurrency-limits`, 2018), from which the ratio of latencies comes; Brakmo and Peterson, "TCP
//! Vegas", 1995, first set a window by it.
//!
//! `S` is the smallest mean of a step in the last one to two [`BASE_WINDOW`]s, and is not let rise while
//! it limits, or it would creep up with the queue; means of fewer than [`MIN_SAMPLES`] are gathered until they are as many,
//! because a lone health check is no measure of the service. Nothing is limited while no more are in flight than it
//! can serve at once, for then nothing queues. If latency is above target even at the floor, where
//! nothing queues, the service has become slower, and that latency is the new `S`.

use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

/// 25 ms between steps: a step and the samples it needs fit into 100 ms four times.
pub(crate) const STEP: Duration = Duration::from_millis(25);

/// Fewer latencies are an anecdote; they are kept for the next step, for at most [`PATIENCE`].
const MIN_SAMPLES: u64 = 8;

/// 1 s: after that one answer of a slow model has to be enough.
const PATIENCE: Duration = Duration::from_secs(1);

/// 30 s for which a smallest latency is believed.
const BASE_WINDOW: Duration = Duration::from_secs(30);

/// Where answers leave their latencies; read and emptied by each step.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    wanted: AtomicBool,
    count: AtomicU64,
    sum_ns: AtomicU64,
    in_flight: AtomicU64,
}

/// The means of one step.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// How many answers.
    pub(crate) count: u64,
    /// From leaving the queue to the head of the answer.
    pub(crate) latency_s: f64,
    /// In flight when they were admitted.
    pub(crate) in_flight: f64,
}

/// The controller; pure.
#[derive(Debug)]
pub(crate) struct LocalLimiter {
    queue_wait_s: f64,
    floor: u32,
    limit: Option<u32>,
    /// Smallest mean latency of this window and of the one before.
    base_s: [f64; 2],
    /// What is not enough to be believed yet.
    few: Option<Measured>,
    base_since: Instant,
    last_step: Instant,
}

impl Latencies {
    /// Begins or ends to collect.
    pub(crate) fn want(&self, wanted: bool) {
        self.wanted.store(wanted, Relaxed);
    }

    /// Takes note of one answer.
    pub(crate) fn observe(&self, latency: Duration, in_flight: u32) {
        if self.wanted.load(Relaxed) {
            self.sum_ns.fetch_add(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX), Relaxed);
            self.in_flight.fetch_add(u64::from(in_flight), Relaxed);
            self.count.fetch_add(1, Relaxed);
        }
    }

    /// What came since it was last emptied.
    pub(crate) fn look(&self) -> Option<Measured> {
        let count = self.count.load(Relaxed);
        let mean = |sum: &AtomicU64| sum.load(Relaxed) as f64 / count as f64;
        let (latency_s, in_flight) = (mean(&self.sum_ns) / 1e9, mean(&self.in_flight));
        (count > 0).then_some(Measured { count, latency_s, in_flight })
    }

    /// Empties it.
    pub(crate) fn clear(&self) {
        for sum in [&self.count, &self.sum_ns, &self.in_flight] {
            sum.store(0, Relaxed);
        }
    }
}

impl Measured {
    /// The means of both.
    fn and(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = self.count as f64 / count as f64;
        let mean = |a: f64, b: f64| a * share + b * (1.0 - share);
        let latency_s = mean(self.latency_s, other.latency_s);
        Self { count, latency_s, in_flight: mean(self.in_flight, other.in_flight) }
    }
}

impl LocalLimiter {
    /// `floor` is how many the service can serve at once, as far as is known.
    pub(crate) fn new(queue_wait: Duration, floor: u32, now: Instant) -> Self {
        Self {
            queue_wait_s: queue_wait.as_secs_f64(),
            floor: floor.max(1),
            limit: None,
            base_s: [f64::INFINITY; 2],
            few: None,
            base_since: now,
            last_step: now,
        }
    }

    /// How many the service can serve at once may change with its configuration.
    pub(crate) fn set_floor(&mut self, floor: u32) {
        self.floor = floor.max(1);
    }

    /// The limit that follows from what was measured since the last step; `None` as long as there was no
    /// need of one. `used_up` says whether the limit held anybody back.
    ///
    /// Returns whether the measurement was used up, too: if not it is to be carried on.
    pub(crate) fn step(&mut self, measured: Option<Measured>, used_up: bool, now: Instant) -> (Option<u32>, bool) {
        let impatient = now.duration_since(self.last_step) >= PATIENCE;
        let Some(measured) = measured.filter(|m| m.count >= MIN_SAMPLES || impatient) else {
            return (self.limit, false);
        };
        self.last_step = now;
        self.learn(measured, now);
        let target_s = self.base_s() + self.queue_wait_s;
        if measured.latency_s > target_s {
            if self.limit.is_some() || measured.in_flight > f64::from(self.floor) {
                self.tighten(measured, target_s);
            }
        } else if let Some(limit) = self.limit.filter(|_| used_up) {
            let step = (f64::from(limit).sqrt() as u32).max(1);
            self.limit = Some(limit.saturating_add(step).min(wanted(measured, target_s)).max(limit));
        }
        (self.limit, true)
    }

    /// The latency without queueing.
    pub(crate) fn base_s(&self) -> f64 {
        self.base_s[0].min(self.base_s[1])
    }

    fn learn(&mut self, measured: Measured, now: Instant) {
        // while it limits, what is measured has queued: only a smaller latency is news then
        if now.duration_since(self.base_since) >= BASE_WINDOW && self.limit.is_none() {
            self.base_s = [f64::INFINITY, self.base_s[0]];
            self.base_since = now;
        }
        let known = self.few.take().map_or(measured, |few| few.and(measured));
        if known.count < MIN_SAMPLES {
            self.few = Some(known);
        } else {
            self.base_s[0] = self.base_s[0].min(known.latency_s);
        }
        let floor = f64::from(self.floor);
        if self.limit == Some(self.floor) && measured.in_flight <= floor {
            self.base_s[0] = measured.latency_s;
            self.base_s[1] = f64::INFINITY;
        }
    }

    fn tighten(&mut self, measured: Measured, target_s: f64) {
        let wanted = wanted(measured, target_s).max(self.floor);
        self.limit = Some(self.limit.map_or(wanted, |limit| limit.min(wanted)));
    }
}

/// The load that yields the latency `target_s`; what is a fraction too much by rounding is not.
fn wanted(measured: Measured, target_s: f64) -> u32 {
    (measured.in_flight * target_s / measured.latency_s - 1e-6).ceil() as u32
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A service of `c` workers that take `s` seconds each, as mean values: what is in flight beyond
    /// `c` waits. Requests take one step to show in the latencies.
    struct Plant {
        workers: f64,
        service_s: f64,
    }

    impl Plant {
        fn measure(&self, in_flight: f64) -> Option<Measured> {
            let latency_s = self.service_s * (in_flight / self.workers).max(1.0);
            Some(Measured { count: 100, latency_s, in_flight })
        }
    }

    fn run(limiter: &mut LocalLimiter, plant: &Plant, offered: f64, now: &mut Instant, steps: u32) -> u32 {
        let mut limit = None;
        for _ in 0..steps {
            *now += STEP;
            let in_flight = limit.map_or(offered, |l| f64::from(l).min(offered));
            limit = limiter.step(plant.measure(in_flight), offered > in_flight, *now).0;
        }
        limit.unwrap_or(u32::MAX)
    }

    #[test]
    fn overload_is_met_within_100_ms_and_the_wait_is_the_one_allowed() {
        let mut now = Instant::now();
        let plant = Plant { workers: 4.0, service_s: 0.010 };
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, now);
        assert_eq!(run(&mut limiter, &plant, 3.0, &mut now, 40), u32::MAX, "no need, no limit");
        // c · (1 + T / S) = 4 · 3
        assert_eq!(run(&mut limiter, &plant, 400.0, &mut now, 4), 12);
        let settled = run(&mut limiter, &plant, 400.0, &mut now, 2_000);
        assert!((12..=16).contains(&settled), "{settled} after 50 s of overload");
    }

    #[test]
    fn more_workers_are_noticed() {
        let mut now = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, now);
        run(&mut limiter, &Plant { workers: 4.0, service_s: 0.010 }, 2.0, &mut now, 10);
        run(&mut limiter, &Plant { workers: 4.0, service_s: 0.010 }, 400.0, &mut now, 20);
        let wider = run(&mut limiter, &Plant { workers: 16.0, service_s: 0.010 }, 400.0, &mut now, 40);
        assert!((45..=60).contains(&wider), "{wider}");
    }

    #[test]
    fn a_service_that_became_slower_is_not_strangled() {
        let mut now = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 4, now);
        run(&mut limiter, &Plant { workers: 4.0, service_s: 0.010 }, 2.0, &mut now, 10);
        let slower = Plant { workers: 4.0, service_s: 0.100 };
        let limit = run(&mut limiter, &slower, 40.0, &mut now, 100);
        assert!((4..=8).contains(&limit), "{limit}");
        assert!((limiter.base_s() - 0.1).abs() < 0.02, "{} s is the base now", limiter.base_s());
    }

    #[test]
    fn a_handful_of_answers_is_carried_on_until_patience_ends() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, start);
        let one = Some(Measured { count: 1, latency_s: 0.4, in_flight: 1.0 });
        assert_eq!(limiter.step(one, false, start + STEP), (None, false));
        assert_eq!(limiter.step(None, false, start + PATIENCE), (None, false));
        assert_eq!(limiter.step(one, false, start + PATIENCE), (None, true));
    }

    /// Found in a review: after a quiet second one cheap answer was the base, and requests of the usual length seemed to queue.
    #[test]
    fn a_lone_cheap_answer_is_no_measure_of_the_service() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(50), 1, start);
        let cheap = Some(Measured { count: 1, latency_s: 0.001, in_flight: 1.0 });
        assert_eq!(limiter.step(cheap, false, start + PATIENCE), (None, true));
        let usual = Some(Measured { count: 8, latency_s: 0.2, in_flight: 3.0 });
        assert_eq!(limiter.step(usual, false, start + PATIENCE + STEP), (None, true));
        assert!(limiter.base_s() > 0.17, "{}", limiter.base_s());
    }

    #[test]
    fn where_fewer_are_in_flight_than_can_be_served_nothing_queues() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(50), 4, start);
        let many = |latency_s, in_flight| Some(Measured { count: 100, latency_s, in_flight });
        assert_eq!(limiter.step(many(0.001, 1.0), false, start + STEP).0, None);
        assert_eq!(limiter.step(many(0.2, 4.0), false, start + 2 * STEP).0, None);
        assert_eq!(limiter.step(many(0.2, 40.0), false, start + 3 * STEP).0, Some(11));
    }

    #[test]
    fn latencies_are_collected_only_when_wanted() {
        let latencies = Latencies::default();
        latencies.observe(Duration::from_secs(1), 1);
        assert_eq!(latencies.look(), None);
        latencies.want(true);
        latencies.observe(Duration::from_secs(1), 2);
        latencies.observe(Duration::from_secs(3), 4);
        assert_eq!(latencies.look(), Some(Measured { count: 2, latency_s: 2.0, in_flight: 3.0 }));
        latencies.clear();
        assert_eq!(latencies.look(), None);
    }
}
