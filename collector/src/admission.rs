//! [`Admission`]: bytes between arrival and ack, bounded. A request reserves its bytes before its body
//! is read and holds it until it is stored, so neither a burst nor senders that hang up can pass the
//! bound. What leaves is measured: who is refused is told how long the rest takes to drain.

use std::{
    hash::{BuildHasher, RandomState},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use tokio::time::Instant;

/// A refused sender never comes back sooner: what is in flight needs a group commit to leave.
const RETRY_AFTER_MIN: Duration = Duration::from_secs(1);

/// Nor much later: recovery after an overload waits for those who wait.
const RETRY_AFTER_MAX: Duration = Duration::from_secs(5);

/// How long departures are counted before they become a rate.
const RATE_WINDOW: Duration = Duration::from_millis(200);

/// Weight of the newest window: a new rate is nine tenths known after two seconds.
const RATE_WEIGHT: f64 = 0.2;

/// The bound.
#[derive(Clone, Debug)]
pub(crate) struct Admission(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    limit: usize,
    state: Mutex<State>,
    seed: RandomState,
}

#[derive(Debug)]
struct State {
    held: usize,
    /// What of it is held by requests that wait for more.
    waiting: usize,
    /// What those who wait for a reservation ask for.
    asked: usize,
    /// Refusals so far: what makes each time to come back another one.
    refused: u64,
    left: usize,
    window_start: Instant,
    drain_bytes_per_s: Option<f64>,
}

/// Admitted bytes; given back when dropped.
#[derive(Debug)]
pub(crate) struct Admitted {
    admission: Admission,
    bytes: usize,
}

/// One who stands in line, until dropped.
pub(crate) struct Asking {
    admission: Admission,
    bytes: usize,
}

/// A reservation whose request waits for more, until dropped.
pub(crate) struct Waiting {
    admission: Admission,
    bytes: usize,
}

/// There is no room.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Full {
    pub(crate) retry_after: Duration,
}

impl Admission {
    pub(crate) fn new(limit: usize) -> Self {
        let (held, waiting, asked, refused, left) = (0, 0, 0, 0, 0);
        let state =
            State { held, waiting, asked, refused, left, window_start: Instant::now(), drain_bytes_per_s: None };
        Self(Arc::new(Shared { limit, state: Mutex::new(state), seed: RandomState::new() }))
    }

    /// Reserves `bytes`.
    pub(crate) fn admit(&self, bytes: usize) -> Result<Admitted, Full> {
        let mut admitted = Admitted { admission: self.clone(), bytes: 0 };
        admitted.grow_to(bytes)?;
        Ok(admitted)
    }

    /// Bytes between arrival and ack now.
    pub(crate) fn held_bytes(&self) -> usize {
        self.lock().held
    }

    /// Counts `bytes` among those who stand in line, until dropped.
    pub(crate) fn asks(&self, bytes: usize) -> Asking {
        self.lock().asked += bytes;
        Asking { admission: self.clone(), bytes }
    }

    /// When to come back: when what is held and who stands in line has left, at the rate at which it leaves; spread by half so that
    /// those who were refused together do not come together.
    pub(crate) fn retry_after(&self) -> Duration {
        let mut state = self.lock();
        state.refused += 1;
        let ahead = (state.held + state.asked) as f64;
        let draining_s = state.drain_bytes_per_s.map_or(0.0, |rate| ahead / rate.max(1.0));
        let spread = self.0.seed.hash_one(state.refused) as f64 / u64::MAX as f64;
        let wait = Duration::try_from_secs_f64(draining_s).unwrap_or(RETRY_AFTER_MAX);
        wait.clamp(RETRY_AFTER_MIN, RETRY_AFTER_MAX).mul_f64(1.0 + spread / 2.0)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Counts what leaves.
    fn leave(&mut self, bytes: usize, limit: usize, now: Instant) {
        let full = self.held >= limit / 2;
        self.held -= bytes;
        self.left += bytes;
        let elapsed = now - self.window_start;
        if elapsed < RATE_WINDOW {
            return;
        }
        // how fast what is reserved drains shows while all of it is; what leaves while some is free says only what
        // came, and an idle time says nothing
        let rate = self.left as f64 / elapsed.as_secs_f64();
        let idle = elapsed > 10 * RATE_WINDOW;
        self.drain_bytes_per_s = match self.drain_bytes_per_s {
            known if idle => known,
            Some(known) if full => Some(known + RATE_WEIGHT * (rate - known)),
            known => Some(known.map_or(rate, |known| known.max(rate))),
        };
        (self.left, self.window_start) = (0, now);
    }
}

impl Admitted {
    /// Makes the reservation at least `bytes` wide. When there is no room for that it stays as it is.
    pub(crate) fn grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        let Some(more) = bytes.checked_sub(self.bytes).filter(|more| *more > 0) else { return Ok(()) };
        let mut state = self.admission.lock();
        match state.held.checked_add(more).filter(|held| *held <= self.admission.0.limit) {
            Some(held) => state.held = held,
            None => {
                drop(state);
                return Err(Full { retry_after: self.admission.retry_after() });
            }
        }
        self.bytes = bytes;
        Ok(())
    }

