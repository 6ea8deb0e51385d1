//! [`Requests`]: the newest requests of one LM service, and the time of which not all came.
//!
//! While weir is away (a restart) requests come that it never hears of. With whom those beside that time shared a batch is not
//! known, so an estimate rests on one side of it: on what came after once that is enough, before that on the larger side.

use std::{collections::VecDeque, ops::Range};

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use crate::{
    spans::{Name, Span},
    weights::MISSING,
};

/// Requests of one service: enough for a batch of hundreds to turn over several times.
const MAX_REQUESTS: usize = 2_000;

/// Servers are restarted and models changed: what is older says little.
const KEPT_NS: i64 = 1_800_000_000_000;

/// Requests after a time without all of them, from which on those before it are let go: no estimate is called unsure for having no more.
const ENOUGH: usize = 300;

/// One request as its span has it. A checkpoint holds thousands: without the names of the fields they take half.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(from = "Row", into = "Row")]
pub(super) struct Kept {
    pub(super) end: UnixNanos,
    pub(super) arrival: UnixNanos,
    pub(super) first_token: UnixNanos,
    pub(super) input_tokens: u32,
    pub(super) output_tokens: u32,
    pub(super) instance: Option<Name>,
    /// How many it stands for, and whether any were left out.
    weight: u32,
    sampled: bool,
}

type Row = (UnixNanos, UnixNanos, UnixNanos, u32, u32, Option<Name>, u32, bool);

/// The newest of them.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub(super) struct Requests {
    /// In order of ending.
    all: VecDeque<Kept>,
    /// Of these times not all came.
    missed: Option<Range<UnixNanos>>,
}

impl Requests {
    /// Takes in those of a window that ended at `end`; lets go of what is old, or too many.
    pub(super) fn add(&mut self, fresh: &mut Vec<Kept>, end: UnixNanos) {
        // the order spans came in must not matter
        fresh.sort_unstable();
        self.all.extend(fresh.drain(..));
        let old = self.all.iter().take_while(|kept| end - kept.end > KEPT_NS).count();
        self.all.drain(..old.max(self.all.len().saturating_sub(MAX_REQUESTS)));
        if let Some(missed) = self.missed.clone().filter(|missed| self.since(missed.end) >= ENOUGH) {
            self.all.retain(|kept| kept.arrival >= missed.end);
            self.missed = None;
        }
    }

    /// Of this time not all came. Of two such times with requests between them one side is kept.
    pub(super) fn miss(&mut self, time: Range<UnixNanos>) {
        match &mut self.missed {
            Some(missed) if self.all.iter().all(|kept| kept.arrival < missed.end) => {
                missed.end = missed.end.max(time.end);
            }
            _ => {
                self.all = self.whole(time.start).0.into();
                self.missed = Some(time);
            }
        }
    }

    /// Those of a time in which all came, and when it ended; `now` when it goes on.
    pub(super) fn whole(&self, now: UnixNanos) -> (Vec<Kept>, UnixNanos) {
        let Some(missed) = &self.missed else { return (self.all.iter().copied().collect(), now) };
        let before: Vec<Kept> = self.all.iter().filter(|kept| kept.end <= missed.start).copied().collect();
        let after = self.since(missed.end);
        if after < ENOUGH && after < before.len() {
            return (before, missed.start);
        }
        (self.all.iter().filter(|kept| kept.arrival >= missed.end).copied().collect(), now)
    }

    /// Whether some of this time was missed.
    pub(super) fn has_missed(&self, time: &Range<UnixNanos>) -> bool {
        self.missed.as_ref().is_some_and(|missed| missed.start < time.end && time.start < missed.end)
    }

    /// Which share of them is there, in percent, when not nearly all are.
    pub(super) fn sampled(&self) -> Option<u32> {
        let weight = |kept: &Kept| f64::from(kept.weight);
        let all: f64 = self.all.iter().map(weight).sum();
        let of_sampled: f64 = self.all.iter().filter(|kept| kept.sampled).map(weight).sum();
        (of_sampled > MISSING * all).then(|| (100.0 * self.all.len() as f64 / all).round() as u32)
    }

    pub(super) fn all(&self) -> &VecDeque<Kept> {
        &self.all
    }

    /// As a checkpoint brought them: what cannot have been noted is not taken.
    pub(super) fn restored(mut self) -> Self {
        self.all.retain(Kept::is_sound);
        self.all.drain(..self.all.len().saturating_sub(MAX_REQUESTS));
        self
    }

