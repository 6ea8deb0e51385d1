//! `/`: the service graph, its tables, and a panel for one service (`?service=`); live, or of a past
//! time range (`?from=&to=`).

mod panel;

use std::{collections::HashMap, sync::Arc};

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use weir_analyzer::{
    Snapshot,
    snapshot::{BreakerView, EdgeView, FindingState, FindingView, Health, NodeKind, ServiceView},
};

use self::panel::Panel;
use super::{
    Pages,
    format::{self, NONE},
    html,
    layout::{Layout, NODE_HEIGHT, NODE_WIDTH, Topology},
};
use crate::{
    error::ApiError,
    fields::{Fields, TimeRange, now_unix_nano},
    past::past,
};

/// Width of the utilization's track.
const TRACK: f64 = 120.0;

/// From here on a queue grows fast; the bar turns red.
const HOT: f64 = 0.85;

/// Errors worth a word on the node.
const FAILING: f64 = 0.001;

/// Characters of a name that fit a box.
const NAME_LENGTH: usize = 22;

#[derive(Template)]
#[template(path = "graph.html")]
struct GraphPage {
    page: &'static str,
    when: String,
    findings: Vec<Banner>,
    nodes: Vec<Node>,
    edges: Vec<Edge>,
    width: i32,
    height: i32,
    panel: Option<Panel>,
    /// A past range is shown: nothing is live, and nothing is known of queues.
    past: bool,
    from: String,
    to: String,
    close: String,
    error: String,
    otlp_grpc: String,
    otlp_http: String,
}

struct Banner {
    finding_id: String,
    service: String,
    summary: String,
    victims: String,
}

struct Node {
    service: String,
    short: String,
    kind: &'static str,
    label: String,
    href: String,
    x: i32,
    y: i32,
    health: &'static str,
    mark: &'static str,
    bottleneck: bool,
    selected: bool,
    failing: bool,
    rate: String,
    errors: String,
    p50: String,
    p95: String,
    p99: String,
    arrival_rate: String,
    service_time: String,
    servers: String,
    utilization: String,
    fill: i32,
    hot: bool,
    wait_predicted: String,
    wait_observed: String,
    limit: String,
    limit_value: String,
    shed: String,
}

struct Edge {
    caller: String,
    callee: String,
    health: &'static str,
    mark: &'static str,
    failing: bool,
    rate: String,
    errors: String,
    p50: String,
    p95: String,
    p99: String,
    breaker: String,
    path: String,
    label_x: i32,
    label_y: i32,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<Fields>) -> Response {
    let range = TimeRange::of(&fields, now_unix_nano());
    let asked = match &range {
        Ok(Some(range)) => past(&pages.deps, *range).await.map(Arc::new),
        Ok(None) => Ok(pages.deps.snapshot.borrow().clone()),
        Err(error) => Err(ApiError::bad_request(error.message.clone())),
    };
    let (snapshot, error) = match asked {
        Ok(snapshot) => (snapshot, String::new()),
        Err(error) => (Arc::default(), error.message),
    };
    let is_past = !matches!(range, Ok(None));
    let selected = fields.get("service");
    let topology = topology(&snapshot);
    // the layout that is kept is that of the live graph
    let layout = if is_past { Arc::new(Layout::of(&topology)) } else { pages.layouts.layout(topology) };
    let endpoints = &pages.deps.endpoints;
    html(&GraphPage {
        page: "/",
        when: when(&snapshot, range.ok().flatten()),
        findings: banners(&snapshot),
        nodes: nodes(&snapshot, &layout, selected, &fields),
        edges: edges(&snapshot, &layout),
        width: layout.width,
        height: layout.height,
        panel: selected
            .and_then(|name| snapshot.services.iter().find(|s| s.service == name))
            .map(|service| Panel::of(service, &fields, is_past)),
        past: is_past,
        from: fields.get("from").unwrap_or_default().to_owned(),
        to: fields.get("to").unwrap_or_default().to_owned(),
        close: fields.address(&[("service", "")]),
        error,
        otlp_grpc: endpoints.otlp_grpc.clone(),
        otlp_http: endpoints.otlp_http.clone(),
    })
}

fn topology(snapshot: &Snapshot) -> Topology {
    let nodes: Vec<String> = snapshot.services.iter().map(|s| s.service.clone()).collect();
    let places: HashMap<&str, usize> = nodes.iter().enumerate().map(|(i, name)| (name.as_str(), i)).collect();
    let place = |name: &str| places.get(name).copied();
    let edges = snapshot.edges.iter().filter_map(|e| place(&e.caller).zip(place(&e.callee))).collect();
    Topology { edges, nodes }
}

fn when(snapshot: &Snapshot, range: Option<TimeRange>) -> String {
    if let Some(range) = range {
        return format!("{} to {} UTC", format::moment(range.from), format::moment(range.to));
    }
    if snapshot.time_unix_nano == 0 {
        return String::new();
    }
    let seconds = snapshot.window_ms as f64 / 1e3;
    format!("window of {seconds} s that ended {} UTC", format::time_of_day(snapshot.time_unix_nano))
}

fn banners(snapshot: &Snapshot) -> Vec<Banner> {
    let open = snapshot.findings.iter().filter(|finding| finding.state == FindingState::Open);
    let banner = |finding: &FindingView| Banner {
        finding_id: finding.finding_id.clone(),
        service: finding.service.clone(),
        summary: finding.summary.strip_prefix(&finding.service).unwrap_or(&finding.summary).trim().to_owned(),
        victims: finding.victims.join(", "),
    };
    open.map(banner).collect()
}

