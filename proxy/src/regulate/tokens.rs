//! [`TokenLimiter`]: tokens of language models per second, of a service, a route, or each tenant of it.
//!
//! A bucket of `burst` tokens fills at `tokens_per_s`. What a call will cost is not known when it comes:
//! an estimate is taken out then, and what the answer's `usage` differs from it is put back or taken
//! later, so a bucket can be in debt and then refuses until it has filled up again. An estimate is never more
//! than the whole burst: such a call is let in when the bucket is full, or it could never be, and whoever asks for
//! the moon takes no more than there is. What was set aside goes back by itself unless it is settled or kept, so
//! that no end of a call can forget it.
//!
//! A tenant's bucket is full when it is first seen, so whoever could name a new tenant with each call would have no budget at
//! all. Until a tenant has been known for as long as a bucket takes to fill, its calls therefore come out of a bucket for
//! newcomers too, which holds and fills as those of [`NEWCOMERS`] tenants: together they take no more, whatever they are
//! called. Only a header that a token sets (`claims_to_headers`) tells tenants apart for certain.
//!
//! ```text
//! estimate = min(prompt + output, burst)
//! level(t) = min(burst, level + tokens_per_s · Δt)      admit if level ≥ estimate
//! level ← level − estimate, and at the end  level ← min(burst, level + estimate − used)
//! ```
//!
//! Where a request says no `max_tokens`, the mean output of past calls stands for it. Calls to models
//! take milliseconds at least, so one short lock is nothing to them; without a limit there is none.

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::Duration,
};

use http::{HeaderMap, HeaderName};
use parking_lot::Mutex;
use tokio::time::Instant;
use weir_policy::TokenRateLimit;
use xxhash_rust::xxh3::xxh3_128_with_seed;

/// 256 tokens of answer until a call has shown what is usual: a few paragraphs.
const FIRST_MEAN: f64 = 256.0;

/// What one more call weighs in the mean.
const WEIGHT: f64 = 1.0 / 8.0;

/// 10,000 tenants with a bucket each, about 1 MiB however long their names are: they are known by a hash. Those beyond share
/// one bucket, after idle ones were dropped.
const MAX_TENANTS: usize = 10_000;

/// All newcomers together have what ten tenants have: enough for a day's beginning, and a bound on who makes them up.
const NEWCOMERS: f64 = 10.0;

/// A look at all tenants for idle ones takes a millisecond: it is not taken for each newcomer.
const PURGE_PAUSE: Duration = Duration::from_secs(1);

/// A debt of ten minutes, or of ten bursts: what is owed beyond is forgiven, or one absurd `usage` would lock out for
/// ever.
const MAX_DEBT_S: f64 = 600.0;
const MAX_DEBT_BURSTS: f64 = 10.0;

/// The token budget of one service or route.
#[derive(Debug, Default)]
pub(crate) struct TokenLimiter {
    armed: AtomicBool,
    state: Mutex<State>,
}

/// What a call will cost, as far as its request says.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct TokenEstimate {
    pub(crate) prompt: u64,
    pub(crate) max_output: Option<u64>,
}

/// Tokens set aside for a call; dropped, they go back.
#[derive(Debug)]
pub(crate) struct Reservation {
    limiter: Arc<TokenLimiter>,
    user: User,
    /// Gone once it is settled or kept.
    tokens: Option<f64>,
}

/// Who uses a budget, by the hash of its name; seeded, so that nobody can look for another of the same.
type Tenant = u128;

/// Whose buckets a call comes out of.
#[derive(Clone, Copy, Debug)]
struct User {
    tenant: Option<Tenant>,
    newcomer: bool,
}

/// What a budget looks like to its user.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Budget {
    pub(crate) limit: u64,
    pub(crate) remaining: u64,
    /// Until it is full again.
    pub(crate) reset: Duration,
}

