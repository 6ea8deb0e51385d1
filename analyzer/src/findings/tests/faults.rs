//! Each made fault opens the right kind on the right service, and only it.

use super::{mesh::Event, *};

/// Seconds of health before the fault, and of the fault.
const BEFORE: i64 = 200;
const DURING: i64 = 100;

fn after(mesh: Mesh, seed: u64, event: Event) -> Vec<FindingView> {
    let rows = Mesh { events: vec![(BEFORE, BEFORE + DURING, event)], ..mesh }.run(seed, BEFORE + DURING);
    replay(Config::default(), &rows)
}

/// How many meshes of a kind; `TEST_SEEDS` says more.
fn seeds() -> std::ops::RangeInclusive<u64> {
    1..=number("TEST_SEEDS", 1)
}

fn check(mesh: impl Fn() -> Mesh, event: Event, expect: (&str, &str)) {
    for seed in seeds() {
        let findings = after(mesh(), seed, event);
        println!("{event:?}: {findings:#?}");
        assert_eq!(said(&findings), [expect], "{event:?}, seed {seed}");
        let finding = &findings[0];
        let onset = finding.onset_unix_nano as f64 / 1e9 - BEFORE as f64;
        assert!((-12.0..=25.0).contains(&onset), "{event:?}, seed {seed}: onset {onset} s after it began");
        assert!(finding.impact_ms > 0.0 && finding.impact_ratio > 0.0 && finding.impact_ratio <= 1.0, "{finding:?}");
        assert!(!finding.action.is_empty() && finding.entry.is_some(), "{finding:?}");
        assert!(finding.evidence.iter().any(|e| e.trace_id.is_some()), "{finding:?}");
        assert!(finding.evidence.iter().any(|e| e.sql.is_some()), "{finding:?}");
    }
}

#[test]
fn a_slow_service() {
    check(shop, Event::Slow("payment", 4.0), ("payment", "bottleneck"));
}

#[test]
fn errors() {
    check(shop, Event::Fails("payment", 0.3), ("payment", "error_source"));
}

#[test]
fn a_slow_network() {
    check(shop, Event::Network("order", 60.0), ("order", "slow_dependency"));
}

#[test]
fn a_database() {
    check(shop, Event::SlowDatabase("postgresql", 8.0), ("postgresql", "slow_dependency"));
    check(shop, Event::FailingDatabase("postgresql", 0.3), ("postgresql", "error_source"));
}

#[test]
fn a_slow_replica() {
    check(shop, Event::SlowReplica("catalog", 1, 5.0), ("catalog", "slow_instance"));
}

/// Its waits alone would not tell: those of its siblings are as far from each other at times.
#[test]
fn a_slow_replica_among_busy_ones() {
    let mesh = || Mesh {
        services: vec![Service { replicas: 3, servers: 4, ..service("catalog", 50.0, &[]) }],
        entries: vec![(0, 0.75 * 12.0 / 0.05)],
        events: Vec::new(),
        wave: (0.0, 600.0),
    };
    for seed in seeds() {
        let findings = after(mesh(), seed, Event::SlowReplica("catalog", 1, 1.6));
        println!("{findings:#?}");
        let first = &findings[0];
        let said = (first.service.as_str(), first.kind.as_str(), first.instance.as_deref());
        assert_eq!(said, ("catalog", "slow_instance", Some("catalog-1")), "seed {seed}");
    }
}

#[test]
fn a_retry_storm() {
    let mesh = || {
        let mut mesh = shop();
        mesh.services[5].retries = 3;
        mesh
    };
    check(mesh, Event::Fails("payment", 0.8), ("payment", "retry_storm"));
}

#[test]
fn a_retry_storm_of_a_proxy() {
    let mesh = || {
        let mut mesh = shop();
        (mesh.services[5].retries, mesh.services[5].by_proxy) = (3, true);
        mesh
    };
    check(mesh, Event::Fails("payment", 0.8), ("payment", "retry_storm"));
}

#[test]
fn missing_and_new_calls() {
    check(shop, Event::Returns("order"), ("order", "missing_calls"));
    check(shop, Event::Calls("order", "cart"), ("order", "new_calls"));
}

