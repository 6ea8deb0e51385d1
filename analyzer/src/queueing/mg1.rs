//! M/G/1: Poisson arrivals, service times of any distribution, one server, first come first served.
//!
//! `Wq = ρ/(1−ρ)·(1+cs²)/2·S`, with `cs²` the squared coefficient of variation of the service time.
//! F. Pollaczek, 1930; A. Y. Khinchine, 1932; L. Kleinrock, "Queueing Systems, Volume I", 1975, section 5.6.

use super::mm1;

/// Wait in the queue, in the unit of `service_time`; `None` when ρ ≥ 1.
#[must_use]
pub fn queue_wait(arrival_rate: f64, service_time: f64, cs2: f64) -> Option<f64> {
    mm1::queue_wait(arrival_rate, service_time).map(|wait| wait * (1.0 + cs2) / 2.0)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn textbook_values() {
        // ρ = 0.8, S = 1: deterministic 2, exponential 4, cs² = 4 gives 10
        for (cs2, wait) in [(0.0, 2.0), (1.0, 4.0), (4.0, 10.0)] {
            assert!((queue_wait(0.8, 1.0, cs2).unwrap() - wait).abs() < 1e-9);
        }
        assert_eq!(queue_wait(1.0, 1.0, 1.0), None);
    }

    proptest! {
        #[test]
        fn exponential_service_is_mm1_and_variation_costs(load in 0.01f64..0.99, cs2 in 0.0f64..10.0) {
            prop_assert_eq!(queue_wait(load, 1.0, 1.0), mm1::queue_wait(load, 1.0));
            prop_assert!(queue_wait(load, 1.0, cs2).unwrap() <= queue_wait(load, 1.0, cs2 + 0.1).unwrap());
        }
    }
}
