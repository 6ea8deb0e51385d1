//! [`LmArrivals`]: how bursty arrivals are, minute by minute and over longer.
//!
//! Two measures: ca2, the squared coefficient of variation of the times between arrivals, and the index of dispersion
//! of counts, variance over mean of the arrivals in seconds (R. Gusella, "Characterizing the variability of arrival
//! processes with indexes of dispersion", IEEE JSAC 9, 1991). Both are 1 for Poisson arrivals. ca2 sees each gap
//! alone; dispersion also sees that short gaps come together.

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

/// Arrivals in these are counted for the dispersion, in milliseconds.
const COUNTED_MS: f64 = 1_000.0;

/// Arrivals below which neither says anything.
const MIN_ARRIVALS: usize = 20;

/// One stretch of time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct LmArrivals {
    /// Its start.
    pub start_unix_nano: UnixNanos,
    /// Its length.
    pub length_ms: u64,
    /// Arrivals in it.
    pub requests: u64,
    /// λ.
    pub rate_per_s: f64,
    /// ca2; `None` of fewer than 20 arrivals.
    pub ca2: Option<f64>,
    /// Index of dispersion of counts in seconds; `None` likewise.
    pub dispersion: Option<f64>,
}

impl LmArrivals {
    /// Of arrivals in order within a stretch, in milliseconds since its start.
    pub(crate) fn of(start_unix_nano: UnixNanos, length_ms: u64, arrivals_ms: &[f64]) -> Self {
        let enough = arrivals_ms.len() >= MIN_ARRIVALS;
        let gaps: Vec<f64> = arrivals_ms.windows(2).map(|pair| pair[1] - pair[0]).collect();
        Self {
            start_unix_nano,
            length_ms,
            requests: arrivals_ms.len() as u64,
            rate_per_s: arrivals_ms.len() as f64 / (length_ms.max(1) as f64 / 1e3),
            ca2: crate::moments::moments(&gaps).filter(|_| enough).map(|(_, ca2)| ca2),
            dispersion: dispersion(arrivals_ms, length_ms as f64).filter(|_| enough),
        }
    }
}

fn dispersion(arrivals_ms: &[f64], length_ms: f64) -> Option<f64> {
    let mut counts = vec![0.0; (length_ms / COUNTED_MS) as usize];
    for at in arrivals_ms {
        if let Some(count) = counts.get_mut((at / COUNTED_MS) as usize) {
            *count += 1.0;
        }
    }
    let (mean, scv) = crate::moments::moments(&counts)?;
    Some(scv * mean)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn regular_poisson_and_bursty_arrivals_are_told_apart() {
        let mut state = 5_u64;
        let mut exponential = |mean: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            -mean * (((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64).ln()
        };
        let mut now = 0.0;
        let regular: Vec<f64> = (0..600).map(|i| f64::from(i) * 100.0).collect();
        let poisson: Vec<f64> = std::iter::repeat_with(|| {
            now += exponential(50.0);
            now
        })
        .take_while(|at| *at < 600_000.0)
        .collect();
        // every other second is silent
        let bursts: Vec<f64> = poisson.iter().copied().filter(|at| ((at / 1_000.0) as u64).is_multiple_of(2)).collect();
        let of = |arrivals: &[f64]| {
            let length = (arrivals[arrivals.len() - 1] / 1e3).ceil() as u64 * 1_000;
            LmArrivals::of(0, length, arrivals)
        };
        assert!(of(&regular).ca2.unwrap() < 1e-9 && of(&regular).dispersion.unwrap() < 1e-9);
        let of_poisson = of(&poisson);
        assert!((of_poisson.ca2.unwrap() - 1.0).abs() < 0.1, "{of_poisson:?}");
        assert!((of_poisson.dispersion.unwrap() - 1.0).abs() < 0.15, "{of_poisson:?}");
        assert!(of(&bursts).ca2.unwrap() > 3.0 && of(&bursts).dispersion.unwrap() > 5.0);
        assert_eq!(LmArrivals::of(0, 60_000, &regular[..19]).ca2, None);
    }
}
