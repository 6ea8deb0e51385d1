//! [`Reservation`]: what one request holds of the bound on bytes in flight, from its head to its ack.
//!
//! How large a request becomes is not always known at the door: a body in chunks announces no length, a compressed one only its length
//! before inflating. So the door asks for what is likely ([`likely_bytes`]), in line as everybody does, and the reservation grows by what
//! comes. Growing waits too, in a line of its own, under three rules:
//!
//! - **Who grows goes first.** Nobody is let in while somebody waits to grow: what was begun has cost something and gives room when it
//!   ends, what stands at the door has cost nothing. Nobody is starved by that, for those inside are finitely many and each of them ends.
//! - **They never wait for each other.** Half-read requests could hold all the room, each waiting for more of it. As soon as all
//!   that is held is held by requests that wait to grow, the first of them gets all that it can ever need, even beyond the bound.
//!   It never waits again, ends, and gives back what it holds; before that not all that is held can be waiting again. So at each
//!   moment at least one request goes on, and the bound is passed by what one request needs, twice the largest body.
//! - **Nobody waits longer** than [`Reservation::new`] is told, the door included.

use std::sync::Arc;

use tokio::time::Instant;

use crate::{
    admission::{Admitted, Full},
    inflate::Coding,
    ingest::Refused,
    queue::Queue,
};

/// A compressed body counts as so much larger: telemetry compresses to a tenth.
pub(crate) const INFLATION: usize = 8;

/// What a body without a length asks for at the door. 64 KiB: one frame.
const UNANNOUNCED_BYTES: usize = 64 << 10;

/// What a request will likely need, compressed and inflated, when no body may have more than `limit` bytes.
pub(crate) fn likely_bytes(coding: Coding, announced: Option<usize>, limit: usize) -> usize {
    match (announced, coding) {
        (None, _) => UNANNOUNCED_BYTES.min(limit),
        (Some(bytes), Coding::Identity) => bytes,
        (Some(bytes), Coding::Gzip | Coding::Deflate | Coding::Zstd) => {
            bytes.saturating_add(bytes.saturating_mul(INFLATION).min(limit))
        }
    }
}

/// What a request can need at most, compressed and inflated.
pub(crate) fn most_bytes(coding: Coding, limit: usize) -> usize {
    match coding {
        Coding::Identity => limit,
        Coding::Gzip | Coding::Deflate | Coding::Zstd => limit.saturating_mul(2),
    }
}

/// A request's reservation; given back when dropped.
#[derive(Debug)]
pub(crate) struct Reservation {
    admitted: Admitted,
    growing: Arc<Queue>,
    most_bytes: usize,
    until: Instant,
}

impl Reservation {
    /// The reservation of a request that needs at most `most_bytes`, and waits in line no longer than `until`.
    pub(crate) fn new(admitted: Admitted, growing: Arc<Queue>, most_bytes: usize, until: Instant) -> Self {
        Self { admitted, growing, most_bytes, until }
    }

    /// When waiting ends.
    pub(crate) fn until(&self) -> Instant {
        self.until
    }

    /// Makes the reservation at least `bytes` wide, if there is room now.
    pub(crate) fn try_grow_to(&mut self, bytes: usize) -> Result<(), Full> {
        self.admitted.grow_to(bytes)
    }

    /// Makes the reservation at least `bytes` wide, and twice as wide as it was if it has to wait for that: so it waits a few times at most.
    pub(crate) async fn grow_to(&mut self, bytes: usize) -> Result<(), Refused> {
        if self.try_grow_to(bytes).is_ok() {
            return Ok(());
        }
        let wanted = bytes.max((2 * self.admitted.bytes()).min(self.most_bytes));
        let _waiting = self.admitted.waiting();
        let (admitted, most) = (&mut self.admitted, self.most_bytes.max(wanted));
        self.growing.wait(self.until, || Ok(admitted.grow_first(wanted, most)?)).await
    }

