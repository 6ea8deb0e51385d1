//! [`predict`]: times to first token and per token at more or less load, by replaying the arrivals of late, closer
//! together or further apart, at the fitted server.
//!
//! Not by a formula: the wait for a slot, prompts in each other's way and the batch that grows because its steps
//! slow down make one fixed point, and arrivals of LM services are bursty in ways two moments do not say. A replay of
//! 1,500 requests costs about 0.3 ms and has all of it.

use serde::{Deserialize, Serialize};

use super::{
    engine::{Arrival, serve},
    fit::LmEstimate,
    replay::summary,
    server::{LmServer, Sharing, Slots},
};

/// Where no limit of slots was met, capacity is that of a batch as large as servers are commonly let have.
const COMMON_SEQUENCES: f64 = 256.0;

/// Mean, median and 95th percentile, in milliseconds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LmTimes {
    /// Mean.
    pub mean: f64,
    /// Median.
    pub p50: f64,
    /// 95th percentile.
    pub p95: f64,
}

/// What a load would do.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LmPrediction {
    /// Arrivals of late are multiplied by this.
    pub load_factor: f64,
    /// λ then.
    pub requests_per_s: f64,
    /// Output tokens a second then, of all streams together.
    pub output_tokens_per_s: f64,
    /// Output tokens a second of one stream, mean.
    pub stream_tokens_per_s: f64,
    /// To the first token; `None` when more would come than it can do.
    pub time_to_first_token_ms: Option<LmTimes>,
    /// The part of it before the prompt is begun, mean: for a slot and for other prompts.
    pub queue_wait_ms: Option<f64>,
    /// Per token after the first.
    pub time_per_output_token_ms: Option<LmTimes>,
    /// From the arrival to the last token.
    #[serde(default)]
    pub response_time_ms: Option<LmTimes>,
    /// Sequences that run at once at one replica, mean as requests meet them.
    pub batch: f64,
    /// λ over what it can do.
    pub utilization: f64,
    /// More would come than it can do.
    pub saturated: bool,
    /// More sequences would run at once than were ever seen, by a quarter or more: the lines are drawn out.
    pub extrapolated: bool,
}

/// Predicts for the arrivals of late, `load_factor` times as many a second; `None` when there are none.
#[must_use]
pub fn predict(estimate: &LmEstimate, load_factor: f64) -> Option<LmPrediction> {
    if !load_factor.is_finite() || load_factor <= 0.0 {
        return None;
    }
    let first = estimate.recent.first()?.at_ms;
    let closer = |arrival: &Arrival| Arrival { at_ms: (arrival.at_ms - first) / load_factor, ..*arrival };
    let arrivals: Vec<Arrival> = estimate.recent.iter().map(closer).collect();
    let prediction = replayed(estimate, &arrivals, estimate.settled, estimate.capacity_requests_per_s)?;
    Some(LmPrediction { load_factor, ..prediction })
}

/// Predicts for given arrivals, in order of time. Those before `settled` only fill the server. `None` without any.
#[must_use]
pub fn predict_on(estimate: &LmEstimate, arrivals: &[Arrival], settled: usize) -> Option<LmPrediction> {
    // what it can do depends on how long prompts and answers are
    let (_, requests_per_s) = capacity(&estimate.server, arrivals, estimate.most_sequences);
    replayed(estimate, arrivals, settled, requests_per_s)
}

fn replayed(estimate: &LmEstimate, arrivals: &[Arrival], settled: usize, capacity_per_s: f64) -> Option<LmPrediction> {
    let counted = arrivals.get(settled..).filter(|counted| counted.len() > 1)?;
    let seconds = (counted.last()?.at_ms - counted.first()?.at_ms) / 1e3;
    let served = serve(&estimate.server, arrivals);
    let (mut first, mut token, mut whole, mut batch) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    let (mut wait, mut rate) = (0.0, 0.0);
    for (arrival, served) in counted.iter().zip(&served[settled..]) {
        first.push(served.first_token_ms - arrival.at_ms);
        whole.push(served.end_ms - arrival.at_ms);
        wait += served.started_ms - arrival.at_ms;
        batch.push(served.batch);
        if arrival.output_tokens >= 2.0 {
            let per_token = (served.end_ms - served.first_token_ms) / (arrival.output_tokens - 1.0);
            token.push(per_token);
            rate += 1e3 / per_token.max(1e-6);
        }
    }
    let requests_per_s = (counted.len() - 1) as f64 / seconds.max(1e-9);
    let tokens = counted.iter().map(|arrival| arrival.output_tokens).sum::<f64>() / counted.len() as f64;
    let utilization = requests_per_s / capacity_per_s.max(1e-9);
    let saturated = utilization >= 1.0;
    let most = batch.iter().copied().fold(0.0, f64::max);
    let streams = token.len().max(1) as f64;
    Some(LmPrediction {
        load_factor: 1.0,
        requests_per_s,
        output_tokens_per_s: requests_per_s.min(capacity_per_s) * tokens,
        stream_tokens_per_s: rate / streams,
        time_to_first_token_ms: (!saturated).then(|| times(&mut first)),
        queue_wait_ms: (!saturated).then(|| wait / counted.len() as f64),
        time_per_output_token_ms: (!saturated).then(|| times(&mut token)),
        response_time_ms: (!saturated).then(|| times(&mut whole)),
        batch: batch.iter().sum::<f64>() / batch.len() as f64,
        utilization,
        saturated,
        extrapolated: most > 1.25 * estimate.most_sequences,
    })
}

fn times(values: &mut [f64]) -> LmTimes {
    let [mean, p50, p95] = summary(values);
    LmTimes { mean, p50, p95 }
}

/// Output tokens and requests a second of a server that everybody waits for: all requests of late come at once, and
/// what is done between the first and the last fifth of them counts, when the batch is full.
pub(crate) fn capacity(server: &LmServer, recent: &[Arrival], most_sequences: f64) -> (f64, f64) {
    let slots = match server.slots {
        Slots::Unlimited => Slots::Sequences(most_sequences.max(COMMON_SEQUENCES) as u32),
        met => met,
    };
    let most_running = server.replicas as usize * most_sequences.max(COMMON_SEQUENCES) as usize;
    // long prompts and short ones in turn, as they came; several times over when there are few
    let times = (4 * most_running / recent.len().max(1) + 1).min(8);
    let all = recent.len() * times;
    let waiting: Vec<Arrival> = recent.iter().cycle().take(all).map(|a| Arrival { at_ms: 0.0, ..*a }).collect();
    let served = serve(&LmServer { slots, ..*server }, &waiting);
    let mut ends: Vec<(f64, f64)> = served.iter().zip(&waiting).map(|(s, a)| (s.end_ms, a.output_tokens)).collect();
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let counted = &ends[all / 5..all - all / 5];
    let (Some(first), Some(last)) = (counted.first(), counted.last()) else { return (0.0, 0.0) };
    let seconds = ((last.0 - first.0) / 1e3).max(1e-9);
    let mut requests = (counted.len() - 1) as f64 / seconds;
    if server.sharing == Sharing::Apart {
        // prompts have machines of their own, which may be what binds
        let prompt_ms = recent.iter().map(|a| server.prefill_ms(a.input_tokens)).sum::<f64>() / recent.len() as f64;
        requests = requests.min(f64::from(server.replicas) * 1e3 / prompt_ms.max(1e-9));
    }
    let tokens = recent.iter().map(|a| a.output_tokens).sum::<f64>() / recent.len() as f64;
    (requests * tokens, requests)
}
