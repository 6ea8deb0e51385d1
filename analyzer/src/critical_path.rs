//! The critical path of a trace: the segments whose shortening would shorten the root.
//!
//! Walk back from the root's end: the child that finishes last before the cursor is on the path;
//! between it and the cursor the span itself is. Children are clipped to their parent; one that
//! starts after its parent ended did not block it and is left out. Segments are disjoint and sum
//! exactly to the root's duration.

use std::collections::HashMap;

/// A span as the tree needs it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SpanNode {
    /// Its id.
    pub span_id: [u8; 8],
    /// Its parent's, if any.
    pub parent: Option<[u8; 8]>,
    /// Start, nanoseconds.
    pub start: i64,
    /// End, nanoseconds.
    pub end: i64,
    /// Span kind.
    pub kind: String,
    /// Service.
    pub service: String,
}

/// A piece of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The span that was at work.
    pub span_id: [u8; 8],
    /// From.
    pub start_unix_nano: i64,
    /// To.
    pub end_unix_nano: i64,
}

/// The path of the longest root, in time order.
#[must_use]
pub fn critical_path(spans: &[SpanNode]) -> Vec<Segment> {
    let tree = Tree::new(spans);
    let Some(root) = tree.roots.iter().copied().max_by_key(|root| spans[*root].end - spans[*root].start) else {
        return Vec::new();
    };
    let mut segments = Vec::new();
    // spans still to walk, each with the part of time it must explain
    let mut work = vec![(root, spans[root].start, spans[root].end)];
    while let Some((span, from, to)) = work.pop() {
        let mut cursor = to;
        for child in tree.by_end(span, spans) {
            let (start, end) = (spans[child].start.max(from), spans[child].end.min(to));
            if start >= end || end > cursor {
                continue;
            }
            push(&mut segments, spans[span].span_id, end, cursor);
            work.push((child, start, end));
            cursor = start;
        }
        push(&mut segments, spans[span].span_id, from, cursor);
    }
    segments.sort_by_key(|segment| segment.start_unix_nano);
    segments
}

/// Duration minus the union of children, for each span in the order given.
#[must_use]
pub fn self_times(spans: &[SpanNode]) -> Vec<i64> {
    let tree = Tree::new(spans);
    let own = |index: usize| {
        let span = &spans[index];
        let mut children: Vec<_> = tree.children[index]
            .iter()
            .map(|c| (spans[*c].start.max(span.start), spans[*c].end.min(span.end)))
            .collect();
        children.sort_unstable();
        let (mut covered, mut until) = (0, span.start);
        for (start, end) in children {
            let start = start.max(until);
            if end > start {
                covered += end - start;
                until = end;
            }
        }
        (span.end - span.start - covered).max(0)
    };
    (0..spans.len()).map(own).collect()
}

struct Tree {
    roots: Vec<usize>,
    children: Vec<Vec<usize>>,
}

impl Tree {
    fn new(spans: &[SpanNode]) -> Self {
        let places: HashMap<_, _> = spans.iter().enumerate().map(|(place, span)| (span.span_id, place)).collect();
        let (mut roots, mut children) = (Vec::new(), vec![Vec::new(); spans.len()]);
        for (place, span) in spans.iter().enumerate() {
            match span.parent.and_then(|parent| places.get(&parent)) {
                Some(parent) if *parent != place => children[*parent].push(place),
                _ => roots.push(place),
            }
        }
        Self { roots, children }
    }

    /// Children by the end that counts, last first.
    fn by_end(&self, span: usize, spans: &[SpanNode]) -> Vec<usize> {
        let mut children = self.children[span].clone();
        children.sort_by_key(|child| std::cmp::Reverse((spans[*child].end.min(spans[span].end), spans[*child].start)));
        children
    }
}

fn push(segments: &mut Vec<Segment>, span_id: [u8; 8], start_unix_nano: i64, end_unix_nano: i64) {
    if end_unix_nano > start_unix_nano {
        segments.push(Segment { span_id, start_unix_nano, end_unix_nano });
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn span(id: u8, parent: u8, start: i64, end: i64) -> SpanNode {
        let parent = (parent > 0).then_some([parent; 8]);
        SpanNode { span_id: [id; 8], parent, start, end, ..SpanNode::default() }
    }

    fn path(spans: &[SpanNode]) -> Vec<(u8, i64, i64)> {
        critical_path(spans).iter().map(|s| (s.span_id[0], s.start_unix_nano, s.end_unix_nano)).collect()
    }

    #[test]
    fn hand_worked_cases() {
        let sequential = [span(1, 0, 0, 100), span(2, 1, 10, 40), span(3, 1, 50, 90)];
        assert_eq!(path(&sequential), [(1, 0, 10), (2, 10, 40), (1, 40, 50), (3, 50, 90), (1, 90, 100)]);
        let parallel = [span(1, 0, 0, 100), span(2, 1, 10, 60), span(3, 1, 10, 90)];
        assert_eq!(path(&parallel), [(1, 0, 10), (3, 10, 90), (1, 90, 100)]);
        let overflow = [span(1, 0, 0, 100), span(2, 1, 50, 150)];
        assert_eq!(path(&overflow), [(1, 0, 50), (2, 50, 100)]);
        let after = [span(1, 0, 0, 100), span(2, 1, 100, 150)];
        assert_eq!(path(&after), [(1, 0, 100)]);
        assert_eq!(self_times(&parallel), [20, 50, 80]);
        assert_eq!(path(&[]), []);
    }

    proptest! {
        #[test]
        fn segments_are_disjoint_and_sum_to_the_root(tree in prop::collection::vec((1u8..30, 0i64..1000, 0i64..1000), 1..30)) {
            let mut spans = vec![span(1, 0, 0, 1000)];
            for (n, (parent, a, b)) in tree.into_iter().enumerate() {
                let id = n as u8 + 2;
                spans.push(span(id, 1 + parent % (id - 1), a.min(b), a.max(b)));
            }
            let path = path(&spans);
            prop_assert_eq!(path.iter().map(|(_, start, end)| end - start).sum::<i64>(), 1000);
            prop_assert!(path.windows(2).all(|pair| pair[0].2 == pair[1].1));
        }
    }
}
