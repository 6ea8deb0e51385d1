//! [`Effect`]: what changes at one service for one request.
//!
//! The model's wait then is scaled by what was measured over what the model says now: what it lacks today it lacks tomorrow. But
//! a measured mean is noisy too (one window near saturation by tens of percent), so the scale is drawn towards 1 by the share of noise in
//! it, `ratio^(m²/(m² + n²))` with m what models are off by and n the noise of the measured mean.
//!
//! What was measured is of the last windows that are alike, and their mean rate; where that rises or falls, the model says what the wait is
//! at the newest rate, and the change starts from there.
//!
//! Calls that are made side by side arrive together, and part of what they wait for is each other, whatever the load. It is scaled like the rest: in
//! simulations of 2 to 16 calls at once, at ρ from 0.5 to 0.7 and a fifth more arrivals, the wait said was 1.06 to 1.22 times the true one of one
//! or two servers, 1.3 to 1.6 of four or eight. It is the safe side; to tell such calls from bursts would take more than ca².
//!
//! Of a queue that is not known the wait is taken as it is. With other arrivals it may change as that of the fewest servers that it can have:
//! those that were seen busy, or one server that all share, whose requests of own time R are there `ρ/(1 − ρ) = λR` at once.

use super::{ServicePrediction, batches, change::Factors, mix::Mix, unknown};
use crate::{
    estimate::interval::{self, NINETY_FIVE},
    lm::LmPrediction,
    model::{Load, queue_wait_ms},
    queueing::mmck,
    snapshot::{Estimate, NodeKind, ServiceView},
};

/// A measured wait this many times the predicted one, or this part of it, is another model, not an error of it.
const MAX_CALIBRATION: f64 = 4.0;

/// A wait below this, in milliseconds, says nothing of the model.
const MIN_CALIBRATING_MS: f64 = 0.05;

/// What a model may be off by before it is fitted to what is measured: arrivals that come in waves, services that change.
const MAY_BE_OFF: f64 = 0.2;

/// Standard deviation of the logarithm of a wait then by what a change does that no queue alone knows: departures of one are
/// the arrivals of the next, and calls come in pairs. Chosen so that ranges hold what simulated meshes do (`compare/queueing`).
const CHANGE_ERROR: f64 = 0.2;

/// Why what is said of such a service is not all.
const HELD: &str = "its servers are held for calls to services that change, and are taken to be held as long as now";

/// What changes at one service for one request, in milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Effect {
    /// λ now, as its model has it.
    pub(super) rate: f64,
    pub(super) rate_then: f64,
    pub(super) utilization_then: Option<f64>,
    pub(super) wait: Option<f64>,
    /// What it is more than when response times were measured.
    pub(super) drift_ms: f64,
    pub(super) wait_then: Option<Range>,
    /// Wait and service together; `None` when it saturates.
    pub(super) added: Option<Range>,
    /// Wait and service then; `None` when it saturates or nothing is known of it.
    pub(super) residence_then: Option<Range>,
    pub(super) refused_then: Option<f64>,
    pub(super) identified: bool,
    /// Whether its servers are held for calls to a service that changes: how long, is taken as now.
    pub(super) held_for_changed: bool,
    /// Standard deviation of a mean wait by chance, times the root of the visits it is of; 0 where no queue is known.
    pub(super) noise_of_one_ms: f64,
    /// Of a model server.
    pub(super) lm_then: Option<LmPrediction>,
}

/// A value and how far it may be off to either side; endless where it has no bound.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Range {
    pub(super) value: f64,
    pub(super) below: f64,
    pub(super) above: f64,
}

impl Range {
    /// The sum of independent values, each so many times.
    pub(super) fn sum(terms: impl Iterator<Item = (f64, Self)>) -> Self {
        terms.fold(Self::default(), |all, (times, term)| Self {
            value: all.value + times * term.value,
            below: all.below.hypot(times * term.below),
            above: all.above.hypot(times * term.above),
        })
    }

    /// The lower end; no time is below 0.
    pub(super) fn low(self) -> f64 {
        (self.value - self.below).max(0.0)
    }

    /// The upper end; `None` where there is none.
    pub(super) fn high(self) -> Option<f64> {
        Some(self.value + self.above).filter(|high| high.is_finite())
    }

    /// With another value within or beyond the same ends.
    fn moved_to(self, value: f64) -> Self {
        let (low, high) = (self.value - self.below, self.value + self.above);
        Self { value, below: (value - low).max(0.0), above: (high - value).max(0.0) }
    }

    /// With another, independent doubt.
    pub(super) fn widened(self, by: f64) -> Self {
        Self { below: self.below.hypot(by), above: self.above.hypot(by), ..self }
    }
}

