//! A service that gets other requests: what its day was says nothing of them.

use crate::{
    config::Config,
    findings::{Findings, usual::Sample},
    graph::ServiceGraph,
    snapshot::Snapshot,
    spans::{Names, Side, Span},
    window::{ServiceWindow, Window},
};

const SECOND: i64 = 1_000_000_000;

#[test]
fn the_hours_of_a_service_begin_anew_when_it_gets_another_mix() {
    let has_hours_after = |long_ms: u32| {
        let mut names = Names::default();
        let [api, short, long] = ["api", "short", "long"].map(|name| names.intern(name));
        let config = Config::default();
        let mut findings = Findings::new(&config);
        // for forty minutes most requests are short
        for ten_s in 1..=240 {
            let sample = |median| Some(Sample { median, spread: 1.0, requests: 20 });
            let (history, at) = (&mut findings.history, 10 * SECOND * ten_s);
            history.own_ms.remember(api, sample(10.0), at);
            history.own_of_operations.remember((api, short), sample(10.0), at);
            history.own_of_operations.remember((api, long), sample(80.0), at);
            history.follow_hours(api, at);
        }
        let has_hours = |findings: &Findings| {
            findings.history.own_hours.get(api).and_then(|hours| hours.usual(config.min_history)).is_some()
        };
        assert!(has_hours(&findings));
        let (length_ns, end) = (10 * SECOND, 2_410 * SECOND);
        let mut served = ServiceWindow::default();
        for n in 0..24_u32 {
            let (operation, ms) = if n < 4 { (short, 10) } else { (long, long_ms) };
            let (trace, duration_ns) = (u128::from(n) + 1, i64::from(ms) * 1_000_000);
            let (start, side) = (end - 8 * SECOND, Side::Server);
            findings.push(&Span { trace, id: 1, start, duration_ns, service: api, operation, side, ..Span::default() });
            served.own_ms.push(f64::from(ms), 1);
            served.requests += 1;
        }
        let window = Window { services: [(api, served)].into(), length_ns, end, ..Window::default() };
        findings.window(&window, &Snapshot::default(), &names, &ServiceGraph::default());
        has_hours(&findings)
    };
    assert!(!has_hours_after(80), "its long requests take what they took");
    assert!(has_hours_after(800), "it is slow");
}
