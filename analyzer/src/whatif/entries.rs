//! [`predict`]: a request at an entry, then.
//!
//! 1. With 30 recorded requests or more, each is timed again ([`crate::retiming`]): the own work of each service is scaled so that its mean
//!    changes by what was found for that service, and of parallel calls the one that then ends last counts.
//! 2. With fewer, what each service adds is multiplied by its visits and by the share of their time that was critical.
//! 3. A request takes no less than the known queues on its way do.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

use hashbrown::HashMap;

use super::{
    Basis, EntryPrediction, Mesh,
    queues::{Effect, Range},
    traffic::{Calls, Visits},
};
use crate::{
    estimate::interval::NINETY_FIVE,
    moments::Moments,
    retiming::Request,
    snapshot::{Lately, ServiceView, Snapshot, Steady},
};

/// Fewer recorded requests say less than the shares of edges.
const MIN_REQUESTS: usize = 30;

/// The largest factor on own work of a service in requests that are timed again. It also stands for a queue without bound: a request that takes
/// longer by it waits for that service.
const MOST_SLOWER: f64 = 1e6;

/// Recorded requests by the service they entered at.
pub(super) type Recorded<'a> = HashMap<&'a str, Vec<&'a Request<Arc<str>>>, foldhash::fast::RandomState>;

pub(super) fn recorded(snapshot: &Snapshot) -> Recorded<'_> {
    let mut recorded = Recorded::default();
    snapshot.requests.iter().for_each(|request| recorded.entry(&*request.service).or_default().push(request));
    recorded
}

/// `None` of a service that is not in the snapshot.
pub(super) fn predict(entry: &ServiceView, mesh: &Mesh<'_>) -> Option<EntryPrediction> {
    let Mesh { basis: Basis { calls, recorded, .. }, effects } = mesh;
    let place = calls.place(&entry.service)?;
    let critical = calls.visits(place, true);
    let measured = Measured::of(entry);
    let now = (measured.duration_ms + drift(&measured, &critical, mesh)).max(0.0);
    let summed = summed(&critical, effects);
    let recorded = recorded.get(entry.service.as_str()).map_or(&[][..], Vec::as_slice);
    let retimed = (recorded.len() >= MIN_REQUESTS).then(|| retimed(recorded, calls, effects)).flatten();
    let added = summed.map(|summed| match &retimed {
        Some((value, error)) => Range { value: *value, ..summed.widened(*error) },
        None => summed,
    });
    // what is measured now is one stretch of what could have been
    let chance = measured.chance_ms.max(NINETY_FIVE * noise_ms(&measured, &critical, effects));
    let added = added.filter(|added| added.value.is_finite()).map(|added| added.widened(chance));
    let on_the_way = calls.visits(place, false).into_iter().map(|(place, _)| place);
    let not_identified = on_the_way.filter(|place| !effects[*place].identified || effects[*place].held_for_changed);
    let least = least(&critical, effects);
    let then = added.map(|added| then(now, added, least));
    Some(EntryPrediction {
        entry: entry.service.clone(),
        response_time_ms: now,
        response_time_ms_then: then.map(|then| then.value),
        low_ms: then.map(Range::low),
        high_ms: then.and_then(Range::high),
        requests: if retimed.is_some() { recorded.len() as u64 } else { 0 },
        not_identified: not_identified.map(|place| calls.name(place).to_owned()).collect(),
    })
}

/// What was measured at an entry: over the last windows that are alike, whether or not its own queue is known; else in the newest.
struct Measured {
    duration_ms: f64,
    windows: u32,
    samples: f64,
    /// Half of the 95 % interval of the mean, by its scatter between windows.
    chance_ms: f64,
}

impl Measured {
    fn of(entry: &ServiceView) -> Self {
        let of = |duration_ms, windows, samples: u64, chance_ms| {
            let samples = samples.max(1) as f64;
            Self { duration_ms, windows, samples, chance_ms }
        };
        match (&entry.estimate.steady, &entry.estimate.lately) {
            (Some(Steady { windows, samples, duration_ms, duration_ms_deviation, .. }), _)
            | (None, Some(Lately { windows, samples, duration_ms, duration_ms_deviation, .. })) => {
                of(*duration_ms, *windows, *samples, chance_ms(*windows, *duration_ms_deviation))
            }
            (None, None) => of(entry.duration_ms_mean, 1, entry.estimate.samples, 0.0),
        }
    }
}

