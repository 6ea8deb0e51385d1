//! `weir trace ID`: one trace as a waterfall in the terminal, or as JSON with its critical path.

use std::collections::{HashMap, HashSet};

use serde_json::{Value, json};
use weir_analyzer::critical_path::{Segment, SpanNode, critical_path, self_times};
use weir_store::render;

use crate::{cli::TraceArgs, exit::Exit, output, remote::Place};

/// Width of the bars.
const BAR: usize = 40;

/// A span as the waterfall needs it.
struct Span {
    node: SpanNode,
    row: serde_json::Map<String, Value>,
    self_time_ns: i64,
}

/// Runs `weir trace`.
///
/// # Errors
/// An id that is not one, a store that cannot be reached, or a trace that is not there.
pub async fn run(args: TraceArgs) -> Result<Exit, anyhow::Error> {
    let id = args.id.to_ascii_lowercase();
    let well_formed = id.len() == 32 && id.bytes().all(|b| b.is_ascii_hexdigit());
    anyhow::ensure!(well_formed, "{:?} is not a trace id: 32 hex digits are", args.id);
    let place = Place::open_existing(&args.target).await?;
    let statement = format!("SELECT * FROM spans WHERE trace_id = '{id}' ORDER BY start_unix_nano, duration_ns DESC");
    let batches = place.query(&statement).await?.collect().await?;
    place.close().await?;
    let spans = distinct(batches.iter().flat_map(render::to_json_rows).collect());
    anyhow::ensure!(!spans.is_empty(), "trace {id} is not in the store");
    let path = critical_path(&spans.iter().map(|s| s.node.clone()).collect::<Vec<_>>());
    if args.json {
        output::line(&to_json(&id, &spans, &path).to_string())?;
    } else {
        print(&id, &spans, &path)?;
    }
    Ok(Exit::Ok)
}

/// Exact duplicates are shown once.
fn distinct(rows: Vec<Value>) -> Vec<Span> {
    let mut seen = HashSet::new();
    let mut spans: Vec<Span> = rows
        .into_iter()
        .filter_map(|row| if let Value::Object(row) = row { Some(row) } else { None })
        .filter(|row| seen.insert((text(row, "span_id"), number(row, "start_unix_nano"), text(row, "service"))))
        .filter_map(|row| Some(Span { node: node(&row)?, row, self_time_ns: 0 }))
        .collect();
    let times = self_times(&spans.iter().map(|s| s.node.clone()).collect::<Vec<_>>());
    for (span, time) in spans.iter_mut().zip(times) {
        span.self_time_ns = time;
    }
    spans
}

fn node(row: &serde_json::Map<String, Value>) -> Option<SpanNode> {
    let id = |key| {
        let mut bytes = [0; 8];
        hex::decode_to_slice(text(row, key), &mut bytes).ok().map(|()| bytes)
    };
    let start = number(row, "start_unix_nano");
    Some(SpanNode {
        span_id: id("span_id")?,
        parent: id("parent_span_id"),
        start,
        end: start + number(row, "duration_ns"),
        kind: text(row, "kind"),
        service: text(row, "service"),
    })
}

fn text(row: &serde_json::Map<String, Value>, key: &str) -> String {
    row.get(key).and_then(Value::as_str).unwrap_or_default().to_owned()
}

fn number(row: &serde_json::Map<String, Value>, key: &str) -> i64 {
    row.get(key).and_then(Value::as_i64).unwrap_or_default()
}

fn to_json(id: &str, spans: &[Span], path: &[Segment]) -> Value {
    let rows = spans.iter().map(|span| {
        let mut row = span.row.clone();
        row.insert("self_time_ns".into(), span.self_time_ns.into());
        Value::Object(row)
    });
    let path = path.iter().map(|segment| {
        json!({"span_id": hex::encode(segment.span_id), "start_unix_nano": segment.start_unix_nano, "end_unix_nano": segment.end_unix_nano})
    });
    json!({"trace_id": id, "spans": rows.collect::<Vec<_>>(), "critical_path": path.collect::<Vec<_>>()})
}

