//! [`LmView`]: what is said of an LM service.

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{
    arrivals::LmArrivals,
    fit::{LmEstimate, LmUnidentifiable},
    predict::{LmPrediction, LmTimes, predict},
    regression::Fit,
    server::{LmServer, Sharing, Slots},
};
use crate::{estimate::capacity::headroom, snapshot::LOAD_FACTORS};

/// An LM service: its server, what that can do, and what was seen beside what the server would have done.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub struct LmView {
    /// When it was estimated; 0 before the first time.
    pub estimated_unix_nano: UnixNanos,
    /// The server; `None` when it cannot be identified.
    pub server: Option<LmServer>,
    /// How the line of prompts fits: milliseconds by tokens.
    pub prefill: Option<LmLine>,
    /// How the line of steps fits: milliseconds by sequences.
    pub decode: Option<LmLine>,
    /// Sequences at once over all replicas, where slots are what limits.
    pub slots: Option<u32>,
    /// Tokens kept at once over all replicas, where memory is what limits.
    pub kv_tokens: Option<f64>,
    /// Why neither is known.
    pub slots_reason: Option<String>,
    /// Output tokens a second with a full batch.
    pub capacity_tokens_per_s: Option<f64>,
    /// Requests a second of the present mix.
    pub capacity_requests_per_s: Option<f64>,
    /// λ over that.
    pub utilization: Option<f64>,
    /// How much λ may grow, as a share, until utilization is 1.
    pub headroom: Option<f64>,
    /// What was seen, of the requests that the estimate rests on.
    pub observed: Option<LmObserved>,
    /// What the server would have done with them.
    pub predicted: Option<LmPrediction>,
    /// And with more.
    pub what_if: Vec<LmPrediction>,
    /// Arrivals minute by minute, the last hour.
    pub arrivals: Vec<LmArrivals>,
    /// Arrivals over all requests the estimate rests on.
    pub longer: Option<LmArrivals>,
    /// Probability that a prediction near this load is within 9 %.
    pub confidence: f64,
    /// Requests behind it.
    pub samples: u64,
    /// The largest error of mean, median and 95th percentile when the past is replayed, as a share.
    pub replay_error: Option<f64>,
    /// Why something is not identifiable.
    pub reason: Option<String>,
    /// For [`predict`] at any load. It stays here: it holds the arrivals.
    #[serde(skip)]
    pub estimate: Option<LmEstimate>,
}

/// How a line fits.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LmLine {
    /// At zero.
    pub base_ms: f64,
    /// Per token or sequence.
    pub per_unit_ms: f64,
    /// Standard error of the latter.
    pub per_unit_ms_error: f64,
    /// Share of the variance it explains.
    pub r2: f64,
    /// Median error, as a share.
    pub residual: f64,
    /// Requests.
    pub samples: u64,
}

/// What was seen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LmObserved {
    /// To the first token.
    pub time_to_first_token_ms: LmTimes,
    /// Per token after the first.
    pub time_per_output_token_ms: LmTimes,
    /// Sequences that ran at once at one replica, at most.
    pub most_sequences: f64,
}

impl LmView {
    pub(crate) fn of(found: Result<LmEstimate, LmUnidentifiable>) -> Self {
        let estimate = match found {
            Ok(estimate) => estimate,
            Err(why) => return Self { reason: Some(why.to_string()), ..Self::default() },
        };
        let predicted = predict(&estimate, 1.0);
        let (slots, kv_tokens, slots_reason) = slots(&estimate);
        Self {
            server: Some(estimate.server),
            prefill: Some(line(&estimate.prefill)),
            decode: Some(line(&estimate.decode)),
            slots,
            kv_tokens,
            slots_reason,
            capacity_tokens_per_s: Some(estimate.capacity_tokens_per_s),
            capacity_requests_per_s: Some(estimate.capacity_requests_per_s),
            utilization: predicted.map(|p| p.utilization),
            headroom: predicted.map(|p| headroom(p.utilization)),
            observed: Some(observed(&estimate)),
            predicted,
            what_if: LOAD_FACTORS.iter().filter_map(|load_factor| predict(&estimate, *load_factor)).collect(),
            confidence: estimate.confidence,
            samples: estimate.samples,
            replay_error: Some(estimate.replay_error),
            estimate: Some(estimate),
            ..Self::default()
        }
    }
}

fn slots(estimate: &LmEstimate) -> (Option<u32>, Option<f64>, Option<String>) {
    let replicas = estimate.server.replicas;
    match estimate.server.slots {
        Slots::Sequences(each) => (Some(each * replicas), None, None),
        Slots::Tokens(each) => (None, Some(each * f64::from(replicas)), None),
        Slots::Unlimited => {
            let most = estimate.most_sequences;
            let why = match estimate.server.sharing {
                Sharing::Apart => "prompts do not wait for slots",
                _ => "the batch was never full while somebody waited",
            };
            let reason = format!(
                "not identifiable: {why}; {most} sequences ran at once, and capacity is that of a batch of 256"
            );
            (None, None, Some(reason))
        }
    }
}

fn line(fit: &Fit) -> LmLine {
    LmLine {
        base_ms: fit.coefficients[0],
        per_unit_ms: fit.coefficients[1],
        per_unit_ms_error: fit.errors[1],
        r2: fit.r2,
        residual: fit.residual,
        samples: fit.samples as u64,
    }
}

fn observed(estimate: &LmEstimate) -> LmObserved {
    let times = |[mean, p50, p95]: [f64; 3]| LmTimes { mean, p50, p95 };
    LmObserved {
        time_to_first_token_ms: times(estimate.seen.first_token_ms),
        time_per_output_token_ms: times(estimate.seen.per_token_ms),
        most_sequences: estimate.most_sequences,
    }
}
