//! [`Limiter`]: at most `limit` requests in flight, and a bounded queue served first come, first
//! served, in which nobody waits longer than a deadline.
//!
//! One short lock guards the count and the queue together, so a place that becomes free goes to
//! exactly one waiter; it is never held across an await. Without a limit the count is kept all the
//! same: it is the `in_flight` that spans report.

use std::{collections::VecDeque, sync::Arc};

use parking_lot::Mutex;
use tokio::{sync::oneshot, time::Instant};
use weir_policy::ConcurrencyLimit;

/// The places of one service or route.
#[derive(Debug, Default)]
pub(crate) struct Limiter {
    state: Mutex<State>,
}

/// What a request gets when it asks for a place.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A place at once.
    Admitted(Permit),
    /// A place in the queue.
    Queued(Place),
    /// Neither.
    Full,
}

/// A place; given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit {
    limiter: Arc<Limiter>,
    /// Requests in flight when it was given, this one included.
    pub(crate) in_flight: u32,
}

/// A place in the queue; left when dropped.
#[derive(Debug)]
pub(crate) struct Place {
    limiter: Arc<Limiter>,
    id: u64,
    deadline: Instant,
    granted: Option<oneshot::Receiver<u32>>,
}

#[derive(Debug, Default)]
struct State {
    limit: Option<ConcurrencyLimit>,
    in_flight: u32,
    waiting: VecDeque<Waiter>,
    next_id: u64,
}

#[derive(Debug)]
struct Waiter {
    id: u64,
    grant: oneshot::Sender<u32>,
}

impl Limiter {
    /// Asks for a place; `give_up` is when the request itself stops making sense.
    pub(crate) fn enter(self: &Arc<Self>, now: Instant, give_up: Instant) -> Entry {
        let mut state = self.state.lock();
        let Some(limit) = state.limit else { return Entry::Admitted(self.permit(state.take())) };
        if state.in_flight < limit.limit.get() && state.waiting.is_empty() {
            return Entry::Admitted(self.permit(state.take()));
        }
        if state.waiting.len() >= limit.queue as usize {
            return Entry::Full;
        }
        let (grant, granted) = oneshot::channel();
        let id = state.next_id;
        state.next_id += 1;
        state.waiting.push_back(Waiter { id, grant });
        let deadline = give_up.min(now + limit.queue_timeout());
        Entry::Queued(Place { limiter: self.clone(), id, deadline, granted: Some(granted) })
    }

    /// Changes the limit; those who now fit are let in.
    pub(crate) fn set(&self, limit: Option<ConcurrencyLimit>) {
        let mut state = self.state.lock();
        state.limit = limit;
        state.admit_waiting();
    }

    /// Requests in flight now.
    pub(crate) fn in_flight(&self) -> u32 {
        self.state.lock().in_flight
    }

    /// Requests that wait now.
    pub(crate) fn queued(&self) -> usize {
        self.state.lock().waiting.len()
    }

    fn permit(self: &Arc<Self>, in_flight: u32) -> Permit {
        Permit { limiter: self.clone(), in_flight }
    }

    fn release(&self) {
        let mut state = self.state.lock();
        state.in_flight -= 1;
        state.admit_waiting();
    }
}

impl State {
    fn take(&mut self) -> u32 {
        self.in_flight += 1;
        self.in_flight
    }

    fn admit_waiting(&mut self) {
        let limit = self.limit.map_or(u32::MAX, |l| l.limit.get());
        while self.in_flight < limit {
            let Some(waiter) = self.waiting.pop_front() else { return };
            // one who has left by now does not take the place
            if waiter.grant.send(self.in_flight + 1).is_ok() {
                self.in_flight += 1;
            }
        }
    }
}

