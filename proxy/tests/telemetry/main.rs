//! Telemetry in whole flows: traces in every form, spans, access logs in files, metrics that a scraper can read, what is
//! exported, and the live view.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod access_logs;
mod admin;
mod export;
#[path = "../flow/mod.rs"]
mod flow;
mod metrics;
mod spans;
mod traces;

use std::time::Duration;

use axum::{
    Router,
    http::{HeaderMap, StatusCode},
    routing::get,
};

/// Says what it was sent of traces.
async fn mirror(headers: HeaderMap) -> String {
    let about = |name: &str| name.contains("trace") || name.contains("b3") || name == "baggage";
    let fields = headers.iter().filter(|(name, _)| about(name.as_str()));
    fields.map(|(name, value)| format!("{name}={}\n", value.to_str().unwrap())).collect()
}

pub(crate) async fn answers() -> Router {
    Router::new()
        .route("/ok", get(async || "fine"))
        .route("/slow", get(async || tokio::time::sleep(Duration::from_millis(60)).await))
        .route("/bad", get(async || StatusCode::INTERNAL_SERVER_ERROR))
        .fallback(get(mirror))
}
