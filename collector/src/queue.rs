//! [`Queue`]: requests that wait for room, each in its turn.
//!
//! A sender that is refused at once and comes again at once costs what reading it costs, over and over. One that is kept waiting
//! costs nothing and comes no sooner than it is served. So who finds no room stands in queue, first come, first served, and is refused only when its
//! time is over, when the queue is full, or for a reason that waiting does not mend.

use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use tokio::{
    sync::{Mutex, Semaphore},
    time::{Instant, sleep_until, timeout_at},
};

use crate::{ingest::Refused, stats::add};

/// How often the first in queue asks: two numbers are compared, and of what fills up there is no call back.
const ASK_AGAIN: Duration = Duration::from_millis(5);

/// A queue before one thing that has room or has not. Who finds no place in it is refused at once.
#[derive(Debug)]
pub(crate) struct Queue {
    length: usize,
    places: Semaphore,
    turn: Mutex<()>,
    full: AtomicU64,
}

impl Queue {
    /// A queue of `length` places.
    pub(crate) fn new(length: usize) -> Self {
        Self { length, places: Semaphore::new(length), turn: Mutex::new(()), full: AtomicU64::new(0) }
    }

    /// How many wait.
    pub(crate) fn waiting(&self) -> usize {
        self.length - self.places.available_permits()
    }

    /// How many were refused because there was no place to wait.
    pub(crate) fn refused_full(&self) -> u64 {
        self.full.load(Ordering::Relaxed)
    }

    /// What `room` says in the end: it is asked until it has room, until it refuses for something else than overload, or until `until`.
    pub(crate) async fn wait<T>(
        &self,
        until: Instant,
        mut room: impl FnMut() -> Result<T, Refused>,
    ) -> Result<T, Refused> {
        if self.waiting() == 0 {
            match room() {
                Err(Refused::Overloaded { .. }) => {}
                answer => return answer,
            }
        }
        let Ok(_place) = self.places.try_acquire() else {
            return room().inspect_err(|_| add(&self.full, 1));
        };
        let Ok(_turn) = timeout_at(until, self.turn.lock()).await else { return room() };
        loop {
            match room() {
                Err(Refused::Overloaded { .. }) if Instant::now() < until => {
                    sleep_until(until.min(Instant::now() + ASK_AGAIN)).await;
                }
                answer => return answer,
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    };

    use futures::future::join_all;

    use super::*;

    const FULL: Refused = Refused::Overloaded { retry_after: Duration::from_secs(1) };

    fn after(ms: u64) -> Instant {
        Instant::now() + Duration::from_millis(ms)
    }

    #[tokio::test(start_paused = true)]
    async fn who_finds_room_does_not_wait_and_what_waiting_does_not_mend_is_said_at_once() {
        let (queue, started) = (Queue::new(4), Instant::now());
        assert!(queue.wait(after(1_000), || Ok(())).await.is_ok());
        assert!(matches!(queue.wait::<()>(after(1_000), || Err(Refused::Closed)).await, Err(Refused::Closed)));
        assert!(matches!(queue.wait::<()>(after(0), || Err(FULL)).await, Err(Refused::Overloaded { .. })));
        assert_eq!(started.elapsed(), Duration::ZERO);
    }

    #[tokio::test(start_paused = true)]
    async fn room_is_given_in_the_order_of_arrival_and_who_gets_none_in_time_is_refused() {
        let queue = Queue::new(4);
        let (rooms, started) = (AtomicUsize::new(0), Instant::now());
        let take = || rooms.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).map(|_| ()).map_err(|_| FULL);
        let waits = (0..4).map(|_| async { (queue.wait(after(1_000), take).await.is_ok(), started.elapsed()) });
        let gives = async {
            for _ in 0..2 {
                tokio::time::sleep(Duration::from_millis(300)).await;
                rooms.fetch_add(1, SeqCst);
            }
        };
        let (ends, ()) = tokio::join!(join_all(waits), gives);
        assert_eq!(ends.iter().map(|end| end.0).collect::<Vec<_>>(), [true, true, false, false]);
        let took: Vec<_> = ends.iter().map(|end| end.1.as_millis()).collect();
        assert!((300..320).contains(&took[0]) && (600..620).contains(&took[1]), "{took:?}");
        assert!(took[2..].iter().all(|took| (1_000..1_010).contains(took)), "{took:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_newcomer_does_not_pass_those_who_wait() {
        let queue = Queue::new(4);
        let (rooms, order) = (AtomicUsize::new(0), std::sync::Mutex::new(Vec::new()));
        let take = || rooms.fetch_update(SeqCst, SeqCst, |left| left.checked_sub(1)).map(|_| ()).map_err(|_| FULL);
        let first = async {
            queue.wait(after(9_000), take).await.unwrap();
            order.lock().unwrap().push("first");
        };
        let newcomer = async {
            tokio::task::yield_now().await;
            // there is room now, and somebody who has waited for it
            rooms.store(2, SeqCst);
            queue.wait(after(9_000), take).await.unwrap();
            order.lock().unwrap().push("newcomer");
        };
        tokio::join!(first, newcomer);
        assert_eq!(*order.lock().unwrap(), ["first", "newcomer"]);
    }

    #[tokio::test(start_paused = true)]
    async fn one_more_than_the_line_holds_is_refused_at_once() {
        let queue = Arc::new(Queue::new(4));
        let waiting = (0..4).map(|_| {
            let queue = queue.clone();
            tokio::spawn(async move { queue.wait::<()>(after(60_000), || Err(FULL)).await.is_err() })
        });
        let waiting: Vec<_> = waiting.collect();
        while queue.waiting() < 4 {
            tokio::task::yield_now().await;
        }
        let started = Instant::now();
        assert!(queue.wait::<()>(after(60_000), || Err(FULL)).await.is_err());
        assert_eq!((started.elapsed(), queue.refused_full()), (Duration::ZERO, 1));
        waiting.iter().for_each(tokio::task::JoinHandle::abort);
        join_all(waiting).await;
        assert_eq!(queue.waiting(), 0, "who goes away leaves its place");
    }
}
