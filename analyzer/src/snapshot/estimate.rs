//! [`Estimate`]: the queue of a service for people: what was measured, which model, and how sure.

use serde::{Deserialize, Serialize};

/// The queue of a service: what was measured, which model, and how sure.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct Estimate {
    /// λ: requests served per second.
    pub arrival_rate_per_s: f64,
    /// S; `None` when it cannot be identified.
    pub service_time_ms: Option<f64>,
    /// What of S a server is held for while calls to others are awaited (a thread a request); `None` where it is not, or that
    /// cannot be told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub held_ms: Option<f64>,
    /// Half the width of the 95 % interval of S.
    #[serde(default)]
    pub service_time_ms_error: Option<f64>,
    /// c, of all replicas together.
    pub servers: Option<u32>,
    /// Where c cannot be told because requests hardly ever wait, as many as were seen busy at once: it is these or more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub servers_at_least: Option<u32>,
    /// Replicas, each with a queue of its own; 1 where spans do not say which.
    #[serde(default)]
    pub replicas: Option<u32>,
    /// ρ = λS/c.
    pub utilization: Option<f64>,
    /// Half the width of the 95 % interval of ρ.
    #[serde(default)]
    pub utilization_error: Option<f64>,
    /// Wq.
    pub queue_wait_ms: QueueWait,
    /// Squared coefficient of variation of the times between arrivals at a replica.
    pub ca2: Option<f64>,
    /// Half the width of its 95 % interval.
    #[serde(default)]
    pub ca2_error: Option<f64>,
    /// The same of service times.
    pub cs2: Option<f64>,
    /// Half the width of its 95 % interval.
    #[serde(default)]
    pub cs2_error: Option<f64>,
    /// How much λ may grow, as a share, until ρ reaches 1.
    pub headroom: Option<f64>,
    /// `mm1`, `mmc`, `mg1`, `gg1`, `ggc`, `ps` (shared), `mmck` (a limit in force), `usl` (requests hinder each other),
    /// `mva` (clients that wait for their answer), `lm` (batches of a model server) or `unknown`.
    pub model: String,
    /// How S and c were found.
    pub rule: String,
    /// Probability that the estimate holds: that of its rule, less where what was observed disagrees grossly.
    pub confidence: f64,
    /// Probability that S and c are right, by how they were found and from how many requests.
    #[serde(default)]
    pub rule_confidence: f64,
    /// Spans behind it.
    pub samples: u64,
    /// Why something is not identifiable.
    pub reason: Option<String>,
    /// The wait under more load.
    pub what_if: Vec<WhatIf>,
    /// Standard deviations between the wait that was observed and the one predicted: far from 0, the model does not hold. Of the windows
    /// in [`Estimate::steady`]; `None` where either is missing or too short to tell.
    #[serde(default)]
    pub mismatch: Option<f64>,
    /// What held over the last windows: surer than this one alone, so predictions start from it.
    #[serde(default)]
    pub steady: Option<Steady>,
    /// Rate and response time over the last windows that are alike, whether or not its queue is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lately: Option<Lately>,
    /// Service times by operation, most of the work first.
    #[serde(default)]
    pub operations: Vec<OperationTime>,
    /// Each replica that its spans name.
    #[serde(default)]
    pub by_replica: Vec<ReplicaEstimate>,
    /// A limit in force, or one that refuses requests.
    #[serde(default)]
    pub limited: Option<Limited>,
    /// How requests hinder each other.
    #[serde(default)]
    pub scaling: Option<Scaling>,
    /// A loop of clients that wait for their answer.
    #[serde(default)]
    pub closed: Option<Closed>,
    /// What it can take, and when it will have to.
    #[serde(default)]
    pub capacity: Option<Capacity>,
}

impl Estimate {
    /// What a request that waits so long for calls waits without a server of this service.
    pub(crate) fn elsewhere_ms(&self, downstream_ms: f64) -> f64 {
        if self.held_ms.is_some() { 0.0 } else { downstream_ms }
    }

    /// S without what a server is held for.
    pub(crate) fn own_service_ms(&self) -> Option<f64> {
        Some((self.service_time_ms? - self.held_ms.unwrap_or(0.0)).max(0.0))
    }
}

/// The wait before service, predicted and measured.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub struct QueueWait {
    /// By the model.
    pub predicted: Option<f64>,
    /// Lower end of its 95 % interval: of λ, S, ca2, cs2 and of the model itself.
    #[serde(default)]
    pub predicted_low: Option<f64>,
    /// The upper end; `None` when ρ within its interval reaches 1.
    #[serde(default)]
    pub predicted_high: Option<f64>,
    /// In proxy and application together.
    pub observed: Option<f64>,
    /// In the proxy.
    pub observed_proxy: Option<f64>,
    /// For the application's own workers, reconstructed.
    pub observed_app: Option<f64>,
}

/// The loads that are predicted without being asked, as multiples of what comes now.
pub(crate) const LOAD_FACTORS: [f64; 4] = [1.1, 1.2, 1.5, 2.0];

/// The predicted wait when arrivals grow.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct WhatIf {
    /// λ is multiplied by this.
    pub load_factor: f64,
    /// Wq then; `None` when the queue would grow without bound.
    pub queue_wait_ms: Option<f64>,
}

