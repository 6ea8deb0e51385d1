//! [`Gate`]: where requests enter a service or one of its routes: first the rate, then the places.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;
use weir_policy::{ConcurrencyLimit, Policy};

use crate::regulate::{
    limiter::{Ask, Entry, Limiter, Permit},
    rate::RateLimiter,
    tokens::{Budget, TokenLimiter},
};

/// The limits of a service or route.
#[derive(Debug, Default)]
pub(crate) struct Gate {
    limiter: Arc<Limiter>,
    rate: RateLimiter,
    pub(crate) tokens: Arc<TokenLimiter>,
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
    /// The budget of tokens is used up.
    TokensExhausted {
        /// Until there would be enough.
        retry_after: Duration,
        /// What the caller is told of it.
        budget: Budget,
    },
    /// As many wait as may.
    QueueFull,
    /// Its wait reached the deadline.
    QueueTimeout,
    /// It would wait longer than until its deadline, so it was not let wait at all.
    DeadlineUnmeetable {
        /// How long it would have waited.
        expected: Duration,
    },
    /// It waited, and one of higher priority took its place in the queue.
    Displaced,
    /// The upstream fails.
    BreakerOpen,
    /// As many requests are in flight to the upstream as may be.
    UpstreamOverflow,
}

impl Ask {
    /// As it stands behind a place it has got, perhaps after a wait.
    pub(crate) fn after(self, place: &Admission) -> Self {
        if place.queued { Self { now: Instant::now(), ..self } } else { self }
    }
}

impl Gate {
    /// Enforces the limits of `policy`; the breaker is the callers' business.
    pub(crate) fn set(&self, policy: Option<&Policy>) {
        self.limiter.set(policy.and_then(|p| p.concurrency_limit));
        self.rate.set(policy.and_then(|p| p.rate_limit));
        self.tokens.set(policy.and_then(|p| p.token_rate_limit.as_ref()));
    }

    /// What the local limiter allows meanwhile.
    pub(crate) fn set_local(&self, local: Option<ConcurrencyLimit>) {
        self.limiter.set_local(local);
    }

    /// Whether a request may have to wait here: only then its deadline and priority matter.
    pub(crate) fn is_bounded(&self) -> bool {
        self.limiter.is_bounded()
    }

    /// A gate that holds to one limit.
    pub(crate) fn of(limit: ConcurrencyLimit) -> Self {
        let gate = Self::default();
        gate.hold_to(limit);
        gate
    }

    /// Another limit from now on; who is in stays.
    pub(crate) fn hold_to(&self, limit: ConcurrencyLimit) {
        self.limiter.set(Some(limit));
    }

    /// Lets a request in, at once or after a wait in the queue.
    pub(crate) async fn admit(&self, ask: Ask) -> Result<Admission, Refusal> {
        self.rate.admit(ask.now).map_err(|retry_after| Refusal::RateLimited { retry_after })?;
        match self.limiter.enter(ask) {
            Entry::Admitted(permit) => Ok(Admission { permit, queued: false }),
            Entry::Refused(why) => Err(why),
            Entry::Queued(place) => Ok(Admission { permit: place.wait().await?, queued: true }),
        }
    }

    /// Requests in flight and waiting.
    pub(crate) fn load(&self) -> (u32, u32) {
        (self.limiter.in_flight(), self.limiter.queued())
    }

    /// How long one who came now would wait, as far as is known.
    pub(crate) fn expected_wait(&self) -> Option<Duration> {
        self.limiter.expected_wait()
    }
}
