//! [`RateLimiter`]: the generic cell rate algorithm (GCRA), a token bucket kept as one moment.
//!
//! `tat` is the theoretical arrival time of the next request at exactly the allowed rate. A request
//! at `now` conforms when `tat - now <= (burst - 1) * interval`; then `tat = max(tat, now) + interval`.
//! Source: ITU-T I.371, annex A (virtual scheduling). Everything is an atomic: no thread waits for another.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;
use weir_policy::RateLimit;

use crate::counters::nanos;

/// The interval of a limiter that lets everything pass.
const OFF: u64 = 0;

/// Requests per second of one service or route.
#[derive(Debug)]
pub(crate) struct RateLimiter {
    epoch: Instant,
    interval_ns: AtomicU64,
    tolerance_ns: AtomicU64,
    tat_ns: AtomicU64,
}

impl RateLimiter {
    /// Changes the rate; what was already admitted still counts, as many requests as it was, at the new rate.
    pub(crate) fn set(&self, limit: Option<RateLimit>) {
        self.set_at(limit, Instant::now());
    }

    fn set_at(&self, limit: Option<RateLimit>, now: Instant) {
        let interval = limit.map_or(OFF, |limit| interval_ns(limit.rate_per_s()));
        let tolerance = limit.map_or(0, |limit| interval.saturating_mul(u64::from(limit.burst().get() - 1)));
        let before = self.interval_ns.swap(interval, Relaxed);
        self.tolerance_ns.store(tolerance, Relaxed);
        let (now, tat) = (self.nanos(now), self.tat_ns.load(Relaxed));
        if before != OFF && interval != OFF && tat > now {
            // one who was let in at a request an hour must not cost an hour when a thousand a second may
            let owed = (tat - now) as f64 / before as f64;
            self.tat_ns.store(now.saturating_add((owed * interval as f64) as u64), Relaxed);
        }
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }

    /// Admits, or says how long until the next one would be.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let interval = self.interval_ns.load(Relaxed);
        if interval == OFF {
            return Ok(());
        }
        let tolerance = self.tolerance_ns.load(Relaxed);
        let now = self.nanos(now);
        let mut tat = self.tat_ns.load(Relaxed);
        loop {
            let start = tat.max(now);
            let early = start - now;
            if early > tolerance {
                return Err(Duration::from_nanos(early - tolerance));
            }
            match self.tat_ns.compare_exchange_weak(tat, start.saturating_add(interval), Relaxed, Relaxed) {
                Ok(_) => return Ok(()),
                Err(newer) => tat = newer,
            }
        }
    }
}

impl Default for RateLimiter {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { epoch: Instant::now(), interval_ns: AtomicU64::new(OFF), tolerance_ns: zero(), tat_ns: zero() }
    }
}

/// At least 1 ns, which no proxy reaches, and at most thirty years.
fn interval_ns(rate_per_s: f64) -> u64 {
    (1e9 / rate_per_s).clamp(1.0, 1e18) as u64
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn limiter(rate_per_s: f64, burst: u32) -> RateLimiter {
        let limiter = RateLimiter::default();
        limiter.set(NonZeroU32::new(burst).and_then(|burst| RateLimit::new(rate_per_s, burst)));
        limiter
    }

    #[tokio::test(start_paused = true)]
    async fn a_burst_passes_then_the_rate_holds() {
        let limiter = limiter(10.0, 3);
        let start = Instant::now();
        let at = |ms| limiter.admit(start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Duration::from_millis(100)));
        assert_eq!(at(99), Err(Duration::from_millis(1)));
        assert_eq!(at(100), Ok(()));
        assert!(at(100).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_long_run_the_rate_is_the_rate() {
        let limiter = limiter(46.0, 5);
        let start = Instant::now();
        let admitted = (0..10_000).filter(|ms| limiter.admit(start + Duration::from_millis(*ms)).is_ok()).count();
        assert!((460..=465).contains(&admitted), "{admitted} in 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_of_rate_keeps_how_many_were_let_in_not_how_long_they_counted() {
        let of = |rate, burst| NonZeroU32::new(burst).and_then(|burst| RateLimit::new(rate, burst));
        let limiter = limiter(0.001, 2);
        let now = Instant::now();
        assert_eq!([limiter.admit(now), limiter.admit(now)], [Ok(()), Ok(())]);
        assert_eq!(limiter.admit(now), Err(Duration::from_secs(1_000)));
        limiter.set_at(of(100.0, 2), now);
        assert_eq!(limiter.admit(now), Err(Duration::from_millis(10)));
        limiter.set_at(of(100.0, 3), now);
        assert_eq!(limiter.admit(now), Ok(()), "a wider burst has room for one more");
        limiter.set_at(of(1.0, 3), now);
        assert_eq!(limiter.admit(now), Err(Duration::from_secs(1)));
    }

    #[test]
    fn threads_share_one_rate() {
        let limiter = limiter(1e-3, 1_000);
        let admitted = |n: u32| (0..n).filter(|_| limiter.admit(Instant::now()).is_ok()).count();
        let all: usize = std::thread::scope(|scope| {
            let threads: Vec<_> = (0..4).map(|_| scope.spawn(|| admitted(1_000))).collect();
            threads.into_iter().map(|thread| thread.join().unwrap()).sum()
        });
        assert_eq!(all, 1_000);
    }

    #[tokio::test(start_paused = true)]
    async fn rates_at_the_ends_of_what_a_number_holds_neither_panic_nor_stick() {
        for (rate, admitted) in [(f64::MIN_POSITIVE, 1), (f64::MAX, 1_000), (1e-9, 1)] {
            let limiter = limiter(rate, 1);
            let at = Instant::now();
            let passed = (0..1_000).filter(|ns| limiter.admit(at + Duration::from_nanos(*ns)).is_ok()).count();
            assert_eq!(passed, admitted, "{rate}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_everything_passes() {
        let limiter = RateLimiter::default();
        assert!((0..1_000).all(|_| limiter.admit(Instant::now()).is_ok()));
    }
}
