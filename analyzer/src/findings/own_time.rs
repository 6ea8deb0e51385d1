//! Services whose own time is far above its history: bottlenecks, unless a surge or one replica explains it.
//!
//! Own time is the duration without calls to others, so a caller that only waits is not slow. What half of all services
//! share (a busy machine slows every one a little) is nobody's own and is taken off first. And a service that gets more of its long
//! requests is not slower: each operation is compared with itself, as far as it was there before.

use std::collections::BTreeMap;

use super::{
    action, budget,
    kind::Kind,
    onset,
    scene::{LEAST_MS, MIN_IMPACT, MIN_RATIO, MIN_REQUESTS, Scene, own_time},
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Sample, Usual},
};
use crate::{moments::mean, snapshot::Evidence, spans::Name, window::ServiceWindow};

/// Fewer services than this share nothing that could be told from a fault of one of them.
const MIN_SHARING: usize = 4;

/// What is shared is said when it is this share of a service's own excess.
const SHARED_WORTH_SAYING: f64 = 0.1;

/// What operations are slower by is this share of what their service is, or another mix of them is what changed.
const MIN_OF_OPERATIONS: f64 = 1.0 / 3.0;

/// Requests of an operation that tell its own time.
const MIN_OF_OPERATION: u32 = 4;

/// What a window is compared with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Past {
    /// The last five.
    Minutes,
    /// The last day: what grows slowly is usual to the minutes.
    Hours,
}

/// A service that is slow in this window.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slow {
    pub(super) service: Name,
    pub(super) now: Sample,
    /// Requests that take it, all that the seen ones stand for.
    served: f64,
    pub(super) usual: Usual,
    pub(super) past: Past,
    /// What most services are slower by.
    shared_ms: f64,
    /// What is its own.
    pub(super) excess_ms: f64,
    pub(super) deviations: f64,
    pub(super) lost_ms_per_s: f64,
}

/// Those that are slow against the last minutes, and of others those that are against the day.
pub(super) fn slow(scene: &Scene) -> Vec<Slow> {
    let mut slow = slow_against(scene, Past::Minutes);
    let grown = slow_against(scene, Past::Hours);
    let known: Vec<Name> = slow.iter().map(|slow| slow.service).collect();
    slow.extend(grown.into_iter().filter(|grown| !known.contains(&grown.service)));
    slow.retain(|slow| slow.past == Past::Hours || !is_another_mix(scene, slow));
    slow
}

/// Services that take longer because they get other requests: what they did before says nothing of what they do now.
pub(super) fn mixed_otherwise(scene: &Scene) -> Vec<Name> {
    let slow = slow_against(scene, Past::Minutes);
    slow.into_iter().filter(|slow| is_another_mix(scene, slow)).map(|slow| slow.service).collect()
}

/// Whether operations that were there before take as long as they did.
fn is_another_mix(scene: &Scene, slow: &Slow) -> bool {
    let Some(served) = scene.facts.services.get(&slow.service) else { return false };
    let usual_ms = |operation| {
        let usual = scene.history.own_of_operations.usual((slow.service, operation));
        usual.filter(|usual| scene.is_known(usual.windows)).map(|usual| usual.median)
    };
    take_as_long(&served.own_by_operation, usual_ms, (slow.shared_ms, slow.excess_ms))
}

/// The same of own times by operation. Where most requests are of operations too small to be judged, nobody knows.
fn take_as_long(
    own_by_operation: &BTreeMap<Name, Vec<f64>>,
    usual_ms: impl Fn(Name) -> Option<f64>,
    (shared_ms, service_excess_ms): (f64, f64),
) -> bool {
    let (mut judged, mut excess_ms) = (0, 0.0);
    let (mut all, mut too_small) = (0, 0);
    for (operation, own_ms) in own_by_operation {
        all += own_ms.len();
        let Some(now) = of_operation(own_ms) else {
            too_small += own_ms.len();
            continue;
        };
        let Some(usual_ms) = usual_ms(*operation) else { continue };
        judged += now.requests;
        excess_ms += f64::from(now.requests) * (now.median - usual_ms - shared_ms).max(0.0);
    }
    let is_known = judged >= MIN_REQUESTS && 2 * too_small <= all;
    is_known && excess_ms < MIN_OF_OPERATIONS * service_excess_ms * f64::from(judged)
}

/// Own time of an operation's requests; `None` of too few.
pub(super) fn of_operation(own_ms: &[f64]) -> Option<Sample> {
    Sample::of(own_ms).filter(|own| own.requests >= MIN_OF_OPERATION)
}

/// Those whose excess is beyond chance, beyond half the usual time again, and felt at the entry.
fn slow_against(scene: &Scene, past: Past) -> Vec<Slow> {
    let mut slow = compared(scene, past);
    let shared_ms = shared(&slow);
    for service in &mut slow {
        service.shared_ms = shared_ms;
        service.excess_ms = service.now.median - service.usual.median - shared_ms;
        service.deviations = service.excess_ms / service.usual.deviation(service.now.requests, LEAST_MS);
        service.lost_ms_per_s = service.excess_ms * service.served / scene.seconds();
    }
    slow.retain(|service| {
        let usual_ms = service.usual.median;
        let request_ms = || scene.usual_request_ms(service.service).unwrap_or(usual_ms);
        service.deviations >= budget::deviations(service.usual.windows)
            && usual_ms + service.excess_ms >= MIN_RATIO * usual_ms
            && service.excess_ms >= MIN_IMPACT * request_ms()
    });
    slow
}

