//! The findings of a report: root causes, and what only the windows found.

use std::collections::BTreeSet;

use weir_schema::UnixNanos;

use super::{FindingReport, time::rfc3339};
use crate::{
    causes::{Cause, CauseKind, SUSPICIOUS, Verdict},
    findings::{Kind, action},
    snapshot::FindingView,
};

/// All by how sure they are, outlooks last. Of a cause that a window found too, the finding says the kind where it is the more
/// precise, and whom it costs what. Nobody is cause and victim at once: what the finding of another explains is part of that, and who is
/// surely a cause does not only wait.
pub(super) fn ranked(verdict: Verdict, mut found: Vec<FindingView>) -> Vec<FindingReport> {
    found.sort_by(|a, b| b.score.total_cmp(&a.score));
    // those that were looked at may stand for more
    let share = verdict.sampled.map_or(1.0, |sampled| sampled.share);
    let caused = |service: &str| verdict.ranking.causes.iter().any(|cause| cause.service == service);
    let causes = verdict.ranking.causes.iter().zip(&verdict.stretches).map(|(cause, stretch)| {
        let windows = found.iter().filter(|f| f.service == cause.service && Kind::is_fault(&f.kind));
        let onset = windows.clone().map(|finding| finding.onset_unix_nano).min().unwrap_or(stretch.onset);
        let score = cause.lost_ms * 1e9 / stretch.length_ns.max(1) as f64;
        let requests = stretch.requests.max(1) as f64 / share;
        FindingReport { score, ..of_cause(cause, windows.into_iter().next(), onset, requests) }
    });
    let beside = found.iter().filter(|finding| !caused(&finding.service)).map(of_finding);
    let mut all = folded(causes.chain(beside).collect(), &found, &verdict.known);
    let sure: Vec<String> = all.iter().filter(|said| is_sure_cause(said)).map(|said| said.service.clone()).collect();
    all.iter_mut().for_each(|said| said.victims.retain(|victim| !sure.contains(victim)));
    let is_outlook = |finding: &FindingReport| !Kind::is_fault(&finding.kind);
    all.sort_by(|a, b| is_outlook(a).cmp(&is_outlook(b)).then(b.confidence.total_cmp(&a.confidence)));
    all.iter_mut().zip(1..).for_each(|(finding, rank)| finding.rank = rank);
    all
}

/// Makes what no window found of a service part of the finding of another that explains it; `known` are those that were there before.
fn folded(all: Vec<FindingReport>, found: &[FindingView], known: &BTreeSet<String>) -> Vec<FindingReport> {
    let is_found = |said: &FindingReport| found.iter().any(|f| f.service == said.service && Kind::is_fault(&f.kind));
    let (mut found, alone): (Vec<_>, Vec<_>) = all.into_iter().partition(|said| is_found(said));
    let mut left = Vec::new();
    for cause in alone {
        match found.iter_mut().find(|finding| explains(finding, &cause, known)) {
            Some(finding) => finding.take(cause),
            None => left.push(cause),
        }
    }
    found.extend(left);
    found
}

/// As live, where the ranking and detectors become one: who is loaded is slow by that, the caller of who fails or is late looks
/// otherwise too, and what a service that nobody called before takes is part of its being called.
fn explains(finding: &FindingReport, cause: &FindingReport, known: &BTreeSet<String>) -> bool {
    if !Kind::is_fault(&cause.kind) {
        return false; // an outlook is of another time
    }
    let is_peer = finding.peer.as_ref() == Some(&cause.service);
    match Kind::of_name(&finding.kind) {
        Some(Kind::UpstreamSurge) => {
            cause.kind != Kind::ChangedCalls.as_str() && (is_peer || finding.victims.contains(&cause.service))
        }
        Some(Kind::NewCalls) => is_peer && is_slow(&cause.kind) && !known.contains(&cause.service),
        Some(Kind::ErrorSource | Kind::RetryStorm | Kind::SlowDependency) => is_peer,
        _ => false,
    }
}

/// Who is called anew and fails, or calls otherwise, does so by itself.
fn is_slow(kind: &str) -> bool {
    [CauseKind::SlowService, CauseKind::StarvedCpu, CauseKind::SlowNetwork].iter().any(|slow| slow.as_str() == kind)
}

