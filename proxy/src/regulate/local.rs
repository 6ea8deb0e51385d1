//! [`LocalLimiter`]: finds the concurrency limit of a service from its own latencies, for as long as
//! the control plane is silent.
//!
//! With `S` the latency without queueing ([`Base`]), `W` the latency now, and `N` what was in flight when those
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
//! A mean of few answers is above `S + T` by chance where some requests are cheap and others dear. It is taken for queueing
//! only when it is above by [`CERTAIN`] standard errors; until then answers are gathered on, for at most [`PATIENCE`].
//!
//! Nothing is limited while no more are in flight than it can serve at once, for then nothing queues. If latency is above
//! target even at the floor, the service has become slower, and that latency is the new `S`. A service that hangs gives no
//! answer to measure: when nobody was answered for [`HANGS`] times as long as an answer may take, although more were
//! in flight than it can serve at once, then that time is the least that they will have taken, and stands for `W`.

use std::time::Duration;

use tokio::time::Instant;

use crate::regulate::{
    base::{Base, MIN_SAMPLES},
    latencies::Measured,
};

/// 25 ms between steps: a step and the samples it needs fit into 100 ms four times.
pub(crate) const STEP: Duration = Duration::from_millis(25);

/// 1 s: after that one answer of a slow model has to be enough.
const PATIENCE: Duration = Duration::from_secs(1);

/// Four standard errors: forty looks a second would see three by chance, several times a minute.
const CERTAIN: f64 = 4.0;

/// Four times as long as an answer may take: one that is late is not lost.
const HANGS: f64 = 4.0;

/// What the service is under now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) in_flight: u32,
    /// Whether the limit holds anybody back.
    pub(crate) used_up: bool,
}

/// The controller; pure.
#[derive(Debug)]
pub(crate) struct LocalLimiter {
    queue_wait_s: f64,
    floor: u32,
    limit: Option<u32>,
    base: Base,
    last_step: Instant,
    /// How many answers of what is gathered were there at the last look.
    heard: u64,
    /// Since when nobody was answered although it had too much to do.
    silent_since: Option<Instant>,
}

impl LocalLimiter {
    /// `floor` is how many the service can serve at once, as far as is known.
    pub(crate) fn new(queue_wait: Duration, floor: u32, now: Instant) -> Self {
        Self {
            queue_wait_s: queue_wait.as_secs_f64(),
            floor: floor.max(1),
            limit: None,
            base: Base::new(now),
            last_step: now,
            heard: 0,
            silent_since: None,
        }
    }

    /// How many the service can serve at once may change with its configuration.
    pub(crate) fn set_floor(&mut self, floor: u32) {
        self.floor = floor.max(1);
    }