/// A service that was called anew was a second cause, of its own slowness.
#[test]
fn who_is_called_anew_is_part_of_that() {
    for took_ms in [30.0, 120.0] {
        let mesh = || {
            let mut mesh = shop();
            mesh.services.push(Service { servers: 30, ..service("fraud", took_ms, &[]) });
            mesh
        };
        check(mesh, Event::Calls("order", "fraud"), ("order", "new_calls"));
    }
}

/// A service that got more of its long requests was said to be slow.
#[test]
fn another_mix_of_operations_is_nobodys_fault() {
    for (event, expect) in [(Event::Mixed("payment", 0.9), None), (Event::Slow("payment", 4.0), Some("payment"))] {
        let mut mesh = shop();
        // a fifth of its requests are of another operation, and take eight times as long
        mesh.services[6] = Service { servers: 30, other: Some((0.2, 8.0)), ..mesh.services[6].clone() };
        let findings = after(mesh, 1, event);
        println!("{event:?}: {findings:#?}");
        assert_eq!(findings.first().map(|finding| finding.service.as_str()), expect, "{event:?}");
    }
}

#[test]
fn a_surge_is_the_entrys() {
    let mesh = || {
        let mut mesh = shop();
        mesh.entries = vec![(1, 20.0)];
        mesh.services[5].servers = 1;
        mesh
    };
    check(mesh, Event::Surge(3.0), ("api", "upstream_surge"));
}

#[test]
fn a_busy_machine_accuses_nobody() {
    for seed in seeds() {
        assert_eq!(said(&after(shop(), seed, Event::Busy(12.0))), [], "seed {seed}");
    }
}

#[test]
fn waiting_callers_are_victims() {
    // the slow service is full, so its callers wait, and theirs
    let findings = after(shop(), 1, Event::Slow("catalog", 6.0));
    assert_eq!(said(&findings), [("catalog", "bottleneck")]);
    assert_eq!(findings[0].victims, ["search", "web"]);
}

#[test]
fn two_that_have_nothing_to_do_with_each_other_are_two_causes() {
    let events = [Event::Slow("payment", 5.0), Event::Slow("mail", 12.0)];
    let events = events.map(|event| (BEFORE, BEFORE + DURING, event)).to_vec();
    let findings = replay(Config::default(), &Mesh { events, ..shop() }.run(1, BEFORE + DURING));
    println!("{findings:#?}");
    for service in ["payment", "mail"] {
        // one beside the other would be at half of that
        let sure = |finding: &FindingView| finding.service == service && finding.confidence >= 0.7;
        assert!(findings.iter().any(sure), "{service}");
    }
}

/// Found with independent meshes under one server: the greater fault hid the lesser, held it back, or closed it while it lasted.
#[test]
fn a_greater_fault_of_another_application_hides_nothing() {
    let slow = [(BEFORE, Event::Slow("vault", 12.0)), (BEFORE, Event::Slow("payment", 4.0))];
    // two applications that call a database by the same name are none
    for (seed, database) in seeds().flat_map(|seed| [(seed, None), (seed, Some(("postgresql", 4.0)))]) {
        let mut mesh = shop();
        let vault = Service { servers: 30, ..service("vault", 40.0, &[]) };
        mesh.services.extend([Service { database, ..service("bank", 3.0, &[(9, 1.0)]) }, vault]);
        mesh.entries.push((8, 60.0));
        mesh.events = slow.map(|(from, event)| (from, BEFORE + DURING, event)).to_vec();
        let findings = replay(Config::default(), &mesh.run(seed, BEFORE + DURING));
        println!("{findings:#?}");
        for service in ["vault", "payment"] {
            let said = findings.iter().find(|finding| finding.service == service && finding.kind == "bottleneck");
            let said = said.unwrap_or_else(|| panic!("{service}, seed {seed}"));
            assert!(said.confidence >= 0.7 && said.closed_unix_nano.is_none(), "{said:#?}, seed {seed}");
        }
    }
}

