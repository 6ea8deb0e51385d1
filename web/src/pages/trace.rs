//! `/traces/{id}`: the waterfall, with self times and the critical path; `?span=` opens one span.

use std::collections::HashMap;

use askama::Template;
use axum::{
    extract::{Path, Query, State},
    response::Response,
};
use serde::Deserialize;
use serde_json::Value;
use weir_analyzer::critical_path::Undecided;

use super::{Pages, format, html, integer, text};
use crate::{logs, trace::Trace};

/// Rows drawn; a longer trace is cut, and says so.
const MAX_ROWS: usize = 2_000;

/// Deeper spans are not indented further.
const MAX_DEPTH: usize = 12;

/// Colours of services.
const COLOURS: usize = 8;

/// Width of a lane in its own units.
const LANE: f64 = 1_000.0;

/// The columns that the panel of a span shows beside its attributes.
const FACTS: [&str; 23] = [
    "span_id",
    "parent_span_id",
    "trace_state",
    "start_unix_nano",
    "duration_ns",
    "self_time_ns",
    "slack_ns",
    "drag_ns",
    "skew_ns",
    "undecided",
    "instance",
    "kind",
    "status",
    "status_message",
    "scope_name",
    "scope_version",
    "schema_url",
    "flags",
    "events",
    "dropped_events_count",
    "links",
    "dropped_links_count",
    "dropped_attributes_count",
];

#[derive(Template)]
#[template(path = "trace.html")]
struct TracePage {
    page: &'static str,
    id: String,
    id_short: String,
    started: String,
    duration: String,
    spans: usize,
    services: usize,
    errors: usize,
    rows: Vec<Row>,
    /// Whether a row has something undecided, or another clock.
    has_notes: bool,
    cut: usize,
    is_cut: bool,
    selected: Option<Selected>,
    logs: Vec<Log>,
    logs_cut: bool,
    logs_error: String,
}

/// A log record of the trace.
struct Log {
    /// After the trace began.
    offset: String,
    service: String,
    severity: String,
    state: &'static str,
    body: String,
    /// The span that it was written in, if it is one of this trace.
    span_id: String,
    operation: String,
    selected: bool,
}

struct Row {
    span_id: String,
    service: String,
    operation: String,
    depth: usize,
    duration: String,
    self_time: String,
    slack: String,
    drag: String,
    error: bool,
    /// Whether it may have run without anybody waiting for it, and what else is undecided.
    is_async: bool,
    undecided: &'static str,
    /// What was added to its clock; empty for nothing.
    clock: String,
    state: &'static str,
    selected: bool,
    colour: usize,
    x: String,
    width: String,
    critical: Vec<(String, String)>,
}

struct Selected {
    span_id: String,
    service: String,
    operation: String,
    fields: Vec<(String, String)>,
}

#[derive(Deserialize)]
pub(super) struct Selection {
    span: Option<String>,
}

pub(super) async fn page(
    State(pages): State<Pages>,
    Path(id): Path<String>,
    Query(selection): Query<Selection>,
) -> Response {
    match Trace::read(&pages.deps, &id).await {
        Ok(trace) => {
            let mut page = view(&trace, selection.span.as_deref());
            match logs::of_trace(&pages.deps, trace.id()).await {
                Ok(found) => {
                    page.logs_cut = found.next.is_some();
                    page.logs = log_rows(&found.logs, &trace, selection.span.as_deref());
                }
                Err(error) => page.logs_error = error.message,
            }
            html(&page)
        }
        Err(error) => error.into_page(),
    }
}

fn log_rows(records: &[Value], trace: &Trace, selected: Option<&str>) -> Vec<Log> {
    let (start, _) = trace.range();
    let operations: HashMap<String, &str> = trace
        .nodes
        .iter()
        .zip(&trace.spans)
        .map(|(node, span)| (hex::encode(node.span_id), span["operation"].as_str().unwrap_or_default()))
        .collect();
    let row = |record: &Value| {
        let span_id = text(record, "span_id");
        let number = integer(record, "severity_number");
        Log {
            offset: format::ns(integer(record, "time_unix_nano") - start),
            service: text(record, "service"),
            severity: Some(text(record, "severity"))
                .filter(|s| !s.is_empty())
                .unwrap_or_else(|| severity(number).into()),
            // 13 is WARN, 17 is ERROR
            state: if number >= 17 {
                "unhealthy"
            } else if number >= 13 {
                "degraded"
            } else {
                ""
            },
            body: text(record, "body"),
            operation: operations.get(&span_id).copied().unwrap_or_default().to_owned(),
            selected: selected == Some(span_id.as_str()),
            span_id: if operations.contains_key(&span_id) { span_id } else { String::new() },
        }
    };
    records.iter().map(row).collect()
}

/// OpenTelemetry's short names of severity numbers.
fn severity(number: i64) -> &'static str {
    match number {
        1..=4 => "TRACE",
        5..=8 => "DEBUG",
        9..=12 => "INFO",
        13..=16 => "WARN",
        17..=20 => "ERROR",
        21..=24 => "FATAL",
        _ => "",
    }
}

