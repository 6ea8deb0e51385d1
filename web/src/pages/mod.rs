//! The pages: each is a view model made from the snapshot or by SQL, and a template that prints it.
//!
//! Everything is rendered here, so a page works without scripts; scripts only keep it current and
//! send orders. All state of a page is in its address.

mod alerts;
mod assets;
mod findings;
mod flame;
mod format;
mod graph;
mod layout;
mod policy;
mod services;
mod sql;
mod trace;
mod traces;
mod whatif;

use std::sync::Arc;

use askama::Template;
use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
    middleware::{self, Next},
    response::{Html, IntoResponse, Response},
    routing::get,
};
use serde_json::Value;

use crate::{deps::Deps, error::ApiError};
use layout::LayoutCache;

/// Address and name, in the order of the navigation.
pub(crate) const NAVIGATION: [(&str, &str); 8] = [
    ("/", "Graph"),
    ("/services", "Services"),
    ("/traces", "Traces"),
    ("/sql", "SQL"),
    ("/findings", "Findings"),
    ("/whatif", "What if"),
    ("/policy", "Policy"),
    ("/alerts", "Alerts"),
];

tokio::task_local! {
    /// What the page that is made lacks while the log is still being replayed.
    static RECOVERING: Option<String>;
}

/// What the page that is made lacks, for its template.
pub(crate) fn recovering() -> Option<String> {
    RECOVERING.try_with(Option::clone).ok().flatten()
}

/// Makes a page that says what it lacks.
async fn said(State(deps): State<Deps>, request: Request, next: Next) -> Response {
    RECOVERING.scope(deps.store.recovering(), next.run(request)).await
}

/// What the pages share.
#[derive(Clone)]
pub(crate) struct Pages {
    deps: Deps,
    layouts: Arc<LayoutCache>,
}

pub(crate) fn router(deps: Deps) -> Router {
    Router::new()
        .route("/", get(graph::page))
        .route("/services", get(services::page))
        .route("/traces", get(traces::page))
        .route("/traces/{id}", get(trace::page))
        .route("/critical-path", get(flame::page))
        .route("/sql", get(sql::page))
        .route("/findings", get(findings::page))
        .route("/whatif", get(whatif::page))
        .route("/policy", get(policy::page))
        .route("/alerts", get(alerts::page))
        .route("/static/{*path}", get(assets::asset))
        .fallback(async || page_error(StatusCode::NOT_FOUND, "There is no such page", ""))
        .layer(middleware::from_fn_with_state(deps.clone(), said))
        .with_state(Pages { deps, layouts: Arc::default() })
}

#[derive(Template)]
#[template(path = "error.html")]
struct ErrorPage {
    page: &'static str,
    title: String,
    message: String,
}

fn page_error(status: StatusCode, title: &str, message: &str) -> Response {
    let page = ErrorPage { page: "", title: title.to_owned(), message: message.to_owned() };
    (status, html(&page)).into_response()
}

impl ApiError {
    /// The same as a page.
    fn into_page(self) -> Response {
        page_error(self.status, self.status.canonical_reason().unwrap_or("It failed"), &self.message)
    }
}

fn html(template: &impl Template) -> Response {
    match template.render() {
        Ok(text) => Html(text).into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()).into_response(),
    }
}

/// A field of a row as text; nothing for null.
fn text(row: &Value, key: &str) -> String {
    match &row[key] {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        other => other.to_string(),
    }
}

fn integer(row: &Value, key: &str) -> i64 {
    row[key].as_i64().unwrap_or_default()
}
