//! Spans that are let go before their windows close: what they called is not known any more, and nobody is accused of it.

use std::collections::BTreeSet;

use super::{
    made::{Made, batch},
    *,
};
use crate::window::ServiceWindow;

const SECOND: i64 = 1_000_000_000;
const MS: i64 = 1_000_000;
const START: i64 = 10_000 * SECOND;

/// A request at the front that takes 8 ms, of which it waits 5 for the back, which fails.
fn request(n: i64, every: i64) -> [Made; 3] {
    let (trace, id, start) = (n as u128 + 1, n as u64 * 10 + 1, START + n * every);
    let span = |id, parent, service: &str, kind, start, duration| Made {
        trace,
        id,
        parent,
        start,
        duration,
        service: service.into(),
        kind,
        error: true,
        address: (kind == "client").then(|| "back.local".into()),
        ..Made::default()
    };
    [
        span(id, 0, "front", "server", start, 8 * MS),
        span(id + 1, id, "front", "client", start + MS, 5 * MS),
        span(id + 2, id + 1, "back", "server", start + 2 * MS, 3 * MS),
    ]
}

/// What the front did in all windows.
fn fronts(analyzer: &mut Analyzer) -> Vec<ServiceWindow> {
    let front = analyzer.names.find("front").unwrap();
    let due = Due { before: UnixNanos::MAX, silent: false };
    let close = || analyzer.windows.close(due, &mut analyzer.held, &HashMap::new());
    std::iter::from_fn(close).filter_map(|mut window| window.services.remove(&front)).collect()
}

#[test]
fn a_restart_knows_what_requests_of_the_last_minutes_called() {
    // the shortest hold there may be, ten times shorter than what a restart reads back
    let config = Config { hold_ms: 12_000, ..Config::default() };
    let mut analyzer = Analyzer::new(config);
    for second in 0..240 {
        let slice: Vec<Made> = (0..10).flat_map(|n| request(second * 10 + n, SECOND / 10)).collect();
        analyzer.restore(&batch(&slice), &BTreeSet::new(), START + 120 * SECOND);
    }
    let windows = fronts(&mut analyzer);
    let requests: Vec<u64> = windows.iter().map(|window| window.requests).collect();
    assert_eq!(requests, [100; 12]);
    for window in windows {
        assert_eq!((window.let_go, window.own_errors), (0, 0));
        assert!(window.own_ms.iter().all(|(ms, _)| (ms - 3.0).abs() < 1e-9), "{:?}", window.own_ms);
    }
}

#[test]
fn in_a_flood_requests_count_and_what_is_not_known_of_them_is_not_said() {
    let mut analyzer = Analyzer::new(Config { max_held_spans: 1_000, ..Config::default() });
    for part in 0..30 {
        let slice: Vec<Made> = (0..100).flat_map(|n| request(part * 100 + n, 3 * MS)).collect();
        analyzer.push(&batch(&slice));
        analyzer.step(START + part * 300 * MS);
    }
    assert!(analyzer.counters.evicted > 7_000);
    let snapshot = analyzer.step(START + 13 * SECOND).snapshot.unwrap();
    let front = snapshot.services.iter().find(|service| service.service == "front").unwrap();
    assert_eq!(front.rate_per_s, 300.0, "all of them are there");
    assert_eq!(
        (front.error_ratio, front.own_error_ratio),
        (1.0, 0.0),
        "whose error it was is not known, or the back's"
    );
    assert!((front.downstream_ms - 5.0).abs() < 1e-9, "of those that are known: {}", front.downstream_ms);
    let reason = front.estimate.reason.as_deref().unwrap();
    assert!(reason.contains("max_held_spans"), "{reason}");
    let nodes: Vec<&str> = snapshot.services.iter().map(|service| service.service.as_str()).collect();
    assert_eq!(nodes, ["back", "front"], "nobody is called whose answer was let go, and nobody unknown calls");
}
