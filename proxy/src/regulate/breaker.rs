//! [`Circuit`]: sheds calls to a failing upstream by probability.
//!
//! With `e` the share of failed calls in the window and `r` the ratio allowed, nothing is shed while
//! `e <= r`; above it the share `(e - r) / (1 - r)` is, but never more than [`MAX_SHED`]: what still
//! passes is the probe that notices recovery, so there is no all-or-nothing and no half-open state.

use std::time::Duration;

use parking_lot::Mutex;
use tokio::time::Instant;
use weir_policy::Breaker;

/// At least one call in ten passes and shows whether the upstream is back.
const MAX_SHED: f64 = 0.9;

/// The window moves in tenths: fine enough that an old burst of errors leaves it bit by bit.
const SLOTS: usize = 10;

/// The calls to one upstream.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    breaker: Option<Breaker>,
    slots: [Slot; SLOTS],
    head: usize,
    head_since: Option<Instant>,
}

#[derive(Clone, Copy, Debug, Default)]
struct Slot {
    calls: u32,
    failed: u32,
}

impl Circuit {
    /// Changes when it sheds; what was seen still counts.
    pub(crate) fn set(&self, breaker: Option<Breaker>) {
        self.state.lock().breaker = breaker;
    }

    /// Whether a call may go out; `dice` is uniform in [0, 1).
    pub(crate) fn admit(&self, now: Instant, dice: f64) -> bool {
        let mut state = self.state.lock();
        dice >= state.shed_probability(now)
    }

    /// Takes note of how a call ended.
    pub(crate) fn observe(&self, now: Instant, failed: bool) {
        let mut state = self.state.lock();
        if state.breaker.is_none() {
            return;
        }
        state.turn(now);
        let head = state.head;
        state.slots[head].calls += 1;
        state.slots[head].failed += u32::from(failed);
    }

    /// The share of calls that is shed now.
    pub(crate) fn shed_probability(&self, now: Instant) -> f64 {
        self.state.lock().shed_probability(now)
    }
}

impl State {
    fn shed_probability(&mut self, now: Instant) -> f64 {
        let Some(breaker) = self.breaker else { return 0.0 };
        self.turn(now);
        let calls: u32 = self.slots.iter().map(|s| s.calls).sum();
        let failed: u32 = self.slots.iter().map(|s| s.failed).sum();
        if calls < breaker.min_requests().max(1) {
            return 0.0;
        }
        let (ratio, allowed) = (f64::from(failed) / f64::from(calls), breaker.error_ratio());
        if ratio <= allowed { 0.0 } else { ((ratio - allowed) / (1.0 - allowed)).min(MAX_SHED) }
    }

    /// Empties the slots that have left the window.
    fn turn(&mut self, now: Instant) {
        let Some(breaker) = self.breaker else { return };
        let width = (breaker.window() / SLOTS as u32).max(Duration::from_millis(1));
        let since = *self.head_since.get_or_insert(now);
        let steps = now.duration_since(since).as_nanos() / width.as_nanos();
        for _ in 0..steps.min(SLOTS as u128) {
            self.head = (self.head + 1) % SLOTS;
            self.slots[self.head] = Slot::default();
        }
        if steps > 0 {
            let passed = width.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
            self.head_since = Some(since.checked_add(passed).unwrap_or(now).min(now));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        let circuit = Circuit::default();
        circuit.set(Breaker::new(0.5, 10, Duration::from_secs(1)));
        circuit
    }

    #[tokio::test(start_paused = true)]
    async fn it_sheds_in_proportion_and_always_probes() {
        for (failed, calls, expected) in
            [(0, 100, 0.0), (50, 100, 0.0), (75, 100, 0.5), (100, 100, MAX_SHED), (9, 9, 0.0)]
        {
            let (circuit, now) = (circuit(), Instant::now());
            (0..calls).for_each(|i| circuit.observe(now, i < failed));
            assert_eq!(circuit.shed_probability(now), expected, "{failed} of {calls} failed");
            assert!(circuit.admit(now, 0.95));
            assert_eq!(circuit.admit(now, 0.0), expected == 0.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_the_window_is_forgotten() {
        let (circuit, start) = (circuit(), Instant::now());
        (0..100).for_each(|_| circuit.observe(start, true));
        assert_eq!(circuit.shed_probability(start + Duration::from_millis(900)), MAX_SHED);
        assert_eq!(circuit.shed_probability(start + Duration::from_millis(1_100)), 0.0);
        assert_eq!(circuit.shed_probability(start + Duration::from_secs(3_600)), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ratio_of_one_never_sheds() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        circuit.set(Breaker::new(1.0, 1, Duration::from_secs(1)));
        (0..100).for_each(|_| circuit.observe(now, true));
        assert_eq!(circuit.shed_probability(now), 0.0);
    }
}
