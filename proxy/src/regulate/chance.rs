//! How long requests wait by chance, although a service can do all that it is asked.
//!
//! A request finds all `c` servers at work with the probability of Erlang's C formula, and then waits for an exponential time
//! of the mean `τ = S / (c · (1 - ρ))`: exact for M/M/c (Kleinrock, "Queueing Systems", 1975, §3.8 and §5.12), and scaled by
//! `(1 + v²) / 2` for service times of the variation `v` (Allen, "Probability, Statistics and Queueing Theory", 1990).
//!
//! What is measured is `W = S + C · τ`, the wait in it; `S` is what solves that. Where more requests are there at once than
//! servers, although they do not queue, the number of servers is wrong; then `ρ` comes near 1, and chance explains every wait.

use crate::regulate::base::Usually;

/// 40 halvings: twelve digits.
const HALVINGS: usize = 40;

/// A service as it usually is.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usual {
    /// `c`.
    servers: u32,
    /// `S`.
    pub(crate) service_s: f64,
    /// `C`: how likely it is to find all at work.
    waits: f64,
    /// `τ`.
    wait_s: f64,
}

impl Usual {
    /// One of so many servers by what is measured of it.
    pub(crate) fn of(servers: u32, Usually { rate_per_s, latency_s, deviation_s }: Usually) -> Self {
        let scale = (1.0 + (deviation_s / latency_s).powi(2)) / 2.0;
        let at = |service_s: f64| {
            let utilization = rate_per_s * service_s / f64::from(servers);
            let wait_s = scale * service_s / (f64::from(servers) * (1.0 - utilization));
            Self { servers, service_s, waits: erlang_c(servers, rate_per_s * service_s), wait_s }
        };
        let (mut low, mut high) = (0.0, latency_s.min(f64::from(servers) / rate_per_s));
        for _ in 0..HALVINGS {
            let middle = f64::midpoint(low, high);
            let usual = at(middle);
            if middle + usual.waits * usual.wait_s > latency_s { high = middle } else { low = middle }
        }
        at(low)
    }

    /// The wait that is exceeded with this `probability`.
    pub(crate) fn wait_s(self, probability: f64) -> f64 {
        self.wait_s * (self.waits / probability).max(1.0).ln()
    }

    /// How many may be there at once for a wait of `wait_s`.
    pub(crate) fn limit(self, wait_s: f64) -> u32 {
        (f64::from(self.servers) * (1.0 + wait_s / self.service_s)).ceil() as u32
    }
}

/// How likely it is to find all `servers` at work when `offered` of them are in the mean, and fewer than there are.
fn erlang_c(servers: u32, offered: f64) -> f64 {
    let blocked = (1..=servers).fold(1.0, |blocked, n| offered * blocked / (f64::from(n) + offered * blocked));
    blocked / (1.0 - offered / f64::from(servers) * (1.0 - blocked))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Of exponential times.
    fn with(servers: u32, rate_per_s: f64, latency_s: f64) -> Usual {
        Usual::of(servers, Usually { rate_per_s, latency_s, deviation_s: latency_s })
    }

    #[test]
    fn waits_are_those_of_the_textbook() {
        for (servers, offered, expected) in [(1, 0.5, 0.5), (2, 1.0, 1.0 / 3.0), (4, 2.0, 0.1739), (10, 8.0, 0.4092)] {
            let got = erlang_c(servers, offered);
            assert!((got - expected).abs() < 1e-4, "C({servers}, {offered}) = {got}");
        }
        // M/M/1 at one half: P(wait > t) = 0.5 · exp(-t / 20 ms) for 10 ms of service, 20 ms with the wait
        let usual = with(1, 50.0, 0.020);
        assert!((usual.service_s - 0.010).abs() < 1e-9, "{usual:?}");
        assert!((usual.wait_s(0.01) - 0.020 * 50_f64.ln()).abs() < 1e-6);
        assert_eq!((usual.wait_s(0.6), usual.limit(0.045)), (0.0, 6));
    }

    #[test]
    fn more_at_once_than_there_are_servers_are_explained_by_chance() {
        // thirty at once, of 2 s each, at a service that is said to have eight servers
        let usual = with(8, 15.0, 2.0);
        assert!(usual.wait_s(0.01) > 5.0, "{usual:?}");
        // and no arrivals at all are no division by zero
        assert_eq!(with(8, 0.0, 2.0).wait_s(0.01), 0.0);
    }
}
