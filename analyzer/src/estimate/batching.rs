//! [`of`]: the estimate of a service that streams a model's answers, by the server that [`crate::lm`] fitted to its batches.
//!
//! A batch has no c and no S: everybody in it is served at once, each the slower the more there are, so departures are explained as well
//! by any number of servers, and every model above would be one of a station that is not there. Utilization is λ of the window
//! over the requests a second that a full batch does; waits are those of the replay, at the arrivals of late.

use super::{
    capacity,
    interval::{self, NINETY_FIVE},
};
use crate::{
    lm::LmView,
    model::Model,
    snapshot::{Estimate, QueueWait, ReplicaEstimate, WhatIf},
    trend::Trend,
};

/// How the server was found.
const RULE: &str = "batches, replayed";

/// From what confidence on batches explain a service: as likely as not. Whoever passes another's stream on looks like a batch too, of
/// which replays explain little.
const LIKELY: f64 = 0.5;

/// `None` where the server is not identified, or its batches hardly explain what is seen.
pub(super) fn of(measured: &Estimate, lm: &LmView, trend: Option<Trend>) -> Option<Estimate> {
    let explains = lm.server.is_some() && lm.confidence >= LIKELY;
    let capacity = lm.capacity_requests_per_s.filter(|rate| *rate > 0.0 && explains)?;
    let rate = measured.arrival_rate_per_s;
    let utilization = rate / capacity;
    let of_rate = interval::rate_error(measured.ca2.unwrap_or(1.0), measured.samples as f64);
    let what_if =
        |then: &crate::lm::LmPrediction| WhatIf { load_factor: then.load_factor, queue_wait_ms: then.queue_wait_ms };
    Some(Estimate {
        arrival_rate_per_s: rate,
        utilization: Some(utilization),
        utilization_error: Some(utilization * NINETY_FIVE * of_rate),
        queue_wait_ms: QueueWait {
            predicted: lm.predicted.and_then(|now| now.queue_wait_ms),
            ..measured.queue_wait_ms.clone()
        },
        ca2: measured.ca2,
        ca2_error: measured.ca2_error,
        headroom: Some(capacity::headroom(utilization)),
        replicas: lm.server.map(|server| server.replicas),
        model: Model::Lm.as_str().into(),
        rule: RULE.into(),
        confidence: lm.confidence,
        rule_confidence: lm.confidence,
        samples: lm.samples,
        what_if: lm.what_if.iter().map(what_if).collect(),
        by_replica: measured.by_replica.iter().map(arrivals).collect(),
        capacity: Some(capacity::ahead(capacity, rate, trend)),
        ..Estimate::default()
    })
}

/// What of a replica is measured whatever it is.
fn arrivals(replica: &ReplicaEstimate) -> ReplicaEstimate {
    ReplicaEstimate {
        instance: replica.instance.clone(),
        arrival_rate_per_s: replica.arrival_rate_per_s,
        ..ReplicaEstimate::default()
    }
}
