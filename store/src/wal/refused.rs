//! [`Refused`]: which records of the log are not of the store. A group that could not be written is cut
//! from its segment; where the disk refused that too its records may still stand there, although their
//! senders were told to come again. The next segment's opening names them, and they are never replayed.

use std::{collections::BTreeMap, ops::Range};

/// Ranges named at most, each between two groups that were stored: 64 KiB of each opening. Beyond it the oldest are
/// forgotten first, and would be replayed.
const CAPACITY: usize = 4096;

/// Ranges of sequences, apart from each other.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Refused {
    /// First → the one behind the last.
    ranges: BTreeMap<u64, u64>,
}

impl Refused {
    /// Names a range that begins in none of those named before, or is one of them, grown.
    pub(crate) fn add(&mut self, range: Range<u64>) {
        let touched = self.ranges.range_mut(..=range.start).next_back().filter(|(_, end)| **end >= range.start);
        match touched {
            Some((_, end)) => *end = range.end.max(*end),
            None => drop(self.ranges.insert(range.start, range.end)),
        }
        if self.ranges.len() > CAPACITY {
            self.ranges.pop_first();
        }
    }

    /// Whether this record was refused.
    pub(crate) fn has(&self, sequence: u64) -> bool {
        self.ranges.range(..=sequence).next_back().is_some_and(|(_, end)| *end > sequence)
    }

    /// Forgets what lies before the log's first record.
    pub(crate) fn begin_at(&mut self, first_sequence: u64) {
        self.ranges.retain(|_, end| *end > first_sequence);
    }

    /// The ranges, oldest first.
    pub(crate) fn ranges(&self) -> impl ExactSizeIterator<Item = Range<u64>> {
        self.ranges.iter().map(|(first, end)| *first..*end)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(ranges: &[Range<u64>]) -> Refused {
        let mut refused = Refused::default();
        ranges.iter().for_each(|range| refused.add(range.clone()));
        refused
    }

    #[test]
    fn ranges_that_touch_are_one_and_those_said_again_are_not_two() {
        let refused = of(&[3..5, 5..6, 9..12, 3..6, 9..13]);
        assert_eq!(refused.ranges().collect::<Vec<_>>(), [3..6, 9..13]);
        let has: Vec<u64> = (0..15).filter(|sequence| refused.has(*sequence)).collect();
        assert_eq!(has, [3, 4, 5, 9, 10, 11, 12]);
        assert!(!of(&[]).has(1));
    }

    #[test]
    fn what_is_no_longer_in_the_log_is_forgotten_and_so_are_the_oldest_of_too_many() {
        let (mut refused, mut later) = (of(&[3..5, 9..12]), Refused::default());
        later.add(9..12);
        for begin in [5, 11] {
            refused.begin_at(begin);
            assert_eq!(refused, later);
        }
        let many = of(&(0..CAPACITY as u64 + 1).map(|n| 2 * n..2 * n + 1).collect::<Vec<_>>());
        assert_eq!((many.ranges().len(), many.ranges().next()), (CAPACITY, Some(2..3)));
    }
}
