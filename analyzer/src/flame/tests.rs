//! Frames add up, merge to the same, and lose no time where they are folded.

use super::*;
use crate::critical_path::Timeline;

/// A trace in which `a` calls `b`, and `b` calls `leaf`.
fn trace(start: i64, b_ns: i64, leaf: &str) -> Vec<SpanNode> {
    let span = |id: u8, service: &str, operation: &str, start: i64, end: i64| SpanNode {
        span_id: [id; 8],
        parent: (id > 1).then_some([id - 1; 8]),
        start,
        end,
        service: service.into(),
        operation: operation.into(),
        ..SpanNode::default()
    };
    vec![
        span(1, "a", "GET /", start, start + 100),
        span(2, "b", "get", start + 10, start + 10 + b_ns),
        span(3, "c", leaf, start + 20, start + b_ns),
    ]
}

fn flame(traces: impl IntoIterator<Item = Vec<SpanNode>>) -> Flame {
    let mut flame = Flame::default();
    for spans in traces {
        let timeline = Timeline::of(&spans);
        flame.add(&spans, &timeline.path(timeline.main_root().unwrap()));
    }
    flame
}

/// The time of every frame is its own, its children's and what has no frame.
fn assert_whole(paths: &[FramePath], root_ns: i64, other_ns: i64) {
    let mut below = vec![0; paths.len()];
    let mut roots = other_ns;
    for path in paths {
        match path.parent {
            Some(parent) => below[parent] += path.total_ns,
            None => roots += path.total_ns,
        }
    }
    assert_eq!(roots, root_ns);
    for (path, below) in paths.iter().zip(below) {
        assert_eq!(path.total_ns, path.self_ns + path.other_ns + below, "{path:?}");
        assert!(path.undecided_ns <= path.total_ns && path.share <= 1.0);
    }
}

#[test]
fn frames_of_two_requests_add_up() {
    let one = flame([trace(0, 50, "x"), trace(1_000, 70, "y")]);
    assert_eq!((one.requests(), one.root_ns(), one.other_ns()), (2, 200, 0));
    let paths = one.paths();
    assert_whole(&paths, 200, 0);
    let said: Vec<_> = paths
        .iter()
        .map(|p| (p.depth, p.parent, p.operation.as_str(), p.requests, p.total_ns, p.self_ns, p.mean_drag_ns))
        .collect();
    assert_eq!(
        said,
        [
            (0, None, "GET /", 2, 200, 80, 100),
            (1, Some(0), "get", 2, 120, 40, 60),
            (2, Some(1), "y", 1, 50, 50, 50),
            (2, Some(1), "x", 1, 30, 30, 30),
        ]
    );
    assert!((paths[1].share - 0.6).abs() < 1e-12);
    assert_ne!(paths[2].id, paths[3].id);
}

#[test]
fn parts_merge_to_the_whole() {
    let traces = |range: std::ops::Range<i64>| range.map(|n| trace(n * 1_000, 40 + n % 50, &format!("leaf {}", n % 5)));
    let whole = flame(traces(0..40));
    let mut merged = flame(traces(0..13));
    merged.merge(&flame(traces(13..14)));
    merged.merge(&flame(traces(14..40)));
    merged.merge(&Flame::default());
    assert_eq!((merged.requests(), merged.root_ns()), (whole.requests(), whole.root_ns()));
    assert_eq!(merged.paths(), whole.paths());
}

#[test]
fn what_is_small_or_deep_is_other_and_no_time_is_lost() {
    // a service that names its operations by number: 5,000 leaves, two of them large
    let mut many = flame((0..5_000).map(|n| trace(n * 1_000, 40, &format!("leaf {n}"))));
    for large in ["large", "larger"] {
        many.merge(&flame((0..50).map(|n| trace(n * 1_000, 90, large))));
    }
    assert!(many.frames.len() <= MAX_HELD, "{}", many.frames.len());
    let (root_ns, other_ns) = (many.root_ns(), many.other_ns());
    let paths = many.paths();
    assert_eq!(paths.len(), MAX_FRAMES);
    assert_whole(&paths, root_ns, other_ns);
    assert_eq!(paths[2].operation, "large", "the largest stays, whenever it came");
    assert!(paths[1].other_ns > 0);
    let link = |n: u64| SpanNode {
        span_id: n.to_be_bytes(),
        parent: (n > 1).then(|| (n - 1).to_be_bytes()),
        start: n as i64,
        end: 2_000 - n as i64,
        service: "deep".into(),
        ..SpanNode::default()
    };
    let deep = flame([(1..=900).map(link).collect()]);
    let root_ns = deep.root_ns();
    let paths = deep.paths();
    assert_eq!(paths.len(), MAX_DEPTH + 1);
    assert_whole(&paths, root_ns, 0);
    assert!(paths[MAX_DEPTH].other_ns > 0);
}

#[test]
fn time_that_may_not_have_been_waited_for_is_marked_all_the_way_up_and_down() {
    let mut spans = trace(0, 200, "x");
    spans[2].end = 90;
    let paths = flame([spans]).paths();
    let undecided: Vec<_> = paths.iter().map(|path| (path.total_ns, path.undecided_ns)).collect();
    assert_eq!(undecided, [(100, 90), (90, 90), (70, 70)], "b outlives a, and c is below b");
}
