//! What may become of a queue that is not known when its arrivals change, and why it is not known.
//!
//! It is taken to wait as now. At most it changes as the queue of the fewest servers that it can have: where it hardly ever waits, as many as
//! were busy at once (M/M/c at each replica); of any other as one server that each replica has for all, under which requests whose own
//! time is R are `n = λR = ρ/(1 − ρ)` at once and at g times the arrivals take `R(1 − ρ)/(1 − gρ)`: without bound when `gρ ≥ 1`.

use std::num::NonZeroU32;

use crate::{
    model::Model,
    queueing::mmc,
    snapshot::{Estimate, ServiceView},
};

/// Milliseconds by which its requests may take longer (less, if fewer come) at so many times the arrivals; endless where there is no bound.
pub(super) fn change_ms(service: &ServiceView, growth: f64) -> f64 {
    let estimate = &service.estimate;
    let proxy_ms = estimate.queue_wait_ms.observed_proxy.unwrap_or(0.0);
    let own_s = (service.duration_ms_mean - service.downstream_ms - proxy_ms).max(0.0) / 1e3;
    // those that are gone are kept for a while
    let served = estimate.by_replica.iter().filter(|replica| replica.arrival_rate_per_s > 0.0);
    let replicas = served.count().max(1) as f64;
    let rate = service.rate_per_s / replicas;
    let at_least = estimate.servers_at_least.map(|servers| (f64::from(servers) / replicas) as u32);
    let seconds = match at_least.and_then(NonZeroU32::new) {
        Some(servers) => of_servers(rate, own_s, servers, growth),
        None => of_one(rate, own_s, growth),
    };
    seconds.map_or(f64::INFINITY, |seconds| 1e3 * seconds)
}

fn of_servers(rate: f64, own_s: f64, servers: NonZeroU32, growth: f64) -> Option<f64> {
    let wait = |rate: f64| mmc::queue_wait(rate, own_s, servers);
    Some((wait(rate * growth)? - wait(rate)?).abs())
}

fn of_one(rate: f64, own_s: f64, growth: f64) -> Option<f64> {
    let there = rate * own_s;
    let rho = there / (1.0 + there);
    let left = 1.0 - growth * rho;
    (left > 0.0).then(|| own_s * ((1.0 - rho) / left - 1.0).abs())
}

/// Why nothing is said of it.
pub(super) fn reason(estimate: &Estimate) -> String {
    let of_batches = || match Model::of(estimate) {
        Some(Model::Lm) => "its batches are being estimated anew",
        _ => "its queue is not known",
    };
    estimate.reason.clone().unwrap_or_else(|| of_batches().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::ReplicaEstimate;

    fn service(rate_per_s: f64, own_ms: f64, servers_at_least: Option<u32>) -> ServiceView {
        let estimate = Estimate { servers_at_least, ..Estimate::default() };
        ServiceView {
            rate_per_s,
            duration_ms_mean: own_ms + 7.0,
            downstream_ms: 7.0,
            estimate,
            ..ServiceView::default()
        }
    }

    #[test]
    fn it_may_change_as_the_queue_of_the_fewest_servers_that_it_can_have() {
        // one that is there on average: ρ = 1/2 and, with a fifth more, 10 ms·(0.5/0.4 − 1)
        assert!((change_ms(&service(100.0, 10.0, None), 1.2) - 2.5).abs() < 1e-9);
        assert!((change_ms(&service(100.0, 10.0, None), 0.5) - 10.0 / 3.0).abs() < 1e-9);
        assert_eq!(change_ms(&service(100.0, 10.0, None), 2.0), f64::INFINITY);
        let of_four = |rate| mmc::queue_wait(rate, 0.01, NonZeroU32::new(4).unwrap()).unwrap() * 1e3;
        let expected = of_four(120.0) - of_four(100.0);
        assert!((change_ms(&service(100.0, 10.0, Some(4)), 1.2) - expected).abs() < 1e-9 && expected < 0.1);
        assert_eq!(change_ms(&service(100.0, 10.0, Some(4)), 1.0), 0.0);
        assert_eq!(change_ms(&service(0.0, 0.0, None), 3.0), 0.0);
    }

    /// Replicas that were gone had their share of what came, so that less could become of it.
    #[test]
    fn replicas_that_are_gone_serve_nobody() {
        let replica = |arrival_rate_per_s| ReplicaEstimate { arrival_rate_per_s, ..ReplicaEstimate::default() };
        for at_least in [None, Some(4)] {
            let alone = service(100.0, 10.0, at_least);
            let mut replaced = alone.clone();
            replaced.estimate.by_replica = vec![replica(0.0), replica(100.0), replica(0.0)];
            assert_eq!(change_ms(&replaced, 1.2), change_ms(&alone, 1.2));
        }
    }
}
