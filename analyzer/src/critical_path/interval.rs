//! [`Interval`]: a time with a beginning and an end, kept where sums cannot overflow.

use super::SpanNode;

/// The year 2116: what lies outside 1970 to then is cut to it, so that the sum of two times stays within 64 bits.
pub(super) const FARTHEST_NS: i64 = i64::MAX / 2;

/// From and to, nanoseconds; never negative.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Interval {
    pub(super) start: i64,
    pub(super) end: i64,
}

impl Interval {
    pub(super) fn of(span: &SpanNode) -> Self {
        let start = span.start.clamp(0, FARTHEST_NS);
        Self { start, end: span.end.clamp(start, FARTHEST_NS) }
    }

    pub(super) fn shifted(self, by: i64) -> Self {
        Self { start: (self.start + by).clamp(0, FARTHEST_NS), end: (self.end + by).clamp(0, FARTHEST_NS) }
    }

    pub(super) fn duration(self) -> i64 {
        self.end - self.start
    }

    pub(super) fn holds(self, other: Self) -> bool {
        self.start <= other.start && other.end <= self.end
    }

    /// The part of it within another; empty, at the nearer end of that, where they do not meet.
    pub(super) fn within(self, other: Self) -> Self {
        let start = self.start.clamp(other.start, other.end);
        Self { start, end: self.end.clamp(start, other.end) }
    }
}
