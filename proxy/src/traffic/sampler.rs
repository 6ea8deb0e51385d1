//! [`Sampler`]: which of the traces that begin here are recorded, and how whoever counts their spans knows of it.
//!
//! As OpenTelemetry's consistent probability sampling has it
//! (<https://opentelemetry.io/docs/specs/otel/trace/tracestate-probability-sampling/>): a trace is kept when the last 56 bits of
//! its id, which are random, are at least a threshold `T`, hence with probability `p = 1 − T/2⁵⁶`. `tracestate: ot=th:T` goes
//! along with it and stands in each span, so that a span counts for `1/p` of its kind at every hop: rates, utilization and
//! limits are those of all requests, whatever share of them was recorded.

use http::HeaderValue;

/// How many values the random part of a trace id has.
const ALL: u64 = 1 << 56;

/// Which traces are kept.
#[derive(Clone, Debug)]
pub(crate) struct Sampler {
    /// [`ALL`] keeps none.
    threshold: u64,
    /// What `tracestate` says of a trace that is kept; nothing when all are.
    says: Option<HeaderValue>,
}

impl Sampler {
    /// Keeps a share of `ratio`.
    pub(crate) fn new(ratio: f64) -> Self {
        let threshold = ((1.0 - ratio.clamp(0.0, 1.0)) * ALL as f64).round() as u64;
        Self { threshold, says: (1..ALL).contains(&threshold).then(|| state(threshold)) }
    }

    /// Whether this trace is kept; every hop that keeps as many answers the same.
    pub(crate) fn keeps(&self, trace_id: &[u8; 16]) -> bool {
        let random = trace_id[9..].iter().fold(0, |all, byte| all << 8 | u64::from(*byte));
        random >= self.threshold
    }

    /// What goes along with a trace that is kept.
    pub(crate) fn says(&self) -> Option<&HeaderValue> {
        self.says.as_ref()
    }
}

/// Fourteen hex digits without the zeros at their end.
fn state(threshold: u64) -> HeaderValue {
    let digits = format!("{threshold:014x}");
    HeaderValue::try_from(format!("ot=th:{}", digits.trim_end_matches('0'))).expect("hex digits")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn thresholds_are_said_as_the_specification_has_them() {
        for (ratio, says) in [
            (1.0, None),
            (0.0, None),
            (0.5, Some("ot=th:8")),
            (0.25, Some("ot=th:c")),
            (0.75, Some("ot=th:4")),
            (1.0 / 4096.0, Some("ot=th:fff")),
            (0.1, Some("ot=th:e6666666666668")),
        ] {
            let sampler = Sampler::new(ratio);
            assert_eq!(sampler.says().map(|says| says.to_str().unwrap()), says, "{ratio}");
        }
    }

    #[test]
    fn as_many_are_kept_as_the_ratio_says() {
        for ratio in [0.0, 0.1, 0.5, 1.0] {
            let sampler = Sampler::new(ratio);
            let kept = (0..10_000).filter(|_| sampler.keeps(&rand::random())).count() as f64;
            // six standard deviations
            let margin = 6.0 * (10_000.0 * ratio * (1.0 - ratio)).sqrt();
            assert!((kept - 10_000.0 * ratio).abs() <= margin, "{kept} at {ratio}");
        }
    }

    #[test]
    fn the_end_of_the_id_decides() {
        let sampler = Sampler::new(0.5);
        let id = |byte: u8| std::array::from_fn(|place| if place == 9 { byte } else { 0xff * u8::from(place < 9) });
        assert!(sampler.keeps(&id(0x80)) && !sampler.keeps(&id(0x7f)));
    }
}
