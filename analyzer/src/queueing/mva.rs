//! Mean value analysis of a closed network: N clients that think for Z and then visit every station.
//!
//! Exact for single servers and exponential service (M. Reiser and S. S. Lavenberg, "Mean-value analysis
//! of closed multichain queuing networks", Journal of the ACM 27, 1980):
//! `R_k(n) = D_k(1 + Q_k(n−1))`, `X(n) = n/(Z + ΣR_k)`, `Q_k(n) = X·R_k`. Stations with c servers are taken as
//! one that is c times as fast and a delay of `D(c−1)/c` (A. Seidmann, P. J. Schweitzer and S.
//! Shalev-Oren, "Computerized closed queueing network models", Performance Evaluation 7, 1987).

use std::num::NonZeroU32;

/// One station.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Demand {
    /// Visits times service time of one request (D).
    pub service: f64,
    /// c.
    pub servers: NonZeroU32,
}

/// What the network does with so many clients.
#[derive(Clone, Debug, PartialEq)]
pub struct Solution {
    /// Requests per unit of time (X).
    pub throughput: f64,
    /// Response time without thinking (R).
    pub response_time: f64,
    /// Mean number of requests at each station (Q).
    pub queue_length: Vec<f64>,
}

/// Solves for `clients`; `None` without a station, with times that are not numbers, or when nothing takes any time.
#[must_use]
pub fn solve(demands: &[Demand], think_time: f64, clients: u32) -> Option<Solution> {
    let usable = |time: f64| time.is_finite() && time >= 0.0;
    let total: f64 = demands.iter().map(|demand| demand.service).sum::<f64>() + think_time;
    if !usable(think_time) || !demands.iter().all(|demand| usable(demand.service)) || total <= 0.0 {
        return None;
    }
    let mut queue_length = vec![0.0; demands.len()];
    let (mut throughput, mut response_time) = (0.0, 0.0);
    for n in 1..=clients {
        let residence: Vec<f64> =
            demands.iter().zip(&queue_length).map(|(demand, queue)| residence(demand, *queue)).collect();
        response_time = residence.iter().sum::<f64>();
        throughput = f64::from(n) / (think_time + response_time);
        queue_length = residence.iter().map(|time| throughput * time).collect();
        // the delay half of a station with many servers holds nobody up
        for (queue, demand) in queue_length.iter_mut().zip(demands) {
            *queue -= throughput * delay(demand);
        }
    }
    for (queue, demand) in queue_length.iter_mut().zip(demands) {
        *queue += throughput * delay(demand);
    }
    (!demands.is_empty()).then_some(Solution { throughput, response_time, queue_length })
}

fn residence(demand: &Demand, queue: f64) -> f64 {
    demand.service / f64::from(demand.servers.get()) * (1.0 + queue) + delay(demand)
}

fn delay(demand: &Demand) -> f64 {
    let c = f64::from(demand.servers.get());
    demand.service * (c - 1.0) / c
}

#[cfg(test)]
mod tests {
    use super::*;

    fn one(service: f64) -> Demand {
        Demand { service, servers: NonZeroU32::MIN }
    }

    #[test]
    fn textbook_values() {
        let cases = [
            (1, 0.925_926, 0.08),
            (10, 8.930_014, 0.119_820),
            (20, 16.255_167, 0.230_378),
            (30, 19.636_478, 0.527_769),
            (50, 19.999_960, 1.500_005),
        ];
        for (clients, throughput, response_time) in cases {
            let found = solve(&[one(0.05), one(0.03)], 1.0, clients).unwrap();
            assert!((found.throughput - throughput).abs() < 1e-6, "{found:?}");
            assert!((found.response_time - response_time).abs() < 1e-6, "{found:?}");
        }
        let ten = solve(&[one(0.05), one(0.03)], 1.0, 10).unwrap();
        assert!((ten.queue_length[0] - 0.719_89).abs() < 1e-5 && (ten.queue_length[1] - 0.350_10).abs() < 1e-5);
    }

    #[test]
    fn clients_are_either_thinking_or_somewhere() {
        let demands = [one(0.05), Demand { service: 0.2, servers: NonZeroU32::new(4).unwrap() }];
        for clients in [1, 7, 40] {
            let found = solve(&demands, 0.5, clients).unwrap();
            let there: f64 = found.queue_length.iter().sum();
            assert!((there + found.throughput * 0.5 - f64::from(clients)).abs() < 1e-9);
            assert!((there / found.throughput - found.response_time).abs() < 1e-9, "Little's law");
            assert!(found.throughput <= 20.0 + 1e-9, "no faster than the slowest station");
        }
    }

    #[test]
    fn what_cannot_be_solved_gives_none() {
        assert_eq!(solve(&[], 1.0, 1), None);
        assert_eq!(solve(&[one(0.0)], 0.0, 1), None);
        assert_eq!(solve(&[one(f64::NAN)], 1.0, 1), None);
    }
}
