//! Calls that take longer than their answers: the network, a queue before the callee, or a peer that sends no spans.
//!
//! The gap is client minus server duration; of a call that nobody answers with a span it is the whole call. A gap is
//! the caller's or the callee's: a starved caller has it in its calls to several callees, a callee in the calls of all its
//! callers. It is the callee's when a greater share of the calls into it is slow than of the caller's other calls
//! (as in `causes/latency.rs`); a caller's gaps are left to the ranking of traces, which has the rest of it in view.
//! What most edges share is taken off, as with own times.

use std::collections::{BTreeMap, HashMap};

use super::{
    action, budget,
    facts::Calls,
    kind::Kind,
    scene::{LEAST_MS, MIN_IMPACT, MIN_RATIO, MIN_REQUESTS, Scene},
    statements,
    suspicion::{Suspicion, confidence},
    usual::{Sample, Usual},
};
use crate::{snapshot::Evidence, spans::Name};

/// Fewer edges than this share nothing.
const MIN_SHARING: usize = 4;

/// An edge beside its history.
struct Gap<'a> {
    caller: Name,
    callee: Name,
    calls: &'a Calls,
    now: Sample,
    usual: Usual,
    excess_ms: f64,
    deviations: f64,
    is_slow: bool,
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let gaps = gaps(scene);
    let sums = Sums::of(&gaps);
    let mut by_callee: BTreeMap<Name, Vec<&Gap>> = BTreeMap::new();
    for gap in gaps.iter().filter(|gap| gap.is_slow && sums.is_callees(gap)) {
        by_callee.entry(gap.callee).or_default().push(gap);
    }
    by_callee.values().map(|gaps| suspicion(scene, gaps)).collect()
}

/// What an edge's calls take above their answers.
pub(super) fn sample(calls: &Calls) -> Option<Sample> {
    Sample::of(&calls.gap_ms).filter(|gap| gap.requests >= MIN_REQUESTS)
}

fn gaps<'a>(scene: &Scene<'a>) -> Vec<Gap<'a>> {
    let compared = scene.facts.calls.iter().filter_map(|((caller, callee), calls)| {
        let usual = scene.history.gap_ms.usual((*caller, *callee)).filter(|usual| scene.is_known(usual.windows))?;
        let now = sample(calls)?;
        let (caller, callee, excess_ms) = (*caller, *callee, now.median - usual.median);
        Some(Gap { caller, callee, calls, now, usual, excess_ms, deviations: 0.0, is_slow: false })
    });
    let mut gaps: Vec<Gap> = compared.collect();
    let mut excesses: Vec<f64> = gaps.iter().map(|gap| gap.excess_ms).collect();
    excesses.sort_by(f64::total_cmp);
    let shared_ms = if gaps.len() < MIN_SHARING { 0.0 } else { excesses[(gaps.len() - 1) / 2].max(0.0) };
    for gap in &mut gaps {
        gap.excess_ms -= shared_ms;
        gap.deviations = gap.excess_ms / gap.usual.deviation(gap.now.requests, LEAST_MS);
        let request_ms = || scene.usual_request_ms(gap.callee).unwrap_or(gap.usual.median);
        gap.is_slow = gap.deviations >= budget::deviations(gap.usual.windows)
            && gap.now.median >= MIN_RATIO * gap.usual.median
            && gap.excess_ms >= MIN_IMPACT * request_ms();
    }
    gaps
}

/// Calls, and how many of them are on slow edges.
#[derive(Clone, Copy, Default)]
struct Sum {
    calls: f64,
    slow: f64,
}

/// The same by who is called and by who calls.
#[derive(Default)]
struct Sums {
    into: HashMap<Name, Sum>,
    from: HashMap<Name, Sum>,
}

impl Sum {
    fn add(&mut self, gap: &Gap) {
        let calls = f64::from(gap.calls.calls);
        self.calls += calls;
        self.slow += if gap.is_slow { calls } else { 0.0 };
    }

    fn slow_share(self) -> f64 {
        self.slow / self.calls.max(1.0)
    }
}

impl Sums {
    fn of(gaps: &[Gap]) -> Self {
        let mut sums = Self::default();
        for gap in gaps {
            sums.into.entry(gap.callee).or_default().add(gap);
            sums.from.entry(gap.caller).or_default().add(gap);
        }
        sums
    }

    /// Whether more of the calls into the callee are slow than of the caller's calls to others.
    fn is_callees(&self, gap: &Gap) -> bool {
        let (mut this, all) = (Sum::default(), self.from[&gap.caller]);
        this.add(gap);
        let to_others = Sum { calls: all.calls - this.calls, slow: all.slow - this.slow };
        self.into[&gap.callee].slow_share() > to_others.slow_share()
    }
}

fn suspicion(scene: &Scene, gaps: &[&Gap]) -> Suspicion {
    let worst = gaps.iter().max_by(|a, b| a.excess_ms.total_cmp(&b.excess_ms)).expect("made with one at least");
    let lost = |gap: &&Gap| gap.excess_ms * scene.per_s(f64::from(gap.now.requests));
    let (caller, callee) = (scene.text(worst.caller), scene.text(worst.callee));
    let (now_ms, usual_ms) = (worst.now.median, worst.usual.median);
    let unseen = worst.calls.is_unseen();
    let summary = if unseen {
        format!("{callee} answers {caller} in {now_ms:.0} ms instead of {usual_ms:.0} ms")
    } else {
        format!(
            "calls of {caller} to {callee} take {now_ms:.1} ms longer than {callee} itself, usually {usual_ms:.1} ms"
        )
    };
    Suspicion {
        peer: Some(worst.caller),
        lost_ms_per_s: gaps.iter().map(lost).sum(),
        confidence: confidence(worst.deviations, worst.now.requests, worst.usual.windows),
        summary,
        action: action::slow_dependency(caller, callee, unseen, worst.excess_ms),
        evidence: gaps.iter().map(|gap| evidence(scene, gap)).collect(),
        ..Suspicion::of(Kind::SlowDependency, worst.callee, scene)
    }
}

fn evidence(scene: &Scene, gap: &Gap) -> Evidence {
    let (caller, callee) = (scene.text(gap.caller), scene.text(gap.callee));
    let text = format!(
        "{} calls of {caller} to {callee}: {:.1} ms between them, usually {:.1} ms ({:.0} standard deviations)",
        gap.now.requests, gap.now.median, gap.usual.median, gap.deviations
    );
    let shown = scene.shown();
    let sql = if gap.calls.is_unseen() {
        statements::calls_to_peer(caller, callee, &shown)
    } else {
        statements::gaps(caller, callee, &shown)
    };
    Evidence::number(text, gap.now.median, "ms").with_trace(gap.calls.widest.map(|(_, trace)| trace)).with_sql(sql)
}