/// What held over the last windows.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Steady {
    /// So many windows, this one included.
    pub windows: u32,
    /// Requests served in them.
    pub samples: u64,
    /// λ, their mean.
    pub arrival_rate_per_s: f64,
    /// λ at the end of the newest, where they rise or fall beyond chance: predictions are of that one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_rate_per_s_newest: Option<f64>,
    /// Its standard error.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub arrival_rate_per_s_deviation: Option<f64>,
    /// S.
    pub service_time_ms: f64,
    /// ca2.
    pub ca2: f64,
    /// Its standard error.
    pub ca2_deviation: f64,
    /// cs2.
    pub cs2: f64,
    /// Its standard error.
    pub cs2_deviation: f64,
    /// Observed wait for the application's own workers.
    pub queue_wait_ms: f64,
    /// Mean duration of a request.
    pub duration_ms: f64,
    /// Its standard error, by the scatter between windows; `None` of fewer than three.
    pub duration_ms_deviation: Option<f64>,
}

/// Rate and response time over the last windows that are alike.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Lately {
    /// So many windows, this one included.
    pub windows: u32,
    /// Requests served in them.
    pub samples: u64,
    /// λ, their mean.
    pub arrival_rate_per_s: f64,
    /// Mean duration of a request.
    pub duration_ms: f64,
    /// Its standard error, by the scatter between windows; `None` of fewer than three.
    pub duration_ms_deviation: Option<f64>,
}

/// The service time of one operation.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct OperationTime {
    /// The span name.
    pub operation: String,
    /// Share of the requests.
    pub share: f64,
    /// S of it.
    pub service_time_ms: f64,
    /// Half the width of its 95 % interval.
    pub service_time_ms_error: f64,
    /// cs2 of it.
    pub cs2: f64,
    /// Requests behind it.
    pub samples: u64,
}

/// One replica: a queue of its own.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct ReplicaEstimate {
    /// Its name.
    pub instance: String,
    /// λ.
    pub arrival_rate_per_s: f64,
    /// c.
    pub servers: Option<u32>,
    /// S.
    pub service_time_ms: Option<f64>,
    /// ρ.
    pub utilization: Option<f64>,
    /// Observed wait for its workers.
    pub queue_wait_ms: Option<f64>,
    /// Why its servers are not known.
    pub reason: Option<String>,
}

/// A limit, and what it does (M/M/c/K).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Limited {
    /// K: requests there at once, served and waiting ones; one more is refused.
    pub room: u32,
    /// Whether a policy says so; else it is the most that were seen there while some were refused.
    pub by_policy: bool,
    /// Requests per second that wanted in.
    pub offered_rate_per_s: f64,
    /// Share refused for want of room, as measured.
    pub refused_ratio: f64,
    /// The same by the model.
    pub refused_ratio_predicted: f64,
    /// Wait of those let in, by the model.
    pub queue_wait_ms_predicted: f64,
}

/// Gunther's law: throughput against requests there at once.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Scaling {
    /// γ: requests per second of one alone.
    pub gamma_per_s: f64,
    /// σ: what is serial.
    pub sigma: f64,
    /// κ: what has to agree.
    pub kappa: f64,
    /// Requests at once at which throughput is most, an extrapolation where the service was never that full; `None` when more never costs.
    pub peak_in_flight: Option<f64>,
    /// Throughput there, or the bound it nears.
    pub peak_rate_per_s: Option<f64>,
}

/// Clients that wait for their answer before they ask again.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Closed {
    /// N.
    pub clients: u32,
    /// Z: mean time between an answer and the next request.
    pub think_time_ms: f64,
    /// Mean time of a request in calls to others.
    pub elsewhere_ms: f64,
}

/// What a service can take, and when it will have to.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Capacity {
    /// Arrivals per second at which ρ is 1 or throughput peaks.
    pub saturation_rate_per_s: f64,
    /// Growth of the arrival rate, per second, in an hour; `None` when it is not beyond chance.
    pub growth_per_s_per_h: Option<f64>,
    /// Lower end of its 99 % interval.
    pub growth_low_per_s_per_h: Option<f64>,
    /// The upper end.
    pub growth_high_per_s_per_h: Option<f64>,
    /// How long was looked at for it.
    pub growth_seen_s: Option<f64>,
    /// Seconds until saturation if that goes on; `None` without growth, or when it lies too far off to be said.
    pub time_to_saturation_s: Option<f64>,
    /// If it grows as fast as its interval allows. That S, too, is known to some percent only is not in it.
    pub time_to_saturation_low_s: Option<f64>,
    /// As slowly.
    pub time_to_saturation_high_s: Option<f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_servers_are_held_for_is_no_time_elsewhere_and_no_own_work() {
        let free = Estimate { service_time_ms: Some(38.0), ..Estimate::default() };
        let held = Estimate { held_ms: Some(33.0), ..free.clone() };
        assert_eq!((free.elsewhere_ms(33.0), free.own_service_ms()), (33.0, Some(38.0)));
        assert_eq!((held.elsewhere_ms(33.0), held.own_service_ms()), (0.0, Some(5.0)));
    }
}
