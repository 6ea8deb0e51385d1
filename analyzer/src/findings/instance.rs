//! Replicas that are slow beside their siblings.
//!
//! A replica's median own time over the median of its siblings', in logarithms, against what that ratio was: hardware may
//! differ for good. Its siblings must be as usual themselves, or the service is slow and not the replica. Two
//! siblings, or one that the window has requests enough of.
//!
//! Own time holds the wait for workers, and waits of one busy period are one: a hundred requests behind each other say as much as one. So
//! where replicas are known to serve alike, with as many servers, their service times decide, which are independent. Else the ratio
//! is divided by what it varies by between windows beyond what independent requests would make of it, seen at all replicas
//! of the service (batch means: A. M. Law and W. D. Kelton, Simulation Modeling and Analysis, 9.5). Healthy replicas
//! of two servers at ρ = 0.8 are a factor of 1.5 apart in one window of three.

use std::cell::OnceCell;

use super::{
    action, budget,
    facts::Facts,
    kind::Kind,
    scene::{LEAST_MS, MIN_IMPACT, MIN_RATIO, MIN_REQUESTS, Scene},
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Sample, Usual},
};
use crate::{
    moments::Moments,
    robust::median,
    servers::{Discipline, Station},
    snapshot::Evidence,
    spans::Name,
    stations::ReplicaWindow,
    window::{InstanceWindow, ServiceWindow},
};

/// Requests of each where there is only one sibling.
const MIN_OF_A_PAIR: u32 = 30;

/// A sibling is healthy up to so many times the usual own time of the service.
const HEALTHY: f64 = 1.25;

/// Comparing service times of one window needs no history: as many windows as make a threshold steady.
const AS_WINDOWS: usize = 30;

/// A spread of a normal value to the standard error of its median, times the root of how many: 1.4826 √(π/2).
const OF_SPREAD: f64 = 1.858;

/// A share of the siblings' time that is nothing.
const LEAST_SHARE: f64 = 0.05;

/// A replica beside its siblings.
#[derive(Clone, Copy, Debug)]
pub(super) struct Replica {
    pub(super) instance: Name,
    now: Sample,
    /// What its requests stand for.
    requests: u64,
    siblings: Sample,
    /// How many.
    others: usize,
}

/// By how much a replica is slower than its siblings.
#[derive(Clone, Copy, Debug)]
struct Slower {
    deviations: f64,
    /// Windows that tell what is chance.
    windows: usize,
}

impl Replica {
    /// Logarithm of its own time over its siblings'; the spread is its error if all requests were independent.
    pub(super) fn log_ratio(&self) -> Option<Sample> {
        let ratio = self.now.median / self.siblings.median;
        (ratio > 0.0 && ratio.is_finite()).then_some(Sample {
            median: ratio.ln(),
            spread: self.error_if_independent() / self.siblings.median,
            requests: self.now.requests,
        })
    }

    /// Of the difference of two medians, if the replica were like its siblings: its own spread is widened by what is wrong.
    fn error_if_independent(&self) -> f64 {
        let each = |sample: &Sample| 1.0 / f64::from(sample.requests.max(1));
        OF_SPREAD * self.siblings.spread * (each(&self.now) + each(&self.siblings)).sqrt()
    }
}

/// Each replica of a service that has siblings, with requests enough.
pub(super) fn replicas(service: &ServiceWindow) -> Vec<Replica> {
    let least = if service.by_instance.len() == 2 { MIN_OF_A_PAIR } else { MIN_REQUESTS };
    let sampled = service.by_instance.iter().filter_map(|(name, window)| Some((*name, sample(window)?)));
    let all: Vec<(Name, Sample)> = sampled.filter(|(_, sample)| sample.requests >= least).collect();
    let beside = |(instance, now): &(Name, Sample)| {
        let others: Vec<&Sample> = all.iter().filter(|(name, _)| name != instance).map(|(_, sample)| sample).collect();
        let requests = service.by_instance[instance].served.sum();
        let siblings = Sample {
            median: median(others.iter().map(|sample| sample.median).collect())?,
            spread: median(others.iter().map(|sample| sample.spread).collect())?,
            requests: others.iter().map(|sample| sample.requests).sum(),
        };
        Some(Replica { instance: *instance, now: *now, requests, siblings, others: others.len() })
    };
    all.iter().filter_map(beside).collect()
}

