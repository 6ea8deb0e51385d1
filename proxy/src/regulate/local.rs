//! [`LocalLimiter`]: finds the concurrency limit of a service from its own latencies, and limits it for as long as
//! the control plane is silent ([`LocalLimiter::step`]). While others regulate it only learns ([`LocalLimiter::watch`]): a
//! control plane goes silent in the middle of an overload, too, and then it is too late to ask how long the service usually takes.
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
//!
//! A late answer is seen long before it is there where `c`, the number of servers, is known: whoever is in flight behind `c` others
//! waits. If such a one has waited longer than may be, and longer than happens by [chance](crate::regulate::chance), then at least
//! the load is limited that yields such a wait, `c · (1 + wait / S)`, and answers bring it nearer to the target. If nobody needs that
//! limit for [`UNNEEDED`] before answers prove the queue, it was chance, and goes.
//!
//! When the control plane speaks again the limit is not lifted but loosened, by its square root each [`LOOSEN`], until it
//! holds nobody back: the load comes back over as many windows as the control plane needs to see it.

use std::time::Duration;

use tokio::time::Instant;

use crate::regulate::{
    base::{Base, MIN_SAMPLES},
    chance::Usual,
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

/// 1 s: the shortest window that the analyzer regulates by.
const LOOSEN: Duration = Duration::from_secs(1);

/// One look in three hundred, some eight seconds: by chance a wait is longer for as long as that.
const BY_CHANCE: f64 = 1.0 / 300.0;

/// 5 s: an overload needs its limit all the time.
const UNNEEDED: Duration = Duration::from_secs(5);

/// 10 min above what was usual, under the eyes of a control plane that lets it be, are the new usual.
const STANDING: Duration = Duration::from_secs(600);

/// What the service is under now.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Load {
    pub(crate) in_flight: u32,
    /// Whether the limit holds anybody back.
    pub(crate) used_up: bool,
    /// How long one has waited for an answer who is in flight behind as many as there are servers; `None` without any, or where
    /// the number of servers is not known.
    pub(crate) waited: Option<Duration>,
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
    /// When answers last took no longer than usual.
    usual_at: Instant,
    /// When the limit was last loosened, or held.
    loosened_at: Instant,
    /// Whether it has held anybody back since.
    held: bool,
    /// When the limit was last needed, as long as no answer has proved that there is a queue.
    unproved_since: Option<Instant>,
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
            usual_at: now,
            loosened_at: now,
            held: false,
            unproved_since: None,
        }
    }

    /// How many the service can serve at once may change with its configuration.
    pub(crate) fn set_floor(&mut self, floor: u32) {
        self.floor = floor.max(1);
    }

    /// How long may be waited is another from now on.
    pub(crate) fn set_queue_wait(&mut self, queue_wait: Duration) {
        self.queue_wait_s = queue_wait.as_secs_f64();
    }

    /// The limit that follows from what was measured since the last step; `None` as long as there was no need of one.
    ///
    /// Returns whether the measurement was used up, too: if not it is to be carried on.
    pub(crate) fn step(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> (Option<u32>, bool) {
        if let Some(hang) = self.hang(measured, load, now) {
            self.tighten(hang, now);
        }
        self.look_at_who_waits(load, now);
        let impatient = self.is_impatient(now);
        let taken = self.enough(measured, now).is_some_and(|measured| self.take(measured, load, impatient, now));
        self.heard = if taken { 0 } else { measured.map_or(0, |m| m.count) };
        (self.usual_at, self.loosened_at, self.held) = (now, now, false);
        (self.limit, taken)
    }

    /// While others regulate: learns from what was measured, and loosens the limit that there still is.
    ///
    /// Returns what [`Self::step`] does.
    pub(crate) fn watch(&mut self, measured: Option<Measured>, load: Load, now: Instant) -> (Option<u32>, bool) {
        // whoever hangs already does so when it is time to act
        self.hang(measured, load, now);
        let enough = self.enough(measured, now);
        if let Some(measured) = enough {
            self.learn(measured, now);
            self.last_step = now;
        }
        self.heard = if enough.is_some() { 0 } else { measured.map_or(0, |m| m.count) };
        self.loosen(load, now);
        (self.limit, enough.is_some())
    }

    /// The latency without queueing.
    pub(crate) fn base_s(&self) -> f64 {
        self.base.latency_s()
    }

    /// Draws the conclusion from what was measured, unless more of it is needed for one.
    fn take(&mut self, measured: Measured, load: Load, impatient: bool, now: Instant) -> bool {
        let queues = self.queues(measured);
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
        } else if self.limit == Some(self.floor) && measured.in_flight <= f64::from(self.floor) {
            self.base.restart(measured, now);
        } else {
            self.tighten(measured, now);
        }
        self.last_step = now;
        true
    }

    fn learn(&mut self, measured: Measured, now: Instant) {
        let above_s = measured.latency_s - self.base.latency_s();
        if !self.queues(measured) || above_s <= CERTAIN * self.error_s(measured) {
            self.base.learn(measured, now);
            self.usual_at = now;
        } else if now.duration_since(self.usual_at) >= STANDING {
            self.base.restart(measured, now);
            self.usual_at = now;
        }
    }

    fn loosen(&mut self, load: Load, now: Instant) {
        let Some(limit) = self.limit else { return };
        self.held |= load.used_up;
        if now.duration_since(self.loosened_at) < LOOSEN {
            return;
        }
        self.limit = self.held.then(|| limit.saturating_add(root(limit)));
        if self.limit.is_none() {
            self.base.unlimit(now);
        }
        (self.loosened_at, self.held) = (now, false);
    }

    /// Whether these may have had to wait for each other.
    fn queues(&self, measured: Measured) -> bool {
        let proved = self.limit.is_some() && self.unproved_since.is_none();
        proved || measured.in_flight > f64::from(self.floor)
    }

    fn is_impatient(&self, now: Instant) -> bool {
        now.duration_since(self.last_step) >= PATIENCE
    }

    /// Few answers have to be enough at last.
    fn enough(&self, measured: Option<Measured>, now: Instant) -> Option<Measured> {
        measured.filter(|m| m.count >= MIN_SAMPLES || self.is_impatient(now))
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

    /// Limits before there are answers, and takes that back if nobody needs it.
    fn look_at_who_waits(&mut self, load: Load, now: Instant) {
        match (self.limit, self.unproved_since) {
            (Some(_), Some(_)) if load.used_up => self.unproved_since = Some(now),
            (Some(_), Some(since)) if now.duration_since(since) >= UNNEEDED => {
                (self.limit, self.unproved_since) = (None, None);
            }
            (None, _) => {
                let Some(limit) = load.waited.and_then(|waited| self.limit_after(waited)) else { return };
                (self.limit, self.unproved_since) = (Some(limit), Some(now));
            }
            _ => {}
        }
    }

    /// What one who has waited so long tells to limit the load to, if that is longer than it may be.
    fn limit_after(&self, waited: Duration) -> Option<u32> {
        let waited_s = waited.as_secs_f64();
        let usually = self.base.usually().filter(|_| waited_s > self.queue_wait_s)?;
        let usual = Usual::of(self.floor, usually);
        let longest_s = usual.wait_s(BY_CHANCE).max(self.queue_wait_s);
        (waited_s > longest_s).then(|| usual.limit(longest_s))
    }

    fn tighten(&mut self, measured: Measured, now: Instant) {
        let wanted = wanted(measured, self.target_s()).max(self.floor);
        self.limit = Some(self.limit.map_or(wanted, |limit| limit.min(wanted)));
        self.unproved_since = None;
        self.base.limit(now);
    }

    fn widen(&mut self, measured: Measured, load: Load) {
        let Some(limit) = self.limit.filter(|_| load.used_up) else { return };
        self.limit = Some(limit.saturating_add(root(limit)).min(wanted(measured, self.target_s())).max(limit));
    }
}

/// By how much a limit grows.
fn root(limit: u32) -> u32 {
    limit.isqrt().max(1)
}

/// The load that yields the latency `target_s`; what is a fraction too much by rounding is not.
fn wanted(measured: Measured, target_s: f64) -> u32 {
    (measured.in_flight * target_s / measured.latency_s - 1e-6).ceil() as u32
}

#[cfg(test)]
mod overloads;
#[cfg(test)]
mod tests;
