//! Traces worked by hand: paths, slack and drag, clocks, what is undecided, ids that make no tree, and large ones.

use std::fmt::Write;

use rand::{Rng, SeedableRng, rngs::StdRng};

use super::{interval::FARTHEST_NS, *};

fn span(id: u8, parent: u8, start: i64, end: i64) -> SpanNode {
    let parent = (parent > 0).then_some([parent; 8]);
    SpanNode { span_id: [id; 8], parent, start, end, ..SpanNode::default() }
}

/// A span of a service with a kind.
fn of(service: &str, kind: &str, span: SpanNode) -> SpanNode {
    SpanNode { service: service.into(), kind: kind.into(), ..span }
}

fn path(spans: &[SpanNode]) -> Vec<(u8, i64, i64)> {
    let (segments, _) = Timeline::of(spans).whole();
    segments.iter().map(|s| (s.span_id[0], s.start_unix_nano, s.end_unix_nano)).collect()
}

/// Of each span: self time, slack (`-` for none), drag, and what is undecided or added to its clock.
fn said(spans: &[SpanNode]) -> String {
    let mut text = String::new();
    for (span, timing) in spans.iter().zip(Timeline::of(spans).whole().1) {
        let slack = timing.slack_ns.map_or("-".to_owned(), |slack| slack.to_string());
        let _ = write!(text, "{}: {} {slack} {}", span.span_id[0], timing.self_time_ns, timing.drag_ns);
        if timing.skew_ns != 0 {
            let _ = write!(text, " clock {:+}", timing.skew_ns);
        }
        if let Some(undecided) = timing.undecided {
            let _ = write!(text, " {}", undecided.name());
        }
        text += "\n";
    }
    text
}

#[test]
fn the_path_of_hand_worked_traces() {
    let sequential = [span(1, 0, 0, 100), span(2, 1, 10, 40), span(3, 1, 50, 90)];
    assert_eq!(path(&sequential), [(1, 0, 10), (2, 10, 40), (1, 40, 50), (3, 50, 90), (1, 90, 100)]);
    let parallel = [span(1, 0, 0, 100), span(2, 1, 10, 60), span(3, 1, 10, 90)];
    assert_eq!(path(&parallel), [(1, 0, 10), (3, 10, 90), (1, 90, 100)]);
    let overflow = [span(1, 0, 0, 100), span(2, 1, 50, 150)];
    assert_eq!(path(&overflow), [(1, 0, 50), (2, 50, 100)]);
    let after = [span(1, 0, 0, 100), span(2, 1, 100, 150)];
    assert_eq!(path(&after), [(1, 0, 100)]);
    // taken literally 2 ended after 3 had begun, and nobody waited for it
    let closes_late = [span(1, 0, 0, 1000), span(2, 1, 100, 503), span(3, 1, 500, 900)];
    assert_eq!(path(&closes_late), [(1, 0, 100), (2, 100, 500), (3, 500, 900), (1, 900, 1000)]);
    let side_by_side = [span(1, 0, 0, 1000), span(2, 1, 100, 600), span(3, 1, 500, 900)];
    assert_eq!(path(&side_by_side), [(1, 0, 500), (3, 500, 900), (1, 900, 1000)]);
    let deep = [span(1, 0, 0, 100), span(2, 1, 10, 90), span(3, 2, 5, 50), span(4, 3, 20, 95)];
    assert_eq!(path(&deep), [(1, 0, 10), (3, 10, 20), (4, 20, 50), (2, 50, 90), (1, 90, 100)]);
    assert_eq!(path(&[]), []);
    assert_eq!(path(&[span(1, 0, 7, 7)]), []);
    assert_eq!(path(&[span(1, 0, 7, 3)]), [], "an end before its start is none");
}