fn sample(window: &InstanceWindow) -> Option<Sample> {
    let at = |q| window.own_ms.quantile(q);
    Some(Sample { median: at(0.5)?, spread: (at(0.75)? - at(0.25)?) / 2.0, requests: window.served.effective() })
}

/// The slowest replica of each service, where it is slow.
pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let of = |(name, service): (&Name, &ServiceWindow)| {
        let replicas = replicas(service);
        // hundreds of replicas are compared with one scatter
        let scatter = OnceCell::new();
        let scatter = || *scatter.get_or_init(|| self::scatter(scene, *name, &replicas));
        let slow = replicas.iter().filter_map(|replica| suspicion(scene, *name, service, replica, &scatter));
        slow.max_by(|a, b| a.lost_ms_per_s.total_cmp(&b.lost_ms_per_s))
    };
    scene.window.services.iter().filter_map(of).collect()
}

fn suspicion(
    scene: &Scene,
    name: Name,
    service: &ServiceWindow,
    replica: &Replica,
    scatter: &impl Fn() -> Option<Scatter>,
) -> Option<Suspicion> {
    let usual_ratio = scene.history.replicas.usual((name, replica.instance)).map_or(1.0, |usual| usual.median.exp());
    let usual_ratio = usual_ratio.max(1.0);
    let usual_ms = scene.history.own_ms.usual(name).map(|usual| usual.median)?;
    let Replica { now, requests, siblings, others, .. } = replica;
    let expected_ms = siblings.median * usual_ratio;
    let excess_ms = now.median - expected_ms;
    let request_ms = scene.usual_request_ms(name).unwrap_or(usual_ms);
    let share = *requests as f64 / service.requests.max(1) as f64;
    let healthy = siblings.median <= HEALTHY * usual_ms;
    let slow = now.median >= MIN_RATIO * expected_ms && excess_ms >= MIN_IMPACT * request_ms;
    if !healthy || !slow {
        return None;
    }
    let slower = by_service_time(service, replica.instance, usual_ratio).or_else(|| {
        Some(by_own_time(replica, expected_ms, scatter().filter(|scatter| scene.is_known(scatter.windows))?))
    })?;
    let Slower { deviations, windows } = slower;
    if deviations < budget::deviations(windows) {
        return None;
    }
    let (text, instance) = (scene.text(name), scene.text(replica.instance));
    let sentence = format!(
        "{instance} takes {:.1} ms, its {others} siblings {:.1} ms ({deviations:.0} standard deviations)",
        now.median, siblings.median
    );
    let evidence = Evidence::number(sentence, now.median, "ms").with_sql(statements::instances(text, &scene.shown()));
    Some(Suspicion {
        instance: Some(replica.instance),
        lost_ms_per_s: excess_ms * *requests as f64 / scene.seconds(),
        touched: share,
        confidence: confidence(deviations, now.requests, windows),
        summary: format!(
            "{instance} of {text} is slow beside its siblings: {:.0} ms own time, theirs {:.0} ms",
            now.median, siblings.median
        ),
        action: action::slow_instance(text, instance, share, *others),
        evidence: vec![evidence.with_trace(slowest(scene.facts, name, replica.instance))],
        ..Suspicion::of(Kind::SlowInstance, name, scene)
    })
}

/// The request that spent most time in a replica.
fn slowest(facts: &Facts, service: Name, instance: Name) -> Option<u128> {
    facts.services.get(&service)?.slowest_of.get(&instance).map(|(_, trace)| *trace)
}

