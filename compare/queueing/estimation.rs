//! Servers, utilization and discipline from arrivals and departures of simulated stations, and from those of stations that cannot be told.

use std::collections::BTreeMap;

use rand::{Rng, SeedableRng, rngs::StdRng};
use weir_analyzer::{
    departures::Visit,
    servers::{Discipline, Station as Found, Unidentifiable, confidence, identify},
};

use crate::{
    kinds::{Answer, Kind},
    simulation::{Law, Request, Station},
    table::Errors,
};

/// Visits of a station, as many as the product looks at.
const VISITS: usize = 4_000;

pub(crate) const LAWS: [Law; 6] = [
    Law::Deterministic,
    Law::Erlang(4),
    Law::Exponential,
    Law::Lognormal(2.0),
    Law::Lognormal(4.0),
    Law::Hyperexponential(4.0),
];

/// Right answers and all, by the confidence they were given with, in hundredths.
pub(crate) type BySaid = BTreeMap<u32, (usize, usize)>;

/// What became of clean stations.
#[derive(Default)]
pub(crate) struct Score {
    pub(crate) exact: usize,
    pub(crate) wrong: Vec<String>,
    pub(crate) refused: BTreeMap<&'static str, usize>,
    /// Of ρ, whether c was right or not.
    pub(crate) utilization: Errors,
    pub(crate) by_said: BySaid,
}

/// What became of stations of every kind.
#[derive(Default)]
pub(crate) struct Told {
    /// How often every kind was answered in every way.
    pub(crate) answers: BTreeMap<(usize, String), usize>,
    pub(crate) by_said: BySaid,
}

/// Counts an answer, right or wrong, by the confidence it was given with.
fn count(by_said: &mut BySaid, found: &Found, right: bool) {
    let (of, n) = by_said.entry((100.0 * confidence(found.margin)).round() as u32).or_insert((0, 0));
    *of += usize::from(right);
    *n += 1;
}

impl Score {
    pub(crate) fn exact_share(&self) -> f64 {
        self.exact as f64 / (self.exact + self.wrong.len()).max(1) as f64
    }
}

/// Simulated requests as spans show them: S is a millisecond; clocks are off by up to this share of it.
pub(crate) fn visits(requests: &[Request], jitter: f64, seed: u64) -> Vec<Visit> {
    let mut random = StdRng::seed_from_u64(seed ^ 0x5eed);
    let mut at = |time: f64| ((time + jitter * (random.random::<f64>() * 2.0 - 1.0)) * 1e6) as i64;
    let visit = |r: &Request| {
        let (arrival, departure) = (at(r.arrival), at(r.departure));
        Visit { arrival, departure: departure.max(arrival), gave_up: false }
    };
    requests.iter().map(visit).collect()
}

/// Stations in order with servers from 1 to `most` and every law.
pub(crate) fn clean(first_seed: u64, most: u32, loads: &[f64], jitter: f64) -> Score {
    let mut score = Score::default();
    let stations = LAWS
        .into_iter()
        .flat_map(|law| (1..=most).flat_map(move |servers| loads.iter().map(move |load| (law, servers, *load))));
    for (seed, (service, servers, load)) in (first_seed..).zip(stations) {
        let requests: Vec<Request> =
            Station { arrivals: Law::Exponential, service, servers, load }.run(seed, VISITS).collect();
        match identify(&visits(&requests, jitter, seed)) {
            Ok(found) => {
                score.utilization.add(utilization_error(&requests, servers, &found).abs());
                let right = found.discipline == Discipline::Fifo && found.servers.get() == servers;
                count(&mut score.by_said, &found, right);
                if right {
                    score.exact += 1;
                } else {
                    score.wrong.push(format!("{service:?} c {servers} ρ {load} seed {seed}: {}", said(&Ok(found))));
                }
            }
            Err(why) => *score.refused.entry(reason(&why)).or_insert(0) += 1,
        }
    }
    score
}

/// λ is the same on both sides, so it falls out: S/c found over S/c drawn.
fn utilization_error(requests: &[Request], servers: u32, found: &Found) -> f64 {
    let drawn = requests.iter().map(|r| r.departure - r.start).sum::<f64>() / requests.len() as f64;
    let of_one = found.service_ns / 1e6 / f64::from(found.servers.get());
    of_one / (drawn / f64::from(servers)) - 1.0
}

fn reason(why: &Unidentifiable) -> &'static str {
    match why {
        Unidentifiable::TooFew { .. } => "too few",
        Unidentifiable::HardlyQueues { .. } => "hardly queues",
        Unidentifiable::AlwaysBusy => "always busy",
        Unidentifiable::NoModel => "no model",
    }
}

/// What was said of a station.
fn said(found: &Result<Found, Unidentifiable>) -> String {
    match found {
        Ok(Found { discipline: Discipline::Fifo, servers, .. }) => format!("in order, {servers}"),
        Ok(Found { discipline: Discipline::ProcessorSharing, servers, .. }) => format!("shared, {servers}"),
        Ok(Found { discipline: Discipline::Contended(law), .. }) => {
            format!("contended, most at {:.1}", law.peak_concurrency().unwrap_or(f64::INFINITY))
        }
        Err(why) => reason(why).to_owned(),
    }
}

