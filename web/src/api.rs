//! `/api/v1`: services, graph, findings, policy, alerts, traces, SQL, status.

use std::collections::HashMap;

use axum::{
    Json, Router,
    body::Bytes,
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::StreamExt;
use serde_json::{Value, json};
use weir_analyzer::{Alert, AlertState, Command, Severity};
use weir_store::{SqlAnswer, render};

use crate::{deps::Deps, error::ApiError, search::Search, sql_answer, trace::Trace};

/// Rows of histories.
const HISTORY_ROWS: u32 = 500;

type Answer = Result<Response, ApiError>;

pub(crate) fn router() -> Router<Deps> {
    Router::new()
        .route("/status", get(status))
        .route("/services", get(services))
        .route("/graph", get(graph))
        .route("/findings", get(findings))
        .route("/policy", get(policy).post(order))
        .route("/alerts", get(alerts))
        .route("/alerts/test", post(test_alert))
        .route("/openapi.json", get(openapi))
        .route("/traces", get(traces))
        .route("/traces/{id}", get(trace))
        .route("/sql", post(sql).get(sql_by_address))
        .fallback(async || ApiError::not_found("no such path under /api/v1"))
}

async fn status(State(deps): State<Deps>) -> Json<Value> {
    Json(json!({"version": env!("CARGO_PKG_VERSION"), "endpoints": deps.endpoints, "store": deps.store.status()}))
}

async fn services(State(deps): State<Deps>) -> Json<Value> {
    let snapshot = deps.snapshot.borrow().clone();
    Json(
        json!({"time_unix_nano": snapshot.time_unix_nano, "window_ms": snapshot.window_ms, "services": snapshot.services}),
    )
}

async fn graph(State(deps): State<Deps>) -> Json<Value> {
    let snapshot = deps.snapshot.borrow().clone();
    Json(json!({"time_unix_nano": snapshot.time_unix_nano, "window_ms": snapshot.window_ms,
                "services": snapshot.services, "edges": snapshot.edges, "counters": snapshot.counters}))
}

async fn findings(State(deps): State<Deps>) -> Json<Value> {
    let snapshot = deps.snapshot.borrow().clone();
    Json(json!({ "findings": snapshot.findings }))
}

async fn policy(State(deps): State<Deps>) -> Answer {
    let snapshot = deps.snapshot.borrow().clone();
    let changes =
        rows(&deps, &format!("SELECT * FROM policy_changes ORDER BY time_unix_nano DESC LIMIT {HISTORY_ROWS}")).await?;
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
        rows(&deps, &format!("SELECT * FROM alerts ORDER BY time_unix_nano DESC LIMIT {HISTORY_ROWS}")).await?;
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
async fn traces(State(deps): State<Deps>, Query(fields): Query<HashMap<String, String>>) -> Answer {
    let search = Search::from_fields(&fields)?;
    Ok(Json(json!({ "traces": rows(&deps, &search.statement()).await? })).into_response())
}

async fn trace(State(deps): State<Deps>, Path(id): Path<String>) -> Answer {
    let trace = Trace::read(&deps, &id).await?;
    Ok(Json(trace.to_json()).into_response())
}

/// As [`sql`], for links: `?query=…&format=json|csv|arrow`.
async fn sql_by_address(State(deps): State<Deps>, Query(fields): Query<HashMap<String, String>>) -> Answer {
    let query = fields.get("query").ok_or_else(|| ApiError::bad_request("the address has no query="))?;
    let format = match fields.get("format").map_or("json", String::as_str) {
        "json" => Format::Json,
        "csv" => Format::Csv,
        "arrow" => Format::Arrow,
        other => return Err(ApiError::bad_request(format!("format={other:?}: json, csv or arrow"))),
    };
    answer(&deps, query, format).await
}

/// How rows are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Csv,
    Arrow,
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
        accept if accept.contains("arrow") => Format::Arrow,
        _ => Format::Json,
    };
    answer(&deps, &statement, format).await
}

async fn answer(deps: &Deps, statement: &str, format: Format) -> Answer {
    let answer = deps.store.sql(statement, None).await?;
    Ok(match format {
        Format::Csv => sql_answer::csv(answer),
        Format::Arrow => sql_answer::arrow(answer)?,
        Format::Json => sql_answer::json(answer),
    })
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

pub(crate) async fn rows(deps: &Deps, statement: &str) -> Result<Vec<Value>, ApiError> {
    collect(deps.store.sql(statement, None).await?).await
}

async fn collect(mut answer: SqlAnswer) -> Result<Vec<Value>, ApiError> {
    let mut rows = Vec::new();
    while let Some(batch) = answer.stream.next().await {
        rows.extend(render::to_json_rows(&batch?));
    }
    Ok(rows)
}

fn now_unix_nano() -> i64 {
    i64::try_from(jiff::Timestamp::now().as_nanosecond()).unwrap_or(i64::MAX)
}
