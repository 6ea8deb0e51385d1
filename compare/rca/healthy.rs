//! [`report`]: what is said of recorded time in which nothing is wrong, as far as the recordings have any.
//!
//! A stretch is time that was recorded without a hole, from [`AFTER`](crate::day::AFTER) after one stated injection at the earliest to the
//! next. Three tests, all of them counted and printed:
//!
//! - **windows** of 20, 30 and 60 s that begin every 10 s of a stretch (so they overlap), each against all that came before it, earlier faults
//!   and all, and against all that came after: from a recording twice as many questions, and the first stretches have a history too;
//! - the same of stretches only: how many have any such window;
//! - **live**: the stretches' whole requests one after the other, as one day without a fault, through the analyzer; in the order in which they were
//!   recorded and in nineteen that are drawn. Any finding is false.
//!
//! Stated times are late by up to a minute, so a stretch may end in the fault itself: what names the service of the fault that is stated next is
//! told apart. Live, it is enough that one of the stretches of the last [`GATHERED`] comes before such a fault, so too much is told apart: whoever
//! reads the counts has to look at what a finding rests on. Whether a fault does show is in the calls themselves, which [`delays`] counts: a
//! network delay adds up to some seconds to each.

use std::{collections::BTreeMap, ops::Range};

use weir_analyzer::causes::{Cause, Verdict};

use crate::{
    SURE,
    day::{Day, Fault, SECOND, Span},
    live,
    made::Random,
    table::wilson,
};

/// Time without any span that is a hole in the recording.
const HOLE: i64 = 10 * SECOND;

const LENGTHS: [i64; 3] = [20 * SECOND, 30 * SECOND, 60 * SECOND];
const STEP: i64 = 10 * SECOND;

/// A window of fewer says nothing.
const MIN_REQUESTS: usize = 5;

/// What findings take for sure: beyond chance and of enough requests by so much, and so much of what is lost (`findings/live/told.rs`).
const BELIEF: f64 = 0.8;
const MOST: f64 = 0.5;

const MINUTE: i64 = 60 * SECOND;

/// A call that is late by less is not late by an injected delay.
const LATE_MS: f64 = 20.0;

/// So long requests are gathered at most that a finding rests on, and so long after them it opens.
const GATHERED: i64 = 180 * SECOND;

/// Orders of the stretches: as recorded, and so many less one that are drawn.
const ORDERS: u64 = 20;

/// What was said of a window without a fault.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Said {
    Nothing,
    /// The service whose fault is stated next.
    Next,
    Other,
}

/// Windows, and those of them in which each gate is passed.
#[derive(Default)]
struct Count {
    windows: usize,
    stretches: BTreeMap<i64, [Said; 2]>,
    /// By gate: of the coming fault, of others.
    said: [[usize; 2]; 2],
}

const GATES: [&str; 2] = ["confidence ≥ 0.8", "sure live"];

/// Prints what is said of a day's time without a fault.
pub(crate) fn report(day: &Day) {
    println!("\n## {}, without a fault\n", day.name);
    let stretches = stretches(day);
    let seconds: i64 = stretches.iter().map(|stretch| (stretch.end - stretch.start) / SECOND).sum();
    println!("{} stretches, {seconds} s:\n", stretches.len());
    for stretch in &stretches {
        let next = next(day, stretch).map_or("nothing".to_owned(), |fault| {
            format!("{} of {} in {} s", fault.kind, fault.service, (fault.at - stretch.start) / SECOND)
        });
        println!("- {} for {} s, then {next}", stretch.start / SECOND, (stretch.end - stretch.start) / SECOND);
    }
    delays(day);
    windows(day, &stretches);
    one_after_the_other(day, &stretches);
}

/// Of every network delay the calls to and by its service in the minute before its stated time and in the minute after, and how many of them
/// are late: by half of what the calls after are late by in the middle, and by 20 ms at least.
fn delays(day: &Day) {
    println!(
        "\n| network delay | stated at | late by, ms | late, of calls in the minute before | the first, s | late, of calls in the minute after |"
    );
    println!("|---|---|---|---|---|---|");
    for fault in day.faults.iter().filter(|fault| fault.kind == "network_delay") {
        let gaps = gaps(day, fault);
        let mut after: Vec<f64> = gaps.iter().filter(|(at, _)| *at >= fault.at).map(|(_, ms)| *ms).collect();
        after.retain(|ms| *ms >= LATE_MS);
        after.sort_by(f64::total_cmp);
        let Some(middle) = after.get(after.len() / 2) else { continue };
        let is_late = |ms: f64| ms >= LATE_MS.max(middle / 2.0);
        let count = |before: bool| {
            let of = gaps.iter().filter(|(at, _)| (*at < fault.at) == before);
            (of.clone().filter(|(_, ms)| is_late(*ms)).count(), of.count())
        };
        let first = gaps.iter().find(|(_, ms)| is_late(*ms)).map_or(0, |(at, _)| (at - fault.at) / SECOND);
        let ((late_before, before), (late_after, all_after)) = (count(true), count(false));
        let Fault { service, at, .. } = fault;
        println!(
            "| {service} | {} | {middle:.0} | {late_before} of {before} | {first} | {late_after} of {all_after} |",
            at / SECOND
        );
    }
}

