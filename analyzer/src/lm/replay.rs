//! [`Replay`]: what a server would have done with the arrivals that were seen, beside what was seen.
//!
//! The loss has two halves. Request by request, the logarithm of time to first token and of time per token, with Huber's
//! loss: it tells ways of sharing apart, because they differ in *which* requests wait. And mean, median and 95th
//! percentile of both, which are what is predicted.

use super::{
    engine::{Arrival, Served, serve},
    recent::LmRequest,
    server::LmServer,
};

/// Differences of logarithms beyond which the loss grows linearly: a factor of 1.65.
const HUBER: f64 = 0.5;

/// Weight of a statistic against the mean over requests.
const STATISTIC: f64 = 0.5;

/// What was seen, ready to be compared.
#[derive(Debug)]
pub(crate) struct Replay<'a> {
    arrivals: Vec<Arrival>,
    requests: &'a [LmRequest],
    /// Requests whose first token, and whose whole stream, are compared.
    compared: Vec<(usize, bool)>,
    seen: Statistics,
}

/// Mean, median and 95th percentile of both times.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(crate) struct Statistics {
    pub(crate) first_token_ms: [f64; 3],
    pub(crate) per_token_ms: [f64; 3],
}

impl<'a> Replay<'a> {
    /// Of requests in order of arrival; those within `known` are compared.
    pub(crate) fn new(requests: &'a [LmRequest], known: (f64, f64)) -> Self {
        let arrivals: Vec<Arrival> = requests.iter().map(LmRequest::arrival).collect();
        let within = requests.iter().enumerate().filter(|(_, r)| r.arrival_ms >= known.0 && r.arrival_ms <= known.1);
        let compared: Vec<(usize, bool)> =
            within.map(|(place, r)| (place, r.output_tokens >= 2.0 && r.end_ms <= known.1)).collect();
        let mut replay = Self { arrivals, requests, compared, seen: Statistics::default() };
        replay.seen = replay.statistics(|place| {
            let r = &requests[place];
            (r.first_token_ms - r.arrival_ms, r.per_token_ms())
        });
        replay
    }

    pub(crate) fn compared(&self) -> usize {
        self.compared.len()
    }

    /// How far a server is from what was seen.
    pub(crate) fn loss(&self, server: &LmServer) -> f64 {
        let served = serve(server, &self.arrivals);
        let (mut first, mut token, mut streams) = (0.0, 0.0, 0.0);
        for (place, whole) in &self.compared {
            let seen = &self.requests[*place];
            let (first_ms, token_ms) = self.times(&served, *place);
            first += huber(ratio(first_ms, seen.first_token_ms - seen.arrival_ms));
            if *whole {
                token += huber(ratio(token_ms, seen.per_token_ms()));
                streams += 1.0;
            }
        }
        let count = self.compared.len().max(1) as f64;
        let of_requests = first / count + token / f64::max(streams, 1.0);
        let statistics = self.statistics(|place| self.times(&served, place));
        of_requests + STATISTIC * statistics.differences(&self.seen).iter().sum::<f64>()
    }

    /// The statistics a server would have given, and those that were seen.
    pub(crate) fn beside(&self, server: &LmServer) -> (Statistics, Statistics) {
        let served = serve(server, &self.arrivals);
        (self.statistics(|place| self.times(&served, place)), self.seen)
    }

    fn times(&self, served: &[Served], place: usize) -> (f64, f64) {
        let (served, arrival) = (&served[place], &self.arrivals[place]);
        (served.first_token_ms - arrival.at_ms, (served.end_ms - served.first_token_ms) / (arrival.output_tokens - 1.0))
    }

    fn statistics(&self, times: impl Fn(usize) -> (f64, f64)) -> Statistics {
        let (mut first, mut token) = (Vec::with_capacity(self.compared.len()), Vec::with_capacity(self.compared.len()));
        for (place, whole) in &self.compared {
            let (first_ms, token_ms) = times(*place);
            first.push(first_ms);
            if *whole {
                token.push(token_ms);
            }
        }
        Statistics { first_token_ms: summary(&mut first), per_token_ms: summary(&mut token) }
    }
}

impl Statistics {
    /// |ln(this / other)| of each.
    pub(crate) fn differences(&self, other: &Self) -> [f64; 6] {
        let all = |s: &Self| [s.first_token_ms, s.per_token_ms].concat();
        let mut differences = [0.0; 6];
        for (place, (a, b)) in all(self).into_iter().zip(all(other)).enumerate() {
            differences[place] = ratio(a, b).abs();
        }
        differences
    }
}

/// Mean, median, 95th percentile; zeros of nothing.
pub(crate) fn summary(values: &mut [f64]) -> [f64; 3] {
    if values.is_empty() {
        return [0.0; 3];
    }
    let mean = values.iter().sum::<f64>() / values.len() as f64;
    let mut quantile = |q: f64| {
        let rank = (q * (values.len() - 1) as f64) as usize;
        *values.select_nth_unstable_by(rank, f64::total_cmp).1
    };
    [mean, quantile(0.5), quantile(0.95)]
}

/// ln(a / b), of times that are at least a tenth of a millisecond: below that clocks speak.
fn ratio(a: f64, b: f64) -> f64 {
    (a.max(0.1) / b.max(0.1)).ln()
}

fn huber(difference: f64) -> f64 {
    let size = difference.abs();
    if size <= HUBER { 0.5 * size * size / HUBER } else { size - 0.5 * HUBER }
}
