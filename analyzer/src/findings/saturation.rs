//! Utilization that grows by a trend and reaches 1 soon.
//!
//! Whether there is a trend is asked by ranks (H. Mann, Econometrica 13, 1945; M. Kendall, Rank Correlation Methods,
//! 1948), how steep it is by the median of the slopes between all pairs of windows, with its 95 % interval (P. Sen, JASA
//! 63, 1968): neither minds single windows. A step is no trend, so the newer half must grow too. What
//! is seen is carried on for twice as long as it was seen and no further. Where the number of servers cannot be told, there
//! is no utilization and nothing is said.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{action, budget, history::Learnt, kind::Kind, scene::Scene, statements, suspicion::Suspicion};
use crate::{
    estimate::interval::NINETY_FIVE,
    robust::median,
    snapshot::{Estimate, Evidence},
    spans::Name,
    trend::{score_deviation, slopes},
};

/// Windows of a trend: ten minutes at 10 s.
const POINTS: usize = 60;

/// Fewer cannot be told from chance.
const MIN_POINTS: usize = 20;

/// Below this there is time.
const MIN_UTILIZATION: f64 = 0.5;

/// A trend is carried on for so many times as long as it was seen.
const CARRIED_ON: f64 = 2.0;

/// Deviations of the newer half alone.
const STILL_GROWS: f64 = 2.0;

/// Estimates that are less sure are not looked at.
const MIN_CONFIDENCE: f64 = 0.2;

/// Utilization over the last windows, or another value that may have a course.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Trend {
    /// Seconds since the first that was seen, and the value.
    points: VecDeque<(f64, f64)>,
    began: UnixNanos,
}

/// What a trend comes to.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Ahead {
    utilization: f64,
    /// Until ρ is 1, in seconds: likely, soonest and latest.
    seconds: f64,
    soonest: f64,
    latest: f64,
    deviations: f64,
}

/// What it was over the newest windows.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Level {
    pub(super) mean: f64,
    /// The standard error of it, by how much windows differ.
    pub(super) error: f64,
    pub(super) windows: usize,
}

/// How fast it grew over the newest windows, beyond chance.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Growth {
    /// In a second.
    pub(super) per_s: f64,
    pub(super) deviations: f64,
    pub(super) windows: usize,
}

impl Learnt for Trend {
    fn learnt_from(&self) -> u64 {
        self.points.len() as u64
    }
}

impl Trend {
    pub(super) fn push(&mut self, at: UnixNanos, utilization: f64) {
        if self.points.is_empty() {
            self.began = at;
        }
        self.points.push_back(((at - self.began) as f64 / 1e9, utilization));
        if self.points.len() > POINTS {
            self.points.pop_front();
        }
    }

    /// The newest windows, of so many seconds each; `None` of too few, or where more windows than these lie between them.
    fn newest(&self, window_s: f64) -> Option<Vec<(f64, f64)>> {
        let newest: Vec<(f64, f64)> =
            self.points.iter().skip(self.points.len().checked_sub(MIN_POINTS)?).copied().collect();
        let lately = newest.last()?.0 - newest.first()?.0 <= 2.0 * window_s * MIN_POINTS as f64;
        lately.then_some(newest)
    }

    /// The mean of the newest windows.
    pub(super) fn level(&self, window_s: f64) -> Option<Level> {
        let newest = self.newest(window_s)?;
        let n = newest.len() as f64;
        let mean = newest.iter().map(|(_, value)| value).sum::<f64>() / n;
        let variance = newest.iter().map(|(_, value)| (value - mean).powi(2)).sum::<f64>() / (n - 1.0);
        Some(Level { mean, error: (variance / n).sqrt(), windows: newest.len() })
    }

    /// How fast the newest windows grow; `None` where they may not.
    pub(super) fn growth(&self, window_s: f64) -> Option<Growth> {
        let newest = self.newest(window_s)?;
        let (score, deviation) = kendall(&newest);
        let deviations = score / deviation;
        if deviations < budget::deviations(usize::MAX) {
            return None;
        }
        let slopes = slopes(&newest);
        let per_s = *slopes.get(slopes.len() / 2)?;
        Some(Growth { per_s, deviations, windows: newest.len() })
    }

    fn ahead(&self) -> Option<Ahead> {
        let points: Vec<(f64, f64)> = self.points.iter().copied().collect();
        let (first, last) = (points.first()?.0, points.last()?.0);
        let (score, deviation) = kendall(&points);
        let deviations = score / deviation;
        let enough = points.len() >= MIN_POINTS && deviations >= budget::deviations(usize::MAX);
        if !enough {
            return None;
        }
        let newer = &points[points.len() / 2..];
        let (newer_score, newer_deviation) = kendall(newer);
        let slopes = slopes(&points);
        let at = |place: f64| slopes.get(place.clamp(0.0, slopes.len() as f64 - 1.0) as usize).copied();
        let (n, slope) = (slopes.len() as f64, at(slopes.len() as f64 / 2.0)?);
        let half = NINETY_FIVE * deviation;
        let utilization = median(points.iter().map(|(at, rho)| rho + slope * (last - at)).collect())?;
        let until = |slope: f64| if slope > 0.0 { (1.0 - utilization) / slope } else { f64::INFINITY };
        let ahead = Ahead {
            utilization,
            seconds: until(slope),
            soonest: until(at((n + half) / 2.0)?),
            latest: until(at((n - half) / 2.0)?),
            deviations,
        };
        let soon = ahead.seconds <= CARRIED_ON * (last - first) && (MIN_UTILIZATION..1.0).contains(&utilization);
        (soon && newer_score >= STILL_GROWS * newer_deviation).then_some(ahead)
    }
}