/// When calls to and by a fault's service began, within a minute of its stated time, and how many milliseconds longer each was for its caller than
/// for who answered.
fn gaps(day: &Day, fault: &Fault) -> Vec<(i64, f64)> {
    let near =
        (fault.at - MINUTE..fault.at + MINUTE, day.spans.partition_point(|span| span.start < fault.at - 2 * MINUTE));
    let spans = day.spans[near.1..].iter().take_while(|span| span.start < near.0.end);
    let callers: BTreeMap<(u128, u64), &Span> = spans.clone().map(|span| ((span.trace, span.id), span)).collect();
    let gap = |answer: &Span| {
        let caller = callers.get(&(answer.trace, answer.parent)).filter(|caller| caller.service != answer.service)?;
        let is_of_it = *caller.service == *fault.service || *answer.service == *fault.service;
        let longer = (caller.end - caller.start) - (answer.end - answer.start);
        (is_of_it && near.0.contains(&caller.start)).then_some((caller.start, longer as f64 / 1e6))
    };
    let mut gaps: Vec<(i64, f64)> = spans.filter_map(gap).collect();
    gaps.sort_by_key(|(at, _)| *at);
    gaps
}

/// Recorded time without a hole and without a fault, to the next.
fn stretches(day: &Day) -> Vec<Range<i64>> {
    let mut stretches: Vec<Range<i64>> = Vec::new();
    for span in day.spans.iter().filter(|span| !day.is_disturbed(span.start)) {
        let at = span.start;
        let goes_on = |last: &&mut Range<i64>| {
            let fault_between = day.faults.iter().any(|fault| (last.end..at).contains(&fault.at));
            at - last.end < HOLE && !fault_between
        };
        match stretches.last_mut().filter(goes_on) {
            Some(last) => last.end = at + 1,
            None => stretches.push(at..at + 1),
        }
    }
    stretches.retain(|stretch| stretch.end - stretch.start >= STEP);
    stretches
}

/// The fault that comes after, where it comes within a minute.
fn next<'a>(day: &'a Day, stretch: &Range<i64>) -> Option<&'a Fault> {
    day.faults.iter().find(|fault| (stretch.end..stretch.end + 60 * SECOND).contains(&fault.at))
}

fn windows(day: &Day, stretches: &[Range<i64>]) {
    let (first, last) = (day.spans[0].start, day.spans[day.spans.len() - 1].start + 1);
    let signals = day.signals();
    let mut counts: BTreeMap<(&str, &str, i64), Count> = BTreeMap::new();
    println!(
        "\nbegins, length s, history, signals, requests, windows of history: first cause, kind, confidence, share of what is lost, belief\n"
    );
    for stretch in stretches {
        for length in LENGTHS {
            let starts =
                (0..).map(|step| stretch.start + step * STEP).take_while(|start| start + length <= stretch.end);
            for window in starts.map(|start| start..start + length) {
                for (title, history) in [("before", first..window.start), ("after", window.end..last)] {
                    for signals in &signals {
                        let verdict = day.verdict(&history, &window, *signals);
                        let ranking = &verdict.ranking;
                        if ranking.requests < MIN_REQUESTS || ranking.history_windows == 0 {
                            continue;
                        }
                        let said = said(&verdict, next(day, stretch));
                        counts.entry((title, signals.name, length)).or_default().add(stretch.start, said);
                        print(&window, (title, signals.name), &verdict, said);
                    }
                }
            }
        }
    }
    table(&counts);
}

fn belief(cause: &Cause) -> f64 {
    cause.confidence / cause.share.max(f64::EPSILON)
}

fn said(verdict: &Verdict, next: Option<&Fault>) -> [Said; 2] {
    let Some(cause) = verdict.ranking.causes.first() else { return [Said::Nothing; 2] };
    let of = if next.is_some_and(|fault| fault.service == cause.service) { Said::Next } else { Said::Other };
    let passed = [cause.confidence >= SURE, belief(cause) >= BELIEF && cause.share >= MOST];
    passed.map(|passed| if passed { of } else { Said::Nothing })
}

fn print(window: &Range<i64>, (title, signals): (&str, &str), verdict: &Verdict, said: [Said; 2]) {
    let ranking = &verdict.ranking;
    let cause = ranking.causes.first().map_or("nobody".to_owned(), |cause| {
        let Cause { service, kind, confidence, share, .. } = cause;
        format!("{service} {} {confidence:.2} {share:.2} {:.2}", kind.as_str(), belief(cause))
    });
    let mark = match said.iter().max() {
        Some(Said::Other) => " **false**",
        Some(Said::Next) => " (its fault is stated next)",
        _ => "",
    };
    let (start, length) = (window.start / SECOND, (window.end - window.start) / SECOND);
    println!("{start}, {length}, {title}, {signals}, {}, {}: {cause}{mark}", ranking.requests, ranking.history_windows);
    if said.contains(&Said::Other) {
        ranking.causes[0].evidence.iter().for_each(|evidence| println!("    {}", evidence.text));
    }
}

