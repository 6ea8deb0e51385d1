//! More arrivals never mean less wait, and now is the end of the newest window.

use proptest::prelude::*;

use super::{
    tests::{change, mesh, wait_of},
    *,
};
use crate::{
    model::{Load, Model, queue_wait_ms},
    snapshot::{EdgeView, Estimate, Lately, QueueWait, Steady},
};

/// One service of a random mesh.
#[derive(Clone, Debug)]
struct Made {
    model: Option<Model>,
    servers: u32,
    service_ms: f64,
    /// ρ over the last windows.
    rho: f64,
    cs2: f64,
    ca2: f64,
    /// The measured wait over that of the model.
    measured: f64,
    /// λ in this window, and at its end, over the mean.
    window: f64,
    newest: Option<f64>,
    /// Calls to later services: which, how often, critical share.
    calls: Vec<(usize, f64, f64)>,
}

fn made() -> impl Strategy<Value = Made> {
    let models = [Model::Mm1, Model::Mmc, Model::Mg1, Model::Gg1, Model::Ggc, Model::Ps];
    let model = prop::option::weighted(0.8, prop::sample::select(models.to_vec()));
    let variation = (0.1..3.0, 0.1..3.0, 0.3..3.0, 0.8..1.2, prop::option::of(0.7..1.4));
    let calls = prop::collection::vec((1_usize..4, 0.2..2.0, 0.0..1.0), 0..3);
    (model, 1_u32..6, 1.0..50.0, 0.05..0.95, variation, calls).prop_map(
        |(model, servers, service_ms, rho, (cs2, ca2, measured, window, newest), calls)| {
            let one = matches!(model, Some(Model::Mm1 | Model::Mg1 | Model::Gg1));
            let servers = if one { 1 } else { servers };
            Made { model, servers, service_ms, rho, cs2, ca2, measured, window, newest, calls }
        },
    )
}

impl Made {
    fn rate(&self) -> f64 {
        self.rho * f64::from(self.servers) * 1e3 / self.service_ms
    }

    /// Whether its queue may grow without bound at the newest rate: what was measured before is less than what it takes then.
    fn is_unbounded(&self) -> bool {
        self.model.is_some() && self.rho * self.newest.unwrap_or(1.0) >= 1.0
    }

    fn estimate(&self) -> Estimate {
        let rate = self.rate();
        let lately = Lately { windows: 10, samples: 5_000, duration_ms: 300.0, ..Lately::default() };
        let measured = Estimate {
            arrival_rate_per_s: rate * self.window,
            samples: 500,
            model: "unknown".into(),
            lately: Some(lately),
            ..Estimate::default()
        };
        let Some(model) = self.model else { return measured };
        let known = Estimate {
            service_time_ms: Some(self.service_ms),
            servers: Some(self.servers),
            replicas: Some(1),
            model: model.as_str().into(),
            ..measured
        };
        let load = Load {
            arrival_rate_per_s: rate,
            service_time_ms: self.service_ms,
            servers: self.servers,
            ca2: self.ca2,
            cs2: self.cs2,
        };
        let wait_ms = queue_wait_ms(&known, &load).unwrap_or(0.0) * self.measured;
        let steady = Steady {
            windows: 10,
            samples: 5_000,
            arrival_rate_per_s: rate,
            arrival_rate_per_s_newest: self.newest.map(|newest| newest * rate),
            arrival_rate_per_s_deviation: self.newest.map(|_| 0.03 * rate),
            service_time_ms: self.service_ms,
            ca2: self.ca2,
            cs2: self.cs2,
            queue_wait_ms: wait_ms,
            duration_ms: 300.0,
            ..Steady::default()
        };
        let observed = Some(wait_ms * self.window);
        let queue_wait_ms = QueueWait { observed, observed_app: observed, ..QueueWait::default() };
        Estimate { steady: Some(steady), queue_wait_ms, ..known }
    }
}

fn snapshot(made: &[Made]) -> Snapshot {
    let service = |(n, made): (usize, &Made)| ServiceView {
        service: format!("s{n}"),
        rate_per_s: made.rate() * made.window,
        duration_ms_mean: 300.0,
        estimate: made.estimate(),
        ..ServiceView::default()
    };
    let services = made.iter().enumerate().map(service).collect();
    let edges = made.iter().enumerate().flat_map(|(caller, of)| {
        let inside = of.calls.iter().filter(move |(further, ..)| caller + further < made.len());
        inside.map(move |(further, times, critical)| EdgeView {
            caller: format!("s{caller}"),
            callee: format!("s{}", caller + further),
            rate_per_s: times * of.rate() * of.window,
            critical_share: Some(*critical),
            ..EdgeView::default()
        })
    });
    Snapshot { services, edges: edges.collect(), ..Snapshot::default() }
}

