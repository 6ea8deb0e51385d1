//! Services that are full: busy all the time, with requests that mostly wait for them. Against what they can do, not against
//! history: such a service may never have been otherwise.
//!
//! Its utilization over the last windows is above the one to which the controller would bring it (`control.target_utilization`), and
//! above the four fifths that leave room by more than chance makes of windows that differ as these do. And requests that pass it spend
//! more of their time waiting there than in all else together: nobody minds a busy service that keeps nobody waiting.
//!
//! Where the number of servers cannot be told there is no utilization, but it shows when more come than are served: each waits longer than
//! the one before, by `1 − μ/λ` seconds a second, μ of λ a second being served. The trend is asked by ranks and its slope is the median of
//! all, as in `saturation.rs`. Two percent over twenty windows of 10 s are a wait that has grown by four seconds.

use super::{
    action,
    action::ROOM,
    budget,
    critical::{Path, Spent, waited_ms},
    kind::Kind,
    saturation::{self, Level},
    scene::Scene,
    statements,
    suspicion::{Suspicion, confidence},
};
use crate::{
    estimate::interval::NINETY_FIVE,
    retiming::Request,
    snapshot::{Estimate, Evidence},
    spans::Name,
};

/// The share of a request's time that a wait is when it is more than all else.
const MOST: f64 = 0.5;

/// Seconds by which time in a service grows in a second, above which its queue does: two percent more come than are served.
const GROWS: f64 = 0.02;

/// What requests wait at a service that is full.
struct Full {
    service: Name,
    /// How it shows, as a sentence, and a number in percent.
    busy: String,
    percent: f64,
    request_ms: f64,
    waiting_ms: f64,
    confidence: f64,
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let full = |service: &Name| match scene.estimate(*service).filter(|it| saturation::utilization(it).is_some()) {
        Some(estimate) => busy(scene, *service, estimate),
        None => overrun(scene, *service),
    };
    scene.window.services.keys().filter_map(|service| Some(suspicion(scene, &full(service)?))).collect()
}

fn busy(scene: &Scene, service: Name, estimate: &Estimate) -> Option<Full> {
    let level = scene.history.trends.get(service)?.level(scene.seconds())?;
    let level = Some(level).filter(|level| is_busy(level, scene.levels.target_utilization))?;
    let (request_ms, at, waited_ms) = path(scene, service)?;
    let waiting_ms = at.waiting_ms.filter(|waiting_ms| *waiting_ms > MOST * request_ms)?;
    let (text, percent) = (scene.text(service), level.mean * 100.0);
    let busy = format!(
        "{text} was {percent:.0} % busy over the last {} windows (± {:.0} %, {}: {:.1} requests/s of {:.1} ms each)",
        level.windows,
        level.error * NINETY_FIVE * 100.0,
        estimate.model,
        estimate.arrival_rate_per_s,
        estimate.service_time_ms.unwrap_or(0.0)
    );
    Some(Full {
        service,
        busy,
        percent,
        request_ms,
        waiting_ms,
        confidence: estimate.confidence * waiting_ms / waited_ms,
    })
}

/// Of one whose number of servers is not known all of the time that requests spend in it is taken for waiting.
fn overrun(scene: &Scene, service: Name) -> Option<Full> {
    let growth = scene.history.own_trends.get(service)?.growth(scene.seconds())?;
    let ms_per_s = Some(growth.per_s).filter(|ms_per_s| *ms_per_s >= 1e3 * GROWS)?;
    let (request_ms, Spent { own_ms, .. }, _) = path(scene, service)?;
    let text = scene.text(service);
    let more = 100.0 * ms_per_s / (1e3 - ms_per_s).max(1.0);
    let busy = format!(
        "time in {text} grows by {ms_per_s:.0} ms a second over the last {} windows ({:.0} standard deviations): {more:.0} % more come than are served",
        growth.windows, growth.deviations
    );
    let requests = u32::try_from(scene.window.services.get(&service)?.requests).unwrap_or(u32::MAX);
    let confidence = confidence(growth.deviations, requests, growth.windows) * own_ms / request_ms;
    let full = Full { service, busy, percent: 100.0 + more, request_ms, waiting_ms: own_ms, confidence };
    (own_ms > MOST * request_ms).then_some(full)
}

fn is_busy(level: &Level, target: f64) -> bool {
    let deviations = (level.mean - ROOM) / level.error.max(f64::EPSILON);
    level.mean >= target && deviations >= budget::deviations(level.windows)
}

/// What requests that pass a service take, what of it they spend there, and what they wait anywhere.
fn path(scene: &Scene, service: Name) -> Option<(f64, Spent, f64)> {
    let path = Path::of(scene.window.requests.iter().filter(|request| passes(request, service)))?;
    let spent = path.spent(scene);
    let at = *spent.iter().find(|spent| spent.service == service)?;
    Some((path.request_ms, at, waited_ms(&spent)))
}

fn passes(request: &Request<Name>, service: Name) -> bool {
    let mut passes = false;
    request.each(&mut |part| passes |= part.service == service);
    passes
}

fn suspicion(scene: &Scene, full: &Full) -> Suspicion {
    let Full { service, busy, percent, request_ms, waiting_ms, confidence } = full;
    let text = scene.text(*service);
    let passing: u32 = scene.facts.passing(*service).map(|(_, passing, _)| passing).sum();
    let waits = format!("requests through it take {request_ms:.0} ms and wait {waiting_ms:.0} ms of them there");
    let slowest = scene.slowest(*service);
    Suspicion {
        standing: true,
        lost_ms_per_s: scene.per_s(waiting_ms * f64::from(passing)),
        confidence: *confidence,
        summary: format!("{text} is full, and requests wait {waiting_ms:.0} ms for it"),
        action: action::full(scene, *service),
        evidence: vec![
            Evidence::number(busy.clone(), *percent, "%").with_sql(statements::durations(text, &scene.shown())),
            Evidence::number(waits, *waiting_ms, "ms").with_trace(slowest),
        ],
        ..Suspicion::of(Kind::Bottleneck, *service, scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn busy_is_above_the_target_and_beyond_chance_above_four_fifths() {
        let busy = |mean, error, windows| is_busy(&Level { mean, error, windows }, 0.92);
        assert!(busy(0.96, 0.01, 20) && busy(1.0, 0.02, 20));
        assert!(!busy(0.8, 0.001, 20) && !busy(0.9, 0.001, 20), "it has room");
        assert!(!busy(0.96, 0.05, 20), "that may be chance");
    }
}
