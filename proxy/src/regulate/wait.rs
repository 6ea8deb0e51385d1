//! [`WaitEstimate`]: how long one would wait in line, from how fast places became free lately.
//!
//! While all places are taken they become free one every `g` on average, so whoever is `n`-th in line
//! waits about `n · g`. `g` is an exponentially weighted mean of the gaps between releases with weight
//! 1/8 a sample (the constant of TCP's smoothed round trip, RFC 6298), measured only while every place
//! is taken: a gap in which a place stood empty says nothing about the pace.

use std::{
    sync::atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use tokio::time::Instant;

use crate::counters::nanos;

/// Fewer gaps are an anecdote: nobody is turned away for them.
const MIN_SAMPLES: u32 = 8;

/// The pace at which places become free. Torn updates by several threads lose a sample, never sense.
#[derive(Debug)]
pub(crate) struct WaitEstimate {
    epoch: Instant,
    /// Since when every place is taken, or the last release in that state.
    mark_ns: AtomicU64,
    gap_ns: AtomicU64,
    samples: AtomicU32,
}

impl WaitEstimate {
    /// The last free place was taken.
    pub(crate) fn saturated(&self, now: Instant) {
        self.mark_ns.store(self.nanos(now), Relaxed);
    }

    /// A place became free while all were taken.
    pub(crate) fn released(&self, now: Instant) {
        let now = self.nanos(now);
        let gap = now.saturating_sub(self.mark_ns.swap(now, Relaxed));
        let samples = self.samples.load(Relaxed);
        let mean = self.gap_ns.load(Relaxed);
        let mean = if samples == 0 { gap } else { mean - mean / 8 + gap / 8 };
        self.gap_ns.store(mean, Relaxed);
        self.samples.store(samples.saturating_add(1), Relaxed);
    }

    /// How long the `n`-th in line waits; `None` while too little is known.
    pub(crate) fn expected(&self, n: usize) -> Option<Duration> {
        let known = self.samples.load(Relaxed) >= MIN_SAMPLES;
        known.then(|| Duration::from_nanos(self.gap_ns.load(Relaxed).saturating_mul(n as u64)))
    }

    fn nanos(&self, now: Instant) -> u64 {
        nanos(now.saturating_duration_since(self.epoch))
    }
}

impl Default for WaitEstimate {
    fn default() -> Self {
        let zero = || AtomicU64::new(0);
        Self { epoch: Instant::now(), mark_ns: zero(), gap_ns: zero(), samples: AtomicU32::new(0) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn it_follows_the_pace_and_ignores_empty_places() {
        let (estimate, mut now) = (WaitEstimate::default(), Instant::now());
        for n in 0..100 {
            // a pause with a free place in between does not count
            now += Duration::from_secs(9);
            estimate.saturated(now);
            now += Duration::from_millis(10);
            estimate.released(now);
            assert_eq!(estimate.expected(1).is_some(), n + 1 >= MIN_SAMPLES);
        }
        assert_eq!(estimate.expected(3).map(|wait| wait.as_millis()), Some(30));
        for _ in 0..50 {
            now += Duration::from_millis(40);
            estimate.released(now);
        }
        let slower = estimate.expected(1).unwrap().as_millis();
        assert!((39..=40).contains(&slower), "{slower} ms");
    }
}
