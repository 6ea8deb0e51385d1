//! [`past`]: the mesh of a past time range, in the shape of a live [`Snapshot`], from `operations` and
//! `edges`. What needs a window's departures (queues, findings, limits) is not in it.

use std::collections::BTreeMap;

use weir_analyzer::{
    Snapshot,
    snapshot::{EdgeView, Health, NodeKind, OperationView, ServiceView},
};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::TimeRange,
    minutes::{MINUTE_NS, Measured, Minute, Of, each_minute},
    rows::{Rows, ask_each},
};

/// Errors beyond which a node is degraded, and beyond which it is unhealthy: those of a live window.
const DEGRADED_RATIO: f64 = 0.01;
const UNHEALTHY_RATIO: f64 = 0.1;

/// By caller and callee: what was measured, and what the callee is.
type Calls = BTreeMap<(String, String), (Measured, NodeKind)>;

/// One service in a range: what was asked of it, and everything that it did.
#[derive(Debug, Default)]
struct Service {
    entries: Measured,
    all: Measured,
    operations: BTreeMap<(String, String), Measured>,
    last_minute_unix_nano: i64,
}

/// What the tables know of a range.
pub(crate) async fn past(deps: &Deps, range: TimeRange) -> Result<Snapshot, ApiError> {
    let range = TimeRange { from: range.from.div_euclid(MINUTE_NS) * MINUTE_NS, ..range };
    let seconds = range.seconds();
    let calls = calls(deps, range).await?;
    let mut nodes: BTreeMap<String, ServiceView> = BTreeMap::new();
    for (name, service) in services(deps, range).await? {
        nodes.insert(name.clone(), service.view(name, seconds));
    }
    for ((caller, callee), (measured, kind)) in &calls {
        nodes.entry(caller.clone()).or_insert_with(|| ServiceView { service: caller.clone(), ..Default::default() });
        nodes.entry(callee.clone()).or_insert_with(|| called(callee, *kind, measured, seconds));
    }
    let edges = calls.iter().map(|((caller, callee), (measured, _))| edge(caller, callee, measured, seconds));
    Ok(Snapshot {
        time_unix_nano: range.to,
        window_ms: (seconds * 1e3) as u64,
        services: nodes.into_values().collect(),
        edges: edges.collect(),
        ..Snapshot::default()
    })
}

async fn services(deps: &Deps, range: TimeRange) -> Result<BTreeMap<String, Service>, ApiError> {
    let mut services: BTreeMap<String, Service> = BTreeMap::new();
    each_minute(deps, Of::default(), range, |minute| {
        services.entry(minute.service.clone()).or_default().add(minute);
    })
    .await?;
    Ok(services)
}

impl Service {
    fn add(&mut self, minute: Minute) {
        if minute.is_entry() {
            self.entries.merge(&minute.measured);
        }
        self.all.merge(&minute.measured);
        self.last_minute_unix_nano = self.last_minute_unix_nano.max(minute.minute_unix_nano);
        self.operations.entry((minute.operation, minute.kind)).or_default().merge(&minute.measured);
    }

    fn view(self, service: String, seconds: f64) -> ServiceView {
        let measured = if self.entries.count > 0 { &self.entries } else { &self.all };
        let [p50, p95, p99] = quantiles(measured);
        let operation = |((operation, kind), measured): (&(String, String), &Measured)| {
            let [p50, p95, p99] = quantiles(measured);
            OperationView {
                operation: operation.clone(),
                kind: kind.clone(),
                rate_per_s: measured.count as f64 / seconds,
                error_ratio: measured.error_ratio(),
                duration_ms_p50: p50,
                duration_ms_p95: p95,
                duration_ms_p99: p99,
            }
        };
        ServiceView {
            service,
            rate_per_s: measured.count as f64 / seconds,
            error_ratio: measured.error_ratio(),
            duration_ms_p50: p50,
            duration_ms_p95: p95,
            duration_ms_p99: p99,
            health: health(measured),
            operations: self.operations.iter().map(operation).collect(),
            last_seen_unix_nano: self.last_minute_unix_nano,
            ..ServiceView::default()
        }
    }
}

async fn calls(deps: &Deps, range: TimeRange) -> Result<Calls, ApiError> {
    let statement = format!(
        "SELECT caller, callee, callee_kind, count, error_count, duration_sketch FROM edges WHERE {}",
        range.condition("minute_unix_nano")
    );
    let mut calls = Calls::new();
    ask_each(deps, &statement, |rows| add_calls(&rows, &mut calls)).await?;
    Ok(calls)
}

fn add_calls(rows: &Rows, calls: &mut Calls) -> Result<(), ApiError> {
    let (callers, callees, kinds) = (rows.texts("caller")?, rows.texts("callee")?, rows.texts("callee_kind")?);
    let (counts, errors) = (rows.longs("count")?, rows.longs("error_count")?);
    let sketches = rows.sketches("duration_sketch")?;
    for (row, duration_ms) in sketches.into_iter().enumerate() {
        let kind = node_kind(&kinds[row]);
        let call = (callers[row].clone(), callees[row].clone());
        let measured = Measured { count: counts[row], error_count: errors[row], duration_ms };
        let (all, known) = calls.entry(call).or_insert_with(|| (Measured::default(), kind));
        all.merge(&measured);
        // a call that only its caller saw makes a service look like a host
        if kind != NodeKind::External {
            *known = kind;
        }
    }
    Ok(())
}

/// A node that is only known from calls to it.
fn called(name: &str, kind: NodeKind, measured: &Measured, seconds: f64) -> ServiceView {
    let service = Service { all: measured.clone(), ..Service::default() };
    ServiceView { kind, ..service.view(name.to_owned(), seconds) }
}

fn node_kind(text: &str) -> NodeKind {
    match text {
        "database" => NodeKind::Database,
        "messaging" => NodeKind::Messaging,
        "external" => NodeKind::External,
        _ => NodeKind::Service,
    }
}

fn edge(caller: &str, callee: &str, measured: &Measured, seconds: f64) -> EdgeView {
    let [p50, p95, p99] = quantiles(measured);
    EdgeView {
        caller: caller.to_owned(),
        callee: callee.to_owned(),
        rate_per_s: measured.count as f64 / seconds,
        error_ratio: measured.error_ratio(),
        duration_ms_p50: p50,
        duration_ms_p95: p95,
        duration_ms_p99: p99,
        health: health(measured),
        ..EdgeView::default()
    }
}

fn quantiles(measured: &Measured) -> [f64; 3] {
    measured.quantiles_ms().map(Option::unwrap_or_default)
}

fn health(measured: &Measured) -> Health {
    match measured.error_ratio() {
        _ if measured.count == 0 => Health::Idle,
        ratio if ratio > UNHEALTHY_RATIO => Health::Unhealthy,
        ratio if ratio > DEGRADED_RATIO => Health::Degraded,
        _ => Health::Healthy,
    }
}
