//! [`Base`]: how long a service takes where nothing queues, `S`, learnt from answers of its usual days.
//!
//! Each second's mean is one value, and `S` is the value that a quarter of the last thirty are below: a mean holds for a
//! service that does cheap and dear things, where the least of many small means would be that of a few cheap ones; the low
//! quarter holds although it queued for most of the half minute. Where fewer than [`MIN_SAMPLES`] come in a second, it lasts
//! until there are as many: a lone health check is no measure of the service.
//!
//! While a limit holds, what is measured has queued, so a second counts then only if it is below what is known.

use std::{collections::VecDeque, time::Duration};

use tokio::time::Instant;

use crate::regulate::latencies::Measured;

/// Fewer latencies are an anecdote.
pub(crate) const MIN_SAMPLES: u64 = 8;

/// 1 s: long enough for a mean, short enough that half a minute has some calm ones.
const SECOND: Duration = Duration::from_secs(1);

/// 30 s are remembered.
const SECONDS: usize = 30;

/// 2 s without anything to learn are no part of a second: answers are waited for half as long.
const PAUSE: Duration = Duration::from_secs(2);

/// Eight times: of exponential times all but one in three thousand are over by then.
const MULTIPLE: f64 = 8.0;

/// What is known so far.
#[derive(Debug)]
pub(crate) struct Base {
    seconds: VecDeque<Second>,
    current: Option<Measured>,
    since: Instant,
    /// When there last was something to learn.
    learnt_at: Instant,
    limited: bool,
}

/// A second or more.
#[derive(Clone, Copy, Debug)]
struct Second {
    answers: Measured,
    /// How long it was; zero where nobody knows.
    lasted: Duration,
}

/// A service in its usual seconds.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usually {
    /// A standard error more than was seen: what is heavier asked has longer waits by chance.
    pub(crate) rate_per_s: f64,
    pub(crate) latency_s: f64,
    pub(crate) deviation_s: f64,
}

impl Base {
    pub(crate) fn new(now: Instant) -> Self {
        Self {
            seconds: VecDeque::with_capacity(SECONDS + 1),
            current: None,
            since: now,
            learnt_at: now,
            limited: false,
        }
    }

    /// Takes note of answers that have not queued, as far as can be told.
    pub(crate) fn learn(&mut self, measured: Measured, now: Instant) {
        self.current = Some(self.current.map_or(measured, |current| current.and(measured)));
        // what queued meanwhile was not learnt, and is not counted among what it is usually asked
        self.since += now.duration_since(self.learnt_at.max(self.since)).saturating_sub(PAUSE);
        self.learnt_at = now;
        if now.duration_since(self.since) >= SECOND {
            self.close(now);
        }
    }

    /// A limit holds from now on: what comes has queued.
    pub(crate) fn limit(&mut self, now: Instant) {
        if !self.limited {
            self.close(now);
            (self.limited, self.current) = (true, None);
        }
    }

    /// No limit holds any more.
    pub(crate) fn unlimit(&mut self, now: Instant) {
        (self.limited, self.current, self.since) = (false, None, now);
    }

    /// The service has changed: this is how long it takes now.
    pub(crate) fn restart(&mut self, measured: Measured, now: Instant) {
        self.seconds.clear();
        self.seconds.push_back(Second { answers: measured, lasted: Duration::ZERO });
        (self.current, self.since) = (None, now);
    }

    /// `S`; beyond all measure as long as it is not known.
    pub(crate) fn latency_s(&self) -> f64 {
        self.known().map_or(f64::INFINITY, |known| known.latency_s)
    }

    /// How many answers it is the mean of.
    pub(crate) fn count(&self) -> u64 {
        self.known().map_or(0, |known| known.count)
    }

    /// What it is asked, and how long that takes in the mean; `None` until it has been seen for some multiple of that time, or
    /// only the short ones would have been answered.
    pub(crate) fn usually(&self) -> Option<Usually> {
        let timed = || self.seconds.iter().filter(|second| !second.lasted.is_zero());
        let lasted_s: f64 = timed().map(|second| second.lasted.as_secs_f64()).sum();
        let answers = timed().map(|second| second.answers).reduce(Measured::and)?;
        let rate_per_s = answers.count as f64 / lasted_s;
        let (latency_s, deviation_s) = (answers.latency_s, answers.deviation_s());
        let enough = lasted_s >= MULTIPLE * latency_s;
        enough.then(|| Usually {
            rate_per_s: rate_per_s * (1.0 + 1.0 / (answers.count as f64).sqrt()),
            latency_s,
            deviation_s,
        })
    }

