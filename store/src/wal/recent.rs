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
    by_hash: HashMap<u128, (u64, UnixNanos)>,
    order: VecDeque<(u128, UnixNanos)>,
}

impl Recent {
    /// The place of an equal request received within ten minutes of this one.
    pub(crate) fn find(&self, hash: u128, received: UnixNanos) -> Option<u64> {
        let (place, at) = self.by_hash.get(&hash)?;
        (received.saturating_sub(*at) <= REMEMBERED_NS).then_some(*place)
    }

    /// Remembers a request and forgets those that are too old.
    pub(crate) fn insert(&mut self, hash: u128, sequence: u64, received: UnixNanos) {
        if self.by_hash.insert(hash, (sequence, received)).is_some() {
            self.order.retain(|(other, _)| *other != hash);
        }
        self.order.push_back((hash, received));
        while let Some((oldest, at)) = self.order.front().copied() {
            if self.order.len() <= CAPACITY && at >= received.saturating_sub(REMEMBERED_NS) {
                break;
            }
            self.order.pop_front();
            self.by_hash.remove(&oldest);
        }
    }

    /// Takes back what a failed group inserted: it is among the newest, so it is looked for from there.
    pub(crate) fn remove(&mut self, hash: u128) {
        if self.by_hash.remove(&hash).is_some()
            && let Some(place) = self.order.iter().rposition(|(other, _)| *other == hash)
        {
            self.order.remove(place);
        }
    }

    /// Requests whose records stand before a place in the log, oldest first.
    pub(crate) fn entries_before(&self, sequence: u64) -> Vec<(u128, UnixNanos)> {
        let before = |hash: &u128| self.by_hash.get(hash).is_some_and(|(place, _)| *place < sequence);
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
        let find = |recent: &Recent, hash| recent.find(hash, REMEMBERED_NS);
        assert_eq!((find(&recent, 1), find(&recent, 2)), (Some(10), Some(11)));
        assert_eq!(recent.find(1, REMEMBERED_NS + 1), None, "nothing came since, but it is too long ago");
        recent.insert(3, 12, REMEMBERED_NS + 1);
        assert_eq!((find(&recent, 1), find(&recent, 2)), (None, Some(11)));
        recent.insert(2, 13, REMEMBERED_NS + 2);
        assert_eq!(recent.find(2, 2 * REMEMBERED_NS + 2), Some(13));
    }

    #[test]
    fn what_a_failed_group_inserted_is_taken_back_and_nothing_else() {
        let mut recent = Recent::default();
        (0..5).for_each(|n| recent.insert(u128::from(n), n, 0));
        [3, 4, 9].into_iter().for_each(|hash| recent.remove(hash));
        assert_eq!(recent.entries_before(100), [(0, 0), (1, 0), (2, 0)]);
        assert_eq!((recent.find(2, 0), recent.find(3, 0)), (Some(2), None));
    }
}