#[test]
fn slack_and_drag_of_hand_worked_traces() {
    // 3 holds up the end; 2 could take 30 more; without 3 there are still the 50 of 2
    let parallel = [span(1, 0, 0, 100), span(2, 1, 10, 60), span(3, 1, 10, 90)];
    assert_eq!(said(&parallel), "1: 20 0 100\n2: 50 30 0\n3: 80 0 30\n");
    let sequential = [span(1, 0, 0, 100), span(2, 1, 10, 40), span(3, 1, 50, 90)];
    assert_eq!(said(&sequential), "1: 30 0 100\n2: 30 0 30\n3: 40 0 40\n");
    // 4 (20 to 60) runs beside 2 and 3: it may end when 3 ends, and neither of them alone gains more than those 20
    let beside = [span(1, 0, 0, 100), span(2, 1, 0, 40), span(3, 1, 40, 80), span(4, 1, 20, 60)];
    assert_eq!(said(&beside), "1: 20 0 100\n2: 40 0 20\n3: 40 0 20\n4: 40 20 0\n");
    // both ended together: neither alone gains anything
    let even = [span(1, 0, 0, 100), span(2, 1, 10, 90), span(3, 1, 20, 90)];
    assert_eq!(said(&even), "1: 20 0 100\n2: 80 0 0\n3: 70 0 0\n");
    // slack adds up on the way down: 2 has 30, 3 has 10 in it
    let nested = [span(1, 0, 0, 100), span(2, 1, 0, 60), span(3, 2, 10, 40), span(4, 2, 10, 50), span(5, 1, 0, 90)];
    assert_eq!(said(&nested), "1: 10 0 100\n2: 20 30 0\n3: 30 40 0\n4: 40 30 0\n5: 90 0 30\n");
    // what takes no time has no drag, but may be late by what comes after it
    let momentary = [span(1, 0, 0, 100), span(2, 1, 50, 50), span(3, 1, 60, 90)];
    assert_eq!(said(&momentary), "1: 70 0 100\n2: 0 0 0\n3: 30 0 30\n");
}

#[test]
fn what_spans_alone_do_not_tell_is_said() {
    let sent = |kind, start, end| {
        [
            of("a", "server", span(1, 0, 0, 100)),
            of("a", "producer", span(2, 1, 10, 20)),
            of("b", kind, span(3, 2, start, end)),
            of("b", "internal", span(4, 3, start, end)),
        ]
    };
    let unwaited = "1: 90 0 100\n2: 10 0 10\n3: 0 - 0 messaging\n4: 5 - 0\n";
    assert_eq!(said(&sent("consumer", 12, 17)), unwaited, "within its sender");
    assert_eq!(said(&sent("consumer", 60, 65)), unwaited, "after it");
    assert_eq!(said(&sent("server", 60, 65)), unwaited);
    let polls = [of("b", "internal", span(1, 0, 0, 100)), of("b", "consumer", span(2, 1, 0, 90))];
    assert_eq!(said(&polls), "1: 10 0 100\n2: 90 0 90\n", "who waits for messages is waited for");
    let outlives = [
        of("a", "server", span(1, 0, 0, 100)),
        of("a", "internal", span(2, 1, 40, 150)),
        of("a", "", span(3, 2, 120, 130)),
    ];
    assert_eq!(said(&outlives), "1: 40 0 100\n2: 60 0 60 outlives_parent\n3: 10 - 0\n");
    let layer = |kind| {
        [
            of("a", "server", span(1, 0, 0, 1000)),
            of("a", kind, span(2, 1, 10, 980)),
            of("a", "client", span(3, 1, 20, 990)),
            of("b", "server", span(4, 3, 30, 900)),
        ]
    };
    assert_eq!(said(&layer("internal")), "1: 30 0 1000\n2: 970 - 0 covers_sibling\n3: 100 0 970\n4: 870 0 870\n");
    assert!(said(&layer("client")).contains("\n3: 100 0 10\n"), "a call of its own that takes as long");
    let after = [of("a", "server", span(1, 0, 0, 100)), of("a", "internal", span(2, 1, 100, 150))];
    assert_eq!(said(&after), "1: 100 0 100\n2: 50 - 0 starts_after_parent\n");
    let orphan = [span(1, 9, 0, 500), span(2, 0, 0, 100), span(3, 1, 10, 20)];
    assert_eq!(
        said(&orphan),
        "1: 490 - 0 parent_missing\n2: 100 0 100\n3: 10 - 0\n",
        "a span without a parent goes first"
    );
    assert_eq!(said(&orphan[..1]), "1: 500 0 500 parent_missing\n");
}

