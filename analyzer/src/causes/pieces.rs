//! [`together`]: what the pieces of a long range say, as one ranking: a range may hold more than one incident, and one incident many pieces.
//!
//! Every suspicious piece speaks. Causes are put together by service and kind: what is lost adds up, the surest piece says the rest. A kind
//! of which no piece is sure is no cause of its own beside another of the same service. Where no piece is suspicious the surest speaks
//! alone.

use std::{
    collections::{BTreeMap, HashMap},
    ops::Range,
};

use weir_schema::UnixNanos;

use super::{
    SUSPICIOUS,
    incident::{Stretch, Verdict},
    ranking::{Cause, LISTED, Ranking},
};

/// One piece of a range.
pub(super) struct Piece {
    pub(super) ranking: Ranking,
    pub(super) time: Range<UnixNanos>,
}

/// A cause over pieces.
struct Merged {
    /// As the surest piece says it, with what all lost.
    cause: Cause,
    onset: UnixNanos,
    /// Milliseconds that rest on harmless lines.
    harmless_ms: f64,
    /// The pieces that blame it, by their start: how long each is, and its requests.
    pieces: BTreeMap<UnixNanos, (i64, u64)>,
}

pub(super) fn together(pieces: Vec<Piece>) -> Verdict {
    let speaking = speaking(pieces);
    let requests = speaking.iter().map(|piece| piece.ranking.requests).sum();
    let history_windows = speaking.iter().map(|piece| piece.ranking.history_windows).max().unwrap_or(0);
    let mut causes = by_cause(speaking);
    for Merged { cause, harmless_ms, .. } in &mut causes {
        cause.harmless = *harmless_ms / cause.lost_ms.max(f64::EPSILON);
    }
    causes.sort_by(|a, b| b.cause.confidence.total_cmp(&a.cause.confidence));
    causes.truncate(LISTED);
    let (causes, stretches) = causes.into_iter().map(Merged::told).unzip();
    let ranking = Ranking { causes, requests, history_windows, ..Ranking::default() };
    Verdict { ranking, stretches, ..Verdict::default() }
}

/// Those that are suspicious, or the surest.
fn speaking(mut pieces: Vec<Piece>) -> Vec<Piece> {
    if pieces.iter().any(|piece| piece.ranking.is_suspicious()) {
        pieces.retain(|piece| piece.ranking.is_suspicious());
        return pieces;
    }
    let sure = |piece: &Piece| piece.ranking.causes.first().map_or(-1.0, |cause| cause.confidence);
    let surest = pieces.into_iter().reduce(|best, next| if sure(&next) > sure(&best) { next } else { best });
    surest.into_iter().collect()
}

fn by_cause(pieces: Vec<Piece>) -> Vec<Merged> {
    let mut causes: Vec<Merged> = Vec::new();
    for Piece { ranking, time } in pieces {
        let requests = ranking.requests as u64;
        for cause in ranking.causes {
            let is_same = |known: &&mut Merged| known.cause.service == cause.service && known.cause.kind == cause.kind;
            match causes.iter_mut().find(is_same) {
                Some(known) => known.add(cause, &time, requests),
                None => causes.push(Merged::of(cause, &time, requests)),
            }
        }
    }
    let mut surest: HashMap<String, f64> = HashMap::new();
    for Merged { cause, .. } in &causes {
        let of_service = surest.entry(cause.service.clone()).or_default();
        *of_service = of_service.max(cause.confidence);
    }
    let is_sure = |merged: &Merged| {
        let Cause { confidence, service, .. } = &merged.cause;
        *confidence >= SUSPICIOUS || *confidence >= surest[service]
    };
    let (mut sure, unsure): (Vec<_>, Vec<_>) = causes.into_iter().partition(is_sure);
    for unsure in unsure {
        let of_service = sure.iter_mut().filter(|merged| merged.cause.service == unsure.cause.service);
        let known = of_service.max_by(|a, b| a.cause.confidence.total_cmp(&b.cause.confidence));
        known.into_iter().for_each(|known| known.lost(&unsure));
    }
    sure
}

