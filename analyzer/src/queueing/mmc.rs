//! M/M/c: Poisson arrivals, exponential service, c servers, one queue.
//!
//! Erlang B by its recursion `B₀ = 1, Bₖ = a·Bₖ₋₁/(k + a·Bₖ₋₁)`, stable for any c; Erlang C
//! `C = B/(1 − ρ(1 − B))`; `Wq = C/(cμ − λ)`. A. K. Erlang, 1917; the recursion in L. Kleinrock,
//! "Queueing Systems, Volume I", 1975, section 3.6.

use std::num::NonZeroU32;

/// Probability that all servers are busy, for offered load `a = λS` (Erlang B: blocked calls lost).
#[must_use]
pub fn erlang_b(offered_load: f64, servers: NonZeroU32) -> f64 {
    (1..=servers.get()).fold(1.0, |b, k| offered_load * b / (f64::from(k) + offered_load * b))
}

/// Probability that a request waits (Erlang C); `None` when ρ ≥ 1.
#[must_use]
pub fn erlang_c(offered_load: f64, servers: NonZeroU32) -> Option<f64> {
    let utilization = offered_load / f64::from(servers.get());
    if !(0.0..1.0).contains(&utilization) {
        return None;
    }
    let b = erlang_b(offered_load, servers);
    Some(b / (1.0 - utilization * (1.0 - b)))
}

/// Wait in the queue, in the unit of `service_time`; `None` when ρ ≥ 1.
#[must_use]
pub fn queue_wait(arrival_rate: f64, service_time: f64, servers: NonZeroU32) -> Option<f64> {
    if service_time <= 0.0 {
        return (service_time == 0.0).then_some(0.0);
    }
    let waits = erlang_c(arrival_rate * service_time, servers)?;
    Some(waits / (f64::from(servers.get()) / service_time - arrival_rate))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::queueing::mm1;

    fn c(servers: u32) -> NonZeroU32 {
        NonZeroU32::new(servers).unwrap()
    }

    #[test]
    fn textbook_values() {
        let cases = [
            (0.9, 1, 0.473_684, 0.9, 9.0),
            (1.6, 2, 0.329_897, 0.711_111, 1.777_778),
            (4.0, 5, 0.199_067, 0.554_113, 0.554_113),
            (8.0, 10, 0.121_661, 0.409_180, 0.204_590),
            (9.0, 10, 0.167_963, 0.668_732, 0.668_732),
            (45.0, 50, 0.054_104, 0.363_864, 0.072_773),
            (95.0, 100, 0.048_804, 0.506_457, 0.101_291),
        ];
        for (load, servers, b, waits, wait) in cases {
            assert!((erlang_b(load, c(servers)) - b).abs() < 1e-6);
            assert!((erlang_c(load, c(servers)).unwrap() - waits).abs() < 1e-6);
            assert!((queue_wait(load, 1.0, c(servers)).unwrap() - wait).abs() < 1e-6);
        }
        assert_eq!(erlang_c(2.0, c(2)), None);
    }

    proptest! {
        #[test]
        fn with_one_server_it_is_mm1(load in 0.01f64..0.99, s in 0.001f64..10.0) {
            let (one, many) = (mm1::queue_wait(load / s, s).unwrap(), queue_wait(load / s, s, c(1)).unwrap());
            prop_assert!((one - many).abs() < 1e-9 * one.max(1.0));
        }

        #[test]
        fn the_wait_grows_with_load_and_shrinks_with_servers(load in 0.1f64..0.9, servers in 1u32..200) {
            let wait = |rho: f64, n: u32| queue_wait(rho * f64::from(n), 1.0, c(n)).unwrap();
            prop_assert!(wait(load, servers) <= wait(load + 0.05, servers));
            prop_assert!(wait(load, servers + 1) <= wait(load, servers) + 1e-12);
        }
    }
}
