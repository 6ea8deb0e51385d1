//! Replicas that are slow beside their siblings.
//!
//! A replica's median own time over the median of its siblings', in logarithms, against what that ratio was: hardware may
//! differ for good. Its siblings must be as usual themselves, or the service is slow and not the replica. Two
//! siblings, or one that the window has requests enough of.

use super::{
    action, budget,
    kind::Kind,
    scene::{LEAST_MS, MIN_IMPACT, MIN_RATIO, MIN_REQUESTS, Scene},
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Sample, median},
};
use crate::{
    snapshot::Evidence,
    spans::Name,
    window::{InstanceWindow, ServiceWindow},
};

/// Requests of each where there is only one sibling.
const MIN_OF_A_PAIR: u32 = 30;

/// A sibling is healthy up to so many times the usual own time of the service.
const HEALTHY: f64 = 1.25;

/// Comparing replicas of one window needs no history: as many windows as make a threshold steady.
const AS_WINDOWS: usize = 30;

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

impl Replica {
    /// Logarithm of its own time over its siblings'.
    pub(super) fn log_ratio(&self) -> Option<Sample> {
        let ratio = self.now.median / self.siblings.median;
        (ratio > 0.0 && ratio.is_finite()).then_some(Sample {
            median: ratio.ln(),
            spread: 0.0,
            requests: self.now.requests,
        })
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
        let slow = replicas(service).into_iter().filter_map(|replica| suspicion(scene, *name, service, &replica));
        slow.max_by(|a, b| a.lost_ms_per_s.total_cmp(&b.lost_ms_per_s))
    };
    scene.window.services.iter().filter_map(of).collect()
}

fn suspicion(scene: &Scene, name: Name, service: &ServiceWindow, replica: &Replica) -> Option<Suspicion> {
    let usual_ratio = scene.history.replicas.usual((name, replica.instance)).map_or(1.0, |usual| usual.median.exp());
    let usual_ms = scene.history.own_ms.usual(name).map(|usual| usual.median)?;
    let Replica { now, requests, siblings, others, .. } = replica;
    let expected_ms = siblings.median * usual_ratio.max(1.0);
    let excess_ms = now.median - expected_ms;
    let deviations = excess_ms / deviation(now, siblings);
    let request_ms = scene.usual_request_ms(name).unwrap_or(usual_ms);
    let share = *requests as f64 / service.requests.max(1) as f64;
    let healthy = siblings.median <= HEALTHY * usual_ms;
    let slow = now.median >= MIN_RATIO * expected_ms
        && excess_ms >= MIN_IMPACT * request_ms
        && deviations >= budget::deviations(AS_WINDOWS);
    if !healthy || !slow {
        return None;
    }
    let (text, instance) = (scene.text(name), scene.text(replica.instance));
    let sentence = format!(
        "{instance} takes {:.1} ms, its {others} siblings {:.1} ms ({deviations:.0} standard deviations)",
        now.median, siblings.median
    );
    let evidence = Evidence::number(sentence, now.median, "ms").with_sql(statements::instances(text, &scene.shown()));
    let slowest = scene.facts.services.get(&name).and_then(|served| served.slowest).map(|(_, trace)| trace);
    Some(Suspicion {
        instance: Some(replica.instance),
        lost_ms_per_s: excess_ms * *requests as f64 / scene.seconds(),
        touched: share,
        confidence: confidence(deviations, now.requests, AS_WINDOWS),
        summary: format!(
            "{instance} of {text} is slow beside its siblings: {:.0} ms own time, theirs {:.0} ms",
            now.median, siblings.median
        ),
        action: action::slow_instance(text, instance, share, *others),
        evidence: vec![evidence.with_trace(slowest)],
        ..Suspicion::of(Kind::SlowInstance, name, scene)
    })
}

/// Of the difference of two medians, if the replica were like its siblings: its own spread is widened by what is wrong.
fn deviation(now: &Sample, siblings: &Sample) -> f64 {
    let each = |sample: &Sample| 1.0 / f64::from(sample.requests.max(1));
    let within = (1.858 * siblings.spread).powi(2) * (each(now) + each(siblings));
    (within + (0.05 * siblings.median).powi(2) + LEAST_MS.powi(2)).sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        spans::Span,
        window::{Own, add_request},
    };

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