    fn since(&self, time: UnixNanos) -> usize {
        self.all.iter().filter(|kept| kept.arrival >= time).count()
    }
}

impl Kept {
    /// `None` without a time to the first token.
    pub(super) fn of(span: &Span) -> Option<Self> {
        let arrival = span.start + span.queue_wait_ns.or_zero();
        let end = span.end().max(arrival);
        Some(Self {
            end,
            arrival,
            first_token: (span.start + span.first_token_ns.get()?).clamp(arrival, end),
            input_tokens: u32::try_from(span.input_tokens).unwrap_or(0),
            output_tokens: u32::try_from(span.output_tokens).unwrap_or(u32::MAX),
            instance: span.instance,
            weight: span.weight,
            sampled: span.sampled,
        })
    }

    fn is_sound(&self) -> bool {
        let in_order = 0 <= self.arrival && self.arrival <= self.first_token && self.first_token <= self.end;
        in_order && is_sound(self.end) && self.weight > 0
    }
}

/// Whether a time is one: no sum of such times overflows.
pub(super) fn is_sound(time: UnixNanos) -> bool {
    (0..=UnixNanos::MAX / 4).contains(&time)
}

impl From<Row> for Kept {
    fn from((end, arrival, first_token, input_tokens, output_tokens, instance, weight, sampled): Row) -> Self {
        Self { end, arrival, first_token, input_tokens, output_tokens, instance, weight, sampled }
    }
}

impl From<Kept> for Row {
    fn from(kept: Kept) -> Self {
        let Kept { end, arrival, first_token, input_tokens, output_tokens, instance, weight, sampled } = kept;
        (end, arrival, first_token, input_tokens, output_tokens, instance, weight, sampled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000_000;

    /// One a second that takes one, from and until so many seconds.
    fn requests(requests: &mut Requests, seconds: Range<i64>) {
        let kept = |at: i64| Kept {
            end: (at + 1) * SECOND,
            arrival: at * SECOND,
            first_token: at * SECOND,
            weight: 1,
            ..Kept::default()
        };
        requests.add(&mut seconds.clone().map(kept).collect(), seconds.end * SECOND);
    }

    /// The first and last arrival, and until when all came.
    fn whole(requests: &Requests, now: i64) -> (i64, i64, i64) {
        let (whole, until) = requests.whole(now * SECOND);
        (whole[0].arrival / SECOND, whole[whole.len() - 1].arrival / SECOND, until / SECOND)
    }

    #[test]
    fn an_estimate_rests_on_one_side_of_what_was_missed() {
        let mut seen = Requests::default();
        requests(&mut seen, 0..200);
        assert_eq!(whole(&seen, 200), (0, 199, 200));
        seen.miss(205 * SECOND..210 * SECOND);
        seen.miss(220 * SECOND..230 * SECOND);
        assert_eq!(whole(&seen, 300), (0, 199, 205), "nothing came after it yet");
        requests(&mut seen, 231..330);
        assert_eq!(whole(&seen, 330), (0, 199, 205), "a hundred are fewer than before");
        assert!(seen.has_missed(&(200 * SECOND..206 * SECOND)) && !seen.has_missed(&(230 * SECOND..240 * SECOND)));
        requests(&mut seen, 330..432);
        assert_eq!(whole(&seen, 432), (231, 431, 432), "as many as before");
        requests(&mut seen, 432..600);
        assert_eq!((whole(&seen, 600), seen.all.len()), ((231, 599, 600), 369), "those before it are gone");
        requests(&mut seen, 600..700);
        seen.miss(700 * SECOND..800 * SECOND);
        requests(&mut seen, 800..900);
        seen.miss(900 * SECOND..950 * SECOND);
        assert_eq!(whole(&seen, 950), (231, 699, 900), "one side of two such times");
    }

    #[test]
    fn what_cannot_have_been_noted_is_not_taken() {
        let mut seen = Requests::default();
        requests(&mut seen, 0..10);
        let mut bytes = Vec::new();
        ciborium::into_writer(&seen, &mut bytes).unwrap();
        assert!(bytes.len() < 10 * 45, "{} bytes of ten requests", bytes.len());
        let read: Requests = ciborium::from_reader(&bytes[..]).unwrap();
        assert_eq!(read.restored(), seen);
        let odd = Kept { end: i64::MIN, arrival: i64::MAX, weight: 1, ..Kept::default() };
        seen.all.extend([odd; 3_000]);
        assert_eq!(seen.restored().all.len(), 10);
    }
}
