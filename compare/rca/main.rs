//! Ranks the root causes of recorded faults and prints which rank the true one has: from spans only, then with
//! metrics, then with logs; with past-only history and, apart from it, with the fault-free recording as a known-healthy
//! reference; also windows without a fault, and how sure the answers were.
//!
//! `rca DIR…`: folders as in README.md beside this file; with `--shift SECONDS` first, as if each fault had been injected so much later
//! (or earlier) than it was. `rca made SEED N DIR…`: N code faults of each, made. `rca live DIR…`: what findings say of each as
//! windows close. `rca healthy DIR…`: what is said of all time without a fault, in overlapping windows and live.

#![allow(clippy::print_stdout)] // its output is the result

mod day;
mod healthy;
mod live;
mod made;
mod table;

use std::{ops::Range, path::Path};

use anyhow::Context;
use day::{Day, Fault, SECOND, Signals};
use table::{Confidence, Table, wilson};
use weir_analyzer::causes::Verdict;

/// As long as a fault is looked at.
const FAULT: i64 = 150 * SECOND;

/// A window in which nothing is this sure is calm enough to make a fault in.
const CALM: f64 = 0.5;

/// Sure enough to say.
const SURE: f64 = 0.8;

fn main() -> Result<(), anyhow::Error> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.as_slice() {
        [made, seed, count, folders @ ..] if made == "made" => made_faults(seed.parse()?, count.parse()?, folders),
        [live, folders @ ..] if live == "live" => folders.iter().try_for_each(|folder| {
            live::report(&day(folder)?);
            Ok(())
        }),
        [healthy, folders @ ..] if healthy == "healthy" => folders.iter().try_for_each(|folder| {
            healthy::report(&day(folder)?);
            Ok(())
        }),
        [shift, seconds, folders @ ..] if shift == "--shift" => {
            recorded_faults(folders, seconds.parse::<i64>()? * SECOND)
        }
        folders => recorded_faults(folders, 0),
    }
}

fn day(folder: &String) -> Result<Day, anyhow::Error> {
    Day::read(Path::new(folder)).with_context(|| folder.clone())
}

/// What is told as the time of injection is so much later than it was.
fn recorded_faults(folders: &[String], shift: i64) -> Result<(), anyhow::Error> {
    let mut confidence = Confidence::default();
    for folder in folders {
        let mut day = day(folder)?;
        day.faults.iter_mut().for_each(|fault| fault.at += shift);
        println!("\n## {}, {} s from the injection\n", day.name, shift / SECOND);
        let first = day.spans[0].start;
        ranks(&day, "past-only", &|fault| first..fault.at, Some(&mut confidence));
        ranks(&day, "healthy reference", &|_| day.fault_free.clone(), None);
        if shift == 0 {
            without_fault(&day);
        }
    }
    println!("\n## Confidence, past-only");
    confidence.print();
    Ok(())
}

/// Past-only: everything from the day's first span to the fault, earlier faults and all.
fn ranks(day: &Day, title: &str, history: &dyn Fn(&Fault) -> Range<i64>, mut confidence: Option<&mut Confidence>) {
    let signals = day.signals();
    let mut table = Table::new(title, &names(&signals));
    for fault in &day.faults {
        let range = fault.at..fault.at + FAULT;
        let verdicts: Vec<Verdict> = signals.iter().map(|it| day.verdict(&history(fault), &range, *it)).collect();
        if verdicts[0].ranking.requests == 0 {
            continue;
        }
        let mut ranks = Vec::new();
        for (signals, verdict) in signals.iter().zip(&verdicts) {
            let rank = rank_of(&fault.service, verdict);
            let what = format!("{} {} at {}, {title}", fault.service, fault.kind, fault.at / SECOND);
            explain(&what, rank, verdict, signals);
            ranks.push(rank);
            if let Some(confidence) = confidence.as_mut().filter(|_| verdict.ranking.history_windows > 0) {
                confidence.add(signals.name, sure(verdict), rank == Some(1));
            }
        }
        let code = matches!(fault.kind.as_str(), "return" | "exception");
        table.add(&["all", if code { "all code faults" } else { "all latency faults" }, &fault.kind], &ranks);
    }
    table.print();
}

