//! `/traces`: search, newest first.

use std::collections::HashMap;

use askama::Template;
use axum::{
    extract::{Query, State},
    response::Response,
};
use serde_json::Value;

use super::{Pages, format, html, integer, text};
use crate::{api::rows, search::Search};

#[derive(Template)]
#[template(path = "traces.html")]
struct TracesPage {
    page: &'static str,
    form: Form,
    services: Vec<String>,
    error: String,
    filtered: bool,
    traces: Vec<Found>,
}

struct Form {
    service: String,
    operation: String,
    status: String,
    attribute: String,
    min_duration_ms: String,
    max_duration_ms: String,
    from: String,
    to: String,
    limit: String,
}

struct Found {
    id: String,
    id_short: String,
    started: String,
    service: String,
    operation: String,
    spans: i64,
    errors: i64,
    duration: String,
    /// Of the longest in the list, in percent.
    share: i64,
}

pub(super) async fn page(State(pages): State<Pages>, Query(fields): Query<HashMap<String, String>>) -> Response {
    let snapshot = pages.deps.snapshot.borrow().clone();
    let search = Search::from_fields(&fields);
    let filtered = search.as_ref().is_ok_and(Search::narrows);
    let found = match search {
        Ok(search) => rows(&pages.deps, &search.statement()).await,
        Err(error) => Err(error),
    };
    let (traces, error) = match found {
        Ok(rows) => (traces(&rows), String::new()),
        Err(error) => (Vec::new(), error.message),
    };
    html(&TracesPage {
        page: "/traces",
        form: form(&fields),
        services: snapshot.services.iter().map(|s| s.service.clone()).collect(),
        error,
        filtered,
        traces,
    })
}

fn form(fields: &HashMap<String, String>) -> Form {
    let field = |key: &str| fields.get(key).cloned().unwrap_or_default();
    Form {
        service: field("service"),
        operation: field("operation"),
        status: field("status"),
        attribute: field("attribute"),
        min_duration_ms: field("min_duration_ms"),
        max_duration_ms: field("max_duration_ms"),
        from: field("from"),
        to: field("to"),
        limit: field("limit"),
    }
}

fn traces(rows: &[Value]) -> Vec<Found> {
    let longest = rows.iter().map(|row| integer(row, "duration_ns")).max().unwrap_or(1).max(1);
    let found = |row: &Value| {
        let (id, duration) = (text(row, "trace_id"), integer(row, "duration_ns"));
        Found {
            id_short: id.chars().take(12).collect(),
            id,
            started: format::moment(integer(row, "start_unix_nano")),
            service: text(row, "service"),
            operation: text(row, "operation"),
            spans: integer(row, "matching_spans"),
            errors: integer(row, "error_spans"),
            duration: format::ns(duration),
            share: duration.saturating_mul(100) / longest,
        }
    };
    rows.iter().map(found).collect()
}
