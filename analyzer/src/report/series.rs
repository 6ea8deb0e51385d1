//! [`Series`]: what a window says of one thing, over many windows, in bounded memory.

use crate::view::middle_of;

/// Values that are kept: 4 KB.
pub(super) const MAX_VALUES: usize = 512;

/// Values by window. Up to [`MAX_VALUES`] all; of more every second is kept, of twice as many every fourth, and so on, so that
/// they are spread evenly over the whole time.
#[derive(Clone, Debug, Default)]
pub(super) struct Series {
    values: Vec<f64>,
    seen: u64,
}

impl Series {
    /// Takes in what a window says, if it does.
    pub(super) fn add(&mut self, value: impl Into<Option<f64>>) {
        let Some(value) = value.into() else { return };
        if self.seen.is_multiple_of(every(self.seen + 1)) {
            if self.values.len() == MAX_VALUES {
                let mut place = 0;
                self.values.retain(|_| {
                    place += 1;
                    place % 2 == 1
                });
            }
            self.values.push(value);
        }
        self.seen += 1;
    }

    /// The median.
    pub(super) fn middle(&self) -> Option<f64> {
        middle_of(&self.values)
    }
}

/// Which of so many values are kept: every so many-th.
pub(super) fn every(seen: u64) -> u64 {
    seen.div_ceil(MAX_VALUES as u64).max(1).next_power_of_two()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn few_values_are_all_kept_and_many_are_spread_evenly() {
        for (count, kept_every) in [(1_u32, 1_u64), (512, 1), (513, 2), (1_024, 2), (1_025, 4), (100_000, 256)] {
            let mut series = Series::default();
            (0..count).for_each(|value| series.add(f64::from(value)));
            let expected: Vec<f64> = (0..count).step_by(kept_every as usize).map(f64::from).collect();
            assert_eq!((series.values, every(u64::from(count))), (expected, kept_every), "of {count}");
        }
    }

    #[test]
    fn what_a_window_does_not_say_does_not_count() {
        let mut series = Series::default();
        assert_eq!(series.middle(), None);
        [Some(3.0), None, Some(1.0), Some(2.0)].into_iter().for_each(|value| series.add(value));
        assert_eq!(series.middle(), Some(2.0));
    }
}
