//! [`Clock`]: how long an answer's body may be silent, and how long the answer may take as a whole: from the beginning, from the
//! end of the request, or both.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::time::{Duration, Instant, Sleep, sleep_until};

use crate::{telemetry::Failure, traffic::upload::Upload};

/// One timer for all bounds: it is set to the nearer one, and made when the upstream is first waited for, because most
/// answers are there as a whole.
pub(crate) struct Clock {
    bounds: Bounds,
    /// Since when the upstream has nothing to read; a client that does not read is not its fault.
    silent: Option<Instant>,
    timer: Option<Pin<Box<Sleep>>>,
}

/// What an answer is held to.
#[derive(Default)]
pub(crate) struct Bounds {
    /// The longest silence.
    pub(crate) idle: Option<Duration>,
    pub(crate) ends: Option<Instant>,
    pub(crate) turn: Option<Turn>,
}

/// How long the upstream may take once it has all of the request.
pub(crate) struct Turn {
    /// When the request came.
    pub(crate) began: Instant,
    pub(crate) longest: Duration,
    pub(crate) upload: Option<Rc<Upload>>,
}

impl Clock {
    /// `None` when there is no bound to keep.
    pub(crate) fn new(bounds: Bounds) -> Option<Self> {
        let bounded = bounds.idle.is_some() || bounds.ends.is_some() || bounds.turn.is_some();
        bounded.then_some(Self { bounds, silent: None, timer: None })
    }

    /// A chunk came; the timer is only moved when it rings, because chunks are many.
    pub(crate) fn heard(&mut self) {
        self.silent = None;
    }

    /// Ready when a bound has passed, with which one.
    pub(crate) fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Failure> {
        let Self { bounds, silent, timer } = self;
        let silent_until = bounds.idle.map(|idle| *silent.get_or_insert_with(Instant::now) + idle);
        loop {
            // later than when it was looked at last, where the client was still sending
            let ends = bounds.ends();
            let Some(next) = [silent_until, ends].into_iter().flatten().min() else { return Poll::Pending };
            let timer = timer.get_or_insert_with(|| Box::pin(sleep_until(next)));
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

impl Bounds {
    fn ends(&self) -> Option<Instant> {
        let Some(Turn { began, longest, upload }) = &self.turn else { return self.ends };
        let turn_ends = Upload::after(upload.as_deref(), *began + *longest, *longest);
        Some(self.ends.map_or(turn_ends, |ends| ends.min(turn_ends)))
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn silence_and_length_are_bounded() {
        let (start, second) = (Instant::now(), Duration::from_secs(1));
        let clock = |idle, ends| Clock::new(Bounds { idle: Some(idle), ends: Some(ends), turn: None }).unwrap();
        assert!(Clock::new(Bounds::default()).is_none());
        let mut short = clock(second, start + 3 * second);
        let mut long = clock(2 * second, start + 4 * second);
        assert_eq!(poll_fn(|cx| short.poll(cx)).await, Failure::IdleTimeout);
        assert_eq!(start.elapsed(), second);
        for _ in 0..3 {
            assert!(poll_fn(|cx| Poll::Ready(long.poll(cx))).await.is_pending());
            tokio::time::advance(second).await;
            long.heard();
        }
        assert_eq!(poll_fn(|cx| long.poll(cx)).await, Failure::StreamTimeout);
        assert_eq!(start.elapsed(), 4 * second);
    }

    /// A second that began with the request once broke answers to clients that took longer to send theirs.
    #[tokio::test(start_paused = true)]
    async fn an_answer_s_time_begins_when_all_was_sent() {
        let second = Duration::from_secs(1);
        for (sends_s, ends_s) in [(None, 1), (Some(3), 4)] {
            let upload = sends_s.map(|_| Rc::new(Upload::new()));
            let turn = Some(Turn { began: Instant::now(), longest: second, upload: upload.clone() });
            let (start, mut clock) = (Instant::now(), Clock::new(Bounds { turn, ..Bounds::default() }).unwrap());
            let sends = async {
                for _ in 0..sends_s.unwrap_or(0) {
                    tokio::time::sleep(second).await;
                    upload.iter().for_each(|upload| upload.moved());
                }
                std::future::pending().await
            };
            tokio::select! {
                biased;
                () = sends => {}
                failure = poll_fn(|cx| clock.poll(cx)) => assert_eq!(failure, Failure::StreamTimeout),
            }
            assert_eq!(start.elapsed(), ends_s * second, "{sends_s:?}");
        }
    }
}
