//! Blame by latency: keys whose median is above history by more than chance, and whose it is.
//!
//! For a key with median m now, h usually: `z = (m − h)/s`, `s² = b² + (1.4826·1.2533·w)²(1/n + 1/n_h) + (0.05² +
//! 0.25/n_h)h² + 0.05²`, with b the spread between windows, w that within, n traces now and n_h in history;
//! √(π/2) = 1.2533 is what a median's error is above a mean's. History alone sets the spread, because a fault widens
//! its own. The excess `(m − h)` of every span counts by `1 − (3/z)²`, so nothing hangs on where exactly z = 3 is.
//!
//! A gap is the caller's or the callee's: what delays a callee shows in all calls into it, a starved caller in its
//! calls to several callees. It is shared in proportion to both, and to the strain that metrics show.
//!
//! Where a service has several instances each is looked at alone too: what one loses is more than what the median of
//! all shows.

use super::{
    history::{History, Usual},
    observed::{GapKey, Map, Observed, Stat},
    strain::Strained,
};
use crate::{robust::variance_of_medians, spans::Name};
use std::hash::Hash;

/// Standard deviations that are no chance.
pub(super) const GATE: f64 = 3.0;

/// Traces that a key must have, now and before.
const MIN_TRACES: f64 = 2.0;

/// The least share of the usual time that is worth a name.
const LEAST_SHARE: f64 = 0.05;

/// The least time that is, milliseconds.
const LEAST_MS: f64 = 0.05;

/// A weight of calls that is none: what is left of sums that are equal.
const LEAST_CALLS: f64 = 1e-6;

/// A key that is slower than it was.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Excess {
    /// Milliseconds in the window, by the gate.
    pub(super) ms: f64,
    pub(super) z: f64,
    /// How far it is open: 0 to 1.
    pub(super) gate: f64,
    pub(super) now: Stat,
    pub(super) usual: Usual,
}

/// What a service is blamed for.
#[derive(Clone, Debug)]
pub(super) enum Blame {
    Own {
        service: Name,
        instance: Option<Name>,
        operation: Name,
        excess: Excess,
    },
    /// Its share of a gap.
    Gap {
        service: Name,
        /// Of the callee.
        instance: Option<Name>,
        caller: Name,
        callee: Name,
        excess: Excess,
        share: f64,
    },
}

pub(super) fn blames(observed: &Observed, history: &History, strained: &Strained) -> Vec<Blame> {
    let own = excesses(&observed.own, &observed.own_at, |key| history.own(key), |key| history.own_at(key));
    let gaps = excesses(&observed.gap, &observed.gap_at, |key| history.gap(key), |key| history.gap_at(key));
    let lost = |excess: &Excess| excess.ms > 0.0;
    let mut blames = Vec::new();
    for (key, instance, excess) in own.into_iter().filter(|(.., excess)| lost(excess)) {
        blames.push(Blame::Own { service: key.0, instance, operation: key.1, excess });
    }
    let calls = Calls::of(&gaps);
    for (key, instance, excess) in gaps.into_iter().filter(|(.., excess)| lost(excess)) {
        let (caller, callee, _) = key;
        let share = calls.callee_share(caller, callee, strained);
        let of = |service, instance, share| Blame::Gap { service, instance, caller, callee, excess, share };
        blames.push(of(callee, instance, share));
        if share < 1.0 {
            blames.push(of(caller, None, 1.0 - share));
        }
    }
    blames
}

/// Keys that are known, each whole or by instance, whichever loses more. No excess is 0 ms.
fn excesses<K: Copy + Eq + Hash>(
    all: &Map<K, Stat>,
    at: &Map<(K, Name), Stat>,
    usual: impl Fn(&K) -> Option<Usual>,
    usual_at: impl Fn(&(K, Name)) -> Option<Usual>,
) -> Vec<(K, Option<Name>, Excess)> {
    let mut parts = Map::<K, Vec<(K, Option<Name>, Excess)>>::default();
    for (key, now) in at {
        if let Some(excess) = usual_at(key).and_then(|usual| excess(*now, usual)) {
            parts.entry(key.0).or_default().push((key.0, Some(key.1), excess));
        }
    }
    let ms = |parts: &[(K, Option<Name>, Excess)]| parts.iter().map(|(.., excess)| excess.ms.max(0.0)).sum::<f64>();
    let heavier = |(key, now): (&K, &Stat)| {
        let whole = usual(key).and_then(|usual| excess(*now, usual)).map(|excess| (*key, None, excess));
        let whole: Vec<_> = whole.into_iter().collect();
        let parts = parts.remove(key).unwrap_or_default();
        if ms(&parts) > ms(&whole) { parts } else { whole }
    };
    all.iter().flat_map(heavier).collect()
}

