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
mod tests {
    use super::*;

    fn limiter(tokens_per_s: f64, burst: u64, tenant_header: Option<&str>) -> Arc<TokenLimiter> {
        let limiter = Arc::new(TokenLimiter::default());
        let limit = TokenRateLimit::new(tokens_per_s, burst, tenant_header.map(str::to_owned));
        limiter.set(Some(&limit.unwrap()));
        limiter
    }

    fn ask(
        limiter: &Arc<TokenLimiter>,
        prompt: u64,
        max_output: Option<u64>,
    ) -> Result<(Reservation, Budget), (Duration, Budget)> {
        ask_as(limiter, "", prompt, max_output)
    }

    fn ask_as(
        limiter: &Arc<TokenLimiter>,
        tenant: &str,
        prompt: u64,
        max_output: Option<u64>,
    ) -> Result<(Reservation, Budget), (Duration, Budget)> {
        let mut headers = HeaderMap::new();
        headers.insert("x-tenant", tenant.parse().unwrap());
        limiter.reserve(&headers, TokenEstimate { prompt, max_output }, Instant::now()).unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn what_was_too_much_comes_back_and_what_was_too_little_is_owed() {
        for (used, then_remaining, wait_ms) in [(20, 980, 0), (400, 600, 0), (1_000, 0, 1_000), (1_500, 0, 6_000)] {
            let limiter = limiter(100.0, 1_000, None);
            let (reservation, budget) = ask(&limiter, 100, Some(300)).unwrap();
            assert_eq!((budget.limit, budget.remaining), (1_000, 600));
            reservation.settle(used / 2, used - used / 2, Instant::now());
            match ask(&limiter, 0, Some(100)) {
                Ok((_, budget)) => assert_eq!((budget.remaining, 0), (then_remaining - 100, wait_ms), "{used} used"),
                Err((wait, budget)) => {
                    assert_eq!((budget.remaining, wait.as_millis()), (then_remaining, wait_ms), "{used} used");
                }
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn debts_are_paid_by_time() {
        let limiter = limiter(100.0, 1_000, None);
        ask(&limiter, 0, Some(0)).unwrap().0.settle(0, 1_500, Instant::now());
        let (wait, budget) = ask(&limiter, 100, Some(0)).unwrap_err();
        assert_eq!((wait.as_secs(), budget.reset.as_secs()), (6, 15));
        tokio::time::advance(wait - Duration::from_millis(1)).await;
        assert!(ask(&limiter, 100, Some(0)).is_err());
        tokio::time::advance(Duration::from_millis(1)).await;
        assert!(ask(&limiter, 100, Some(0)).is_ok());
    }

    #[tokio::test(start_paused = true)]
    async fn in_the_long_run_the_rate_is_the_rate_whatever_was_estimated() {
        for (estimate, used) in [(50, 80), (500, 80), (80, 80)] {
            let limiter = limiter(1_000.0, 2_000, None);
            let mut spent = 0;
            for _ in 0..6_000 {
                tokio::time::advance(Duration::from_millis(10)).await;
                if let Ok((reservation, _)) = ask(&limiter, 0, Some(estimate)) {
                    reservation.settle(0, used, Instant::now());
                    spent += used;
                }
            }
            assert!((58_000..=62_000).contains(&spent), "{spent} tokens in 60 s, {estimate} estimated");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn the_mean_of_past_answers_stands_for_what_is_not_said() {
        let limiter = limiter(100.0, 100_000, None);
        let (first, budget) = ask(&limiter, 0, None).unwrap();
        assert_eq!(budget.remaining, 100_000 - 256);
        first.settle(0, 40, Instant::now());
        let (_second, budget) = ask(&limiter, 10, None).unwrap();
        assert_eq!(budget.remaining, 100_000 - 40 - 10 - 40);
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_larger_than_the_burst_needs_a_full_bucket() {
        let limiter = limiter(100.0, 1_000, None);
        let (huge, budget) = ask(&limiter, 0, Some(5_000)).unwrap();
        assert_eq!((budget.remaining, budget.reset.as_secs()), (0, 10));
        huge.settle(0, 500, Instant::now());
        assert_eq!(ask(&limiter, 0, Some(5_000)).unwrap_err().0.as_secs(), 5);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_asks_for_the_moon_takes_no_more_than_there_is() {
        for (prompt, output) in [(0, Some(u64::MAX)), (999_999_999_999_999_999 / 4, None), (u64::MAX, Some(u64::MAX))] {
            let limiter = limiter(100.0, 1_000, None);
            let (moon, _) = ask(&limiter, prompt, output).unwrap();
            assert!(ask(&limiter, 0, Some(1)).unwrap_err().0 <= Duration::from_millis(10));
            moon.keep();
            tokio::time::advance(Duration::from_millis(10)).await;
            assert!(ask(&limiter, 0, Some(1)).is_ok(), "{prompt} {output:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn what_nobody_settles_goes_back() {
        let limiter = limiter(0.001, 1_000, None);
        for _ in 0..5 {
            drop(ask(&limiter, 100, Some(900)).unwrap());
        }
        ask(&limiter, 100, Some(900)).unwrap().0.keep();
        assert!(ask(&limiter, 0, Some(1)).is_err(), "kept is kept");
    }

    #[tokio::test(start_paused = true)]
    async fn tenants_do_not_pay_for_each_other() {
        let limiter = limiter(1.0, 100, Some("x-tenant"));
        let spend = |tenant: &str| ask_as(&limiter, tenant, 100, Some(0)).map(|(reservation, _)| reservation.keep());
        assert!(spend("a").is_ok());
        assert!(spend("a").is_err());
        assert!(spend("b").is_ok());
        assert!(spend(&"b".repeat(50_000)).is_ok(), "a long name is a name");
        for n in 0..2 * MAX_TENANTS {
            let _ = spend(&n.to_string());
        }
        assert!(limiter.state.lock().tenants.len() <= MAX_TENANTS);
        tokio::time::advance(Duration::from_secs(200)).await;
        assert!(spend("new").is_ok());
        assert_eq!(limiter.state.lock().tenants.len(), 1, "full buckets go when there are too many");
    }

    /// Found in a review: each new name had a whole burst.
    #[tokio::test(start_paused = true)]
    async fn who_makes_up_a_tenant_with_each_call_has_what_newcomers_have() {
        let limiter = limiter(10.0, 100, Some("x-tenant"));
        let spend = |tenant: &str| ask_as(&limiter, tenant, 100, Some(0)).map(|(reservation, _)| reservation.keep());
        assert!(spend("lasting").is_ok());
        tokio::time::advance(Duration::from_secs(10)).await;
        let let_in = |names: std::ops::Range<u32>| names.filter(|name| spend(&name.to_string()).is_ok()).count();
        assert_eq!(let_in(0..1_000), 10, "ten bursts");
        let (wait, budget) = ask_as(&limiter, "another", 100, Some(0)).unwrap_err();
        assert_eq!((wait.as_secs(), budget.remaining), (1, 100), "its own bucket is full, that of newcomers is not");
        assert!(spend("lasting").is_ok(), "who is known does not suffer");
        tokio::time::advance(Duration::from_secs(10)).await;
        assert_eq!(let_in(0..1_000), 1_000, "who has lasted for as long as a bucket takes to fill is known");
    }

    #[tokio::test(start_paused = true)]
    async fn what_newcomers_do_not_use_goes_back_to_them() {
        let limiter = limiter(0.001, 100, Some("x-tenant"));
        for name in 0..50 {
            let (reservation, _) = ask_as(&limiter, &name.to_string(), 100, Some(0)).unwrap();
            match name % 2 {
                0 => drop(reservation),
                _ => reservation.settle(1, 0, Instant::now()),
            }
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_absurd_usage_does_not_lock_out_for_ever() {
        let limiter = limiter(100.0, 1_000, None);
        ask(&limiter, 0, Some(1)).unwrap().0.settle(u64::MAX, u64::MAX, Instant::now());
        let (wait, _) = ask(&limiter, 0, Some(1)).unwrap_err();
        assert!(wait <= Duration::from_secs(601), "{wait:?}");
    }
}