/// Pairs that rise less those that fall, and its standard deviation without a trend.
fn kendall(points: &[(f64, f64)]) -> (f64, f64) {
    let pairs = points.iter().enumerate().flat_map(|(place, a)| points[place + 1..].iter().map(move |b| (a, b)));
    let score: f64 = pairs.map(|(a, b)| f64::from(b.1.total_cmp(&a.1) as i8)).sum();
    (score, score_deviation(points.len()))
}

/// The utilization of an estimate that is sure enough.
pub(super) fn utilization(estimate: &Estimate) -> Option<f64> {
    estimate.utilization.filter(|_| estimate.confidence >= MIN_CONFIDENCE)
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let services = scene.window.services.keys();
    services.filter_map(|service| suspicion(scene, *service)).collect()
}

fn suspicion(scene: &Scene, service: Name) -> Option<Suspicion> {
    let estimate = scene.estimate(service)?;
    utilization(estimate)?;
    let trend = scene.history.trends.get(service)?;
    let ahead = trend.ahead()?;
    let text = scene.text(service);
    let minutes = ahead.seconds / 60.0;
    let percent = ahead.utilization * 100.0;
    let latest = if ahead.latest.is_finite() { format!("{:.0}", ahead.latest / 60.0) } else { "no bound".into() };
    let sentence = format!(
        "utilization of {text} is {percent:.0} % and reaches 100 % in {minutes:.0} min ({:.0} to {latest}; {} windows, {:.0} standard deviations of no trend)",
        ahead.soonest / 60.0,
        trend.points.len(),
        ahead.deviations
    );
    let shown = trend.began.max(scene.shown().start - scene.window.length_ns * POINTS as i64)..scene.window.end;
    let evidence = Evidence::number(sentence, minutes, "min")
        .with_trace(scene.slowest(service))
        .with_sql(statements::durations(text, &shown));
    Some(Suspicion {
        touched: 0.0,
        confidence: estimate.confidence * (1.0 - 3.0 / ahead.deviations.max(3.0)),
        onset: trend.began + (trend.points.front()?.0 * 1e9) as i64,
        summary: format!("{text} is {percent:.0} % busy and will be saturated in {minutes:.0} min if it goes on so"),
        action: action::saturation_ahead(scene, service, estimate, minutes),
        evidence: vec![evidence],
        ..Suspicion::of(Kind::SaturationAhead, service, scene)
    })
}

#[cfg(test)]
mod tests {
    use rand::{Rng, SeedableRng, rngs::StdRng};

    use super::*;

    fn trend(seed: u64, utilization: impl Fn(f64) -> f64) -> Option<Ahead> {
        let mut random = StdRng::seed_from_u64(seed);
        let mut trend = Trend::default();
        for window in 0..60 {
            let noise = 0.05 * (random.random::<f64>() - 0.5);
            trend.push(window * 10_000_000_000, utilization(window as f64 / 60.0) + noise);
        }
        trend.ahead()
    }

    #[test]
    fn time_to_saturation_is_that_of_the_slope() {
        for seed in 0..20 {
            let ahead = trend(seed, |t| 0.4 + 0.3 * t).unwrap_or_else(|| panic!("seed {seed}"));
            assert!((ahead.seconds - 600.0).abs() < 100.0, "seed {seed}: {ahead:?}");
            assert!(ahead.soonest <= ahead.seconds && ahead.latest >= ahead.seconds);
        }
    }

    #[test]
    fn a_level_is_of_windows_that_follow_each_other() {
        let mut trend = Trend::default();
        (0..19).for_each(|window| trend.push(window * 10_000_000_000, 0.5));
        assert_eq!(trend.level(10.0), None, "too few");
        for window in 19..60 {
            trend.push(window * 10_000_000_000, if window % 2 == 0 { 0.9 } else { 1.0 });
        }
        let level = trend.level(10.0).unwrap();
        assert!((level.mean - 0.95).abs() < 1e-9 && (level.error - 0.0115).abs() < 1e-3, "{level:?}");
        assert_eq!(trend.growth(10.0), None, "it is as it was");
        trend.push(7_200_000_000_000, 0.95);
        assert_eq!(trend.level(10.0), None, "hours lie between");
    }

    #[test]
    fn growth_is_that_of_the_newest_windows() {
        let mut trend = Trend::default();
        (0..40_i64).for_each(|window| trend.push(window * 10_000_000_000, 900.0 * (window - 20).max(0) as f64));
        let growth = trend.growth(10.0).unwrap();
        assert!((growth.per_s - 90.0).abs() < 1e-9 && growth.deviations > 6.0, "{growth:?}");
    }

    #[test]
    fn steps_noise_slow_growth_and_idle_services_are_no_trend() {
        for seed in 0..20 {
            assert_eq!(trend(seed, |_| 0.7), None, "seed {seed}");
            assert_eq!(trend(seed, |t| if t > 0.5 { 0.8 } else { 0.5 }), None, "seed {seed}");
            assert_eq!(trend(seed, |t| 0.1 + 0.2 * t), None, "seed {seed}");
            assert_eq!(trend(seed, |t| 0.5 + 0.05 * t), None, "seed {seed}: an hour and a half is too far to say");
        }
    }
}
