//! What is regulated of simulated faults: the entry that brings the load, and nobody who is no service.

use super::{mesh::Event, *};

/// Seconds until the fault, and of it.
const BEFORE: i64 = 200;
const DURING: i64 = 100;

/// The steps of a mesh with a fault, with control on.
fn steps(mut mesh: Mesh, event: Event, servers: &[(&str, u32)]) -> Vec<Step> {
    mesh.events = vec![(BEFORE, BEFORE + DURING, event)];
    let control = ControlConfig { enabled: true, ..ControlConfig::default() };
    let servers = servers.iter().map(|(service, servers)| ((*service).to_owned(), *servers)).collect();
    let mut analyzer = Analyzer::new(Config { servers, control, ..Config::default() });
    let rows = mesh.run(1, BEFORE + DURING);
    let end = |row: &Row| row.start + row.duration;
    let seconds = rows.chunk_by(|a, b| end(a) / SECOND == end(b) / SECOND);
    let step = |second: &[Row]| {
        analyzer.push(&batch(second));
        analyzer.step(end(&second[0]))
    };
    seconds.map(step).collect()
}

#[test]
fn load_is_shed_at_the_entry_that_brings_most_of_it() {
    let mut mesh = shop();
    mesh.services[3].servers = 1;
    let steps = steps(mesh, Event::Slow("cart", 6.0), &[("cart", 1)]);
    let policy = steps.into_iter().find_map(|step| step.policy).expect("it is regulated");
    // 14 a second come by the web and 10 by the api, which is first by name; each visits the cart once
    let limit = |service: &str| policy.for_service(service).and_then(|policy| policy.rate_limit);
    let rate_per_s = limit("web").expect("most of the load enters there").rate_per_s();
    assert!((9.0..16.0).contains(&rate_per_s), "capacity is 13.9/s, admitted {rate_per_s}");
    assert_eq!(limit("api"), None);
}

#[test]
fn a_database_is_not_regulated_nor_who_asks_it() {
    let mut mesh = shop();
    mesh.services[3].retries = 3;
    let steps = steps(mesh, Event::FailingDatabase("postgresql", 0.8), &[]);
    let found = steps.iter().filter_map(|step| step.snapshot.as_ref()).flat_map(|snapshot| &snapshot.findings);
    let storms = found.filter(|finding| finding.service == "postgresql" && finding.kind == "retry_storm").count();
    assert!(storms > 0, "its callers repeat their calls");
    assert!(steps.iter().all(|step| step.policy.is_none()));
}
