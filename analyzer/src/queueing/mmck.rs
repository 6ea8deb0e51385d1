//! M/M/c/K: Poisson arrivals, exponential service, c servers, room for K requests, served ones
//! included; one too many is turned away. What a concurrency limit of c with a queue of K − c does.
//!
//! `p₀…p_K` of the birth-death chain: `pₙ ∝ aⁿ/n!` up to c, then `·a/c` each. L. Kleinrock, "Queueing
//! Systems, Volume I", 1975, section 3.5; D. Gross and C. M. Harris, "Fundamentals of Queueing Theory",
//! 1998, section 2.4. Computed as ratios, so nothing overflows. A steady state exists at any load.

use std::num::NonZeroU32;

/// What such a station does.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Limited {
    /// Share of requests turned away.
    pub rejected_ratio: f64,
    /// Mean wait of those let in, in the unit of the service time.
    pub queue_wait: f64,
    /// Share of server time in use.
    pub utilization: f64,
}

/// For `arrival_rate` offered; `room` below `servers` is taken as `servers`. `None` for times or
/// rates that are negative or not numbers.
#[must_use]
pub fn solve(arrival_rate: f64, service_time: f64, servers: NonZeroU32, room: u32) -> Option<Limited> {
    let usable = |value: f64| value.is_finite() && value >= 0.0;
    if !usable(arrival_rate) || !usable(service_time) {
        return None;
    }
    let (c, offered) = (servers.get(), arrival_rate * service_time);
    let room = room.max(c);
    // weights relative to the largest seen, which keeps them within range
    let (mut weight, mut total, mut waiting) = (1.0_f64, 1.0_f64, 0.0_f64);
    for n in 1..=room {
        weight *= offered / f64::from(n.min(c));
        total += weight;
        waiting += weight * f64::from(n.saturating_sub(c));
        if weight > 1e200 {
            (total, waiting, weight) = (total / weight, waiting / weight, 1.0);
        }
    }
    let rejected_ratio = weight / total;
    let admitted = arrival_rate * (1.0 - rejected_ratio);
    Some(Limited {
        rejected_ratio,
        queue_wait: if admitted > 0.0 { waiting / total / admitted } else { 0.0 },
        utilization: admitted * service_time / f64::from(c),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queueing::mmc;

    fn c(servers: u32) -> NonZeroU32 {
        NonZeroU32::new(servers).unwrap()
    }

    #[test]
    fn textbook_values() {
        // M/M/1/K: P_K = (1−ρ)ρ^K/(1−ρ^(K+1)); at ρ = 1, 1/(K+1)
        for (load, room) in [(0.5_f64, 3_u32), (0.9, 10), (2.0, 5)] {
            let expected = (1.0 - load) * load.powi(room as i32) / (1.0 - load.powi(room as i32 + 1));
            assert!((solve(load, 1.0, c(1), room).unwrap().rejected_ratio - expected).abs() < 1e-12);
        }
        assert!((solve(1.0, 1.0, c(1), 4).unwrap().rejected_ratio - 0.2).abs() < 1e-12);
        // no queue: Erlang B
        for (load, servers, loss) in [(8.0, 10, 0.121_661), (45.0, 50, 0.054_104), (95.0, 100, 0.048_804)] {
            assert!((solve(load, 1.0, c(servers), servers).unwrap().rejected_ratio - loss).abs() < 1e-6);
        }
        assert_eq!(solve(f64::NAN, 1.0, c(1), 1), None);
        assert_eq!(
            solve(0.0, 1.0, c(1), 1).unwrap(),
            Limited { rejected_ratio: 0.0, queue_wait: 0.0, utilization: 0.0 }
        );
    }

    #[test]
    fn far_beyond_capacity_nothing_overflows() {
        let found = solve(1e6, 1.0, c(1_000), 100_000).unwrap();
        assert!((found.utilization - 1.0).abs() < 1e-9 && (found.rejected_ratio - 0.999).abs() < 1e-9, "{found:?}");
        // everybody let in waits for about all the room
        assert!((found.queue_wait - 99.0).abs() < 0.1, "{found:?}");
    }

    proptest! {
        #[test]
        fn with_room_enough_it_is_mmc(load in 0.05f64..0.8, servers in 1u32..20) {
            let rate = load * f64::from(servers);
            let (limited, free) = (solve(rate, 1.0, c(servers), 2_000).unwrap(), mmc::queue_wait(rate, 1.0, c(servers)).unwrap());
            prop_assert!((limited.queue_wait - free).abs() < 1e-9 && limited.rejected_ratio < 1e-9);
        }

        #[test]
        fn more_room_rejects_less_and_waits_longer(load in 0.1f64..3.0, servers in 1u32..20, queue in 0u32..50) {
            let at = |queue: u32| solve(load * f64::from(servers), 1.0, c(servers), servers + queue).unwrap();
            prop_assert!(at(queue + 1).rejected_ratio <= at(queue).rejected_ratio + 1e-12);
            prop_assert!(at(queue + 1).queue_wait + 1e-9 >= at(queue).queue_wait);
        }
    }
}
