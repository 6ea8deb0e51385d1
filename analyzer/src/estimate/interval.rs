//! Intervals of what is predicted: by the delta method from those of λ, S, ca² and cs², and from the error of the model itself.
//!
//! `Var ln Wq ≈ Σ (∂ln Wq/∂xᵢ)²·Var xᵢ + e²` with the derivatives taken numerically, eight evaluations of the model, each microseconds.
//! The logarithm, because waits are positive and go up faster than down. Where ρ at the end of its own interval reaches 1, the wait has
//! no upper end. `e` is what remains between the model and a simulation that is told λ, S, ca² and cs² exactly (`compare/queueing`).

use crate::{
    model::{Load, Model, queue_wait_ms, queue_wait_ms_by},
    snapshot::Estimate,
};

/// Standard deviations of a 95 % interval.
pub(crate) const NINETY_FIVE: f64 = 1.96;

/// The step of a derivative, in standard deviations.
const STEP: f64 = 0.25;

/// A wait below this part of S says nothing of the model.
const MIN_WAIT: f64 = 0.02;

/// Requests that a comparison of waits needs.
const MIN_SAMPLES: f64 = 200.0;

/// Standard deviations of what a prediction rests on; of λ and S relative.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Deviations {
    arrival_rate: f64,
    service_time: f64,
    ca2: f64,
    cs2: f64,
}

impl Deviations {
    pub(crate) fn of(estimate: &Estimate) -> Self {
        let (samples, ca2, cs2, of_ca2, of_cs2) = match &estimate.steady {
            Some(steady) => (steady.samples as f64, steady.ca2, steady.cs2, steady.ca2_deviation, steady.cs2_deviation),
            None => (
                estimate.samples as f64,
                estimate.ca2.unwrap_or(1.0),
                estimate.cs2.unwrap_or(1.0),
                estimate.ca2_error.unwrap_or(0.0) / NINETY_FIVE,
                estimate.cs2_error.unwrap_or(0.0) / NINETY_FIVE,
            ),
        };
        let known = estimate.service_time_ms.zip(estimate.service_time_ms_error).filter(|_| estimate.steady.is_none());
        let newest = estimate.steady.as_ref().and_then(|steady| {
            Some(steady.arrival_rate_per_s_deviation? / steady.arrival_rate_per_s_newest?.max(1e-12))
        });
        Self {
            arrival_rate: newest.unwrap_or_else(|| rate_error(ca2, samples)),
            service_time: known
                .map_or((cs2 / samples.max(1.0)).sqrt(), |(ms, error)| error / NINETY_FIVE / ms.max(1e-12)),
            ca2: of_ca2,
            cs2: of_cs2,
        }
    }
}

/// Standard deviation of λ, relative, as counted from so many arrivals: a renewal count of n varies by `n·ca²`.
pub(crate) fn rate_error(ca2: f64, samples: f64) -> f64 {
    (ca2 / samples.max(1.0)).sqrt()
}

/// The 95 % interval of the wait at a load; without an upper end where it may saturate.
pub(crate) fn of_wait(estimate: &Estimate, load: &Load) -> Option<(f64, Option<f64>)> {
    let wait = queue_wait_ms(estimate, load)?;
    let deviation = deviation(estimate, load);
    let factor = (NINETY_FIVE * deviation.unwrap_or(0.0)).exp();
    Some((wait / factor, deviation.map(|_| wait * factor)))
}

/// Standard deviation of the logarithm of the wait at a load; `None` where that load may be too much.
pub(crate) fn deviation(estimate: &Estimate, load: &Load) -> Option<f64> {
    let error = model_error(estimate, load);
    let deviations = Deviations::of(estimate);
    // that arrivals or services are exponential is a guess within their intervals: it is let go for the derivatives
    let general = match Model::of(estimate)? {
        Model::Mm1 | Model::Mg1 => Model::Gg1,
        Model::Mmc => Model::Ggc,
        model => model,
    };
    let at = |load: Load| queue_wait_ms_by(general, estimate, &load).map(|wait| wait.max(1e-9).ln());
    let slope = |up: Load, down: Load| Some((at(up)? - at(down)?) / (2.0 * STEP));
    let moved = |by: f64, deviation: f64| 1.0 + by * STEP * deviation;
    let (rate, service) = (deviations.arrival_rate, deviations.service_time);
    let slopes = [
        slope(load.times(moved(1.0, rate)), load.times(moved(-1.0, rate)))?,
        slope(
            Load { service_time_ms: load.service_time_ms * moved(1.0, service), ..*load },
            Load { service_time_ms: load.service_time_ms * moved(-1.0, service), ..*load },
        )?,
        slope(
            Load { ca2: load.ca2 + STEP * deviations.ca2, ..*load },
            Load { ca2: (load.ca2 - STEP * deviations.ca2).max(0.0), ..*load },
        )?,
        slope(
            Load { cs2: load.cs2 + STEP * deviations.cs2, ..*load },
            Load { cs2: (load.cs2 - STEP * deviations.cs2).max(0.0), ..*load },
        )?,
    ];
    // at the far end of what λ and S may be it must still hold
    at(Load { service_time_ms: load.service_time_ms * (1.0 + NINETY_FIVE * rate.hypot(service)), ..*load })?;
    Some(slopes.into_iter().fold(error, f64::hypot))
}

/// Standard deviation of the logarithm of what simulation gives over what the model says, both told the same.
pub(crate) fn model_error(estimate: &Estimate, load: &Load) -> f64 {
    match Model::of(estimate) {
        Some(Model::Mm1 | Model::Mg1 | Model::Ps | Model::Mmc) => 0.02,
        Some(Model::Gg1 | Model::Ggc) => 0.03 + 0.03 * (load.ca2 - 1.0).abs().min(3.0),
        Some(Model::Mmck | Model::Usl | Model::Mva | Model::Lm) | None => 0.1,
    }
}

/// Standard deviation of the logarithm of a mean wait over so many requests, which are not independent: who waits long is followed by
/// others who do. Of M/M/1 `√((2 + 5ρ − 4ρ² + ρ³)/(ρ(1 − ρ)²n))` (D. J. Daley, "The serial correlation coefficients of waiting times in a
/// stationary single server queue", Journal of the Australian Mathematical Society 8, 1968), here times the variation of what comes and is served.
pub(crate) fn wait_noise(load: &Load, samples: f64) -> f64 {
    let rho = (load.arrival_rate_per_s * load.service_time_ms / 1e3 / f64::from(load.servers.max(1))).clamp(0.05, 0.99);
    let shape = 2.0 + 5.0 * rho - 4.0 * rho * rho + rho.powi(3);
    let variation = (0.5 * (load.ca2 + load.cs2)).max(0.1);
    (variation * shape / (rho * (1.0 - rho).powi(2) * samples.max(1.0))).sqrt()
}

/// Standard deviations between the observed wait and the model's.
pub(crate) fn mismatch(estimate: &Estimate, now: &Load) -> Option<f64> {
    let (samples, observed) = match &estimate.steady {
        Some(steady) => (steady.samples as f64, steady.queue_wait_ms),
        None => (estimate.samples as f64, estimate.queue_wait_ms.observed_app?),
    };
    let predicted = queue_wait_ms(estimate, now)?;
    let floor = MIN_WAIT * now.service_time_ms;
    if samples < MIN_SAMPLES || observed.max(predicted) < floor {
        return None;
    }
    let noise = wait_noise(now, samples).hypot(deviation(estimate, now)?);
    Some((observed.max(floor) / predicted.max(floor)).ln() / noise)
}