/// Half of the 95 % interval of the mean that is measured, by its scatter between n windows: Student's `t ≈ z + (z³ + z)/(4(n − 1))`, for a
/// scatter between few is itself a guess (E. Cornish and R. Fisher, Revue de l'Institut International de Statistique 5, 1938).
fn chance_ms(windows: u32, deviation_ms: Option<f64>) -> f64 {
    let freedom = f64::from(windows.max(2) - 1);
    let t = NINETY_FIVE + (NINETY_FIVE.powi(3) + NINETY_FIVE) / (4.0 * freedom);
    t * deviation_ms.unwrap_or(0.0)
}

/// What requests take longer at the newest arrivals than on average while they were measured. The drift of a queue is from the mean of its steady
/// windows to now. Response times of only the newest of these windows lie nearer to now: of m windows of n, the share `m/n` of the drift is left.
fn drift(measured: &Measured, critical: &Visits, mesh: &Mesh<'_>) -> f64 {
    let windows = |place: usize| {
        let steady = mesh.basis.snapshot.services[place].estimate.steady.as_ref();
        steady.map_or(measured.windows, |steady| steady.windows).max(1)
    };
    let left = |place: usize| (f64::from(measured.windows) / f64::from(windows(place))).min(1.0);
    critical.iter().map(|(place, visits)| visits * left(*place) * mesh.effects[*place].drift_ms).sum()
}

/// Standard deviation of the mean response that is measured over the entry's last requests that are alike, by the queues on the way: windows
/// follow each other too closely to show all of it by their scatter, and where something changed lately there are too few of them to show any.
fn noise_ms(measured: &Measured, critical: &Visits, effects: &[Effect]) -> f64 {
    // a request that visits a queue n times has n of its waits, over n times as many visits
    let noise = |(place, visits): &(usize, f64)| effects[*place].noise_of_one_ms * (visits / measured.samples).sqrt();
    critical.iter().map(noise).fold(0.0, f64::hypot)
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
fn summed(critical: &Visits, effects: &[Effect]) -> Option<Range> {
    let waited_for = critical.iter().filter(|(_, visits)| *visits > 0.0);
    let added: Option<Vec<(f64, Range)>> =
        waited_for.map(|(place, visits)| Some((*visits, effects[*place].added?))).collect();
    Some(Range::sum(added?.into_iter()))
}

/// What the known queues on the way take then.
fn least(critical: &Visits, effects: &[Effect]) -> Range {
    let waited_for = critical.iter().filter(|(_, visits)| *visits > 0.0);
    Range::sum(waited_for.filter_map(|(place, visits)| Some((*visits, effects[*place].residence_then?))))
}

/// What recorded requests take more on average, and how far that may be off for want of more of them; endless when one of them waits for a
/// service that saturates.
fn retimed(recorded: &[&Request<Arc<str>>], calls: &Calls<'_>, effects: &[Effect]) -> Option<(f64, f64)> {
    let mut own: BTreeMap<&str, Moments> = BTreeMap::new();
    recorded.iter().for_each(|request| {
        request.each(&mut |part| own.entry(&part.service).or_default().add(part.own_ms()));
    });
    let (mut slower, mut endless): (BTreeMap<&str, f64>, BTreeSet<&str>) = Default::default();
    for (service, own) in &own {
        let mean = own.mean()?;
        let added = calls.place(service).map_or(Some(0.0), |place| effects[place].added.map(|added| added.value));
        if added.is_none() {
            endless.insert(service);
        }
        let factor = added.map_or(MOST_SLOWER, |added| ((mean + added) / mean).clamp(0.0, MOST_SLOWER));
        slower.insert(service, if mean > 0.0 { factor } else { 1.0 });
    }
    let by_service = |service: &Arc<str>| slower.get(&**service).copied().unwrap_or(1.0);
    let others = |service: &Arc<str>| if endless.contains(&**service) { 1.0 } else { by_service(service) };
    let waits = |request: &&Request<Arc<str>>| request.retimed_ms(&by_service) != request.retimed_ms(&others);
    if !endless.is_empty() && recorded.iter().any(waits) {
        return Some((f64::INFINITY, 0.0));
    }
    let more: Vec<f64> = recorded.iter().map(|request| request.retimed_ms(&by_service) - request.duration_ms).collect();
    let mean = more.iter().sum::<f64>() / more.len() as f64;
    let variance = more.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / (more.len() - 1) as f64;
    Some((mean, NINETY_FIVE * (variance / more.len() as f64).sqrt()))
}
