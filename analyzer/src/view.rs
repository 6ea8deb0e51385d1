//! From a closed window to the [`Snapshot`] that people see.

use std::collections::BTreeMap;

use hashbrown::HashSet;
use weir_policy::PolicySet;

use crate::{
    estimate,
    findings::Kind,
    reach,
    robust::middle,
    snapshot::{
        BreakerView, ControlView, EdgeView, Estimate, FindingState, FindingView, Health, NodeKind, OperationView,
        Requests, ServiceView, Snapshot,
    },
    spans::{Name, Names},
    window::{EdgeWindow, ServiceWindow, Window},
};

/// 10 min: as long as people look back when they ask where a service went.
const CARRIED_NS: i64 = 600_000_000_000;

pub(crate) fn snapshot(window: &Window, names: &Names) -> Snapshot {
    let seconds = window.length_ns as f64 / 1e9;
    let mut services: Vec<ServiceView> = Vec::new();
    for (name, service) in &window.services {
        let mut view = service_view(service, names, seconds);
        view.service = names.text(*name).to_owned();
        view.health = health(view.own_error_ratio, view.error_ratio);
        services.push(view);
    }
    let mut edges: Vec<EdgeView> = Vec::new();
    for ((caller, callee), edge) in &window.edges {
        edges.push(edge_view(edge, names.text(*caller), names.text(*callee), seconds));
    }
    add_virtual(&mut services, window, names);
    reach::fill(&mut services, &mut edges, window, names);
    services.iter_mut().for_each(|service| service.last_seen_unix_nano = window.end);
    edges.iter_mut().for_each(|edge| edge.last_seen_unix_nano = window.end);
    services.sort_by(|a, b| a.service.cmp(&b.service));
    edges.sort_by(|a, b| (&a.caller, &a.callee).cmp(&(&b.caller, &b.callee)));
    Snapshot {
        time_unix_nano: window.end,
        window_ms: u64::try_from(window.length_ns / 1_000_000).unwrap_or(0),
        services,
        edges,
        requests: Requests::of(window.requests.iter().map(|request| request.named(|name| names.shared(*name)))),
        ..Snapshot::default()
    }
}

/// Colours what open findings accuse, and who suffers from it.
pub(crate) fn judge(snapshot: &mut Snapshot, findings: Vec<FindingView>) {
    snapshot.findings = findings;
    let open = || snapshot.findings.iter().filter(|finding| finding.state == FindingState::Open);
    let accused: HashSet<&str> =
        open().filter(|finding| Kind::accuses(&finding.kind)).map(|finding| finding.service.as_str()).collect();
    let touched: HashSet<&str> =
        open().flat_map(|f| f.victims.iter().chain([&f.service])).map(String::as_str).collect();
    let judged = |name: &str, health: Health| match health {
        Health::Idle => Health::Idle,
        _ if accused.contains(name) => Health::Unhealthy,
        Health::Healthy if touched.contains(name) => Health::Degraded,
        health => health,
    };
    for service in &mut snapshot.services {
        service.bottleneck = accused.contains(service.service.as_str());
        service.health = judged(&service.service, service.health);
    }
    for edge in &mut snapshot.edges {
        edge.health = judged(&edge.callee, edge.health);
    }
}

/// Keeps what had traffic lately and has none in this window: a graph must not lose its nodes when
/// nobody calls for a moment.
pub(crate) fn carry_over(snapshot: &mut Snapshot, before: &Snapshot) {
    let (services, edges) = idle(snapshot, before);
    snapshot.requests.follow(&before.requests);
    snapshot.services.extend(services);
    snapshot.services.sort_by(|a, b| a.service.cmp(&b.service));
    snapshot.edges.extend(edges);
    snapshot.edges.sort_by(|a, b| (&a.caller, &a.callee).cmp(&(&b.caller, &b.callee)));
}

