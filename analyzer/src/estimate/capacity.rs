//! [`Capacity`]: what a service can take, and when it will have to if its arrivals go on growing.

use crate::{
    model::{Load, Model},
    snapshot::{Capacity, Estimate},
    trend::Trend,
};

/// Saturation further off than this many times what was looked at is not said: growth does not last that long.
const MAX_AHEAD: f64 = 10.0;

/// How much λ may grow, as a share, until ρ is 1.
pub(crate) fn headroom(utilization: f64) -> f64 {
    1.0 / utilization.max(1e-9) - 1.0
}

/// Adds the capacity where S and c, or the peak of the law, are known.
pub(super) fn of(estimate: Estimate, trend: Option<Trend>) -> Estimate {
    let capacity = saturation_rate(&estimate).map(|rate| ahead(rate, estimate.arrival_rate_per_s, trend));
    Estimate { capacity, ..estimate }
}

fn saturation_rate(estimate: &Estimate) -> Option<f64> {
    if Model::of(estimate) == Some(Model::Usl) {
        return Some(estimate.scaling.as_ref()?.peak_rate_per_s? * f64::from(estimate.replicas.unwrap_or(1)));
    }
    let now = Load::now(estimate)?;
    Some(f64::from(now.servers) / (now.service_time_ms / 1e3))
}

/// That rate, and when it will come at this one.
pub(super) fn ahead(saturation_rate_per_s: f64, rate_now: f64, trend: Option<Trend>) -> Capacity {
    let room = (saturation_rate_per_s - rate_now).max(0.0);
    let seen = trend.map_or(0.0, |trend| trend.seconds);
    let until = |slope: f64| (slope > 0.0).then(|| room / slope).filter(|seconds| *seconds <= MAX_AHEAD * seen);
    let an_hour = |slope: f64| slope * 3_600.0;
    Capacity {
        saturation_rate_per_s,
        growth_per_s_per_h: trend.map(|trend| an_hour(trend.slope)),
        growth_low_per_s_per_h: trend.map(|trend| an_hour(trend.low)),
        growth_high_per_s_per_h: trend.map(|trend| an_hour(trend.high)),
        growth_seen_s: trend.map(|trend| trend.seconds),
        time_to_saturation_s: trend.and_then(|trend| until(trend.slope)),
        time_to_saturation_low_s: trend.and_then(|trend| until(trend.high)),
        time_to_saturation_high_s: trend.and_then(|trend| until(trend.low)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn time_to_saturation_follows_the_trend_and_its_interval() {
        let trend = Trend { slope: 0.1, low: 0.05, high: 0.2, seconds: 600.0 };
        let found = ahead(100.0, 60.0, Some(trend));
        assert_eq!(found.growth_per_s_per_h, Some(360.0));
        let until = (found.time_to_saturation_low_s, found.time_to_saturation_s, found.time_to_saturation_high_s);
        assert_eq!(until, (Some(200.0), Some(400.0), Some(800.0)));
    }

    #[test]
    fn without_growth_or_far_off_nothing_is_said() {
        assert_eq!(ahead(100.0, 60.0, None).time_to_saturation_s, None);
        let falls = Trend { slope: -0.1, low: -0.2, high: -0.05, seconds: 600.0 };
        assert_eq!(ahead(100.0, 60.0, Some(falls)).time_to_saturation_s, None);
        let slow = Trend { slope: 0.001, low: 0.0005, high: 0.002, seconds: 600.0 };
        assert_eq!(ahead(100.0, 60.0, Some(slow)).time_to_saturation_s, None);
    }
}
