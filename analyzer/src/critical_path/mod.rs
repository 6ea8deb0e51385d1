//! The critical path of a trace: whose time the root's duration is made of, and what a change of one span would do to it.
//!
//! ```text
//! spans ─▶ tree (one forest, no circles) ─▶ clocks (skew) ─▶ waits (who waited for whom) ─┬▶ walk: segments
//!                                                                                        └▶ float: slack, drag
//! ```
//!
//! A span is either at work itself or waits for a child; which of the two is read off the times. **Segments**: walk back from
//! the root's end; the child that ended last before the cursor was waited for, between it and the cursor the span itself
//! worked, and the walk goes on where that child began. They are disjoint and add up exactly to the root's duration.
//!
//! The same reading makes the trace a network of activities: a child begins, and a span ends, a fixed time after the last
//! child that ended before it (the span's own work). On it stand the two numbers of the critical path method:
//! **slack** (total float), by how much a span could have ended later without delaying the root, and **drag**, by how much
//! sooner the root would end if the span took no time. (J. E. Kelley and M. R. Walker, Critical-path planning and scheduling,
//! 1959; S. A. Devaux, The drag efficient, 2012, after Total Project Control, 1999.) Drag is a span's duration or, if that is
//! less, what the next longest way beside it would still take; it is 0 where there is slack.
//!
//! What is assumed, because spans alone do not tell: a span that waits for a child does nothing else meanwhile, and its own
//! work between children would take as long if they were faster. What is undecided stands in [`Undecided`] with the rule that
//! is followed. Everything is O(n log n) in the spans, and nothing recurses, so a trace may be as deep as it likes.

mod clocks;
mod float;
mod interval;
mod tree;
mod undecided;
mod waits;
mod walk;

#[cfg(test)]
mod definition_tests;
#[cfg(test)]
mod tests;

use interval::Interval;
use tree::Tree;
pub use undecided::Undecided;
use waits::Waits;

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
    /// Instance of the service; empty if it is not known.
    pub instance: String,
    /// The machine; empty if it is not known. Spans of one machine have one clock.
    pub host: String,
    /// What was done.
    pub operation: String,
}

/// A piece of the path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Segment {
    /// The span that was at work, by its place among the spans given.
    pub span: usize,
    /// Its id.
    pub span_id: [u8; 8],
    /// From, by the root's clock.
    pub start_unix_nano: i64,
    /// To.
    pub end_unix_nano: i64,
}

/// What the path says of one span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// Start, by the root's clock: as recorded plus `skew_ns`.
    pub start_unix_nano: i64,
    /// End, likewise.
    pub end_unix_nano: i64,
    /// What was added to its times because its clock differs from its caller's; 0 for most.
    pub skew_ns: i64,
    /// Duration without the children that it waited for.
    pub self_time_ns: i64,
    /// Its own segments of the path.
    pub critical_ns: i64,
    /// By how much it could have ended later without delaying the root; `None` if the root does not wait for it at all.
    pub slack_ns: Option<i64>,
    /// By how much sooner the root would end if it, and all below it, took no time.
    pub drag_ns: i64,
    /// What spans alone do not tell about its place in the trace.
    pub undecided: Option<Undecided>,
}

/// The spans of one trace as one forest, on one clock.
#[derive(Debug)]
pub struct Timeline<'a> {
    spans: &'a [SpanNode],
    tree: Tree,
    /// By position in the tree: what is added to a span's times.
    shifts: Vec<i64>,
}

/// The path under one root.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CriticalPath {
    /// In order of time: disjoint, and as long as the root together.
    pub segments: Vec<Segment>,
    /// The spans under the root, parents first; the root is the first.
    pub spans: Vec<OnPath>,
}

/// A span under a root.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OnPath {
    /// Its place among the spans given.
    pub span: usize,
    /// Its parent's place among the spans under the root.
    pub parent: Option<usize>,
    /// Its times.
    pub timing: Timing,
}

