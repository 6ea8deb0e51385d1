//! [`queue_wait_ms`]: the wait that an estimate's model predicts, at any load, service time and number of servers.

use std::num::NonZeroU32;

use crate::{
    queueing::{ggc, mmc},
    snapshot::Estimate,
};

/// Milliseconds in the queue; `None` when it would grow without bound, or no model was found.
///
/// Each replica has its share of the arrivals and of the servers. Of a stream from which some are taken at random
/// the times between arrivals are more like Poisson's: `ca²/m + (m−1)/m` for one in m (W. Whitt, "The queueing
/// network analyzer", Bell System Technical Journal 62, 1983).
#[must_use]
pub fn queue_wait_ms(estimate: &Estimate, arrival_rate_per_s: f64, service_ms: f64, servers: u32) -> Option<f64> {
    let replicas = estimate.replicas.unwrap_or(1).clamp(1, servers.max(1));
    let servers = NonZeroU32::new(servers / replicas)?;
    let share = f64::from(replicas);
    let (rate, service_s) = (arrival_rate_per_s / share, service_ms / 1e3);
    let seconds = match estimate.model.as_str() {
        "ps" => mmc::queue_wait(rate, service_s, servers),
        "gg1" | "ggc" => {
            let ca2 = (estimate.ca2.unwrap_or(1.0) + share - 1.0) / share;
            ggc::queue_wait(rate, service_s, servers, ca2, estimate.cs2.unwrap_or(1.0))
        }
        _ => None,
    };
    seconds.map(|seconds| seconds * 1e3)
}
