//! [`Gate`]: where requests enter a service or one of its routes: first the rate, then the places.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weir_policy::{ConcurrencyLimit, Policy};

use crate::regulate::{
    limiter::{Entry, Limiter, Permit},
    rate::RateLimiter,
};

/// The limits of a service or route.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    limiter: Arc<Limiter>,
    rate: RateLimiter,
}

/// Passed, and how long it took.
#[derive(Debug)]
pub(crate) struct Admission {
    pub(crate) permit: Permit,
    /// Whether it had to wait.
    pub(crate) queued: bool,
}

/// Why a request was shed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Refusal {
    /// Too many requests per second.
    RateLimited {
        /// Until one would be admitted.
        retry_after: Duration,
    },
    /// As many wait as may.
    QueueFull,
    /// Its wait reached the deadline.
    QueueTimeout,
    /// The upstream fails.
    BreakerOpen,
    /// As many requests are in flight to the upstream as may be.
    UpstreamOverflow,
}

impl Gate {
    /// Enforces the limits of `policy`; the breaker is the callers' business.
    pub(crate) fn set(&self, policy: Option<&Policy>) {
        self.limiter.set(policy.and_then(|p| p.concurrency_limit));
        self.rate.set(policy.and_then(|p| p.rate_limit));
    }

    /// A gate that holds to one limit.
    pub(crate) fn of(limit: ConcurrencyLimit) -> Self {
        let gate = Self::default();
        gate.limiter.set(Some(limit));
        gate
    }

    /// Lets a request in, at once or after a wait in the queue.
    pub(crate) async fn admit(&self, now: Instant, give_up: Instant) -> Result<Admission, Refusal> {
        self.rate.admit(now).map_err(|retry_after| Refusal::RateLimited { retry_after })?;
        match self.limiter.enter(now, give_up) {
            Entry::Admitted(permit) => Ok(Admission { permit, queued: false }),
            Entry::Full => Err(Refusal::QueueFull),
            Entry::Queued(place) => {
                let permit = place.wait().await.ok_or(Refusal::QueueTimeout)?;
                Ok(Admission { permit, queued: true })
            }
        }
    }

    /// Requests in flight and waiting.
    pub(crate) fn load(&self) -> (u32, usize) {
        (self.limiter.in_flight(), self.limiter.queued())
    }
}