/// `None` when too little is known; no excess is 0 ms.
fn excess(now: Stat, usual: Usual) -> Option<Excess> {
    if usual.traces < MIN_TRACES {
        return None;
    }
    let (n, before) = (now.traces, usual.traces);
    let within = variance_of_medians(usual.spread, n.max(1.0), before);
    let unknown = (LEAST_SHARE.powi(2) + 0.25 / before) * usual.median.powi(2);
    let deviation = (usual.between.powi(2) + within + unknown + LEAST_MS.powi(2)).sqrt();
    let z = if now.traces < MIN_TRACES { 0.0 } else { (now.median - usual.median) / deviation };
    let gate = gate(z);
    let ms = gate * (now.median - usual.median) * now.spans;
    Some(Excess { ms, z, gate, now, usual })
}

/// How far beyond chance: 0 at three standard deviations, 1 far off.
pub(super) fn gate(z: f64) -> f64 {
    if z > GATE { 1.0 - (GATE / z).powi(2) } else { 0.0 }
}

/// Spans of calls, and how many of them are slow, by who is called and by who calls whom.
#[derive(Default)]
struct Calls {
    into: Map<Name, (f64, f64)>,
    from: Map<Name, (f64, f64)>,
    between: Map<(Name, Name), (f64, f64)>,
}

impl Calls {
    fn of(gaps: &[(GapKey, Option<Name>, Excess)]) -> Self {
        let mut calls = Self::default();
        for ((caller, callee, _), _, excess) in gaps {
            let spans = excess.now.spans;
            let slow = spans * excess.gate;
            let sums = [
                calls.into.entry(*callee).or_default(),
                calls.from.entry(*caller).or_default(),
                calls.between.entry((*caller, *callee)).or_default(),
            ];
            sums.into_iter().for_each(|sum| *sum = (sum.0 + spans, sum.1 + slow));
        }
        calls
    }

    /// Which share of a slow gap is the callee's.
    fn callee_share(&self, caller: Name, callee: Name, strained: &Strained) -> f64 {
        let sum = |sum: Option<&(f64, f64)>| sum.copied().unwrap_or_default();
        let (into, slow_into) = sum(self.into.get(&callee));
        let (from, slow_from) = sum(self.from.get(&caller));
        let (between, slow_between) = sum(self.between.get(&(caller, callee)));
        // by weight: where the rest was thinned, many slow calls that were kept are less than one
        let share = |slow: f64, all: f64| if all > LEAST_CALLS { slow.max(0.0) / all } else { 0.0 };
        let (of_callee, of_caller) = (share(slow_into, into), share(slow_from - slow_between, from - between));
        let strain = |service| strained.get(&service).map_or(1.0, |strain| strain.factor());
        let (of_callee, of_caller) = (of_callee * strain(callee), of_caller * strain(caller));
        if of_callee + of_caller > 0.0 { of_callee / (of_callee + of_caller) } else { 1.0 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Calls of a weight below one were taken for as few of one, and their slowness for the caller's.
    #[test]
    fn a_slow_gap_is_shared_alike_however_much_each_call_stands_for() {
        let [caller, callee, other] = [1, 2, 3];
        let shared = |weight: f64| {
            let gap = |callee: Name, spans: f64, gate: f64| {
                let now = Stat { spans: weight * spans, traces: spans, median: 9.0, spread: 1.0 };
                let usual = Usual { median: 1.0, between: 0.0, spread: 1.0, traces: 99.0 };
                ((caller, callee, 0), None, Excess { ms: 1.0, z: 9.0, gate, now, usual })
            };
            let gaps = [gap(callee, 20.0, 0.9), gap(other, 20.0, 0.3)];
            Calls::of(&gaps).callee_share(caller, callee, &Strained::new())
        };
        for weight in [100.0, 1.0, 0.02] {
            assert!((shared(weight) - 0.75).abs() < 1e-9, "{weight}: {}", shared(weight));
        }
    }
}
