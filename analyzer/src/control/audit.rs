//! [`Change`]: what changed, who changed it and why, as rows of `policy_changes`.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BooleanArray, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use weir_policy::Policy;
use weir_schema::{Batch, Table, UnixNanos};

use super::Controller;

/// The author of what nobody ordered.
pub(super) const CONTROLLER: &str = "controller";

/// The actuator of what is set by hand.
pub(super) const OVERRIDE: &str = "override";

/// One change for the audit.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Change {
    pub(super) service: String,
    pub(super) actuator: &'static str,
    pub(super) old: Option<String>,
    pub(super) new: Option<String>,
    pub(super) author: String,
    pub(super) reason: String,
    pub(super) finding_id: Option<String>,
}

impl Change {
    /// The controller lifts what is in force for a service.
    pub(super) fn lifted(service: &str, old: &Policy, reason: &str) -> Self {
        Self {
            service: service.to_owned(),
            actuator: actuator(old),
            old: Some(describe(old)),
            new: None,
            author: CONTROLLER.to_owned(),
            reason: reason.to_owned(),
            finding_id: None,
        }
    }

    /// What was set by hand ends.
    pub(super) fn override_over(service: String, gone: &Policy, author: String, reason: &str) -> Self {
        let (actuator, old, reason) = (OVERRIDE, Some(describe(gone)), reason.to_owned());
        Self { service, actuator, old, new: None, author, reason, finding_id: None }
    }
}

impl Controller {
    pub(super) fn note(&mut self, change: Change) {
        self.pending.push(change);
    }

    pub(super) fn audit(&self, changes: &[Change], now: UnixNanos) -> Batch {
        let text = |value: fn(&Change) -> Option<&str>| {
            Arc::new(changes.iter().map(value).collect::<StringArray>()) as ArrayRef
        };
        let sequence = i64::try_from(self.current.sequence).unwrap_or(i64::MAX);
        let columns: Vec<ArrayRef> = vec![
            Arc::new(Int64Array::from(vec![now; changes.len()])),
            Arc::new(Int64Array::from(vec![sequence; changes.len()])),
            text(|c| Some(&c.service)),
            text(|_| None),
            text(|c| Some(c.actuator)),
            text(|c| c.old.as_deref()),
            text(|c| c.new.as_deref()),
            text(|c| Some(&c.author)),
            text(|c| Some(&c.reason)),
            text(|c| c.finding_id.as_deref()),
            Arc::new(BooleanArray::from(vec![self.config.dry_run; changes.len()])),
        ];
        let table = Table::PolicyChanges;
        let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
        Batch { table, rows }
    }
}

pub(super) fn actuator(policy: &Policy) -> &'static str {
    if policy.concurrency_limit.is_some() {
        "concurrency_limit"
    } else if policy.rate_limit.is_some() {
        "rate_limit"
    } else {
        "breaker"
    }
}

pub(super) fn describe(policy: &Policy) -> String {
    let limit = policy.concurrency_limit.map(|l| format!("{} in flight", l.limit));
    let rate = policy.rate_limit.map(|r| format!("{:.1}/s", r.rate_per_s()));
    let breaker = policy.breaker.map(|b| format!("breaker at {:.0} % errors", b.error_ratio() * 100.0));
    [limit, rate, breaker].into_iter().flatten().collect::<Vec<_>>().join(", ")
}
