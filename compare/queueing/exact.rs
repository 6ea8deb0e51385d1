//! The event simulation beside formulas that are exact, and beside the package `ciw`.

use std::num::NonZeroU32;

use rand::{SeedableRng, rngs::StdRng};
use weir_analyzer::queueing::{mg1, mmc, mmck, ps};

use crate::simulation::{Law, Station};

/// One comparison: both told the rate and service time that were drawn.
pub(crate) struct Exact {
    pub(crate) name: String,
    pub(crate) simulated: f64,
    pub(crate) exact: f64,
}

impl Exact {
    pub(crate) fn error(&self) -> f64 {
        self.simulated / self.exact - 1.0
    }
}

/// Waits in the queue by simulation and formula; `requests` a case.
pub(crate) fn cases(first_seed: u64, requests: usize) -> Vec<Exact> {
    let in_order = [
        ("M/M/1", Law::Exponential, 1, 0.8),
        ("M/M/2", Law::Exponential, 2, 0.8),
        ("M/M/4", Law::Exponential, 4, 0.7),
        ("M/M/8", Law::Exponential, 8, 0.8),
        ("M/D/1", Law::Deterministic, 1, 0.8),
        ("M/E4/1", Law::Erlang(4), 1, 0.8),
        ("M/LN/1, cs² = 2", Law::Lognormal(2.0), 1, 0.7),
        ("M/H2/1, cs² = 4", Law::Hyperexponential(4.0), 1, 0.6),
    ];
    let mut cases: Vec<Exact> = (first_seed..)
        .zip(in_order)
        .map(|(seed, (name, service, servers, load))| {
            let means = Station { arrivals: Law::Exponential, service, servers, load }.means(seed, requests);
            let exact = match servers {
                1 => mg1::queue_wait(means.arrival_rate, means.service, means.cs2),
                _ => mmc::queue_wait(means.arrival_rate, means.service, c(servers)),
            };
            Exact { name: format!("{name}, ρ = {load}"), simulated: means.wait, exact: exact.unwrap_or(f64::NAN) }
        })
        .collect();
    cases.extend(
        [(1, 0.8, 5), (2, 0.9, 6), (4, 1.2, 10)]
            .into_iter()
            .zip(first_seed + 100..)
            .flat_map(|((servers, load, room), seed)| limited(servers, load, room, seed, requests)),
    );
    cases.extend(
        [(Law::Exponential, 1), (Law::Erlang(4), 1), (Law::Hyperexponential(4.0), 2)]
            .into_iter()
            .zip(first_seed + 200..)
            .map(|((service, servers), seed)| shared(service, servers, seed, requests)),
    );
    cases
}

fn c(servers: u32) -> NonZeroU32 {
    NonZeroU32::new(servers).expect("cases have servers")
}

/// M/M/c/K: the wait of those let in, and the share of those turned away.
fn limited(servers: u32, load: f64, room: u32, seed: u64, requests: usize) -> [Exact; 2] {
    let mut random = StdRng::seed_from_u64(seed);
    let between = 1.0 / (load * f64::from(servers));
    let (mut free, mut leaving) = (vec![0.0_f64; servers as usize], std::collections::BinaryHeap::new());
    let (mut now, mut waited, mut served, mut refused) = (0.0, 0.0, 0.0, 0.0);
    let mut work = 0.0;
    for _ in 0..requests {
        now += Law::Exponential.sample(&mut random) * between;
        while leaving.peek().is_some_and(|std::cmp::Reverse(at)| *at <= (now * 1e9) as u64) {
            leaving.pop();
        }
        if leaving.len() >= room as usize {
            refused += 1.0;
            continue;
        }
        let first_free = free.iter_mut().min_by(|a, b| a.total_cmp(b)).expect("at least one server");
        let (start, service) = (first_free.max(now), Law::Exponential.sample(&mut random));
        *first_free = start + service;
        leaving.push(std::cmp::Reverse((*first_free * 1e9) as u64));
        (waited, served, work) = (waited + start - now, served + 1.0, work + service);
    }
    let exact = mmck::solve(requests as f64 / now, work / served, c(servers), room).expect("rates are numbers");
    let name = |what: &str| format!("M/M/{servers}/{room}, ρ = {load}: {what}");
    [
        Exact { name: name("wait"), simulated: waited / served, exact: exact.queue_wait },
        Exact { name: name("refused"), simulated: refused / requests as f64, exact: exact.rejected_ratio },
    ]
}

