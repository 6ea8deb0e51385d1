//! [`RouteStats`]: counts and histograms for one route, in atomics.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use crate::{
    regulate::Refusal,
    telemetry::{
        Action, SpanRecord,
        durations::{Durations, Key},
    },
};

/// From the least that a queue is noticed to the longest that anybody waits, in seconds.
pub(crate) const WAIT_BOUNDS_S: [f64; 12] = [0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0];

/// What one route saw since the start.
#[derive(Debug, Default)]
pub(crate) struct RouteStats {
    /// By first digit of the status; 0 is "no answer".
    pub(crate) by_class: [AtomicU64; 6],
    /// By reason.
    pub(crate) shed: [AtomicU64; Refusal::REASONS.len()],
    pub(crate) queue_wait_ns: AtomicU64,
    pub(crate) waits: [AtomicU64; WAIT_BOUNDS_S.len() + 1],
    pub(crate) durations: Durations,
}

impl RouteStats {
    /// Adds one request.
    pub(crate) fn observe(&self, record: &SpanRecord) {
        let class = usize::from(record.as_http() / 100).min(5);
        self.by_class[class].fetch_add(1, Relaxed);
        if let Action::Shed(refusal) = record.action {
            self.shed[refusal.index()].fetch_add(1, Relaxed);
        }
        if record.queue_wait_ns > 0 {
            self.queue_wait_ns.fetch_add(record.queue_wait_ns, Relaxed);
            self.waits[bucket(&WAIT_BOUNDS_S, record.queue_wait_ns)].fetch_add(1, Relaxed);
        }
        self.durations.observe(Key::of(record), record.duration_ns);
    }

    /// Requests turned away for whatever reason.
    pub(crate) fn shed_count(&self) -> u64 {
        self.shed.iter().map(|count| count.load(Relaxed)).sum()
    }

    /// The histogram of waits now: counts by bucket.
    pub(crate) fn wait_buckets(&self) -> Vec<u64> {
        self.waits.iter().map(|b| b.load(Relaxed)).collect()
    }
}

fn bucket(bounds: &[f64], ns: u64) -> usize {
    let seconds = ns as f64 / 1e9;
    bounds.partition_point(|bound| *bound < seconds)
}
