//! [`RetryPolicy`]: whether a request goes out once more: pure, so that the whole table is a test.
//!
//! A retry must be asked for by a condition, and be safe: the method is idempotent, or the upstream
//! never saw the request, or the configuration says that repeating does no harm. A gRPC status is such
//! a word of the configuration's: services that return it promise that nothing was done.

use http::Method;
use tokio::time::Duration;

use crate::{
    config::{ConfigError, Retries},
    telemetry::Failure,
    traffic::Outcome,
};

/// The words that `retries.on` knows, beside statuses.
const WORDS: [&str; 11] = [
    "5xx",
    "gateway-error",
    "reset",
    "connect-failure",
    "retriable-4xx",
    "refused-stream",
    "cancelled",
    "deadline-exceeded",
    "internal",
    "resource-exhausted",
    "unavailable",
];

/// When and how often a route's requests go out again.
#[derive(Debug)]
pub(crate) struct RetryPolicy {
    pub(crate) attempts: u32,
    pub(crate) per_try: Option<Duration>,
    body_bytes: usize,
    base: Duration,
    max: Duration,
    non_idempotent: bool,
    on: Vec<Condition>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Condition {
    ServerError,
    GatewayError,
    Reset,
    ConnectFailure,
    RefusedStream,
    Status(u16),
    Grpc(u16),
}

impl RetryPolicy {
    pub(crate) fn new(retries: &Retries) -> Result<Self, ConfigError> {
        Ok(Self {
            attempts: retries.attempts,
            per_try: retries.per_try_timeout_ms.map(Duration::from_millis),
            body_bytes: retries.body_bytes,
            base: Duration::from_millis(retries.backoff_ms),
            max: Duration::from_millis(retries.max_backoff_ms),
            non_idempotent: retries.non_idempotent,
            on: retries.on.iter().map(|word| condition(word)).collect::<Result<_, _>>()?,
        })
    }

    /// How much of a body is kept for another attempt.
    pub(crate) fn keeps_bytes(&self) -> usize {
        if self.attempts > 0 { self.body_bytes.max(1) } else { 1 }
    }

    /// Whether an attempt that ended so is to be made again.
    pub(crate) fn wants(&self, outcome: Outcome, method: &Method) -> bool {
        let safe = self.non_idempotent || !outcome.reached() || method.is_idempotent();
        self.on.iter().any(|condition| condition.holds(outcome) && (safe || matches!(condition, Condition::Grpc(_))))
    }

