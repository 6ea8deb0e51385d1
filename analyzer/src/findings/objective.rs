//! Requests that take longer than the objective, and the service at which they wait most: whatever was usual.
//!
//! Of a hundred requests at an entry one may take longer than `slo_ms`. More are counted against it when they are more than chance
//! makes of one in a hundred. Who is to blame is asked of the requests that took longer: the service at which they wait
//! most, if without that wait half of what is too much were gone; else the one whose own time is most of theirs.

use super::{
    action, budget,
    critical::{Path, Spent, waited_ms},
    facts::Entry,
    kind::Kind,
    scene::Scene,
    statements,
    suspicion::{Suspicion, confidence},
    usual::Share,
};
use crate::{retiming::Request, snapshot::Evidence, spans::Name};

/// The share of requests that may take longer: the objective is of 99 in 100.
const ALLOWED: f64 = 0.01;

/// Requests of a window that take longer and are no accident, as of errors.
const MIN_OVER: u32 = 3;

/// A wait explains that requests are too slow if it is this share of what is too much.
const EXPLAINS: f64 = 0.5;

/// An entry that does not keep the objective.
struct Missed<'a> {
    entry: Name,
    requests: &'a Entry,
    slo_ms: f64,
    over: Share,
    deviations: f64,
}

/// Whom requests that took too long lose most at.
struct Blamed {
    spent: Spent,
    /// Whether by waiting.
    waits: bool,
    request_ms: f64,
    /// Its part of all waiting, or of all time.
    share: f64,
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let Some(slo_ms) = scene.levels.slo_ms else { return Vec::new() };
    let entries = scene.facts.entries.iter();
    entries.filter_map(|(entry, requests)| suspicion(scene, &missed(*entry, requests, slo_ms)?)).collect()
}

fn missed(entry: Name, requests: &Entry, slo_ms: f64) -> Option<Missed<'_>> {
    let hits = requests.duration_ms.iter().filter(|ms| **ms > slo_ms).count();
    let over = Share { hits: u32::try_from(hits).unwrap_or(u32::MAX), of: requests.requests };
    let deviations = beyond_allowed(over);
    let missed = over.hits >= MIN_OVER && deviations >= budget::deviations(usize::MAX);
    missed.then_some(Missed { entry, requests, slo_ms, over, deviations })
}

/// Standard deviations above what chance makes of the share that is allowed.
fn beyond_allowed(over: Share) -> f64 {
    let n = f64::from(over.of);
    (f64::from(over.hits) - n * ALLOWED) / (n * ALLOWED * (1.0 - ALLOWED) + 0.25).sqrt()
}

fn suspicion(scene: &Scene, missed: &Missed) -> Option<Suspicion> {
    let blamed = blamed(scene, missed)?;
    let Missed { entry, requests, slo_ms, over, deviations } = *missed;
    let (service, Spent { own_ms, waiting_ms, .. }) = (blamed.spent.service, blamed.spent);
    let (at, text) = (scene.text(entry), scene.text(service));
    let estimate = scene.estimate(service).filter(|_| blamed.waits);
    let busy = estimate.and_then(|estimate| estimate.utilization);
    let spends = match (blamed.waits, busy) {
        (true, Some(rho)) => {
            format!("wait {:.0} ms at {text}, which is {:.0} % busy", waiting_ms.unwrap_or(0.0), rho * 100.0)
        }
        (true, None) => format!("wait {:.0} ms at {text}", waiting_ms.unwrap_or(0.0)),
        (false, _) => format!("spend {own_ms:.0} ms in {text} itself"),
    };
    let share = over.ratio() * 100.0;
    let objective = format!(
        "{} of {} requests at {at} took longer than the objective of {slo_ms:.0} ms, of which one in a hundred may",
        over.hits, over.of
    );
    let where_lost = format!("those that did took {:.0} ms and {spends}", blamed.request_ms);
    let slowest = scene.slowest(service);
    let evidence = [
        Evidence::number(objective, share, "%").with_sql(statements::durations(at, &scene.shown())),
        Evidence::number(where_lost, if blamed.waits { waiting_ms.unwrap_or(0.0) } else { own_ms }, "ms")
            .with_trace(slowest),
    ];
    let known = estimate.map_or(1.0, |estimate| estimate.confidence);
    let beyond_ms: f64 = requests.duration_ms.iter().map(|ms| (ms - slo_ms).max(0.0)).sum();
    Some(Suspicion {
        standing: true,
        lost_ms_per_s: scene.per_s(beyond_ms),
        touched: over.ratio(),
        confidence: confidence(deviations, over.hits, usize::MAX) * blamed.share * known,
        summary: format!("{share:.0} % of requests at {at} take longer than {slo_ms:.0} ms: they {spends}"),
        action: action::objective(scene, service, own_ms),
        evidence: evidence.into(),
        ..Suspicion::of(Kind::Bottleneck, service, scene)
    })
}

/// `None` where no whole request was kept.
fn blamed(scene: &Scene, missed: &Missed) -> Option<Blamed> {
    let of_entry = |request: &&Request<Name>| request.service == missed.entry;
    let slow = |request: &&Request<Name>| request.duration_ms > missed.slo_ms;
    let all = &scene.window.requests;
    // where a client without a server's span is the entry, requests begin at whom it called
    let path = Path::of(all.iter().filter(of_entry).filter(slow)).or_else(|| Path::of(all.iter().filter(slow)))?;
    let spent = path.spent(scene);
    let (all_ms, waited_ms) = (path.request_ms, waited_ms(&spent));
    let waiting_ms = |spent: &Spent| spent.waiting_ms.unwrap_or(0.0);
    let waits = spent.iter().max_by(|a, b| waiting_ms(a).total_cmp(&waiting_ms(b)))?;
    if waiting_ms(waits) >= EXPLAINS * (all_ms - missed.slo_ms) {
        let share = waiting_ms(waits) / waited_ms;
        return Some(Blamed { spent: *waits, waits: true, request_ms: all_ms, share });
    }
    let works = spent.iter().max_by(|a, b| a.own_ms.total_cmp(&b.own_ms))?;
    Some(Blamed { spent: *works, waits: false, request_ms: all_ms, share: works.own_ms / all_ms })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_in_a_hundred_may_and_chance_makes_some_more() {
        let missed = |hits, of| beyond_allowed(Share { hits, of }) >= budget::deviations(usize::MAX);
        for (hits, of, expect) in
            [(1, 30, false), (4, 30, false), (5, 30, true), (10, 1_000, false), (20, 1_000, false), (30, 1_000, true)]
        {
            assert_eq!(missed(hits, of), expect, "{hits} of {of}");
        }
    }
}
