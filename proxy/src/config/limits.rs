//! What the file says of limits, of the service as a whole and of single routes. What a policy for the same
//! service or route says takes the place of it, limit by limit; what it does not mention stays.

use serde::{Deserialize, Serialize};
use weir_policy::{Breaker, ConcurrencyLimit, Policy, RateLimit, TokenRateLimit};

use crate::{
    config::{ConfigError, validate::check},
    regulate::Priority,
};

/// The static limits of the service, obeyed at its inbound listeners.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Limits {
    /// Requests in flight.
    pub concurrency_limit: Option<ConcurrencyLimit>,
    /// Requests per second.
    pub rate_limit: Option<RateLimit>,
    /// Tokens of language models per second, estimated before a call and corrected by its `usage`.
    pub token_rate_limit: Option<TokenRateLimit>,
    /// Found from latencies, which are always looked at, and in force while the control plane is silent; off when absent, as
    /// in Envoy: it turns requests away that nobody said were too many, and what a service does between calls (batches,
    /// pauses of a collector, answers that take seconds) can look like a queue. Say it where you know that waiting is queueing.
    pub local_limit: Option<LocalLimit>,
    /// A header that says a request's priority: `high`, `normal`, `low`, or RFC 9218's `u=0` to `u=7`.
    /// None is believed when absent, because any client could claim to be urgent.
    pub priority_header: Option<String>,
}

/// The static limits of one route. Inbound they add to the service's; outbound they hold what leaves here. Of a route with
/// `redirect` or `respond` only `rate_limit` can be said, and the service's do not count: it is not asked.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RouteLimits {
    /// Requests in flight.
    pub concurrency_limit: Option<ConcurrencyLimit>,
    /// Requests per second.
    pub rate_limit: Option<RateLimit>,
    /// Tokens of language models per second, estimated before a call and corrected by its `usage`.
    pub token_rate_limit: Option<TokenRateLimit>,
    /// When calls are shed; outbound routes only.
    pub breaker: Option<Breaker>,
    /// Who goes first in a queue and who is shed first: `high`, `normal` or `low`.
    pub priority: Priority,
}

/// A limit that the proxy finds itself, from how long its service takes to answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LocalLimit {
    /// 50 ms of waiting allowed: people notice a tenth of a second, and other hops need their share.
    pub queue_wait_ms: u64,
    /// 15 s without a word of the control plane until it acts, three times the analyzer's usual period.
    /// Without a `policy` it acts at once.
    pub silence_ms: u64,
    /// 64 requests that may wait where no concurrency limit says how many; beyond a few dozen a queue only adds delay.
    pub queue: u32,
}

impl Default for LocalLimit {
    fn default() -> Self {
        Self { queue_wait_ms: 50, silence_ms: 15_000, queue: 64 }
    }
}

impl Limits {
    /// As a policy for `service`.
    pub(crate) fn policy(&self, service: &str) -> Policy {
        let Self { concurrency_limit, rate_limit, token_rate_limit, local_limit: _, priority_header: _ } = self.clone();
        Policy { concurrency_limit, rate_limit, token_rate_limit, ..unregulated(service, None) }
    }
}

impl RouteLimits {
    /// Refuses what could not limit a route that answers at once; `key` is where they stand.
    pub(super) fn check_answered_here(&self, key: &str) -> Result<(), ConfigError> {
        for (name, there) in [
            ("concurrency_limit", self.concurrency_limit.is_some()),
            ("token_rate_limit", self.token_rate_limit.is_some()),
            ("breaker", self.breaker.is_some()),
        ] {
            check(!there, || {
                format!("{key}.{name}: redirect and respond are answered here at once, so only rate_limit limits them")
            })?;
        }
        Ok(())
    }

    /// As a policy for a route of `service`; `None` when nothing is limited.
    pub(crate) fn policy(&self, service: &str, route: &str) -> Option<Policy> {
        let Self { concurrency_limit, rate_limit, token_rate_limit, breaker, priority: _ } = self.clone();
        let limited =
            concurrency_limit.is_some() || rate_limit.is_some() || token_rate_limit.is_some() || breaker.is_some();
        let unregulated = unregulated(service, Some(route));
        limited.then_some(Policy { concurrency_limit, rate_limit, token_rate_limit, breaker, ..unregulated })
    }
}

/// A policy that says nothing yet.
pub(crate) fn unregulated(service: &str, route: Option<&str>) -> Policy {
    let (service, route) = (service.to_owned(), route.map(str::to_owned));
    Policy { service, route, reason: "static configuration".to_owned(), ..Policy::default() }
}
