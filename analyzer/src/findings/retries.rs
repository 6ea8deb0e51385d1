//! Retry storms: callers repeat failed calls so often that the repeats are a load of their own.
//!
//! A retry is a call to the same operation under the same parent that begins after one that failed, or that says so of
//! itself. A proxy's own retries are in one span, which says how many they were (`http.request.resend_count`); each
//! attempt counts once, wherever it is told. Attempts per logical call are `calls/(calls − retries)`. Loops that call the
//! same operation often are no retries.

use super::{
    action, budget,
    facts::Calls,
    kind::Kind,
    scene::{MIN_REQUESTS, Scene},
    statements,
    suspicion::{Suspicion, confidence},
    usual::Share,
};
use crate::{robust::median, snapshot::Evidence, spans::Name};

/// Attempts per logical call: half as many calls again.
const MIN_ATTEMPTS: f64 = 1.5;

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let storms = scene.facts.calls.iter().filter_map(|(key, calls)| suspicion(scene, *key, calls));
    storms.collect()
}

/// Retries among calls.
pub(super) fn share(calls: &Calls) -> Share {
    Share { hits: calls.retries, of: calls.calls }
}

fn suspicion(scene: &Scene, (caller, callee): (Name, Name), calls: &Calls) -> Option<Suspicion> {
    let usual = scene.history.retries.usual_share((caller, callee)).filter(|usual| scene.is_known(usual.windows))?;
    let now = share(calls);
    let logical = f64::from(calls.calls - calls.retries).max(1.0);
    let attempts = f64::from(calls.calls) / logical;
    let deviations = usual.deviations(now);
    let storm = attempts >= MIN_ATTEMPTS
        && calls.errors > 0
        && calls.calls >= MIN_REQUESTS
        && deviations >= budget::deviations(usual.windows);
    if !storm {
        return None;
    }
    let (from, to) = (scene.text(caller), scene.text(callee));
    let errors = f64::from(calls.errors) / f64::from(calls.calls) * 100.0;
    let sentence =
        format!("{from} sends each call to {to} {attempts:.1} times: {} of {} calls are repeats", now.hits, now.of);
    let evidence = vec![
        Evidence::number(sentence, attempts, "attempts")
            .with_trace(calls.retried)
            .with_sql(statements::attempts(from, &scene.shown())),
        Evidence::number(format!("{errors:.0} % of them fail"), errors, "%").with_trace(calls.failed),
    ];
    // where all are repeated within their spans, calls take what they usually do
    let usual_ms = || scene.history.gap_ms.usual((caller, callee)).map(|usual| usual.median);
    let again_ms = median(calls.gap_ms.clone()).or_else(usual_ms).unwrap_or(0.0).max(0.0);
    let broken_ms = scene.usual_request_ms(callee).unwrap_or(0.0);
    let per_s = |count: u32| scene.per_s(f64::from(count));
    Some(Suspicion {
        peer: Some(caller),
        lost_ms_per_s: per_s(calls.retries) * again_ms + per_s(calls.errors) / attempts * broken_ms,
        touched: (f64::from(calls.errors) / f64::from(calls.calls)).min(1.0),
        confidence: confidence(deviations, now.hits, usual.windows),
        summary: format!("{from} repeats failed calls to {to}: {attempts:.1} attempts a call, {errors:.0} % fail"),
        action: action::retry_storm(from, to, attempts),
        evidence,
        ..Suspicion::of(Kind::RetryStorm, callee, scene)
    })
}
