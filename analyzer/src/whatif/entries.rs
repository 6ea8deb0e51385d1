//! [`predict`]: a request at an entry, then.
//!
//! Recorded requests are timed again ([`crate::retiming`]), own work of each service scaled so that its mean changes by what was found for
//! it: of calls beside each other whichever is the last then counts. Without recorded requests, what each service adds counts
//! by its visits and the share of their time that was critical. No request takes less than the known queues on its way.

use std::{collections::BTreeMap, sync::Arc};

use super::{
    EntryPrediction,
    queues::{Effect, Range},
    traffic::visits,
};
use crate::{
    estimate::interval::NINETY_FIVE,
    moments::Moments,
    retiming::Request,
    snapshot::{ServiceView, Snapshot, Steady},
};

/// Fewer recorded requests say less than the shares of edges.
const MIN_REQUESTS: usize = 30;

pub(super) fn predict(entry: &ServiceView, snapshot: &Snapshot, effects: &BTreeMap<&str, Effect>) -> EntryPrediction {
    let now = entry.estimate.steady.as_ref().map_or(entry.duration_ms_mean, |steady| steady.duration_ms);
    let critical = visits(&entry.service, snapshot, true);
    let summed = summed(&critical, effects);
    let recorded: Vec<&Request<Arc<str>>> =
        snapshot.requests.iter().filter(|request| *request.service == *entry.service).collect();
    let retimed = (recorded.len() >= MIN_REQUESTS).then(|| retimed(&recorded, effects)).flatten();
    let added = summed.map(|summed| match &retimed {
        Some((value, error)) => Range { value: *value, ..summed.widened(*error) },
        None => summed,
    });
    // what is measured now is one stretch of what could have been
    let chance =
        entry.estimate.steady.as_ref().map_or(0.0, chance_ms).max(NINETY_FIVE * noise_ms(entry, &critical, effects));
    let added = added.map(|added| added.widened(chance));
    let on_the_way = visits(&entry.service, snapshot, false).into_keys();
    let not_identified = on_the_way.filter(|service| effects.get(service).is_some_and(|effect| !effect.identified));
    let least = least(&critical, effects);
    let then = added.map(|added| then(now, added, least));
    EntryPrediction {
        entry: entry.service.clone(),
        response_time_ms: now,
        response_time_ms_then: then.map(|then| then.value),
        low_ms: then.map(Range::low),
        high_ms: then.and_then(Range::high),
        requests: if retimed.is_some() { recorded.len() as u64 } else { 0 },
        not_identified: not_identified.map(str::to_owned).collect(),
    }
}

/// Half of the 95 % interval of the mean that is measured, by its scatter between n windows: Student's `t ≈ z + (z³ + z)/(4(n − 1))`, for a
/// scatter between few is itself a guess (E. Cornish and R. Fisher, Revue de l'Institut International de Statistique 5, 1938).
fn chance_ms(steady: &Steady) -> f64 {
    let freedom = f64::from(steady.windows.max(2) - 1);
    let t = NINETY_FIVE + (NINETY_FIVE.powi(3) + NINETY_FIVE) / (4.0 * freedom);
    t * steady.duration_ms_deviation.unwrap_or(0.0)
}

/// Standard deviation of the mean response that is measured over the entry's last requests that are alike, by the queues on the way: windows
/// follow each other too closely to show all of it by their scatter, and where something changed lately there are too few of them to show any.
fn noise_ms(entry: &ServiceView, critical: &BTreeMap<&str, f64>, effects: &BTreeMap<&str, Effect>) -> f64 {
    let samples = entry.estimate.steady.as_ref().map_or(entry.estimate.samples, |steady| steady.samples).max(1) as f64;
    // a request that visits a queue n times has n of its waits, over n times as many visits
    let noise =
        |(service, visits): (&&str, &f64)| Some(effects.get(service)?.noise_of_one_ms * (visits / samples).sqrt());
    critical.iter().filter_map(noise).fold(0.0, f64::hypot)
}

/// What is measured and what comes to it; when it gets less, no less than what the known queues on the way take by themselves then.
///
/// What is measured is a mean over a while. Where a queue grew in that while, its newest wait can be more than all of that mean,
/// and what is saved of such a wait is not saved of the mean.
pub(super) fn then(now: f64, added: Range, least: Range) -> Range {
    let least_value = least.value.min(now + added.value.max(0.0));
    let value = (now + added.value).max(least_value);
    let low = (now + added.value - added.below).max(least.low().min(least_value));
    Range { value, below: value - low, above: added.above }
}

/// What each service adds, by how often it is waited for; `None` when one saturates.
fn summed(critical: &BTreeMap<&str, f64>, effects: &BTreeMap<&str, Effect>) -> Option<Range> {
    let waited_for = critical.iter().filter(|(_, visits)| **visits > 0.0);
    let effects = waited_for.filter_map(|(service, visits)| Some((*visits, effects.get(service)?)));
    let added: Option<Vec<(f64, Range)>> = effects.map(|(visits, effect)| Some((visits, effect.added?))).collect();
    Some(Range::sum(added?.into_iter()))
}

/// What the known queues on the way take then.
fn least(critical: &BTreeMap<&str, f64>, effects: &BTreeMap<&str, Effect>) -> Range {
    Range::sum(critical.iter().filter_map(|(service, visits)| Some((*visits, effects.get(service)?.residence_then?))))
}

/// What recorded requests take more on average, and how far that may be off for want of more of them.
fn retimed(recorded: &[&Request<Arc<str>>], effects: &BTreeMap<&str, Effect>) -> Option<(f64, f64)> {
    let mut own: BTreeMap<&str, Moments> = BTreeMap::new();
    recorded.iter().for_each(|request| {
        request.each(&mut |part| own.entry(&part.service).or_default().add(part.own_ms()));
    });
    let mut slower: BTreeMap<&str, f64> = BTreeMap::new();
    for (service, own) in &own {
        let mean = own.mean()?;
        let added = effects.get(service).map_or(Some(0.0), |effect| effect.added.map(|added| added.value))?;
        slower.insert(service, if mean > 0.0 { ((mean + added) / mean).max(0.0) } else { 1.0 });
    }
    let by_service = |service: &Arc<str>| slower.get(&**service).copied().unwrap_or(1.0);
    let more: Vec<f64> = recorded.iter().map(|request| request.retimed_ms(&by_service) - request.duration_ms).collect();
    let mean = more.iter().sum::<f64>() / more.len() as f64;
    let variance = more.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (more.len() - 1) as f64;
    Some((mean, NINETY_FIVE * (variance / more.len() as f64).sqrt()))
}
