//! Services that are loaded and not slow: the entry above them has far more arrivals than before, and each request is
//! served as fast as ever.
//!
//! Arrivals are counted by when requests came, not by when they ended: a full service completes no more than it can.
//! Of the requests that ended in a window, the tenth that came first and the tenth that came last are left out,
//! because they are stragglers of other windows. Whether a service serves slower is asked of its service time from
//! departures; where that is not known, the surge is taken to explain the wait.

use super::{
    action,
    kind::Kind,
    own_time::{Past, Slow, station},
    scene::{LEAST_MS, Scene},
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Sample, Usual},
};
use crate::{snapshot::Evidence, spans::Name, window::ServiceWindow};

/// Arrivals above those of all but a tenth of history's windows, as a factor: where the service time is known to
/// be as usual, and where it is not known at all.
const ABOVE_MOST: f64 = 1.1;
const FAR_ABOVE_MOST: f64 = 1.5;

/// A service time of so many times the usual is slower.
const SLOWER: f64 = 1.25;

/// Deviations that make it so.
const GATE: f64 = 3.0;

/// Share of arrivals left out at either end.
const STRAGGLERS: f64 = 0.1;

/// Times between arrivals that tell a rate.
const MIN_ARRIVALS: usize = 8;

/// An entry with far more arrivals than before.
#[derive(Clone, Copy, Debug)]
pub(super) struct Surge {
    pub(super) entry: Name,
    now: Sample,
    usual: Usual,
    deviations: f64,
}

/// Requests that arrived per second; the spread is that of Poisson's arrivals. Of a sampled stream those that were seen
/// came in the time, and all they stand for with them.
pub(super) fn arrivals(service: &ServiceWindow) -> Option<Sample> {
    let between = &service.interarrival_ms;
    let stragglers = (between.len() as f64 * STRAGGLERS) as usize;
    let seen = between.len() - 2 * stragglers;
    let middle = between.iter().skip(stragglers).take(seen);
    let (ms, arrived) = middle.fold((0.0, 0.0), |(ms, arrived), (between, weight)| (ms + between, arrived + weight));
    let rate = 1e3 * arrived / ms;
    let requests = u32::try_from(seen).unwrap_or(u32::MAX);
    (seen >= MIN_ARRIVALS && ms > 0.0).then_some(Sample { median: rate, spread: 0.6 * rate, requests })
}

/// Service time from departures, without what servers are held for, for whether they are may be found out later; its spread that of its mean.
pub(super) fn service_time(service: &ServiceWindow) -> Option<Sample> {
    let (mean_ms, cs2) = service.service_time()?;
    let requests = u32::try_from(service.service_ms.len()).unwrap_or(u32::MAX);
    let own_ms = (mean_ms - service.station.held_ms.unwrap_or(0.0)).max(0.0);
    Some(Sample { median: own_ms, spread: 0.54 * cs2.sqrt() * mean_ms, requests })
}

/// The surge that explains why a service takes longer.
pub(super) fn behind(scene: &Scene, slow: &Slow) -> Option<Surge> {
    behind_past(scene, slow.service, slow.past)
}

pub(super) fn behind_past(scene: &Scene, service: Name, past: Past) -> Option<Surge> {
    let usual = match past {
        Past::Minutes => scene.history.service_ms.usual(service),
        Past::Hours => scene.history.service_hours.get(service).and_then(|hours| hours.usual(scene.min_history)),
    };
    let now = scene.window.services.get(&service).and_then(service_time);
    let Some((now, usual)) = now.zip(usual) else { return surge(scene, service, past, FAR_ABOVE_MOST) };
    let deviations = (now.median - usual.median) / usual.deviation(now.requests, LEAST_MS);
    let serves_slower = now.median > SLOWER * usual.median && deviations > GATE;
    if serves_slower { None } else { surge(scene, service, past, ABOVE_MOST) }
}

fn surge(scene: &Scene, service: Name, past: Past, above_most: f64) -> Option<Surge> {
    let entry = scene.entry(service)?;
    let usual = match past {
        Past::Minutes => {
            let arrivals = scene.history.arrivals.get(entry).and_then(Usual::of_older);
            arrivals.filter(|usual| scene.is_known(usual.windows))?
        }
        Past::Hours => scene.history.arrival_hours.get(entry)?.usual(scene.min_history)?,
    };
    let now = arrivals(scene.window.services.get(&entry)?)?;
    let deviations = (now.median - usual.median) / usual.deviation(now.requests, 0.0);
    let surges = now.median >= above_most * usual.most && deviations > GATE;
    surges.then_some(Surge { entry, now, usual, deviations })
}

