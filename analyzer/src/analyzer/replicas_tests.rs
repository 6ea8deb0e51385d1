//! Several replicas, each a queue of its own, whoever says how many servers they have.

use super::{
    made::{Made, batch},
    *,
};
use crate::{
    queueing::simulation::{Law, Station},
    snapshot::Estimate,
};

const SECONDS: i64 = 300;

/// S.
const MS: f64 = 20.0;

/// As the configuration says them.
type Servers = &'static [(&'static str, u32)];

/// Three pods of one worker each at ρ 0.7, whose sidecars say `servers`.
fn pods(servers: Option<u32>) -> Vec<Made> {
    let pod = |pod: u128| {
        let station = Station { arrivals: Law::Exponential, service: Law::Exponential, servers: 1, load: 0.7 };
        let ns = |time: f64| (time * MS * 1e6) as i64;
        let made = move |(number, request): (u128, crate::queueing::simulation::Request)| Made {
            trace: 3 * number + pod + 1,
            start: ns(request.arrival),
            duration: ns(request.departure) - ns(request.arrival),
            service: "tagger".into(),
            instance: Some(format!("tagger-{pod}")),
            servers,
            ..Made::default()
        };
        (0..).zip(station.run(40 + pod as u64, (SECONDS as f64 * 35.0) as usize)).map(made)
    };
    let mut all: Vec<Made> = (0..3).flat_map(pod).collect();
    all.sort_by_key(Made::end);
    all
}

/// What is said of the service in a window late in the run.
fn estimate(servers: Servers, spans: &[Made]) -> Estimate {
    let servers = servers.iter().map(|(service, c)| ((*service).to_owned(), *c)).collect();
    let mut analyzer = Analyzer::new(Config { servers, ..Config::default() });
    let mut last = None;
    for chunk in spans.chunk_by(|a, b| a.end() / 1_000_000_000 == b.end() / 1_000_000_000) {
        analyzer.push(&batch(chunk));
        let snapshot = analyzer.step(chunk[0].end()).snapshot;
        last = snapshot.filter(|snapshot| snapshot.time_unix_nano < (SECONDS - 20) * 1_000_000_000).or(last);
    }
    last.unwrap().services.remove(0).estimate
}

#[test]
fn replicas_are_queues_of_their_own_whoever_says_their_servers() {
    let cases: [(Servers, Option<u32>, &str); 3] = [
        (&[], None, "departures, served in order"),
        (&[("tagger", 3)], None, "departures with configured servers"),
        (&[], Some(1), "departures with servers as sidecars say"),
    ];
    for (configured, said, rule) in cases {
        let found = estimate(configured, &pods(said));
        assert_eq!((found.servers, found.replicas, found.rule.as_str()), (Some(3), Some(3), rule), "{found:?}");
        assert_eq!(found.by_replica.iter().map(|replica| replica.servers).collect::<Vec<_>>(), [Some(1); 3]);
        let steady = found.steady.as_ref().unwrap();
        println!("seeds 40 to 42, {rule}: ρ {:?}, {steady:?}", found.utilization);
        assert!((steady.service_time_ms / MS - 1.0).abs() < 0.05, "{rule}: S {}", steady.service_time_ms);
        assert!((found.utilization.unwrap() / 0.7 - 1.0).abs() < 0.2, "{rule}: ρ {:?}", found.utilization);
        assert!(found.headroom.unwrap() > 0.1 && found.queue_wait_ms.predicted.is_some(), "{rule}: {found:?}");
    }
}

#[test]
fn what_people_configure_comes_before_what_sidecars_say() {
    let found = estimate(&[("tagger", 6)], &pods(Some(1)));
    assert_eq!((found.servers, found.replicas), (Some(6), Some(3)));
    assert_eq!(found.rule, "departures with configured servers");
}
