//! `/api/v1`: services, graph, findings, policy, alerts, traces, SQL, status.

use std::{collections::HashMap, fmt::Write};

use arrow::{ipc::writer::StreamWriter, record_batch::RecordBatch};
use axum::{
    Json, Router,
    body::{Body, Bytes},
    extract::{Path, Query, State},
    http::{HeaderMap, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use futures::{StreamExt, stream};
use serde_json::{Value, json};
use weir_analyzer::{
    Command,
    critical_path::{SpanNode, critical_path, self_times},
};
use weir_store::{SqlAnswer, render};

use crate::{deps::Deps, error::ApiError};

/// Traces a search answers at most.
const MAX_TRACES: u32 = 500;

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
        .route("/traces", get(traces))
        .route("/traces/{id}", get(trace))
        .route("/sql", post(sql))
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

/// Search: `service`, `operation`, `status`, `min_duration_ms`, `max_duration_ms`, `from`, `to`, `limit`.
async fn traces(State(deps): State<Deps>, Query(search): Query<HashMap<String, String>>) -> Answer {
    let statement = search_statement(&search)?;
    Ok(Json(json!({ "traces": rows(&deps, &statement).await? })).into_response())
}

fn search_statement(search: &HashMap<String, String>) -> Result<String, ApiError> {
    let mut conditions = vec!["true".to_owned()];
    let quoted = |text: &str| format!("'{}'", text.replace('\'', "''"));
    let number = |key: &str, text: &str| {
        text.parse::<f64>().map_err(|_| ApiError::bad_request(format!("{key}={text:?} is not a number")))
    };
    let mut limit = 20;
    for (key, value) in search.iter().filter(|(_, value)| !value.is_empty()) {
        match key.as_str() {
            "service" | "operation" | "status" => conditions.push(format!("{key} = {}", quoted(value))),
            "min_duration_ms" => conditions.push(format!("duration_ns >= {:.0}", number(key, value)? * 1e6)),
            "max_duration_ms" => conditions.push(format!("duration_ns <= {:.0}", number(key, value)? * 1e6)),
            "from" => conditions.push(format!("start_unix_nano >= {}", quoted(value))),
            "to" => conditions.push(format!("start_unix_nano < {}", quoted(value))),
            "limit" => limit = (number(key, value)? as u32).clamp(1, MAX_TRACES),
            _ => return Err(ApiError::bad_request(format!("{key} is not a search field"))),
        }
    }
    let mut statement =
        String::from("SELECT trace_id, min(start_unix_nano) AS start_unix_nano, max(duration_ns) AS duration_ns, ");
    let _ = write!(
        statement,
        "count(*) AS matching_spans, min(service) AS service, min(operation) AS operation FROM spans WHERE {} \
         GROUP BY trace_id ORDER BY start_unix_nano DESC LIMIT {limit}",
        conditions.join(" AND ")
    );
    Ok(statement)
}

async fn trace(State(deps): State<Deps>, Path(id): Path<String>) -> Answer {
    let mut bytes = [0; 16];
    hex::decode_to_slice(&id, &mut bytes)
        .map_err(|_| ApiError::bad_request(format!("{id:?} is not a trace id: 32 hex digits are")))?;
    let batches = deps.store.trace(bytes).await?;
    let spans: Vec<Value> = batches.iter().flat_map(render::to_json_rows).collect();
    if spans.is_empty() {
        return Err(ApiError::not_found(format!("trace {id} is not in the store")));
    }
    let nodes: Vec<SpanNode> = spans.iter().map(node).collect();
    let own = self_times(&nodes);
    let spans: Vec<Value> = spans.into_iter().zip(own).map(|(span, own)| with_self_time(span, own)).collect();
    let path = critical_path(&nodes).into_iter().map(|segment| {
        json!({"span_id": hex::encode(segment.span_id), "start_unix_nano": segment.start_unix_nano, "end_unix_nano": segment.end_unix_nano})
    });
    Ok(Json(json!({"trace_id": id, "spans": spans, "critical_path": path.collect::<Vec<_>>()})).into_response())
}

fn with_self_time(mut span: Value, own_ns: i64) -> Value {
    if let Value::Object(fields) = &mut span {
        fields.insert("self_time_ns".into(), own_ns.into());
    }
    span
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

/// One statement: `{"query": "…"}` or its bare text. The answer is JSON, CSV or an Arrow stream, by
/// `Accept`; an error after the first rows ends the connection, so that no answer looks whole when
/// it is not.
async fn sql(State(deps): State<Deps>, headers: HeaderMap, body: Bytes) -> Answer {
    let header =
        |name| headers.get(name).and_then(|v: &header::HeaderValue| v.to_str().ok()).unwrap_or_default().to_owned();
    let statement = statement(&header(header::CONTENT_TYPE), &body)?;
    let accept = header(header::ACCEPT);
    let answer = deps.store.sql(&statement, None).await?;
    if accept.contains("text/csv") {
        let head = render::csv_header(&answer.schema);
        return Ok(streamed("text/csv; charset=utf-8", head, answer, render::csv_rows));
    }
    if accept.contains("arrow") {
        return arrow_stream(answer).await;
    }
    let columns: Vec<Value> =
        answer.schema.fields().iter().map(|f| json!({"name": f.name(), "type": f.data_type().to_string()})).collect();
    let rows = collect(answer).await?;
    Ok(Json(json!({"columns": columns, "rows": rows})).into_response())
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

fn streamed(content_type: &'static str, head: String, answer: SqlAnswer, text: fn(&RecordBatch) -> String) -> Response {
    let rows = answer.stream.map(move |batch| batch.map(|batch| Bytes::from(text(&batch))));
    let body = stream::once(async move { Ok(Bytes::from(head)) }).chain(rows);
    ([(header::CONTENT_TYPE, content_type)], Body::from_stream(body)).into_response()
}

async fn arrow_stream(mut answer: SqlAnswer) -> Answer {
    let failed = |e: arrow::error::ArrowError| ApiError::new(StatusCode::INTERNAL_SERVER_ERROR, "arrow", e.to_string());
    let mut writer = StreamWriter::try_new(Vec::new(), &answer.schema).map_err(failed)?;
    while let Some(batch) = answer.stream.next().await {
        writer.write(&batch?).map_err(failed)?;
    }
    let bytes = writer.into_inner().map_err(failed)?;
    Ok(([(header::CONTENT_TYPE, "application/vnd.apache.arrow.stream")], bytes).into_response())
}

async fn rows(deps: &Deps, statement: &str) -> Result<Vec<Value>, ApiError> {
    collect(deps.store.sql(statement, None).await?).await
}

async fn collect(mut answer: SqlAnswer) -> Result<Vec<Value>, ApiError> {
    let mut rows = Vec::new();
    while let Some(batch) = answer.stream.next().await {
        rows.extend(render::to_json_rows(&batch?));
    }
    Ok(rows)
}