/// Every service with requests and history enough.
fn compared(scene: &Scene, past: Past) -> Vec<Slow> {
    let compared = |(service, window): (&Name, &ServiceWindow)| {
        let usual = match past {
            Past::Minutes => scene.history.own_ms.usual(*service).filter(|usual| scene.is_known(usual.windows))?,
            Past::Hours => scene.history.own_hours.get(*service)?.usual(scene.min_history)?,
        };
        let now = own_time(window)?;
        let served = window.requests.saturating_sub(window.shed) as f64;
        let (shared_ms, excess_ms, deviations, lost_ms_per_s) = Default::default();
        Some(Slow { service: *service, now, served, usual, past, shared_ms, excess_ms, deviations, lost_ms_per_s })
    };
    scene.window.services.iter().filter_map(compared).collect()
}

/// The excess of the service in the middle.
fn shared(services: &[Slow]) -> f64 {
    if services.len() < MIN_SHARING {
        return 0.0;
    }
    let mut excesses: Vec<f64> = services.iter().map(|slow| slow.now.median - slow.usual.median).collect();
    excesses.sort_by(f64::total_cmp);
    // of an even number the lower: two slow services of four share nothing
    excesses[(excesses.len() - 1) / 2].max(0.0)
}

/// A service that is slow by its own doing.
pub(super) fn bottleneck(scene: &Scene, slow: &Slow) -> Suspicion {
    let text = scene.text(slow.service);
    let (now_ms, usual_ms) = (slow.now.median, slow.usual.median);
    let served = scene.facts.services.get(&slow.service);
    let own = served.map(|served| served.own.as_slice()).unwrap_or_default();
    Suspicion {
        operation: only_operation(&scene.window.services, slow.service),
        lost_ms_per_s: slow.lost_ms_per_s,
        confidence: confidence(slow.deviations, slow.now.requests, slow.usual.windows),
        onset: onset::began(own, f64::midpoint(now_ms, usual_ms), scene.start()),
        summary: format!("{text} is slow by itself: {now_ms:.0} ms own time instead of {usual_ms:.0} ms"),
        action: action::bottleneck(scene, slow),
        evidence: evidence(scene, slow),
        ..Suspicion::of(Kind::Bottleneck, slow.service, scene)
    }
}

fn evidence(scene: &Scene, slow: &Slow) -> Vec<Evidence> {
    let text = scene.text(slow.service);
    let Slow { now, usual, past, shared_ms, deviations, .. } = slow;
    let usually = match past {
        Past::Minutes => "usually",
        Past::Hours => "over the last hours",
    };
    let sentence = format!(
        "own time of {text} is {:.1} ms, {usually} {:.1} ms ({deviations:.0} standard deviations)",
        now.median, usual.median
    );
    let sql = statements::durations(text, &scene.shown());
    let mut evidence = vec![Evidence::number(sentence, now.median, "ms").with_sql(sql)];
    if *shared_ms >= SHARED_WORTH_SAYING * slow.excess_ms {
        let sentence = format!("most services are {shared_ms:.1} ms slower; that is taken off");
        evidence.push(Evidence::number(sentence, *shared_ms, "ms"));
    }
    if let Some((slowest_ms, trace)) = scene.facts.services.get(&slow.service).and_then(|served| served.slowest) {
        let sentence = format!("the slowest request spent {slowest_ms:.0} ms in it");
        evidence.push(Evidence::number(sentence, slowest_ms, "ms").with_trace(Some(trace)));
    }
    if let Some(service) = scene.window.services.get(&slow.service) {
        evidence.extend(station(service));
    }
    evidence
}

/// What its queue says.
pub(super) fn station(service: &ServiceWindow) -> Vec<Evidence> {
    let served = service.service_time().map(|(service_ms, _)| {
        Evidence::number(format!("service time from departures is {service_ms:.1} ms"), service_ms, "ms")
    });
    let waits = mean(&service.app_wait_ms)
        .map(|wait_ms| Evidence::number(format!("requests wait {wait_ms:.1} ms for its workers"), wait_ms, "ms"));
    served.into_iter().chain(waits).collect()
}

fn only_operation(services: &BTreeMap<Name, ServiceWindow>, service: Name) -> Option<Name> {
    let operations = &services.get(&service)?.operations;
    operations.keys().next().map(|(operation, _)| *operation).filter(|_| operations.len() == 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// One operation with nine requests spoke for eleven of others that had become ten times as slow.
    #[test]
    fn an_operation_does_not_speak_for_more_requests_that_nobody_can_judge() {
        let with = |small: &[usize]| {
            let of_small = small.iter().map(|requests| vec![100.0; *requests]);
            let own: BTreeMap<Name, Vec<f64>> = (1..).zip([vec![10.0; 9]].into_iter().chain(of_small)).collect();
            take_as_long(&own, |_| Some(10.0), (0.0, 90.0))
        };
        assert!(with(&[]));
        assert!(with(&[3, 3, 3]), "nine of eighteen");
        assert!(!with(&[3, 2, 2, 2, 2]), "eleven of twenty");
    }
}
