//! M/M/1: Poisson arrivals, exponential service, one server, first come first served.
//!
//! `Wq = ρ/(1−ρ)·1/μ` is the wait in the queue, `W = 1/(μ−λ)` the response time, `W = Wq + S`.
//! L. Kleinrock, "Queueing Systems, Volume I", 1975, section 3.2.

/// Wait in the queue, in the unit of `service_time`; `None` when ρ ≥ 1.
#[must_use]
pub fn queue_wait(arrival_rate: f64, service_time: f64) -> Option<f64> {
    let utilization = arrival_rate * service_time;
    let stable = (0.0..1.0).contains(&utilization);
    stable.then(|| utilization / (1.0 - utilization) * service_time)
}

/// Response time; `None` when ρ ≥ 1.
#[must_use]
pub fn response_time(arrival_rate: f64, service_time: f64) -> Option<f64> {
    queue_wait(arrival_rate, service_time).map(|wait| wait + service_time)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn textbook_values() {
        assert!((queue_wait(0.8, 1.0).unwrap() - 4.0).abs() < 1e-12);
        assert!((response_time(0.9, 1.0).unwrap() - 10.0).abs() < 1e-9);
        assert_eq!(queue_wait(1.0, 1.0), None);
        assert_eq!(queue_wait(f64::NAN, 1.0), None);
    }
}
