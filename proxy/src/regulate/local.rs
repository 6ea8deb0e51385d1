//! [`LocalLimiter`]: finds the concurrency limit of a service from its own latencies, for as long as
//! the control plane is silent.
//!
//! With `S` the latency without queueing ([`Base`]), `W` the latency now, and `N` what was in flight when those
//! requests were admitted, a saturated service has `W` proportional to `N` (Little's law, `N = X · W`
//! at a throughput `X` that no longer grows). So the load that yields the latency `S + T`, `T` being the
//! queue wait allowed, is
//!
//! ```text
//! N' = N · (S + T) / W
//! ```
//!
//! which is `c · (1 + T / S)` for `c` workers: one step, no gain to tune. `W` and `N` are of the same
//! requests, so the step does not overshoot while old ones still come back. Below the target a limit
//! that is used up grows towards `N'` by at most its square root a step, as in Netflix's gradient limiter
//! (`concurrency-limits`, 2018), from which the ratio of latencies comes; Brakmo and Peterson, "TCP
//! Vegas", 1995, first set a window by it.
//!
//! A mean of few answers is above `S + T` by chance where some requests are cheap and others dear. It is taken for queueing
//! only when it is above by [`CERTAIN`] standard errors; until then answers are gathered on, for at most [`PATIENCE`].
//!
//! Nothing is limited while no more are in flight than it can serve at once, for then nothing queues. If latency is above
//! target even at the floor, the service has become slower, and that latency is the new `S`. A service that hangs gives no
//! answer to measure: when nobody was answered for [`HANGS`] times as long as an answer may take, although more were
//! in flight than it can serve at once, then that time is the least that they will have taken, and stands for `W`.

use std::time::Duration;

use tokio::time::Instant;

use crate::regulate::{
    base::{Base, MIN_SAMPLES},
    latencies::Measured,
};

/// 25 ms between steps: a step and the samples it needs fit into 100 ms four times.
pub(crate) const STEP: Duration = Duration::from_millis(25);

/// 1 s: after that one answer of a slow model has to be enough.
const PATIENCE: Duration = Duration::from_secs(1);

/// Four standard errors: forty looks a second would see three by chance, several times a minute.
const CERTAIN: f64 = 4.0;

/// Four times as long as an answer may take: one that is late is not lost.
const HANGS: f64 = 4.0;

/// What the service is under now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) in_flight: u32,
    /// Whether the limit holds anybody back.
    pub(crate) used_up: bool,
}

/// The controller; pure.
#[derive(Debug)]
pub(crate) struct LocalLimiter {
    queue_wait_s: f64,
    floor: u32,
    limit: Option<u32>,
    base: Base,
    last_step: Instant,
    /// How many answers of what is gathered were there at the last look.
    heard: u64,
    /// Since when nobody was answered although it had too much to do.
    silent_since: Option<Instant>,
}

impl LocalLimiter {
    /// `floor` is how many the service can serve at once, as far as is known.
    pub(crate) fn new(queue_wait: Duration, floor: u32, now: Instant) -> Self {
        Self {
            queue_wait_s: queue_wait.as_secs_f64(),
            floor: floor.max(1),
            limit: None,
            base: Base::new(now),
            last_step: now,
            heard: 0,
            silent_since: None,
        }
    }

    /// How many the service can serve at once may change with its configuration.
    pub(crate) fn set_floor(&mut self, floor: u32) {
        self.floor = floor.max(1);
    }

    /// The limit that follows from what was measured since the last step; `None` as long as there was no need of one.
    ///
    /// Returns whether the measurement was used up, too: if not it is to be carried on.
    pub(crate) fn step(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> (Option<u32>, bool) {
        if let Some(hang) = self.hang(measured, load, now) {
            self.tighten(hang, now);
        }
        let impatient = now.duration_since(self.last_step) >= PATIENCE;
        let enough = measured.filter(|m| m.count >= MIN_SAMPLES || impatient);
        let taken = enough.is_some_and(|measured| self.take(measured, load, impatient, now));
        self.heard = if taken { 0 } else { measured.map_or(0, |m| m.count) };
        (self.limit, taken)
    }

    /// The latency without queueing.
    pub(crate) fn base_s(&self) -> f64 {
        self.base.latency_s()
    }

    /// Draws the conclusion from what was measured, unless more of it is needed for one.
    fn take(&mut self, measured: Measured, load: Load, impatient: bool, now: Instant) -> bool {
        let floor = f64::from(self.floor);
        let queues = self.limit.is_some() || measured.in_flight > floor;
        let (above_base_s, error_s) = (measured.latency_s - self.base.latency_s(), CERTAIN * self.error_s(measured));
        let above_s = above_base_s - self.queue_wait_s;
        let certain = above_s > error_s;
        if !queues || above_s <= 0.0 {
            // what has queued for less than it may says nothing of the service either, or `S` would creep up with it
            if !queues || above_base_s <= error_s {
                self.base.learn(measured, now);
            }
            self.widen(measured, load);
        } else if !certain && !impatient {
            return false;
        } else if !certain {
            self.base.learn(measured, now);
        } else if self.limit == Some(self.floor) && measured.in_flight <= floor {
            self.base.restart(measured, now);
        } else {
            self.tighten(measured, now);
        }
        self.last_step = now;
        true
    }

    /// How far chance may have moved `W` and `S` apart. A few answers of one kind differ less than answers do.
    fn error_s(&self, measured: Measured) -> f64 {
        let share = |count: u64| 1.0 / count.max(1) as f64;
        let deviation_s = measured.deviation_s().max(self.base.deviation_s());
        deviation_s * (share(measured.count) + share(self.base.count())).sqrt()
    }

    fn target_s(&self) -> f64 {
        self.base.latency_s() + self.queue_wait_s
    }

    /// What a service that answers nobody has come to, once it has for too long.
    fn hang(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> Option<Measured> {
        let answered = measured.is_some_and(|m| m.count > self.heard);
        if answered || load.in_flight <= self.floor {
            self.silent_since = None;
            return None;
        }
        let silent_s = now.duration_since(*self.silent_since.get_or_insert(now)).as_secs_f64();
        let hangs = silent_s > HANGS * self.target_s();
        hangs.then(|| Measured::steady(u64::from(load.in_flight), silent_s, f64::from(load.in_flight)))
    }

    fn tighten(&mut self, measured: Measured, now: Instant) {
        let wanted = wanted(measured, self.target_s()).max(self.floor);
        self.limit = Some(self.limit.map_or(wanted, |limit| limit.min(wanted)));
        self.base.limit(now);
    }

    fn widen(&mut self, measured: Measured, load: Load) {
        let Some(limit) = self.limit.filter(|_| load.used_up) else { return };
        let step = (f64::from(limit).sqrt() as u32).max(1);
        self.limit = Some(limit.saturating_add(step).min(wanted(measured, self.target_s())).max(limit));
    }
}

/// The load that yields the latency `target_s`; what is a fraction too much by rounding is not.
fn wanted(measured: Measured, target_s: f64) -> u32 {
    (measured.in_flight * target_s / measured.latency_s - 1e-6).ceil() as u32
}

#[cfg(test)]
mod tests;
