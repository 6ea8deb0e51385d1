//! [`Ages`]: since when requests that were sent on wait for their answers: what is late shows here before it is answered.
//!
//! They are counted by when they began, in slots of a ring, so that a request costs two additions and a look
//! costs the same whatever is in flight. A look goes back half the ring: the other half is what is not yet, for one may
//! begin after the clock was read. So who waits for longer is not seen, or seems younger: an age is never overstated.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::Duration,
};

use tokio::time::Instant;

/// 5 ms: a tenth of the wait that is allowed by custom.
const SLOT: Duration = Duration::from_millis(5);

/// Some 10 s in 8 KiB, half of them seen.
const SLOTS: usize = 2_048;

/// Of all requests under way.
#[derive(Debug)]
pub(crate) struct Ages {
    epoch: Instant,
    begun: Box<[AtomicU32]>,
}

/// One request that waits for its answer, until it is dropped.
#[derive(Debug)]
pub(crate) struct Age {
    ages: Arc<Ages>,
    slot: usize,
}

impl Ages {
    /// One begins to wait.
    pub(crate) fn begin(self: &Arc<Self>, now: Instant) -> Age {
        let slot = self.slots_until(now) % SLOTS;
        self.begun[slot].fetch_add(1, Relaxed);
        Age { ages: self.clone(), slot }
    }

    /// How long one has waited at least, whom `older` or more came before; `None` without any.
    pub(crate) fn behind(&self, older: u32, now: Instant) -> Option<Duration> {
        let last = self.slots_until(now);
        let mut before = 0;
        for ago in (0..(SLOTS / 2).min(last + 1)).rev() {
            before += self.begun[(last - ago) % SLOTS].load(Relaxed);
            if before > older {
                let ended = SLOT * u32::try_from(last - ago + 1).unwrap_or(u32::MAX);
                return Some(now.duration_since(self.epoch).saturating_sub(ended));
            }
        }
        None
    }

    fn slots_until(&self, now: Instant) -> usize {
        (now.duration_since(self.epoch).as_nanos() / SLOT.as_nanos()) as usize
    }
}

impl Default for Ages {
    fn default() -> Self {
        Self { epoch: Instant::now(), begun: (0..SLOTS).map(|_| AtomicU32::new(0)).collect() }
    }
}

impl Drop for Age {
    fn drop(&mut self) {
        self.ages.begun[self.slot].fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_age_is_that_of_the_one_behind_so_many_and_never_overstated() {
        let ages = Arc::new(Ages::default());
        let at = |ms| ages.epoch + Duration::from_millis(ms);
        let behind = |older, ms| ages.behind(older, at(ms)).map(|age| age.as_millis());
        assert_eq!(behind(0, 0), None);
        let mut waiting: Vec<Age> = [0, 7, 7, 31].map(|ms| ages.begin(at(ms))).into();
        let all = |ms| [0, 1, 2, 3, 4].map(|older| behind(older, ms));
        assert_eq!(all(40), [Some(35), Some(30), Some(30), Some(5), None]);
        waiting.remove(0);
        assert_eq!(all(40), [Some(30), Some(30), Some(5), None, None]);
        assert_eq!(all(1_000)[0], Some(990));
        let long = (SLOT * SLOTS as u32).as_millis() as u64;
        assert_eq!(behind(0, long / 2), Some(long as u128 / 2 - 10));
        assert_eq!(behind(0, long / 2 + 35), None, "older than half the ring");
        assert!(behind(0, long + 35).unwrap() < 40, "older than the ring");
        drop(waiting);
        assert_eq!(behind(0, long + 35), None);
    }

    /// One that began between the clock and the ring being read was as old as the ring is long.
    #[test]
    fn who_begins_meanwhile_has_not_waited() {
        let ages = Arc::new(Ages::default());
        for turn_ms in [0, 10_240, 20_480] {
            let at = |ms: u64| ages.epoch + Duration::from_millis(turn_ms + ms);
            let _waits = ages.begin(at(6));
            assert_eq!(ages.behind(0, at(4)), None, "{turn_ms}");
        }
    }
}
