//! [`replay`]: a recorded day through [`Analyzer`] as it would have come, second by second, and what its findings said of each fault:
//! nobody tells it when one begins.
//!
//! Spans come when they end, lines with their spans, metrics at their time. A finding belongs to a fault that it opens at most a
//! minute before (recorded times are late by up to that) or five minutes after; any other is false. Recorded time is what has spans.

use std::collections::{BTreeMap, BTreeSet};

use weir_analyzer::{
    Analyzer, Config,
    snapshot::{FindingState, FindingView, Snapshot},
};

use crate::{
    day::{AFTER, Day, Fault, SECOND, Signals},
    table::wilson,
};

/// Recorded times are late by up to so much.
const EARLY: i64 = 60 * SECOND;

/// A window of the analyzer.
const WINDOW: i64 = 10 * SECOND;

/// In time without spans windows still close; after so much of it nothing is open.
const SILENCE: i64 = 180 * SECOND;

/// What findings said of a day.
#[derive(Default)]
pub(crate) struct Said {
    /// As they were when they opened, and when that was.
    opened: Vec<(i64, FindingView)>,
    /// The service at rank 1 at the end of each window in which a finding is open.
    first: Vec<(i64, String)>,
}

/// What findings said of one fault.
struct Answer<'a> {
    fault: &'a Fault,
    opened: Vec<&'a (i64, FindingView)>,
    /// When a finding first was at rank 1 that names the service.
    right: Option<i64>,
}

/// Prints what findings say of a day with each set of signals.
pub(crate) fn report(day: &Day) {
    println!("\n## {}, live\n", day.name);
    for signals in day.signals() {
        let said = replay(day, signals);
        println!("\n### {}\n", signals.name);
        let answers: Vec<Answer<'_>> = day.faults.iter().filter_map(|fault| said.answer(day, fault)).collect();
        answers.iter().for_each(Answer::print);
        table(&answers);
        said.print_false(day);
    }
}

/// What findings say of a day.
pub(crate) fn replay(day: &Day, signals: Signals) -> Said {
    let (mut analyzer, mut said) = (Analyzer::new(Config::default()), Said::default());
    let mut now = 0;
    for second in day.seconds(signals) {
        let end = (second.number + 1) * SECOND;
        let mut silent = (now + SECOND).max(end - SILENCE);
        while now > 0 && silent < end {
            said.take(silent, analyzer.step(silent).snapshot);
            silent += SECOND;
        }
        analyzer.push(&second.spans);
        second.beside.iter().for_each(|batch| analyzer.push_beside(batch));
        now = end;
        said.take(now, analyzer.step(now).snapshot);
    }
    said
}

impl Said {
    /// As they were when they opened, and when that was.
    pub(crate) fn opened(&self) -> &[(i64, FindingView)] {
        &self.opened
    }

    fn take(&mut self, now: i64, snapshot: Option<Snapshot>) {
        let Some(snapshot) = snapshot else { return };
        for finding in snapshot.findings.into_iter().filter(|finding| finding.state == FindingState::Open) {
            if finding.rank == 1 {
                self.first.push((now, finding.service.clone()));
            }
            if !self.opened.iter().any(|(_, known)| known.finding_id == finding.finding_id) {
                self.opened.push((now, finding));
            }
        }
    }

    /// `None` of a fault of which no span was recorded.
    fn answer<'a>(&'a self, day: &'a Day, fault: &'a Fault) -> Option<Answer<'a>> {
        let is_recorded = day.spans.iter().any(|span| (fault.at..fault.at + AFTER).contains(&span.start));
        let belongs = |at: i64| owner(day, at).is_some_and(|owner| owner.at == fault.at);
        let opened = self.opened.iter().filter(|(at, _)| belongs(*at)).collect();
        let right = self.first.iter().find(|(at, service)| belongs(*at) && *service == fault.service);
        is_recorded.then(|| Answer { fault, opened, right: right.map(|(at, _)| *at) })
    }

    fn print_false(&self, day: &Day) {
        let windows: BTreeSet<i64> = day.spans.iter().map(|span| span.end / WINDOW * WINDOW).collect();
        let quiet = windows.iter().filter(|start| owner(day, **start + WINDOW).is_none()).count();
        let hours = (quiet as i64 * WINDOW) as f64 / (3_600 * SECOND) as f64;
        let wrong: Vec<&(i64, FindingView)> = self.opened.iter().filter(|(at, _)| owner(day, *at).is_none()).collect();
        for (at, finding) in &wrong {
            println!("- false at {}: {}", at / SECOND, said(finding));
        }
        let rate = if hours > 0.0 { wrong.len() as f64 / hours } else { 0.0 };
        println!("\n{} findings in {hours:.2} recorded hours without a fault: {rate:.1} an hour", wrong.len());
    }
}

/// The fault that something said at a time is about.
fn owner(day: &Day, at: i64) -> Option<&Fault> {
    let ongoing = day.faults.iter().rev().find(|fault| (fault.at..fault.at + AFTER).contains(&at));
    ongoing.or_else(|| day.faults.iter().find(|fault| (fault.at - EARLY..fault.at).contains(&at)))
}

impl Answer<'_> {
    fn is_right_at_first(&self) -> bool {
        self.opened.first().is_some_and(|(_, finding)| finding.service == self.fault.service)
    }

    fn print(&self) {
        let Fault { at, service, kind } = self.fault;
        let right =
            self.right.map_or("never first".to_owned(), |right| format!("first after {} s", (right - at) / SECOND));
        println!("- {service} {kind} at {}: {right}", at / SECOND);
        for (opened, finding) in &self.opened {
            println!("    after {} s: {}", (opened - at) / SECOND, said(finding));
        }
    }
}

/// A finding in a line.
pub(crate) fn said(finding: &FindingView) -> String {
    let FindingView { service, kind, confidence, rank, summary, .. } = finding;
    format!("{service} {kind} {confidence:.2} at rank {rank}: {summary}")
}

fn table(answers: &[Answer<'_>]) {
    let mut groups: BTreeMap<&str, Vec<&Answer<'_>>> = BTreeMap::new();
    for answer in answers {
        groups.entry("all").or_default().push(answer);
        groups.entry(&answer.fault.kind).or_default().push(answer);
    }
    println!(
        "\n| | n | opened | the first is right | right at rank 1 | 95 % | others opened | delay s, median (least, most) |"
    );
    println!("|---|---|---|---|---|---|---|---|");
    for (group, answers) in groups {
        let count = |is: fn(&Answer<'_>) -> bool| answers.iter().filter(|answer| is(answer)).count();
        let (opened, at_first) = (count(|a| !a.opened.is_empty()), count(|a| a.is_right_at_first()));
        let right = count(|answer| answer.right.is_some());
        let of_others = |answer: &&&Answer<'_>| {
            answer.opened.iter().filter(|(_, finding)| finding.service != answer.fault.service).count()
        };
        let others: usize = answers.iter().map(|answer| of_others(&answer)).sum();
        let mut delays: Vec<i64> =
            answers.iter().filter_map(|answer| Some((answer.right? - answer.fault.at) / SECOND)).collect();
        delays.sort_unstable();
        let delay = delays
            .first()
            .zip(delays.last())
            .map(|(least, most)| format!("{} ({least}, {most})", delays[delays.len() / 2]));
        println!(
            "| {group} | {} | {opened} | {at_first} | {right} | {} | {others} | {} |",
            answers.len(),
            wilson(right, answers.len()),
            delay.unwrap_or_default()
        );
    }
}
