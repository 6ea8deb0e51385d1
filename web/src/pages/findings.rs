//! `/findings`: open ones by rank, then those that are over.

use askama::Template;
use axum::{extract::State, response::Response};
use weir_analyzer::snapshot::{FindingState, FindingView};

use super::{Pages, format, html};

#[derive(Template)]
#[template(path = "findings.html")]
struct FindingsPage {
    page: &'static str,
    history: String,
    findings: Vec<Finding>,
}

struct Finding {
    finding_id: String,
    rank: u32,
    state: &'static str,
    service: String,
    kind: String,
    operation: String,
    summary: String,
    onset: String,
    closed: String,
    confidence: String,
    evidence: Vec<Line>,
    victims: String,
    impact: String,
    action: String,
}

struct Line {
    text: String,
    trace: String,
    sql: String,
}

pub(super) async fn page(State(pages): State<Pages>) -> Response {
    let snapshot = pages.deps.snapshot.borrow().clone();
    let seconds = snapshot.window_ms as f64 / 1e3;
    let history = if snapshot.time_unix_nano == 0 {
        "No window has closed yet: no spans arrived.".to_owned()
    } else {
        format!("{} services are watched in windows of {seconds} s.", snapshot.services.len())
    };
    html(&FindingsPage { page: "/findings", history, findings: snapshot.findings.iter().map(finding).collect() })
}

fn finding(finding: &FindingView) -> Finding {
    let evidence = finding.evidence.iter().map(|evidence| Line {
        text: evidence.text.clone(),
        trace: evidence.trace_id.clone().unwrap_or_default(),
        sql: evidence.sql.clone().unwrap_or_default(),
    });
    Finding {
        finding_id: finding.finding_id.clone(),
        rank: finding.rank,
        state: match finding.state {
            FindingState::Open => "open",
            FindingState::Closed => "closed",
        },
        service: finding.service.clone(),
        kind: finding.kind.replace('_', " "),
        operation: finding.operation.clone().unwrap_or_default(),
        summary: finding.summary.clone(),
        onset: format::moment(finding.onset_unix_nano),
        closed: finding.closed_unix_nano.map(format::moment).unwrap_or_default(),
        confidence: format::percent(finding.confidence),
        evidence: evidence.collect(),
        victims: finding.victims.join(", "),
        impact: impact(finding),
        action: finding.action.clone(),
    }
}

/// Whom it costs what; empty when nobody anything.
fn impact(finding: &FindingView) -> String {
    let Some(entry) = finding.entry.as_ref().filter(|_| finding.impact_ratio > 0.0) else { return String::new() };
    let share = format::percent(finding.impact_ratio);
    format!("{share} of the requests at {entry}, {:.1} ms a request on average", finding.impact_ms)
}