#[test]
fn clocks_are_set_by_the_caller() {
    let call = |start, end, host: &str| {
        let mut spans = vec![
            of("a", "client", span(1, 0, 1000, 1100)),
            of("b", "server", span(2, 1, start, end)),
            of("b", "internal", span(3, 2, start + 5, end - 5)),
            // has the clock of a, and would leave it if it inherited b's shift
            SpanNode { host: host.to_owned(), ..of("c", "server", span(4, 2, 1035, 1040)) },
        ];
        spans[0].host = "one".into();
        spans
    };
    // 4 runs within 3, ends 45 before it, and would be next
    let centred = |skew: i64| format!("1: 20 0 100\n2: 10 0 80 clock {skew:+}\n3: 70 0 45 clock {skew:+}\n4: 5 45 0\n");
    assert_eq!(said(&call(910, 990, "one")), centred(100), "behind");
    assert_eq!(said(&call(5010, 5090, "two")), centred(-4000), "ahead, wholly outside");
    assert_eq!(said(&call(1030, 1110, "two")), centred(-20), "it fits, so it was answered before its caller ended");
    let fits = said(&call(1015, 1095, "two"));
    assert!(!fits.contains("clock"), "{fits}");
    // by b's clock c was called in time, and nothing says that nobody waited
    let mut both_ahead = call(5010, 5090, "three");
    (both_ahead[3].start, both_ahead[3].end) = (5085, 5093);
    assert!(said(&both_ahead).contains("4: 8 31 0 clock -4039"), "{}", said(&both_ahead));
    // longer than its caller: it began no earlier; the caller gave up
    let gave_up = said(&call(980, 1200, "two"));
    assert!(gave_up.contains("2: 5 0 100 clock +20 outlives_parent"), "{gave_up}");
    // one clock: nothing is skewed
    let mut one_clock = call(910, 990, "one");
    one_clock.iter_mut().for_each(|span| span.host = "one".into());
    assert!(!said(&one_clock).contains("clock"));
    let mut replica = call(910, 990, "one");
    (replica[1].service, replica[2].service) = ("a".into(), "a".into());
    assert!(!said(&replica).contains("clock"), "one service, and nobody says that it is another instance");
    (replica[0].instance, replica[1].instance, replica[2].instance) = ("x".into(), "y".into(), "y".into());
    assert!(said(&replica).contains("2: 10 0 80 clock +100"));
    // kinds do not say that it was waited for, and it begins when its parent has ended
    let mut spawned = call(1110, 1150, "two");
    spawned[0].kind = "unspecified".into();
    assert!(said(&spawned).contains("2: 10 - 0 starts_after_parent"), "{}", said(&spawned));
}

