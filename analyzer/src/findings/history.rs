//! [`History`]: what each service, call, replica and operation did in the windows before. Plain values, so that a
//! checkpoint can hold them.
//!
//! Each key has the last thirty windows, 24 bytes a window, so under 1 KB; of own times, service times and arrivals also the
//! last day (`hours.rs`). There are at most 20,000 keys of a sort;
//! one that was not seen for a day is forgotten, and while there is no room new ones are not judged, and counted.

use std::{collections::BTreeMap, ops::RangeInclusive};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{
    hours::Hours,
    mismatch::Waits,
    saturation::Trend,
    usual::{Ring, Sample, Share, Usual, UsualShare},
};
use crate::spans::Name;

/// Keys of one sort.
const MAX_KEYS: usize = 20_000;

/// A day.
const FORGOTTEN_NS: i64 = 86_400_000_000_000;

/// Rings by key.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(bound = "K: Ord + Serialize + serde::de::DeserializeOwned, R: Serialize + serde::de::DeserializeOwned")]
pub(crate) struct Rings<K, R> {
    rings: BTreeMap<K, (UnixNanos, R)>,
    /// Uses of keys for which there was no room.
    #[serde(skip)]
    refused: u64,
}

/// All of it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct History {
    pub(super) own_ms: Rings<Name, Ring<Sample>>,
    /// Own times by service and operation.
    #[serde(default)]
    pub(super) own_of_operations: Rings<(Name, Name), Ring<Sample>>,
    /// From departures.
    pub(super) service_ms: Rings<Name, Ring<Sample>>,
    pub(super) duration_ms: Rings<Name, Ring<Sample>>,
    /// Requests that arrive per second.
    pub(super) arrivals: Rings<Name, Ring<Sample>>,
    pub(super) own_errors: Rings<Name, Ring<Share>>,
    /// By caller and callee.
    pub(super) gap_ms: Rings<(Name, Name), Ring<Sample>>,
    pub(super) call_errors: Rings<(Name, Name), Ring<Share>>,
    pub(super) retries: Rings<(Name, Name), Ring<Share>>,
    /// By service, operation and callee: requests that called it.
    pub(super) made: Rings<(Name, Name, Name), Ring<Share>>,
    /// By service and operation: all of them.
    pub(super) operations: Rings<(Name, Name), Ring<Share>>,
    /// By service and replica: logarithm of its own time over its siblings'.
    pub(super) replicas: Rings<(Name, Name), Ring<Sample>>,
    pub(super) trends: Rings<Name, Trend>,
    pub(super) waits: Rings<Name, Waits>,
    /// Of mean own times.
    #[serde(default)]
    pub(super) own_trends: Rings<Name, Trend>,
    /// Own times, service times and arrivals over a day.
    #[serde(default)]
    pub(super) own_hours: Rings<Name, Hours>,
    #[serde(default)]
    pub(super) service_hours: Rings<Name, Hours>,
    #[serde(default)]
    pub(super) arrival_hours: Rings<Name, Hours>,
}

impl<K, R> Default for Rings<K, R> {
    fn default() -> Self {
        Self { rings: BTreeMap::new(), refused: 0 }
    }
}

impl<K: Ord + Copy, R: Default> Rings<K, R> {
    pub(super) fn get(&self, key: K) -> Option<&R> {
        self.rings.get(&key).map(|(_, ring)| ring)
    }

    /// The ring of a key, to add to it; `None` when there is no room for a new one.
    pub(super) fn of(&mut self, key: K, now: UnixNanos) -> Option<&mut R> {
        if self.rings.len() >= MAX_KEYS && !self.rings.contains_key(&key) {
            self.refused += 1;
            return None;
        }
        let (seen, ring) = self.rings.entry(key).or_default();
        *seen = now;
        Some(ring)
    }

    pub(super) fn keys(&self, between: RangeInclusive<K>) -> impl Iterator<Item = K> {
        self.rings.range(between).map(|(key, _)| *key)
    }
}

/// How many requests, or windows where they say nothing of requests, something was learnt from.
pub(super) trait Learnt {
    fn learnt_from(&self) -> u64;
}

/// How many keys of each sort were left out.
pub(crate) type LeftOut = BTreeMap<&'static str, u64>;

/// What all rings can, whatever their keys.
trait Forget {
    /// As if all had just been seen.
    fn moved_to(&mut self, at: UnixNanos);
    /// Those that were not seen for long.
    fn forget(&mut self, now: UnixNanos);
    /// The half that was not seen for longest, and of those seen last at one time what was learnt from least; says how many.
    fn halve(&mut self) -> u64;
    /// Uses of keys for which there was no room, since the last time.
    fn take_refused(&mut self) -> u64;
}

impl<K: Ord + Copy, R: Learnt> Forget for Rings<K, R> {
    fn moved_to(&mut self, at: UnixNanos) {
        self.rings.values_mut().for_each(|(seen, _)| *seen = at);
    }

    fn forget(&mut self, now: UnixNanos) {
        self.rings.retain(|_, (seen, _)| now.saturating_sub(*seen) <= FORGOTTEN_NS);
    }

    fn halve(&mut self) -> u64 {
        let of = |(key, (seen, ring)): (&K, &(UnixNanos, R))| (*seen, ring.learnt_from(), *key);
        let mut least_first: Vec<(UnixNanos, u64, K)> = self.rings.iter().map(of).collect();
        least_first.sort_unstable();
        least_first.truncate(least_first.len().div_ceil(2));
        for (.., key) in &least_first {
            self.rings.remove(key);
        }
        least_first.len() as u64
    }

