//! [`effect`]: what more or fewer arrivals do to a model server: the arrivals of late, closer together or further apart, replayed at its
//! batches ([`crate::lm::predict`]).
//!
//! What is added is the replay then less the replay now, so what both are off by falls out. The range is what a replay near the load that
//! was seen is within (`compare/lm`), or what replaying the past was off by, if that is more.

use super::queues::{Effect, Range};
use crate::{lm::predict, model::Model, snapshot::ServiceView};

/// Replays at a fifth more load are within this of what happens then, as a share.
const OFF: f64 = 0.09;

/// `None` of a service that is no model server, or whose batches are not known now.
pub(super) fn effect(service: &ServiceView, rate_then: f64, growth: f64) -> Option<Effect> {
    Model::of(&service.estimate).filter(|model| *model == Model::Lm)?;
    let lm = service.lm.as_ref()?;
    let estimate = lm.estimate.as_ref()?;
    let (now, then) = (lm.predicted?, predict(estimate, growth)?);
    let off = OFF.max(estimate.replay_error);
    let range = |value: f64| Range { value, below: off * value, above: off * value };
    let takes_now = now.response_time_ms.map_or(service.duration_ms_mean, |times| times.mean);
    let residence_then = then.response_time_ms.map(|times| range(times.mean));
    Some(Effect {
        rate: now.requests_per_s,
        rate_then,
        utilization_then: Some(then.utilization),
        wait: now.queue_wait_ms,
        wait_then: then.queue_wait_ms.map(range),
        drift_ms: 0.0,
        added: residence_then.map(|takes| Range { value: takes.value - takes_now, ..takes }),
        residence_then,
        refused_then: None,
        identified: true,
        held_for_changed: false,
        noise_of_one_ms: 0.0,
        lm_then: Some(then),
    })
}
