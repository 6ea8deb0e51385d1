//! [`Alert`]: what is said to people when a finding opens or closes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    findings::Kind,
    snapshot::{FindingState, FindingView},
};

/// A fault said at this is worth waking somebody.
const SURE: f64 = 0.8;

/// Whether an alert fires or is over.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AlertState {
    /// It holds.
    Firing,
    /// It is over.
    Resolved,
}

/// How bad it is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Severity {
    /// Users notice.
    Critical,
    /// They may soon.
    Warning,
    /// Good to know.
    Info,
}

impl Severity {
    /// The word in tables and payloads.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Critical => "critical",
            Self::Warning => "warning",
            Self::Info => "info",
        }
    }
}

/// One alert.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Alert {
    /// The same when it fires and when it is resolved.
    pub alert_id: String,
    /// The rule.
    pub name: String,
    /// Whether it holds.
    pub state: AlertState,
    /// What it is about.
    pub service: String,
    /// How bad it is.
    pub severity: Severity,
    /// The finding it tells of.
    pub finding_id: Option<String>,
    /// One sentence.
    pub summary: String,
    /// When it began.
    pub starts_unix_nano: UnixNanos,
    /// When it ended.
    pub ends_unix_nano: Option<UnixNanos>,
    /// What receivers route by.
    pub labels: BTreeMap<String, String>,
    /// What people read.
    pub annotations: BTreeMap<String, String>,
}

impl Alert {
    /// The alert of a finding that opened or closed.
    #[must_use]
    pub fn of_finding(finding: &FindingView) -> Self {
        let state = match finding.state {
            FindingState::Open => AlertState::Firing,
            FindingState::Closed => AlertState::Resolved,
        };
        let name = format!("weir_{}", finding.kind);
        let severity = match Kind::of_name(&finding.kind) {
            Some(Kind::ModelMismatch) => Severity::Info,
            Some(Kind::SaturationAhead) => Severity::Warning,
            _ if finding.confidence >= SURE => Severity::Critical,
            _ => Severity::Warning,
        };
        let label = |key: &str, value: &str| (key.to_owned(), value.to_owned());
        let labels = BTreeMap::from([
            label("alertname", &name),
            label("service", &finding.service),
            label("severity", severity.as_str()),
            label("kind", &finding.kind),
        ]);
        let evidence: Vec<&str> = finding.evidence.iter().map(|e| e.text.as_str()).collect();
        let mut annotations =
            BTreeMap::from([label("summary", &finding.summary), label("evidence", &evidence.join("; "))]);
        annotations.extend([
            label("action", &finding.action),
            label("impact", &impact(finding)),
            label("victims", &finding.victims.join(", ")),
        ]);
        annotations.retain(|_, text| !text.is_empty());
        if let Some(sql) = finding.evidence.iter().find_map(|e| e.sql.as_deref()) {
            annotations.insert("sql".into(), sql.into());
        }
        if let Some(trace) = finding.evidence.iter().find_map(|e| e.trace_id.as_deref()) {
            annotations.insert("trace_id".into(), trace.into());
        }
        Self {
            alert_id: format!("alert-{}", finding.finding_id),
            name,
            state,
            service: finding.service.clone(),
            severity,
            finding_id: Some(finding.finding_id.clone()),
            summary: finding.summary.clone(),
            starts_unix_nano: finding.onset_unix_nano,
            ends_unix_nano: finding.closed_unix_nano,
            labels,
            annotations,
        }
    }
}

/// Whom it costs what; empty when nobody anything.
fn impact(finding: &FindingView) -> String {
    let Some(entry) = finding.entry.as_ref().filter(|_| finding.impact_ratio > 0.0) else { return String::new() };
    format!("{:.0} % of the requests at {entry}, {:.1} ms a request", finding.impact_ratio * 100.0, finding.impact_ms)
}
