//! [`Hours`]: what a value was over the last day, beside its last minutes: what grows slowly is usual to the minutes, and not to the day.
//!
//! Each five minutes what was usual then is a piece, and of each twelve pieces the middle one is an hour. 24 pieces and 24 hours are
//! kept: 48 samples, 1.2 KB a key, of the time in which nothing was wrong. From half a day on the hours are what a window is compared
//! with; before that the older half of the pieces, which is an hour old once there are two.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{
    history::Learnt,
    usual::{Sample, Usual},
};

/// As long as the minutes look back: the next piece shares nothing with the last.
const PIECE_NS: i64 = 300_000_000_000;

/// Pieces of an hour, and how many are kept.
const OF_HOUR: usize = 12;
const PIECES: usize = 2 * OF_HOUR;

/// Hours of a day.
const HOURS: usize = 24;

/// Hours that tell how much hours differ: the same number of windows less would make the budget's threshold far higher.
const ENOUGH_HOURS: usize = 12;

/// A day of one value.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Hours {
    hours: VecDeque<Sample>,
    pieces: VecDeque<Sample>,
    /// Pieces since the last hour.
    since_hour: usize,
    /// When the last piece was taken.
    at: UnixNanos,
}

impl Learnt for Hours {
    fn learnt_from(&self) -> u64 {
        self.hours.iter().chain(&self.pieces).map(|sample| u64::from(sample.requests)).sum()
    }
}

impl Hours {
    /// Whether the next piece is to be taken.
    pub(super) fn is_due(&self, at: UnixNanos) -> bool {
        at.abs_diff(self.at) >= PIECE_NS.unsigned_abs()
    }

    /// Takes in what is usual at a time, if it is due.
    pub(super) fn follow(&mut self, usual: Option<Usual>, at: UnixNanos) {
        let Some(usual) = usual.filter(|_| self.is_due(at)) else { return };
        self.at = at;
        kept(&mut self.pieces, usual.sample(), PIECES);
        self.since_hour += 1;
        if self.since_hour == OF_HOUR {
            self.since_hour = 0;
            let mut hour: Vec<Sample> = self.pieces.iter().rev().take(OF_HOUR).copied().collect();
            hour.sort_by(|a, b| a.median.total_cmp(&b.median));
            kept(&mut self.hours, hour[OF_HOUR / 2], HOURS);
        }
    }

    /// What it usually was; `None` while the older half of the pieces are fewer than `least`.
    pub(super) fn usual(&self, least: usize) -> Option<Usual> {
        if self.hours.len() >= ENOUGH_HOURS {
            return Usual::among(self.hours.iter());
        }
        let older = self.pieces.iter().take(self.pieces.len() / 2);
        (older.len() >= least).then(|| Usual::among(older)).flatten()
    }
}

/// Adds one to the newest of so many.
fn kept(samples: &mut VecDeque<Sample>, sample: Sample, most: usize) {
    samples.push_back(sample);
    if samples.len() > most {
        samples.pop_front();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::findings::usual::Ring;

    /// Five minutes after five minutes of so much.
    fn hours(values: impl Iterator<Item = f64>) -> Hours {
        let mut hours = Hours::default();
        for (five, median) in (1..).zip(values) {
            let mut ring = Ring::default();
            (0..30).for_each(|_| ring.push(Sample { median, spread: 0.1 * median, requests: 100 }));
            // each window asks; it takes one in five minutes
            (0..30).for_each(|window| hours.follow(Usual::of(&ring), (five * 30 + window) * 10_000_000_000));
        }
        hours
    }

    #[test]
    fn a_day_is_kept_and_no_more() {
        let day = hours((0..40 * 12).map(|five| f64::from(five / 12)));
        assert_eq!((day.hours.len(), day.pieces.len()), (24, 24));
        assert_eq!(day.usual(4).unwrap().median, 27.5, "the hours 16 to 39");
    }

    #[test]
    fn before_half_a_day_the_older_half_of_two_hours_speaks() {
        assert!(hours((0..7).map(|_| 20.0)).usual(4).is_none());
        let grows = hours([20.0, 20.0, 20.0, 20.0, 40.0, 60.0, 80.0, 100.0].into_iter());
        assert_eq!(grows.usual(4).unwrap().median, 20.0);
        let hour_ago = hours((0..36).map(|five| if five < 24 { 20.0 } else { 50.0 }));
        assert_eq!(hour_ago.usual(4).unwrap().median, 20.0);
    }
}
