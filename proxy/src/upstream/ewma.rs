//! [`PeakEwma`]: the latency of an endpoint: it jumps up to a slow answer at once and decays towards
//! fast ones with time constant [`DECAY`], so a stalled endpoint is left at once and trusted again slowly.

use std::time::Duration;

use tokio::time::Instant;

/// 10 s: as long as a person would watch before trusting an endpoint again.
pub(super) const DECAY: Duration = Duration::from_secs(10);

/// What a failed call counts as: worse than any healthy answer.
pub(super) const PENALTY: Duration = Duration::from_secs(5);

/// The latency of one endpoint.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    seconds: f64,
    updated: Instant,
    /// When a call last ended by itself.
    heard: Instant,
}

impl PeakEwma {
    pub(crate) fn new(now: Instant) -> Self {
        Self { seconds: 0.0, updated: now, heard: now }
    }

    pub(crate) fn observe(&mut self, latency: Duration, now: Instant) {
        let new = latency.as_secs_f64();
        let old = self.seconds(now);
        let keep = (-(now.duration_since(self.updated).as_secs_f64()) / DECAY.as_secs_f64()).exp();
        self.seconds = if new >= old { new } else { old * keep + new * (1.0 - keep) };
        (self.updated, self.heard) = (now, now);
    }

    /// A call that its client gave up would have taken at least this long: it says nothing of what is fast, but a peak is a peak.
    pub(super) fn observe_at_least(&mut self, latency: Duration, now: Instant) {
        if latency.as_secs_f64() > self.seconds(now) {
            (self.seconds, self.updated) = (latency.as_secs_f64(), now);
        }
    }

    /// When a call last ended by itself.
    pub(super) fn heard(&self) -> Instant {
        self.heard
    }

    /// Decays while nothing is heard, so that an endpoint nobody picks is tried again.
    pub(crate) fn seconds(&self, now: Instant) -> f64 {
        let idle = now.duration_since(self.updated).as_secs_f64() / DECAY.as_secs_f64();
        self.seconds * (-idle).exp()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_peak_counts_at_once_and_fades() {
        let now = Instant::now();
        let mut ewma = PeakEwma::new(now);
        ewma.observe(Duration::from_secs(1), now);
        assert_eq!(ewma.seconds(now), 1.0);
        ewma.observe(Duration::from_millis(100), now + Duration::from_millis(10));
        assert!(ewma.seconds(now + Duration::from_millis(10)) > 0.99);
        assert!(ewma.seconds(now + DECAY) < 0.4);
    }
}
