//! The things a proxy can be told to hold: a concurrency limit, a rate limit, a token rate limit, a breaker.
//!
//! Each constructor refuses a value that would stop all traffic or mean nothing (limit 0, NaN, a
//! ratio above 1), so a value that exists can be enforced as it stands.

use std::{
    num::{NonZeroU32, NonZeroU64},
    time::Duration,
};

use serde::{Deserialize, Serialize};

/// At most `limit` requests of a service in flight at its inbound proxy; `queue` more may wait. In a set it is of all
/// replicas together, and each is sent its [`ReplicaShare`](crate::ReplicaShare).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ConcurrencyLimit {
    /// Requests admitted at once.
    pub limit: NonZeroU32,
    /// Requests that may wait for a place; the next one is shed with 503.
    pub queue: u32,
    /// The longest a request may wait before it is shed, in milliseconds.
    pub queue_timeout_ms: u64,
}

/// A token bucket (GCRA): `rate_per_s` on average, `burst` at once.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RateLimit {
    rate_per_s: f64,
    burst: NonZeroU32,
}

/// Tokens of language models per second: `tokens_per_s` on average, `burst` at once.
///
/// What a call will cost is estimated before it is let in and corrected by the `usage` of its answer.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TokenRateLimit {
    tokens_per_s: f64,
    burst: NonZeroU64,
    /// The header whose value says whose budget a request uses; one budget for all when absent.
    #[serde(default)]
    tenant_header: Option<String>,
}

/// Shed calls to a failing upstream by probability once its error ratio in `window` is exceeded.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Breaker {
    error_ratio: f64,
    min_requests: u32,
    window_ms: u64,
}

impl ConcurrencyLimit {
    /// The longest a request may wait for a place.
    #[must_use]
    pub fn queue_timeout(&self) -> Duration {
        Duration::from_millis(self.queue_timeout_ms)
    }
}

impl RateLimit {
    /// `None` unless `rate_per_s` is finite and above zero.
    #[must_use]
    pub fn new(rate_per_s: f64, burst: NonZeroU32) -> Option<Self> {
        let usable = rate_per_s.is_finite() && rate_per_s > 0.0;
        usable.then_some(Self { rate_per_s, burst })
    }

    /// Requests admitted each second in the long run.
    #[must_use]
    pub fn rate_per_s(&self) -> f64 {
        self.rate_per_s
    }

    /// Requests admitted at once after a pause.
    #[must_use]
    pub fn burst(&self) -> NonZeroU32 {
        self.burst
    }
}

impl TokenRateLimit {
    /// `None` unless `tokens_per_s` is finite and above zero, `burst` above zero, and the header, if any, not empty.
    #[must_use]
    pub fn new(tokens_per_s: f64, burst: u64, tenant_header: Option<String>) -> Option<Self> {
        let burst = NonZeroU64::new(burst)?;
        let limit = Self { tokens_per_s, burst, tenant_header };
        limit.is_usable().then_some(limit)
    }

    /// Whether it can be enforced; what came in through serde may not.
    #[must_use]
    pub fn is_usable(&self) -> bool {
        let is_name =
            |name: &String| !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b));
        self.tokens_per_s.is_finite() && self.tokens_per_s > 0.0 && self.tenant_header.as_ref().is_none_or(is_name)
    }

    /// Tokens each second in the long run.
    #[must_use]
    pub fn tokens_per_s(&self) -> f64 {
        self.tokens_per_s
    }

    /// Tokens at once after a pause.
    #[must_use]
    pub fn burst(&self) -> NonZeroU64 {
        self.burst
    }

    /// The header that says whose budget a request uses.
    #[must_use]
    pub fn tenant_header(&self) -> Option<&str> {
        self.tenant_header.as_deref()
    }
}

impl Breaker {
    /// `None` unless the ratio lies in (0, 1] and the window is longer than zero.
    #[must_use]
    pub fn new(error_ratio: f64, min_requests: u32, window: Duration) -> Option<Self> {
        let window_ms = u64::try_from(window.as_millis()).ok()?;
        let usable = error_ratio > 0.0 && error_ratio <= 1.0 && window_ms > 0;
        usable.then_some(Self { error_ratio, min_requests, window_ms })
    }

    /// The share of failed calls above which the breaker sheds.
    #[must_use]
    pub fn error_ratio(&self) -> f64 {
        self.error_ratio
    }

    /// Calls that the window must hold before the ratio means anything.
    #[must_use]
    pub fn min_requests(&self) -> u32 {
        self.min_requests
    }

    /// How far back the ratio looks.
    #[must_use]
    pub fn window(&self) -> Duration {
        Duration::from_millis(self.window_ms)
    }
}
