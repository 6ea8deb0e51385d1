//! Upstreams as requests see them: who is picked, who is left out, who takes over.

use std::collections::BTreeMap;

use super::*;
use crate::config::{Balance, HashOn, OutlierDetection};

fn upstream(config: &config::Upstream) -> (Arc<Upstream>, AtomicUsize) {
    let (upstream, ids) = (Upstream::new(config, Some(&locality("a")), 1, None), AtomicUsize::new(0));
    upstream.update(&config.endpoints, &ids, Instant::now());
    (Arc::new(upstream), ids)
}

fn locality(zone: &str) -> Locality {
    Locality { region: "eu".into(), zone: zone.into() }
}

/// Endpoints `e0:1`, `e1:1`, … after `change`.
fn config(n: usize, change: impl Fn(usize, &mut config::Endpoint)) -> config::Upstream {
    let endpoints = (0..n).map(|n| {
        let mut endpoint = config::Endpoint::from(format!("e{n}:1"));
        change(n, &mut endpoint);
        endpoint
    });
    config::Upstream::new("u", endpoints.collect())
}

/// How many of `n` picks, none of which lasts, each endpoint gets.
fn counts(upstream: &Arc<Upstream>, n: usize, now: Instant) -> BTreeMap<String, usize> {
    let mut counts = BTreeMap::new();
    for _ in 0..n {
        let pick = upstream.pick(None, &[], now).unwrap();
        *counts.entry(pick.endpoint.address().to_owned()).or_default() += 1;
    }
    counts
}

fn fail(upstream: &Arc<Upstream>, endpoint: usize, times: usize, now: Instant) {
    let endpoint = upstream.endpoints()[endpoint].clone();
    (0..times).for_each(|_| upstream.observe(&endpoint, Verdict::GatewayError, now));
}

fn detecting(config: config::Upstream, max_ejection_percent: u8) -> config::Upstream {
    let outlier_detection = Some(OutlierDetection { max_ejection_percent, ..OutlierDetection::default() });
    config::Upstream { outlier_detection, ..config }
}

#[test]
fn a_slow_endpoint_is_left_and_tried_again() {
    let ((upstream, _), now) = (upstream(&config(2, |_, _| {})), Instant::now());
    let endpoints = upstream.endpoints();
    endpoints[0].latency.lock().observe(Duration::from_millis(500), now);
    endpoints[1].latency.lock().observe(Duration::from_millis(5), now);
    assert_eq!(counts(&upstream, 100, now), BTreeMap::from([("e1:1".into(), 100)]));
    let later = now + Duration::from_secs(120);
    endpoints[1].latency.lock().observe(Duration::from_millis(5), later);
    assert_eq!(
        counts(&upstream, 100, later),
        BTreeMap::from([("e0:1".into(), 100)]),
        "nothing was heard of it for long"
    );
    let probe = upstream.pick(None, &[], later).unwrap();
    assert_eq!(probe.endpoint.address(), "e0:1");
    assert_eq!(counts(&upstream, 100, later), BTreeMap::from([("e1:1".into(), 100)]), "one probe at a time");
}

/// A model that takes a second to its first token, and a new one beside it.
#[test]
fn a_new_endpoint_gets_one_request_at_a_time_until_it_has_answered() {
    let ((upstream, _), now) = (upstream(&config(3, |_, _| {})), Instant::now());
    let endpoints = upstream.endpoints();
    endpoints[..2].iter().for_each(|known| known.latency.lock().observe(Duration::from_secs(1), now));
    let picks: Vec<Pick> = (0..500).map(|_| upstream.pick(None, &[], now).unwrap()).collect();
    let load = || endpoints[2].in_flight.load(Relaxed);
    assert_eq!(load(), 1, "of 500");
    let probe = picks.iter().find(|pick| pick.endpoint.id == endpoints[2].id).unwrap();
    probe.observe(Duration::from_secs(1), false, None, now);
    let _more: Vec<Pick> = (0..1_000).map(|_| upstream.pick(None, &[], now).unwrap()).collect();
    assert!(load().abs_diff(500) <= 25, "{} of 1500", load());
}

