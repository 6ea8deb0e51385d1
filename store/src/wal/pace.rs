//! [`Pace`]: how long the disk takes to make groups durable, and for how long it has been at the one it is at.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, Instant},
};

use serde::Serialize;

/// Upper bounds of the histogram, in milliseconds: from a good SSD to a disk that hangs.
const BOUNDS_MS: [u64; 10] = [1, 2, 5, 10, 25, 50, 100, 500, 2_000, 10_000];

/// What a group that is being written began at, when none is.
const IDLE: u64 = u64::MAX;

/// Times of groups, as the writer measures them.
#[derive(Debug)]
pub(crate) struct Pace {
    made: Instant,
    /// When the group under way began, in nanoseconds since `made`.
    began_ns: AtomicU64,
    sum_ns: AtomicU64,
    /// Groups by time; the last are those beyond all bounds.
    counts: [AtomicU64; BOUNDS_MS.len() + 1],
}

/// How long groups took to be durable since the start: a histogram.
#[derive(Clone, Debug, Default, Serialize)]
pub struct LogTimes {
    /// Upper bounds in milliseconds, each with how many groups took no longer.
    pub within_ms: Vec<(u64, u64)>,
    /// Groups.
    pub count: u64,
    /// Seconds that they took together.
    pub sum_seconds: f64,
}

impl Default for Pace {
    fn default() -> Self {
        let counts = std::array::from_fn(|_| AtomicU64::new(0));
        Self { made: Instant::now(), began_ns: AtomicU64::new(IDLE), sum_ns: AtomicU64::new(0), counts }
    }
}

impl Pace {
    /// Measures a group.
    pub(super) fn measure<T>(&self, write: impl FnOnce() -> T) -> T {
        let began = self.now_ns();
        self.began_ns.store(began, Relaxed);
        let written = write();
        self.began_ns.store(IDLE, Relaxed);
        self.add(Duration::from_nanos(self.now_ns().saturating_sub(began)));
        written
    }

    /// For how long the disk has been at the group under way; zero when there is none.
    pub(crate) fn waits(&self) -> Duration {
        let began = self.began_ns.load(Relaxed);
        Duration::from_nanos(if began == IDLE { 0 } else { self.now_ns().saturating_sub(began) })
    }

    /// The histogram.
    pub(crate) fn times(&self) -> LogTimes {
        let mut count = 0;
        let mut through = |of: &AtomicU64| {
            count += of.load(Relaxed);
            count
        };
        let within_ms = BOUNDS_MS.iter().zip(&self.counts).map(|(bound, of)| (*bound, through(of))).collect();
        through(&self.counts[BOUNDS_MS.len()]);
        LogTimes { within_ms, count, sum_seconds: self.sum_ns.load(Relaxed) as f64 / 1e9 }
    }

    fn add(&self, took: Duration) {
        let place = BOUNDS_MS.partition_point(|bound| Duration::from_millis(*bound) < took);
        self.counts[place].fetch_add(1, Relaxed);
        self.sum_ns.fetch_add(u64::try_from(took.as_nanos()).unwrap_or(u64::MAX), Relaxed);
    }

    fn now_ns(&self) -> u64 {
        u64::try_from(self.made.elapsed().as_nanos()).unwrap_or(IDLE - 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_counted_up_to_each_bound() {
        let pace = Pace::default();
        [1, 3, 5, 20_000].into_iter().for_each(|ms| pace.add(Duration::from_millis(ms)));
        let times = pace.times();
        assert_eq!(times.within_ms[..4], [(1, 1), (2, 1), (5, 3), (10, 3)]);
        assert_eq!((times.within_ms[9], times.count), ((10_000, 3), 4));
        assert!((times.sum_seconds - 20.009).abs() < 1e-9);
    }

    #[test]
    fn a_group_waits_while_it_is_written() {
        let pace = Pace::default();
        assert_eq!(pace.waits(), Duration::ZERO);
        assert!(
            pace.measure(|| {
                std::thread::yield_now();
                pace.waits()
            }) > Duration::ZERO
        );
        assert_eq!((pace.waits(), pace.times().count), (Duration::ZERO, 1));
    }
}