fn without_fault(day: &Day) {
    for signals in day.signals() {
        let (mut confident, mut windows) = (0, 0);
        for window in day.quiet_windows() {
            let verdict = day.verdict(&(day.spans[0].start..window.start), &window, signals);
            if verdict.ranking.requests < 5 || verdict.ranking.history_windows == 0 {
                continue;
            }
            windows += 1;
            let Some(cause) = verdict.ranking.causes.first().filter(|cause| cause.confidence >= SURE) else { continue };
            confident += 1;
            let next = day.faults.iter().find(|fault| fault.at >= window.end);
            let next = next.map_or(String::new(), |f| {
                format!("; {} s later {} in {}", (f.at - window.end) / SECOND, f.kind, f.service)
            });
            println!("- without a fault at {}: {} {:.2}{next}", window.start / SECOND, cause.service, cause.confidence);
            explain("  ", None, &verdict, &signals);
        }
        println!(
            "\n{}: {windows} windows of up to a minute without a fault, {confident} with a finding at {SURE} or more {}",
            signals.name,
            wilson(confident, windows)
        );
    }
}

/// Faults written into quiet windows of the last two thirds of the recorded time, so that there is some history.
fn made_faults(seed: u64, count: usize, folders: &[String]) -> Result<(), anyhow::Error> {
    println!("seed {seed}");
    let mut confidence = Confidence::default();
    for folder in folders {
        let day = day(folder)?;
        let mut windows = day.quiet_windows();
        windows.drain(..windows.len() / 3);
        // some show the fault that comes, or another trouble: two at once would be ranked
        let calm = |window: &Range<i64>| {
            let history = day.spans[0].start..window.start;
            day.signals().into_iter().all(|signals| sure(&day.verdict(&history, window, signals)) < CALM)
        };
        let all = windows.len();
        windows.retain(calm);
        println!("{} of {all} windows without a fault are calm", windows.len());
        let signals: Vec<Signals> = day.signals().into_iter().filter(|it| !it.metrics || it.logs).collect();
        println!("\n## {}, made\n", day.name);
        let mut table = Table::new("past-only", &names(&signals));
        let mut random = made::Random(seed);
        for fault in (0..)
            .map_while(|draw| (draw < 100 * count).then(|| made::make(&day, &windows, &mut random)))
            .flatten()
            .take(count)
        {
            let history = day.spans[0].start..fault.window.start;
            let mut ranks = Vec::new();
            for signals in &signals {
                let verdict = day.verdict_of(&history, &fault.window, (&fault.spans, &fault.lines), *signals);
                let rank = rank_of(&fault.service, &verdict);
                let what = format!(
                    "{} of {} in {} calls of {}, {}",
                    fault.kind, fault.service, fault.hit, fault.operation, fault.place
                );
                explain(&what, rank, &verdict, signals);
                confidence.add(signals.name, sure(&verdict), rank == Some(1));
                ranks.push(rank);
            }
            let seen = if fault.seen { fault.kind } else { "no trace in spans" };
            table.add(&["all", seen], &ranks);
        }
        table.print();
    }
    println!("\n## Confidence, made");
    confidence.print();
    Ok(())
}

fn names(signals: &[Signals]) -> Vec<&'static str> {
    signals.iter().map(|signals| signals.name).collect()
}

fn rank_of(service: &str, verdict: &Verdict) -> Option<usize> {
    verdict.ranking.causes.iter().position(|cause| cause.service == service).map(|place| place + 1)
}

fn sure(verdict: &Verdict) -> f64 {
    verdict.ranking.causes.first().map_or(0.0, |cause| cause.confidence)
}

/// Prints what an answer rests on: of wrong ones, or of all when asked to.
fn explain(what: &str, rank: Option<usize>, verdict: &Verdict, signals: &Signals) {
    if rank == Some(1) && std::env::var_os("VERBOSE").is_none() {
        return;
    }
    let causes = verdict.ranking.causes.iter().take(3);
    let said: Vec<String> =
        causes.map(|c| format!("{} {} {:.0} ms {:.2}", c.service, c.kind.as_str(), c.lost_ms, c.confidence)).collect();
    println!("- {what}, {}: rank {rank:?}; {}", signals.name, said.join(", "));
    for evidence in verdict.ranking.causes.first().iter().flat_map(|cause| &cause.evidence) {
        println!("    {}", evidence.text);
    }
}
