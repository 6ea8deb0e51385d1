//! Findings as rows of the table `findings`: one each time a finding opens or closes.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, Float64Array, Int64Array, StringArray},
    record_batch::RecordBatch,
};
use serde_json::json;
use weir_schema::{Batch, Table, UnixNanos};

use crate::snapshot::{FindingState, FindingView};

pub(crate) fn batch(findings: &[FindingView], time: UnixNanos) -> Batch {
    let text = |value: fn(&FindingView) -> Option<String>| {
        Arc::new(findings.iter().map(value).collect::<StringArray>()) as ArrayRef
    };
    let double = |value: fn(&FindingView) -> f64| {
        Arc::new(Float64Array::from_iter_values(findings.iter().map(value))) as ArrayRef
    };
    let state = |finding: &FindingView| match finding.state {
        FindingState::Open => "open",
        FindingState::Closed => "closed",
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(Int64Array::from(vec![time; findings.len()])),
        text(|f| Some(f.finding_id.clone())),
        Arc::new(StringArray::from_iter_values(findings.iter().map(state))),
        text(|f| Some(f.service.clone())),
        text(|f| f.operation.clone()),
        text(|f| Some(f.kind.clone())),
        Arc::new(Int64Array::from_iter_values(findings.iter().map(|f| f.onset_unix_nano))),
        double(|f| f.score),
        double(|f| f.confidence),
        text(|f| Some(f.summary.clone())),
        text(|f| Some(details(f))),
    ];
    let table = Table::Findings;
    let rows = RecordBatch::try_new(table.schema(), columns).expect("the columns above are the table's");
    Batch { table, rows }
}

/// What has no column of its own.
pub(crate) fn details(finding: &FindingView) -> String {
    let FindingView { standing, evidence, victims, entry, impact_ms, impact_ratio, instance, peer, action, .. } =
        finding;
    json!({
        "standing": standing,
        "evidence": evidence,
        "victims": victims,
        "entry": entry,
        "impact_ms": impact_ms,
        "impact_ratio": impact_ratio,
        "instance": instance,
        "peer": peer,
        "action": action,
    })
    .to_string()
}