    /// As [`Self::grow_to`], for the first of those who wait: when all that is held is held by those who wait, its reservation becomes
    /// `most` wide, whether there is room or not.
    pub(crate) fn grow_first(&mut self, bytes: usize, most: usize) -> Result<(), Full> {
        let grown = self.grow_to(bytes);
        if grown.is_ok() {
            return grown;
        }
        let mut state = self.admission.lock();
        if state.held > state.waiting {
            return grown;
        }
        state.held += most - self.bytes;
        self.bytes = most;
        Ok(())
    }

    /// Its bytes.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// Says that it waits for more.
    pub(crate) fn waiting(&self) -> Waiting {
        self.admission.lock().waiting += self.bytes;
        Waiting { admission: self.admission.clone(), bytes: self.bytes }
    }

    /// Makes the reservation exactly `bytes` wide, whether there is room or not: for what is there already,
    /// so that the next requests are refused for it.
    pub(crate) fn set(&mut self, bytes: usize) {
        let mut state = self.admission.lock();
        state.held = state.held - self.bytes + bytes;
        self.bytes = bytes;
    }
}

impl Drop for Admitted {
    fn drop(&mut self) {
        self.admission.lock().leave(self.bytes, self.admission.0.limit, Instant::now());
    }
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.admission.lock().asked -= self.bytes;
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.admission.lock().waiting -= self.bytes;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_are_given_back() {
        let admission = Admission::new(10);
        let first = admission.admit(6).unwrap();
        assert!(admission.admit(5).is_err());
        let second = admission.admit(4).unwrap();
        drop(first);
        assert!(admission.admit(7).is_err());
        drop(second);
        assert!(admission.admit(10).is_ok());
        assert!(admission.admit(usize::MAX).is_err());
        assert_eq!(admission.held_bytes(), 0);
    }

    #[test]
    fn a_place_grows_within_the_bound_and_is_given_back_whole() {
        let admission = Admission::new(10);
        let mut growing = admission.admit(2).unwrap();
        growing.grow_to(8).unwrap();
        growing.grow_to(3).unwrap();
        assert_eq!(admission.held_bytes(), 8, "it does not shrink by itself");
        assert!(growing.grow_to(11).is_err());
        assert_eq!(admission.held_bytes(), 8);
        growing.set(25);
        assert!(admission.admit(1).is_err(), "what is there anyway counts");
        growing.set(4);
        assert!(admission.admit(6).is_ok());
        drop(growing);
        assert_eq!(admission.held_bytes(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn who_is_refused_is_told_how_long_the_rest_takes_to_drain() {
        let admission = Admission::new(1_000);
        let first = admission.retry_after();
        assert!((1.0..1.5).contains(&first.as_secs_f64()), "nothing is known yet: {first:?}");
        // five hundred bytes leave every second, and then nothing for an hour
        for _ in 0..30 {
            let admitted = admission.admit(500).unwrap();
            tokio::time::advance(Duration::from_secs(1)).await;
            drop(admitted);
        }
        tokio::time::advance(Duration::from_secs(3600)).await;
        drop(admission.admit(1).unwrap());
        let _full = admission.admit(1_000).unwrap();
        let refused =
            || (0..100).map(|_| admission.admit(1).unwrap_err().retry_after.as_secs_f64()).collect::<Vec<_>>();
        let waits = refused();
        assert!(waits.iter().all(|wait| (2.0..=3.0).contains(wait)), "{waits:?}");
        let in_line = (admission.asks(400), admission.asks(600));
        assert!(refused().iter().all(|wait| (4.0..=6.0).contains(wait)), "behind those in line");
        drop(in_line);
        assert!(refused().iter().all(|wait| (2.0..=3.0).contains(wait)), "who left is not waited for");
        let (least, most) = waits.iter().fold((f64::MAX, 0.0_f64), |(l, m), w| (l.min(*w), m.max(*w)));
        assert!(most - least > 0.4, "spread: {least} to {most}");
    }
}