/// What is said then, beside what is now; endless where it has no bound.
fn then_and_now(found: &Prediction) -> Vec<(String, f64, f64)> {
    let services = found.services.iter().filter(|service| service.reason.is_none()).map(|service| {
        let then = service.queue_wait_ms_then.unwrap_or(f64::INFINITY);
        (service.service.clone(), then, service.queue_wait_ms.unwrap_or(then))
    });
    let entries = found.entries.iter().map(|entry| {
        let then = entry.response_time_ms_then.unwrap_or(f64::INFINITY);
        (format!("entry {}", entry.entry), then, entry.response_time_ms)
    });
    services.chain(entries).collect()
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(300))]
    #[test]
    fn wait_never_falls_when_arrivals_rise(made in prop::collection::vec(made(), 1..6), at in 0_usize..6) {
        let (mesh, at) = (snapshot(&made), at % made.len());
        let of = |arrivals: f64| what_if(&mesh, &Change { arrivals, ..change(&format!("s{at}")) }).unwrap();
        let mut before: Vec<(String, f64, f64)> = Vec::new();
        for factor in [0.3, 0.8, 0.99, 1.001, 1.05, 1.2, 1.5, 2.5] {
            let now = then_and_now(&of(factor));
            for (name, then, now) in &now {
                // what has no bound now has none with a little less
                let fewer = factor < 1.0;
                let holds = if fewer && made.iter().any(Made::is_unbounded) { true } else if fewer { *then <= now * (1.0 + 1e-9) || then.is_infinite() } else { *then >= now * (1.0 - 1e-9) };
                prop_assert!(holds, "{name} at {factor}: {now} now, {then} then");
                if let Some((_, less, _)) = before.iter().find(|(other, ..)| other == name) {
                    // a wait of nothing is known to a picosecond
                    prop_assert!(*then >= less * (1.0 - 1e-9) - 1e-9, "{name} at {factor}: {then} after {less}");
                }
            }
            before = now;
        }
    }
}

/// At a tenth more than the mean of minutes in which traffic grew by a fifth, less was said than there was.
#[test]
fn more_arrivals_are_more_than_come_now_not_than_came_minutes_ago() {
    let mut mesh = mesh();
    for service in &mut mesh.services {
        let estimate = &mut service.estimate;
        let lately = Steady {
            windows: 20,
            samples: 20_000,
            arrival_rate_per_s: estimate.arrival_rate_per_s / 1.2,
            arrival_rate_per_s_newest: Some(estimate.arrival_rate_per_s),
            arrival_rate_per_s_deviation: Some(0.02 * estimate.arrival_rate_per_s),
            service_time_ms: estimate.service_time_ms.unwrap(),
            ca2: 1.0,
            cs2: 1.0,
            duration_ms: 40.0,
            ..Steady::default()
        };
        let waited = Load::steady(&Estimate { steady: Some(lately.clone()), ..estimate.clone() })
            .and_then(|load| queue_wait_ms(estimate, &load));
        estimate.steady = Some(Steady { queue_wait_ms: waited.unwrap(), ..lately });
    }
    let found = what_if(&mesh, &Change { arrivals: 1.1, ..change("gateway") }).unwrap();
    let tagger = found.services.iter().find(|service| service.service == "tagger").unwrap();
    assert!((tagger.arrival_rate_per_s - 80.0).abs() < 1e-9 && (tagger.arrival_rate_per_s_then - 88.0).abs() < 1e-9);
    assert!((tagger.queue_wait_ms.unwrap() - wait_of(80.0, 20.0, 2)).abs() < 1e-6, "{tagger:?}");
    assert!((tagger.queue_wait_ms_then.unwrap() - wait_of(88.0, 20.0, 2)).abs() < 1e-6, "{tagger:?}");
    // what was measured at the mean, and what the queues on the way wait longer since
    let entry = &found.entries[0];
    let drift = wait_of(80.0, 20.0, 2) - wait_of(80.0 / 1.2, 20.0, 2);
    assert!((entry.response_time_ms - 40.0 - drift).abs() < 0.01, "{entry:?}");
    assert!(entry.response_time_ms_then > Some(entry.response_time_ms), "{entry:?}");
}

