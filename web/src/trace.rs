//! [`Trace`]: one trace read whole, with self times and the critical path.

use serde_json::{Value, json};
use weir_analyzer::critical_path::{Segment, SpanNode, critical_path, self_times};
use weir_store::render;

use crate::{deps::Deps, error::ApiError};

/// A trace as it is stored, by start.
pub(crate) struct Trace {
    pub(crate) id: String,
    /// Every column of each span, and `self_time_ns`.
    pub(crate) spans: Vec<Value>,
    pub(crate) nodes: Vec<SpanNode>,
    pub(crate) critical_path: Vec<Segment>,
}

impl Trace {
    /// Reads the trace with this id, 32 hex digits.
    pub(crate) async fn read(deps: &Deps, id: &str) -> Result<Self, ApiError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(id, &mut bytes)
            .map_err(|_| ApiError::bad_request(format!("{id:?} is not a trace id: 32 hex digits are")))?;
        let batches = deps.store.trace(bytes).await?;
        let mut spans: Vec<Value> = batches.iter().flat_map(render::to_json_rows).collect();
        if spans.is_empty() {
            return Err(ApiError::not_found(format!("trace {id} is not in the store")));
        }
        // a span that was sent twice is stored twice and shown once
        spans.sort_by_key(|span| (span["start_unix_nano"].as_i64(), span["span_id"].as_str().map(str::to_owned)));
        spans.dedup_by(|a, b| {
            a["span_id"] == b["span_id"] && a["duration_ns"] == b["duration_ns"] && a["kind"] == b["kind"]
        });
        let nodes: Vec<SpanNode> = spans.iter().map(node).collect();
        for (span, own) in spans.iter_mut().zip(self_times(&nodes)) {
            span["self_time_ns"] = own.into();
        }
        let critical_path = critical_path(&nodes);
        Ok(Self { id: id.to_ascii_lowercase(), spans, nodes, critical_path })
    }

    /// As the API answers it.
    pub(crate) fn to_json(&self) -> Value {
        let segment = |s: &Segment| json!({"span_id": hex::encode(s.span_id), "start_unix_nano": s.start_unix_nano, "end_unix_nano": s.end_unix_nano});
        let path: Vec<Value> = self.critical_path.iter().map(segment).collect();
        json!({"trace_id": self.id, "spans": self.spans, "critical_path": path})
    }
}

fn node(span: &Value) -> SpanNode {
    let id = |key: &str| {
        let mut bytes = [0; 8];
        let text = span.get(key)?.as_str()?;
        hex::decode_to_slice(text, &mut bytes).ok().map(|()| bytes)
    };
    let text = |key: &str| span.get(key).and_then(Value::as_str).unwrap_or_default().to_owned();
    let number = |key: &str| span.get(key).and_then(Value::as_i64).unwrap_or_default();
    let start = number("start_unix_nano");
    SpanNode {
        span_id: id("span_id").unwrap_or_default(),
        parent: id("parent_span_id"),
        start,
        end: start.saturating_add(number("duration_ns")),
        kind: text("kind"),
        service: text("service"),
    }
}
