//! What is gathered, when it is ranked and who is first.

use super::{
    share::RANKED_SPANS,
    told::{SURE, Told},
    *,
};
use crate::{
    causes::{Cause, CauseKind, Ranking},
    spans::Side,
};

fn requests(count: u128, shed: bool) -> Vec<Vec<Span>> {
    let request = |trace| {
        let (start, duration_ns) = (trace as i64 * 1_000_000, 500_000);
        let (side, error) = (Side::Server, shed);
        vec![Span { trace, id: 1, start, duration_ns, operation: 1, kind: 2, side, error, shed, ..Span::default() }]
    };
    (0..count).map(request).collect()
}

#[test]
fn lines_of_no_error_open_nothing_and_hide_nothing() {
    let cause = |service: &str, share: f64, harmless: f64| Cause {
        service: service.into(),
        operation: None,
        instance: None,
        kind: CauseKind::ChangedCalls,
        lost_ms: 100.0 * share,
        share,
        connected: 0,
        confidence: 0.9 * share,
        harmless,
        evidence: Vec::new(),
    };
    let cases = [
        (vec![cause("tagger", 1.0, 0.0)], "tagger", 0.9),
        (vec![cause("tagger", 1.0, 1.0)], "tagger", 0.0),
        (vec![cause("parser", 0.8, 1.0), cause("tagger", 0.2, 0.0)], "tagger", 0.9),
        (vec![cause("parser", 0.6, 0.5), cause("tagger", 0.4, 0.0)], "tagger", 0.9 * 0.4 / 0.7),
    ];
    for (causes, service, expect) in cases {
        let ranking = Ranking { causes, ..Ranking::default() };
        let (surest, told) = first(&ranking).unwrap();
        assert_eq!(surest.service, service, "{ranking:?}");
        assert!((told.confidence() - expect).abs() < 1e-9, "{told:?} of {ranking:?}");
    }
}

#[test]
fn a_cause_is_sure_by_what_it_shows_and_first_by_what_it_costs() {
    let cases = [
        // (share, belief) → sure
        ((0.70, 0.96), true),
        ((1.00, 0.81), true),
        ((0.45, 0.99), false),
        ((1.00, 0.75), false),
    ];
    for ((share, belief), sure) in cases {
        assert_eq!(Told { share, belief }.is_sure(), sure, "{share} {belief}");
    }
}

#[test]
fn whoever_is_sure_of_any_application_makes_a_look_sure() {
    let cause = |service: &str, connected: u32, share: f64, belief: f64| Cause {
        service: service.into(),
        operation: None,
        instance: None,
        kind: CauseKind::SlowService,
        lost_ms: 100.0,
        share,
        connected,
        confidence: belief * share,
        harmless: 0.0,
        evidence: Vec::new(),
    };
    // the shop's is likelier, and the bank's sure
    let shop = [cause("order", 1, 1.0, 0.75), cause("cart", 1, 0.0, 0.0)];
    let bank = [cause("vault", 2, 0.6, 0.9), cause("bank", 2, 0.4, 0.9)];
    let of = |causes: Vec<Cause>| any_is_sure(&Ranking { causes, ..Ranking::default() });
    assert!(!of(shop.to_vec()) && of(bank.to_vec()) && of([shop, bank].concat()));
}

#[test]
fn requests_are_gathered_to_fifty_and_what_policy_shed_is_none() {
    let mut names = Names::default();
    for name in ["gateway", "GET /", "server"] {
        names.intern(name);
    }
    let mut live = Live::new(&Config { max_trace_spans: 1_000, ..Config::default() });
    let second = 1_000_000_000;
    live.window(requests(30, false), (0, 10 * second), &names, true);
    live.window(requests(80, true), (10 * second, 20 * second), &names, true);
    assert!(live.said.is_none() && live.gathered.len() == 30);
    live.window(requests(20, false), (20 * second, 30 * second), &names, true);
    let said = live.said.as_ref().unwrap();
    assert_eq!((said.ranking.requests, said.votes, said.since, said.until), (50, 3, 0, 30 * second));
    for window in 3..18 {
        live.window(requests(1, false), (window * 10 * second, (window + 1) * 10 * second), &names, true);
    }
    assert_eq!(live.said.as_ref().unwrap().ranking.requests, 15, "150 s are long enough");
}