/// Two hundred calls a second; their clients give up after 200 ms, and one endpoint never answers.
#[test]
fn an_endpoint_that_hangs_does_not_look_fast_because_nobody_waits_for_it() {
    let ((upstream, _), start) = (upstream(&config(2, |_, _| {})), Instant::now());
    let (answers, patience) = (Duration::from_millis(10), Duration::from_millis(200));
    let mut under_way: Vec<(Instant, Instant, Pick)> = Vec::new();
    let mut silent = 0;
    for n in 0..18_000 {
        let now = start + Duration::from_millis(5 * n);
        let (over, rest) = under_way.into_iter().partition(|(ends, ..)| *ends <= now);
        under_way = rest;
        let over: Vec<(Instant, Instant, Pick)> = over;
        for (ends, since, pick) in over {
            if pick.endpoint.address() == "e0:1" {
                assert!(pick.given_up(since, ends), "it has answered nobody");
            } else {
                pick.observe(answers, false, None, ends);
            }
        }
        let pick = upstream.pick(None, &[], now).unwrap();
        let hangs = pick.endpoint.address() == "e0:1";
        silent += u32::from(hangs);
        under_way.push((now + if hangs { patience } else { answers }, now, pick));
    }
    assert!(silent < 1_800, "{silent} of 18000 went into the hole");
}

/// An endpoint that is not asked looks faster with each second, so the rarer calls are the more of them once went
/// to the slow one: 88 and 960 of these.
#[test]
fn an_endpoint_that_stays_slow_is_asked_more_and_more_rarely() {
    const SLOW: [Duration; 2] = [Duration::from_millis(500), Duration::from_millis(10)];
    const ALIKE: [Duration; 2] = [Duration::from_millis(10); 2];
    for (every_s, calls, most) in [(1, 3_600, 20), (30, 2_880, 300)] {
        let ((upstream, _), mut now) = (upstream(&config(2, |_, _| {})), Instant::now());
        let mut to_the_slow = |latencies: [Duration; 2], calls: u32| {
            let mut slow = 0;
            for _ in 0..calls {
                now += Duration::from_secs(every_s);
                let pick = upstream.pick(None, &[], now).unwrap();
                let first = pick.endpoint.address() == "e0:1";
                slow += u32::from(first);
                pick.observe(latencies[usize::from(!first)], false, None, now + latencies[usize::from(!first)]);
            }
            slow
        };
        let asked = to_the_slow(SLOW, calls);
        assert!((5..most).contains(&asked), "a call each {every_s} s: {asked} of {calls} went to the slow one");
        let recovered = to_the_slow(ALIKE, calls);
        assert!(recovered > calls / 4, "a call each {every_s} s: {recovered} of {calls} when it is slow no more");
    }
}

#[test]
fn calls_spread_by_what_is_in_flight_and_by_weight() {
    for (balance, weights, expected) in [
        (Balance::P2cPeakEwma, [1, 1], [200, 200]),
        (Balance::LeastRequest, [1, 1], [200, 200]),
        (Balance::LeastRequest, [1, 3], [100, 300]),
        (Balance::P2cPeakEwma, [1, 3], [100, 300]),
    ] {
        let config = config(2, |n, endpoint| endpoint.weight = weights[n]);
        let ((upstream, _), now) = (upstream(&config::Upstream { balance: balance.clone(), ..config }), Instant::now());
        let picks: Vec<Pick> = (0..400).map(|_| upstream.pick(None, &[], now).unwrap()).collect();
        let loads: Vec<u32> = upstream.endpoints().iter().map(|e| e.in_flight.load(Relaxed)).collect();
        let near = loads.iter().zip(expected).all(|(load, expected)| load.abs_diff(expected) <= 15);
        assert!(near, "{balance:?} {weights:?}: {loads:?}");
        drop(picks);
        assert!(upstream.endpoints().iter().all(|e| e.in_flight.load(Relaxed) == 0));
    }
}

#[test]
fn round_robin_deals_exactly() {
    let config = config(3, |n, endpoint| endpoint.weight = [1, 2, 7][n]);
    let (upstream, _) = upstream(&config::Upstream { balance: Balance::RoundRobin, ..config });
    let expected = [("e0:1", 10), ("e1:1", 20), ("e2:1", 70)].map(|(name, n)| (name.to_owned(), n));
    assert_eq!(counts(&upstream, 100, Instant::now()), expected.into());
}

