//! Where errors begin: requests that fail while no call of theirs failed, and peers without spans to whom calls fail.
//!
//! A caller that only passes an error on has a failed call, so it is not the source. Policy that sheds and clients that
//! leave are nobody's error.

use super::{
    action, budget,
    kind::Kind,
    scene::Scene,
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Share, UsualShare},
};
use crate::{snapshot::Evidence, spans::Name, window::ServiceWindow};

/// Share of errors above the usual that is worth a name.
const MIN_ABOVE: f64 = 0.02;

/// Times the usual share.
const MIN_RATIO: f64 = 2.0;

/// Errors in a window that are more than an accident.
const MIN_ERRORS: u32 = 3;

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let services = scene.window.services.iter().filter_map(|(name, service)| of_service(scene, *name, service));
    services.chain(of_peers(scene)).collect()
}

/// Requests that fail by the service's own doing. Chance is judged by the requests that were seen, not by how many they
/// stand for.
pub(super) fn own_errors(service: &ServiceWindow) -> Share {
    Share::weighed(service.own_errors, service.known_calls)
}

/// By how many deviations a share of errors is too high; `None` when it is not.
fn too_many(scene: &Scene, now: Share, usual: Option<UsualShare>) -> Option<(f64, UsualShare)> {
    let usual = usual.filter(|usual| scene.is_known(usual.windows))?;
    let deviations = usual.deviations(now);
    let many = now.hits >= MIN_ERRORS && now.ratio() >= MIN_RATIO * usual.ratio + MIN_ABOVE;
    (many && deviations >= budget::deviations(usual.windows)).then_some((deviations, usual))
}

fn of_service(scene: &Scene, name: Name, service: &ServiceWindow) -> Option<Suspicion> {
    let now = own_errors(service);
    let (deviations, usual) = too_many(scene, now, scene.history.own_errors.usual_share(name))?;
    let text = scene.text(name);
    let share = now.ratio() * 100.0;
    let served = scene.facts.services.get(&name);
    let sampled = if service.sampled > 0 { "sampled " } else { "" };
    let sentence = format!("{} of {} {sampled}requests failed without a failed call", now.hits, now.of);
    let mut evidence = vec![
        Evidence::number(sentence, share, "%")
            .with_trace(served.and_then(|served| served.failed))
            .with_sql(statements::errors(text, &scene.shown())),
    ];
    let worst = served.and_then(|served| served.failed_by_instance.iter().max_by_key(|(_, errors)| **errors));
    let replicas = service.by_instance.len();
    if let Some((instance, errors)) = worst.filter(|(_, errors)| replicas > 1 && 2 * **errors > now.hits) {
        let sentence = format!("{errors} of them in {}, one of {replicas} replicas", scene.text(*instance));
        evidence.push(Evidence::number(sentence, f64::from(*errors), "errors"));
    }
    Some(Suspicion {
        lost_ms_per_s: service.own_errors as f64 / scene.seconds() * scene.usual_request_ms(name).unwrap_or(0.0),
        touched: now.ratio(),
        confidence: confidence(deviations, now.hits, usual.windows),
        summary: format!("{share:.0} % of requests to {text} fail there, while its own calls succeed"),
        action: action::error_source(text, share),
        evidence,
        ..Suspicion::of(Kind::ErrorSource, name, scene)
    })
}

/// Calls to those who send no spans.
fn of_peers(scene: &Scene) -> Vec<Suspicion> {
    let unseen = scene.facts.calls.iter().filter(|(_, calls)| calls.is_unseen());
    let failing = unseen.filter_map(|((caller, callee), calls)| {
        let now = Share { hits: calls.errors, of: calls.calls };
        let usual = scene.history.call_errors.usual_share((*caller, *callee));
        let (deviations, usual) = too_many(scene, now, usual)?;
        let (from, to) = (scene.text(*caller), scene.text(*callee));
        let share = now.ratio() * 100.0;
        let sentence = format!("{} of {} calls of {from} to {to} failed", now.hits, now.of);
        let evidence = Evidence::number(sentence, share, "%")
            .with_trace(calls.failed)
            .with_sql(statements::calls_to_peer(from, to, &scene.shown()));
        Some(Suspicion {
            peer: Some(*caller),
            lost_ms_per_s: scene.per_s(f64::from(now.hits)) * scene.usual_request_ms(*callee).unwrap_or(0.0),
            touched: now.ratio(),
            confidence: confidence(deviations, now.hits, usual.windows),
            summary: format!("{share:.0} % of calls of {from} to {to} fail"),
            action: action::error_source(to, share),
            evidence: vec![evidence],
            ..Suspicion::of(Kind::ErrorSource, *callee, scene)
        })
    });
    failing.collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spans::Span,
        window::{Own, add_request},
    };

    #[test]
    fn one_sampled_failure_is_one_failure() {
        let mut service = ServiceWindow::default();
        for n in 0..20 {
            let span = Span { error: n == 7, weight: 100, sampled: true, ..Span::default() };
            add_request(&mut service, &span, Some(Own { ns: 1_000_000, call_failed: false }));
        }
        assert_eq!(own_errors(&service), Share { hits: 1, of: 20 });
        assert!(own_errors(&service).hits < MIN_ERRORS);
        assert_eq!((service.requests, service.own_errors), (2_000, 100), "which stands for a hundred");
        // what it called is not known: it may have failed there
        add_request(&mut service, &Span { error: true, ..Span::default() }, None);
        assert_eq!(own_errors(&service), Share { hits: 1, of: 20 });
    }
}
