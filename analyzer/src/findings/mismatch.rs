//! Services whose measured wait is not the one their model predicts, for many windows.
//!
//! Both are compared as sums over the last thirty windows, weighted by requests, because the wait of one window varies
//! too much at high utilization. It must differ by a factor of two and by a quarter of a service time, on the same
//! side in four windows of five, over five minutes at least. Windows in which something is wrong are left out.

use std::collections::VecDeque;

use serde::{Deserialize, Serialize};
use weir_schema::UnixNanos;

use super::{action, history::Learnt, kind::Kind, scene::Scene, statements, suspicion::Suspicion};
use crate::{
    snapshot::{Estimate, Evidence},
    spans::Name,
};

/// Windows that are compared.
const WINDOWS: usize = 30;

/// And how long they must last.
const MIN_SPAN_NS: i64 = 300_000_000_000;

/// Factor between what is predicted and what is seen.
const FACTOR: f64 = 2.0;

/// Difference as a share of the service time: below it nobody minds.
const OF_SERVICE_TIME: f64 = 0.25;

/// Windows on the same side.
const SAME_SIDE: f64 = 0.8;

/// Requests of a window that tell a wait.
const MIN_SAMPLES: u64 = 30;

/// Estimates that are less sure are not held to what they predict.
const MIN_CONFIDENCE: f64 = 0.2;

/// Waits of the last windows.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Waits {
    windows: VecDeque<Wait>,
}

/// Of one window: means of its requests.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Wait {
    pub(super) at: UnixNanos,
    pub(super) predicted_ms: f64,
    pub(super) observed_ms: f64,
    pub(super) service_ms: f64,
    pub(super) requests: f64,
}

impl Wait {
    /// `None` where the model predicts nothing, or anything: near saturation its interval has no upper end.
    pub(super) fn of(estimate: &Estimate, at: UnixNanos) -> Option<Self> {
        // that it disagrees is what is looked for
        let sure = estimate.rule_confidence >= MIN_CONFIDENCE && estimate.samples >= MIN_SAMPLES;
        let wait = &estimate.queue_wait_ms;
        let unbounded = wait.predicted_low.is_some() && wait.predicted_high.is_none();
        (sure && !unbounded).then_some(Self {
            at,
            predicted_ms: estimate.queue_wait_ms.predicted?,
            observed_ms: estimate.queue_wait_ms.observed?,
            service_ms: estimate.service_time_ms?,
            requests: estimate.samples as f64,
        })
    }
}

impl Learnt for Waits {
    fn learnt_from(&self) -> u64 {
        self.windows.len() as u64
    }
}

impl Waits {
    pub(super) fn push(&mut self, wait: Wait) {
        self.windows.push_back(wait);
        if self.windows.len() > WINDOWS {
            self.windows.pop_front();
        }
    }

    /// Predicted and observed, when they do not fit.
    fn mismatch(&self) -> Option<(f64, f64)> {
        let long_enough = self.windows.back()?.at - self.windows.front()?.at >= MIN_SPAN_NS - MIN_SPAN_NS / 20;
        let requests: f64 = self.windows.iter().map(|wait| wait.requests).sum();
        let mean = |value: fn(&Wait) -> f64| {
            self.windows.iter().map(|wait| value(wait) * wait.requests).sum::<f64>() / requests.max(1.0)
        };
        let (predicted, observed) = (mean(|w| w.predicted_ms), mean(|w| w.observed_ms));
        let differ = (observed - predicted).abs() >= OF_SERVICE_TIME * mean(|w| w.service_ms)
            && (observed > FACTOR * predicted || predicted > FACTOR * observed);
        let above = observed > predicted;
        let same = self.windows.iter().filter(|wait| (wait.observed_ms > wait.predicted_ms) == above).count();
        let standing = same as f64 >= SAME_SIDE * WINDOWS as f64;
        (self.windows.len() == WINDOWS && long_enough && differ && standing).then_some((predicted, observed))
    }
}

pub(super) fn suspicions(scene: &Scene) -> Vec<Suspicion> {
    let services = scene.window.services.keys();
    services.filter_map(|service| suspicion(scene, *service)).collect()
}

fn suspicion(scene: &Scene, service: Name) -> Option<Suspicion> {
    let waits = scene.history.waits.get(service)?;
    let (predicted, observed) = waits.mismatch()?;
    let estimate = scene.estimate(service)?;
    let text = scene.text(service);
    let model = &estimate.model;
    let sentence = format!("requests wait {observed:.1} ms at {text}; {model} predicts {predicted:.1} ms");
    let evidence = Evidence::number(sentence, observed, "ms")
        .with_trace(scene.slowest(service))
        .with_sql(statements::durations(text, &scene.shown()));
    Some(Suspicion {
        touched: 0.0,
        confidence: estimate.rule_confidence,
        onset: waits.windows.front()?.at - scene.window.length_ns,
        summary: format!("the wait at {text} is {observed:.1} ms where its model says {predicted:.1} ms"),
        action: action::model_mismatch(text, estimate, observed > predicted),
        evidence: vec![evidence],
        ..Suspicion::of(Kind::ModelMismatch, service, scene)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn waits(pairs: impl Iterator<Item = (f64, f64)>) -> Option<(f64, f64)> {
        let mut waits = Waits::default();
        for (window, (predicted_ms, observed_ms)) in (0..).zip(pairs) {
            let at = window * 10_000_000_000;
            waits.push(Wait { at, predicted_ms, observed_ms, service_ms: 20.0, requests: 100.0 });
        }
        waits.mismatch()
    }

    #[test]
    fn a_standing_mismatch_is_told_from_one_bad_window() {
        assert_eq!(waits((0..40).map(|_| (5.0, 30.0))), Some((5.0, 30.0)));
        assert_eq!(waits((0..40).map(|_| (30.0, 5.0))), Some((30.0, 5.0)));
        assert_eq!(waits((0..40).map(|n| (5.0, if n == 25 { 900.0 } else { 5.0 }))), None, "one bad window");
        assert_eq!(waits((0..40).map(|_| (0.1, 1.0))), None, "a millisecond is nothing beside 20 of service");
        assert_eq!(waits((0..20).map(|_| (5.0, 30.0))), None, "too few");
    }
}