/// M/G/c-PS at ρ = 0.7: response time. In runs of a million, which keep their requests.
fn shared(service: Law, servers: u32, seed: u64, requests: usize) -> Exact {
    let station = Station { arrivals: Law::Exponential, service, servers, load: 0.7 };
    let a_run = requests.min(1_000_000);
    let (mut stay, mut count, mut time) = (0.0, 0.0, 0.0);
    for run in 0..(requests / a_run) as u64 {
        let done = station.run_shared(seed * 1_000 + run, a_run);
        stay += done.iter().map(|r| r.departure - r.arrival).sum::<f64>();
        count += done.len() as f64;
        time += done.iter().map(|r| r.departure).fold(0.0, f64::max);
    }
    Exact {
        name: format!("M/{service:?}/{servers}-PS, ρ = 0.7: response time"),
        simulated: stay / count,
        exact: ps::response_time(count / time, 1.0, c(servers)).unwrap_or(f64::NAN),
    }
}

/// Prints [`cases`].
pub(crate) fn print(first_seed: u64, requests: usize) {
    println!("\n## Simulation beside exact formulas, {requests} requests a case, seeds from {first_seed}\n");
    println!("| station | simulated | exact | error % |\n|---|---|---|---|");
    for case in cases(first_seed, requests) {
        println!("| {} | {:.5} | {:.5} | {:+.2} |", case.name, case.simulated, case.exact, 100.0 * case.error());
    }
}

/// The systems of `ciw_peer.py`, by the name it gives them.
fn peers() -> [(&'static str, Station); 6] {
    let station = |arrivals, service, servers, load| Station { arrivals, service, servers, load };
    let m = Law::Exponential;
    [
        ("M/M/1 0.8", station(m, m, 1, 0.8)),
        ("M/D/1 0.8", station(m, Law::Deterministic, 1, 0.8)),
        ("M/M/4 0.8", station(m, m, 4, 0.8)),
        ("M/LN4/4 0.8", station(m, Law::Lognormal(4.0), 4, 0.8)),
        ("E4/E2/4 0.9", station(Law::Erlang(4), Law::Erlang(2), 4, 0.9)),
        ("H4/LN2/8 0.9", station(Law::Hyperexponential(4.0), Law::Lognormal(2.0), 8, 0.9)),
    ]
}

/// Prints our waits beside those in `answers`, lines of name, mean, standard error and replications as `ciw_peer.py` writes them.
pub(crate) fn print_peers(answers: &str, first_seed: u64, requests: usize) {
    println!("\n## Beside ciw 3.2.7, the same systems; ours {requests} requests, seeds from {first_seed}\n");
    println!("| station | ciw | its standard error | ours | apart, in standard errors |\n|---|---|---|---|---|");
    for (seed, (name, station)) in (first_seed..).zip(peers()) {
        let line = answers.lines().map(|line| line.split(',').collect::<Vec<_>>()).find(|fields| fields[0] == name);
        let number = |place: usize| line.as_ref().and_then(|fields| fields.get(place)?.parse::<f64>().ok());
        let Some((mean, error)) = number(1).zip(number(2)) else { continue };
        let ours = station.means(seed, requests).wait;
        println!("| {name} | {mean:.4} | {error:.4} | {ours:.4} | {:+.1} |", (ours - mean) / error);
    }
}