#[test]
fn saturation_is_seen_ahead() {
    let mesh = || {
        let mut mesh = shop();
        mesh.entries = vec![(1, 10.0)];
        mesh.services[5].servers = 1;
        mesh.services[6].servers = 8;
        mesh
    };
    let servers = [("order".to_owned(), 1)].into_iter().collect();
    let rows = Mesh { events: vec![(300, 1_100, Event::Ramp(4.4))], ..mesh() }.run(1, 960);
    let findings = replay(Config { servers, ..Config::default() }, &rows);
    println!("{findings:#?}");
    let first = &findings[0];
    assert_eq!((first.service.as_str(), first.kind.as_str()), ("order", "saturation_ahead"));
    assert!(!findings.iter().any(|finding| finding.kind == "bottleneck"));
    assert!(first.evidence.iter().any(|evidence| evidence.trace_id.is_some()), "{first:?}");
}

#[test]
fn a_model_that_does_not_fit_is_told() {
    // requests come in waves of seconds: the times between arrivals look like Poisson's, the waits do not
    let mut mesh = Mesh { wave: (0.95, 16.0), entries: vec![(1, 40.0)], ..shop() };
    mesh.services[5].servers = 1;
    mesh.services[6].servers = 8;
    let servers = [("order".to_owned(), 1)].into_iter().collect();
    let findings = replay(Config { servers, ..Config::default() }, &mesh.run(1, 420));
    println!("{findings:#?}");
    assert_eq!(said(&findings), [("order", "model_mismatch")]);
    assert!(findings[0].evidence.iter().any(|evidence| evidence.trace_id.is_some()), "{findings:?}");
}

#[test]
fn few_requests_are_gathered_until_they_tell() {
    for seed in seeds() {
        // under one request in two seconds reaches the service: no window has enough of them by itself
        let mesh =
            Mesh { entries: vec![(1, 0.9)], events: vec![(1_000, 1_300, Event::Slow("payment", 12.0))], ..shop() };
        let findings = replay(Config::default(), &mesh.run(seed, 1_300));
        println!("{findings:#?}");
        assert_eq!(said(&findings), [("payment", "bottleneck")], "seed {seed}");
        assert!(findings[0].confidence >= 0.8 && findings[0].impact_ms > 0.0);
    }
}

#[test]
fn what_lasts_an_hour_is_usual() {
    let services = vec![service("api", 5.0, &[(1, 1.0)]), service("store", 5.0, &[])];
    let event = (150, 150 + 4_200, Event::Returns("api"));
    let mesh = Mesh { services, entries: vec![(0, 4.0)], events: vec![event], wave: (0.0, 600.0) };
    let findings = replay(Config::default(), &mesh.run(1, 150 + 4_200));
    assert_eq!(said(&findings), [("api", "missing_calls")]);
    let lasted_s = (findings[0].closed_unix_nano.unwrap() - findings[0].onset_unix_nano) / SECOND;
    assert!((3_600..4_100).contains(&lasted_s), "{lasted_s} s");
}

#[test]
fn what_a_surge_loads_is_regulated_as_a_bottleneck_is() {
    let mut mesh = shop();
    mesh.entries = vec![(1, 20.0)];
    mesh.services[5].servers = 1;
    mesh.events = vec![(BEFORE, BEFORE + DURING, Event::Surge(3.5))];
    let control = ControlConfig { enabled: true, ..ControlConfig::default() };
    let servers = [("order".to_owned(), 1)].into_iter().collect();
    let mut analyzer = Analyzer::new(Config { servers, control, ..Config::default() });
    let rows = mesh.run(1, BEFORE + DURING);
    let end = |row: &Row| row.start + row.duration;
    let mut steps = rows.chunk_by(|a, b| end(a) / SECOND == end(b) / SECOND).map(|second| {
        analyzer.push(&batch(second));
        analyzer.step(end(&second[0]))
    });
    let step = steps.find(|step| step.policy.is_some()).expect("it is regulated");
    let (policy, snapshot) = (step.policy.unwrap(), step.snapshot.unwrap());
    assert_eq!(said(&snapshot.findings), [("api", "upstream_surge")]);
    assert_eq!(snapshot.findings[0].peer.as_deref(), Some("order"));
    assert!(policy.for_service("order").is_some_and(|policy| policy.concurrency_limit.is_some()), "{policy:?}");
    assert!(policy.for_service("api").is_some_and(|policy| policy.rate_limit.is_some()), "{policy:?}");
    let accused = |name: &str| snapshot.services.iter().any(|service| service.service == name && service.bottleneck);
    assert!(!accused("api") && !accused("order"), "neither is to be mended");
}