#[test]
fn who_is_not_sure_looks_at_more_of_the_same() {
    let mut names = Names::default();
    for name in ["gateway", "GET /", "server", "GET /gift"] {
        names.intern(name);
    }
    let mut live = Live::new(&Config::default());
    // two of sixty requests are for gifts, which take half a millisecond each, and later fifty
    let window = |number: i64, gift_ms: i64| {
        let mut requests = requests(60, false);
        for gift in &mut requests[..2] {
            (gift[0].operation, gift[0].duration_ns) = (3, gift_ms * 500_000);
        }
        (requests, (number * 10_000_000_000, (number + 1) * 10_000_000_000))
    };
    for number in 0..10 {
        let (requests, time) = window(number, 1);
        live.window(requests, time, &names, true);
    }
    assert!(live.gathered.is_empty() && live.causes.history().windows() == 10);
    let told = |live: &Live| first(&live.said.as_ref().unwrap().ranking).map_or(0.0, |(_, told)| told.confidence());
    let (mut sure, mut votes) = (Vec::new(), Vec::new());
    for number in 10..16 {
        let (requests, time) = window(number, 100);
        live.window(requests, time, &names, true);
        sure.push(told(&live));
        votes.push(live.said.as_ref().unwrap().votes);
    }
    assert!((NOBODY..SURE).contains(&sure[0]), "two alone say little: {sure:?}");
    assert!(sure.iter().any(|told| *told >= SURE), "{sure:?}");
    assert_eq!(live.causes.history().windows(), 10, "none of it is usual");
    let windows = sure.iter().position(|told| *told >= SURE).unwrap() + 1;
    assert!(windows >= 2 && votes[windows - 1] == windows, "it speaks for all that it looked at: {votes:?}");
}

#[test]
fn after_a_silence_what_was_gathered_before_says_nothing() {
    let mut names = Names::default();
    names.intern("gateway");
    let mut live = Live::new(&Config::default());
    let second = 1_000_000_000;
    live.window(requests(60, false), (0, 10 * second), &names, true);
    live.window(requests(30, false), (10 * second, 20 * second), &names, true);
    assert!(live.said.is_some() && live.gathered.len() == 30);
    live.window(requests(7, false), (500 * second, 510 * second), &names, true);
    assert!(live.said.is_none() && live.gathered.len() == 7 && live.since == 500 * second);
    assert_eq!(live.causes.history().windows(), 2, "it was usual all the same");
}

#[test]
fn of_very_many_requests_a_share_is_ranked_and_stands_for_all() {
    let hundred = requests(100, false);
    let (some, scale) = some_of(&hundred, 100);
    assert_eq!((some.len(), scale), (100, 1.0));
    let all = 5 * RANKED_SPANS;
    let (one, other) = (requests(all as u128, false), requests(all as u128, false));
    let (some, scale) = some_of(&one, all);
    assert!(some.len().abs_diff(RANKED_SPANS) < RANKED_SPANS / 20, "{} were kept", some.len());
    assert!((scale * some.len() as f64 - all as f64).abs() < 1e-6);
    let again = some_of(&other, all).0;
    assert_eq!(
        some.iter().map(|r| r[0].trace).collect::<Vec<_>>(),
        again.iter().map(|r| r[0].trace).collect::<Vec<_>>()
    );
}

/// The shop's one slow service is likelier the cause of what it loses than any of the bank's two, and less sure.
#[test]
fn a_look_that_is_sure_of_one_application_is_over_however_doubtful_another_is() {
    let mut names = Names::default();
    let [serve, shop, bank, vault] = ["serve", "shop", "bank", "vault"].map(|name| names.intern(name));
    let span = |trace: u128, id, parent, service, (start_ms, duration_ms): (f64, f64)| {
        let [start, duration_ns] = [start_ms, duration_ms].map(|ms| (ms * 1e6) as i64);
        Span { trace, id, parent, start, duration_ns, service, operation: serve, side: Side::Server, ..Span::default() }
    };
    // of sixty requests some enter at the shop; the others at the bank, which calls the vault
    let window = |number: i64, slow: bool| {
        let requests = (0..60_u128).map(|n| {
            let trace = number as u128 * 60 + n + 1;
            let ms = |usual: f64, more: f64| if slow { usual + more } else { usual };
            if n < 5 {
                return vec![span(trace, 1, 0, shop, (0.0, ms(10.0, 500.0)))];
            }
            let (own, called) = (ms(10.0, 60.0), ms(10.0, 40.0));
            vec![span(trace, 1, 0, bank, (0.0, own + called)), span(trace, 2, 1, vault, (own, called))]
        });
        (requests.collect::<Vec<_>>(), (number * 10_000_000_000, (number + 1) * 10_000_000_000))
    };
    let mut live = Live::new(&Config::default());
    for number in 0..20 {
        let (requests, time) = window(number, false);
        live.window(requests, time, &names, true);
    }
    let (requests, time) = window(20, true);
    live.window(requests, time, &names, true);
    let ranking = &live.said.as_ref().unwrap().ranking;
    let (surest, told) = first(ranking).unwrap();
    assert!(surest.service == "shop" && !told.is_sure() && told.confidence() >= NOBODY, "{ranking:#?}");
    assert!(any_is_sure(ranking), "{ranking:#?}");
    assert!(live.gathered.is_empty() && live.uncounted == 0, "the next look is of other requests");
    assert_eq!(live.causes.history().windows(), 20, "none of it is usual");
}
