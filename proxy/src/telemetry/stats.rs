//! [`RouteStats`]: counts and a histogram of durations for one route, in atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::telemetry::{Action, SpanRecord};

/// The bounds that OpenTelemetry's HTTP conventions advise, in seconds.
pub(crate) const BOUNDS_S: [f64; 14] =
    [0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0];

/// What one route saw since the start.
#[derive(Debug, Default)]
pub(crate) struct RouteStats {
    /// By first digit of the status; 0 is "no answer".
    pub(crate) by_class: [AtomicU64; 6],
    pub(crate) shed: AtomicU64,
    pub(crate) queue_wait_ns: AtomicU64,
    pub(crate) duration_ns: AtomicU64,
    pub(crate) buckets: [AtomicU64; BOUNDS_S.len() + 1],
}

impl RouteStats {
    /// Adds one request.
    pub(crate) fn observe(&self, record: &SpanRecord) {
        let class = usize::from(record.status / 100).min(5);
        self.by_class[class].fetch_add(1, Relaxed);
        self.queue_wait_ns.fetch_add(record.queue_wait_ns, Relaxed);
        self.duration_ns.fetch_add(record.duration_ns, Relaxed);
        if matches!(record.action, Action::Shed(_)) {
            self.shed.fetch_add(1, Relaxed);
        }
        let seconds = record.duration_ns as f64 / 1e9;
        let bucket = BOUNDS_S.partition_point(|bound| *bound < seconds);
        self.buckets[bucket].fetch_add(1, Relaxed);
    }

    /// The histogram now: counts by bucket.
    pub(crate) fn buckets(&self) -> Vec<u64> {
        self.buckets.iter().map(|b| b.load(Relaxed)).collect()
    }
}