/// One suspicion an entry: what it overloads.
pub(super) fn suspicions(scene: &Scene, loaded: &[(Surge, Slow)]) -> Vec<Suspicion> {
    let mut entries: Vec<Name> = loaded.iter().map(|(surge, _)| surge.entry).collect();
    entries.sort_unstable();
    entries.dedup();
    let of = |entry: Name| {
        let loaded: Vec<(Surge, Slow)> = loaded.iter().filter(|(surge, _)| surge.entry == entry).copied().collect();
        let (surge, most) = loaded.iter().max_by(|a, b| a.1.excess_ms.total_cmp(&b.1.excess_ms))?;
        let all: Vec<Slow> = loaded.iter().map(|(_, slow)| *slow).collect();
        Some(suspicion(scene, surge, most, &all))
    };
    entries.into_iter().filter_map(of).collect()
}

fn suspicion(scene: &Scene, surge: &Surge, most: &Slow, loaded: &[Slow]) -> Suspicion {
    let service = scene.text(most.service);
    let mut evidence = Vec::new();
    let sentence = format!("{service} takes {:.1} ms, usually {:.1} ms", most.now.median, most.usual.median);
    let slowest = scene.facts.services.get(&most.service).and_then(|served| served.slowest);
    evidence.push(
        Evidence::number(sentence, most.now.median, "ms")
            .with_trace(slowest.map(|(_, trace)| trace))
            .with_sql(statements::durations(service, &scene.shown())),
    );
    evidence.extend(scene.window.services.get(&most.service).map(station).unwrap_or_default());
    let of_surge = of_service(scene, surge, most.service);
    Suspicion {
        touched: scene.reach(surge.entry, most.service),
        lost_ms_per_s: loaded.iter().map(|slow| slow.lost_ms_per_s).sum(),
        confidence: confidence(surge.deviations.min(most.deviations), surge.now.requests, surge.usual.windows),
        evidence: of_surge.evidence.iter().cloned().chain(evidence).collect(),
        victims: loaded.iter().map(|slow| slow.service).filter(|service| *service != surge.entry).collect(),
        ..of_surge
    }
}

/// That a surge loads a service, before it is known how much.
pub(super) fn of_service(scene: &Scene, surge: &Surge, service: Name) -> Suspicion {
    let (entry, loaded) = (scene.text(surge.entry), scene.text(service));
    let (now, usual) = (surge.now.median, surge.usual.median);
    let sentence = format!(
        "{now:.1} requests/s arrive at {entry}, usually {usual:.1} ({:.0} standard deviations)",
        surge.deviations
    );
    let sql = statements::durations(entry, &scene.shown());
    let times = now / usual.max(1e-9);
    Suspicion {
        peer: Some(service),
        summary: format!("{times:.1} times the usual requests arrive at {entry}: {loaded} is loaded, not slow"),
        action: action::surge(scene, surge.entry, service, usual),
        evidence: vec![Evidence::number(sentence, now, "1/s").with_sql(sql)],
        victims: [service].into_iter().filter(|service| *service != surge.entry).collect(),
        ..Suspicion::of(Kind::UpstreamSurge, surge.entry, scene)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Whether threads are held for calls is found out at some time: from one window to the next S is longer, and nobody slower.
    #[test]
    fn a_service_is_no_slower_when_it_is_found_out_what_its_servers_are_held_for() {
        let of = |service_ms: f64, held_ms: Option<f64>| {
            let mut service = ServiceWindow { service_ms: vec![service_ms; 100], ..ServiceWindow::default() };
            service.station.held_ms = held_ms;
            service_time(&service).unwrap().median
        };
        assert_eq!((of(5.0, None), of(105.0, Some(100.0))), (5.0, 5.0));
    }

    #[test]
    fn arrivals_of_a_sampled_stream_are_those_of_the_whole() {
        let mut sampled = ServiceWindow::default();
        let mut whole = ServiceWindow::default();
        (0..400).for_each(|_| whole.interarrival_ms.push(10.0, 1));
        (0..40).for_each(|_| sampled.interarrival_ms.push(100.0, 10));
        let (of_whole, of_sampled) = (arrivals(&whole).unwrap(), arrivals(&sampled).unwrap());
        assert!((of_whole.median - 100.0).abs() < 1e-9 && (of_sampled.median - 100.0).abs() < 1e-9);
        assert_eq!((of_whole.requests, of_sampled.requests), (320, 32), "and a tenth as sure");
        assert_eq!(arrivals(&ServiceWindow::default()), None);
    }
}