#[test]
fn an_outlier_is_left_out_and_comes_back() {
    let ((upstream, _), now) = (upstream(&detecting(config(3, |_, _| {}), 50)), Instant::now());
    fail(&upstream, 0, 4, now);
    upstream.observe(&upstream.endpoints()[0].clone(), Verdict::Fine, now);
    fail(&upstream, 0, 4, now);
    assert_eq!(counts(&upstream, 300, now).len(), 3, "never five in a row");
    fail(&upstream, 0, 1, now);
    assert_eq!(counts(&upstream, 300, now).get("e0:1"), None);
    fail(&upstream, 1, 5, now);
    assert_eq!(counts(&upstream, 300, now).len(), 2, "half of three is one: the second stays");
    let later = now + Duration::from_secs(30);
    assert_eq!(counts(&upstream, 300, later).len(), 3);
    fail(&upstream, 0, 5, later);
    let until = later + Duration::from_secs(60);
    assert_eq!(counts(&upstream, 300, until - Duration::from_millis(1)).len(), 2, "twice as long the second time");
    assert_eq!(counts(&upstream, 300, until).len(), 3);
}

#[test]
fn below_the_panic_threshold_all_are_used() {
    let ((upstream, _), now) = (upstream(&detecting(config(4, |_, _| {}), 100)), Instant::now());
    for (failing, expected) in [(0, 3), (1, 2), (2, 4), (3, 4)] {
        fail(&upstream, failing, 5, now);
        assert_eq!(counts(&upstream, 400, now).len(), expected, "{} of 4 are out", failing + 1);
    }
}

#[test]
fn a_lower_priority_takes_what_a_higher_cannot_carry() {
    let config = config(6, |n, endpoint| endpoint.priority = u32::from(n >= 4));
    let ((upstream, _), now) = (upstream(&detecting(config, 100)), Instant::now());
    let second = |upstream: &Arc<Upstream>| {
        let counts = counts(upstream, 4_000, now);
        counts.iter().filter(|(name, _)| ["e4:1", "e5:1"].contains(&name.as_str())).map(|(_, n)| n).sum::<usize>()
    };
    assert_eq!(second(&upstream), 0);
    fail(&upstream, 0, 5, now);
    assert_eq!(second(&upstream), 0, "three of four carry everything");
    fail(&upstream, 1, 5, now);
    let spilled = second(&upstream);
    assert!((1_000..1_400).contains(&spilled), "two of four carry 0.7 of 4,000; {spilled} went on");
    fail(&upstream, 2, 5, now);
    fail(&upstream, 3, 5, now);
    assert_eq!(second(&upstream), 4_000);
}

#[test]
fn the_own_zone_comes_first() {
    let config = config(4, |n, endpoint| endpoint.locality = Some(locality(["a", "b"][n / 2])));
    let config = detecting(config::Upstream { prefer_local: true, ..config }, 100);
    let ((upstream, _), now) = (upstream(&config), Instant::now());
    let names = |now| counts(&upstream, 400, now).into_keys().collect::<Vec<_>>();
    assert_eq!(names(now), ["e0:1", "e1:1"]);
    fail(&upstream, 0, 5, now);
    fail(&upstream, 1, 5, now);
    assert_eq!(names(now), ["e2:1", "e3:1"]);
    let (far, _) = self::upstream(&config::Upstream { prefer_local: false, ..config });
    assert_eq!(counts(&far, 400, now).len(), 4);
}

#[test]
fn a_ring_keeps_keys_where_they_are() {
    let config = config::Upstream { balance: Balance::RingHash(HashOn::SourceAddress), ..config(10, |_, _| {}) };
    let ((upstream, ids), now) = (upstream(&detecting(config.clone(), 50)), Instant::now());
    let owner = |key: u64| {
        let hash = key.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        upstream.pick(Some(hash), &[], now).unwrap().endpoint.address().to_owned()
    };
    let owners = || (0..5_000).map(owner).collect::<Vec<String>>();
    let before = owners();
    assert_eq!(before, owners());
    let moved = |after: &[String]| before.iter().zip(after).filter(|(b, a)| b != a).count();
    upstream.update(&config.endpoints[..9], &ids, now);
    let after = owners();
    let gone = before.iter().filter(|name| *name == "e9:1").count();
    assert_eq!(moved(&after), gone, "only the keys of the one that went move");
    upstream.update(&config.endpoints, &ids, now);
    assert_eq!(moved(&owners()), 0, "and they come back");
    fail(&upstream, 3, 5, now);
    let ejected = before.iter().filter(|name| *name == "e3:1").count();
    assert_eq!(moved(&owners()), ejected);
}