    fn take_refused(&mut self) -> u64 {
        std::mem::take(&mut self.refused)
    }
}

impl<K: Ord + Copy> Rings<K, Ring<Sample>> {
    pub(super) fn usual(&self, key: K) -> Option<Usual> {
        self.get(key).and_then(Usual::of)
    }

    pub(super) fn remember(&mut self, key: K, sample: Option<Sample>, now: UnixNanos) {
        if let Some((sample, ring)) = sample.and_then(|sample| Some((sample, self.of(key, now)?))) {
            ring.push(sample);
        }
    }
}

impl<K: Ord + Copy> Rings<K, Ring<Share>> {
    pub(super) fn usual_share(&self, key: K) -> Option<UsualShare> {
        self.get(key).and_then(UsualShare::of)
    }

    pub(super) fn remember_share(&mut self, key: K, share: Share, now: UnixNanos) {
        if let Some(ring) = self.of(key, now) {
            ring.push(share);
        }
    }
}

impl Rings<Name, Hours> {
    fn follow(&mut self, name: Name, minutes: &Rings<Name, Ring<Sample>>, now: UnixNanos) {
        let Some(ring) = minutes.get(name) else { return };
        if let Some(hours) = self.of(name, now).filter(|hours| hours.is_due(now)) {
            hours.follow(Usual::of(ring), now);
        }
    }
}

impl History {
    /// Makes the last minutes of a service part of its day.
    pub(super) fn follow_hours(&mut self, name: Name, now: UnixNanos) {
        self.own_hours.follow(name, &self.own_ms, now);
        self.service_hours.follow(name, &self.service_ms, now);
        self.arrival_hours.follow(name, &self.arrivals, now);
    }

    /// What a service does now is what it does from now on.
    pub(super) fn begin_hours(&mut self, name: Name) {
        for hours in [&mut self.own_hours, &mut self.service_hours, &mut self.arrival_hours] {
            hours.rings.remove(&name);
        }
    }

    /// For a time that does not follow on it: what is usual stays so as long as if it had just been learnt, and what had a
    /// course over time begins anew.
    pub(super) fn moved_to(mut self, at: UnixNanos) -> Self {
        self.each(|_, rings| rings.moved_to(at));
        Self { trends: Rings::default(), waits: Rings::default(), own_trends: Rings::default(), ..self }
    }

    /// Lets go of what was not seen for long.
    pub(super) fn forget(&mut self, now: UnixNanos) {
        self.each(|_, rings| rings.forget(now));
    }

    /// Lets go of half of all, of what was seen least; says so of each sort.
    pub(super) fn halve(&mut self, left_out: &mut LeftOut) {
        self.each(|sort, rings| {
            let gone = rings.halve();
            if gone > 0 {
                *left_out.entry(sort).or_default() += gone;
            }
        });
    }

    /// Uses of keys for which there was no room, since the last time.
    pub(super) fn take_refused(&mut self) -> u64 {
        let mut refused = 0;
        self.each(|_, rings| refused += rings.take_refused());
        refused
    }

    fn each(&mut self, mut change: impl FnMut(&'static str, &mut dyn Forget)) {
        let all: [(&'static str, &mut dyn Forget); 18] = [
            ("own times of services", &mut self.own_ms),
            ("own times of operations", &mut self.own_of_operations),
            ("service times", &mut self.service_ms),
            ("durations", &mut self.duration_ms),
            ("arrivals", &mut self.arrivals),
            ("own errors", &mut self.own_errors),
            ("trends of utilization", &mut self.trends),
            ("waits", &mut self.waits),
            ("gaps of calls", &mut self.gap_ms),
            ("errors of calls", &mut self.call_errors),
            ("retries", &mut self.retries),
            ("calls made by operations", &mut self.made),
            ("operations", &mut self.operations),
            ("own times of replicas", &mut self.replicas),
            ("trends of own times", &mut self.own_trends),
            ("hours of own times", &mut self.own_hours),
            ("hours of service times", &mut self.service_hours),
            ("hours of arrivals", &mut self.arrival_hours),
        ];
        all.into_iter().for_each(|(sort, rings)| change(sort, rings));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_when_a_sort_is_full_is_counted() {
        let mut history = History::default();
        let sample = Some(Sample { median: 1.0, spread: 0.1, requests: 9 });
        (0..MAX_KEYS as Name + 3).for_each(|name| history.own_ms.remember(name, sample, 7));
        history.own_ms.remember(0, sample, 8);
        assert_eq!((history.take_refused(), history.take_refused()), (3, 0));
        assert!(history.own_ms.get(MAX_KEYS as Name).is_none() && history.own_ms.get(0).is_some());
    }

    #[test]
    fn of_what_was_seen_last_at_one_time_the_rarest_goes_first() {
        let mut history = History::default();
        let sample = |requests| Some(Sample { median: 1.0, spread: 0.1, requests });
        // older keys of a mesh have lower numbers: they are no less in use for it
        [(1, 900), (2, 5), (3, 400), (4, 60)].into_iter().for_each(|(name, requests)| {
            history.own_ms.remember(name, sample(requests), 7);
        });
        history.own_ms.remember(5, sample(10_000), 6);
        history.retries.remember_share((1, 2), Share { hits: 0, of: 3 }, 7);
        let mut left_out = LeftOut::new();
        history.halve(&mut left_out);
        assert_eq!(history.own_ms.keys(0..=9).collect::<Vec<_>>(), [1, 3]);
        assert_eq!(left_out, [("own times of services", 3), ("retries", 1)].into());
    }
}
