//! [`Retry`]: when a batch that the collector did not take is tried again, and when it is lost.
//!
//! The waits double. A collector that says how long it wants to be left alone (`RetryInfo`) is obeyed: the back-off comes
//! on top of that, so that many proxies do not come back in step. Nothing waits beyond the end: then is the last try.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};
use tonic_types::StatusExt;

use crate::telemetry::Loss;

/// The first wait before a batch is tried again; it doubles up to [`MAX_BACKOFF`].
const MIN_BACKOFF: Duration = Duration::from_millis(100);

/// 5 s: a collector that restarts is noticed soon.
const MAX_BACKOFF: Duration = Duration::from_secs(5);

/// The tries of one batch.
#[derive(Debug)]
pub(super) struct Retry {
    end: Instant,
    backoff: Duration,
}

impl Retry {
    /// No try begins after `end`.
    pub(super) fn until(end: Instant) -> Self {
        Self { end, backoff: MIN_BACKOFF }
    }

    /// How long to wait after this error, or why the batch is lost.
    pub(super) fn after(&mut self, error: &Status, now: Instant) -> Result<Duration, Loss> {
        let (why, left) = (loss_of(error), self.end.saturating_duration_since(now));
        if why == Loss::Refused || left.is_zero() {
            return Err(why);
        }
        let wait = asked(error).unwrap_or_default().saturating_add(jittered(self.backoff));
        self.backoff = (self.backoff * 2).min(MAX_BACKOFF);
        Ok(wait.min(left))
    }
}

/// What an error that is not retried is counted as: whether a later try could help, as the OTLP specification has it.
pub(super) fn loss_of(error: &Status) -> Loss {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, OutOfRange, ResourceExhausted, Unavailable, Unknown};
    let retryable = match error.code() {
        Cancelled | DeadlineExceeded | Aborted | OutOfRange | Unavailable | DataLoss => true,
        // not in the specification's list, but what a broken connection looks like
        Unknown => true,
        // without a time it would be as large then
        ResourceExhausted => asked(error).is_some(),
        _ => false,
    };
    if retryable { Loss::Unavailable } else { Loss::Refused }
}

/// How long the collector wants to be left alone, if it says so.
fn asked(error: &Status) -> Option<Duration> {
    error.get_details_retry_info()?.retry_delay
}

/// Half to all of a back-off, so that many proxies do not come back in step.
pub(crate) fn jittered(backoff: Duration) -> Duration {
    backoff.mul_f64(rand::random_range(0.5..1.0))
}

#[cfg(test)]
mod tests {
    use tonic_types::ErrorDetails;

    use super::*;

    fn error(code: Code, asked: Option<Duration>) -> Status {
        Status::with_error_details(code, "full", ErrorDetails::with_retry_info(asked))
    }

    /// Our own collector says when it will have room; it was asked again after a tenth of a second all the same.
    #[test]
    fn a_collector_is_left_alone_for_as_long_as_it_asks() {
        let (now, s) = (Instant::now(), Duration::from_secs);
        for (asked, left, at_least, at_most) in [
            (None, s(30), Duration::from_millis(50), Duration::from_millis(100)),
            (Some(Duration::ZERO), s(30), Duration::from_millis(50), Duration::from_millis(100)),
            (Some(s(4)), s(30), Duration::from_millis(4_050), Duration::from_millis(4_100)),
            // the last try
            (Some(s(4)), s(3), s(3), s(3)),
            (Some(s(300_000_000_000)), s(30), s(30), s(30)),
        ] {
            let wait = Retry::until(now + left).after(&error(Code::Unavailable, asked), now).unwrap();
            assert!((at_least..=at_most).contains(&wait), "{asked:?}, {left:?} left: {wait:?}");
        }
        assert_eq!(Retry::until(now).after(&error(Code::Unavailable, Some(s(1))), now), Err(Loss::Unavailable));
    }

    #[test]
    fn back_off_doubles() {
        let (now, mut waits) = (Instant::now(), Vec::new());
        let mut retry = Retry::until(now + Duration::from_secs(60));
        for _ in 0..8 {
            waits.push(retry.after(&Status::unavailable(""), now).unwrap().as_secs_f64());
        }
        for (wait, longest) in waits.iter().zip([0.1, 0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]) {
            assert!((longest / 2.0..=longest).contains(wait), "{waits:?}");
        }
    }

    /// The time to come back was looked for where tonic does not leave it, so `RESOURCE_EXHAUSTED` was never tried again.
    #[test]
    fn only_what_a_later_try_could_help_is_tried_again() {
        for (code, asked, loss) in [
            (Code::Unavailable, None, Loss::Unavailable),
            (Code::ResourceExhausted, None, Loss::Refused),
            (Code::ResourceExhausted, Some(Duration::from_secs(1)), Loss::Unavailable),
            (Code::InvalidArgument, Some(Duration::from_secs(1)), Loss::Refused),
        ] {
            // as it arrives
            let mut headers = http::HeaderMap::new();
            error(code, asked).add_header(&mut headers).unwrap();
            let arrived = Status::from_header_map(&headers).unwrap();
            assert_eq!(loss_of(&arrived), loss, "{code:?} {asked:?}");
        }
    }
}
