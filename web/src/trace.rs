//! [`Trace`]: one trace read whole, with self times and the critical path.

use std::{cmp::Reverse, collections::HashSet};

use arrow::record_batch::RecordBatch;
use serde::{Serialize, Serializer, ser::SerializeStruct};
use serde_json::{Value, json};
use weir_analyzer::critical_path::{Segment, SpanNode, Timeline, Timing, Undecided};
use weir_store::{TracePlace, render};

use crate::{deps::Deps, error::ApiError};

/// A trace as it is stored, by start.
pub struct Trace {
    id: String,
    /// Every column of each span, and its timing.
    pub spans: Vec<Value>,
    /// The spans again, as the critical path wants them.
    pub nodes: Vec<SpanNode>,
    /// What the critical path says of each.
    pub timings: Vec<Timing>,
    /// Disjoint pieces that add up to the root's duration.
    pub critical_path: Vec<Segment>,
    /// The places of the spans in the order of a walk down the tree, each with its depth. A span whose
    /// parent is not in the trace is a root; one in a circle of parents comes last.
    pub tree: Vec<(usize, usize)>,
    /// Whether it was too large to be read whole: the earliest spans are here.
    pub is_cut: bool,
    /// While it is here, it is one of the few that are.
    _place: Option<TracePlace>,
}

impl Trace {
    /// The trace with this id out of its rows, if there are any. A span that was sent twice is stored
    /// twice and is here once.
    #[must_use]
    pub fn from_rows(id: &str, batches: &[RecordBatch]) -> Option<Self> {
        let mut seen = HashSet::new();
        let mut spans: Vec<Value> = batches.iter().flat_map(render::spans_to_json).collect();
        spans.retain(|span| seen.insert(identity(span)));
        spans.sort_by_key(|span| (span["start_unix_nano"].as_i64(), Reverse(span["duration_ns"].as_i64())));
        let nodes: Vec<SpanNode> = spans.iter().map(node).collect();
        let timeline = Timeline::of(&nodes);
        let (tree, (critical_path, timings)) = (timeline.order(), timeline.whole());
        for (span, timing) in spans.iter_mut().zip(&timings) {
            add_timing(span, timing);
        }
        let id = id.to_ascii_lowercase();
        let trace = Self { id, spans, nodes, timings, critical_path, tree, is_cut: false, _place: None };
        (!trace.spans.is_empty()).then_some(trace)
    }

    /// Reads the trace with this id, 32 hex digits.
    pub(crate) async fn read(deps: &Deps, id: &str) -> Result<Self, ApiError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(id, &mut bytes)
            .map_err(|_| ApiError::bad_request(format!("{id:?} is not a trace id: 32 hex digits are")))?;
        let rows = deps.store.trace(bytes).await?;
        let trace = Self::from_rows(id, &rows.batches)
            .ok_or_else(|| ApiError::not_found(format!("trace {id} is not in the store")))?;
        Ok(Self { is_cut: rows.is_cut, _place: Some(rows.place), ..trace })
    }

    /// 32 lower-case hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// From the first start to the last end, by the root's clock.
    #[must_use]
    pub fn range(&self) -> (i64, i64) {
        let start = self.timings.iter().map(|timing| timing.start_unix_nano).min().unwrap_or_default();
        (start, self.timings.iter().map(|timing| timing.end_unix_nano).max().unwrap_or(start))
    }
}

/// As the API and `weir trace --json` answer it.
impl Serialize for Trace {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let segment = |s: &Segment| json!({"span_id": hex::encode(s.span_id), "start_unix_nano": s.start_unix_nano, "end_unix_nano": s.end_unix_nano});
        let path: Vec<Value> = self.critical_path.iter().map(segment).collect();
        let mut json = serializer.serialize_struct("Trace", 4)?;
        json.serialize_field("trace_id", &self.id)?;
        json.serialize_field("is_cut", &self.is_cut)?;
        json.serialize_field("spans", &self.spans)?;
        json.serialize_field("critical_path", &path)?;
        json.end()
    }
}

/// Times of a span as recorded stay as they are; `skew_ns` says what was added to them for the path.
fn add_timing(span: &mut Value, timing: &Timing) {
    span["self_time_ns"] = timing.self_time_ns.into();
    span["critical_ns"] = timing.critical_ns.into();
    span["slack_ns"] = timing.slack_ns.into();
    span["drag_ns"] = timing.drag_ns.into();
    span["skew_ns"] = timing.skew_ns.into();
    span["async"] = timing.undecided.is_some_and(Undecided::is_async).into();
    span["undecided"] = timing.undecided.map(Undecided::name).into();
}

