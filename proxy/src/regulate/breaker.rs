//! [`Circuit`]: sheds calls to a failing upstream by probability, and probes until it is back.
//!
//! With `e` the share of failed calls in the window and `r` the ratio allowed, nothing is shed while
//! `e <= r`; above it the share `(e - r) / (1 - r)` is, but never more than [`MAX_SHED`]. The idea is
//! Google's client-side throttling ("Site Reliability Engineering", ch. 21), with a window in tenths.
//!
//! What still passes is the probe, and a slot in which nothing passed lets one call through whatever
//! the dice say, so a quiet caller notices recovery too. Shedding starves the window of calls: when too
//! few are left to judge by, the probes decide, and each good slot takes at most [`STEP_DOWN`] off. So
//! traffic comes back over about a window, never at once, and there is no half-open state.

use std::{
    sync::atomic::{AtomicBool, Ordering::Relaxed},
    time::Duration,
};

use parking_lot::Mutex;
use tokio::time::Instant;
use weir_policy::Breaker;

/// At least one call in ten passes and shows whether the upstream is back.
const MAX_SHED: f64 = 0.9;

/// The window moves in tenths: fine enough that an old burst of errors leaves it bit by bit.
const SLOTS: usize = 10;

/// From [`MAX_SHED`] to nothing takes as long as the window looks back.
const STEP_DOWN: f64 = MAX_SHED / SLOTS as f64;

/// The calls to one upstream.
#[derive(Debug, Default)]
pub(crate) struct Circuit {
    /// Whether there is a breaker: without one a call takes no lock.
    armed: AtomicBool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    breaker: Option<Breaker>,
    slots: [Slot; SLOTS],
    head: usize,
    head_since: Option<Instant>,
    /// The share shed when the window last held enough, less what probes have won back.
    shed: f64,
    /// Whether the newest slot has let its probe out.
    probed: bool,
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
        self.armed.store(breaker.is_some(), Relaxed);
    }

    /// Whether a call may go out; `dice` is uniform in [0, 1).
    pub(crate) fn admit(&self, now: Instant, dice: f64) -> bool {
        if !self.armed.load(Relaxed) {
            return true;
        }
        let mut state = self.state.lock();
        let shed = state.shed_probability(now);
        // the first call of a slot goes out whatever the dice say
        let probe = !std::mem::replace(&mut state.probed, true);
        probe || dice >= shed
    }

    /// Takes note of how a call ended.
    pub(crate) fn observe(&self, now: Instant, failed: bool) {
        if !self.armed.load(Relaxed) {
            return;
        }
        let mut state = self.state.lock();
        state.turn(now);
        let head = state.head;
        state.slots[head].calls += 1;
        state.slots[head].failed += u32::from(failed);
    }

    /// The share of calls that is shed now.
    pub(crate) fn shed_probability(&self, now: Instant) -> f64 {
        if self.armed.load(Relaxed) { self.state.lock().shed_probability(now) } else { 0.0 }
    }
}

impl State {
    fn shed_probability(&mut self, now: Instant) -> f64 {
        let Some(breaker) = self.breaker else { return 0.0 };
        self.turn(now);
        let (calls, failed) = self.seen();
        if calls >= breaker.min_requests().max(1) {
            // up at once; down only as slots win it back
            self.shed = self.shed.max(share_to_shed(calls, failed, breaker.error_ratio()));
        }
        self.shed
    }

    fn seen(&self) -> (u32, u32) {
        self.slots.iter().fold((0, 0), |(calls, failed), slot| (calls + slot.calls, failed + slot.failed))
    }

    /// Empties the slots that have left the window, and lets good ones win traffic back.
    fn turn(&mut self, now: Instant) {
        let Some(breaker) = self.breaker else { return };
        let width = (breaker.window() / SLOTS as u32).max(Duration::from_millis(1));
        let since = *self.head_since.get_or_insert(now);
        let steps = now.saturating_duration_since(since).as_nanos() / width.as_nanos();
        for _ in 0..steps.min(SLOTS as u128) {
            self.relax(breaker);
            self.head = (self.head + 1) % SLOTS;
            self.slots[self.head] = Slot::default();
            self.probed = false;
        }
        if steps > 0 {
            let passed = width.saturating_mul(u32::try_from(steps).unwrap_or(u32::MAX));
            self.head_since = Some(since.checked_add(passed).unwrap_or(now).min(now));
        }
    }

