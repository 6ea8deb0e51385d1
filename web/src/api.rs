//! `/api/v1`: services, operations, graph, RED, findings, policy, alerts, traces, logs, SQL, status.

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use serde_json::{Value, json};
use weir_analyzer::{Alert, AlertState, Command, Severity, Snapshot};

use crate::{
    critical_path::CriticalPaths,
    deps::Deps,
    error::ApiError,
    fields::{Fields, TimeRange, now_unix_nano},
    logs,
    minutes::Of,
    names,
    past::past,
    red::{self, Red},
    rows::ask_json,
    search::{self, FoundTrace, Search},
    sql_answer::{self, Letters},
    trace::Trace,
    whatif,
};

/// Rows of histories.
const HISTORY_ROWS: u32 = 500;

type Answer = Result<Response, ApiError>;

pub(crate) fn router() -> Router<Deps> {
    Router::new()
        .route("/status", get(status))
        .route("/services", get(services))
        .route("/operations", get(operations))
        .route("/attribute_keys", get(attribute_keys))
        .route("/attribute_values", get(attribute_values))
        .route("/graph", get(graph))
        .route("/red", get(red_series))
        .route("/critical-path", get(critical_path))
        .route("/findings", get(findings))
        .route("/whatif", get(what_if))
        .route("/policy", get(policy).post(order))
        .route("/alerts", get(alerts))
        .route("/alerts/test", post(test_alert))
        .route("/openapi.json", get(openapi))
        .route("/traces", get(traces))
        .route("/traces/{id}", get(trace))
        .route("/logs", get(trace_logs))
        .route("/sql", post(sql).get(sql_by_address))
        .route("/backups", post(backup))
        .route("/backups/{name}/restore", post(restore))
        .fallback(async || ApiError::not_found("no such path under /api/v1"))
}

async fn status(State(deps): State<Deps>) -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "endpoints": deps.endpoints, "store": deps.store.status()}))
}

/// Of the last window with their estimates, or of a past range from the tables.
async fn services(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    fields.only(&["from", "to"])?;
    if let Some(range) = TimeRange::of(&fields, now_unix_nano())? {
        return Ok(Json(names::services(&deps, range).await?).into_response());
    }
    let snapshot = deps.snapshot.borrow().clone();
    let Snapshot { time_unix_nano, window_ms, services, .. } = &*snapshot;
    Ok(Json(json!({"time_unix_nano": time_unix_nano, "window_ms": window_ms, "services": services})).into_response())
}

async fn operations(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    Ok(Json(names::operations(&deps, &fields).await?).into_response())
}

async fn attribute_keys(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    Ok(Json(names::attribute_keys(&deps, &fields).await?).into_response())
}

async fn attribute_values(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    Ok(Json(names::attribute_values(&deps, &fields).await?).into_response())
}

/// Of the last window, or of a past range from the tables.
async fn graph(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    fields.only(&["from", "to"])?;
    if let Some(range) = TimeRange::of(&fields, now_unix_nano())? {
        let Snapshot { services, edges, .. } = past(&deps, range).await?;
        let json =
            json!({"from_unix_nano": range.from, "to_unix_nano": range.to, "services": services, "edges": edges});
        return Ok(Json(json).into_response());
    }
    let snapshot = deps.snapshot.borrow().clone();
    let Snapshot { time_unix_nano, window_ms, services, edges, counters, .. } = &*snapshot;
    Ok(Json(json!({"time_unix_nano": time_unix_nano, "window_ms": window_ms,
                "services": services, "edges": edges, "counters": counters}))
    .into_response())
}

/// Rate, errors and durations of a service, or of one of its operations, step by step.
async fn red_series(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    fields.only(&["service", "operation", "from", "to", "step"])?;
    let of = Of { service: Some(fields.required("service")?), operation: fields.get("operation") };
    let grid = red::grid(&fields, now_unix_nano())?;
    let mut json = Red::read(&deps, of, grid).await?.to_json();
    json["service"] = of.service.into();
    Ok(Json(json).into_response())
}