#[derive(Debug, Default)]
struct State {
    limit: Option<TokenRateLimit>,
    /// That of all newcomers together.
    of_newcomers: Option<TokenRateLimit>,
    tenant_header: Option<HeaderName>,
    shared: Bucket,
    newcomers: Bucket,
    tenants: HashMap<Tenant, Known, foldhash::fast::RandomState>,
    seed: Option<u64>,
    mean_output: Option<f64>,
    purged: Option<Instant>,
}

/// A tenant's bucket, and when it was first heard of.
#[derive(Clone, Copy, Debug)]
struct Known {
    bucket: Bucket,
    since: Instant,
}

/// How full it was at a moment; a new one is full.
#[derive(Clone, Copy, Debug, Default)]
struct Bucket {
    level: Option<(f64, Instant)>,
}

impl TokenLimiter {
    /// Changes the budget; levels and debts stay.
    pub(crate) fn set(&self, limit: Option<&TokenRateLimit>) {
        let mut state = self.state.lock();
        state.tenant_header = limit.and_then(|l| l.tenant_header()).and_then(|name| name.parse().ok());
        state.of_newcomers = limit.and_then(of_newcomers);
        state.limit = limit.cloned();
        self.armed.store(limit.is_some(), Relaxed);
    }

    /// Whether there is a budget at all.
    pub(crate) fn is_armed(&self) -> bool {
        self.armed.load(Relaxed)
    }

    /// Sets the estimate aside and says what is left; or says how long until there is enough.
    pub(crate) fn reserve(
        self: &Arc<Self>,
        headers: &HeaderMap,
        estimate: TokenEstimate,
        now: Instant,
    ) -> Option<Result<(Reservation, Budget), (Duration, Budget)>> {
        let mut state = self.state.lock();
        let limit = state.limit.clone()?;
        let user = state.user(headers, &limit, now);
        let output = estimate.max_output.map_or_else(|| state.mean_output.unwrap_or(FIRST_MEAN), |max| max as f64);
        let tokens = (estimate.prompt as f64 + output).min(limit.burst().get() as f64);
        let wait = state.wait(user, &limit, tokens, now);
        if wait.is_none() {
            state.add(user, &limit, -tokens, now);
        }
        let budget = state.bucket(user).budget(&limit, now);
        let reservation = || Reservation { limiter: self.clone(), user, tokens: Some(tokens) };
        Some(wait.map_or_else(|| Ok((reservation(), budget)), |wait| Err((wait, budget))))
    }
}

impl Reservation {
    /// Puts back what was too much, or takes what was too little.
    pub(crate) fn settle(mut self, input: u64, output: u64, now: Instant) {
        let tokens = self.tokens.take();
        let mut state = self.limiter.state.lock();
        let (Some(tokens), Some(limit)) = (tokens, state.limit.clone()) else { return };
        if output > 0 {
            let mean = state.mean_output.unwrap_or(output as f64);
            state.mean_output = Some(mean + (output as f64 - mean) * WEIGHT);
        }
        let used = input as f64 + output as f64;
        state.add(self.user, &limit, tokens - used, now);
    }

    /// Leaves taken what was set aside.
    pub(crate) fn keep(mut self) {
        self.tokens = None;
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        let Some(tokens) = self.tokens.take() else { return };
        let (mut state, now) = (self.limiter.state.lock(), Instant::now());
        let Some(limit) = state.limit.clone() else { return };
        state.add(self.user, &limit, tokens, now);
    }
}

impl State {
    fn user(&mut self, headers: &HeaderMap, limit: &TokenRateLimit, now: Instant) -> User {
        let shared = User { tenant: None, newcomer: false };
        let Some(name) = self.tenant_header.as_ref().and_then(|header| headers.get(header)) else { return shared };
        let seed = *self.seed.get_or_insert_with(rand::random);
        let tenant = xxh3_128_with_seed(name.as_bytes(), seed);
        if !self.tenants.contains_key(&tenant) && !self.has_room(limit, now) {
            return shared;
        }
        let known = self.tenants.entry(tenant).or_insert(Known { bucket: Bucket::default(), since: now });
        let fills = seconds(limit.burst().get() as f64 / limit.tokens_per_s());
        User { tenant: Some(tenant), newcomer: now.saturating_duration_since(known.since) < fills }
    }

