//! Approximations of the wait at a G/G/c station beside each other: the one the product uses, and those it was chosen from.
//!
//! - Allen and Cunneen: `Wq(M/M/c)·(ca²+cs²)/2`, "Probability, Statistics and Queueing Theory", 1990, section 6.2.
//! - Whitt: the same times a factor that interpolates between D/M/c, M/D/c and M/M/c, "Approximations for the GI/G/m
//!   queue", Production and Operations Management 2, 1993.
//! - Kimura: a harmonic interpolation between the three, "A two-moment approximation for the mean waiting time in the GI/G/s queue",
//!   Management Science 32, 1986; for ca² ≤ 1.
//! - Of bursty arrivals, two ways to put the exact wait of H2/M/c in the place of Whitt's approximation of it: at cs² = 1 only, keeping how
//!   his wait changes with cs² (`H2, Whitt`), or with the sum of ca² and cs² (`H2, sum`).

use std::num::NonZeroU32;

use weir_analyzer::queueing::{ggc, mmc};

use crate::{
    h2mc,
    simulation::{Law, Means, Station},
    table::Errors,
};

/// An approximation by name.
type Approximation = (&'static str, fn(&Means, NonZeroU32) -> f64);

const APPROXIMATIONS: [Approximation; 6] = [
    ("product", product),
    ("Allen-Cunneen", allen_cunneen),
    ("Whitt 1993", whitt),
    ("Kimura 1986", kimura),
    ("H2, Whitt", h2_whitt),
    ("H2, sum", h2_sum),
];

/// Of S: shorter waits are left out.
const MIN_WAIT: f64 = 0.02;

/// Prints errors against simulation by kind of arrivals, on seeds from `first_seed`.
pub(crate) fn print(first_seed: u64, requests: usize) {
    println!("\n## G/G/c approximations, {requests} requests a case, seeds from {first_seed}\n");
    println!(
        "| arrivals | cases | {} |",
        APPROXIMATIONS.map(|(name, _)| format!("{name}: median, 90 %, worst")).join(" | ")
    );
    println!("|---|---|{}", "---|".repeat(APPROXIMATIONS.len()));
    let mut seed = first_seed;
    for (name, laws) in arrivals() {
        let mut errors: [Errors; 6] = Default::default();
        for station in stations(&laws) {
            seed += 1;
            let means = station.means(seed, requests);
            let servers = NonZeroU32::new(station.servers).expect("stations have servers");
            let found = APPROXIMATIONS.map(|(_, of)| of(&means, servers) / means.wait - 1.0);
            // where hardly anybody waits, a share of the wait says nothing
            if means.wait < MIN_WAIT {
                continue;
            }
            errors.iter_mut().zip(found).for_each(|(errors, error)| errors.add(error.abs()));
        }
        println!("| {name} | {} | {} |", errors[0].count(), errors.map(|e| e.percents()).join(" | "));
    }
}

/// Prints the product's error on the ten cases of the literature's kind that targets are stated for.
pub(crate) fn print_ten(first_seed: u64, requests: usize) {
    let m = Law::Exponential;
    let cases = [
        (m, m, 1, 0.8),
        (m, Law::Deterministic, 1, 0.8),
        (m, Law::Lognormal(4.0), 1, 0.8),
        (Law::Erlang(4), m, 1, 0.8),
        (Law::Hyperexponential(4.0), m, 1, 0.8),
        (m, m, 4, 0.8),
        (m, Law::Lognormal(4.0), 4, 0.8),
        (m, Law::Deterministic, 4, 0.9),
        (Law::Erlang(4), Law::Erlang(2), 4, 0.9),
        (Law::Hyperexponential(4.0), Law::Lognormal(2.0), 8, 0.9),
    ];
    println!("\n## G/G/c, ten cases: {requests} requests each, seeds from {first_seed}\n");
    println!("| arrivals | service | c | ρ | simulated wait | error % |\n|---|---|---|---|---|---|");
    for (seed, (arrivals, service, servers, load)) in (first_seed..).zip(cases) {
        let means = Station { arrivals, service, servers, load }.means(seed, requests);
        let found = product(&means, NonZeroU32::new(servers).expect("cases have servers"));
        let error = 100.0 * (found / means.wait - 1.0);
        println!("| {arrivals:?} | {service:?} | {servers} | {load} | {:.4} | {error:+.1} |", means.wait);
    }
}

fn arrivals() -> [(&'static str, Vec<Law>); 5] {
    let (two, log) = (vec![Law::Hyperexponential(2.0), Law::Hyperexponential(4.0)], vec![Law::Lognormal(2.0)]);
    [
        ("regular (ca² < 1)", vec![Law::Deterministic, Law::Erlang(4), Law::Erlang(2)]),
        ("Poisson", vec![Law::Exponential]),
        ("bursty (ca² > 1)", [two.clone(), log.clone()].concat()),
        ("of them hyperexponential", two),
        ("of them lognormal, and ca² = 4", [log, vec![Law::Lognormal(4.0)]].concat()),
    ]
}

fn stations(arrivals: &[Law]) -> impl Iterator<Item = Station> {
    let services = [
        Law::Deterministic,
        Law::Erlang(4),
        Law::Erlang(2),
        Law::Exponential,
        Law::Lognormal(2.0),
        Law::Lognormal(4.0),
        Law::Hyperexponential(4.0),
    ];
    let of = move |arrivals: Law| {
        services.into_iter().filter(move |service| arrivals.scv() + service.scv() > 0.0).flat_map(move |service| {
            [1, 2, 4, 8, 16]
                .into_iter()
                .flat_map(move |servers| [0.7, 0.8, 0.9, 0.95].map(|load| Station { arrivals, service, servers, load }))
        })
    };
    arrivals.iter().copied().flat_map(of)
}

fn product(means: &Means, servers: NonZeroU32) -> f64 {
    ggc::queue_wait(means.arrival_rate, means.service, servers, means.ca2, means.cs2).unwrap_or(f64::NAN)
}

fn exponential(means: &Means, servers: NonZeroU32) -> f64 {
    mmc::queue_wait(means.arrival_rate, means.service, servers).unwrap_or(f64::NAN)
}

fn allen_cunneen(means: &Means, servers: NonZeroU32) -> f64 {
    exponential(means, servers) * (means.ca2 + means.cs2) / 2.0
}

/// ρ, γ, φ₁ (M/D/c) and φ₃ (D/M/c).
fn extremes(means: &Means, servers: NonZeroU32) -> (f64, f64) {
    let c = f64::from(servers.get());
    let rho = means.arrival_rate * means.service / c;
    let gamma = ((1.0 - rho) * (c - 1.0) * ((4.0 + 5.0 * c).sqrt() - 2.0) / (16.0 * c * rho)).min(0.24);
    (1.0 + gamma, (1.0 - 4.0 * gamma) * (-2.0 * (1.0 - rho) / (3.0 * rho)).exp())
}

fn whitt(means: &Means, servers: NonZeroU32) -> f64 {
    let (ca2, cs2) = (means.ca2, means.cs2);
    let (phi1, phi3) = extremes(means, servers);
    let phi4 = ((phi1 + phi3) / 2.0).min(1.0);
    let both = (ca2 + cs2) / 2.0;
    let psi = if both >= 1.0 { 1.0 } else { phi4.powf(2.0 * (1.0 - both)) };
    let phi = if ca2 >= cs2 {
        4.0 * (ca2 - cs2) / (4.0 * ca2 - 3.0 * cs2) * phi1 + cs2 / (4.0 * ca2 - 3.0 * cs2) * psi
    } else {
        (cs2 - ca2) / (2.0 * (ca2 + cs2)) * phi3 + (cs2 + 3.0 * ca2) / (2.0 * (ca2 + cs2)) * psi
    };
    phi * allen_cunneen(means, servers)
}

/// By how much bursts make the wait longer than Poisson's arrivals do, at cs² = 1; exact for H2/M/c.
fn of_bursts(means: &Means, servers: NonZeroU32) -> f64 {
    let bursty = h2mc::queue_wait(means.arrival_rate, means.service, servers, means.ca2).unwrap_or(f64::NAN);
    bursty / exponential(means, servers)
}

fn poisson(means: &Means, servers: NonZeroU32) -> f64 {
    product(&Means { ca2: 1.0, ..*means }, servers)
}

fn h2_whitt(means: &Means, servers: NonZeroU32) -> f64 {
    if means.ca2 <= 1.0 {
        return product(means, servers);
    }
    let whitt = |ca2: f64, cs2: f64| whitt(&Means { ca2, cs2, ..*means }, servers);
    let by_service = whitt(means.ca2, means.cs2) / whitt(means.ca2, 1.0) * whitt(1.0, 1.0) / whitt(1.0, means.cs2);
    poisson(means, servers) * of_bursts(means, servers) * by_service
}

fn h2_sum(means: &Means, servers: NonZeroU32) -> f64 {
    if means.ca2 <= 1.0 {
        return product(means, servers);
    }
    let by_service = 2.0 * (means.ca2 + means.cs2) / ((means.ca2 + 1.0) * (1.0 + means.cs2));
    poisson(means, servers) * of_bursts(means, servers) * by_service
}

fn kimura(means: &Means, servers: NonZeroU32) -> f64 {
    let (ca2, cs2) = (means.ca2, means.cs2);
    if ca2 > 1.0 {
        return allen_cunneen(means, servers);
    }
    let (phi1, phi3) = extremes(means, servers);
    let below = (1.0 - ca2) * 2.0 / phi3 + (1.0 - cs2) * 2.0 / phi1 + 2.0 * (ca2 + cs2 - 1.0);
    exponential(means, servers) * (ca2 + cs2) / below
}
