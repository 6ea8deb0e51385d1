//! The findings of a report: root causes, and what only the windows found.

use weir_schema::UnixNanos;

use super::{FindingReport, time::rfc3339};
use crate::{
    causes::{Cause, CauseKind, Verdict},
    findings::{Kind, action},
    snapshot::FindingView,
};

/// All by how sure they are, outlooks last. Of a cause that a window found too, the finding says the kind where it is the more
/// precise, and whom it costs what.
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
    let mut all: Vec<FindingReport> = causes.chain(beside).collect();
    let is_outlook = |finding: &FindingReport| !Kind::is_fault(&finding.kind);
    all.sort_by(|a, b| is_outlook(a).cmp(&is_outlook(b)).then(b.confidence.total_cmp(&a.confidence)));
    all.iter_mut().zip(1..).for_each(|(finding, rank)| finding.rank = rank);
    all
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
