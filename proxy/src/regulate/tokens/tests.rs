//! Budgets of tokens over time, of one user and of many.

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

/// Each new name had a whole burst.
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