fn view(trace: &Trace, selected: Option<&str>) -> TracePage {
    let (start, end) = trace.range();
    let drawing = Drawing::of(trace, selected);
    let rows: Vec<Row> = trace.tree.iter().take(MAX_ROWS).map(|(index, depth)| drawing.row(*index, *depth)).collect();
    TracePage {
        page: "/traces",
        id_short: trace.id().chars().take(12).collect(),
        id: trace.id().to_owned(),
        started: format::moment(start),
        duration: format::ns(end - start),
        spans: trace.spans.len(),
        services: drawing.services.len(),
        errors: trace.spans.iter().filter(|span| span["status"] == "error").count(),
        has_notes: rows.iter().any(|row| !row.undecided.is_empty() || !row.clock.is_empty()),
        rows,
        cut: trace.tree.len().saturating_sub(MAX_ROWS),
        is_cut: trace.is_cut,
        selected: selected.and_then(|id| trace.spans.iter().find(|span| span["span_id"] == id)).map(panel),
        logs: Vec::new(),
        logs_cut: false,
        logs_error: String::new(),
    }
}

/// What the rows of a trace share.
struct Drawing<'a> {
    trace: &'a Trace,
    selected: Option<&'a str>,
    scale: Scale,
    /// In order, each with a colour of its own.
    services: Vec<&'a str>,
    /// Where each span is on the critical path.
    critical: HashMap<usize, Vec<(String, String)>>,
}

impl<'a> Drawing<'a> {
    fn of(trace: &'a Trace, selected: Option<&'a str>) -> Self {
        let (start, end) = trace.range();
        let scale = Scale { start, length: (end - start).max(1) as f64 };
        let mut services: Vec<&str> = trace.nodes.iter().map(|n| n.service.as_str()).collect();
        services.sort_unstable();
        services.dedup();
        let mut critical: HashMap<usize, Vec<(String, String)>> = HashMap::new();
        for segment in &trace.critical_path {
            let place = scale.place(segment.start_unix_nano, segment.end_unix_nano);
            critical.entry(segment.span).or_default().push(place);
        }
        Self { trace, selected, scale, services, critical }
    }

    fn row(&self, index: usize, depth: usize) -> Row {
        let trace = self.trace;
        let (span, node, timing) = (&trace.spans[index], &trace.nodes[index], &trace.timings[index]);
        let (x, width) = self.scale.place(timing.start_unix_nano, timing.end_unix_nano);
        let error = span["status"] == "error";
        Row {
            span_id: hex::encode(node.span_id),
            service: node.service.clone(),
            operation: text(span, "operation"),
            depth: depth.min(MAX_DEPTH),
            duration: format::ns(node.end - node.start),
            self_time: format::ns(timing.self_time_ns),
            slack: timing.slack_ns.map_or_else(|| format::NONE.to_owned(), format::ns),
            drag: format::ns(timing.drag_ns),
            error,
            is_async: timing.undecided.is_some_and(Undecided::is_async),
            undecided: timing.undecided.map_or("", said),
            clock: clock(timing.skew_ns),
            state: if error { "unhealthy" } else { "" },
            selected: self.selected == Some(hex::encode(node.span_id).as_str()),
            colour: self.services.binary_search(&node.service.as_str()).unwrap_or(0) % COLOURS,
            x,
            width,
            critical: self.critical.get(&index).cloned().unwrap_or_default(),
        }
    }
}

/// What spans alone do not tell, for people.
fn said(undecided: Undecided) -> &'static str {
    match undecided {
        Undecided::Messaging => "async: by a message",
        Undecided::StartsAfterParent => "async: after its parent",
        Undecided::OutlivesParent => "async? outlives its parent",
        Undecided::CoversSibling => "around its sibling?",
        Undecided::ParentMissing => "parent missing",
        Undecided::Circle => "circle of parents",
        Undecided::Duplicate => "sent twice",
    }
}

fn clock(skew_ns: i64) -> String {
    match skew_ns {
        0 => String::new(),
        ahead if ahead < 0 => format!("clock −{}", format::ns(-ahead)),
        behind => format!("clock +{}", format::ns(behind)),
    }
}

struct Scale {
    start: i64,
    length: f64,
}

impl Scale {
    fn place(&self, from: i64, to: i64) -> (String, String) {
        let x = (from - self.start) as f64 / self.length * LANE;
        let width = ((to - from) as f64 / self.length * LANE).max(1.0);
        (format!("{x:.1}"), format!("{width:.1}"))
    }
}

fn panel(span: &Value) -> Selected {
    let said = FACTS.iter().filter(|key| !span[**key].is_null());
    let mut fields: Vec<(String, String)> = said.map(|key| ((*key).to_owned(), readable(key, &span[*key]))).collect();
    for map in ["attributes", "scope_attributes", "resource_attributes"] {
        let entries = span[map].as_object().into_iter().flatten();
        fields.extend(entries.map(|(key, value)| (key.clone(), readable(key, value))));
    }
    Selected {
        span_id: text(span, "span_id"),
        service: text(span, "service"),
        operation: text(span, "operation"),
        fields,
    }
}

fn readable(key: &str, value: &Value) -> String {
    match value {
        Value::Number(number) if key.ends_with("_unix_nano") => {
            number.as_i64().map_or_else(|| number.to_string(), format::moment)
        }
        Value::Number(number) if key.ends_with("_ns") => number.as_i64().map_or_else(|| number.to_string(), format::ns),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}