fn is_sure_cause(said: &FindingReport) -> bool {
    Kind::accuses(&said.kind) && said.confidence >= SUSPICIOUS
}

impl FindingReport {
    fn take(&mut self, cause: Self) {
        self.confidence = self.confidence.max(cause.confidence);
        self.score = self.score.max(cause.score);
        self.evidence.extend(cause.evidence);
        let known = self.victims.contains(&cause.service) || self.peer.as_ref() == Some(&cause.service);
        let waiting = cause.victims.into_iter().filter(|victim| *victim != self.service);
        self.victims.extend(waiting.chain((!known).then_some(cause.service)));
        self.victims.sort();
        self.victims.dedup();
    }
}

fn of_cause(cause: &Cause, found: Option<&FindingView>, onset: UnixNanos, requests: f64) -> FindingReport {
    let kind = Kind::of_cause(cause.kind);
    let precise = found.filter(|found| Kind::of_name(&found.kind).is_some_and(|found| found.explains(kind)));
    let known = cause.kind != CauseKind::NoHistory;
    let impact_ms = if known { cause.lost_ms / requests } else { 0.0 };
    let action = action::cause(&cause.service, cause.operation.as_deref(), impact_ms);
    FindingReport {
        rank: 0,
        service: cause.service.clone(),
        operation: cause.operation.clone(),
        kind: precise.map_or_else(|| cause.kind.as_str().to_owned(), |found| found.kind.clone()),
        onset: rfc3339(onset),
        score: 0.0,
        confidence: cause.confidence,
        standing: false, // against history, or without one against nothing
        evidence: cause.evidence.iter().chain(found.map_or(&[][..], |found| &found.evidence)).cloned().collect(),
        impact_ms,
        impact_ratio: found.map(|found| found.impact_ratio),
        instance: cause.instance.clone().or_else(|| found.and_then(|found| found.instance.clone())),
        peer: found.and_then(|found| found.peer.clone()),
        victims: found.map(|found| found.victims.clone()).unwrap_or_default(),
        action: found.map(|found| found.action.clone()).or(known.then_some(action)).unwrap_or_default(),
    }
}

