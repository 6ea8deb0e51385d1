//! `/alerts`: what fired, what was resolved, and each attempt to tell of it.

use askama::Template;
use axum::{extract::State, response::Response};
use serde_json::Value;

use super::{Pages, format, html, integer, text};
use crate::rows::ask_json;

/// Rows shown; the table `alerts` holds all.
const SHOWN: u32 = 200;

#[derive(Template)]
#[template(path = "alerts.html")]
struct AlertsPage {
    page: &'static str,
    receivers: Vec<String>,
    alerts: Vec<Row>,
}

struct Row {
    when: String,
    event: String,
    state: &'static str,
    mark: &'static str,
    name: String,
    service: String,
    severity: String,
    receiver: String,
    attempt: String,
    answer: String,
    summary: String,
}

pub(super) async fn page(State(pages): State<Pages>) -> Response {
    let statement = format!("SELECT * FROM alerts ORDER BY time_unix_nano DESC LIMIT {SHOWN}");
    match ask_json(&pages.deps, &statement).await {
        Ok(rows) => html(&AlertsPage {
            page: "/alerts",
            receivers: pages.deps.notifier.receivers().to_vec(),
            alerts: rows.iter().map(row).collect(),
        }),
        Err(error) => error.into_page(),
    }
}

fn row(row: &Value) -> Row {
    let event = text(row, "event");
    let (state, mark) = match event.as_str() {
        "fired" => ("unhealthy", "■"),
        "gave_up" => ("unhealthy", "✕"),
        "retried" => ("degraded", "▲"),
        _ => ("healthy", "●"),
    };
    let answer = [text(row, "http_status"), text(row, "error")];
    Row {
        when: format::moment(integer(row, "time_unix_nano")),
        event: event.replace('_', " "),
        state,
        mark,
        name: text(row, "name"),
        service: text(row, "service"),
        severity: text(row, "severity"),
        receiver: text(row, "receiver"),
        attempt: text(row, "attempt"),
        answer: answer.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(" "),
        summary: text(row, "summary"),
    }
}
