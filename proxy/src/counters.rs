//! [`Counters`]: what the proxy counts of itself, exact at every moment.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use serde::Serialize;

use crate::connection::Violation;

/// Counts since the start. `recorded = sent + rejected + dropped + waiting`, so nothing is lost unseen.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    pub(crate) requests: AtomicU64,
    pub(crate) shed: AtomicU64,
    pub(crate) retries: AtomicU64,
    pub(crate) retries_refused: AtomicU64,
    pub(crate) mirrored: AtomicU64,
    pub(crate) mirrors_dropped: AtomicU64,
    pub(crate) spans_recorded: AtomicU64,
    pub(crate) spans_sent: AtomicU64,
    pub(crate) spans_rejected: AtomicU64,
    pub(crate) spans_dropped: AtomicU64,
    pub(crate) logs_sent: AtomicU64,
    pub(crate) logs_dropped: AtomicU64,
    pub(crate) log_lines_written: AtomicU64,
    pub(crate) log_lines_dropped: AtomicU64,
    pub(crate) policies_applied: AtomicU64,
    pub(crate) policies_refused: AtomicU64,
    /// By [`Violation`].
    refused: [AtomicU64; Violation::COUNT],
    pub(crate) slow_clients: AtomicU64,
    pub(crate) connections_refused: AtomicU64,
    pub(crate) tunnels: AtomicU64,
}

/// The counts at one moment.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counters {
    /// Requests that came in.
    pub requests: u64,
    /// Requests that limits or breakers turned away.
    pub shed: u64,
    /// Attempts beside the first.
    pub retries: u64,
    /// Retries that a budget or a breaker did not allow.
    pub retries_refused: u64,
    /// Copies of requests that a mirror answered.
    pub mirrored: u64,
    /// Copies that were not sent or not answered: too large, too many at once, or the mirror failed.
    pub mirrors_dropped: u64,
    /// Spans that were to be exported.
    pub spans_recorded: u64,
    /// Spans that the collector acknowledged.
    pub spans_sent: u64,
    /// Spans that the collector took delivery of and refused (partial success).
    pub spans_rejected: u64,
    /// Spans given up: the queue was full, or the collector away for too long.
    pub spans_dropped: u64,
    /// Access logs that the collector acknowledged.
    pub logs_sent: u64,
    /// Access logs given up.
    pub logs_dropped: u64,
    /// Policy sets applied.
    pub policies_applied: u64,
    /// Policy sets refused whole.
    pub policies_refused: u64,
    /// Requests and connections that were not read to the end because of what they were like.
    pub requests_refused: u64,
    /// Clients cut off because they sent or read too slowly.
    pub slow_clients: u64,
    /// Connections closed at once because as many were open as may be.
    pub connections_refused: u64,
    /// Connections whose bytes were passed on unread: TCP, `CONNECT`, upgrades.
    pub tunnels: u64,
}

impl Tally {
    pub(crate) fn read(&self) -> Counters {
        Counters {
            requests: self.requests.load(Relaxed),
            shed: self.shed.load(Relaxed),
            retries: self.retries.load(Relaxed),
            retries_refused: self.retries_refused.load(Relaxed),
            mirrored: self.mirrored.load(Relaxed),
            mirrors_dropped: self.mirrors_dropped.load(Relaxed),
            spans_recorded: self.spans_recorded.load(Relaxed),
            spans_sent: self.spans_sent.load(Relaxed),
            spans_rejected: self.spans_rejected.load(Relaxed),
            spans_dropped: self.spans_dropped.load(Relaxed),
            logs_sent: self.logs_sent.load(Relaxed),
            logs_dropped: self.logs_dropped.load(Relaxed),
            policies_applied: self.policies_applied.load(Relaxed),
            policies_refused: self.policies_refused.load(Relaxed),
            requests_refused: self.refused.iter().map(|n| n.load(Relaxed)).sum(),
            slow_clients: self.slow_clients.load(Relaxed),
            connections_refused: self.connections_refused.load(Relaxed),
            tunnels: self.tunnels.load(Relaxed),
        }
    }

    /// Counts what was refused.
    pub(crate) fn refuse(&self, violation: Violation) {
        add(&self.refused[violation as usize], 1);
    }

    /// How often each reason was met.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (Violation, u64)> {
        Violation::ALL.into_iter().zip(self.refused.iter().map(|n| n.load(Relaxed)))
    }
}

/// Adds to a count.
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
