//! [`PeakEwma`]: the latency of an endpoint: it jumps up to a slow answer at once and decays towards
//! fast ones with time constant [`DECAY`], so a stalled endpoint is left at once and trusted again slowly.
//!
//! While nothing is heard it decays towards nothing, as in Finagle and tower, so that an endpoint nobody picks is asked again.
//! By that alone one that stays slow would look fast every `DECAY · ln(slow / fast)`: at a call a second one call in forty would
//! go to an endpoint fifty times slower, at a call in half a minute every third. So each time that an answer after such a
//! silence is as slow as remembered the time constant doubles, up to [`MOST_PATIENT`] times; an answer that is twice as fast or
//! as slow as remembered, and any failure, sets it back.

use std::time::Duration;

use tokio::time::Instant;

/// 10 s: as long as a person would watch before trusting an endpoint again.
pub(super) const DECAY: Duration = Duration::from_secs(10);

/// What a failed call counts as: worse than any healthy answer.
pub(super) const PENALTY: Duration = Duration::from_secs(5);

/// Eight times: an endpoint fifty times slower is asked every five minutes, and it takes as long to notice that it is not any more.
const MOST_PATIENT: u32 = 8;

/// The latency of one endpoint.
#[derive(Debug)]
pub(crate) struct PeakEwma {
    seconds: f64,
    updated: Instant,
    /// When a call last ended by itself.
    heard: Instant,
    /// With what time constant it decays while nothing is heard.
    patience: Duration,
}

impl PeakEwma {
    pub(crate) fn new(now: Instant) -> Self {
        Self { seconds: 0.0, updated: now, heard: now, patience: DECAY }
    }

    pub(crate) fn observe(&mut self, latency: Duration, now: Instant) {
        let new = latency.as_secs_f64();
        let (old, remembered) = (self.seconds(now), self.seconds);
        let keep = (-(now.duration_since(self.updated).as_secs_f64()) / DECAY.as_secs_f64()).exp();
        let (was_silent, is_alike) = (old <= remembered / 2.0, new >= remembered / 2.0 && new <= remembered * 2.0);
        if !is_alike {
            self.patience = DECAY;
        } else if was_silent && remembered > 0.0 {
            self.patience = (self.patience * 2).min(DECAY * MOST_PATIENT);
        }
        self.seconds = if new >= old { new } else { old * keep + new * (1.0 - keep) };
        (self.updated, self.heard) = (now, now);
    }

    /// A call failed after `latency`: what fails is no measure of what is fast.
    pub(super) fn observe_failure(&mut self, latency: Duration, now: Instant) {
        self.observe(latency.max(PENALTY), now);
        self.patience = DECAY;
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
        let idle = now.duration_since(self.updated).as_secs_f64() / self.patience.as_secs_f64();
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
