//! [`CHAIN`]: the services of the demo and how they are sized.
//!
//! At 80 requests/s every service is well below its capacity (ρ ≤ 0.4); tagger made four times slower
//! has ρ = 80 · 0.08 / 4 = 1.6 and cannot keep up.

use std::time::Duration;

use crate::Arrivals;

/// One service.
#[derive(Clone, Copy, Debug)]
pub struct Spec {
    /// Its name.
    pub service: &'static str,
    /// c: requests it works on at once.
    pub servers: u32,
    /// S: mean time of its own work; the generator's is until its first token, per request.
    pub service_time: Duration,
}

/// In the order a request meets them.
pub const CHAIN: [Spec; 6] = [
    Spec { service: "gateway", servers: 16, service_time: Duration::from_millis(4) },
    Spec { service: "tokenizer", servers: 4, service_time: Duration::from_millis(8) },
    Spec { service: "tagger", servers: 4, service_time: Duration::from_millis(20) },
    Spec { service: "parser", servers: 8, service_time: Duration::from_millis(30) },
    Spec { service: "semantic", servers: 8, service_time: Duration::from_millis(25) },
    Spec { service: "generator", servers: 32, service_time: Duration::from_millis(15) },
];

/// What the context of a mean request takes before its first token.
const MEAN_PREFILL: Duration = Duration::from_micros(9_600);

/// What the tokens of a mean answer take.
const MEAN_DECODE: Duration = Duration::from_millis(96);

/// How often a stream sends; model servers coalesce tokens.
const EVENT_INTERVAL: Duration = Duration::from_millis(12);

/// How fast the generator is, sized for the requests it will get: recorded arrivals are brought to
/// the demo's rate, so a model of the recording's speed would be overloaded from the start.
#[derive(Clone, Copy, Debug)]
pub struct Pace {
    /// Before the first token, for each token of context.
    pub(crate) prefill_per_token: Duration,
    /// Of a stream.
    pub(crate) tokens_per_event: u32,
    /// Between two events.
    pub(crate) event_interval: Duration,
}

impl Pace {
    /// A mean request takes the same time whatever its length.
    #[must_use]
    pub fn of(arrivals: &Arrivals) -> Self {
        let (context, output) = arrivals.mean_tokens();
        let per_output_token = MEAN_DECODE.div_f64(output.max(1.0));
        let tokens_per_event = EVENT_INTERVAL.div_duration_f64(per_output_token).round().max(1.0);
        Self {
            prefill_per_token: MEAN_PREFILL.div_f64(context.max(1.0)),
            tokens_per_event: tokens_per_event as u32,
            event_interval: per_output_token.mul_f64(tokens_per_event),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mean_request_takes_the_same_time_whatever_its_length() {
        let recorded =
            |output: u32| format!("header\n2023-11-16 18:15:46,1000,{output}\n2023-11-16 18:15:47,3000,{output}\n");
        for output in [1, 16, 211, 5_000] {
            let pace = Pace::of(&Arrivals::recorded(&recorded(output), 1.0).unwrap());
            let decode = pace.event_interval.mul_f64(f64::from(output) / f64::from(pace.tokens_per_event));
            let prefill = pace.prefill_per_token * 2000;
            assert!(decode.abs_diff(MEAN_DECODE) < Duration::from_millis(1), "{output}: {decode:?}");
            assert!(prefill.abs_diff(MEAN_PREFILL) < Duration::from_micros(10), "{prefill:?}");
        }
    }
}