    /// Makes the reservation exactly `bytes` wide, whether there is room or not: for what is there already.
    pub(crate) fn set(&mut self, bytes: usize) {
        self.admitted.set(bytes);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use futures::future::join_all;

    use super::*;
    use crate::admission::Admission;

    fn reservation(
        admission: &Admission,
        growing: &Arc<Queue>,
        bytes: usize,
        most: usize,
        wait_ms: u64,
    ) -> Reservation {
        let until = Instant::now() + Duration::from_millis(wait_ms);
        Reservation::new(admission.admit(bytes).unwrap(), growing.clone(), most, until)
    }

    #[test]
    fn what_is_likely_follows_from_coding_and_length() {
        for (coding, announced, expected) in [
            (Coding::Identity, Some(0), 0),
            (Coding::Identity, Some(700), 700),
            (Coding::Gzip, Some(10), 10 + 80),
            (Coding::Zstd, Some(700), 700 + 1_000),
            (Coding::Gzip, Some(usize::MAX), usize::MAX),
            (Coding::Identity, None, 1_000),
            (Coding::Gzip, None, 1_000),
        ] {
            assert_eq!(likely_bytes(coding, announced, 1_000), expected, "{coding:?} {announced:?}");
        }
        assert_eq!(likely_bytes(Coding::Identity, None, 1 << 20), UNANNOUNCED_BYTES);
    }

    #[tokio::test(start_paused = true)]
    async fn who_grows_waits_for_room_and_no_longer_than_allowed() {
        let (admission, growing) = (Admission::new(10), Arc::new(Queue::new(100)));
        let holder = admission.admit(6).unwrap();
        let (mut patient, mut hasty) =
            (reservation(&admission, &growing, 2, 8, 900), reservation(&admission, &growing, 2, 8, 300));
        let started = Instant::now();
        let frees = async {
            tokio::time::sleep(Duration::from_millis(500)).await;
            drop(holder);
        };
        let grows = async { (patient.grow_to(7).await.is_ok(), started.elapsed().as_millis()) };
        let gives_up = async { (hasty.grow_to(7).await.is_ok(), started.elapsed().as_millis()) };
        let (grown, given_up, ()) = tokio::join!(grows, gives_up, frees);
        assert!(grown.0 && (500..520).contains(&grown.1), "{grown:?}");
        assert!(!given_up.0 && (300..320).contains(&given_up.1), "{given_up:?}");
        assert_eq!(admission.held_bytes(), 7 + 2, "who got nothing keeps what it had");
        drop((patient, hasty));
        assert_eq!(admission.held_bytes(), 0);
    }

    /// A hundred requests hold everything and each needs more: without a way out all of them would wait until their time is over.
    #[tokio::test(start_paused = true)]
    async fn those_who_hold_everything_do_not_wait_for_each_other() {
        const MOST: usize = 40;
        let (admission, growing) = (Admission::new(100), Arc::new(Queue::new(100)));
        let reservations: Vec<_> = (0..100).map(|_| reservation(&admission, &growing, 1, MOST, 60_000)).collect();
        let started = Instant::now();
        let grow = reservations.into_iter().map(|mut reservation| {
            let admission = admission.clone();
            async move {
                for bytes in 2..=MOST {
                    reservation.grow_to(bytes).await.unwrap();
                    assert!(admission.held_bytes() <= 100 + MOST, "one at a time passes the bound");
                    tokio::task::yield_now().await;
                }
            }
        });
        join_all(grow).await;
        assert!(started.elapsed() < Duration::from_secs(5), "{:?}", started.elapsed());
        assert_eq!((admission.held_bytes(), growing.waiting()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn the_bound_is_not_passed_while_somebody_goes_on() {
        let (admission, growing) = (Admission::new(10), Arc::new(Queue::new(100)));
        let _goes_on = admission.admit(2).unwrap();
        let mut waits = reservation(&admission, &growing, 8, 20, 1_000);
        assert!(matches!(waits.grow_to(9).await, Err(Refused::Overloaded { .. })));
        assert_eq!(admission.held_bytes(), 10);
    }
}