impl<'a> Timeline<'a> {
    /// Orders the spans of a trace and sets their clocks by their callers'.
    #[must_use]
    pub fn of(spans: &'a [SpanNode]) -> Self {
        let tree = Tree::of(spans);
        let shifts = clocks::shifts(spans, &tree);
        Self { spans, tree, shifts }
    }

    /// The root that the trace is about: the longest without a parent, else the longest.
    #[must_use]
    pub fn main_root(&self) -> Option<usize> {
        self.tree.main_root(self.spans).map(|position| self.tree.order[position])
    }

    /// Places of the spans in the order of a walk down the forest, each with its depth: children below their parent, by start.
    #[must_use]
    pub fn order(&self) -> Vec<(usize, usize)> {
        self.tree.order.iter().copied().zip(self.tree.depths()).collect()
    }

    /// The topmost spans that are asked for: none lies below another.
    #[must_use]
    pub fn topmost(&self, wanted: impl Fn(&SpanNode) -> bool) -> Vec<usize> {
        let mut found = Vec::new();
        let mut position = 0;
        while let Some(&span) = self.tree.order.get(position) {
            let is_copy = self.tree.mark(position) == Some(Undecided::Duplicate);
            let taken = !is_copy && wanted(&self.spans[span]);
            if taken {
                found.push(span);
            }
            position += if taken { self.tree.size[position] } else { 1 };
        }
        found
    }

    /// How many spans were moved because their clock differs from their caller's.
    #[must_use]
    pub fn skewed(&self) -> usize {
        self.shifts.iter().filter(|shift| **shift != 0).count()
    }

    /// The path under this span as if it were the root.
    #[must_use]
    pub fn path(&self, root: usize) -> CriticalPath {
        let waits = Waits::under(self, self.tree.position(root));
        let floats = float::floats(&waits);
        let segments = walk::segments(self, &waits);
        let mut critical_ns = vec![0; waits.len()];
        for segment in &segments {
            critical_ns[self.tree.position(segment.span) - waits.root] +=
                segment.end_unix_nano - segment.start_unix_nano;
        }
        let on_path = |place: usize| {
            let position = waits.root + place;
            let own = self.interval(position);
            let timing = Timing {
                start_unix_nano: own.start,
                end_unix_nano: own.end,
                skew_ns: self.shifts[position],
                self_time_ns: waits.self_time(place),
                critical_ns: critical_ns[place],
                slack_ns: floats[place].slack,
                drag_ns: floats[place].drag,
                undecided: waits.undecided(place),
            };
            let parent = self.tree.parent[position].filter(|_| place > 0).map(|parent| parent - waits.root);
            OnPath { span: self.tree.order[position], parent, timing }
        };
        CriticalPath { spans: (0..waits.len()).map(on_path).collect(), segments }
    }

    /// The path under the main root, and every span's timing in the order the spans were given. What is not under that root has
    /// neither slack nor drag, and no part of the path.
    #[must_use]
    pub fn whole(&self) -> (Vec<Segment>, Vec<Timing>) {
        let mut timings: Vec<Option<Timing>> = vec![None; self.spans.len()];
        let mut segments = Vec::new();
        let main = self.main_root();
        for root in self.tree.roots() {
            let root = self.tree.order[root];
            let path = self.path(root);
            for OnPath { span, timing, .. } in path.spans {
                let aside = Timing { slack_ns: None, drag_ns: 0, critical_ns: 0, ..timing };
                timings[span] = Some(if Some(root) == main { timing } else { aside });
            }
            if Some(root) == main {
                segments = path.segments;
            }
        }
        let every = timings.into_iter().map(|timing| timing.expect("every span is under one root"));
        (segments, every.collect())
    }

    /// The time of a span by the root's clock.
    fn interval(&self, position: usize) -> Interval {
        Interval::of(self.span(position)).shifted(self.shifts[position])
    }

    fn span(&self, position: usize) -> &SpanNode {
        &self.spans[self.tree.order[position]]
    }
}
