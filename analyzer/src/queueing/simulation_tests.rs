//! The simulation itself: the laws it draws from, and the exact formulas it must agree with.

use std::num::NonZeroU32;

use rand::{SeedableRng, rngs::StdRng};

use crate::queueing::{
    mg1, mmc,
    simulation::{Law, Means, Station},
};

#[test]
fn laws_have_the_mean_and_variation_they_say() {
    for law in [Law::Exponential, Law::Erlang(4), Law::Hyperexponential(4.0), Law::Lognormal(4.0), Law::Deterministic] {
        let mut random = StdRng::seed_from_u64(1);
        let samples: Vec<f64> = (0..400_000).map(|_| law.sample(&mut random)).collect();
        let mean = samples.iter().sum::<f64>() / samples.len() as f64;
        let variance = samples.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / samples.len() as f64;
        assert!(
            (mean - 1.0).abs() < 0.02 && (variance - law.scv()).abs() < 0.15 * law.scv() + 1e-9,
            "{law:?}: {mean} {variance}"
        );
    }
}

/// Half a percent takes 20 million requests; `TEST_REQUESTS` says how many there are.
#[test]
fn it_agrees_with_the_exact_formulas() {
    let requests = std::env::var("TEST_REQUESTS").ok().and_then(|n| n.parse().ok()).unwrap_or(500_000);
    let tolerance = 0.005 * (20e6 / requests as f64).sqrt().max(1.0);
    let cases = [
        (Law::Exponential, 1, 0.5),
        (Law::Exponential, 4, 0.7),
        (Law::Deterministic, 1, 0.7),
        (Law::Erlang(4), 1, 0.6),
    ];
    for (seed, (service, servers, load)) in (11..).zip(cases) {
        let station = Station { arrivals: Law::Exponential, service, servers, load };
        let Means { wait: simulated, service: mean, arrival_rate, .. } = station.means(seed, requests);
        let exact = match servers {
            1 => mg1::queue_wait(arrival_rate, mean, service.scv()).unwrap(),
            _ => mmc::queue_wait(arrival_rate, mean, NonZeroU32::new(servers).unwrap()).unwrap(),
        };
        println!("seed {seed} {station:?}: {simulated:.5} simulated, {exact:.5} exact");
        assert!((simulated / exact - 1.0).abs() < tolerance, "{station:?}: {simulated} {exact}");
    }
}