fn of_finding(finding: &FindingView) -> FindingReport {
    FindingReport {
        rank: 0,
        service: finding.service.clone(),
        operation: finding.operation.clone(),
        kind: finding.kind.clone(),
        onset: rfc3339(finding.onset_unix_nano),
        score: finding.score,
        confidence: finding.confidence,
        standing: finding.standing,
        evidence: finding.evidence.clone(),
        impact_ms: finding.impact_ms,
        impact_ratio: Some(finding.impact_ratio),
        instance: finding.instance.clone(),
        peer: finding.peer.clone(),
        victims: finding.victims.clone(),
        action: finding.action.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::Snapshot;

    fn cause(service: &str, kind: CauseKind, confidence: f64) -> Cause {
        Cause {
            service: service.into(),
            operation: None,
            instance: None,
            kind,
            lost_ms: 100.0,
            share: 0.5,
            connected: 0,
            confidence,
            harmless: 0.0,
            evidence: Vec::new(),
        }
    }

    fn found(service: &str, kind: Kind, peer: Option<&str>, victims: &[&str]) -> FindingView {
        FindingView {
            finding_id: service.into(),
            service: service.into(),
            kind: kind.as_str().into(),
            peer: peer.map(Into::into),
            victims: victims.iter().map(|victim| (*victim).to_owned()).collect(),
            confidence: 0.6,
            ..FindingView::default()
        }
    }

    /// Found with a surge: its first finding named the worker as only waiting, its second as the bottleneck.
    #[test]
    fn nobody_is_cause_and_victim_at_once() {
        use CauseKind::{ChangedCalls, SlowService};
        let surge = || found("api", Kind::UpstreamSurge, Some("worker"), &["worker"]);
        let new_calls = || found("api", Kind::NewCalls, Some("worker"), &["front"]);
        let errors = || found("pay", Kind::ErrorSource, Some("front"), &["front", "shop"]);
        let slow = || found("worker", Kind::Bottleneck, None, &["api", "front"]);
        let cases = [
            (vec![cause("worker", SlowService, 0.9)], surge(), vec![("api", 0.9, vec!["worker"])]),
            (vec![cause("worker", SlowService, 0.5)], new_calls(), vec![("api", 0.6, vec!["front"])]),
            // whatever was said of who is called anew was part of that
            (
                vec![cause("worker", ChangedCalls, 0.5)],
                new_calls(),
                vec![("api", 0.6, vec!["front"]), ("worker", 0.5, vec![])],
            ),
            (vec![cause("front", ChangedCalls, 0.5)], errors(), vec![("pay", 0.6, vec!["front", "shop"])]),
            // two causes: who is surely one does not only wait for the other
            (
                vec![cause("worker", SlowService, 0.9), cause("front", SlowService, 0.7)],
                slow(),
                vec![("worker", 0.9, vec!["api"]), ("front", 0.7, vec![])],
            ),
            (
                vec![cause("worker", SlowService, 0.9), cause("front", SlowService, 0.1)],
                slow(),
                vec![("worker", 0.9, vec!["api", "front"]), ("front", 0.1, vec![])],
            ),
        ];
        for (causes, finding, expect) in cases {
            let stretches =
                vec![crate::causes::Stretch { onset: 0, length_ns: 1_000_000_000, requests: 10 }; causes.len()];
            let ranking = crate::causes::Ranking { causes, ..crate::causes::Ranking::default() };
            let said = ranked(Verdict { ranking, stretches, ..Verdict::default() }, vec![finding]);
            let said: Vec<(&str, f64, Vec<&str>)> = said
                .iter()
                .map(|f| (f.service.as_str(), f.confidence, f.victims.iter().map(String::as_str).collect()))
                .collect();
            assert_eq!(said, expect);
        }
    }

    /// A service that others had called for long was said to be slow only because one more calls it now.
    #[test]
    fn a_new_call_explains_only_a_callee_that_nobody_called_before() {
        for (known, expect) in [(vec![], vec!["api"]), (vec!["worker".to_owned()], vec!["worker", "api"])] {
            let new_calls = found("api", Kind::NewCalls, Some("worker"), &[]);
            let causes = vec![cause("worker", CauseKind::SlowService, 0.9)];
            let stretches = vec![crate::causes::Stretch { onset: 0, length_ns: 1_000_000_000, requests: 10 }];
            let ranking = crate::causes::Ranking { causes, ..crate::causes::Ranking::default() };
            let verdict = Verdict { ranking, stretches, known: known.into_iter().collect(), sampled: None };
            let said = ranked(verdict, vec![new_calls]);
            assert_eq!(said.iter().map(|finding| finding.service.as_str()).collect::<Vec<_>>(), expect);
        }
    }

    #[test]
    fn what_will_be_is_no_part_of_what_is() {
        let surge = found("api", Kind::UpstreamSurge, Some("worker"), &["worker"]);
        for kind in [Kind::SaturationAhead, Kind::ModelMismatch] {
            let outlook = found("worker", kind, None, &[]);
            let said = ranked(Verdict::default(), vec![surge.clone(), outlook]);
            let said: Vec<(&str, &str)> = said.iter().map(|f| (f.service.as_str(), f.kind.as_str())).collect();
            assert_eq!(said, [("api", "upstream_surge"), ("worker", kind.as_str())]);
        }
    }

    #[test]
    fn what_is_told_against_a_level_says_so_wherever_it_is_shown() {
        for standing in [true, false] {
            let finding = FindingView { standing, ..FindingView::default() };
            let report = serde_json::to_value(of_finding(&finding)).unwrap();
            let snapshot = Snapshot { findings: vec![finding.clone()], ..Snapshot::default() };
            let shown = serde_json::to_value(&snapshot).unwrap();
            let row: serde_json::Value = serde_json::from_str(&crate::findings_rows::details(&finding)).unwrap();
            assert_eq!([&report["standing"], &shown["findings"][0]["standing"], &row["standing"]], [&standing; 3]);
        }
    }
}