fn print(id: &str, spans: &[Span], path: &[Segment]) -> Result<(), anyhow::Error> {
    let start = spans.iter().map(|s| s.node.start).min().unwrap_or_default();
    let end = spans.iter().map(|s| s.node.end).max().unwrap_or_default();
    let critical: HashSet<_> = path.iter().map(|segment| segment.span_id).collect();
    let depths = depths(spans);
    output::line(&format!(
        "trace {id}: {} spans, {:.3} ms; █ on the critical path, ░ beside it",
        spans.len(),
        ms(end - start)
    ))?;
    for (index, depth) in in_tree_order(spans, &depths) {
        let span = &spans[index];
        let on_path = critical.contains(&span.node.span_id);
        let name = format!("{:indent$}{} {}", "", span.node.service, text(&span.row, "operation"), indent = 2 * depth);
        let failed = if text(&span.row, "status") == "error" { " error" } else { "" };
        let bar = bar(span.node.start - start, span.node.end - start, end - start, on_path);
        let (total, own) = (ms(span.node.end - span.node.start), ms(span.self_time_ns));
        output::line(&format!("{name:<48.48} {bar} {total:>10.3} ms  self {own:.3} ms{failed}"))?;
    }
    Ok(())
}

fn depths(spans: &[Span]) -> Vec<usize> {
    let places: HashMap<_, _> = spans.iter().enumerate().map(|(i, s)| (s.node.span_id, i)).collect();
    let depth = |mut index: usize| {
        let mut depth = 0;
        while let Some(parent) = spans[index].node.parent.and_then(|p| places.get(&p)) {
            depth += 1;
            index = *parent;
            if depth > spans.len() {
                return 0; // a cycle of parents: shown flat
            }
        }
        depth
    };
    (0..spans.len()).map(depth).collect()
}

/// Children below their parent, by start.
fn in_tree_order(spans: &[Span], depths: &[usize]) -> Vec<(usize, usize)> {
    let mut children: HashMap<Option<[u8; 8]>, Vec<usize>> = HashMap::new();
    for (index, span) in spans.iter().enumerate() {
        let parent = span.node.parent.filter(|_| depths[index] > 0);
        children.entry(parent).or_default().push(index);
    }
    let mut order = Vec::with_capacity(spans.len());
    let mut stack: Vec<usize> = children.remove(&None).unwrap_or_default().into_iter().rev().collect();
    while let Some(index) = stack.pop() {
        order.push((index, depths[index]));
        let below = children.remove(&Some(spans[index].node.span_id)).unwrap_or_default();
        stack.extend(below.into_iter().rev());
    }
    order
}

fn bar(start: i64, end: i64, whole: i64, on_path: bool) -> String {
    let column = |at: i64| (at as f64 / whole.max(1) as f64 * BAR as f64) as usize;
    let from = column(start).min(BAR - 1);
    let to = column(end).clamp(from + 1, BAR);
    let mark = if on_path { "█" } else { "░" };
    format!("{}{}{}", " ".repeat(from), mark.repeat(to - from), " ".repeat(BAR - to))
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(id: &str, parent: Option<&str>, start: i64) -> Value {
        json!({"span_id": id, "parent_span_id": parent, "start_unix_nano": start, "duration_ns": 10, "service": "a", "operation": "o"})
    }

    #[test]
    fn duplicates_go_and_children_stand_below_their_parent() {
        let (root, child) = ("0000000000000001", "0000000000000002");
        let spans = distinct(vec![
            row(root, None, 0),
            row(root, None, 0),
            row("0000000000000003", None, 5),
            row(child, Some(root), 6),
        ]);
        let order: Vec<_> =
            in_tree_order(&spans, &depths(&spans)).into_iter().map(|(i, d)| (spans[i].node.span_id[7], d)).collect();
        assert_eq!(order, [(1, 0), (2, 1), (3, 0)]);
    }

    #[test]
    fn a_bar_is_never_empty_and_never_too_long() {
        assert_eq!(bar(0, 0, 100, true).chars().filter(|c| *c == '█').count(), 1);
        assert_eq!(bar(0, 100, 100, false).chars().count(), BAR);
    }
}