    /// How long to wait before retry `number`, from 1: doubled each time, jittered, and no shorter than asked.
    pub(crate) fn wait(&self, number: u32, outcome: Outcome, dice: f64) -> Duration {
        let doubled = self.base.saturating_mul(1 << number.saturating_sub(1).min(16)).min(self.max);
        doubled.mul_f64(dice).max(outcome.retry_after().unwrap_or_default())
    }
}

impl Condition {
    fn holds(self, outcome: Outcome) -> bool {
        use Failure::{ConnectFailed, ConnectTimeout, StreamRefused, TlsFailed, UpstreamReset, UpstreamTimeout};
        match (self, outcome) {
            // no answer becomes a 5xx of the proxy's own, so it counts as one
            (Self::ServerError | Self::GatewayError | Self::Reset, Outcome::Failed(failure)) => {
                matches!(
                    failure,
                    ConnectFailed | ConnectTimeout | TlsFailed | StreamRefused | UpstreamReset | UpstreamTimeout
                )
            }
            (Self::ConnectFailure, Outcome::Failed(failure)) => {
                matches!(failure, ConnectFailed | ConnectTimeout | TlsFailed)
            }
            (Self::RefusedStream, Outcome::Failed(failure)) => failure == StreamRefused,
            (Self::ServerError, Outcome::Answered { status, .. }) => (500..600).contains(&status),
            (Self::GatewayError, Outcome::Answered { status, .. }) => (502..=504).contains(&status),
            (Self::Status(wanted), Outcome::Answered { status, .. }) => status == wanted,
            (Self::Grpc(wanted), Outcome::Answered { grpc_status, .. }) => grpc_status == Some(wanted),
            _ => false,
        }
    }
}

fn condition(word: &str) -> Result<Condition, ConfigError> {
    Ok(match word {
        "5xx" => Condition::ServerError,
        "gateway-error" => Condition::GatewayError,
        "reset" => Condition::Reset,
        "connect-failure" => Condition::ConnectFailure,
        "retriable-4xx" => Condition::Status(409),
        "refused-stream" => Condition::RefusedStream,
        "cancelled" => Condition::Grpc(1),
        "deadline-exceeded" => Condition::Grpc(4),
        "resource-exhausted" => Condition::Grpc(8),
        "internal" => Condition::Grpc(13),
        "unavailable" => Condition::Grpc(14),
        other => match other.parse() {
            Ok(status @ 200..600) => Condition::Status(status),
            _ => {
                let words = WORDS.join(", ");
                return Err(ConfigError(format!("retries.on: {other:?} is none of {words}, nor a status")));
            }
        },
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn policy(on: &[&str], non_idempotent: bool) -> RetryPolicy {
        let on = on.iter().map(|word| (*word).to_owned()).collect();
        RetryPolicy::new(&Retries { on, non_idempotent, ..Retries::default() }).unwrap()
    }

    fn answered(status: u16) -> Outcome {
        Outcome::Answered { status, grpc_status: None, retry_after: None, shed: false }
    }

    fn grpc(status: u16) -> Outcome {
        Outcome::Answered { status: 200, grpc_status: Some(status), retry_after: None, shed: false }
    }

    #[test]
    fn a_retry_is_asked_for_and_safe() {
        use Failure::{ConnectFailed, StreamRefused, UpstreamReset, UpstreamTimeout};
        let failed = Outcome::Failed;
        let (get, post) = (Method::GET, Method::POST);
        for (on, non_idempotent, method, outcome, expected) in [
            ("5xx", false, &get, answered(500), true),
            ("5xx", false, &post, answered(500), false),
            ("5xx", true, &post, answered(500), true),
            ("5xx", false, &get, answered(404), false),
            ("5xx", false, &get, failed(UpstreamReset), true),
            ("5xx", false, &post, failed(UpstreamReset), false),
            ("5xx", false, &post, failed(ConnectFailed), true),
            ("gateway-error", false, &get, answered(503), true),
            ("gateway-error", false, &get, answered(500), false),
            ("gateway-error", false, &get, failed(UpstreamTimeout), true),
            ("reset", false, &get, failed(UpstreamReset), true),
            ("reset", false, &get, answered(503), false),
            ("connect-failure", false, &post, failed(ConnectFailed), true),
            ("connect-failure", false, &get, failed(UpstreamReset), false),
            ("refused-stream", false, &post, failed(StreamRefused), true),
            ("retriable-4xx", false, &Method::PUT, answered(409), true),
            ("retriable-4xx", false, &Method::PATCH, answered(409), false),
            ("429", false, &Method::DELETE, answered(429), true),
            ("unavailable", false, &post, grpc(14), true),
            ("unavailable", false, &post, grpc(13), false),
            ("unavailable", false, &post, answered(503), false),
            ("reset", false, &get, failed(Failure::NoEndpoint), false),
        ] {
            let got = policy(&[on], non_idempotent).wants(outcome, method);
            assert_eq!(got, expected, "{on} {non_idempotent} {method} {outcome:?}");
        }
    }

    #[test]
    fn waits_double_and_honour_retry_after() {
        let policy = policy(&["5xx"], false);
        let millis = |number| policy.wait(number, answered(500), 1.0).as_millis();
        assert_eq!([1, 2, 3, 4, 5, 40].map(millis), [25, 50, 100, 200, 250, 250]);
        let retry_after = Some(Duration::from_secs(2));
        let asked = Outcome::Answered { status: 503, grpc_status: None, retry_after, shed: false };
        assert_eq!(policy.wait(1, asked, 0.5), Duration::from_secs(2));
    }

    #[test]
    fn an_unknown_word_is_named_with_the_known_ones() {
        let retries = Retries { on: vec!["5XX".into()], ..Retries::default() };
        let why = RetryPolicy::new(&retries).unwrap_err().0;
        assert!(why.starts_with("retries.on: \"5XX\" is none of 5xx, gateway-error"), "{why}");
    }
}