/// By service times from departures; `None` where replicas do not all serve alike, or one is not known.
fn by_service_time(service: &ServiceWindow, instance: Name, usual_ratio: f64) -> Option<Slower> {
    let visited = service.station.replicas.iter().filter(|replica| replica.visits > 0);
    let (its, siblings): (Vec<_>, Vec<_>) = visited.partition(|replica| replica.instance == Some(instance));
    let its = its.first()?;
    let kind = |replica: &ReplicaWindow| {
        let discipline = replica.found.map_or(Discipline::Fifo, |Station { discipline, .. }| discipline);
        Some((replica.servers?, std::mem::discriminant(&discipline)))
    };
    let as_its = kind(its)?;
    if siblings.iter().any(|sibling| kind(sibling) != Some(as_its)) {
        return None;
    }
    let theirs = siblings.iter().fold(Moments::default(), |mut all, sibling| {
        all.merge(&sibling.service_ms);
        all
    });
    let (now_ms, usual_ms, cs2) = (its.service_ms.mean()?, theirs.mean()?, theirs.scv()?);
    let chance = usual_ms.powi(2) * (cs2 * (1.0 / its.service_ms.count() + 1.0 / theirs.count()) + LEAST_SHARE.powi(2));
    let deviations = (now_ms - usual_ms * usual_ratio) / (chance + LEAST_MS.powi(2)).sqrt();
    Some(Slower { deviations, windows: AS_WINDOWS })
}

/// By own times, against what replicas of the service differ by.
fn by_own_time(replica: &Replica, expected_ms: f64, scatter: Scatter) -> Slower {
    let Scatter { beyond, windows } = scatter;
    let Replica { now, siblings, .. } = replica;
    let error = replica.error_if_independent().powi(2) + (LEAST_SHARE * siblings.median).powi(2) + LEAST_MS.powi(2);
    let by_chance = (now.median - expected_ms) / error.sqrt();
    // a queue is a multiple of another: by how much is judged in logarithms
    let by_queues = (now.median / expected_ms).ln() / beyond;
    let deviations = by_chance.signum() * (by_chance.powi(-2) + by_queues.powi(-2)).sqrt().recip();
    Slower { deviations, windows }
}

/// What the logarithm of a replica's own time over its siblings' varies by between windows, beyond what independent requests would make of it.
#[derive(Clone, Copy, Debug)]
struct Scatter {
    /// Its standard deviation.
    beyond: f64,
    /// Over how many windows that was seen.
    windows: usize,
}

/// Of the replicas of this window: those that are gone were as many windows ago as idle as others are now.
fn scatter(scene: &Scene, name: Name, replicas: &[Replica]) -> Option<Scatter> {
    let usual = |replica: &Replica| scene.history.replicas.usual((name, replica.instance));
    let usual: Vec<Usual> = replicas.iter().filter_map(usual).collect();
    let variance = median(usual.iter().map(Usual::beyond_within).collect())?;
    let windows = usual.iter().map(|usual| usual.windows).max()?;
    Some(Scatter { beyond: variance.sqrt(), windows })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spans::Span,
        window::{Own, add_request},
    };

    /// The trace that was shown was the slowest of the service, of whichever replica.
    #[test]
    fn the_trace_of_a_replica_is_one_that_it_served() {
        let request = |trace: u128, instance: Name, duration_ns: i64| {
            vec![Span { trace, id: 1, service: 3, instance: Some(instance), duration_ns, ..Span::default() }]
        };
        let facts = Facts::of(&[request(1, 7, 20), request(2, 7, 40), request(3, 8, 900), request(4, 7, 30)]);
        assert_eq!([7, 8, 9].map(|instance| slowest(&facts, 3, instance)), [Some(2), Some(3), None]);
    }

    #[test]
    fn a_replica_is_known_by_the_requests_that_were_seen_however_much_they_weigh() {
        let service = |weight: u32, of_each: u32| {
            let mut service = ServiceWindow::default();
            for n in 0..2 * of_each {
                let span = Span { instance: Some(10 + n % 2), weight, sampled: weight > 1, ..Span::default() };
                // one of them takes ten times as long
                let own = Own { ns: if n % 2 == 0 { 5_000_000 } else { 50_000_000 }, call_failed: false };
                add_request(&mut service, &span, Some(own));
            }
            service
        };
        assert_eq!(replicas(&service(1, MIN_OF_A_PAIR)).len(), 2);
        assert_eq!(replicas(&service(1, MIN_OF_A_PAIR - 1)).len(), 0);
        assert_eq!(replicas(&service(100, 1)).len(), 0, "one request that stands for a hundred is one");
        let sampled = replicas(&service(100, MIN_OF_A_PAIR));
        assert_eq!((sampled[0].now.requests, sampled[0].requests), (MIN_OF_A_PAIR, 100 * u64::from(MIN_OF_A_PAIR)));
    }
}
