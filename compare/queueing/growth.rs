//! The wait at +20 % load: predicted from spans at a load, simulated at 1.2 times it.

use weir_analyzer::whatif::{Change, what_if};

use crate::{
    estimation::LAWS,
    simulation::{Law, Request, Station},
    spans::{Row, analyze},
    table::Errors,
};

/// S, milliseconds.
const SERVICE_MS: f64 = 10.0;

/// Requests that say what the wait then is.
const TRUTH: usize = 1_000_000;

/// What became of the predictions.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) errors: Errors,
    pub(crate) refused: usize,
    /// Of those with a range, how many hold what was simulated.
    pub(crate) within: usize,
    pub(crate) worst: Vec<(f64, String)>,
}

/// Stations of every law, with so many requests as spans.
pub(crate) fn score(first_seed: u64, servers: &[u32], loads: &[f64], requests: usize, truth: usize) -> Score {
    let mut score = Score::default();
    let stations = LAWS
        .into_iter()
        .flat_map(|law| servers.iter().flat_map(move |servers| loads.iter().map(move |load| (law, *servers, *load))));
    for (seed, (service, servers, load)) in (first_seed..).zip(stations) {
        let station = Station { arrivals: Law::Exponential, service, servers, load };
        let then = Station { load: 1.2 * load, ..station }.means(seed + 500_000, truth).wait * SERVICE_MS;
        let Some((predicted, low, high)) = predict(&station, seed, requests) else {
            score.refused += 1;
            continue;
        };
        let error = predicted / then - 1.0;
        score.errors.add(error.abs());
        score.within += usize::from(low <= then && then <= high);
        score
            .worst
            .push((error, format!("{service:?} c {servers} ρ {load} seed {seed}: {predicted:.2} for {then:.2} ms")));
    }
    score.worst.sort_by(|a, b| b.0.abs().total_cmp(&a.0.abs()));
    score
}

fn predict(station: &Station, seed: u64, requests: usize) -> Option<(f64, f64, f64)> {
    let row = |(place, request): (u64, Request)| Row {
        trace: u128::from(place + 1),
        id: place + 1,
        parent: 0,
        start: (request.arrival * SERVICE_MS * 1e6) as i64,
        end: (request.departure * SERVICE_MS * 1e6) as i64,
        service: "station",
        kind: "server",
    };
    let snapshot = analyze((0..).zip(station.run(seed, requests)).map(row).collect())?;
    let change = Change { service: "station".into(), operation: None, arrivals: 1.2, servers: 0, service_time: 1.0 };
    let prediction = what_if(&snapshot, &change).ok()?;
    let found = prediction.services.first()?;
    let high = found.queue_wait_high_ms.unwrap_or(f64::INFINITY);
    Some((found.queue_wait_ms_then?, found.queue_wait_low_ms?, high))
}

/// Prints [`score`] for recordings of several lengths.
pub(crate) fn print(first_seed: u64) {
    let (servers, loads) = ([1, 2, 4, 8], [0.4, 0.5, 0.6, 0.7, 0.75]);
    println!("\n## The wait at +20 % load: c {servers:?}, ρ {loads:?} now, six laws, seeds from {first_seed}\n");
    println!(
        "| requests seen | n | refused | error %: median, 90 %, worst | 95 % range holds |\n|---|---|---|---|---|"
    );
    let mut worst = Vec::new();
    for (place, requests) in (0..).zip([20_000, 60_000]) {
        let score = score(first_seed + 1_000 * place, &servers, &loads, requests, TRUTH);
        let n = score.errors.count();
        let within = 100.0 * score.within as f64 / n as f64;
        println!("| {requests} | {n} | {} | {} | {within:.0} % |", score.refused, score.errors.percents());
        worst.extend(
            score.worst.into_iter().take(3).map(|(error, case)| format!("{requests}: {:+.0} % {case}", 100.0 * error)),
        );
    }
    println!("\nWorst:\n");
    worst.iter().for_each(|case| println!("- {case}"));
}
