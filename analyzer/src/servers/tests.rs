//! Stations whose truth is known: simulated, seen as spans show them.

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::*;
use crate::queueing::simulation::{Law, Request, Station as Simulated};

const VISITS: usize = 4_000;

/// Simulated requests as spans show them: S is a millisecond; clocks are off by this share of it.
fn visits(requests: impl IntoIterator<Item = Request>, jitter: f64) -> Vec<Visit> {
    let mut random = StdRng::seed_from_u64(99);
    let mut at = |time: f64| ((time + jitter * (random.random::<f64>() * 2.0 - 1.0)) * 1e6) as i64;
    let visit = |r: Request| (at(r.arrival), at(r.departure));
    let mut visit = visit;
    requests
        .into_iter()
        .map(|r| {
            let (arrival, departure) = visit(r);
            Visit { arrival, departure: departure.max(arrival), gave_up: false }
        })
        .collect()
}

fn grid() -> impl Iterator<Item = (u64, Simulated)> {
    let servers = [1, 2, 4, 8];
    let loads = [0.5, 0.7, 0.85, 0.95];
    let laws = [Law::Erlang(4), Law::Exponential, Law::Lognormal(4.0)];
    let seeds: u64 = std::env::var("TEST_SEEDS").ok().and_then(|n| n.parse().ok()).unwrap_or(1);
    (0..seeds).flat_map(move |seed| {
        servers.into_iter().flat_map(move |servers| {
            loads.into_iter().flat_map(move |load| {
                laws.into_iter().map(move |service| {
                    let station = Simulated { arrivals: Law::Exponential, service, servers, load };
                    (seed * 1_000 + u64::from(servers) * 100 + (load * 100.0) as u64, station)
                })
            })
        })
    })
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

fn score(jitter: f64) -> (usize, usize, usize, f64) {
    let (mut exact, mut wrong, mut refused, mut errors) = (0, 0, 0, Vec::new());
    for (seed, station) in grid() {
        let requests: Vec<_> = station.run(seed, VISITS).collect();
        let rate = VISITS as f64 / (requests[VISITS - 1].arrival - requests[0].arrival);
        match identify(&visits(requests.iter().copied(), jitter)) {
            Ok(found) => {
                let real = requests.iter().map(|r| r.departure - r.start).sum::<f64>() / VISITS as f64;
                let rho = rate * found.service_ns / 1e6 / f64::from(found.servers.get());
                let truth = rate * real / f64::from(station.servers);
                errors.push((rho / truth - 1.0).abs());
                if found.servers.get() == station.servers && found.discipline == Discipline::Fifo {
                    exact += 1;
                } else {
                    wrong += 1;
                    println!("seed {seed} {station:?}: {found:?}");
                }
            }
            Err(why) => {
                refused += 1;
                println!("seed {seed} {station:?}: {why}");
            }
        }
    }
    println!(
        "jitter {jitter}: {exact} exact, {wrong} wrong, {refused} refused, median error of rho {:.4}",
        median(errors.clone())
    );
    (exact, wrong, refused, median(errors))
}

#[test]
fn clean_stations_are_identified() {
    let (exact, wrong, refused, error) = score(0.0);
    assert!(exact as f64 >= 0.93 * (exact + wrong) as f64 && error <= 0.02, "{exact} {wrong} {refused} {error}");
}

#[test]
fn clocks_that_are_off_by_a_hundredth_cost_little() {
    let (exact, wrong, _, error) = score(0.01);
    assert!(exact as f64 >= 0.9 * (exact + wrong) as f64 && error <= 0.05, "{exact} {wrong} {error}");
}

#[test]
fn sharing_is_told_from_queueing() {
    let (mut right, mut n) = (0, 0);
    for (seed, station) in grid().filter(|(_, station)| station.load > 0.6) {
        n += 1;
        match identify(&visits(station.run_shared(seed, VISITS), 0.0)) {
            Ok(found) if found.discipline == Discipline::ProcessorSharing && found.servers.get() == station.servers => {
                right += 1
            }
            other => println!("seed {seed} shared {station:?}: {other:?}"),
        }
    }
    println!("{right} of {n} shared stations");
    assert!(right as f64 >= 0.9 * n as f64, "{right} of {n}");
}

#[test]
fn what_cannot_be_told_is_refused() {
    for (seed, service) in
        (0..10).flat_map(|seed| [Law::Erlang(4), Law::Exponential, Law::Lognormal(4.0)].map(|law| (seed, law)))
    {
        // servers for everybody
        let delay = Simulated { arrivals: Law::Exponential, service, servers: 100, load: 0.05 };
        let found = identify(&visits(delay.run(seed, VISITS), 0.0));
        assert!(matches!(found, Err(Unidentifiable::HardlyQueues { .. })), "seed {seed} {delay:?}: {found:?}");
    }
    assert!(matches!(identify(&[]), Err(Unidentifiable::TooFew { visits: 0 })));
}

#[test]
fn who_is_never_free_is_not_said_to_hardly_queue() {
    for (seed, (servers, load)) in (0..).zip([(1, 1.05), (1, 1.3), (2, 1.1), (4, 1.2), (8, 1.5)]) {
        let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers, load };
        // looked at when the queue has grown for a while
        let late = station.run(seed, 2 * VISITS).skip(VISITS);
        let found = identify(&visits(late, 0.0));
        assert_eq!(found, Err(Unidentifiable::AlwaysBusy), "seed {seed} {station:?}");
    }
}

