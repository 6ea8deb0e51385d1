//! [`some_of`]: of very many requests the share that is ranked.

use std::hash::{BuildHasher, Hasher};

use foldhash::quality::FixedState;

use crate::spans::Span;

/// Spans that are ranked together about at most: of more requests a share is, chosen by their trace ids. Medians and
/// shares of so many are as good, and the cost of a window is bounded.
pub(super) const RANKED_SPANS: usize = 20_000;

/// Another share than [`Traces`](super::super::traces::Traces) keeps.
const SHARE_SEED: u64 = 1;

/// Requests of about [`RANKED_SPANS`], and for how many spans each of theirs stands.
pub(super) fn some_of(requests: &[Vec<Span>], spans: usize) -> (Vec<&[Span]>, f64) {
    let all = requests.iter().map(Vec::as_slice);
    if spans <= RANKED_SPANS {
        return (all.collect(), 1.0);
    }
    let most = (u64::MAX as f64 * RANKED_SPANS as f64 / spans as f64) as u64;
    let some: Vec<&[Span]> =
        all.filter(|request| request.first().is_some_and(|span| hashed(span.trace) <= most)).collect();
    let kept: usize = some.iter().map(|request| request.len()).sum();
    (some, spans as f64 / kept.max(1) as f64)
}

/// The same for a trace wherever and whenever it is asked.
fn hashed(trace: u128) -> u64 {
    let mut hasher = FixedState::with_seed(SHARE_SEED).build_hasher();
    hasher.write_u128(trace);
    hasher.finish()
}
