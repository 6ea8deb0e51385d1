//! Requests of the last ten minutes by hash, so that a retry is stored once, also across a restart.

use std::collections::{HashMap, VecDeque};

use weir_schema::UnixNanos;

/// How long a request is remembered: OpenTelemetry's exporters give up after five minutes.
const REMEMBERED_NS: i64 = 10 * 60 * 1_000_000_000;

/// Requests remembered at most: 48 MiB; beyond it the oldest are forgotten first.
const CAPACITY: usize = 1 << 20;

/// Hash → place in the log, oldest first.
#[derive(Debug, Default)]
pub(crate) struct Recent {
    by_hash: HashMap<u128, u64>,
    order: VecDeque<(u128, UnixNanos)>,
}

impl Recent {
    /// The place of an equal request, if one is remembered.
    pub(crate) fn find(&self, hash: u128) -> Option<u64> {
        self.by_hash.get(&hash).copied()
    }

    /// Remembers a request and forgets those that are too old.
    pub(crate) fn insert(&mut self, hash: u128, sequence: u64, received: UnixNanos) {
        if self.by_hash.insert(hash, sequence).is_none() {
            self.order.push_back((hash, received));
        }
        while let Some((oldest, at)) = self.order.front().copied() {
            if self.order.len() <= CAPACITY && at >= received.saturating_sub(REMEMBERED_NS) {
                break;
            }
            self.order.pop_front();
            self.by_hash.remove(&oldest);
        }
    }

    /// Takes back what a failed group inserted.
    pub(crate) fn remove(&mut self, hash: u128) {
        if self.by_hash.remove(&hash).is_some() {
            self.order.retain(|(other, _)| *other != hash);
        }
    }

    /// Requests whose records stand before a place in the log, oldest first.
    pub(crate) fn entries_before(&self, sequence: u64) -> Vec<(u128, UnixNanos)> {
        let before = |hash: &u128| self.by_hash.get(hash).is_some_and(|place| *place < sequence);
        self.order.iter().filter(|(hash, _)| before(hash)).copied().collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_request_is_remembered_for_ten_minutes() {
        let mut recent = Recent::default();
        recent.insert(1, 10, 0);
        recent.insert(2, 11, REMEMBERED_NS);
        assert_eq!((recent.find(1), recent.find(2)), (Some(10), Some(11)));
        recent.insert(3, 12, REMEMBERED_NS + 1);
        assert_eq!((recent.find(1), recent.find(2)), (None, Some(11)));
    }
}