    /// The limit that follows from what was measured since the last step; `None` as long as there was no need of one.
    ///
    /// Returns whether the measurement was used up, too: if not it is to be carried on.
    pub(crate) fn step(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> (Option<u32>, bool) {
        if let Some(hang) = self.hang(measured, load, now) {
            self.tighten(hang, now);
        }
        let impatient = now.duration_since(self.last_step) >= PATIENCE;
        let enough = measured.filter(|m| m.count >= MIN_SAMPLES || impatient);
        let taken = enough.is_some_and(|measured| self.take(measured, load, impatient, now));
        self.heard = if taken { 0 } else { measured.map_or(0, |m| m.count) };
        (self.limit, taken)
    }

    /// The latency without queueing.
    pub(crate) fn base_s(&self) -> f64 {
        self.base.latency_s()
    }

    /// Draws the conclusion from what was measured, unless more of it is needed for one.
    fn take(&mut self, measured: Measured, load: Load, impatient: bool, now: Instant) -> bool {
        let floor = f64::from(self.floor);
        let queues = self.limit.is_some() || measured.in_flight > floor;
        let (above_base_s, error_s) = (measured.latency_s - self.base.latency_s(), CERTAIN * self.error_s(measured));
        let above_s = above_base_s - self.queue_wait_s;
        let certain = above_s > error_s;
        if !queues || above_s <= 0.0 {
            // what has queued for less than it may says nothing of the service either, or `S` would creep up with it
            if !queues || above_base_s <= error_s {
                self.base.learn(measured, now);
            }
            self.widen(measured, load);
        } else if !certain && !impatient {
            return false;
        } else if !certain {
            self.base.learn(measured, now);
        } else if self.limit == Some(self.floor) && measured.in_flight <= floor {
            self.base.restart(measured, now);
        } else {
            self.tighten(measured, now);
        }
        self.last_step = now;
        true
    }

    /// How far chance may have moved `W` and `S` apart. A few answers of one kind differ less than answers do.
    fn error_s(&self, measured: Measured) -> f64 {
        let share = |count: u64| 1.0 / count.max(1) as f64;
        let deviation_s = measured.deviation_s().max(self.base.deviation_s());
        deviation_s * (share(measured.count) + share(self.base.count())).sqrt()
    }

    fn target_s(&self) -> f64 {
        self.base.latency_s() + self.queue_wait_s
    }

    /// What a service that answers nobody has come to, once it has for too long.
    fn hang(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> Option<Measured> {
        let answered = measured.is_some_and(|m| m.count > self.heard);
        if answered || load.in_flight <= self.floor {
            self.silent_since = None;
            return None;
        }
        let silent_s = now.duration_since(*self.silent_since.get_or_insert(now)).as_secs_f64();
        let hangs = silent_s > HANGS * self.target_s();
        hangs.then(|| Measured::steady(u64::from(load.in_flight), silent_s, f64::from(load.in_flight)))
    }

    fn tighten(&mut self, measured: Measured, now: Instant) {
        let wanted = wanted(measured, self.target_s()).max(self.floor);
        self.limit = Some(self.limit.map_or(wanted, |limit| limit.min(wanted)));
        self.base.limit(now);
    }

    fn widen(&mut self, measured: Measured, load: Load) {
        let Some(limit) = self.limit.filter(|_| load.used_up) else { return };
        let step = (f64::from(limit).sqrt() as u32).max(1);
        self.limit = Some(limit.saturating_add(step).min(wanted(measured, self.target_s())).max(limit));
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
            Some(Measured::steady(100, latency_s, in_flight))
        }
    }

    fn load(in_flight: u32, used_up: bool) -> Load {
        Load { in_flight, used_up }
    }

    fn run(limiter: &mut LocalLimiter, plant: &Plant, offered: f64, now: &mut Instant, steps: u32) -> u32 {
        let mut limit = None;
        for _ in 0..steps {
            *now += STEP;
            let in_flight = limit.map_or(offered, |l| f64::from(l).min(offered));
            let load = load(in_flight as u32, offered > in_flight);
            limit = limiter.step(plant.measure(in_flight), load, *now).0;
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
    fn what_queues_for_less_than_it_may_does_not_become_the_base() {
        let mut now = Instant::now();
        let plant = Plant { workers: 4.0, service_s: 0.010 };
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 4, now);
        run(&mut limiter, &plant, 4.0, &mut now, 80);
        assert_eq!(run(&mut limiter, &plant, 6.0, &mut now, 4_800), u32::MAX, "15 ms are within 30");
        assert!((limiter.base_s() - 0.010).abs() < 1e-6, "{} s after two minutes", limiter.base_s());
    }

    #[test]
    fn a_handful_of_answers_is_carried_on_until_patience_ends() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, start);
        let one = Some(Measured::steady(1, 0.4, 1.0));
        assert_eq!(limiter.step(one, load(1, false), start + STEP), (None, false));
        assert_eq!(limiter.step(None, load(1, false), start + PATIENCE), (None, false));
        assert_eq!(limiter.step(one, load(1, false), start + PATIENCE), (None, true));
    }