impl Place {
    /// Waits for a place until the deadline; `None` when it passes first.
    pub(crate) async fn wait(mut self) -> Option<Permit> {
        let granted = self.granted.as_mut()?;
        let in_flight = tokio::time::timeout_at(self.deadline, granted).await.ok()?.ok()?;
        self.granted = None;
        Some(self.limiter.permit(in_flight))
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let Some(mut granted) = self.granted.take() else { return };
        self.limiter.state.lock().waiting.retain(|w| w.id != self.id);
        // the place may have come in the same moment as the end of the wait
        if granted.try_recv().is_ok() {
            self.limiter.release();
        }
    }
}

impl Drop for Permit {
    fn drop(&mut self) {
        self.limiter.release();
    }
}

#[cfg(test)]
mod tests {
    use std::{num::NonZeroU32, time::Duration};

    use super::*;

    fn limiter(limit: u32, queue: u32) -> Arc<Limiter> {
        let limiter = Arc::new(Limiter::default());
        limiter.set(of(limit, queue));
        limiter
    }

    fn of(limit: u32, queue: u32) -> Option<ConcurrencyLimit> {
        NonZeroU32::new(limit).map(|limit| ConcurrencyLimit { limit, queue, queue_timeout_ms: 100 })
    }

    fn enter(limiter: &Arc<Limiter>) -> Entry {
        let now = Instant::now();
        limiter.enter(now, now + Duration::from_secs(60))
    }

    fn admitted(limiter: &Arc<Limiter>) -> Permit {
        let Entry::Admitted(permit) = enter(limiter) else { panic!("no place") };
        permit
    }

    fn queued(limiter: &Arc<Limiter>) -> Place {
        let Entry::Queued(place) = enter(limiter) else { panic!("not queued") };
        place
    }

    #[tokio::test(start_paused = true)]
    async fn the_queue_is_bounded_and_first_come_first_served() {
        let limiter = limiter(1, 2);
        let held = admitted(&limiter);
        let (first, second) = (queued(&limiter), queued(&limiter));
        assert!(matches!(enter(&limiter), Entry::Full));
        drop(held);
        let first = first.wait().await.unwrap();
        assert!(matches!(enter(&limiter), Entry::Queued(_)), "the place was handed over, not set free");
        drop(first);
        assert_eq!(second.wait().await.unwrap().in_flight, 1);
        assert_eq!((limiter.in_flight(), limiter.queued()), (0, 0));
    }

    #[tokio::test(start_paused = true)]
    async fn nobody_waits_past_the_deadline() {
        let limiter = limiter(1, 2);
        let _held = admitted(&limiter);
        let place = queued(&limiter);
        let before = Instant::now();
        assert!(place.wait().await.is_none());
        assert_eq!(before.elapsed(), Duration::from_millis(100));
        let before = Instant::now();
        let sooner = limiter.enter(before, before + Duration::from_millis(5));
        let Entry::Queued(place) = sooner else { panic!("not queued") };
        assert!(place.wait().await.is_none());
        assert_eq!(before.elapsed(), Duration::from_millis(5), "the request's own deadline is nearer");
        assert_eq!(limiter.queued(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_place_given_to_one_who_left_goes_to_the_next() {
        let limiter = limiter(1, 2);
        let held = admitted(&limiter);
        let (leaver, stayer) = (queued(&limiter), queued(&limiter));
        drop(held); // the leaver is granted the place and never looks
        drop(leaver);
        assert!(stayer.wait().await.is_some());
        assert_eq!(limiter.in_flight(), 0);
    }

    #[tokio::test(start_paused = true)]
    async fn a_wider_limit_lets_the_queue_in_and_a_narrower_one_lets_them_finish() {
        let limiter = limiter(1, 2);
        let held = admitted(&limiter);
        let place = queued(&limiter);
        limiter.set(of(2, 2));
        let second = place.wait().await.unwrap();
        limiter.set(of(1, 0));
        assert_eq!(limiter.in_flight(), 2);
        drop(held);
        assert!(matches!(enter(&limiter), Entry::Full));
        drop(second);
        limiter.set(None);
        let many: Vec<Permit> = (0..100).map(|_| admitted(&limiter)).collect();
        assert_eq!(many.last().map(|p| p.in_flight), Some(100), "counted without a limit too");
    }
}
