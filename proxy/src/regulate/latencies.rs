//! [`Latencies`]: what the local limiter steers by: how long answers took and how many were in flight; [`Measured`]: their
//! means, and how far chance alone may have moved them.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

use crate::{
    counters::nanos,
    regulate::ages::{Age, Ages},
};

/// 64 µs: squares of latencies are summed in this unit, so that twenty million answers of a minute fit.
const TICK_S: f64 = 64e-6;

/// Where answers leave their latencies; read and emptied by each step.
#[derive(Debug, Default)]
pub(crate) struct Latencies {
    wanted: AtomicBool,
    count: AtomicU64,
    sum_ns: AtomicU64,
    /// In [`TICK_S`].
    squares: AtomicU64,
    in_flight: AtomicU64,
    /// Of those that are not answered yet.
    ages: Arc<Ages>,
}

/// The means of some answers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Measured {
    /// How many answers.
    pub(crate) count: u64,
    /// From leaving the queue to the head of the answer.
    pub(crate) latency_s: f64,
    /// Of its square.
    pub(crate) square_s2: f64,
    /// In flight when they were admitted.
    pub(crate) in_flight: f64,
}

impl Latencies {
    /// Begins to collect.
    pub(crate) fn want(&self) {
        self.wanted.store(true, Relaxed);
    }

    /// Ends it, and forgets what was collected.
    pub(crate) fn want_no_more(&self) {
        self.wanted.store(false, Relaxed);
        self.clear();
    }

    /// A request waits for its answer from now on.
    pub(crate) fn begin(&self, now: Instant) -> Option<Age> {
        self.wanted.load(Relaxed).then(|| self.ages.begin(now))
    }

    /// How long one of those has waited whom `older` came before.
    pub(crate) fn behind(&self, older: u32, now: Instant) -> Option<Duration> {
        self.ages.behind(older, now)
    }

    /// Takes note of one answer.
    pub(crate) fn observe(&self, latency: Duration, in_flight: u32) {
        if self.wanted.load(Relaxed) {
            let ticks = (latency.as_secs_f64() / TICK_S) as u64;
            self.squares.fetch_add(ticks.saturating_mul(ticks), Relaxed);
            self.sum_ns.fetch_add(nanos(latency), Relaxed);
            self.in_flight.fetch_add(u64::from(in_flight), Relaxed);
            self.count.fetch_add(1, Relaxed);
        }
    }

    /// What came since it was last emptied.
    pub(crate) fn look(&self) -> Option<Measured> {
        let count = self.count.load(Relaxed);
        let mean = |sum: &AtomicU64| sum.load(Relaxed) as f64 / count as f64;
        let (latency_s, square_s2) = (mean(&self.sum_ns) / 1e9, mean(&self.squares) * TICK_S * TICK_S);
        (count > 0).then(|| Measured { count, latency_s, square_s2, in_flight: mean(&self.in_flight) })
    }

    /// Empties it.
    pub(crate) fn clear(&self) {
        for sum in [&self.count, &self.sum_ns, &self.squares, &self.in_flight] {
            sum.store(0, Relaxed);
        }
    }
}

impl Measured {
    /// As many answers that all took as long.
    pub(crate) fn steady(count: u64, latency_s: f64, in_flight: f64) -> Self {
        Self { count, latency_s, square_s2: latency_s * latency_s, in_flight }
    }

    /// The means of both.
    pub(crate) fn and(self, other: Self) -> Self {
        let count = self.count + other.count;
        let share = self.count as f64 / count as f64;
        let mean = |a: f64, b: f64| a * share + b * (1.0 - share);
        Self {
            count,
            latency_s: mean(self.latency_s, other.latency_s),
            square_s2: mean(self.square_s2, other.square_s2),
            in_flight: mean(self.in_flight, other.in_flight),
        }
    }

    /// The standard deviation of the latencies.
    pub(crate) fn deviation_s(&self) -> f64 {
        // the squares are rounded down
        (self.square_s2 - self.latency_s * self.latency_s).max(0.0).sqrt()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn latencies_are_collected_only_when_wanted() {
        let latencies = Latencies::default();
        latencies.observe(Duration::from_secs(1), 1);
        assert_eq!(latencies.look(), None);
        latencies.want();
        latencies.observe(Duration::from_secs(1), 2);
        latencies.observe(Duration::from_secs(3), 4);
        let measured = latencies.look().unwrap();
        assert_eq!((measured.count, measured.latency_s, measured.in_flight), (2, 2.0, 3.0));
        assert!((measured.deviation_s() - 1.0).abs() < 0.01, "{}", measured.deviation_s());
        latencies.clear();
        assert_eq!(latencies.look(), None);
    }

    #[test]
    fn means_are_those_of_all() {
        let both = Measured::steady(3, 1.0, 2.0).and(Measured::steady(1, 5.0, 6.0));
        assert_eq!((both.count, both.latency_s, both.in_flight), (4, 2.0, 3.0));
        assert!((both.deviation_s() - 3.0_f64.sqrt()).abs() < 1e-9);
        assert!(Measured::steady(8, 0.2, 1.0).deviation_s() < 1e-9);
    }
}
