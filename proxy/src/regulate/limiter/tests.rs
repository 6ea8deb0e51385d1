//! The limiter's cases: bounds, order, deadlines, priorities, races.

use std::num::NonZeroU32;

use super::*;

fn limiter(limit: u32, queue: u32) -> Arc<Limiter> {
    let limiter = Arc::new(Limiter::default());
    limiter.set(of(limit, queue));
    limiter
}

fn of(limit: u32, queue: u32) -> Option<ConcurrencyLimit> {
    NonZeroU32::new(limit).map(|limit| ConcurrencyLimit { limit, queue, queue_timeout_ms: 100 })
}

fn ask(priority: Priority, patience: Duration) -> Ask {
    let now = Instant::now();
    Ask { now, give_up: now + patience, priority }
}

fn enter(limiter: &Arc<Limiter>) -> Entry {
    enter_as(limiter, Priority::Normal)
}

fn enter_as(limiter: &Arc<Limiter>, priority: Priority) -> Entry {
    limiter.enter(ask(priority, Duration::from_secs(60)))
}

fn admitted(limiter: &Arc<Limiter>) -> Permit {
    let Entry::Admitted(permit) = enter(limiter) else { panic!("no place") };
    permit
}

fn queued(limiter: &Arc<Limiter>) -> Place {
    queued_as(limiter, Priority::Normal)
}

fn queued_as(limiter: &Arc<Limiter>, priority: Priority) -> Place {
    let Entry::Queued(place) = enter_as(limiter, priority) else { panic!("not queued") };
    place
}