impl Effect {
    /// `looped` is the wait now and then where all queues were solved together.
    pub(super) fn of(service: &ServiceView, own: &Factors, rate_then: f64, looped: Option<(f64, f64)>) -> Self {
        let growth = rate_then / service.rate_per_s.max(1e-9);
        let effect = batches::effect(service, rate_then, growth)
            .or_else(|| Self::of_queue(&service.estimate, own, (rate_then, growth), looped))
            .unwrap_or_else(|| Self::unknown(service, (rate_then, growth), own));
        // where nothing changes nothing comes to it, whatever its model is off by
        let as_now = (growth - 1.0).abs() < 1e-12 && *own == Factors::NONE;
        if as_now { Self { added: Some(Range::default()), ..effect } } else { effect }
    }

    /// `None` of one that is not known.
    fn of_queue(
        estimate: &Estimate,
        own: &Factors,
        (rate_then, growth): (f64, f64),
        looped: Option<(f64, f64)>,
    ) -> Option<Self> {
        let (was, now) = (Load::steady(estimate)?, Load::now(estimate)?);
        let takes_ms = own.service_time_ms(now.service_time_ms, estimate);
        let then = Load {
            arrival_rate_per_s: now.arrival_rate_per_s * growth,
            service_time_ms: takes_ms * own.mix.mean,
            servers: u32::try_from(i64::from(now.servers) + own.servers).unwrap_or(1),
            cs2: own.mix.cs2(now.cs2) * own.cs2,
            ..now
        };
        // of another mix none takes longer by itself
        let longer_ms = takes_ms - now.service_time_ms;
        let (model_was, model_now, model_then) = match looped {
            Some((now, then)) => (Some(now), Some(now), Some(then)),
            None => (queue_wait_ms(estimate, &was), queue_wait_ms(estimate, &now), queue_wait_ms(estimate, &then)),
        };
        let calibration = calibration(estimate, &was, model_was);
        let drift_ms = model_was.zip(model_now).map_or(0.0, |(was, now)| calibration.scale * (now - was));
        let measured = measured(estimate).map(|(wait, _)| wait);
        let wait = measured.map(|wait| (wait + drift_ms).max(0.0)).or(model_now.map(|now| calibration.scale * now));
        let wait_then = model_then.map(|model_then| wait_then(estimate, calibration, &then, model_then));
        // of a queue that has no bound now the mean that was measured bounds nothing
        let waits_now = model_now.and(wait);
        let wait_then = wait_then.map(|then| no_other_way(then, waits_now, growth, own));
        Some(Self {
            rate: now.arrival_rate_per_s,
            rate_then,
            utilization_then: Some(utilization(estimate, &then)),
            wait,
            drift_ms,
            wait_then,
            added: wait_then.map(|then| added(estimate, longer_ms, wait.unwrap_or(then.value), then)),
            residence_then: wait_then
                .map(|wait| Range { value: wait.value + takes_ms - estimate.held_ms.unwrap_or(0.0), ..wait }),
            refused_then: refused(estimate, &now, &then),
            identified: true,
            held_for_changed: false,
            noise_of_one_ms: measured.map_or(0.0, |wait| wait * interval::wait_noise(&was, 1.0)),
            lm_then: None,
        })
    }

    /// Its wait is taken not to change, though it may; what a changed service time of an unknown queue does is not known.
    fn unknown(service: &ServiceView, (rate_then, growth): (f64, f64), own: &Factors) -> Self {
        let may_change = unknown::change_ms(service, growth);
        let (below, above) = if growth < 1.0 { (may_change, 0.0) } else { (0.0, may_change) };
        Self {
            rate: service.rate_per_s,
            rate_then,
            utilization_then: None,
            wait: service.estimate.queue_wait_ms.observed,
            drift_ms: 0.0,
            wait_then: None,
            added: (own.service_time == 1.0).then_some(Range { value: 0.0, below, above }),
            residence_then: None,
            refused_then: None,
            identified: false,
            held_for_changed: false,
            noise_of_one_ms: 0.0,
            lm_then: None,
        }
    }

    pub(super) fn view(&self, service: &ServiceView) -> Option<ServicePrediction> {
        let changes = (self.rate_then - service.rate_per_s).abs() > 1e-9 || self.added != Some(Range::default());
        (changes && service.kind == NodeKind::Service).then(|| ServicePrediction {
            service: service.service.clone(),
            arrival_rate_per_s: self.rate,
            arrival_rate_per_s_then: self.rate * self.rate_then / service.rate_per_s.max(1e-9),
            utilization_then: self.utilization_then,
            queue_wait_ms: self.wait,
            queue_wait_ms_then: self.wait_then.map(|wait| wait.value),
            queue_wait_low_ms: self.wait_then.map(Range::low),
            queue_wait_high_ms: self.wait_then.and_then(Range::high),
            refused_ratio_then: self.refused_then,
            saturated: self.identified && self.wait_then.is_none(),
            reason: match self.identified {
                true => self.held_for_changed.then(|| HELD.to_owned()),
                false => Some(unknown::reason(&service.estimate)),
            },
            lm_then: self.lm_then,
        })
    }
}

