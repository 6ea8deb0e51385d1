//! The limiter against plants of known capacity, calm, overloaded, mixed and hanging.

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
    Load { in_flight, used_up, waited: None }
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

/// As [`run`], while others regulate.
fn watch(limiter: &mut LocalLimiter, plant: &Plant, offered: f64, now: &mut Instant, steps: u32) -> Option<u32> {
    let mut limit = limiter.limit;
    for _ in 0..steps {
        *now += STEP;
        let in_flight = limit.map_or(offered, |l| f64::from(l).min(offered));
        let load = load(in_flight as u32, offered > in_flight);
        limit = limiter.watch(plant.measure(in_flight), load, *now).0;
    }
    limit
}

/// What is usual was first asked in the overload.
#[test]
fn what_was_learnt_while_others_regulated_counts_at_once() {
    let mut now = Instant::now();
    let plant = Plant { workers: 4.0, service_s: 0.010 };
    let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, now);
    assert_eq!(watch(&mut limiter, &plant, 3.0, &mut now, 40), None);
    assert_eq!(watch(&mut limiter, &plant, 400.0, &mut now, 4_800), None, "two minutes, and it only watches");
    assert_eq!(run(&mut limiter, &plant, 400.0, &mut now, 4), 12);
}

#[test]
fn a_limit_is_handed_back_in_steps_until_it_holds_nobody_back() {
    let mut now = Instant::now();
    let plant = Plant { workers: 4.0, service_s: 0.010 };
    let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, now);
    run(&mut limiter, &plant, 3.0, &mut now, 40);
    run(&mut limiter, &plant, 400.0, &mut now, 4);
    for (offered, expected) in [(400.0, Some(15)), (400.0, Some(18)), (400.0, Some(22)), (4.0, None), (400.0, None)] {
        assert_eq!(watch(&mut limiter, &plant, offered, &mut now, 40), expected, "{offered} offered");
    }
    assert_eq!(run(&mut limiter, &plant, 400.0, &mut now, 4), 12, "what is usual is not forgotten");
}

#[test]
fn what_stands_for_long_under_the_eyes_of_others_is_usual() {
    let mut now = Instant::now();
    let mut limiter = LocalLimiter::new(Duration::from_millis(20), 1, now);
    watch(&mut limiter, &Plant { workers: 40.0, service_s: 0.010 }, 8.0, &mut now, 40);
    let slower = Plant { workers: 40.0, service_s: 0.100 };
    let ten_minutes = (STANDING.as_millis() / STEP.as_millis()) as u32;
    watch(&mut limiter, &slower, 8.0, &mut now, ten_minutes - 1);
    assert!((limiter.base_s() - 0.010).abs() < 1e-6, "{}", limiter.base_s());
    watch(&mut limiter, &slower, 8.0, &mut now, 2);
    assert!((limiter.base_s() - 0.100).abs() < 1e-6, "{}", limiter.base_s());
    assert_eq!(run(&mut limiter, &slower, 8.0, &mut now, 40), u32::MAX);
}

#[test]
fn a_service_that_hung_while_others_regulated_is_limited_at_once() {
    let mut now = Instant::now();
    let mut limiter = LocalLimiter::new(Duration::from_millis(20), 4, now);
    watch(&mut limiter, &Plant { workers: 4.0, service_s: 0.080 }, 4.0, &mut now, 40);
    for _ in 0..40 {
        now += STEP;
        assert_eq!(limiter.watch(None, load(40, false), now).0, None);
    }
    assert_eq!(limiter.step(None, load(40, false), now + STEP).0, Some(4));
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

/// After a quiet second one cheap answer was the base, and requests of the usual length seemed to queue.
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

/// The least of many small means was that of a few cheap requests, and the dear ones seemed to queue.
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

/// A service that hung gave nothing to measure, and was not limited.
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
