//! Health opens no finding: heavy tails, a wave of load, a cold start, several entries, busy replicas.

use super::{mesh::Event, *};

/// Windows of each mesh. `TEST_WINDOWS` and `TEST_SEEDS` say more, for a longer look: with none in n windows of a
/// service the rate is below 3/n with 95 %, so a false finding a day for a hundred services takes 2.6 million.
fn windows() -> i64 {
    number("TEST_WINDOWS", 90) as i64
}

fn nobody_is_accused(seed: u64, mesh: Mesh) {
    let rows = mesh.run(seed, 10 * windows());
    let findings = replay(Config::default(), &rows);
    for finding in &findings {
        println!("{finding:#?}");
    }
    assert_eq!(said(&findings), [], "seed {seed} in {} windows of a service", 8 * windows());
}

#[test]
fn a_healthy_mesh_is_left_alone_for_hours() {
    for seed in 1..=number("TEST_SEEDS", 1) {
        nobody_is_accused(seed, Mesh { wave: (0.4, 1_200.0), ..shop() });
    }
}

#[test]
fn a_cold_start_accuses_nobody() {
    for seed in 1..=number("TEST_SEEDS", 1) {
        let mut mesh = shop();
        mesh.entries.iter_mut().for_each(|(_, rate)| *rate *= 0.3);
        // traffic comes little by little, and the first minute everything is slow
        mesh.events =
            vec![(0, 60, Event::Busy(15.0)), (0, 300, Event::Ramp(3.3)), (300, 10 * windows(), Event::Surge(3.3))];
        nobody_is_accused(seed, mesh);
    }
}

/// Found with six such services: 5 of 18 replicas were accused of being slow beside their siblings, at up to 98 %.
#[test]
fn busy_replicas_that_are_all_alike_are_left_alone() {
    let names: [&'static str; 5] = ["s0", "s1", "s2", "s3", "s4"];
    for (servers, service_ms, rho) in [(1, 600.0, 0.85), (2, 50.0, 0.75), (2, 50.0, 0.8), (4, 100.0, 0.9)] {
        let rate = rho * 3.0 * f64::from(servers) / service_ms * 1e3;
        let of = |name| Service { replicas: 3, servers: servers as usize, ..service(name, service_ms, &[]) };
        for seed in 1..=number("TEST_SEEDS", 1) {
            let mesh = Mesh {
                services: names.map(of).to_vec(),
                entries: (0..names.len()).map(|place| (place, rate)).collect(),
                events: Vec::new(),
                wave: (0.0, 600.0),
            };
            let findings = replay(Config::default(), &mesh.run(seed, 10 * windows()));
            let accused: Vec<_> = findings.iter().filter(|finding| finding.kind == "slow_instance").collect();
            assert!(accused.is_empty(), "{servers} servers at {rho}, seed {seed}: {accused:#?}");
        }
    }
}
