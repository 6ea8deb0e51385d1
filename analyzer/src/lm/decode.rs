//! [`fit`]: the time of a step by the sequences in it, from whole streams.
//!
//! A stream of n steps lasts as long as its steps and the prompts that held it up: divided by n,
//!
//! ```text
//! time per token = d0 + d1·B + d2·over(B, knee) + b'·(prompt tokens a step) + a'·(prompts a step)
//! ```
//!
//! with B the mean batch beside it. For a server whose steps take `d0 + d1·B` this holds whether prompts go first or in
//! pieces beside the steps, and b' and a' are what prompts take of the machine: with machines of their own they take
//! nothing, and with r replicas that spans do not tell apart the r-th part. The knee is looked for among batches that
//! were seen, and is taken where it explains enough more.

use super::{
    overlap::{Beside, Integral, Timeline},
    recent::LmRequest,
    regression::{self, Fit, Row},
};

/// Streams of fewer steps say little: the first and last step are cut.
const MIN_STEPS: f64 = 8.0;

/// Shares of streams with a smaller batch, at which a knee is looked for.
const KNEES: [f64; 5] = [0.15, 0.3, 0.5, 0.7, 0.85];

/// Standard errors above zero at which a further part is believed.
const SIGNIFICANT: f64 = 4.0;

/// Of what is left unexplained, a knee must explain this much.
const KNEE_GAIN: f64 = 0.05;

/// The time of a step.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Decode {
    pub(crate) base_ms: f64,
    pub(crate) per_sequence_ms: f64,
    pub(crate) beyond_ms: f64,
    pub(crate) knee: f64,
    /// What prompts take of streams: of one, of one token.
    pub(crate) per_prompt_ms: f64,
    pub(crate) per_prompt_token_ms: f64,
    /// Standard errors of the latter above zero.
    pub(crate) prompt_significance: f64,
    /// Mean batch beside a stream.
    pub(crate) batch: f64,
    pub(crate) fit: Fit,
}

/// Fits streams that lie within the time in which all is known.
pub(crate) fn fit(requests: &[LmRequest], timelines: &[Timeline], known: (f64, f64)) -> Option<Decode> {
    let batches: Vec<Integral<'_>> = timelines.iter().map(|timeline| timeline.integral(|batch| batch)).collect();
    let within = |r: &&LmRequest| r.first_token_ms >= known.0 && r.end_ms <= known.1 && r.output_tokens > MIN_STEPS;
    let streams: Vec<(&LmRequest, Beside)> = requests
        .iter()
        .filter(within)
        .map(|r| (r, timelines[r.replica as usize].beside(r, &batches[r.replica as usize])))
        .filter(|(_, beside)| beside.ms > 0.0)
        .collect();
    let plain: Vec<Row> = streams.iter().map(|(_, beside)| row(beside, 0.0)).collect();
    let line = regression::fit(&plain, 4)?;
    let with_knee = knees(&streams).into_iter().filter_map(|knee| {
        let over: Vec<Integral<'_>> =
            timelines.iter().map(|timeline| timeline.integral(|batch| (batch - knee).max(0.0))).collect();
        let beyond = |r: &LmRequest| over[r.replica as usize].mean(r.first_token_ms, r.end_ms);
        let rows: Vec<Row> = streams.iter().map(|(request, beside)| row(beside, beyond(request))).collect();
        Some((knee, regression::fit(&rows, 5)?))
    });
    let bent = with_knee
        .filter(|(_, fit)| fit.significance(4) > SIGNIFICANT && 1.0 - fit.r2 < (1.0 - KNEE_GAIN) * (1.0 - line.r2))
        .max_by(|a, b| a.1.r2.total_cmp(&b.1.r2));
    let (knee, fit) = bent.unwrap_or((0.0, line));
    let [base_ms, per_sequence_ms, per_prompt_token_ms, per_prompt_ms, beyond_ms] = fit.coefficients;
    Some(Decode {
        base_ms,
        per_sequence_ms,
        beyond_ms,
        knee,
        per_prompt_ms,
        per_prompt_token_ms,
        prompt_significance: fit.significance(2),
        batch: streams.iter().map(|(_, beside)| beside.batch).sum::<f64>() / streams.len() as f64,
        fit,
    })
}

fn row(beside: &Beside, beyond: f64) -> Row {
    let per_step = |value: f64| value / beside.steps;
    Row {
        regressors: [1.0, beside.batch, per_step(beside.prompt_tokens), per_step(beside.prompts), beyond],
        value: per_step(beside.ms),
        weight: beside.steps,
    }
}

fn knees(streams: &[(&LmRequest, Beside)]) -> Vec<f64> {
    let mut batches: Vec<f64> = streams.iter().map(|(_, beside)| beside.batch).collect();
    batches.sort_by(f64::total_cmp);
    KNEES.iter().map(|share| batches[(share * (batches.len() - 1) as f64) as usize].round()).collect()
}
