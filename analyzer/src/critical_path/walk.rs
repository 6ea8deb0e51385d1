//! The segments of the path: from the root's end back to its start, always into the child that ended last.

use super::{Segment, Timeline, waits::Waits};

/// Disjoint, in order of time, and as long as the root together: each span that is met explains its whole part, by its own
/// segments and by children whose parts it is cut into.
pub(super) fn segments(timeline: &Timeline, waits: &Waits) -> Vec<Segment> {
    let mut segments = Vec::new();
    let mut work = vec![0];
    while let Some(place) = work.pop() {
        let span = timeline.tree.order[waits.root + place];
        let mut at_work = |start_unix_nano: i64, end_unix_nano: i64| {
            if end_unix_nano > start_unix_nano {
                let span_id = timeline.spans[span].span_id;
                segments.push(Segment { span, span_id, start_unix_nano, end_unix_nano });
            }
        };
        let mut cursor = waits.counted[place].end;
        for child in latest_first(waits, place) {
            let part = waits.counted[child];
            if part.end > cursor || part.duration() == 0 {
                continue;
            }
            at_work(part.end, cursor);
            work.push(child);
            cursor = part.start;
        }
        at_work(waits.counted[place].start, cursor);
    }
    segments.sort_unstable_by_key(|segment| segment.start_unix_nano);
    segments
}

/// By end; of those that ended together the longest first.
fn latest_first(waits: &Waits, place: usize) -> Vec<usize> {
    let mut children = waits.children[place].clone();
    children.sort_unstable_by_key(|child| (-waits.counted[*child].end, waits.counted[*child].start, *child));
    children
}
