//! Parts that add up, weights, floods and numbers without end.

use super::*;
use crate::spans::Side;

fn requests(from: u64, to: u64) -> impl Iterator<Item = (Span, i64, bool)> {
    (from..to).map(|n| {
        let span = Span {
            trace: u128::from(n),
            id: n + 1,
            duration_ns: 1_000_000 + (n as i64 * 7_919) % 50_000_000,
            service: 3,
            operation: 10 + (n % 5) as Name,
            kind: 4,
            side: Side::Server,
            error: n % 7 == 0,
            instance: Some(20 + (n % 3) as Name),
            queue_wait_ns: (n % 2 == 0).then_some(500_000).into(),
            shed: n % 11 == 0,
            input_tokens: n as i64,
            first_token_ns: (n % 4 == 0).then_some(300_000).into(),
            weight: 1 + (n % 3) as u32,
            sampled: n % 3 > 0,
            ..Span::default()
        };
        (span, span.duration_ns / 2, n % 14 == 0)
    })
}

fn service(of: impl Iterator<Item = (Span, i64, bool)>) -> ServiceWindow {
    let mut service = ServiceWindow::default();
    let own = |ns, call_failed| Some(Own { ns, call_failed });
    of.for_each(|(span, ns, failed)| add_request(&mut service, &span, own(ns, failed)));
    service
}

fn edges(of: impl Iterator<Item = (Span, i64, bool)>) -> EdgeWindow {
    let mut edges = Edges::default();
    for (span, gap_ns, _) in of {
        edges.call(&Call {
            caller: 1,
            callee: span.service,
            callee_kind: NodeKind::Database,
            start: 0,
            duration_ns: span.duration_ns,
            known_at: 0,
            error: span.error,
            gap_ns: Some(gap_ns),
            weight: span.weight,
        });
    }
    edges.into_sorted().remove(&(1, 3)).unwrap()
}

#[test]
fn two_parts_merged_are_the_whole() {
    let mut merged = service(requests(0, 400));
    merged.merge(service(requests(400, 1_000)));
    assert_eq!(format!("{merged:?}"), format!("{:?}", service(requests(0, 1_000))));
    let mut merged = edges(requests(0, 400));
    merged.merge(&edges(requests(400, 1_000)));
    assert_eq!(format!("{merged:?}"), format!("{:?}", edges(requests(0, 1_000))));
}

#[test]
fn a_request_of_weight_w_counts_as_w_requests() {
    let heavy = |weight| {
        let sampled = weight > 1;
        (Span { weight, sampled, error: true, ..requests(1, 2).next().unwrap().0 }, 1_000_000, false)
    };
    let one = service([heavy(5)].into_iter());
    let five = service((0..5).map(|_| heavy(1)));
    assert_eq!((one.requests, one.busy_ns, one.input_tokens), (five.requests, five.busy_ns, five.input_tokens));
    assert_eq!((&one.duration_ms, one.operations.len()), (&five.duration_ms, 1));
    assert_eq!((one.sampled, five.sampled, one.own_ms.len()), (5, 0, 1));
    assert_eq!((one.own_errors, five.own_errors), (5, 5));
    // and is no surer than one
    assert_eq!((one.known_calls.effective(), five.known_calls.effective()), (1, 5));
    let served = |service: &ServiceWindow| service.by_instance.values().next().unwrap().served.effective();
    assert_eq!((served(&one), served(&five)), (1, 5));
}

#[test]
fn a_request_whose_calls_are_gone_counts_and_accuses_nobody() {
    let (span, ..) = requests(1, 2).next().unwrap();
    let mut service = ServiceWindow::default();
    add_request(&mut service, &Span { error: true, ..span }, None);
    assert_eq!((service.requests, service.errors, service.let_go), (2, 2, 2));
    assert_eq!((service.own_errors, service.own_ms.len(), service.downstream_ms.len()), (0, 0, 0));
    assert_eq!(service.by_instance[&21].own_ms.count(), 0);
    assert!(service.busy_ns > 0.0, "that it was there is known");
}

#[test]
fn tokens_and_waits_without_end_stay_at_the_end() {
    let (span, own_ns, failed) = requests(1, 2).next().unwrap();
    let hostile = Span { input_tokens: i64::MAX, output_tokens: i64::MAX, ..span };
    let mut merged = service((0..3).map(|_| (hostile, own_ns, failed)));
    merged.merge(merged.clone());
    assert_eq!((merged.input_tokens, merged.output_tokens), (i64::MAX, i64::MAX));
    let mut edge = EdgeWindow { waited_ns: i64::MAX, critical_ns: i64::MAX - 1, ..EdgeWindow::default() };
    edge.merge(&edge.clone());
    assert_eq!((edge.waited_ns, edge.critical_ns), (i64::MAX, i64::MAX));
}

#[test]
fn a_flood_of_keys_is_one_key_more() {
    let flood = (0..5_000).map(|n| {
        let (span, own_ns, failed) = requests(1, 2).next().unwrap();
        (Span { operation: 100 + n, instance: Some(10_000 + n), weight: 1, ..span }, own_ns, failed)
    });
    let service = service(flood);
    assert_eq!((service.operations.len(), service.by_instance.len()), (MAX_OPERATIONS + 1, MAX_INSTANCES + 1));
    assert_eq!(service.operations[&(OTHER, 4)].0 as usize, 5_000 - MAX_OPERATIONS);
    let mut window = Window::default();
    for name in 1..=6_000 {
        window.services.insert(name, ServiceWindow { requests: u64::from(name), ..ServiceWindow::default() });
    }
    window.fold_least();
    assert_eq!(window.services.len(), MAX_SERVICES);
    assert_eq!(window.services[&OTHER].requests, (1..=1_001).sum::<u64>(), "the least are together");
    let mut edges = Edges::default();
    (0..MAX_EDGES as Name + 100).for_each(|callee| edges.of(1, callee + 10).calls += 1);
    assert_eq!(edges.into_sorted()[&(1, OTHER)].calls, 100);
}