impl Count {
    fn add(&mut self, stretch: i64, said: [Said; 2]) {
        self.windows += 1;
        let of_stretch = self.stretches.entry(stretch).or_insert([Said::Nothing; 2]);
        for (gate, said) in said.into_iter().enumerate() {
            of_stretch[gate] = of_stretch[gate].max(said);
            match said {
                Said::Nothing => {}
                Said::Next => self.said[gate][0] += 1,
                Said::Other => self.said[gate][1] += 1,
            }
        }
    }
}

fn table(counts: &BTreeMap<(&str, &str, i64), Count>) {
    println!(
        "\n| history | signals | length s | windows | stretches | gate | names the service whose fault is stated next | **false** | 95 % | stretches with a false one |"
    );
    println!("|---|---|---|---|---|---|---|---|---|---|");
    for ((title, signals, length), count) in counts {
        for (gate, name) in GATES.iter().enumerate() {
            let [of_next, of_others] = count.said[gate];
            let stretches = count.stretches.values().filter(|said| said[gate] == Said::Other).count();
            let (windows, all) = (count.windows, count.stretches.len());
            let (length, false_share) = (length / SECOND, wilson(of_others, windows - of_next));
            println!(
                "| {title} | {signals} | {length} | {windows} | {all} | {name} | {of_next} | {of_others} | {false_share} | {stretches} |"
            );
        }
    }
}

/// Stretches as one day, in several orders, through the analyzer.
fn one_after_the_other(day: &Day, stretches: &[Range<i64>]) {
    println!("\n### Live, one stretch after the other\n");
    let (mut seconds, mut of_next, mut of_others) = (0, 0, 0);
    for order in 0..ORDERS {
        let mut order_of: Vec<&Range<i64>> = stretches.iter().collect();
        if order > 0 {
            shuffle(&mut order_of, order);
        }
        let (spans, places) = joined(day, &order_of);
        let end = spans.last().map_or(0, |span| span.start);
        seconds += (end - day.spans[0].start) / SECOND;
        let all = Day::of_spans(spans);
        for (at, finding) in live::replay(&all, all.signals()[0]).opened() {
            // what it rests on may have been gathered over the stretches before
            let until = places.partition_point(|(start, _)| start < at);
            let since = places.partition_point(|(start, _)| start + GATHERED < *at).saturating_sub(1);
            let stretch = places[until.saturating_sub(1)].1;
            let mut nexts = places[since..until].iter().filter_map(|(_, stretch)| next(day, stretch));
            let is_next = nexts.any(|fault| fault.service == finding.service);
            *(if is_next { &mut of_next } else { &mut of_others }) += 1;
            let what = if is_next { "its fault is stated next" } else { "**false**" };
            println!(
                "- order {order}, {} s after the start, in the stretch at {}: {what}: {}",
                (at - day.spans[0].start) / SECOND,
                stretch.start / SECOND,
                live::said(finding)
            );
            finding.evidence.iter().for_each(|evidence| println!("    {}", evidence.text));
        }
    }
    let hours = seconds as f64 / 3_600.0;
    println!(
        "\n{ORDERS} orders, {hours:.2} h of {:.2} h that were recorded: {of_others} false findings, {:.2} an hour; {of_next} that name the service whose fault is stated next",
        hours / ORDERS as f64,
        of_others as f64 / hours
    );
}

fn shuffle<T>(all: &mut [T], seed: u64) {
    let mut random = Random(seed);
    for place in (1..all.len()).rev() {
        all.swap(place, random.below(place + 1));
    }
}

/// The requests that begin and end in stretches, these one after the other; and where each stretch begins.
fn joined<'a>(day: &Day, stretches: &[&'a Range<i64>]) -> (Vec<Span>, Vec<(i64, &'a Range<i64>)>) {
    let mut lasts: BTreeMap<u128, (i64, i64)> = BTreeMap::new();
    for span in &day.spans {
        let last = lasts.entry(span.trace).or_insert((span.start, span.end));
        *last = (last.0.min(span.start), last.1.max(span.end));
    }
    let (mut spans, mut places, mut at) = (Vec::new(), Vec::new(), day.spans[0].start);
    for stretch in stretches {
        places.push((at, *stretch));
        let shift = at - stretch.start;
        let low = day.spans.partition_point(|span| span.start < stretch.start);
        let within = day.spans[low..].iter().take_while(|span| span.start < stretch.end);
        let whole = within.filter(|span| lasts[&span.trace].0 >= stretch.start && lasts[&span.trace].1 <= stretch.end);
        spans.extend(whole.map(|span| Span { start: span.start + shift, end: span.end + shift, ..span.clone() }));
        at += stretch.end - stretch.start;
    }
    (spans, places)
}
