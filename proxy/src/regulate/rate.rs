//! [`RateLimiter`]: the generic cell rate algorithm (GCRA), a token bucket kept as one moment.
//!
//! `tat` is the theoretical arrival time of the next request at exactly the allowed rate. A request
//! at `now` conforms when `tat - now <= (burst - 1) * interval`; then `tat = max(tat, now) + interval`.
//! Source: ITU-T I.371, annex A (virtual scheduling).

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weir_policy::RateLimit;

/// Requests per second of one service or route.
#[derive(Debug, Default)]
pub(crate) struct RateLimiter {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    limit: Option<RateLimit>,
    tat: Option<Instant>,
}

impl RateLimiter {
    /// Changes the rate; what was already admitted still counts.
    pub(crate) fn set(&self, limit: Option<RateLimit>) {
        self.state.lock().limit = limit;
    }

    /// Admits, or says how long until the next one would be.
    pub(crate) fn admit(&self, now: Instant) -> Result<(), Duration> {
        let mut state = self.state.lock();
        let Some(limit) = state.limit else { return Ok(()) };
        let interval = Duration::from_secs_f64((1.0 / limit.rate_per_s()).min(1e9));
        let tolerance = interval.saturating_mul(limit.burst().get() - 1);
        let tat = state.tat.map_or(now, |tat| tat.max(now));
        let early = tat.duration_since(now);
        if early > tolerance {
            return Err(early - tolerance);
        }
        state.tat = Some(tat + interval);
        Ok(())
    }
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
        let (limiter, start) = (limiter(10.0, 3), Instant::now());
        let at = |ms| limiter.admit(start + Duration::from_millis(ms));
        assert_eq!([at(0), at(0), at(0)], [Ok(()); 3]);
        assert_eq!(at(0), Err(Duration::from_millis(100)));
        assert_eq!(at(99), Err(Duration::from_millis(1)));
        assert_eq!(at(100), Ok(()));
        assert!(at(100).is_err());
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_long_run_the_rate_is_the_rate() {
        let (limiter, start) = (limiter(46.0, 5), Instant::now());
        let admitted = (0..10_000).filter(|ms| limiter.admit(start + Duration::from_millis(*ms)).is_ok()).count();
        assert!((460..=465).contains(&admitted), "{admitted} in 10 s");
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_limit_everything_passes() {
        let limiter = RateLimiter::default();
        assert!((0..1_000).all(|_| limiter.admit(Instant::now()).is_ok()));
    }
}
