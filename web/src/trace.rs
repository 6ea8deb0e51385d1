//! [`Trace`]: one trace read whole, with self times and the critical path.

use std::{
    cmp::Reverse,
    collections::{HashMap, HashSet},
};

use arrow::record_batch::RecordBatch;
use serde_json::{Value, json};
use weir_analyzer::critical_path::{Segment, SpanNode, critical_path, self_times};
use weir_store::render;

use crate::{deps::Deps, error::ApiError};

/// A trace as it is stored, by start.
pub struct Trace {
    id: String,
    /// Every column of each span, and `self_time_ns`.
    pub spans: Vec<Value>,
    /// The spans again, as the critical path wants them.
    pub nodes: Vec<SpanNode>,
    /// Disjoint pieces that add up to the root's duration.
    pub critical_path: Vec<Segment>,
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
        for (span, own) in spans.iter_mut().zip(self_times(&nodes)) {
            span["self_time_ns"] = own.into();
        }
        let critical_path = critical_path(&nodes);
        (!spans.is_empty()).then(|| Self { id: id.to_ascii_lowercase(), spans, nodes, critical_path })
    }

    /// Reads the trace with this id, 32 hex digits.
    pub(crate) async fn read(deps: &Deps, id: &str) -> Result<Self, ApiError> {
        let mut bytes = [0; 16];
        hex::decode_to_slice(id, &mut bytes)
            .map_err(|_| ApiError::bad_request(format!("{id:?} is not a trace id: 32 hex digits are")))?;
        let batches = deps.store.trace(bytes).await?;
        Self::from_rows(id, &batches).ok_or_else(|| ApiError::not_found(format!("trace {id} is not in the store")))
    }

    /// 32 lower-case hex digits.
    #[must_use]
    pub fn id(&self) -> &str {
        &self.id
    }

    /// The places of the spans in the order of a walk down the tree, each with its depth. A span whose
    /// parent is not in the trace is a root; one in a circle of parents comes last.
    #[must_use]
    pub fn tree(&self) -> Vec<(usize, usize)> {
        walk_down(&self.nodes)
    }

    /// As the API and `weir trace --json` answer it.
    #[must_use]
    pub fn to_json(&self) -> Value {
        let segment = |s: &Segment| json!({"span_id": hex::encode(s.span_id), "start_unix_nano": s.start_unix_nano, "end_unix_nano": s.end_unix_nano});
        let path: Vec<Value> = self.critical_path.iter().map(segment).collect();
        json!({"trace_id": self.id, "spans": self.spans, "critical_path": path})
    }
}

/// Puts children below their parent, by start.
fn walk_down(nodes: &[SpanNode]) -> Vec<(usize, usize)> {
    let known: HashMap<[u8; 8], usize> = nodes.iter().enumerate().map(|(i, n)| (n.span_id, i)).collect();
    let mut children: HashMap<usize, Vec<usize>> = HashMap::new();
    let mut stack = Vec::new();
    for (index, node) in nodes.iter().enumerate() {
        match node.parent.and_then(|parent| known.get(&parent)).filter(|parent| **parent != index) {
            Some(parent) => children.entry(*parent).or_default().push(index),
            None => stack.push((index, 0)),
        }
    }
    // the stack gives back the last first
    stack.reverse();
    let mut order = Vec::with_capacity(nodes.len());
    let mut seen = vec![false; nodes.len()];
    while let Some((index, depth)) = stack.pop() {
        seen[index] = true;
        order.push((index, depth));
        stack.extend(children.remove(&index).unwrap_or_default().into_iter().rev().map(|child| (child, depth + 1)));
    }
    order.extend(seen.iter().enumerate().filter(|(_, seen)| !**seen).map(|(index, _)| (index, 0)));
    order
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
    fn children_stand_below_their_parent_and_a_circle_comes_last() {
        let span = |id: u8, parent: Option<u8>| SpanNode {
            span_id: [id; 8],
            parent: parent.map(|parent| [parent; 8]),
            ..SpanNode::default()
        };
        let nodes = [span(1, None), span(3, None), span(4, Some(5)), span(5, Some(4)), span(2, Some(1))];
        assert_eq!(walk_down(&nodes), [(0, 0), (4, 1), (1, 0), (2, 0), (3, 0)]);
    }
}
