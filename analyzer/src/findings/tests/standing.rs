//! What is told against a level: servers that are full from the start, an objective that is missed, and growth over an hour.

use super::{mesh::Event, *};

/// An entry before a station of one server that serves so many times a second of what comes to it.
fn before_one_server(utilization: f64) -> Mesh {
    let cart = Service { servers: 1, ..service("cart", 10.0, &[]) };
    let web = Service { servers: 16, ..service("web", 2.0, &[(1, 1.0)]) };
    Mesh { services: vec![web, cart], entries: vec![(0, 100.0 * utilization)], events: Vec::new(), wave: (0.0, 600.0) }
}

fn with_slo(slo_ms: f64) -> Config {
    Config { slo_ms: Some(slo_ms), ..Config::default() }
}

#[test]
fn a_bottleneck_from_the_start_is_found_and_a_busy_service_is_none() {
    for seed in 1..=number("TEST_SEEDS", 1) {
        let findings = replay(Config::default(), &before_one_server(0.96).run(seed, 900));
        println!("{findings:#?}");
        let is_full =
            |finding: &FindingView| finding.evidence.iter().any(|evidence| evidence.text.contains("% busy over"));
        let full = findings.iter().find(|finding| is_full(finding)).expect("it is full");
        assert!(
            findings.iter().all(|finding| (&*finding.service, &*finding.kind) == ("cart", "bottleneck")),
            "seed {seed}"
        );
        assert!(
            full.confidence > 0.5 && full.impact_ms > 50.0 && full.action.contains("cart"),
            "seed {seed}: {full:?}"
        );
        let healthy = replay(Config::default(), &before_one_server(0.8).run(seed, 900));
        assert_eq!(said(&healthy), [], "seed {seed}");
    }
}

#[test]
fn a_service_that_cannot_serve_what_comes_is_full() {
    let rows = before_one_server(1.1).run(1, 500);
    // while requests only wait the number of servers cannot be told
    for servers in [[("cart".to_owned(), 1)].into(), [].into()] {
        let findings = replay(Config { servers, ..Config::default() }, &rows);
        println!("{findings:#?}");
        assert!(!findings.is_empty() && findings.iter().all(|finding| finding.service == "cart"));
        assert!(findings.iter().any(|finding| finding.standing));
    }
}

#[test]
fn an_objective_that_is_missed_from_the_start_names_where_requests_wait() {
    for seed in 1..=number("TEST_SEEDS", 1) {
        let rows = before_one_server(0.85).run(seed, 400);
        // one in twenty waits longer than 160 ms; a median request takes 50
        let findings = replay(with_slo(160.0), &rows);
        println!("{findings:#?}");
        assert_eq!(said(&findings), [("cart", "bottleneck")], "seed {seed}");
        assert!(findings[0].standing && findings[0].evidence[0].text.contains("objective"));
        assert!(findings[0].summary.contains("busy"), "{}", findings[0].summary);
        assert_eq!(said(&replay(with_slo(2_000.0), &rows)), [], "seed {seed}");
    }
}

#[test]
fn where_nobody_waits_the_objective_is_missed_by_who_works_longest() {
    let findings = replay(with_slo(60.0), &shop().run(1, 150));
    println!("{findings:#?}");
    assert!(!findings.is_empty() && findings.iter().all(|finding| finding.standing));
    assert!(findings.iter().all(|finding| ["search", "order"].contains(&finding.service.as_str())));
}

#[test]
fn a_fault_beside_a_standing_bottleneck_is_found_and_the_bottleneck_hides_nothing() {
    let mut mesh = before_one_server(0.96);
    mesh.services.push(service("mail", 5.0, &[]));
    mesh.services[0].calls.push((2, 1.0));
    mesh.events = vec![(600, 720, Event::Slow("mail", 6.0))];
    let findings = replay(Config::default(), &mesh.run(1, 720));
    println!("{findings:#?}");
    let mail = findings.iter().find(|finding| finding.service == "mail").expect("it is found");
    assert!(!mail.standing && mail.confidence > 0.5, "{mail:#?}");
}

#[test]
fn what_grows_over_an_hour_is_found() {
    let services = vec![service("web", 2.0, &[(1, 1.0)]), service("api", 20.0, &[])];
    let grows = (0..60)
        .map(|minute| (3_900 + 60 * minute, 3_960 + 60 * minute, Event::Slow("api", 1.0 + minute as f64 * 0.15)));
    let mesh = Mesh { services, entries: vec![(0, 4.0)], events: grows.collect(), wave: (0.0, 600.0) };
    let findings = replay(Config::default(), &mesh.run(1, 3_900 + 3_600));
    println!("{findings:#?}");
    assert!(!findings.is_empty() && said(&findings).iter().all(|said| *said == ("api", "bottleneck")));
    let after_s = findings[0].onset_unix_nano / SECOND - 3_900;
    assert!((0..1_800).contains(&after_s), "{after_s} s after it began to grow");
}
