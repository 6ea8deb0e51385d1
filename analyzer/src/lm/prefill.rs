//! [`fit`]: the time of a prompt by its tokens, from times to first token without the wait for other prompts.
//!
//! `prefill = a + b·c`, and `+ q·c²` where that is significant. Prompts are taken one after the other, so one begins
//! when it comes or when the prompt before it is done (the identity of [`crate::departures`] with one server). Where
//! enough requests met no other prompt at all, only those are taken: that holds for any number of replicas.

use super::{
    recent::LmRequest,
    regression::{self, Fit, Row},
};

/// Requests without another prompt beside them that are enough by themselves.
const ENOUGH_ALONE: usize = 100;

/// Standard errors above zero at which attention's part is believed.
const SIGNIFICANT: f64 = 4.0;

/// The time of a prompt.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Prefill {
    pub(crate) base_ms: f64,
    pub(crate) per_token_ms: f64,
    pub(crate) per_token2_ms: f64,
    pub(crate) fit: Fit,
}

/// Fits requests that came within the time in which all is known.
pub(crate) fn fit(requests: &[LmRequest], known: (f64, f64)) -> Option<Prefill> {
    let within: Vec<&LmRequest> =
        requests.iter().filter(|r| r.arrival_ms >= known.0 && r.arrival_ms <= known.1).collect();
    let alone = alone(requests, known);
    let times = if alone.len() >= ENOUGH_ALONE { alone } else { in_turn(&within) };
    let mean = times.iter().map(|(tokens, _)| tokens).sum::<f64>() / times.len().max(1) as f64;
    let row = |(tokens, ms): &(f64, f64)| Row {
        regressors: [1.0, *tokens, tokens * tokens, 0.0, 0.0],
        value: *ms,
        // what disturbs a prompt grows with it
        weight: (1.0 + tokens / mean.max(1.0)).powi(-2),
    };
    let rows: Vec<Row> = times.iter().map(row).collect();
    let line = regression::fit(&rows, 2)?;
    let curve = regression::fit(&rows, 3).filter(|fit| fit.significance(2) > SIGNIFICANT && fit.r2 > line.r2);
    let fit = curve.unwrap_or(line);
    let [base_ms, per_token_ms, per_token2_ms, ..] = fit.coefficients;
    Some(Prefill { base_ms, per_token_ms, per_token2_ms, fit })
}

/// Tokens and time of prompts that no other was beside. `requests` are in order of arrival.
fn alone(requests: &[LmRequest], known: (f64, f64)) -> Vec<(f64, f64)> {
    let mut busy_until = f64::NEG_INFINITY;
    let mut times = Vec::new();
    for (place, request) in requests.iter().enumerate() {
        let next = requests.get(place + 1).map_or(f64::INFINITY, |next| next.arrival_ms);
        let nobody = busy_until <= request.arrival_ms && next >= request.first_token_ms;
        if nobody && request.arrival_ms >= known.0 && request.arrival_ms <= known.1 {
            times.push((request.input_tokens, request.first_token_ms - request.arrival_ms));
        }
        busy_until = busy_until.max(request.first_token_ms);
    }
    times
}

/// The same of all, each from when the one before it was done at its replica.
fn in_turn(requests: &[&LmRequest]) -> Vec<(f64, f64)> {
    let mut by_first = requests.to_vec();
    by_first.sort_by(|a, b| (a.replica, a.first_token_ms).partial_cmp(&(b.replica, b.first_token_ms)).expect("times"));
    let time = |pair: &[&LmRequest]| {
        let begun = if pair[0].replica == pair[1].replica {
            pair[0].first_token_ms.max(pair[1].arrival_ms)
        } else {
            pair[1].arrival_ms
        };
        (pair[1].input_tokens, pair[1].first_token_ms - begun)
    };
    by_first.windows(2).map(time).filter(|(_, ms)| *ms > 0.0).collect()
}
