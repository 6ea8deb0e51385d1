//! [`Counters`]: what the proxy counts of itself, exact at every moment.

use std::{
    ops::AddAssign,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use serde::Serialize;

use crate::{connection::Violation, telemetry::Loss};

/// Every count is named once: it is added to in [`Tally`], read in [`Counters`], and summed.
macro_rules! counts {
    ($($(#[$doc:meta])+ $name:ident,)+) => {
        /// Counts since the start. `recorded = sent + rejected + dropped + waiting`, so nothing is lost unseen.
        #[derive(Debug, Default)]
        pub(crate) struct Tally {
            $(pub(crate) $name: AtomicU64,)+
            /// By [`Violation`].
            refused: [AtomicU64; Violation::COUNT],
            /// Spans and access logs, by [`Loss`].
            lost: [[AtomicU64; 2]; Loss::COUNT],
        }

        /// The counts at one moment.
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
        pub struct Counters {
            $($(#[$doc])+ pub $name: u64,)+
            /// Requests and connections that were not read to the end because of what they were like.
            pub requests_refused: u64,
        }

        impl Tally {
            pub(crate) fn read(&self) -> Counters {
                let requests_refused = self.refused.iter().map(|n| n.load(Relaxed)).sum();
                Counters { $($name: self.$name.load(Relaxed),)+ requests_refused }
            }
        }

        impl AddAssign for Counters {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)+
                self.requests_refused += other.requests_refused;
            }
        }
    };
}

counts! {
    /// Requests that came in.
    requests,
    /// Requests that limits or breakers turned away.
    shed,
    /// Attempts beside the first.
    retries,
    /// Of those, the ones that nobody asked for: the request never arrived, or its kept connection closed without an answer.
    rerouted,
    /// Retries that a budget or a breaker did not allow.
    retries_refused,
    /// Copies of requests that a mirror answered.
    mirrored,
    /// Copies that were not sent or not answered: too large, too many at once, or the mirror failed.
    mirrors_dropped,
    /// Requests without a span because `telemetry.span_ratio` left their trace out; others of their kind stand for them.
    unsampled_here,
    /// Requests without a span because their caller said so. Nobody stands for them, unless the caller was left out by a
    /// sidecar before, which counts them as left out there.
    unsampled_by_caller,
    /// Spans that were to be exported.
    spans_recorded,
    /// Spans that the collector acknowledged.
    spans_sent,
    /// Spans that the collector took delivery of and refused (partial success).
    spans_rejected,
    /// Spans given up: the queue was full, or the collector away for too long.
    spans_dropped,
    /// Access logs that the collector acknowledged.
    logs_sent,
    /// Access logs given up.
    logs_dropped,
    /// Lines of the access log written.
    log_lines_written,
    /// Lines of the access log given up.
    log_lines_dropped,
    /// Policy sets applied.
    policies_applied,
    /// Policy sets refused whole.
    policies_refused,
    /// Answers to policy sets that were never sent, because one to a newer set took their place.
    policy_statuses_skipped,
    /// Answers of models that were compressed, so that nothing is known of their tokens.
    lm_unread,
    /// Configurations put in force after the first.
    configs_applied,
    /// Configurations refused whole.
    configs_refused,
    /// Clients cut off because they sent or read too slowly.
    slow_clients,
    /// Connections closed at once because as many were open as may be.
    connections_refused,
    /// Connections closed at once, and requests answered with 503, because the process had as much memory as it may.
    overloaded,
    /// Connections whose bytes were passed on unread: TCP, `CONNECT`, upgrades.
    tunnels,
}

impl Tally {
    /// Counts what was refused.
    pub(crate) fn refuse(&self, violation: Violation) {
        add(&self.refused[violation as usize], 1);
    }

    /// Counts spans and access logs that do not reach the collector.
    pub(crate) fn lose(&self, why: Loss, spans: usize, logs: usize) {
        let [spans_lost, logs_lost] = &self.lost[why as usize];
        for (counter, n) in
            [(&self.spans_dropped, spans), (spans_lost, spans), (&self.logs_dropped, logs), (logs_lost, logs)]
        {
            add(counter, n);
        }
    }

    /// How many spans and access logs were lost for each reason.
    pub(crate) fn lost(&self) -> impl Iterator<Item = (Loss, [u64; 2])> {
        let read = |counts: &[AtomicU64; 2]| counts.each_ref().map(|n| n.load(Relaxed));
        Loss::ALL.into_iter().zip(self.lost.iter().map(read))
    }

    /// How often each reason was met.
    pub(crate) fn refused(&self) -> impl Iterator<Item = (Violation, u64)> {
        Violation::ALL.into_iter().zip(self.refused.iter().map(|n| n.load(Relaxed)))
    }
}

/// A duration as counts hold it; more than five centuries are as many.
pub(crate) fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}

/// Adds to a count.
pub(crate) fn add(counter: &AtomicU64, n: usize) {
    counter.fetch_add(n as u64, Relaxed);
}