    /// The newest slot is over: when its probes came back well, or nobody called, less is shed.
    fn relax(&mut self, breaker: Breaker) {
        let Slot { calls, failed } = self.slots[self.head];
        if share_to_shed(calls, failed, breaker.error_ratio()) == 0.0 {
            self.shed = (self.shed - STEP_DOWN).max(0.0);
        }
    }
}

fn share_to_shed(calls: u32, failed: u32, allowed: f64) -> f64 {
    let ratio = f64::from(failed) / f64::from(calls.max(1));
    if ratio <= allowed { 0.0 } else { ((ratio - allowed) / (1.0 - allowed)).min(MAX_SHED) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn circuit() -> Circuit {
        let circuit = Circuit::default();
        circuit.set(Breaker::new(0.5, 10, Duration::from_secs(1)));
        circuit
    }

    fn calls(circuit: &Circuit, n: u32, failed: u32, now: Instant) {
        (0..n).for_each(|i| circuit.observe(now, i < failed));
    }

    #[tokio::test(start_paused = true)]
    async fn it_sheds_in_proportion_and_always_probes() {
        for (failed, seen, expected) in
            [(0, 100, 0.0), (50, 100, 0.0), (75, 100, 0.5), (100, 100, MAX_SHED), (9, 9, 0.0)]
        {
            let (circuit, now) = (circuit(), Instant::now());
            calls(&circuit, seen, failed, now);
            assert_eq!(circuit.shed_probability(now), expected, "{failed} of {seen} failed");
            assert!(circuit.admit(now, 0.0), "the slot's probe");
            assert!(circuit.admit(now, 0.95));
            assert_eq!(circuit.admit(now, 0.0), expected == 0.0);
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_quiet_caller_has_a_probe_every_tenth_of_the_window() {
        let (circuit, start) = (circuit(), Instant::now());
        for slot in 0..50 {
            let now = start + Duration::from_millis(100 * slot);
            calls(&circuit, 10, 10, now);
            assert!(circuit.admit(now, 0.0), "slot {slot}");
            assert!(!circuit.admit(now, 0.0), "slot {slot}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn few_failing_probes_do_not_open_the_gates() {
        let (circuit, start) = (circuit(), Instant::now());
        calls(&circuit, 100, 100, start);
        assert_eq!(circuit.shed_probability(start), MAX_SHED);
        // one probe a slot fails: too few for the window to judge by, yet nothing is won back
        for slot in 1..40 {
            let now = start + Duration::from_millis(100 * slot);
            circuit.observe(now, true);
            assert_eq!(circuit.shed_probability(now), MAX_SHED, "slot {slot}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn traffic_comes_back_step_by_step_once_probes_succeed() {
        let (circuit, start) = (circuit(), Instant::now());
        calls(&circuit, 9, 9, start);
        circuit.observe(start, true);
        let mut last = circuit.shed_probability(start);
        assert_eq!(last, MAX_SHED);
        for slot in 1..=25 {
            let now = start + Duration::from_millis(100 * slot);
            circuit.observe(now, false);
            let shed = circuit.shed_probability(now);
            assert!(last - shed <= STEP_DOWN + 1e-9, "slot {slot}: {last} to {shed}");
            last = shed;
        }
        assert_eq!(last, 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn what_left_the_window_is_forgotten() {
        let (circuit, start) = (circuit(), Instant::now());
        calls(&circuit, 100, 100, start);
        assert_eq!(circuit.shed_probability(start + Duration::from_millis(900)), MAX_SHED);
        assert!(circuit.shed_probability(start + Duration::from_millis(2_100)) < 0.1);
        assert_eq!(circuit.shed_probability(start + Duration::from_secs(3_600)), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_ratio_of_one_never_sheds() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        circuit.set(Breaker::new(1.0, 1, Duration::from_secs(1)));
        calls(&circuit, 100, 100, now);
        assert_eq!(circuit.shed_probability(now), 0.0);
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_breaker_everything_passes_and_nothing_is_kept() {
        let (circuit, now) = (Circuit::default(), Instant::now());
        calls(&circuit, 100, 100, now);
        assert!(circuit.admit(now, 0.0));
        circuit.set(Breaker::new(0.5, 10, Duration::from_secs(1)));
        assert_eq!(circuit.shed_probability(now), 0.0);
    }
}
