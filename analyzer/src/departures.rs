//! Service times from arrivals and departures alone.
//!
//! At a first-come-first-served station with c servers, the i-th arrival starts when it arrives or
//! when the (i−c)-th departure frees a server, whichever is later: `start_i = max(a_i, d_(i−c))`,
//! the departures of those served before it in order. So `S_i = d_i − start_i` and the wait is `start_i − a_i`, without any
//! instrumentation inside the station. (The identity is the G/G/c recursion of J. Kiefer and
//! J. Wolfowitz, 1955, read backwards.)
//!
//! The time a span spends is not its service time: under load it holds the wait for the station's
//! own workers as well.

use std::{cmp::Reverse, collections::BinaryHeap, num::NonZeroU32};

/// One visit to a station.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Visit {
    /// When it came.
    pub arrival: i64,
    /// When it left.
    pub departure: i64,
    /// Whether it left because the client gave up, in the queue or in service.
    pub gave_up: bool,
}

/// What one visit was made of.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Served {
    /// Before service.
    pub wait_ns: i64,
    /// In service; zero for who gave up in the queue.
    pub service_ns: i64,
    /// Whether service came to its end.
    pub complete: bool,
    /// By how much it left before a server was free for it: a clock that is off, or a station that has
    /// more servers or does not serve in order.
    pub overrun_ns: i64,
}

/// Splits visits into wait and service, in the order given.
///
/// `visits` must be all visits of the station in the time looked at; the first c of them are taken
/// to have met an idle server. Who gives up in the queue takes no server.
#[must_use]
pub fn reconstruct(visits: &[Visit], servers: NonZeroU32) -> Vec<Served> {
    let c = servers.get() as usize;
    let mut by_arrival: Vec<usize> = (0..visits.len()).collect();
    // of those that came at one moment the order given counts
    by_arrival.sort_by_key(|i| visits[*i].arrival);
    // when each server is free again, the first on top
    let mut free = BinaryHeap::with_capacity(c);
    let mut served = vec![Served::default(); visits.len()];
    for i in by_arrival {
        let Visit { arrival, departure, gave_up } = visits[i];
        let idle = free.len() < c;
        let freed = free.peek().map_or(arrival, |Reverse(at)| *at);
        let start = if idle { arrival } else { freed.clamp(arrival, departure.max(arrival)) };
        served[i] = Served {
            wait_ns: start - arrival,
            service_ns: (departure - start).max(0),
            complete: !gave_up,
            overrun_ns: if idle { 0 } else { (freed - departure.max(arrival)).max(0) },
        };
        if gave_up && start >= departure {
            continue;
        }
        if !idle {
            free.pop();
        }
        free.push(Reverse(departure));
    }
    served
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A first-come-first-served station with exponential times, by its own recursion.
    fn station(seed: u64, customers: usize, rho: f64, c: usize) -> (Vec<Visit>, Vec<Served>) {
        let mut state = seed;
        let mut exponential = move |mean: f64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            let uniform = ((state >> 11) as f64 + 0.5) / (1_u64 << 53) as f64;
            -mean * uniform.ln()
        };
        let (mut now, mut free) = (0.0, vec![0.0_f64; c]);
        let (mut visits, mut truth) = (Vec::new(), Vec::new());
        for _ in 0..customers {
            now += exponential(1e6 / (rho * c as f64));
            let service = exponential(1e6);
            let server = (0..c).min_by(|a, b| free[*a].total_cmp(&free[*b])).unwrap();
            let start = free[server].max(now);
            free[server] = start + service;
            visits.push(Visit { arrival: now as i64, departure: free[server] as i64, gave_up: false });
            truth.push(Served {
                wait_ns: (start - now) as i64,
                service_ns: service as i64,
                complete: true,
                overrun_ns: 0,
            });
        }
        (visits, truth)
    }

    #[test]
    fn service_and_wait_of_a_simulated_station_are_recovered() {
        for (seed, c, rho) in [(1, 1, 0.8), (2, 2, 0.9), (3, 4, 0.7), (4, 8, 0.95)] {
            println!("seed {seed}");
            let (visits, truth) = station(seed, 4_000, rho, c);
            let found = reconstruct(&visits, NonZeroU32::new(c as u32).unwrap());
            for (found, truth) in found.iter().zip(&truth) {
                assert!((found.service_ns - truth.service_ns).abs() <= 2, "c {c}: {found:?} {truth:?}");
                assert!((found.wait_ns - truth.wait_ns).abs() <= 2);
            }
        }
    }

    #[test]
    fn who_gives_up_in_the_queue_takes_no_server_and_in_service_holds_it_until_then() {
        let visit = |arrival, departure, gave_up| Visit { arrival, departure, gave_up };
        // one server: served 0-10; gives up at 8 in the queue; served 10-30; gives up at 35 in service; served 35-40
        let visits =
            [visit(0, 10, false), visit(1, 8, true), visit(2, 30, false), visit(3, 35, true), visit(4, 40, false)];
        let found: Vec<_> =
            reconstruct(&visits, NonZeroU32::MIN).iter().map(|s| (s.wait_ns, s.service_ns, s.complete)).collect();
        assert_eq!(found, [(0, 10, true), (7, 0, false), (8, 20, true), (27, 5, false), (31, 5, true)]);
    }

    #[test]
    fn clocks_that_are_off_give_no_negative_time() {
        let visit = |arrival, departure| Visit { arrival, departure, gave_up: false };
        let visits = [visit(10, 5), visit(0, 20)];
        for served in reconstruct(&visits, NonZeroU32::MIN) {
            assert!(served.wait_ns >= 0 && served.service_ns >= 0);
        }
    }
}
