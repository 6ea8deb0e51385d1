//! Clock skew: a child that lies outside its parent, on another clock, is moved inside.
//!
//! The rule is that of tracing pages (Jaeger's clock skew adjuster): what fits into its parent is centred in it, so that the call
//! took as long on its way as the answer on its; neither can be negative, because it fits. What is longer than its parent is moved
//! only if it began before it, to the parent's start. Spans on one clock are moved together, so a shift is inherited by
//! all that the same process did below. A span on another clock keeps its own time if it fits so, else its parent's shift if it fits so.
//!
//! Beyond that rule: a child that began when its parent had ended, by either clock, is moved only where the kinds say that it was waited for
//! (client → server); else it is asynchronous. One that came by a message is moved only if it began before it was sent.

use super::{Interval, SpanNode, tree::Tree, waits::is_message};

/// By position in the tree: what is added to a span's times.
pub(super) fn shifts(spans: &[SpanNode], tree: &Tree) -> Vec<i64> {
    let mut shifts: Vec<i64> = vec![0; spans.len()];
    for position in 0..spans.len() {
        let Some(above) = tree.parent[position] else { continue };
        let (child, parent) = (&spans[tree.order[position]], &spans[tree.order[above]]);
        shifts[position] = if same_clock(child, parent) { shifts[above] } else { shift(child, parent, shifts[above]) };
    }
    shifts
}

/// Whether two spans were timed by one clock, as far as is known: that of a machine, else that of an instance.
pub(super) fn same_clock(one: &SpanNode, other: &SpanNode) -> bool {
    let same = |one: &str, other: &str| !one.is_empty() && one == other;
    let different = |one: &str, other: &str| !one.is_empty() && !other.is_empty() && one != other;
    let same_process = one.service == other.service && !different(&one.instance, &other.instance);
    same_process || same(&one.host, &other.host)
}

fn shift(child: &SpanNode, parent: &SpanNode, inherited: i64) -> i64 {
    let (own, room) = (Interval::of(child), Interval::of(parent).shifted(inherited));
    if let Some(fitting) = [0, inherited].into_iter().find(|shift| room.holds(own.shifted(*shift))) {
        return fitting;
    }
    let not_before_parent = (room.start - own.start).max(0);
    let spare = room.duration() - own.duration();
    let waited_for = parent.kind == "client" && child.kind == "server";
    // by its own clock and by its parent's
    let after = own.start + inherited.min(0) > room.end;
    if spare < 0 || is_message(child, parent) || after && !waited_for {
        return not_before_parent;
    }
    room.start + spare / 2 - own.start
}
