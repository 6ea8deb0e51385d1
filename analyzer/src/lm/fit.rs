//! [`estimate`]: the server behind the requests of one LM service.
//!
//! 1. Lines: prefill from times to first token, the step from whole streams.
//! 2. Servers with these lines that share the machine in different ways, with different limits, are replayed.
//! 3. The best are refined ([`super::search`]).
//!
//! About 300 replays; see `compare/lm` for what they cost and how near they come.

use std::sync::Arc;

use super::{
    decode,
    engine::Arrival,
    overlap, predict, prefill,
    recent::LmRequest,
    regression::Fit,
    replay::{Replay, Statistics},
    search::{Limits, candidates, longest_hold_ms, search},
    server::LmServer,
    slots,
};

/// Compared requests below which nothing is said.
const MIN_REQUESTS: usize = 100;

/// What is known of an LM service.
#[derive(Clone, Debug, PartialEq)]
pub struct LmEstimate {
    /// The server.
    pub server: LmServer,
    /// The line of prompts, before the replay: how well it fits.
    pub(crate) prefill: Fit,
    /// The line of steps.
    pub(crate) decode: Fit,
    /// Requests compared.
    pub samples: u64,
    /// The largest of the errors of mean, median and 95th percentile of both times, when the past is replayed.
    pub replay_error: f64,
    /// Probability that a prediction near this load is within 9 %.
    pub confidence: f64,
    /// Sequences that ran at once at one replica, at most.
    pub most_sequences: f64,
    /// Output tokens a second with every slot taken, and requests of the present mix a second.
    pub capacity_tokens_per_s: f64,
    /// The latter.
    pub capacity_requests_per_s: f64,
    /// What was seen of the requests that were compared.
    pub(crate) seen: Statistics,
    /// The arrivals a prediction is fed with.
    pub recent: Arc<[Arrival]>,
    /// Requests of `recent` before this one only fill the server.
    pub settled: usize,
}

/// Why nothing is said.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum LmUnidentifiable {
    /// It takes some.
    #[error("{seen} streamed requests seen whole; it takes {MIN_REQUESTS}")]
    TooFew {
        /// There were so many.
        seen: usize,
    },
    /// Others ran in the same batches.
    #[error(
        "sampled: the spans of {percent} % of its requests are there, and with whom they shared a batch is not seen"
    )]
    Sampled {
        /// So many of a hundred.
        percent: u32,
    },
    /// Not a stream, or nobody looked.
    #[error("its spans carry no time to first token")]
    NoFirstToken,
    /// The tokens of prompts explain nothing of the time to the first token.
    #[error("time to first token does not grow with the prompt, and its spread is unexplained")]
    Prefill,
    /// The batch explains nothing of the time per token.
    #[error("time per token could not be fitted to the batch")]
    Decode,
}

/// Estimates from requests in any order; `until_ms` is when the last of them was looked for.
///
/// # Errors
/// Why it cannot be.
pub fn estimate(requests: &[LmRequest], until_ms: f64) -> Result<LmEstimate, LmUnidentifiable> {
    let mut requests = requests.to_vec();
    requests.sort_by(|a, b| a.arrival_ms.total_cmp(&b.arrival_ms).then(a.end_ms.total_cmp(&b.end_ms)));
    let known = known(&requests, until_ms).ok_or(LmUnidentifiable::TooFew { seen: requests.len() })?;
    // who came later may have companions that are not seen yet
    requests.retain(|request| request.arrival_ms <= known.1);
    let replay = Replay::new(&requests, known);
    if replay.compared() < MIN_REQUESTS {
        return Err(LmUnidentifiable::TooFew { seen: replay.compared() });
    }
    let timelines = overlap::timelines(&requests);
    let prefill = prefill::fit(&requests, known).ok_or(LmUnidentifiable::Prefill)?;
    let decode = decode::fit(&requests, &timelines, known).ok_or(LmUnidentifiable::Decode)?;
    let limits = |held_ms: f64| slots::candidates(&requests, &timelines, known, held_ms);
    let limits = Limits { of_slots: limits(0.0), beyond_steps: limits(longest_hold_ms(&decode)) };
    let server = search(&replay, candidates(&requests, &prefill, &decode, &limits));
    let (then, seen) = replay.beside(&server);
    let replay_error = then.differences(&seen).into_iter().fold(0.0, f64::max);
    let recent: Arc<[Arrival]> = requests.iter().map(LmRequest::arrival).collect();
    let most_sequences = slots::most_sequences(&timelines);
    let capacity = predict::capacity(&server, &recent, most_sequences);
    Ok(LmEstimate {
        server,
        prefill: prefill.fit,
        decode: decode.fit,
        samples: replay.compared() as u64,
        replay_error,
        confidence: confidence(replay_error, replay.compared()),
        most_sequences,
        capacity_tokens_per_s: capacity.0,
        capacity_requests_per_s: capacity.1,
        seen,
        settled: recent.iter().position(|arrival| arrival.at_ms >= known.0).unwrap_or(0),
        recent,
    })
}

/// The time in which all that ran is known: from the first end that is kept, and until a time before which nearly
/// everyone who came has ended.
fn known(requests: &[LmRequest], until_ms: f64) -> Option<(f64, f64)> {
    let first_end = requests.iter().map(|r| r.end_ms).min_by(f64::total_cmp)?;
    let mut durations: Vec<f64> = requests.iter().map(|r| r.end_ms - r.arrival_ms).collect();
    durations.sort_by(f64::total_cmp);
    let of = |share: f64| durations[(share * (durations.len() - 1) as f64) as usize];
    let known = (first_end + of(0.5), until_ms - of(0.99));
    (known.1 > known.0).then_some(known)
}

/// From the replay of the past; how often it holds is in `compare/lm`.
fn confidence(replay_error: f64, samples: usize) -> f64 {
    let enough = (samples as f64 / 300.0).min(1.0);
    (0.95 - 3.0 * replay_error).clamp(0.05, 0.9) * enough
}