#[test]
fn another_attempt_goes_elsewhere() {
    let ((upstream, _), now) = (upstream(&config(3, |_, _| {})), Instant::now());
    let ids: Vec<usize> = upstream.endpoints().iter().map(|endpoint| endpoint.id).collect();
    for _ in 0..50 {
        assert_eq!(upstream.pick(None, &ids[..2], now).unwrap().endpoint.id, ids[2]);
    }
    assert!(upstream.pick(None, &ids, now).is_some(), "when all were tried, any will do");
}

/// In a level of one endpoint, the one that had failed was once asked again.
#[test]
fn another_attempt_goes_to_the_next_level_when_all_of_the_first_were_tried() {
    let by_priority = config(4, |n, endpoint| endpoint.priority = [0, 1, 1, 2][n]);
    let by_zone = config(4, |n, endpoint| endpoint.locality = Some(locality(["a", "b", "b", "c"][n])));
    let by_zone = config::Upstream { prefer_local: true, ..by_zone };
    let ring = config::Upstream { balance: Balance::RingHash(HashOn::SourceAddress), ..by_priority.clone() };
    for (config, next) in [(by_priority, 2), (by_zone, 3), (ring, 2)] {
        let ((upstream, _), now) = (upstream(&config), Instant::now());
        let ids: Vec<usize> = upstream.endpoints().iter().map(|endpoint| endpoint.id).collect();
        let counts = |tried: &[usize]| {
            let mut counts = [0; 4];
            for hash in 0..100 {
                let picked = upstream.pick(Some(hash << 57), tried, now).unwrap().endpoint.id;
                counts[ids.iter().position(|id| *id == picked).unwrap()] += 1;
            }
            counts
        };
        assert_eq!(counts(&[]), [100, 0, 0, 0], "the others have no share");
        let second = counts(&ids[..1]);
        assert_eq!((second[0], second[1..=next].iter().sum::<i32>()), (0, 100), "{second:?}");
        let third = counts(&ids[..2]);
        assert_eq!((third[0], third[1], third[2..=next].iter().sum::<i32>()), (0, 0, 100), "{third:?}");
        assert_eq!(counts(&ids[..3]), [0, 0, 0, 100]);
        assert_eq!(counts(&ids), [100, 0, 0, 0], "when all were tried, the first again");
    }
}