/// What was there before, is not now, and is not yet forgotten.
fn idle(snapshot: &Snapshot, before: &Snapshot) -> (Vec<ServiceView>, Vec<EdgeView>) {
    let services: HashSet<&str> = snapshot.services.iter().map(|s| s.service.as_str()).collect();
    let edges: HashSet<(&str, &str)> = snapshot.edges.iter().map(|e| (e.caller.as_str(), e.callee.as_str())).collect();
    let recent = |seen: i64| snapshot.time_unix_nano.saturating_sub(seen) <= CARRIED_NS;
    let idle_services = before.services.iter().filter(|old| recent(old.last_seen_unix_nano));
    let idle_services = idle_services.filter(|old| !services.contains(old.service.as_str()));
    let idle_edges = before.edges.iter().filter(|old| recent(old.last_seen_unix_nano));
    let idle_edges = idle_edges.filter(|old| !edges.contains(&(old.caller.as_str(), old.callee.as_str())));
    (idle_services.map(idle_service).collect(), idle_edges.map(idle_edge).collect())
}

fn idle_service(old: &ServiceView) -> ServiceView {
    ServiceView {
        service: old.service.clone(),
        kind: old.kind,
        instances: old.instances.clone(),
        limit: old.limit,
        last_seen_unix_nano: old.last_seen_unix_nano,
        estimate: Estimate {
            servers: old.estimate.servers,
            model: "unknown".into(),
            rule: "none".into(),
            reason: Some("no request ended in this window".into()),
            ..Estimate::default()
        },
        ..ServiceView::default()
    }
}

fn idle_edge(old: &EdgeView) -> EdgeView {
    EdgeView {
        caller: old.caller.clone(),
        callee: old.callee.clone(),
        caller_kind: old.caller_kind,
        last_seen_unix_nano: old.last_seen_unix_nano,
        ..EdgeView::default()
    }
}

/// Fills in what is regulated.
pub(crate) fn regulate(snapshot: &mut Snapshot, policy: &PolicySet, control: ControlView) {
    for service in &mut snapshot.services {
        let limit = policy.for_service(&service.service).and_then(|p| p.concurrency_limit);
        service.limit = limit.map(|limit| limit.limit.get());
        if let Some(limit) = limit {
            estimate::limits::under_policy(service, limit.limit.get(), limit.queue);
        }
    }
    for edge in snapshot.edges.iter_mut().filter(|edge| edge.breaker.is_none()) {
        let set = policy.for_service(&edge.callee).and_then(|p| p.breaker);
        edge.breaker = set.map(|_| BreakerView { state: "closed".into(), shed_ratio: 0.0 });
    }
    snapshot.policy = policy.clone();
    snapshot.control = control;
}

fn service_view(service: &ServiceWindow, names: &Names, seconds: f64) -> ServiceView {
    let quantile = |q| service.duration_ms.quantile(q).unwrap_or(0.0);
    let operations = service.operations.iter().map(|((operation, kind), (count, errors, durations))| OperationView {
        operation: names.text(*operation).to_owned(),
        kind: names.text(*kind).to_owned(),
        rate_per_s: *count as f64 / seconds,
        error_ratio: *errors as f64 / (*count).max(1) as f64,
        duration_ms_p50: durations.quantile(0.5).unwrap_or(0.0),
        duration_ms_p95: durations.quantile(0.95).unwrap_or(0.0),
        duration_ms_p99: durations.quantile(0.99).unwrap_or(0.0),
    });
    let mut operations: Vec<OperationView> = operations.collect();
    operations.sort_by(|a, b| (&a.operation, &a.kind).cmp(&(&b.operation, &b.kind)));
    let mut instances: Vec<String> = service.by_instance.keys().map(|name| names.text(*name).to_owned()).collect();
    instances.sort();
    ServiceView {
        rate_per_s: service.requests as f64 / seconds,
        error_ratio: service.errors as f64 / service.requests.max(1) as f64,
        duration_ms_mean: service.busy_ns / 1e6 / (service.requests - service.shed).max(1) as f64,
        duration_ms_p50: quantile(0.5),
        duration_ms_p95: quantile(0.95),
        duration_ms_p99: quantile(0.99),
        estimate: estimate::of(service, names, seconds),
        operations,
        instances,
        in_flight: service.busy_ns / (seconds * 1e9),
        downstream_ms: service.downstream_ms.mean().unwrap_or(0.0),
        own_error_ratio: service.own_errors as f64 / service.requests.max(1) as f64,
        shed_per_s: service.shed as f64 / seconds,
        input_tokens_per_s: service.input_tokens as f64 / seconds,
        output_tokens_per_s: service.output_tokens as f64 / seconds,
        time_to_first_token_ms_p50: service.first_token_ms.quantile(0.5),
        lm: service.lm.clone(),
        ..ServiceView::default()
    }
}

