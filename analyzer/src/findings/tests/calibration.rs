//! Whether confidence means something: made faults of random kind, place and size; how often the service is right, by what
//! the finding said of itself when it said most.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{mesh::Event, *};

/// Edges of the table.
const BINS: [f64; 5] = [0.0, 0.2, 0.4, 0.6, 0.8];

/// A fault and whom to accuse.
fn fault(random: &mut StdRng) -> (Event, &'static str) {
    let services = ["web", "api", "search", "cart", "catalog", "order", "payment", "mail"];
    let service = services[random.random_range(0..services.len())];
    let size = random.random::<f64>();
    match random.random_range(0..6) {
        0 | 1 => (Event::Slow(service, 1.5 + 4.0 * size), service),
        2 => (Event::Fails(service, 0.05 + 0.5 * size), service),
        // an entry is called by nobody who would see the network
        3 if !["web", "api"].contains(&service) => (Event::Network(service, 5.0 + 60.0 * size), service),
        4 => (Event::SlowReplica("catalog", 0, 2.0 + 6.0 * size), "catalog"),
        _ => (Event::SlowDatabase("postgresql", 2.0 + 8.0 * size), "postgresql"),
    }
}

#[test]
fn of_what_is_said_at_four_fifths_four_fifths_are_right() {
    let (mut table, mut silent, mut made) = ([(0, 0); BINS.len()], 0, 0);
    for seed in 1..=number("TEST_SEEDS", 3) {
        let (event, whom) = fault(&mut StdRng::seed_from_u64(seed));
        let rows = Mesh { events: vec![(150, 250, event)], ..shop() }.run(seed, 250);
        let findings = replay(Config::default(), &rows);
        made += 1;
        silent += u32::from(findings.is_empty());
        for finding in &findings {
            let bin = BINS.iter().rposition(|edge| finding.confidence >= *edge).unwrap();
            let right = finding.service == whom;
            table[bin] = (table[bin].0 + u32::from(right), table[bin].1 + 1);
            println!("{event:?}: {} {} {:.2}", finding.service, finding.kind, finding.confidence);
        }
    }
    for (edge, (right, of)) in BINS.iter().zip(table) {
        println!("confidence from {edge}: {right} of {of} right");
    }
    println!("{silent} of {made} faults opened nothing");
    let (right, of) = table[BINS.len() - 1];
    assert!(f64::from(right) >= 0.8 * f64::from(of), "{right} of {of}");
}