#[test]
fn a_station_that_serves_in_no_order_is_not_taken_for_another() {
    let mut told = 0;
    for seed in 0..12 {
        let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers: 2, load: 0.85 };
        let found = identify(&visits(station.run_random_order(seed, VISITS), 0.0));
        println!("seed {seed}: {found:?}");
        told += usize::from(found.is_ok());
    }
    assert!(told <= 1, "{told} of 12 random orders were taken for something else");
}

/// Whoever came last is taken first.
fn last_first(Simulated { arrivals, service, servers, load }: Simulated, seed: u64) -> Vec<Request> {
    let mut random = StdRng::seed_from_u64(seed);
    let between = 1.0 / (load * f64::from(servers));
    let (mut free, mut waiting, mut next) = (vec![0.0_f64; servers as usize], Vec::new(), 0.0);
    let mut done = Vec::with_capacity(VISITS);
    while done.len() < VISITS {
        let first = (0..free.len()).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
        while next <= free[first] || waiting.is_empty() {
            waiting.push(next);
            next += arrivals.sample(&mut random) * between;
        }
        let arrival = waiting.pop().unwrap();
        let start = free[first].max(arrival);
        free[first] = start + service.sample(&mut random);
        done.push(Request { arrival, start, departure: free[first] });
    }
    done
}

#[test]
fn last_come_first_served_is_not_taken_for_sharing() {
    // with exponential service both leave the same number there, and who left hardly tells them apart
    for (seed, (servers, load)) in (0..40).zip([(1, 0.8), (2, 0.8), (1, 0.9), (4, 0.9)].into_iter().cycle()) {
        let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers, load };
        let visits = visits(last_first(station, seed), 0.0);
        let observed = Observed::new(&visits);
        let shared = observed.shared(&States::of(&observed.visits));
        let misfit = shared.map_or(f64::INFINITY, |account| account.misfit);
        assert!(misfit > MAX_DEVIATION, "seed {seed} {station:?}: {misfit}");
        assert!(identify(&visits).is_err(), "seed {seed} {station:?}");
    }
}

/// Found with one server at a load of 0.8: "requests hardly ever wait: it has 31 servers or more".
#[test]
fn who_waits_out_of_order_is_not_said_to_hardly_wait() {
    for (seed, (servers, load)) in (0..12).zip([(1, 0.8), (2, 0.8), (1, 0.9), (4, 0.9)].into_iter().cycle()) {
        let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers, load };
        let found = identify(&visits(last_first(station, seed), 0.0));
        assert!(
            !matches!(found, Ok(_) | Err(Unidentifiable::HardlyQueues { .. })),
            "seed {seed} {station:?}: {found:?}"
        );
    }
}

#[test]
fn servers_for_everybody_are_not_shared() {
    let fits = |seed: &u64| {
        let station = Simulated { arrivals: Law::Exponential, service: Law::Exponential, servers: 100, load: 0.05 };
        let observed = Observed::new(&visits(station.run(*seed, VISITS), 0.0));
        observed.shared(&States::of(&observed.visits)).is_some()
    };
    assert_eq!((0..40).filter(fits).count(), 0);
}

#[test]
fn requests_that_hinder_each_other_are_told_and_fitted() {
    let (mut told, n) = (0, 8);
    for seed in 0..n {
        let law = Usl { gamma: 1.0, sigma: 0.05, kappa: 0.004 };
        let service = [Law::Exponential, Law::Erlang(4)][seed as usize % 2];
        // most is 5.9 times one, with 15 there; further up it collapses, which this load hardly ever reaches
        let station = Simulated { arrivals: Law::Exponential, service, servers: 1, load: 3.6 };
        let slowed = |there: usize| law.throughput(there as f64) / there as f64;
        match identify(&visits(station.run_slowed(seed, VISITS, slowed), 0.0)) {
            Ok(Station { discipline: Discipline::Contended(found), service_ns, .. }) => {
                // the peak is hardly ever reached: what was seen is what can be fitted
                let at_eight = found.throughput(8.0) * 1e6 / law.throughput(8.0);
                println!("seed {seed}: {found:?} S {service_ns:.0} X(8) {at_eight:.3} of what it is");
                told += usize::from((at_eight - 1.0).abs() < 0.05 && (service_ns / 1e6 - 1.0).abs() < 0.1);
            }
            other => println!("seed {seed}: {other:?}"),
        }
    }
    assert!(told >= 6, "{told} of {n}");
}