#[test]
fn ids_that_make_no_tree() {
    let circle = [span(1, 3, 30, 90), span(2, 1, 40, 50), span(3, 2, 10, 100), span(4, 4, 0, 5), span(5, 0, 0, 7)];
    assert_eq!(
        said(&circle),
        "1: 50 - 0\n2: 10 - 0\n3: 30 - 0 circle\n4: 5 - 0 circle\n5: 7 0 7\n",
        "cut at its earliest, last in order"
    );
    let order: Vec<_> = Timeline::of(&circle).order();
    assert_eq!(order, [(4, 0), (2, 0), (0, 1), (1, 2), (3, 0)]);
    // two sides of a call that share an id: the server's is below the client's, and has the children
    let shared = [
        of("b", "server", span(2, 1, 20, 80)),
        of("a", "client", span(2, 1, 10, 90)),
        of("a", "server", span(1, 0, 0, 100)),
        of("b", "internal", span(3, 2, 30, 70)),
        of("a", "internal", span(4, 2, 11, 12)),
    ];
    let order: Vec<_> = Timeline::of(&shared).order();
    assert_eq!(order, [(2, 0), (1, 1), (4, 2), (0, 2), (3, 3)]);
    let copies = [span(1, 0, 0, 100), span(2, 1, 10, 90), span(2, 1, 10, 90), span(2, 1, 20, 30)];
    assert_eq!(said(&copies), "1: 20 0 100\n2: 80 0 60\n2: 80 - 0 duplicate\n2: 10 60 0\n");
    assert_eq!(path(&copies), [(1, 0, 10), (2, 10, 90), (1, 90, 100)]);
    let far = [span(1, 0, i64::MIN, i64::MAX), span(2, 1, i64::MAX, i64::MIN), of("b", "", span(3, 1, -5, i64::MAX))];
    assert_eq!(path(&far).iter().map(|(_, start, end)| end - start).sum::<i64>(), FARTHEST_NS);
}

#[test]
fn topmost_spans_are_those_that_a_request_enters_by() {
    let spans = [
        of("a", "", span(1, 0, 0, 100)),
        of("b", "", span(2, 1, 0, 40)),
        of("b", "", span(3, 2, 5, 30)),
        of("b", "", span(4, 1, 50, 90)),
    ];
    let timeline = Timeline::of(&spans);
    assert_eq!(timeline.topmost(|span| span.service == "b"), [1, 3]);
    assert_eq!(timeline.topmost(|span| span.service == "c"), [] as [usize; 0]);
    let path = timeline.path(1);
    assert_eq!(
        path.spans.iter().map(|on| (on.span, on.parent, on.timing.critical_ns)).collect::<Vec<_>>(),
        [(1, None, 15), (2, Some(0), 25)]
    );
    assert_eq!(timeline.main_root(), Some(0));
    assert_eq!(Timeline::of(&[]).main_root(), None);
}

#[test]
fn ten_thousand_spans_and_a_thousand_levels() {
    const SEED: u64 = 11;
    println!("seed {SEED}");
    let mut random = StdRng::seed_from_u64(SEED);
    let node = |id: u64, parent: Option<u64>, start: i64, end: i64| SpanNode {
        span_id: id.to_be_bytes(),
        parent: parent.map(u64::to_be_bytes),
        start,
        end,
        service: format!("s{}", id % 7),
        ..SpanNode::default()
    };
    let root = node(1, None, 1_000_000, 2_000_000);
    // a chain of 1,000, each a little outside the one above, and below the links 9,000 that lie anywhere
    let mut nasty = vec![root];
    for id in 2..=10_000_u64 {
        let parent = if id <= 1_000 { id - 1 } else { random.random_range(1..1_000) };
        let above = &nasty[parent as usize - 1];
        let start = above.start + random.random_range(-5..300);
        let end = if id <= 1_000 {
            above.end - random.random_range(-5..300)
        } else {
            start + random.random_range(0..400_000)
        };
        nasty.push(node(id, Some(parent), start, end.max(start)));
    }
    let deep = 1 + Timeline::of(&nasty).order().iter().map(|(_, depth)| depth).max().unwrap();
    assert!(deep >= 1_000, "{deep}");
    let wide: Vec<SpanNode> = (1..=10_000_u64)
        .map(|id| node(id, (id > 1).then_some(1), 1_000_000 + id as i64 * 50, 2_000_000 - 10_000 + id as i64))
        .collect();
    for spans in [nasty, wide] {
        let (segments, timings) = Timeline::of(&spans).whole();
        let total: i64 = segments.iter().map(|segment| segment.end_unix_nano - segment.start_unix_nano).sum();
        assert_eq!(total, spans[0].end - spans[0].start);
        assert!(segments.windows(2).all(|pair| pair[0].end_unix_nano == pair[1].start_unix_nano));
        assert_eq!(timings[0].drag_ns, total);
    }
}
