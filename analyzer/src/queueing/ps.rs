//! Processor sharing: c servers, and whoever is there gets an equal share of them, at most one each.
//!
//! With one server and Poisson arrivals `W = S/(1−ρ)`, whatever the distribution of the service time,
//! and a request of size x takes `x/(1−ρ)`. L. Kleinrock, "Queueing Systems, Volume II", 1976, section 4.4.
//! With c servers the number in the system is that of M/M/c, so `W = S + Wq` of M/M/c; this too
//! does not depend on the distribution. (J. W. Cohen, "The multiple phase service network with
//! generalized processor sharing", Acta Informatica 12, 1979.)

use std::num::NonZeroU32;

use super::mmc;

/// Response time; `None` when ρ ≥ 1.
#[must_use]
pub fn response_time(arrival_rate: f64, service_time: f64, servers: NonZeroU32) -> Option<f64> {
    mmc::queue_wait(arrival_rate, service_time, servers).map(|slowed| slowed + service_time)
}

/// By how much a request runs slower with `in_flight` there, itself included: `max(1, n/c)`.
#[must_use]
pub fn slowdown(in_flight: f64, servers: NonZeroU32) -> f64 {
    (in_flight / f64::from(servers.get())).max(1.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn c(servers: u32) -> NonZeroU32 {
        NonZeroU32::new(servers).unwrap()
    }

    #[test]
    fn textbook_values() {
        assert!((response_time(0.8, 1.0, c(1)).unwrap() - 5.0).abs() < 1e-9);
        assert!((response_time(1.6, 1.0, c(2)).unwrap() - 2.777_778).abs() < 1e-6);
        assert_eq!(response_time(2.0, 1.0, c(2)), None);
    }

    #[test]
    fn nobody_is_slower_while_there_is_a_server_for_each() {
        for (in_flight, servers, slower) in [(1.0, 4, 1.0), (4.0, 4, 1.0), (6.0, 4, 1.5), (3.0, 1, 3.0)] {
            assert_eq!(slowdown(in_flight, c(servers)), slower);
        }
    }
}
