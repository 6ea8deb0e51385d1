//! [`Rest`]: how long an endpoint has asked to be left alone (`Retry-After`).
//!
//! Every choice of an endpoint asks, so a rest is one atomic word, and while there is none the clock is not looked at.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use tokio::time::Instant;

use crate::counters::nanos;

/// When it ends.
#[derive(Debug)]
pub(crate) struct Rest {
    since: Instant,
    /// Nanoseconds after `since`; 0 for none.
    ends_ns: AtomicU64,
}

impl Rest {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, ends_ns: AtomicU64::new(0) }
    }

    /// It rests until then, or longer if it said so before.
    pub(super) fn until(&self, end: Instant) {
        self.ends_ns.fetch_max(self.ns(end), Relaxed);
    }

    pub(super) fn lasts(&self, now: Instant) -> bool {
        let ends_ns = self.ends_ns.load(Relaxed);
        ends_ns > 0 && self.ns(now) < ends_ns
    }

    /// How much of it is left, if it lasts.
    pub(crate) fn left(&self, now: Instant) -> Option<std::time::Duration> {
        let left_ns = self.ends_ns.load(Relaxed).saturating_sub(self.ns(now));
        (left_ns > 0).then(|| std::time::Duration::from_nanos(left_ns))
    }

    fn ns(&self, at: Instant) -> u64 {
        nanos(at.saturating_duration_since(self.since))
    }
}