#[tokio::test(start_paused = true)]
async fn the_queue_is_bounded_and_first_come_first_served() {
    let limiter = limiter(1, 2);
    let held = admitted(&limiter);
    let (first, second) = (queued(&limiter), queued(&limiter));
    assert!(matches!(enter(&limiter), Entry::Refused(Refusal::QueueFull)));
    drop(held);
    let first = first.wait().await.unwrap();
    assert!(matches!(enter(&limiter), Entry::Queued(_)), "the place was handed over, not set free");
    drop(first);
    assert_eq!(second.wait().await.unwrap().in_flight, 1);
    assert_eq!((limiter.in_flight(), limiter.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn nobody_waits_past_the_deadline() {
    let limiter = limiter(1, 2);
    let _held = admitted(&limiter);
    let place = queued(&limiter);
    let before = Instant::now();
    assert_eq!(place.wait().await.unwrap_err(), Refusal::QueueTimeout);
    assert_eq!(before.elapsed(), Duration::from_millis(100));
    let before = Instant::now();
    let Entry::Queued(place) = limiter.enter(ask(Priority::Normal, Duration::from_millis(5))) else {
        panic!("not queued")
    };
    assert!(place.wait().await.is_err());
    assert_eq!(before.elapsed(), Duration::from_millis(5), "the request's own deadline is nearer");
    assert_eq!(limiter.queued(), 0);
}

#[tokio::test(start_paused = true)]
async fn one_who_cannot_be_served_in_time_is_refused_at_once() {
    let limiter = limiter(1, 8);
    for _ in 0..20 {
        let held = admitted(&limiter);
        tokio::time::advance(Duration::from_millis(20)).await;
        drop(held);
    }
    let _held = admitted(&limiter);
    let within = |ms| limiter.enter(ask(Priority::Normal, Duration::from_millis(ms)));
    let Entry::Refused(Refusal::DeadlineUnmeetable { expected }) = within(19) else { panic!("not refused") };
    assert_eq!(expected.as_millis(), 20);
    let _first = within(21);
    assert!(matches!(within(39), Entry::Refused(Refusal::DeadlineUnmeetable { .. })), "the second waits 40 ms");
    let _second = within(41);
    let urgent = limiter.enter(ask(Priority::High, Duration::from_millis(25)));
    assert!(matches!(urgent, Entry::Queued(_)), "only its own class and higher ones stand before it");
    assert_eq!(limiter.expected_wait().map(|w| w.as_millis()), Some(80));
}

#[tokio::test(start_paused = true)]
async fn the_higher_priority_goes_first_and_displaces_the_newest_lower_one() {
    let limiter = limiter(1, 2);
    let held = admitted(&limiter);
    let (old, new) = (queued_as(&limiter, Priority::Low), queued_as(&limiter, Priority::Low));
    let urgent = queued_as(&limiter, Priority::High);
    assert_eq!(limiter.queued(), 2);
    assert_eq!(new.wait().await.unwrap_err(), Refusal::Displaced);
    assert!(matches!(enter_as(&limiter, Priority::Low), Entry::Refused(Refusal::QueueFull)));
    drop(held);
    let urgent = urgent.wait().await.unwrap();
    drop(urgent);
    assert!(old.wait().await.is_ok());
    assert_eq!((limiter.in_flight(), limiter.queued()), (0, 0));
}

#[tokio::test(start_paused = true)]
async fn a_place_given_to_one_who_left_goes_to_the_next() {
    let limiter = limiter(1, 2);
    let held = admitted(&limiter);
    let (leaver, stayer) = (queued(&limiter), queued(&limiter));
    drop(held); // the leaver is granted the place and never looks
    drop(leaver);
    assert!(stayer.wait().await.is_ok());
    assert_eq!(limiter.in_flight(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_wider_limit_lets_the_queue_in_and_a_narrower_one_lets_them_finish() {
    let limiter = limiter(1, 2);
    let held = admitted(&limiter);
    let place = queued(&limiter);
    limiter.set(of(2, 2));
    let second = place.wait().await.unwrap();
    limiter.set(of(1, 0));
    assert_eq!(limiter.in_flight(), 2);
    drop(held);
    assert!(matches!(enter(&limiter), Entry::Refused(Refusal::QueueFull)));
    drop(second);
    limiter.set(None);
    let many: Vec<Permit> = (0..100).map(|_| admitted(&limiter)).collect();
    assert_eq!(many.last().map(|p| p.in_flight), Some(100), "counted without a limit too");
}

#[tokio::test(start_paused = true)]
async fn the_local_bound_only_tightens() {
    let limiter = limiter(4, 0);
    limiter.set_local(of(2, 1));
    let held: Vec<Permit> = (0..2).map(|_| admitted(&limiter)).collect();
    assert!(matches!(enter(&limiter), Entry::Refused(Refusal::QueueFull)), "the limit's own queue holds");
    limiter.set_local(of(9, 9));
    let more: Vec<Permit> = (0..2).map(|_| admitted(&limiter)).collect();
    assert!(matches!(enter(&limiter), Entry::Refused(_)));
    drop((held, more));
    limiter.set(None);
    limiter.set_local(None);
    assert!(!limiter.is_bounded());
}

/// Threads that come, wait, are displaced, leave and finish: in the end every place is back.
#[test]
fn no_place_is_lost_or_given_twice() {
    const LIMIT: u32 = 3;
    let limiter = limiter(LIMIT, 2);
    let most = AtomicU32::new(0);
    let inside = AtomicU32::new(0);
    let work = |seed: u64| {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let priorities = [Priority::High, Priority::Normal, Priority::Low];
        let mut admitted = 0;
        for n in seed..seed + 3_000 {
            let patience = Duration::from_millis(if n % 7 == 0 { 0 } else { 50 });
            let permit = match limiter.enter(ask(priorities[(n % 3) as usize], patience)) {
                Entry::Admitted(permit) => Some(permit),
                Entry::Queued(place) if n % 5 == 0 => {
                    drop(place);
                    None
                }
                Entry::Queued(place) => runtime.block_on(place.wait()).ok(),
                Entry::Refused(_) => None,
            };
            if permit.is_some() {
                admitted += 1;
                most.fetch_max(inside.fetch_add(1, SeqCst) + 1, SeqCst);
                inside.fetch_sub(1, SeqCst);
            }
        }
        admitted
    };
    let admitted: u32 = std::thread::scope(|scope| {
        let work = &work;
        let threads: Vec<_> = (0..6).map(|n| scope.spawn(move || work(n * 11))).collect();
        threads.into_iter().map(|thread| thread.join().unwrap()).sum()
    });
    assert!(admitted > 0 && most.load(SeqCst) <= LIMIT, "{admitted} admitted, {most:?} at once");
    assert_eq!((limiter.in_flight(), limiter.queued()), (0, 0));
}