fn utilization(estimate: &Estimate, then: &Load) -> f64 {
    match &estimate.scaling {
        Some(law) => {
            let peak = law.peak_rate_per_s.unwrap_or(f64::INFINITY) * f64::from(estimate.replicas.unwrap_or(1));
            let slower = then.service_time_ms / (1e3 / law.gamma_per_s);
            then.arrival_rate_per_s * slower / peak
        }
        None => then.arrival_rate_per_s * then.service_time_ms / 1e3 / f64::from(then.servers),
    }
}

fn refused(estimate: &Estimate, now: &Load, then: &Load) -> Option<f64> {
    let limit = estimate.limited.as_ref()?;
    let offered = limit.offered_rate_per_s * then.arrival_rate_per_s / now.arrival_rate_per_s.max(1e-9);
    let servers = std::num::NonZeroU32::new(then.servers)?;
    mmck::solve(offered, then.service_time_ms / 1e3, servers, limit.room).map(|found| found.rejected_ratio)
}

/// What the model is scaled by, and the standard deviation of its logarithm.
#[derive(Clone, Copy, Debug)]
struct Calibration {
    scale: f64,
    deviation: f64,
}

/// The wait then, fitted to what is measured.
fn wait_then(estimate: &Estimate, calibration: Calibration, then: &Load, model_then: f64) -> Range {
    let value = model_then * calibration.scale;
    let deviation = interval::deviation(estimate, then);
    let deviation = deviation.map(|deviation| deviation.hypot(calibration.deviation).hypot(CHANGE_ERROR));
    let above = deviation.map(|deviation| value * ((NINETY_FIVE * deviation).exp() - 1.0));
    let below = above.map_or(value, |above| value * above / (value + above).max(1e-12));
    Range { value, below, above: above.unwrap_or(f64::INFINITY) }
}

/// With nothing changed but arrivals, more wait no less than now and fewer no longer, whatever the noise of what is measured says.
fn no_other_way(then: Range, now: Option<f64>, growth: f64, own: &Factors) -> Range {
    let only_arrivals = Factors { arrivals: 1.0, mix: Mix::AS_NOW, ..*own } == Factors::NONE;
    match now.filter(|_| only_arrivals) {
        Some(now) if growth >= 1.0 => then.moved_to(then.value.max(now)),
        Some(now) => then.moved_to(then.value.min(now)),
        None => then,
    }
}

/// Of a queue that grows without bound now nothing can be fitted: what is measured is how long it has grown.
fn calibration(estimate: &Estimate, was: &Load, model: Option<f64>) -> Calibration {
    let Some(model) = model else { return Calibration { scale: 1.0, deviation: MAY_BE_OFF } };
    let as_it_is = Calibration { scale: 1.0, deviation: 0.0 };
    let Some((measured, samples)) = measured(estimate) else { return as_it_is };
    if model < MIN_CALIBRATING_MS || measured < MIN_CALIBRATING_MS {
        return as_it_is;
    }
    let noise = interval::wait_noise(was, samples);
    let believed = MAY_BE_OFF.powi(2) / (MAY_BE_OFF.powi(2) + noise.powi(2));
    let ratio = (measured / model).clamp(1.0 / MAX_CALIBRATION, MAX_CALIBRATION);
    Calibration { scale: ratio.powf(believed), deviation: believed * noise }
}

/// The mean wait that was measured, and over how many requests.
fn measured(estimate: &Estimate) -> Option<(f64, f64)> {
    match &estimate.steady {
        Some(steady) => Some((steady.queue_wait_ms, steady.samples as f64)),
        None => estimate.queue_wait_ms.observed_app.map(|wait| (wait, estimate.samples as f64)),
    }
}

/// What a request takes more: the wait then less the one that it waits now, and the service time's change.
fn added(estimate: &Estimate, longer: f64, waits: f64, wait: Range) -> Range {
    // S is known to some percent, and so is what it changes by
    let error = estimate.service_time_ms_error.unwrap_or(0.0) / estimate.service_time_ms.unwrap_or(1.0).max(1e-12);
    let of_longer = longer.abs() * error;
    Range { value: wait.value - waits + longer, ..wait.widened(of_longer) }
}