/// What tells an exact duplicate from another span with the same id (Zipkin's two sides share one).
fn identity(span: &Value) -> [String; 5] {
    ["span_id", "start_unix_nano", "duration_ns", "kind", "service"].map(|key| span[key].to_string())
}

fn node(span: &Value) -> SpanNode {
    let id = |key: &str| {
        let mut bytes = [0; 8];
        hex::decode_to_slice(span[key].as_str()?, &mut bytes).ok().map(|()| bytes)
    };
    let text = |key: &str| span[key].as_str().unwrap_or_default().to_owned();
    let start = span["start_unix_nano"].as_i64().unwrap_or_default();
    SpanNode {
        span_id: id("span_id").unwrap_or_default(),
        parent: id("parent_span_id"),
        start,
        end: start.saturating_add(span["duration_ns"].as_i64().unwrap_or_default()),
        kind: text("kind"),
        service: text("service"),
        instance: text("instance"),
        host: span["resource_attributes"]["host.name"].as_str().unwrap_or_default().to_owned(),
        operation: text("operation"),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::array::{ArrayRef, BinaryArray, Int64Array, StringArray};

    use super::*;

    #[test]
    fn a_span_sent_twice_is_there_once_and_two_sides_with_one_id_are_both_there() {
        let span_id: [&[u8]; 4] = [&[1; 8], &[1; 8], &[1; 8], &[2; 8]];
        let columns: [(&str, ArrayRef); 5] = [
            ("span_id", Arc::new(BinaryArray::from_iter_values(span_id))),
            ("start_unix_nano", Arc::new(Int64Array::from(vec![5, 5, 6, 4]))),
            ("duration_ns", Arc::new(Int64Array::from(vec![9, 9, 7, 1]))),
            ("kind", Arc::new(StringArray::from(vec!["client", "client", "server", "internal"]))),
            ("service", Arc::new(StringArray::from(vec!["a", "a", "b", "a"]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let trace = Trace::from_rows("AB", &[rows]).unwrap();
        let kinds: Vec<_> = trace.nodes.iter().map(|node| node.kind.as_str()).collect();
        assert_eq!(kinds, ["internal", "client", "server"]);
        assert_eq!((trace.id(), trace.spans[0]["self_time_ns"].as_i64()), ("ab", Some(1)));
        assert!(Trace::from_rows("ab", &[]).is_none());
    }

    #[test]
    fn spans_say_what_the_critical_path_does() {
        let span_id: [&[u8]; 3] = [&[1; 8], &[2; 8], &[3; 8]];
        let parents: [Option<&[u8]>; 3] = [None, Some(&[1; 8]), Some(&[2; 8])];
        let columns: [(&str, ArrayRef); 6] = [
            ("span_id", Arc::new(BinaryArray::from_iter_values(span_id))),
            ("parent_span_id", Arc::new(BinaryArray::from_iter(parents))),
            ("start_unix_nano", Arc::new(Int64Array::from(vec![100, 250, 500]))),
            ("duration_ns", Arc::new(Int64Array::from(vec![100, 60, 10]))),
            ("kind", Arc::new(StringArray::from(vec!["client", "server", "internal"]))),
            ("service", Arc::new(StringArray::from(vec!["a", "b", "b"]))),
        ];
        let rows = RecordBatch::try_from_iter(columns).unwrap();
        let trace = Trace::from_rows("ab", &[rows]).unwrap();
        let json = serde_json::to_value(&trace).unwrap();
        let said = |place: usize, key: &str| json["spans"][place][key].clone();
        assert_eq!(
            (said(1, "skew_ns"), said(1, "slack_ns"), said(1, "drag_ns")),
            (json!(-130), json!(0), json!(60)),
            "centred in its caller"
        );
        assert_eq!((said(2, "async"), said(2, "undecided")), (json!(true), json!("starts_after_parent")));
        assert_eq!((said(2, "slack_ns"), said(1, "start_unix_nano")), (Value::Null, json!(250)));
        assert_eq!(json["critical_path"][1]["start_unix_nano"], 120, "by the root's clock");
        assert_eq!((trace.range(), trace.tree.len()), ((100, 380), 3));
    }
}