    /// How much one answer differs from another.
    pub(crate) fn deviation_s(&self) -> f64 {
        let all = self.seconds.iter().map(|second| second.answers).chain(self.current).reduce(Measured::and);
        all.map_or(0.0, |all| all.deviation_s())
    }

    /// The low quarter; the first second counts before it has ended.
    fn known(&self) -> Option<Measured> {
        let mut known: Vec<Measured> = self.seconds.iter().map(|second| second.answers).collect();
        known.sort_by(|a, b| a.latency_s.total_cmp(&b.latency_s));
        let quarter = known.get(known.len().saturating_sub(1) / 4).copied();
        quarter.or_else(|| self.current.filter(|current| current.count >= MIN_SAMPLES))
    }

    fn close(&mut self, now: Instant) {
        let Some(current) = self.current.filter(|current| current.count >= MIN_SAMPLES) else { return };
        let counts = !self.limited || current.latency_s < self.latency_s();
        if counts {
            self.seconds.push_back(Second { answers: current, lasted: now.duration_since(self.since) });
        }
        if self.seconds.len() > SECONDS {
            self.seconds.pop_front();
        }
        (self.current, self.since) = (None, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn learn(base: &mut Base, from: Instant, seconds: &[(u64, f64)]) {
        for (n, (count, latency_s)) in seconds.iter().enumerate() {
            let ends = from + SECOND * (n as u32 + 1);
            base.learn(Measured::steady(*count, *latency_s, 1.0), ends);
        }
    }

    #[test]
    fn the_low_quarter_of_the_seconds_is_believed() {
        let now = Instant::now();
        for (seconds, expected) in [
            (&[][..], f64::INFINITY),
            (&[(7, 0.1)], f64::INFINITY),
            (&[(4, 0.1), (4, 0.3)], 0.2),
            (&[(8, 0.1), (8, 0.2)], 0.1),
            (&[(8, 0.001), (8, 0.2), (8, 0.2), (8, 0.2), (8, 0.2)], 0.2),
            (&[(8, 0.2), (8, 0.9), (8, 0.9), (8, 0.9)], 0.2),
        ] {
            let mut base = Base::new(now);
            learn(&mut base, now, seconds);
            assert!((base.latency_s() - expected).abs() < 1e-9 || base.latency_s() == expected, "{seconds:?}");
        }
        let mut base = Base::new(now);
        learn(&mut base, now, &[(8, 0.1)]);
        learn(&mut base, now + SECOND, &[(8, 0.5); SECONDS]);
        assert!((base.latency_s() - 0.5).abs() < 1e-9, "half a minute later it is another service");
        assert_eq!(base.seconds.len(), SECONDS);
    }

    #[test]
    fn what_it_is_usually_asked_leaves_out_what_was_not_learnt() {
        let now = Instant::now();
        let mut base = Base::new(now);
        let learns = |base: &mut Base, from: Instant| {
            for tenth in 1..=100 {
                base.learn(Measured::steady(10, 0.1, 1.0), from + SECOND * tenth / 10);
            }
        };
        learns(&mut base, now);
        learns(&mut base, now + SECOND * 60);
        let Usually { rate_per_s, latency_s, .. } = base.usually().unwrap();
        // two of the seconds between may count, and so does a standard error
        assert!((90.0..105.0).contains(&rate_per_s) && (latency_s - 0.1).abs() < 1e-9, "{rate_per_s} {latency_s}");
        let mut slow = Base::new(now);
        slow.learn(Measured::steady(100, 0.5, 1.0), now + SECOND);
        assert!(slow.usually().is_none(), "a second says little of answers that take half of one");
    }

    #[test]
    fn while_a_limit_holds_it_only_falls() {
        let now = Instant::now();
        let mut base = Base::new(now);
        learn(&mut base, now, &[(8, 0.1)]);
        base.limit(now + SECOND);
        learn(&mut base, now + SECOND, &[(8, 0.2); 60]);
        assert!((base.latency_s() - 0.1).abs() < 1e-9);
        learn(&mut base, now + SECOND * 61, &[(8, 0.05)]);
        assert!((base.latency_s() - 0.05).abs() < 1e-9);
        base.restart(Measured::steady(8, 0.4, 1.0), now);
        assert!((base.latency_s() - 0.4).abs() < 1e-9);
    }
}