/// The critical paths of the requests to a service, or of whole traces, as one flame.
async fn critical_path(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    Ok(Json(CriticalPaths::read(&deps, &fields, now_unix_nano()).await?).into_response())
}

async fn findings(State(deps): State<Deps>) -> Json<Value> {
    let snapshot = deps.snapshot.borrow().clone();
    Json(json!({ "findings": snapshot.findings }))
}

/// The last window with one service changed.
async fn what_if(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    let snapshot = deps.snapshot.borrow().clone();
    Ok(Json(whatif::of(&fields, &snapshot)?).into_response())
}

async fn policy(State(deps): State<Deps>) -> Answer {
    let snapshot = deps.snapshot.borrow().clone();
    let changes =
        ask_json(&deps, &format!("SELECT * FROM policy_changes ORDER BY time_unix_nano DESC LIMIT {HISTORY_ROWS}"))
            .await?;
    Ok(Json(json!({"policy": snapshot.policy, "control": snapshot.control, "proxies": (deps.proxies)(), "changes": changes})).into_response())
}

/// An order to the controller: a `Command` as JSON.
async fn order(State(deps): State<Deps>, body: Bytes) -> Answer {
    let command: Command =
        serde_json::from_slice(&body).map_err(|e| ApiError::bad_request(format!("not an order: {e}")))?;
    if let Command::Override { policy, .. } = &command {
        let set = weir_policy::PolicySet { policies: vec![policy.clone()], ..Default::default() };
        set.validate().map_err(|e| ApiError::bad_request(e.to_string()))?;
    }
    let queued = deps.commands.try_send(command);
    queued.map_err(|_| ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "busy", "too many orders wait: try again"))?;
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": true}))).into_response())
}

async fn alerts(State(deps): State<Deps>) -> Answer {
    let history =
        ask_json(&deps, &format!("SELECT * FROM alerts ORDER BY time_unix_nano DESC LIMIT {HISTORY_ROWS}")).await?;
    Ok(Json(json!({ "alerts": history })).into_response())
}

/// Sends an alert that says it is a test to every receiver; the attempts stand in the history.
async fn test_alert(State(deps): State<Deps>) -> Answer {
    let now = now_unix_nano();
    let labels = [("alertname", "Test"), ("severity", "info"), ("service", "weir")];
    let summary = "a test of the way to this receiver".to_owned();
    deps.notifier.notify(Alert {
        alert_id: format!("test-{now}"),
        name: "Test".into(),
        state: AlertState::Firing,
        service: "weir".into(),
        severity: Severity::Info,
        finding_id: None,
        starts_unix_nano: now,
        ends_unix_nano: Some(now),
        labels: labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect(),
        annotations: [("summary".to_owned(), summary.clone())].into(),
        summary,
    });
    Ok((StatusCode::ACCEPTED, Json(json!({"accepted": true}))).into_response())
}

/// What this API offers, for tools.
async fn openapi() -> Response {
    ([(header::CONTENT_TYPE, "application/json")], include_str!("../static/openapi.json")).into_response()
}

/// Search by the fields of [`Search`].
async fn traces(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    let search = Search::from_fields(&fields, now_unix_nano())?;
    let found = search::find(&deps, &search).await?;
    let traces: Vec<Value> = found.traces.iter().map(found_json).collect();
    Ok(Json(json!({"traces": traces, "next": found.next.map(|next| next.to_string())})).into_response())
}

fn found_json(FoundTrace { matched, summary }: &FoundTrace) -> Value {
    json!({
        "trace_id": hex::encode(matched.key.trace_id),
        "start_unix_nano": summary.start_unix_nano, "end_unix_nano": summary.end_unix_nano,
        "duration_ns": summary.end_unix_nano.saturating_sub(summary.start_unix_nano),
        "service": summary.service, "operation": summary.operation, "error": summary.error,
        "matched": {
            "span_id": matched.span_id, "service": matched.service, "operation": matched.operation,
            "start_unix_nano": matched.key.start_unix_nano, "duration_ns": matched.duration_ns, "error": matched.error,
        },
    })
}

