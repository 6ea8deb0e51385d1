//! [`Clock`]: how long an answer's body may be silent, and how long it may take as a whole.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::telemetry::Failure;

/// One timer for both bounds: it is set to the nearer one, and made when the upstream is first waited for, because most
/// answers are there as a whole.
pub(crate) struct Clock {
    idle: Option<Duration>,
    ends: Option<Instant>,
    /// Since when the upstream has nothing to read; a client that does not read is not its fault.
    silent: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

impl Clock {
    /// `None` when there is no bound to keep.
    pub(crate) fn new(idle: Option<Duration>, ends: Option<Instant>) -> Option<Self> {
        let bounded = idle.is_some() || ends.is_some();
        bounded.then_some(Self { idle, ends, silent: None, timer: None })
    }

    /// A chunk came; the timer is only moved when it rings, because chunks are many.
    pub(crate) fn heard(&mut self) {
        self.silent = None;
    }

    /// Ready when a bound has passed, with which one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let Self { idle, ends, silent, timer } = self;
        let silent_until = idle.map(|idle| *silent.get_or_insert_with(Instant::now) + idle);
        let Some(next) = [silent_until, *ends].into_iter().flatten().min() else { return Poll::Pending };
        let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
        loop {
            ready!(timer.as_mut().poll(cx));
            let now = Instant::now();
            if ends.is_some_and(|ends| now >= ends) {
                return Poll::Ready(Failure::StreamTimeout);
            }
            if silent_until.is_some_and(|until| now >= until) {
                return Poll::Ready(Failure::IdleTimeout);
            }
            timer.as_mut().reset(next);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_and_length_are_bounded() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        assert!(Clock::new(None, None).is_none());
        let mut clock = Clock::new(Some(second), Some(start + 3 * second)).unwrap();
        assert_eq!(poll_fn(|cx| clock.poll(cx)).await, Failure::IdleTimeout);
        assert_eq!(start.elapsed(), second);
        let mut clock = Clock::new(Some(2 * second), Some(start + 4 * second)).unwrap();
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(clock.poll(cx))).await.is_pending());
            tokio::time::advance(second).await;
            clock.heard();
        }
        assert_eq!(poll_fn(|cx| clock.poll(cx)).await, Failure::StreamTimeout);
        assert_eq!(start.elapsed(), 4 * second);
    }
}
