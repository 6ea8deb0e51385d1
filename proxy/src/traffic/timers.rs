//! [`Timers`]: timers that are lent and used again.
//!
//! Each request needs two, and hardly any of them rings. To make one, put it into the runtime's wheel and take it out again costs
//! an allocation and a lock; to set one forward that is in the wheel already costs an atomic exchange.

use std::{
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use parking_lot::Mutex;
use tokio::time::{Duration, Instant, Sleep, sleep_until};

/// 64 timers nobody uses: a busy thread has about as many requests under way, and what was last waited for hangs on each.
const MAX_KEPT: usize = 64;

/// Timers of one use, so that each is set to a later time than the one before.
#[derive(Clone, Debug, Default)]
pub(crate) struct Timers(Arc<Mutex<Vec<Pin<Box<Sleep>>>>>);

/// A timer that goes back when it is dropped.
pub(crate) struct Timer {
    /// Gone only while it is dropped.
    sleep: Option<Pin<Box<Sleep>>>,
    home: Timers,
}

impl Timers {
    /// What `future` comes to, unless `end` comes first.
    pub(crate) async fn before<F: Future>(&self, end: Instant, future: F) -> Option<F::Output> {
        tokio::select! {
            biased;
            output = future => Some(output),
            () = self.at(end) => None,
        }
    }

    fn at(&self, end: Instant) -> Timer {
        let kept = self.0.lock().pop();
        let sleep = match kept {
            Some(mut kept) => {
                kept.as_mut().reset(end);
                kept
            }
            None => Box::pin(sleep_until(end)),
        };
        Timer { sleep: Some(sleep), home: self.clone() }
    }
}

impl Future for Timer {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        self.sleep.as_mut().expect("it is there until the drop").as_mut().poll(cx)
    }
}

impl Drop for Timer {
    fn drop(&mut self) {
        let mut kept = self.home.0.lock();
        if kept.len() < MAX_KEPT {
            kept.extend(self.sleep.take());
        }
    }
}

/// As hyper uses them, for the head of the next request.
#[expect(clippy::disallowed_types, reason = "hyper's clock is the system's; what is told and taken here is tokio's")]
impl hyper::rt::Timer for Timers {
    fn sleep(&self, duration: Duration) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.at(Instant::now() + duration))
    }

    fn sleep_until(&self, deadline: std::time::Instant) -> Pin<Box<dyn hyper::rt::Sleep>> {
        Box::pin(self.at(deadline.into()))
    }

    fn now(&self) -> std::time::Instant {
        Instant::now().into()
    }
}

impl hyper::rt::Sleep for Timer {}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_timer_that_was_used_rings_when_it_is_asked_to() {
        let (timers, second) = (Timers::default(), Duration::from_secs(1));
        for (end, takes, expected) in [(5, 1, Some(1)), (3, 9, None), (9, 9, Some(9)), (1, 2, None), (2, 9, None)] {
            let started = Instant::now();
            let work = async {
                tokio::time::sleep(takes * second).await;
                takes
            };
            assert_eq!(timers.before(started + end * second, work).await, expected, "{end} {takes}");
            assert_eq!(started.elapsed(), end.min(takes) * second, "{end} {takes}");
            assert_eq!(timers.0.lock().len(), 1, "it is the same one");
        }
    }

    #[tokio::test]
    async fn no_more_are_kept_than_may_be() {
        let timers = Timers::default();
        let lent: Vec<Timer> = (0..2 * MAX_KEPT).map(|_| timers.at(Instant::now())).collect();
        drop(lent);
        assert_eq!(timers.0.lock().len(), MAX_KEPT);
    }
}