    /// Found in a review: after a quiet second one cheap answer was the base, and requests of the usual length seemed to queue.
    #[test]
    fn a_lone_cheap_answer_is_no_measure_of_the_service() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(50), 1, start);
        let cheap = Some(Measured::steady(1, 0.001, 1.0));
        assert_eq!(limiter.step(cheap, load(1, false), start + PATIENCE), (None, true));
        let usual = Some(Measured::steady(8, 0.2, 3.0));
        assert_eq!(limiter.step(usual, load(3, false), start + PATIENCE + STEP), (None, true));
        assert!(limiter.base_s() > 0.17, "{}", limiter.base_s());
    }

    /// Of requests that are cheap or dear as a seeded coin says, with few enough in flight that nothing queues.
    struct Coins(u64);

    impl Coins {
        fn measure(&mut self, count: u64) -> Measured {
            let mut toss = || {
                self.0 ^= self.0 << 13;
                self.0 ^= self.0 >> 7;
                self.0 ^= self.0 << 17;
                Measured::steady(1, if self.0 >> 63 == 0 { 0.001 } else { 0.5 }, 6.0)
            };
            (0..count).map(|_| toss()).reduce(Measured::and).unwrap()
        }
    }

    /// Found in a review: the least of many small means was that of a few cheap requests, and the dear ones seemed to queue.
    #[test]
    fn cheap_and_dear_requests_are_no_queue() {
        for seed in 1..=20 {
            let (mut now, mut coins) = (Instant::now(), Coins(0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(seed)));
            let mut limiter = LocalLimiter::new(Duration::from_millis(50), 1, now);
            let mut gathered: Option<Measured> = None;
            for step in 0..2_400 {
                now += STEP;
                let fresh = coins.measure(4);
                gathered = Some(gathered.map_or(fresh, |before| before.and(fresh)));
                let (limit, taken) = limiter.step(gathered, load(6, false), now);
                assert_eq!(limit, None, "seed {seed}, step {step}: base {} s", limiter.base_s());
                gathered = gathered.filter(|_| !taken);
            }
            assert!((0.15..0.35).contains(&limiter.base_s()), "{}", limiter.base_s());
            // and what does queue is seen: forty in flight at a service that can do six
            let overload = coins.measure(100);
            let slower = Measured {
                latency_s: overload.latency_s * 8.0,
                square_s2: overload.square_s2 * 64.0,
                in_flight: 40.0,
                ..overload
            };
            let limit = limiter.step(Some(slower), load(40, false), now + STEP).0;
            assert!(limit.is_some_and(|limit| limit < 12), "{limit:?}");
        }
    }

    #[test]
    fn where_fewer_are_in_flight_than_can_be_served_nothing_queues() {
        let start = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(50), 4, start);
        let many = |latency_s, in_flight| Some(Measured::steady(100, latency_s, in_flight));
        assert_eq!(limiter.step(many(0.2, 1.0), load(1, false), start + STEP).0, None);
        assert_eq!(limiter.step(many(0.4, 4.0), load(4, false), start + 2 * STEP).0, None);
        // 0.3 s is usual then: 40 · 0.35 / 2
        assert_eq!(limiter.step(many(2.0, 40.0), load(40, false), start + 3 * STEP).0, Some(7));
    }

    /// Found in a review: a service that hung gave nothing to measure, and was not limited.
    #[test]
    fn a_service_that_answers_nobody_is_limited() {
        let mut now = Instant::now();
        let mut limiter = LocalLimiter::new(Duration::from_millis(20), 4, now);
        run(&mut limiter, &Plant { workers: 4.0, service_s: 0.080 }, 4.0, &mut now, 40);
        let mut hang = |in_flight, steps: u32| {
            let mut limit = None;
            for _ in 0..steps {
                now += STEP;
                limit = limiter.step(None, load(in_flight, false), now).0;
            }
            limit
        };
        assert_eq!(hang(4, 400), None, "four workers may take their time");
        assert_eq!(hang(40, 16), None, "0.1 s is what an answer may take; four times that has not passed");
        assert_eq!(hang(40, 4), Some(9), "40 · 0.1 / 0.475");
        assert_eq!(hang(40, 400), Some(4), "the floor");
    }
}