/// Once only latencies knew of a rest, so that the other balances asked who had asked to be left alone.
#[test]
fn who_rests_is_passed_over_by_every_balance_unless_all_rest() {
    let rest = |upstream: &Arc<Upstream>, of: &[usize], seconds: u64, now| {
        for endpoint in of.iter().map(|n| upstream.endpoints()[*n].clone()) {
            let pick = Pick::of(upstream.clone(), endpoint);
            pick.observe(Duration::from_millis(1), true, Some(Duration::from_secs(seconds)), now);
        }
    };
    for (balance, weights, expected) in [
        (Balance::RoundRobin, [1, 1, 1, 1], [0, 0, 500, 500]),
        (Balance::RoundRobin, [1, 1, 1, 3], [0, 0, 250, 750]),
        (Balance::Random, [1, 1, 1, 1], [0, 0, 500, 500]),
        (Balance::LeastRequest, [1, 1, 1, 1], [0, 0, 500, 500]),
        (Balance::P2cPeakEwma, [1, 1, 1, 1], [0, 0, 500, 500]),
        (Balance::RingHash(HashOn::SourceAddress), [1, 1, 1, 1], [0, 0, 500, 500]),
    ] {
        let config = config(4, |n, endpoint| endpoint.weight = weights[n]);
        let ((upstream, _), now) = (upstream(&config::Upstream { balance: balance.clone(), ..config }), Instant::now());
        let counts = |now| {
            let mut counts = [0_u32; 4];
            for n in 0..1_000_u64 {
                let hash = Some(n.wrapping_mul(0x9e37_79b9_7f4a_7c15));
                let picked = upstream.pick(hash, &[], now).unwrap().endpoint.address().to_owned();
                counts[picked[1..2].parse::<usize>().unwrap()] += 1;
            }
            counts
        };
        rest(&upstream, &[0, 1], 10, now);
        let rested = counts(now + Duration::from_millis(9_999));
        let near = rested.iter().zip(expected).all(|(n, expected)| n.abs_diff(expected) <= expected / 3);
        assert!(near, "{balance:?}: {rested:?}, not {expected:?}");
        rest(&upstream, &[2, 3], 20, now);
        let others = counts(now + Duration::from_secs(11));
        assert_eq!((others[2], others[3]), (0, 0), "{balance:?}: the first two are back: {others:?}");
        rest(&upstream, &[0, 1], 20, now);
        let all = counts(now + Duration::from_secs(11));
        assert!(all.iter().all(|n| *n > 0) || balance == Balance::P2cPeakEwma, "{balance:?}: all rest: {all:?}");
        assert_eq!(all.iter().sum::<u32>(), 1_000);
    }
}

#[test]
fn where_all_of_a_level_rest_the_next_is_asked() {
    let config = config(3, |n, endpoint| endpoint.priority = u32::from(n == 2));
    let ((upstream, _), now) = (upstream(&config), Instant::now());
    let rest = |n: usize| upstream.endpoints()[n].rest.until(now + Duration::from_secs(5));
    rest(0);
    assert_eq!(counts(&upstream, 100, now), BTreeMap::from([("e1:1".into(), 100)]));
    let ids: Vec<usize> = upstream.endpoints().iter().map(|endpoint| endpoint.id).collect();
    assert_eq!(upstream.pick(None, &[ids[1]], now).unwrap().endpoint.id, ids[2], "rather than one that rests");
    rest(1);
    assert_eq!(counts(&upstream, 100, now), BTreeMap::from([("e2:1".into(), 100)]));
    assert_eq!(upstream.pick(None, &[ids[2]], now).unwrap().endpoint.spec.priority, 0, "rather than one that failed");
    rest(2);
    assert_eq!(counts(&upstream, 100, now).get("e2:1"), None, "as if none rested");
    assert_eq!(counts(&upstream, 100, now + Duration::from_secs(5)).get("e2:1"), None);
}

#[test]
fn a_set_is_replaced_and_what_stays_is_known() {
    let ((upstream, ids), now) = (upstream(&config(2, |_, _| {})), Instant::now());
    let held = upstream.pick(None, &[], now).unwrap();
    let before = upstream.endpoints();
    let more = config(3, |_, _| {}).endpoints;
    assert!(!upstream.update(&more, &ids, now), "none went");
    assert!(upstream.endpoints().iter().zip(&before).all(|(new, old)| Arc::ptr_eq(new, old)));
    assert!(upstream.update(&[], &ids, now));
    assert!(upstream.pick(None, &[], now).is_none());
    assert_eq!(held.endpoint.in_flight.load(Relaxed), 1, "a request under way keeps its endpoint");
}

#[test]
fn a_subset_takes_what_carries_its_labels() {
    let labels = |version: &str| BTreeMap::from([("version".to_owned(), version.to_owned())]);
    let parent = config(4, |n, endpoint| endpoint.labels = labels(["v1", "v2"][n % 2]));
    let subset_of = Some(config::SubsetOf { upstream: "u".into(), labels: labels("v2") });
    let subset = config::Upstream { subset_of, ..config::Upstream::new("u-v2", Vec::new()) };
    let subset = Upstream::new(&subset, None, 1, None);
    subset.update(&parent.endpoints, &AtomicUsize::new(0), Instant::now());
    let addresses: Vec<String> = subset.endpoints().iter().map(|e| e.address().to_owned()).collect();
    assert_eq!(addresses, ["e1:1", "e3:1"]);
}