impl Merged {
    fn of(cause: Cause, time: &Range<UnixNanos>, requests: u64) -> Self {
        let pieces = [(time.start, (time.end - time.start, requests))].into();
        Self { onset: time.start, harmless_ms: cause.harmless * cause.lost_ms, cause, pieces }
    }

    fn told(self) -> (Cause, Stretch) {
        let (length_ns, requests) =
            self.pieces.values().fold((0, 0), |(ns, requests), (length, of)| (ns + length, requests + of));
        (self.cause, Stretch { onset: self.onset, length_ns, requests })
    }

    /// Takes in what a later piece says.
    fn add(&mut self, cause: Cause, time: &Range<UnixNanos>, requests: u64) {
        // a piece that was not sure of it says nothing of when it began
        if self.cause.confidence < SUSPICIOUS && cause.confidence >= SUSPICIOUS {
            self.onset = time.start;
        }
        let mut other = Self::of(cause, time, requests);
        if other.cause.confidence > self.cause.confidence {
            std::mem::swap(&mut self.cause, &mut other.cause);
            std::mem::swap(&mut self.harmless_ms, &mut other.harmless_ms);
        }
        self.lost(&other);
    }

    fn lost(&mut self, other: &Self) {
        self.cause.lost_ms += other.cause.lost_ms;
        self.harmless_ms += other.harmless_ms;
        self.pieces.extend(&other.pieces);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::causes::CauseKind;

    fn cause(service: &str, kind: CauseKind, lost_ms: f64, confidence: f64) -> Cause {
        Cause {
            service: service.into(),
            operation: None,
            instance: None,
            kind,
            lost_ms,
            share: 1.0,
            connected: 0,
            confidence,
            harmless: 0.0,
            evidence: Vec::new(),
        }
    }

    fn piece(start: i64, causes: Vec<Cause>) -> Piece {
        let ranking = Ranking { causes, requests: 100, history_windows: 9, ..Ranking::default() };
        Piece { ranking, time: start..start + 150 }
    }

    #[test]
    fn every_incident_of_a_range_is_said_and_each_once() {
        use CauseKind::{ChangedCalls, SlowNetwork, SlowService};
        let verdict = together(vec![
            piece(0, vec![cause("cart", SlowService, 9.0, 0.3)]),
            piece(150, vec![cause("cart", SlowService, 400.0, 0.8), cause("mail", SlowNetwork, 1.0, 0.01)]),
            piece(300, vec![cause("cart", SlowService, 500.0, 0.9), cause("cart", ChangedCalls, 7.0, 0.1)]),
            piece(600, vec![cause("order", ChangedCalls, 90.0, 0.95), cause("cart", SlowService, 2.0, 0.02)]),
        ]);
        let said: Vec<_> = verdict.ranking.causes.iter().map(|c| (c.service.as_str(), c.kind, c.lost_ms)).collect();
        assert_eq!(
            said,
            [("order", ChangedCalls, 90.0), ("cart", SlowService, 909.0), ("mail", SlowNetwork, 1.0)],
            "the calm piece says nothing, and what is unsure of a service is not said twice"
        );
        let stretches: Vec<_> = verdict.stretches.iter().map(|s| (s.onset, s.length_ns, s.requests)).collect();
        assert_eq!(stretches, [(600, 150, 100), (150, 450, 300), (150, 150, 100)], "each of its own pieces");
        assert_eq!(verdict.ranking.requests, 300);
        assert_eq!(verdict.ranking.causes[1].confidence, 0.9);
    }

    #[test]
    fn where_nothing_is_suspicious_the_surest_piece_speaks() {
        let slow = |sure| vec![cause("cart", CauseKind::SlowService, 10.0, sure)];
        let verdict = together(vec![piece(0, slow(0.1)), piece(150, slow(0.4)), piece(300, slow(0.2))]);
        assert_eq!((verdict.stretches[0].onset, verdict.ranking.requests), (150, 100));
        assert!(together(Vec::new()).ranking.causes.is_empty());
    }
}
