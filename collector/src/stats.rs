//! What the collector counts.

use std::{
    fmt::Write,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU64, Ordering},
    },
};

use weir_accept::Bound;
use weir_schema::Signal;

use crate::{admission::Admission, queue::Queue};

/// Counters of one signal.
#[derive(Debug, Default)]
pub(crate) struct SignalStats {
    pub(crate) requests: AtomicU64,
    pub(crate) accepted: AtomicU64,
    pub(crate) rejected: AtomicU64,
    pub(crate) duplicates: AtomicU64,
    pub(crate) malformed: AtomicU64,
    pub(crate) too_large: AtomicU64,
    pub(crate) refused: AtomicU64,
    pub(crate) abandoned: AtomicU64,
    pub(crate) bytes: AtomicU64,
}

/// Counters of all signals.
#[derive(Debug, Default)]
pub struct Stats {
    signals: [SignalStats; 3],
    now: OnceLock<Now>,
}

/// What is there at this moment.
#[derive(Debug)]
pub(crate) struct Now {
    pub(crate) connections: Arc<Bound>,
    pub(crate) admission: Admission,
    pub(crate) unread: Arc<Queue>,
    pub(crate) growing: Arc<Queue>,
    pub(crate) read: Arc<Queue>,
}

impl Stats {
    pub(crate) fn of(&self, signal: Signal) -> &SignalStats {
        &self.signals[signal as usize]
    }

    /// Says what is in flight and what waits, from now on.
    pub(crate) fn watch(&self, now: Now) {
        self.now.get_or_init(|| now);
    }

    /// Rows accepted of a signal so far.
    #[must_use]
    pub fn accepted(&self, signal: Signal) -> u64 {
        self.of(signal).accepted.load(Ordering::Relaxed)
    }

    /// All counters in Prometheus text.
    #[must_use]
    pub fn prometheus(&self) -> String {
        type Counter = fn(&SignalStats) -> &AtomicU64;
        let counters: [(&str, &str, Counter); 9] = [
            ("requests", "OTLP requests that arrived", |s| &s.requests),
            ("accepted_rows", "Rows stored", |s| &s.accepted),
            ("rejected_rows", "Rows that could not be used", |s| &s.rejected),
            ("duplicate_requests", "Requests that were stored before", |s| &s.duplicates),
            ("malformed_requests", "Requests that could not be read", |s| &s.malformed),
            ("oversized_requests", "Requests over the size limit", |s| &s.too_large),
            ("refused_requests", "Requests told to come back", |s| &s.refused),
            ("abandoned_requests", "Requests whose sender's deadline passed, or who hung up, before the answer", |s| {
                &s.abandoned
            }),
            ("received_bytes", "Bytes received, inflated", |s| &s.bytes),
        ];
        let mut text = String::new();
        for (name, help, counter) in counters {
            // writing to a String cannot fail
            let _ =
                writeln!(text, "# HELP weir_collector_{name}_total {help}\n# TYPE weir_collector_{name}_total counter");
            for (signal, stats) in ["traces", "metrics", "logs"].iter().zip(&self.signals) {
                let value = counter(stats).load(Ordering::Relaxed);
                let _ = writeln!(text, "weir_collector_{name}_total{{signal=\"{signal}\"}} {value}");
            }
        }
        let refused = self.now.get().map_or(0, |now| now.connections.refused());
        let in_flight = self.now.get().map_or(0, |now| now.admission.held_bytes());
        let _ = writeln!(
            text,
            "# HELP weir_collector_refused_connections_total Connections over the bound, closed at once\n\
             # TYPE weir_collector_refused_connections_total counter\n\
             weir_collector_refused_connections_total {refused}\n\
             # HELP weir_collector_in_flight_bytes Bytes of requests between arrival and ack\n\
             # TYPE weir_collector_in_flight_bytes gauge\n\
             weir_collector_in_flight_bytes {in_flight}"
        );
        self.queues(&mut text);
        text
    }

    /// The queues: before requests are read, while they prove larger than they said, before they are decoded.
    fn queues(&self, text: &mut String) {
        type Number = fn(&Queue) -> u64;
        type Named = (&'static str, fn(&Now) -> &Queue);
        let queues: [Named; 3] =
            [("read", |now| &now.unread), ("grown", |now| &now.growing), ("decoded", |now| &now.read)];
        let numbers: [(&str, &str, &str, Number); 2] = [
            ("waiting_requests", "gauge", "Requests that wait for room", |queue| queue.waiting() as u64),
            ("line_full_total", "counter", "Requests refused at once because too many wait", Queue::refused_full),
        ];
        for (name, kind, help, number) in numbers {
            let _ = writeln!(text, "# HELP weir_collector_{name} {help}\n# TYPE weir_collector_{name} {kind}");
            for (before, queue) in queues {
                let value = self.now.get().map_or(0, |now| number(queue(now)));
                let _ = writeln!(text, "weir_collector_{name}{{before=\"{before}\"}} {value}");
            }
        }
    }
}

pub(crate) fn add(counter: &AtomicU64, value: u64) {
    counter.fetch_add(value, Ordering::Relaxed);
}
