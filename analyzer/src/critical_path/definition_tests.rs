//! Slack and drag against what they mean: the trace is played again with one span later, or without its time.

use std::collections::HashSet;

use proptest::prelude::*;

use super::{waits::Waits, *};

/// What is done to one span when the trace is played again.
#[derive(Clone, Copy)]
enum Change {
    /// It ends later by so much.
    Delay(usize, i64),
    /// It, and all below it, takes no time.
    Vanish(usize),
}

/// How long a span takes when its children begin a fixed time after what they follow. Written down as it is said, with a recursion and
/// every pair compared.
fn played(waits: &Waits, place: usize, change: Change) -> i64 {
    if let Change::Vanish(gone) = change
        && gone == place
    {
        return 0;
    }
    let whole = waits.counted[place];
    let momentary = |child: usize| waits.counted[child].duration() == 0;
    // what ends precedes what begins at the same time, except that what takes no time does not follow its like
    let precedes = |one: usize, other: usize| {
        let (end, start) = (waits.counted[one].end, waits.counted[other].start);
        one != other && (end < start || end == start && !(momentary(one) && momentary(other)))
    };
    let mut order = waits.children[place].clone();
    order.sort_by_key(|child| (waits.counted[*child].start, !momentary(*child)));
    let mut ends: Vec<(usize, i64)> = Vec::new();
    for &child in &order {
        let before: Vec<usize> = order.iter().copied().filter(|other| precedes(*other, child)).collect();
        let trigger = before.iter().map(|other| waits.counted[*other].end).max().unwrap_or(whole.start);
        let new_trigger = ends.iter().filter(|(other, _)| before.contains(other)).map(|(_, end)| *end).max();
        let start = new_trigger.unwrap_or(0) + waits.counted[child].start - trigger;
        ends.push((child, start + played(waits, child, change)));
    }
    let trigger = order.iter().map(|child| waits.counted[*child].end).max().unwrap_or(whole.start);
    let end = ends.iter().map(|(_, end)| *end).max().unwrap_or(0) + whole.end - trigger;
    match change {
        Change::Delay(late, by) if late == place => end + by,
        _ => end,
    }
}

/// A span by the place of its parent, start, duration, service, kind.
type Drawn = (usize, i64, i64, usize, usize);

fn spans(drawn: &[Drawn]) -> Vec<SpanNode> {
    const KINDS: [&str; 6] = ["internal", "client", "server", "producer", "consumer", "unspecified"];
    let id = |place: usize| (place as u64 + 1).to_be_bytes();
    let node = |(place, &(parent, start, duration, service, kind)): (usize, &Drawn)| SpanNode {
        span_id: id(place),
        // some point at a span that is not there, some at one that comes later: circles
        parent: (place > 0).then(|| id(if parent == 99 { 5_000 } else { parent % (place + 2) })),
        start: 1_000_000 + start,
        end: 1_000_000 + start + duration,
        kind: KINDS[kind % KINDS.len()].into(),
        service: ["a", "b", "c"][service % 3].into(),
        ..SpanNode::default()
    };
    drawn.iter().enumerate().map(node).collect()
}

fn nasty(most: usize) -> impl Strategy<Value = Vec<SpanNode>> {
    let one = (0..100_usize, -50..1_000_i64, prop_oneof![Just(0), 0..60_i64, 0..1_000_i64], 0..3_usize, 0..6_usize);
    prop::collection::vec(one, 1..most).prop_map(|mut drawn| {
        drawn[0] = (0, 0, 1_000, 0, 2);
        spans(&drawn)
    })
}

proptest! {
    #[test]
    fn segments_are_disjoint_and_sum_to_the_root(spans in nasty(60)) {
        let timeline = Timeline::of(&spans);
        for root in 0..spans.len() {
            let path = timeline.path(root);
            let of_root = path.spans[0].timing;
            let total: i64 = path.segments.iter().map(|segment| segment.end_unix_nano - segment.start_unix_nano).sum();
            prop_assert_eq!(total, of_root.end_unix_nano - of_root.start_unix_nano);
            prop_assert!(path.segments.windows(2).all(|pair| pair[0].end_unix_nano == pair[1].start_unix_nano));
            if let (Some(first), Some(last)) = (path.segments.first(), path.segments.last()) {
                prop_assert_eq!((first.start_unix_nano, last.end_unix_nano), (of_root.start_unix_nano, of_root.end_unix_nano));
            }
            let by_span: i64 = path.spans.iter().map(|span| span.timing.critical_ns).sum();
            prop_assert_eq!(by_span, total);
        }
    }

    #[test]
    fn every_span_is_once_in_the_forest_below_its_parent(spans in nasty(60)) {
        let order = Timeline::of(&spans).order();
        let places: HashSet<usize> = order.iter().map(|(place, _)| *place).collect();
        prop_assert_eq!((order.len(), places.len()), (spans.len(), spans.len()));
        prop_assert_eq!(Timeline::of(&spans).whole().1.len(), spans.len());
    }

    #[test]
    fn a_moved_call_fits_its_caller(spans in nasty(40)) {
        let timeline = Timeline::of(&spans);
        for timing in timeline.whole().1 {
            prop_assert!(timing.end_unix_nano >= timing.start_unix_nano);
        }
        for position in 0..spans.len() {
            let Some(above) = timeline.tree.parent[position] else { continue };
            let (shift, inherited) = (timeline.shifts[position], timeline.shifts[above]);
            let (own, parent) = (timeline.interval(position), timeline.interval(above));
            if shift != 0 && shift != inherited && own.duration() <= parent.duration() {
                prop_assert!(own.start >= parent.start, "the way there takes no negative time");
            }
        }
    }

    #[test]
    fn slack_and_drag_are_what_they_mean(spans in nasty(14)) {
        let timeline = Timeline::of(&spans);
        let root = timeline.main_root().unwrap();
        let waits = Waits::under(&timeline, timeline.tree.position(root));
        let path = timeline.path(root);
        let usual = played(&waits, 0, Change::Delay(0, 0));
        prop_assert_eq!(usual, path.spans[0].timing.end_unix_nano - path.spans[0].timing.start_unix_nano);
        for (place, OnPath { timing, .. }) in path.spans.iter().enumerate() {
            prop_assert!(timing.critical_ns == 0 || timing.slack_ns == Some(0), "who is on the path has no slack");
            let Some(slack) = timing.slack_ns else {
                prop_assert_eq!(played(&waits, 0, Change::Vanish(place)), usual);
                continue;
            };
            prop_assert_eq!(played(&waits, 0, Change::Delay(place, slack)), usual, "slack of {}", place);
            prop_assert_eq!(played(&waits, 0, Change::Delay(place, slack + 7)), usual + 7, "no more slack of {}", place);
            prop_assert_eq!(usual - played(&waits, 0, Change::Vanish(place)), timing.drag_ns, "drag of {}", place);
        }
    }
}
