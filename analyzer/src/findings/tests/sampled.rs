//! Detectors on sampled streams: as much is lost as in the whole, and less is known of it.

use crate::{
    config::Config,
    findings::{
        errors,
        facts::Facts,
        history::History,
        kind::Kind,
        own_time,
        scene::{Levels, Scene},
        suspicion::Suspicion,
        usual::{Sample, Share},
    },
    graph::ServiceGraph,
    snapshot::Snapshot,
    spans::{Name, Names, Span},
    window::{Own, ServiceWindow, Window, add_request},
};

/// What the detectors say of a service with 400 requests, one in so many of them seen, a fifth of which fails.
fn said(one_in: u32) -> [Suspicion; 2] {
    let mut names = Names::default();
    let service = names.intern("cart");
    let mut seen = ServiceWindow::default();
    for n in 0..400 / one_in {
        let span = Span { error: n % 5 == 0, weight: one_in, sampled: one_in > 1, ..Span::default() };
        add_request(&mut seen, &span, Some(Own { ns: 60_000_000, call_failed: false }));
    }
    let window = Window { length_ns: 10_000_000_000, services: [(service, seen)].into(), ..Window::default() };
    let (snapshot, graph) = (Snapshot::default(), ServiceGraph::default());
    // one whole request says where they enter
    let facts = Facts::of(&[vec![Span { id: 1, service, ..Span::default() }]]);
    let history = history(service);
    let scene = Scene {
        window: &window,
        snapshot: &snapshot,
        names: &names,
        graph: &graph,
        facts: &facts,
        history: &history,
        min_history: 4,
        levels: Levels::of(&Config::default()),
    };
    let slow = own_time::slow(&scene);
    let errors = errors::suspicions(&scene).into_iter().find(|suspicion| suspicion.kind == Kind::ErrorSource);
    [own_time::bottleneck(&scene, &slow[0]), errors.expect("a fifth fails")]
}

/// Ten milliseconds of a request of a hundred, and hardly an error.
fn history(service: Name) -> History {
    let mut history = History::default();
    for at in 0..30 {
        history.own_ms.remember(service, Some(Sample { median: 10.0, spread: 0.5, requests: 400 }), at);
        history.duration_ms.remember(service, Some(Sample { median: 100.0, spread: 5.0, requests: 400 }), at);
        history.own_errors.remember_share(service, Share { hits: 1, of: 400 }, at);
    }
    history
}

#[test]
fn what_is_lost_does_not_depend_on_how_much_is_seen_and_what_is_known_does() {
    let [slow, errors] = said(1);
    assert!((slow.lost_ms_per_s - 50.0 * 40.0).abs() < 1.0, "{slow:?}");
    assert!((errors.lost_ms_per_s - 8.0 * 100.0).abs() < 1.0, "{errors:?}");
    let [slow_sampled, errors_sampled] = said(10);
    assert!((slow.lost_ms_per_s - slow_sampled.lost_ms_per_s).abs() < 1.0, "{slow_sampled:?}");
    assert!((errors.lost_ms_per_s - errors_sampled.lost_ms_per_s).abs() < 1e-9, "{errors_sampled:?}");
    assert!(errors_sampled.confidence < errors.confidence && slow_sampled.confidence < slow.confidence);
    assert!(errors_sampled.evidence[0].text.starts_with("8 of 40 sampled requests failed"), "{errors_sampled:?}");
}
