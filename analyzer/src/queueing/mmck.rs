//! M/M/c/K: Poisson arrivals, exponential service, c servers, room for K requests, served ones
//! included; one too many is turned away. What a concurrency limit of c with a queue of K − c does.
//!
//! `p₀…p_K` of the birth-death chain: `pₙ ∝ aⁿ/n!` up to c, then `·a/c` each. L. Kleinrock, "Queueing
//! Systems, Volume I", 1975, section 3.5; D. Gross and C. M. Harris, "Fundamentals of Queueing Theory",
//! 1998, section 2.4. A steady state exists at any load.
//!
//! States up to c weigh `1/B` of state c, with Erlang's B; those beyond are a geometric series, relative to state c when
//! it falls and to state K when it grows, so nothing overflows. Its sums are doubled up to their length, of terms that are all
//! positive: K costs its logarithm, and nothing cancels where a is about c.

use std::num::NonZeroU32;

use super::mmc::erlang_b;

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
    let offered = arrival_rate * service_time;
    let weights = Weights::of(offered, servers, room.max(servers.get()) - servers.get());
    let rejected_ratio = weights.full / weights.total;
    let admitted = arrival_rate * (1.0 - rejected_ratio);
    Some(Limited {
        rejected_ratio,
        queue_wait: if admitted > 0.0 { weights.waiting / weights.total / admitted } else { 0.0 },
        utilization: admitted * service_time / f64::from(servers.get()),
    })
}

/// Weights of states, relative to one of them.
struct Weights {
    /// Of the state in which one more is turned away.
    full: f64,
    /// Of all states.
    total: f64,
    /// Of all, times those that wait in them.
    waiting: f64,
}

impl Weights {
    fn of(offered: f64, servers: NonZeroU32, queue: u32) -> Self {
        let (ratio, none_waits) = (offered / f64::from(servers.get()), 1.0 / erlang_b(offered, servers));
        if ratio <= 1.0 {
            let Series { last, sum, first_moment } = Series::of(ratio, queue);
            return Self { full: last, total: none_waits + sum, waiting: first_moment };
        }
        // relative to the last state, backwards: q waits in it, q − 1 in the one before
        let Series { last, sum, first_moment } = Series::of(1.0 / ratio, queue);
        let states = 1.0 + sum - last;
        let waiting = f64::from(queue) * states - (first_moment - f64::from(queue) * last);
        Self { full: 1.0, total: none_waits * last + states, waiting }
    }
}

/// `xⁿ`, `Σ xᵏ` and `Σ k·xᵏ` for k from 1 to n, of an x from 0 to 1.
#[derive(Clone, Copy)]
struct Series {
    last: f64,
    sum: f64,
    first_moment: f64,
}

impl Series {
    /// By the bits of n: twice as many terms, then one more where the bit is set.
    fn of(x: f64, n: u32) -> Self {
        let (mut series, mut terms) = (Self { last: 1.0, sum: 0.0, first_moment: 0.0 }, 0.0);
        for bit in (0..u32::BITS - n.leading_zeros()).rev() {
            let Self { last, sum, first_moment } = series;
            let second_half = last * (first_moment + terms * sum);
            series = Self { last: last * last, sum: sum + last * sum, first_moment: first_moment + second_half };
            terms *= 2.0;
            if n >> bit & 1 == 1 {
                let Self { last, sum, first_moment } = series;
                series = Self { last: x * last, sum: x * (1.0 + sum), first_moment: x * (1.0 + sum + first_moment) };
                terms += 1.0;
            }
        }
        series
    }
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

    /// State by state, as the chain is written.
    fn summed(arrival_rate: f64, servers: u32, room: u32) -> (f64, f64) {
        let (mut weight, mut total, mut waiting) = (1.0_f64, 1.0_f64, 0.0_f64);
        for n in 1..=room {
            weight *= arrival_rate / f64::from(n.min(servers));
            total += weight;
            waiting += weight * f64::from(n.saturating_sub(servers));
            if weight > 1e200 {
                (total, waiting, weight) = (total / weight, waiting / weight, 1.0);
            }
        }
        let rejected = weight / total;
        (rejected, waiting / total / (arrival_rate * (1.0 - rejected)))
    }

    #[test]
    fn the_closed_form_is_the_sum_over_all_states_also_where_load_is_about_one() {
        for servers in [1, 2, 7, 64] {
            for load in [1e-9, 0.3, 0.999_999, 1.0 - 1e-12, 1.0, 1.0 + 1e-12, 1.000_001, 1.7, 40.0] {
                for queue in [0, 1, 2, 3, 10, 1_023, 1_024, 20_000] {
                    let rate = load * f64::from(servers);
                    let found = solve(rate, 1.0, c(servers), servers + queue).unwrap();
                    let (rejected, wait) = summed(rate, servers, servers + queue);
                    let near = |a: f64, b: f64| (a - b).abs() <= 1e-9 * b.abs() + 1e-300;
                    assert!(near(found.rejected_ratio, rejected), "{servers} {load} {queue}: {found:?} {rejected}");
                    assert!(near(found.queue_wait, wait), "{servers} {load} {queue}: {found:?} {wait}");
                }
            }
        }
    }

    #[test]
    fn a_limit_that_is_none_costs_nothing() {
        let endless = |load: f64| solve(load * 4.0, 1.0, c(4), u32::MAX).unwrap();
        // a loop over the states would take weeks for so many
        for _ in 0..100_000 {
            assert!(endless(0.5).rejected_ratio < 1e-12);
        }
        let free = mmc::queue_wait(2.0, 1.0, c(4)).unwrap();
        assert!((endless(0.5).queue_wait - free).abs() < 1e-9);
        // at ρ = 1 all rooms are as likely: half of them wait; beyond, nearly all
        let rooms = f64::from(u32::MAX);
        assert!((endless(1.0).queue_wait / (rooms / 8.0) - 1.0).abs() < 1e-6, "{:?}", endless(1.0));
        let full = endless(2.0);
        assert!((full.rejected_ratio - 0.5).abs() < 1e-9 && (full.queue_wait / (rooms / 4.0) - 1.0).abs() < 1e-6);
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
