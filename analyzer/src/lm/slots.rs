//! [`candidates`]: what may keep requests out of the batch, from what ran while somebody waited.
//!
//! Where a prompt waits although none is before it, the batch is full: the number of sequences then is the number of
//! slots, or, where memory for keys and values is what is short (W. Kwon et al., SOSP 2023), their tokens are as many as
//! fit. Which of the two it is, if either, a replay decides ([`super::fit`]).
//!
//! Where steps go first prompts wait for them as well. Such a wait ends after some steps, one for a place only when a sequence does:
//! of servers of that kind who waits counts once no number of steps explains it.

use super::{overlap::Timeline, recent::LmRequest, server::Slots};

/// Share of the time in which a second prompt must wait, or nothing is said of slots.
const MIN_WAITING: f64 = 0.02;

/// Limits worth a replay, of a server that holds prompts back for so long in any case; [`Slots::Unlimited`] is always one.
pub(crate) fn candidates(
    requests: &[LmRequest],
    timelines: &[Timeline],
    known: (f64, f64),
    held_ms: f64,
) -> Vec<Slots> {
    let mut found = vec![Slots::Unlimited];
    let Some(full) = Full::of(requests, known, held_ms) else { return found };
    found.push(Slots::Sequences(full.usual));
    let most = most_sequences(timelines) as u32;
    if most != full.usual {
        found.push(Slots::Sequences(most));
    }
    found.push(Slots::Tokens(full.tokens));
    found
}

/// Sequences that ran at once at one replica, at most.
pub(crate) fn most_sequences(timelines: &[Timeline]) -> f64 {
    timelines.iter().flat_map(Timeline::stretches).map(|(_, _, batch)| batch).fold(1.0, f64::max)
}

/// What ran while at least two prompts waited.
struct Full {
    /// Sequences, most of that time.
    usual: u32,
    /// Tokens, in the upper part of it.
    tokens: f64,
}

impl Full {
    fn of(requests: &[LmRequest], known: (f64, f64), held_ms: f64) -> Option<Self> {
        let replicas = requests.iter().map(|r| r.replica + 1).max()?;
        let mut stretches: Vec<(f64, f64, f64)> = Vec::new();
        for replica in 0..replicas {
            stretches.extend(waited(requests.iter().filter(|r| r.replica == replica), known, held_ms));
        }
        let waited: f64 = stretches.iter().map(|(ms, ..)| ms).sum();
        if waited < MIN_WAITING * (known.1 - known.0) * f64::from(replicas) {
            return None;
        }
        let mut by_sequences = std::collections::BTreeMap::<u32, f64>::new();
        stretches.iter().for_each(|(ms, running, _)| *by_sequences.entry(*running as u32).or_default() += ms);
        let usual = by_sequences.into_iter().max_by(|a, b| a.1.total_cmp(&b.1)).map(|(running, _)| running)?;
        stretches.sort_by(|a, b| a.2.total_cmp(&b.2));
        let mut left = 0.9 * waited;
        let at = stretches.iter().position(|(ms, ..)| {
            left -= ms;
            left <= 0.0
        });
        Some(Self { usual: usual.max(1), tokens: stretches[at.unwrap_or(0)].2 })
    }
}

/// Stretches in which two prompts or more wait longer than they are held: length, sequences, tokens they keep.
fn waited<'a>(requests: impl Iterator<Item = &'a LmRequest>, known: (f64, f64), held_ms: f64) -> Vec<(f64, f64, f64)> {
    let mut changes: Vec<(f64, [f64; 3])> = Vec::new();
    for request in requests {
        let kept = request.input_tokens + request.output_tokens / 2.0;
        changes.push(((request.arrival_ms + held_ms).min(request.first_token_ms), [1.0, 0.0, 0.0]));
        changes.push((request.first_token_ms, [-1.0, 1.0, kept]));
        changes.push((request.end_ms, [0.0, -1.0, -kept]));
    }
    changes.sort_by(|a, b| a.0.total_cmp(&b.0));
    let mut now = [0.0; 3];
    let mut stretches = Vec::new();
    for pair in changes.windows(2) {
        now.iter_mut().zip(pair[0].1).for_each(|(now, change)| *now += change);
        let (from, to) = (pair[0].0.max(known.0), pair[1].0.min(known.1));
        if now[0] >= 2.0 && to > from {
            stretches.push((to - from, now[1], now[2]));
        }
    }
    stretches
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_waits_no_longer_than_steps_hold_prompts_waits_for_no_slot() {
        // every second four come at once and wait together, each batch for so long
        let requests = |wait_ms: f64| -> Vec<LmRequest> {
            let request = |n: u32| {
                let arrival_ms = f64::from(n / 4) * 1_000.0;
                let first_token_ms = arrival_ms + wait_ms;
                let end_ms = first_token_ms + 3_000.0;
                LmRequest { arrival_ms, first_token_ms, end_ms, input_tokens: 100.0, output_tokens: 50.0, replica: 0 }
            };
            (0..400).map(request).collect()
        };
        for (wait_ms, held_ms, is_limit) in [(300.0, 0.0, true), (300.0, 400.0, false), (900.0, 400.0, true)] {
            let requests = requests(wait_ms);
            let timelines = super::super::overlap::timelines(&requests);
            let found = candidates(&requests, &timelines, (5_000.0, 90_000.0), held_ms);
            assert_eq!(found.len() > 1, is_limit, "{wait_ms} {held_ms}: {found:?}");
        }
    }
}