fn nodes(snapshot: &Snapshot, layout: &Layout, selected: Option<&str>, fields: &Fields) -> Vec<Node> {
    snapshot.services.iter().zip(&layout.corners).map(|(s, corner)| node(s, *corner, selected, fields)).collect()
}

fn node(service: &ServiceView, (x, y): (i32, i32), selected: Option<&str>, fields: &Fields) -> Node {
    let (health, mark) = health(service.health);
    let estimate = &service.estimate;
    let utilization = estimate.utilization;
    let name = &service.service;
    let bottleneck = if service.bottleneck { ", bottleneck" } else { "" };
    let (rate, utilization_text) = (format::rate(service.rate_per_s), format::maybe(utilization));
    Node {
        short: format::short(name, NAME_LENGTH),
        kind: kind(service.kind),
        label: format!("{name}: {health}{bottleneck}, {rate}, utilization {utilization_text}"),
        href: format!("/?{}", fields.address(&[("service", name)])),
        x,
        y,
        health,
        mark,
        bottleneck: service.bottleneck,
        selected: selected == Some(name),
        failing: service.error_ratio > FAILING,
        rate,
        errors: format::percent(service.error_ratio),
        p50: format::ms(service.duration_ms_p50),
        p95: format::ms(service.duration_ms_p95),
        p99: format::ms(service.duration_ms_p99),
        arrival_rate: format::rate(estimate.arrival_rate_per_s),
        service_time: format::maybe_ms(estimate.service_time_ms),
        servers: estimate.servers.map_or_else(|| NONE.into(), |c| c.to_string()),
        utilization: utilization_text,
        fill: utilization.map_or(0, |u| (u.clamp(0.0, 1.0) * TRACK) as i32),
        hot: utilization.is_some_and(|u| u >= HOT),
        wait_predicted: format::maybe_ms(estimate.queue_wait_ms.predicted),
        wait_observed: format::maybe_ms(estimate.queue_wait_ms.observed),
        limit: service.limit.map_or_else(String::new, |limit| format!("limit {limit}")),
        limit_value: service.limit.map_or_else(|| NONE.into(), |limit| limit.to_string()),
        shed: format::rate(service.shed_per_s),
        service: name.clone(),
    }
}

fn edges(snapshot: &Snapshot, layout: &Layout) -> Vec<Edge> {
    let corners: HashMap<&str, (i32, i32)> =
        snapshot.services.iter().map(|s| s.service.as_str()).zip(layout.corners.iter().copied()).collect();
    let corner = |name: &str| corners.get(name).copied();
    snapshot.edges.iter().filter_map(|e| Some(edge(e, corner(&e.caller)?, corner(&e.callee)?))).collect()
}

fn edge(edge: &EdgeView, from: (i32, i32), to: (i32, i32)) -> Edge {
    let (health, mark) = health(edge.health);
    let (path, (label_x, label_y)) = curve(from, to);
    let breaker = |b: &BreakerView| match b.shed_ratio {
        0.0 => b.state.clone(),
        shed => format!("{}, {} shed", b.state, format::percent(shed)),
    };
    Edge {
        caller: edge.caller.clone(),
        callee: edge.callee.clone(),
        health,
        mark,
        failing: edge.error_ratio > FAILING,
        rate: format::rate(edge.rate_per_s),
        errors: format::percent(edge.error_ratio),
        p50: format::ms(edge.duration_ms_p50),
        p95: format::ms(edge.duration_ms_p95),
        p99: format::ms(edge.duration_ms_p99),
        breaker: edge.breaker.as_ref().map_or_else(String::new, breaker),
        path,
        label_x,
        label_y,
    }
}

/// From the right side of the caller to the left side of the callee; calls that go back swing below.
fn curve(from: (i32, i32), to: (i32, i32)) -> (String, (i32, i32)) {
    let middle = NODE_HEIGHT / 2;
    let (x0, y0) = (from.0 + NODE_WIDTH, from.1 + middle);
    let (x1, y1) = (to.0, to.1 + middle);
    if x1 > x0 {
        let bend = (x1 - x0) / 2;
        let path = format!("M{x0} {y0}C{} {y0} {} {y1} {} {y1}", x0 + bend, x1 - bend, x1 - 2);
        // two lines of text stand above the middle
        return (path, ((x0 + x1) / 2, (y0 + y1) / 2 - 18));
    }
    let low = from.1.max(to.1) + NODE_HEIGHT + 24;
    let (left, right) = (to.0 + NODE_WIDTH / 2, from.0 + NODE_WIDTH / 2);
    let (right, left) = if from == to { (right + 30, left - 30) } else { (right, left) };
    let path =
        format!("M{right} {}C{right} {low} {left} {low} {left} {}", from.1 + NODE_HEIGHT, to.1 + NODE_HEIGHT + 2);
    (path, ((left + right) / 2, low - 4))
}

pub(super) fn health(health: Health) -> (&'static str, &'static str) {
    match health {
        Health::Healthy => ("healthy", "●"),
        Health::Degraded => ("degraded", "▲"),
        Health::Unhealthy => ("unhealthy", "■"),
        Health::Idle => ("idle", "○"),
    }
}

fn kind(kind: NodeKind) -> &'static str {
    match kind {
        NodeKind::Service => "service",
        NodeKind::Database => "database",
        NodeKind::Messaging => "messaging",
        NodeKind::External => "external",
    }
}
