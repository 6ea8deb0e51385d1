//! [`Limited`]: a limit on who may be there, and what it does: M/M/c/K for requests that come at the offered rate.
//!
//! K is what the policy says, places and queue of all replicas together; or, where none of ours is in force, the most requests seen there at once
//! while some were refused, for then it was full. A request that waits for calls to others holds a place, but no server: by
//! Little's law those take `λ·D` of the room on average.

use std::num::NonZeroU32;

use super::predict;
use crate::{
    model::Model,
    queueing::mmck,
    snapshot::{Estimate, Limited, ServiceView},
    window::ServiceWindow,
};

/// A limit that refuses fewer is no part of what is seen.
const MIN_REFUSED: f64 = 0.001;

/// Whether the limit is felt.
pub(super) fn refuses(limited: &Limited) -> bool {
    limited.refused_ratio.max(limited.refused_ratio_predicted) >= MIN_REFUSED
}

/// Adds the limit that refused requests in this window.
pub(super) fn seen(estimate: Estimate, service: &ServiceWindow, seconds: f64) -> Estimate {
    let Some(room) = service.station.most_there.filter(|room| *room > 0) else { return estimate };
    let offered = estimate.arrival_rate_per_s + service.refused as f64 / seconds;
    let elsewhere_ms = estimate.elsewhere_ms(service.downstream_ms.mean().unwrap_or(0.0));
    let limit = Limited { room, by_policy: false, offered_rate_per_s: offered, ..Limited::default() };
    under(estimate, limit, elsewhere_ms)
}

/// Puts a service under the limit of a policy: so many places and so many in the queue of all replicas together.
pub(crate) fn under_policy(service: &mut ServiceView, places: u32, queue: u32) {
    let estimate = std::mem::take(&mut service.estimate);
    let limit = Limited {
        room: places.saturating_add(queue),
        by_policy: true,
        offered_rate_per_s: estimate.limited.as_ref().map_or(service.rate_per_s, |seen| seen.offered_rate_per_s),
        ..Limited::default()
    };
    let elsewhere_ms = estimate.elsewhere_ms(service.downstream_ms);
    service.estimate = predict(under(estimate, limit, elsewhere_ms));
}

/// The estimate with what the limit does by M/M/c/K, which becomes its model when that is felt.
fn under(mut estimate: Estimate, limit: Limited, elsewhere_ms: f64) -> Estimate {
    let Some((service_ms, servers)) = estimate.service_time_ms.zip(estimate.servers.and_then(NonZeroU32::new)) else {
        return estimate;
    };
    let elsewhere = (estimate.arrival_rate_per_s * elsewhere_ms / 1e3).round() as u32;
    let room = limit.room.saturating_sub(elsewhere).max(servers.get());
    let Some(found) = mmck::solve(limit.offered_rate_per_s, service_ms / 1e3, servers, room) else { return estimate };
    let limited = Limited {
        room,
        refused_ratio: 1.0 - estimate.arrival_rate_per_s / limit.offered_rate_per_s.max(1e-9),
        refused_ratio_predicted: found.rejected_ratio,
        queue_wait_ms_predicted: found.queue_wait * 1e3,
        ..limit
    };
    let open = !matches!(Model::of(&estimate), Some(Model::Mva | Model::Usl));
    if open && refuses(&limited) {
        estimate.model = Model::Mmck.as_str().into();
    }
    Estimate { limited: Some(limited), ..estimate }
}