async fn trace_logs(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    Ok(Json(logs::answer(&deps, &fields).await?).into_response())
}

async fn trace(State(deps): State<Deps>, Path(id): Path<String>) -> Answer {
    Ok(Json(Trace::read(&deps, &id).await?).into_response())
}

/// As [`sql`], for links: `?query=…&format=json|csv|arrow`.
async fn sql_by_address(State(deps): State<Deps>, Query(fields): Query<Fields>) -> Answer {
    let query = fields.required("query")?;
    let format = match fields.get("format").unwrap_or("json") {
        "json" => Format::Json,
        "csv" => Format::Csv,
        "arrow" => Format::Arrow(Letters::Hidden),
        other => return Err(ApiError::bad_request(format!("format={other:?}: json, csv or arrow"))),
    };
    answer(&deps, query, format).await
}

/// In `Accept`, for who renders rows itself, as the command line does: the letters of attribute types
/// come too.
const LETTERS: &str = "letters=sent";

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Arrow(Letters),
}

/// One statement: `{"query": "…"}` or its bare text. The answer is JSON, CSV or an Arrow stream, by
/// `Accept`; an error after the first rows ends the connection, so that no answer looks whole when
/// it is not.
async fn sql(State(deps): State<Deps>, headers: HeaderMap, body: Bytes) -> Answer {
    let header =
        |name| headers.get(name).and_then(|v: &header::HeaderValue| v.to_str().ok()).unwrap_or_default().to_owned();
    let statement = statement(&header(header::CONTENT_TYPE), &body)?;
    let accept = header(header::ACCEPT);
    let format = match accept.as_str() {
        accept if accept.contains("text/csv") => Format::Csv,
        accept if accept.contains("arrow") && accept.contains(LETTERS) => Format::Arrow(Letters::Sent),
        accept if accept.contains("arrow") => Format::Arrow(Letters::Hidden),
        _ => Format::Json,
    };
    answer(&deps, &statement, format).await
}

async fn answer(deps: &Deps, statement: &str, format: Format) -> Answer {
    let answer = sql_answer::Begun::wait(deps.store.sql(statement, None).await?).await?;
    Ok(match format {
        Format::Csv => sql_answer::csv(answer),
        Format::Arrow(letters) => sql_answer::arrow(answer, letters)?,
        Format::Json => sql_answer::json(answer),
    })
}

/// `{"name": "…"}`: a copy of all tables, made while requests are taken.
async fn backup(State(deps): State<Deps>, body: Bytes) -> Answer {
    let body: Value =
        serde_json::from_slice(&body).map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
    let name = body.get("name").and_then(Value::as_str);
    let name = name.ok_or_else(|| ApiError::bad_request("the body has no \"name\""))?;
    let path = deps.store.backup(name).await?;
    Ok(Json(json!({"name": name, "path": path})).into_response())
}

/// The rows of a backup, added once.
async fn restore(State(deps): State<Deps>, Path(name): Path<String>) -> Answer {
    Ok(Json(deps.store.restore(&name).await?).into_response())
}

fn statement(content_type: &str, body: &[u8]) -> Result<String, ApiError> {
    let text = std::str::from_utf8(body).map_err(|_| ApiError::bad_request("the body is not UTF-8"))?;
    if !content_type.contains("json") {
        return Ok(text.to_owned());
    }
    let value: Value =
        serde_json::from_str(text).map_err(|e| ApiError::bad_request(format!("the body is not JSON: {e}")))?;
    let query = value.get("query").and_then(Value::as_str);
    query.map(str::to_owned).ok_or_else(|| ApiError::bad_request("the body has no \"query\""))
}