fn edge_view(edge: &EdgeWindow, caller: &str, callee: &str, seconds: f64) -> EdgeView {
    let error_ratio = edge.errors as f64 / edge.calls.max(1) as f64;
    let quantile = |q| edge.duration_ms.quantile(q).unwrap_or(0.0);
    EdgeView {
        caller: caller.to_owned(),
        callee: callee.to_owned(),
        rate_per_s: edge.calls as f64 / seconds,
        error_ratio,
        duration_ms_p50: quantile(0.5),
        duration_ms_p95: quantile(0.95),
        duration_ms_p99: quantile(0.99),
        gap_ms_p50: edge.gap_ms.quantile(0.5),
        critical_share: (edge.waited_ns > 0).then(|| edge.critical_ns as f64 / edge.waited_ns as f64),
        calls_per_request: None,
        caller_kind: edge.caller_kind,
        health: health(0.0, error_ratio),
        breaker: breaker(edge),
        last_seen_unix_nano: 0,
    }
}

/// What spans show of the caller's breaker: that it sheds, and which share.
fn breaker(edge: &EdgeWindow) -> Option<BreakerView> {
    let shed_ratio = edge.shed as f64 / (edge.shed + edge.calls).max(1) as f64;
    (edge.shed > 0).then(|| BreakerView { state: "shedding".into(), shed_ratio })
}

/// Databases, queues, hosts and clients that send no spans are nodes too: what those beside them see, together.
fn add_virtual(services: &mut Vec<ServiceView>, window: &Window, names: &Names) {
    let mut nodes: BTreeMap<Name, (NodeKind, EdgeWindow)> = BTreeMap::new();
    for ((caller, callee), edge) in &window.edges {
        for (name, kind) in [(*callee, edge.kind), (*caller, edge.caller_kind)] {
            if kind != NodeKind::Service && !window.services.contains_key(&name) {
                let (_, seen) = nodes.entry(name).or_insert_with(|| (kind, EdgeWindow::default()));
                seen.merge(edge);
            }
        }
    }
    let seconds = window.length_ns as f64 / 1e9;
    services.extend(nodes.iter().map(|(name, (kind, edge))| virtual_service(names.text(*name), edge, *kind, seconds)));
}

/// A node that has no spans of its own.
fn virtual_service(name: &str, edge: &EdgeWindow, kind: NodeKind, seconds: f64) -> ServiceView {
    let quantile = |q| edge.duration_ms.quantile(q).unwrap_or(0.0);
    let error_ratio = edge.errors as f64 / edge.calls.max(1) as f64;
    ServiceView {
        service: name.to_owned(),
        kind,
        rate_per_s: edge.calls as f64 / seconds,
        error_ratio,
        duration_ms_p50: quantile(0.5),
        duration_ms_p95: quantile(0.95),
        duration_ms_p99: quantile(0.99),
        health: health(0.0, error_ratio),
        estimate: Estimate {
            model: "unknown".into(),
            rule: "none".into(),
            reason: Some("it sends no spans".into()),
            ..Estimate::default()
        },
        ..ServiceView::default()
    }
}

/// Red is for causes; who only passes on the errors of others, or is told to shed, is degraded.
fn health(own_error_ratio: f64, error_ratio: f64) -> Health {
    if own_error_ratio > 0.1 {
        Health::Unhealthy
    } else if error_ratio > 0.01 {
        Health::Degraded
    } else {
        Health::Healthy
    }
}

/// Means over windows, for reports.
pub(crate) fn middle_of(values: &[f64]) -> Option<f64> {
    middle(values)
}
