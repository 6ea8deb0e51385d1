//! [`Voices`]: of which time all that a service logs is known.
//!
//! Live, records come when their sender sends them, seconds after they were written or in holes. A span that ended after
//! the newest record of its service may yet say more, and one that began before the first was not heard from its
//! beginning: neither says anything by its silence. The records of one instance are taken to come in the order of their
//! times.

use hashbrown::HashMap;
use weir_schema::UnixNanos;

use crate::spans::{Name, Span};

/// Instances of a service that are told apart; further ones are one together.
const MAX_INSTANCES: usize = 32;

/// An instance that is silent for so long beside its siblings has ended, and is not waited for.
const ENDED_NS: i64 = 60_000_000_000;

/// A service that logged nothing for so long begins anew.
const FORGOTTEN_NS: i64 = 3_600_000_000_000;

/// What is known of whom.
#[derive(Debug, Default)]
pub(super) struct Voices {
    of: HashMap<Name, Vec<Voice>, foldhash::fast::RandomState>,
}

/// One instance's records, as far as they have come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Voice {
    /// `None` when the record does not name one that spans know.
    pub(super) instance: Option<Name>,
    pub(super) since: UnixNanos,
    pub(super) until: UnixNanos,
}

impl Voices {
    /// Takes in the oldest and the newest record of an instance among those that came together.
    pub(super) fn heard(&mut self, service: Name, voice: Voice) {
        let of = self.of.entry(service).or_default();
        let known = of.iter().any(|known| known.instance == voice.instance);
        // one place is left for all that have none of their own
        let instance = voice.instance.filter(|_| known || of.len() + 1 < MAX_INSTANCES);
        match of.iter_mut().find(|known| known.instance == instance) {
            Some(known) => known.until = known.until.max(voice.until),
            None => of.push(Voice { instance, ..voice }),
        }
    }

    /// Whether all that a span may have logged has come.
    pub(super) fn know(&self, span: &Span) -> bool {
        let Some(of) = self.of.get(&span.service) else { return false };
        let covers = |voice: &Voice| voice.since <= span.start && span.end() <= voice.until;
        if let Some(own) = of.iter().find(|voice| voice.instance.is_some() && voice.instance == span.instance) {
            return covers(own);
        }
        let newest = of.iter().map(|voice| voice.until).max().unwrap_or(UnixNanos::MIN);
        of.iter().filter(|voice| newest.saturating_sub(voice.until) <= ENDED_NS).all(covers)
    }

    /// Records were lost: what was said until the next ones come is not known.
    pub(super) fn lost(&mut self) {
        self.of.clear();
    }

    pub(super) fn turn(&mut self, now: UnixNanos) {
        self.of.retain(|_, of| {
            of.retain(|voice| now.saturating_sub(voice.until) <= FORGOTTEN_NS);
            !of.is_empty()
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An instance, and its first and newest record in seconds.
    type Heard = (Option<Name>, i64, i64);

    /// What was heard; where a span ran, and from when to when; whether all it said is known.
    type Case<'a> = (&'a [Heard], Option<Name>, (i64, i64), bool);

    const SECOND: i64 = 1_000_000_000;

    fn span(instance: Option<Name>, start: i64, end: i64) -> Span {
        Span { service: 1, instance, start: start * SECOND, duration_ns: (end - start) * SECOND, ..Span::default() }
    }

    fn voices(of: &[Heard]) -> Voices {
        let mut voices = Voices::default();
        for (instance, since, until) in of {
            voices.heard(1, Voice { instance: *instance, since: since * SECOND, until: until * SECOND });
        }
        voices
    }

    #[test]
    fn a_span_is_known_between_the_first_and_the_newest_record_of_where_it_ran() {
        let one = [(None, 10, 20), (None, 21, 30)];
        let two = [(Some(7), 10, 30), (Some(8), 10, 15)];
        let ended = [(Some(7), 10, 100), (Some(8), 10, 15)];
        let cases: [Case; 9] = [
            (&one, None, (10, 30), true),
            (&one, Some(9), (12, 29), true),
            (&one, None, (9, 12), false),
            (&one, None, (29, 31), false),
            (&two, Some(7), (12, 29), true),
            (&two, Some(8), (12, 29), false),
            // which of the two logs of it is not known: neither must be behind
            (&two, None, (12, 29), false),
            (&ended, None, (12, 99), true),
            (&[], None, (12, 29), false),
        ];
        for (of, instance, (start, end), expect) in cases {
            assert_eq!(voices(of).know(&span(instance, start, end)), expect, "{of:?} {instance:?} {start}..{end}");
        }
    }

    #[test]
    fn a_hole_is_not_taken_for_silence_and_a_flood_of_instances_is_bounded() {
        let mut voices = voices(&[(None, 10, 20)]);
        voices.lost();
        voices.heard(1, Voice { instance: None, since: 25 * SECOND, until: 40 * SECOND });
        assert!(!voices.know(&span(None, 12, 19)) && voices.know(&span(None, 26, 30)));
        for instance in 0..10_000 {
            voices.heard(1, Voice { instance: Some(instance), since: 0, until: 50 * SECOND });
        }
        assert!(voices.of[&1].len() <= MAX_INSTANCES);
        voices.turn(50 * SECOND + FORGOTTEN_NS + 1);
        assert!(voices.of.is_empty());
    }
}