/// So many of every kind.
pub(crate) fn told_apart(first_seed: u64, runs: u64) -> Told {
    let mut told = Told::default();
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        for run in 0..runs {
            let service = [Law::Exponential, Law::Erlang(4), Law::Lognormal(2.0)][run as usize % 3];
            let servers = [1, 2, 4][run as usize / 3 % 3];
            let load = [0.8, 0.9][run as usize / 9 % 2];
            let seed = first_seed + place as u64 * 1_000 + run;
            let found = identify(&visits(&kind.run(service, servers, load, seed, VISITS), 0.0, seed));
            if let Ok(found) = &found {
                count(&mut told.by_said, found, is_right(kind, found, servers));
            }
            *told.answers.entry((place, answer(&found, servers))).or_insert(0) += 1;
        }
    }
    told
}

/// Of a kind that cannot be told every answer is wrong.
fn is_right(kind: Kind, found: &Found, servers: u32) -> bool {
    match (kind.answer(), found.discipline) {
        (Answer::InOrder, Discipline::Fifo) | (Answer::Shared, Discipline::ProcessorSharing) => {
            found.servers.get() == servers
        }
        (Answer::Contended, Discipline::Contended(_)) => true,
        _ => false,
    }
}

fn answer(found: &Result<Found, Unidentifiable>, servers: u32) -> String {
    let number = |found: &Found| if found.servers.get() == servers { "c right" } else { "c other" };
    match found {
        Ok(found) => match found.discipline {
            Discipline::Fifo => format!("in order, {}", number(found)),
            Discipline::ProcessorSharing => format!("shared, {}", number(found)),
            Discipline::Contended(_) => "contended".into(),
        },
        Err(why) => reason(why).to_owned(),
    }
}

/// Of a kind that cannot be told, the share that was refused.
pub(crate) fn refused_share(table: &BTreeMap<(usize, String), usize>, kind: Kind) -> f64 {
    let of_kind = table.iter().filter(|((place, _), _)| Kind::ALL[*place] == kind);
    let (mut all, mut refused) = (0, 0);
    for ((_, answer), count) in of_kind {
        all += count;
        refused += if ["too few", "hardly queues", "no model"].contains(&answer.as_str()) { *count } else { 0 };
    }
    refused as f64 / all.max(1) as f64
}

/// Prints [`clean`] with and without errors of the clocks, and [`told_apart`].
pub(crate) fn print(first_seed: u64) {
    let loads = [0.3, 0.5, 0.7, 0.85, 0.95];
    println!(
        "\n## Clean stations in order: c 1 to 8, ρ {loads:?}, six laws, {VISITS} visits each, seeds from {first_seed}\n"
    );
    println!(
        "| clocks off by | n | identified | c exact | ρ error %: median, 90 %, worst | refused |\n|---|---|---|---|---|---|"
    );
    let (mut wrong, mut by_said) = (Vec::new(), Vec::new());
    for (place, jitter) in [0.0, 0.01].into_iter().enumerate() {
        let score = clean(first_seed + 10_000 * place as u64, 8, &loads, jitter);
        let identified = score.exact + score.wrong.len();
        let refused: usize = score.refused.values().sum();
        println!(
            "| {jitter} S | {} | {identified} | {} ({:.1} %) | {} | {:?} |",
            identified + refused,
            score.exact,
            100.0 * score.exact_share(),
            score.utilization.percents(),
            score.refused
        );
        by_said.push((format!("clean, clocks off by {jitter} S"), score.by_said));
        wrong.extend(score.wrong.into_iter().map(|wrong| format!("clocks off by {jitter} S: {wrong}")));
    }
    println!("\nNot exact:\n");
    wrong.iter().for_each(|wrong| println!("- {wrong}"));
    by_said.push(("kinds".to_owned(), print_told_apart(first_seed + 100_000, 54)));
    print_by_said(by_said);
}

/// How many of the answers were right, by the confidence they were given with.
fn print_by_said(mut parts: Vec<(String, BySaid)>) {
    let mut all = BySaid::new();
    for (said, (right, n)) in parts.iter().flat_map(|(_, by_said)| by_said) {
        let sum = all.entry(*said).or_insert((0, 0));
        *sum = (sum.0 + right, sum.1 + n);
    }
    parts.push(("all".to_owned(), all));
    println!("\n## Right of those answered, by the confidence that was said\n");
    println!("| stations | said | right | of | % |\n|---|---|---|---|---|");
    for (stations, by_said) in parts {
        for (said, (right, n)) in by_said {
            let percent = 100.0 * right as f64 / n as f64;
            println!("| {stations} | {said} % | {right} | {n} | {percent:.1} |");
        }
    }
}

fn print_told_apart(first_seed: u64, runs: u64) -> BySaid {
    println!("\n## Kinds of stations told apart: {runs} of each, seeds from {first_seed}\n");
    println!("| kind | should be | answers |\n|---|---|---|");
    let Told { answers: table, by_said } = told_apart(first_seed, runs);
    for (place, kind) in Kind::ALL.into_iter().enumerate() {
        let answers =
            table.iter().filter(|((of, _), _)| *of == place).map(|((_, answer), count)| format!("{answer}: {count}"));
        let answers: Vec<String> = answers.collect();
        let refused = match kind.answer() {
            Answer::Refused => format!(" ({:.0} % refused)", 100.0 * refused_share(&table, kind)),
            _ => String::new(),
        };
        println!("| {kind:?} | {:?} | {}{refused} |", kind.answer(), answers.join(", "));
    }
    by_said
}