/// Of a queue that is full now, 1,150 ms were said at a little less, which were measured while it was not.
#[test]
fn what_was_measured_before_a_queue_had_no_bound_does_not_bound_it() {
    let mut mesh = mesh();
    mesh.edges.clear();
    mesh.services.truncate(1);
    let waited = wait_of(9.2, 100.0, 1);
    let service = &mut mesh.services[0];
    service.rate_per_s = 10.1;
    let steady = Steady {
        windows: 20,
        samples: 2_000_000,
        arrival_rate_per_s: 9.2,
        arrival_rate_per_s_newest: Some(10.1),
        arrival_rate_per_s_deviation: Some(0.1),
        service_time_ms: 100.0,
        ca2: 1.0,
        cs2: 1.0,
        queue_wait_ms: waited,
        duration_ms: waited + 100.0,
        ..Steady::default()
    };
    let estimate = &mut service.estimate;
    *estimate = Estimate {
        arrival_rate_per_s: 10.1,
        service_time_ms: Some(100.0),
        servers: Some(1),
        steady: Some(steady),
        ..estimate.clone()
    };
    let name = service.service.clone();
    let found = what_if(&mesh, &Change { arrivals: 0.95, ..change(&name) }).unwrap();
    let then = found.services[0].queue_wait_ms_then.unwrap();
    assert!((then / wait_of(0.95 * 10.1, 100.0, 1) - 1.0).abs() < 0.01, "{then}");
}

/// An entry whose windows had begun anew had seen the growth already, and it was added once more.
#[test]
fn what_an_entry_has_measured_already_does_not_come_to_it_again() {
    let now_ms = |windows| {
        let mut mesh = mesh();
        let steady = |estimate: &Estimate, windows, growth: f64| Steady {
            windows,
            samples: 20_000,
            arrival_rate_per_s: estimate.arrival_rate_per_s / growth,
            arrival_rate_per_s_newest: (growth > 1.0).then_some(estimate.arrival_rate_per_s),
            arrival_rate_per_s_deviation: Some(0.02 * estimate.arrival_rate_per_s),
            service_time_ms: estimate.service_time_ms.unwrap(),
            ca2: 1.0,
            cs2: 1.0,
            queue_wait_ms: wait_of(80.0 / 1.2, 20.0, 2),
            duration_ms: 60.0,
            ..Steady::default()
        };
        mesh.services[1].estimate.steady = Some(steady(&mesh.services[1].estimate, windows, 1.0));
        mesh.services[2].estimate.steady = Some(steady(&mesh.services[2].estimate, 20, 1.2));
        what_if(&mesh, &change("tagger")).unwrap().entries[0].response_time_ms
    };
    let drift = wait_of(80.0, 20.0, 2) - wait_of(80.0 / 1.2, 20.0, 2);
    for (windows, share) in [(20, 1.0), (40, 1.0), (5, 0.25)] {
        assert!((now_ms(windows) - 60.0 - share * drift).abs() < 0.01, "{windows} windows");
    }
}

/// The response time of an entry whose own queue is not known was that of one window, off by a tenth.
#[test]
fn an_entry_whose_queue_is_not_known_is_measured_over_the_last_windows_too() {
    let mut mesh = mesh();
    let entry = &mut mesh.services[1];
    entry.estimate = Estimate {
        lately: Some(Lately {
            windows: 20,
            samples: 16_000,
            arrival_rate_per_s: 80.0,
            duration_ms: 64.0,
            duration_ms_deviation: Some(1.0),
        }),
        samples: 800,
        model: "unknown".into(),
        ..Estimate::default()
    };
    let found = what_if(&mesh, &Change { servers: 1, ..change("tagger") }).unwrap();
    let entry = &found.entries[0];
    assert_eq!((entry.response_time_ms, &entry.not_identified[..]), (64.0, &["gateway".to_owned()][..]));
    let saved = wait_of(80.0, 20.0, 2) - wait_of(80.0, 20.0, 3);
    assert!((entry.response_time_ms_then.unwrap() - (64.0 - saved)).abs() < 1e-6, "{entry:?}");
    // other arrivals may change its own wait, which the range holds
    let range = |arrivals| {
        let entry = what_if(&mesh, &Change { arrivals, ..change("cache") }).unwrap().entries.remove(0);
        entry.high_ms.map(|high| high - entry.response_time_ms_then.unwrap())
    };
    let of_entry = |arrivals| {
        let entry = what_if(&mesh, &Change { arrivals, ..change("gateway") }).unwrap().entries.remove(0);
        entry.high_ms.map(|high| high - entry.response_time_ms_then.unwrap())
    };
    assert!(of_entry(1.01).unwrap() > range(1.01).unwrap());
    assert_eq!(of_entry(1.22), None, "nearly five requests there at once: one server that all share would be full");
}
