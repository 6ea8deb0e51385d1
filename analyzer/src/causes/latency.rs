//! Blame by latency: keys whose median is above history by more than chance, and whose it is.
//!
//! For a key with median m now, h usually: `z = (m − h)/s`, `s² = b² + (1.4826·1.2533·w)²(1/n + 1/n_h) + (0.05² +
//! 0.25/n_h)h² + 0.05²`, with b the spread between windows, w that within, n traces now and n_h in history;
//! √(π/2) = 1.2533 is what a median's error is above a mean's. History alone sets the spread, because a fault widens
//! its own. The excess `(m − h)` of every span counts by `1 − (3/z)²`, so nothing hangs on where exactly z = 3 is.
//!
//! A gap is the caller's or the callee's: what delays a callee shows in all calls into it, a starved caller in its
//! calls to several callees. It is shared in proportion to both.

use super::{
    history::{DEVIATION, History, Usual},
    observed::{GapKey, Map, Observed, Stat},
};
use crate::spans::Name;

/// Standard deviations that are no chance.
pub(super) const GATE: f64 = 3.0;

/// Traces that a key must have, now and before.
const MIN_TRACES: u32 = 2;

/// The least share of the usual time that is worth a name.
const LEAST_SHARE: f64 = 0.05;

/// The least time that is, milliseconds.
const LEAST_MS: f64 = 0.05;

/// Error of a median over that of a mean: √(π/2).
const OF_MEDIAN: f64 = 1.2533;

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
        operation: Name,
        excess: Excess,
    },
    /// Its share of a gap.
    Gap {
        service: Name,
        caller: Name,
        callee: Name,
        excess: Excess,
        share: f64,
    },
}

pub(super) fn blames(observed: &Observed, history: &History) -> Vec<Blame> {
    let mut blames = Vec::new();
    for (key, now) in &observed.own {
        if let Some(excess) = history.own(key).and_then(|usual| excess(*now, usual)).filter(|it| it.ms > 0.0) {
            blames.push(Blame::Own { service: key.0, operation: key.1, excess });
        }
    }
    let known = observed.gap.iter().filter_map(|(key, now)| Some((*key, *now, history.gap(key)?)));
    let gaps: Vec<(GapKey, Excess, u32)> =
        known.filter_map(|(key, now, usual)| Some((key, excess(now, usual)?, now.spans))).collect();
    let calls = Calls::of(&gaps);
    for (key, excess, _) in gaps.iter().filter(|(_, excess, _)| excess.ms > 0.0) {
        let (caller, callee, _) = *key;
        let share = calls.callee_share(caller, callee);
        let of = |service, share| Blame::Gap { service, caller, callee, excess: *excess, share };
        blames.push(of(callee, share));
        if share < 1.0 {
            blames.push(of(caller, 1.0 - share));
        }
    }
    blames
}

/// `None` when too little is known; no excess is 0 ms.
fn excess(now: Stat, usual: Usual) -> Option<Excess> {
    if usual.traces < MIN_TRACES {
        return None;
    }
    let (n, before) = (f64::from(now.traces), f64::from(usual.traces));
    let within = (DEVIATION * OF_MEDIAN * usual.spread).powi(2) * (1.0 / n.max(1.0) + 1.0 / before);
    let unknown = (LEAST_SHARE.powi(2) + 0.25 / before) * usual.median.powi(2);
    let deviation = (usual.between.powi(2) + within + unknown + LEAST_MS.powi(2)).sqrt();
    let z = if now.traces < MIN_TRACES { 0.0 } else { (now.median - usual.median) / deviation };
    let gate = if z > GATE { 1.0 - (GATE / z).powi(2) } else { 0.0 };
    let ms = gate * (now.median - usual.median) * f64::from(now.spans);
    Some(Excess { ms, z, gate, now, usual })
}

/// Spans of calls, and how many of them are slow, by who is called and by who calls whom.
#[derive(Default)]
struct Calls {
    into: Map<Name, (f64, f64)>,
    from: Map<Name, (f64, f64)>,
    between: Map<(Name, Name), (f64, f64)>,
}

impl Calls {
    fn of(gaps: &[(GapKey, Excess, u32)]) -> Self {
        let mut calls = Self::default();
        for ((caller, callee, _), excess, spans) in gaps {
            let (spans, slow) = (f64::from(*spans), f64::from(*spans) * excess.gate);
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
    fn callee_share(&self, caller: Name, callee: Name) -> f64 {
        let sum = |sum: Option<&(f64, f64)>| sum.copied().unwrap_or_default();
        let (into, slow_into) = sum(self.into.get(&callee));
        let (from, slow_from) = sum(self.from.get(&caller));
        let (between, slow_between) = sum(self.between.get(&(caller, callee)));
        let of_callee = slow_into / into.max(1.0);
        let to_others = from - between;
        let of_caller = if to_others > 0.0 { (slow_from - slow_between).max(0.0) / to_others } else { 0.0 };
        if of_callee + of_caller > 0.0 { of_callee / (of_callee + of_caller) } else { 1.0 }
    }
}
