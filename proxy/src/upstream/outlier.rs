//! [`Health`]: an endpoint that fails several times in a row is left out for a while, longer each time;
//! [`Detector`] holds what counts as a failure and how many endpoints may be out at once.

use std::sync::atomic::{AtomicU32, Ordering::Relaxed};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant};

use crate::config::OutlierDetection;

/// How an attempt ended, as far as the endpoint's health goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Verdict {
    Fine,
    /// 500, 501 and the like: the application fails.
    ServerError,
    /// 502, 503, 504, a connection that failed, no answer in time: nobody can work there.
    GatewayError,
}

/// When endpoints are left out.
#[derive(Debug)]
pub(super) struct Detector {
    config: OutlierDetection,
}

/// What is known of one endpoint's health.
#[derive(Debug, Default)]
pub(crate) struct Health {
    server_errors: AtomicU32,
    gateway_errors: AtomicU32,
    ejection: Mutex<Ejection>,
}

#[derive(Debug, Default)]
struct Ejection {
    until: Option<Instant>,
    /// How often, of late.
    times: u32,
}

impl Detector {
    pub(super) fn new(config: OutlierDetection) -> Self {
        Self { config }
    }

    /// Whether one more of `all` may be left out beside those that are.
    pub(super) fn allows_one_more(&self, out: usize, all: usize) -> bool {
        let percent = usize::from(self.config.max_ejection_percent);
        let most = if percent == 0 { 0 } else { (all * percent / 100).max(1) };
        // the last one that is there is better than none, unless somebody asks for that
        let one_is_left = out + 1 < all || percent >= 100;
        out < most && one_is_left
    }
}

impl Health {
    /// Counts; true when the endpoint should be left out.
    pub(super) fn trips(&self, verdict: Verdict, detector: &Detector) -> bool {
        if verdict == Verdict::Fine {
            return self.forget();
        }
        let tripped = |count: u32, bound: u32| bound > 0 && count >= bound;
        let server_errors = self.server_errors.fetch_add(1, Relaxed) + 1;
        let gateway_errors = match verdict {
            Verdict::GatewayError => self.gateway_errors.fetch_add(1, Relaxed) + 1,
            _ => {
                self.gateway_errors.store(0, Relaxed);
                0
            }
        };
        tripped(server_errors, detector.config.consecutive_5xx)
            || tripped(gateway_errors, detector.config.consecutive_gateway_errors)
    }

    /// Most answers are fine: nothing is written unless there is something to forget.
    fn forget(&self) -> bool {
        for count in [&self.server_errors, &self.gateway_errors] {
            if count.load(Relaxed) > 0 {
                count.store(0, Relaxed);
            }
        }
        false
    }

    pub(super) fn eject(&self, detector: &Detector, now: Instant) {
        let OutlierDetection { interval_ms, base_ejection_time_ms, max_ejection_time_ms, .. } = detector.config;
        self.forget();
        let mut ejection = self.ejection.lock();
        let well = ejection.until.map_or(Duration::ZERO, |until| now.saturating_duration_since(until));
        let forgiven = u32::try_from(well.as_millis() / u128::from(interval_ms.max(1))).unwrap_or(u32::MAX);
        ejection.times = ejection.times.saturating_sub(forgiven).saturating_add(1);
        let millis = base_ejection_time_ms.saturating_mul(u64::from(ejection.times)).min(max_ejection_time_ms);
        ejection.until = now.checked_add(Duration::from_millis(millis));
    }

    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.ejected_until(now).is_some()
    }

    /// When it is back, if it is out.
    pub(crate) fn ejected_until(&self, now: Instant) -> Option<Instant> {
        self.ejection.lock().until.filter(|until| *until > now)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_in_a_row_trip_and_a_good_answer_forgets_them() {
        use Verdict::{Fine, GatewayError, ServerError};
        let (s, g) = (ServerError, GatewayError);
        for (consecutive_5xx, consecutive_gateway_errors, verdicts, expected) in [
            (3, 0, vec![s, g, s], true),
            (3, 0, vec![s, s, Fine, s], false),
            (0, 2, vec![g, s, g], false),
            (0, 2, vec![s, g, g], true),
            (0, 0, vec![g; 50], false),
        ] {
            let config = OutlierDetection { consecutive_5xx, consecutive_gateway_errors, ..Default::default() };
            let (health, detector) = (Health::default(), Detector::new(config));
            let tripped = verdicts.iter().any(|verdict| health.trips(*verdict, &detector));
            assert_eq!(tripped, expected, "{consecutive_5xx} {consecutive_gateway_errors} {verdicts:?}");
        }
    }

    #[test]
    fn each_ejection_is_longer_until_it_is_forgiven() {
        let (health, detector) = (Health::default(), Detector::new(OutlierDetection::default()));
        let start = Instant::now();
        let mut now = start;
        for seconds in [30, 60, 90] {
            health.eject(&detector, now);
            let until = health.ejected_until(now).unwrap();
            assert_eq!(until - now, Duration::from_secs(seconds));
            assert!(!health.is_ejected(until));
            now = until;
        }
        now += Duration::from_secs(25);
        health.eject(&detector, now);
        let length = health.ejected_until(now).unwrap() - now;
        assert_eq!(length, Duration::from_secs(60), "two of three are forgiven after two intervals");
    }

    #[test]
    fn not_all_may_be_out() {
        for (percent, out, all, expected) in [
            (50, 0, 4, true),
            (50, 1, 4, true),
            (50, 2, 4, false),
            (10, 0, 3, true),
            (10, 1, 3, false),
            (0, 0, 9, false),
            (50, 0, 1, false),
            (99, 1, 2, false),
            (100, 0, 1, true),
        ] {
            let detector = Detector::new(OutlierDetection { max_ejection_percent: percent, ..Default::default() });
            assert_eq!(detector.allows_one_more(out, all), expected, "{percent} % of {all}, {out} out");
        }
    }
}