    /// Whether one more tenant can have a bucket of its own.
    fn has_room(&mut self, limit: &TokenRateLimit, now: Instant) -> bool {
        let rested = self.purged.is_none_or(|at| now.saturating_duration_since(at) >= PURGE_PAUSE);
        if self.tenants.len() >= MAX_TENANTS && rested {
            self.purged = Some(now);
            // a full bucket says no more than none
            self.tenants.retain(|_, known| known.bucket.level(limit, now) < limit.burst().get() as f64);
        }
        self.tenants.len() < MAX_TENANTS
    }

    /// How long until a call may come; `None` if it may now.
    fn wait(&mut self, user: User, limit: &TokenRateLimit, tokens: f64, now: Instant) -> Option<Duration> {
        let own = self.bucket(user).wait(limit, tokens, now);
        let together = self.of_newcomers.as_ref().filter(|_| user.newcomer);
        let together = together.and_then(|limit| self.newcomers.wait(limit, tokens, now));
        own.max(together)
    }

    fn add(&mut self, user: User, limit: &TokenRateLimit, tokens: f64, now: Instant) {
        self.bucket(user).add(limit, tokens, now);
        if let Some(limit) = self.of_newcomers.as_ref().filter(|_| user.newcomer) {
            self.newcomers.add(limit, tokens, now);
        }
    }

    /// The shared one for a tenant that has gone meanwhile: its bucket was full.
    fn bucket(&mut self, user: User) -> &mut Bucket {
        let own = user.tenant.and_then(|tenant| self.tenants.get_mut(&tenant));
        own.map_or(&mut self.shared, |known| &mut known.bucket)
    }
}

impl Bucket {
    fn wait(&self, limit: &TokenRateLimit, tokens: f64, now: Instant) -> Option<Duration> {
        let missing = tokens - self.level(limit, now);
        (missing > 0.0).then(|| seconds(missing / limit.tokens_per_s()))
    }

    fn add(&mut self, limit: &TokenRateLimit, tokens: f64, now: Instant) {
        let burst = limit.burst().get() as f64;
        let debt = (limit.tokens_per_s() * MAX_DEBT_S).max(burst * MAX_DEBT_BURSTS);
        let level = (self.level(limit, now) + tokens).clamp(-debt, burst);
        self.level = Some((level, now));
    }

    fn level(&self, limit: &TokenRateLimit, now: Instant) -> f64 {
        let burst = limit.burst().get() as f64;
        self.level.map_or(burst, |(level, at)| {
            let filled = now.saturating_duration_since(at).as_secs_f64() * limit.tokens_per_s();
            (level + filled).min(burst)
        })
    }

    fn budget(&self, limit: &TokenRateLimit, now: Instant) -> Budget {
        let (level, burst) = (self.level(limit, now), limit.burst().get());
        let reset = seconds((burst as f64 - level) / limit.tokens_per_s());
        Budget { limit: burst, remaining: level.max(0.0) as u64, reset }
    }
}

/// A budget for all newcomers together; where it would be none there is none.
fn of_newcomers(limit: &TokenRateLimit) -> Option<TokenRateLimit> {
    let burst = limit.burst().get().saturating_mul(NEWCOMERS as u64);
    TokenRateLimit::new(limit.tokens_per_s() * NEWCOMERS, burst, None)
}

/// At most ten years, whatever the numbers say.
fn seconds(s: f64) -> Duration {
    Duration::from_secs_f64(s.clamp(0.0, 3.2e8))
}

#[cfg(test)]
mod tests;
