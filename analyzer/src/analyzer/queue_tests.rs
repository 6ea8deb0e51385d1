//! Messages: who takes one from a queue without saying who sent it is called by the queue.

use super::{
    made::{Made, batch},
    *,
};

const SECOND: i64 = 1_000_000_000;

/// An order is sent to a queue, and the mail takes it from there in a trace of its own.
fn order(number: i64) -> [Made; 3] {
    let span = |trace: u128, id, parent, service: &str, kind, messaging: bool| Made {
        trace,
        id,
        parent,
        start: number * SECOND / 10,
        service: service.into(),
        kind,
        messaging: messaging.then(|| "kafka".into()),
        ..Made::default()
    };
    let trace = 2 * number.unsigned_abs() as u128 + 2;
    [
        span(trace, 1, 0, "order", "server", false),
        span(trace, 2, 1, "order", "producer", true),
        span(trace + 1, 3, 0, "mail", "consumer", true),
    ]
}

#[test]
fn a_queue_has_edges_on_both_sides() {
    let mut analyzer = Analyzer::new(Config::default());
    let spans: Vec<Made> = (0..100).flat_map(order).collect();
    analyzer.push(&batch(&spans));
    let snapshot = analyzer.next_window(UnixNanos::MAX).expect("a window");
    let edges: Vec<_> = snapshot.edges.iter().map(|e| (e.caller.as_str(), e.callee.as_str(), e.caller_kind)).collect();
    assert_eq!(edges, [("kafka", "mail", NodeKind::Messaging), ("order", "kafka", NodeKind::Service)]);
    let kinds: Vec<_> = snapshot.services.iter().map(|service| (service.service.as_str(), service.kind)).collect();
    let (queue, service) = (NodeKind::Messaging, NodeKind::Service);
    assert_eq!(kinds, [("kafka", queue), ("mail", service), ("order", service)]);
    assert!(snapshot.edges.iter().all(|edge| edge.rate_per_s == 10.0));
}
