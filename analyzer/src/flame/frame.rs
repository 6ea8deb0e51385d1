//! [`FramePath`]: one way down from the root, and what it is of the requests' time; and what adds up to it.

use std::{
    hash::{BuildHasher, Hasher},
    sync::Arc,
};

use foldhash::quality::FixedState;
use serde::Serialize;

/// The parent's place, service, operation.
pub(super) type Key = (Option<usize>, Arc<str>, Arc<str>);

#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) key: Key,
    pub(super) depth: usize,
    /// The request that was last seen here.
    pub(super) request: u64,
    pub(super) sums: Sums,
}

/// What adds up.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Sums {
    pub(super) requests: u64,
    pub(super) total_ns: i64,
    pub(super) self_ns: i64,
    pub(super) other_ns: i64,
    pub(super) undecided_ns: i64,
    pub(super) drag_ns: i64,
}

/// A way down from the root, and what it is of the requests' time.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct FramePath {
    /// 16 hex digits that are the same for the same way.
    pub id: String,
    /// Place of the frame above in the list; none of a root.
    pub parent: Option<usize>,
    /// Levels below the root.
    pub depth: usize,
    /// Service of the last step.
    pub service: String,
    /// Operation of the last step.
    pub operation: String,
    /// In how many requests it is on the critical path.
    pub requests: u64,
    /// Time on the critical path, here and below.
    pub total_ns: i64,
    /// Time on the critical path here.
    pub self_ns: i64,
    /// The part of `total_ns` below it that has no frame of its own.
    pub other_ns: i64,
    /// The part of `total_ns` of which spans alone do not tell whether it was waited for.
    pub undecided_ns: i64,
    /// `total_ns` of all requests' durations.
    pub share: f64,
    /// By how much sooner a request with it would end if it took no time: the drags of its spans, added, a request.
    pub mean_drag_ns: i64,
}

impl Frame {
    pub(super) fn path(&self, above: &str, parent: Option<usize>, root_ns: i64) -> FramePath {
        let (_, service, operation) = &self.key;
        let mut hasher = FixedState::default().build_hasher();
        [above, service, operation].iter().for_each(|part| {
            hasher.write(part.as_bytes());
            // the ends of the parts count: ("a", "bc") is not ("ab", "c")
            hasher.write_usize(part.len());
        });
        let Sums { requests, total_ns, self_ns, other_ns, undecided_ns, drag_ns } = self.sums;
        FramePath {
            id: format!("{:016x}", hasher.finish()),
            parent,
            depth: self.depth,
            service: service.to_string(),
            operation: operation.to_string(),
            requests,
            total_ns,
            self_ns,
            other_ns,
            undecided_ns,
            share: if root_ns > 0 { total_ns as f64 / root_ns as f64 } else { 0.0 },
            mean_drag_ns: drag_ns / i64::try_from(requests).unwrap_or(i64::MAX).max(1),
        }
    }
}

impl Sums {
    pub(super) fn add(&mut self, other: &Self) {
        self.requests += other.requests;
        self.total_ns += other.total_ns;
        self.self_ns += other.self_ns;
        self.other_ns += other.other_ns;
        self.undecided_ns += other.undecided_ns;
        self.drag_ns += other.drag_ns;
    }
}
