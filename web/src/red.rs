//! [`Red`]: rate, errors and duration of a service over time, and of each of its operations.
//!
//! A point's quantiles come from the merged sketches of everything in it, never from quantiles of its
//! parts.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::{Fields, TimeRange, duration_ns},
    minutes::{MINUTE_NS, Measured, Minute, Of, each_minute},
};

/// Points of a series at most.
const MAX_POINTS: i64 = 3_000;

/// Points of a series when no step is given.
const USUAL_POINTS: i64 = 120;

/// How long a range is when none is given.
pub(crate) const USUAL_RANGE_NS: i64 = 3_600_000_000_000;

/// Steps that people divide time by, in minutes.
const STEPS_MINUTES: [i64; 11] = [1, 2, 5, 10, 15, 30, 60, 120, 360, 720, 1_440];

/// A service, or one operation of it, over time.
#[derive(Debug)]
pub(crate) struct Red {
    pub(crate) range: TimeRange,
    pub(crate) step_ns: i64,
    /// Every step of the range.
    pub(crate) points: Vec<Point>,
    /// By operation and kind, over the whole range.
    pub(crate) operations: BTreeMap<(String, String), Measured>,
}

/// One step.
#[derive(Clone, Debug)]
pub(crate) struct Point {
    pub(crate) time_unix_nano: i64,
    pub(crate) measured: Measured,
}

/// A range and the steps it is divided into; it begins and ends with one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Grid {
    pub(crate) range: TimeRange,
    pub(crate) step_ns: i64,
}

/// The range and step that an address asks for.
pub(crate) fn grid(fields: &Fields, now: i64) -> Result<Grid, ApiError> {
    let range = TimeRange::of(fields, now)?.unwrap_or(TimeRange { from: now - USUAL_RANGE_NS, to: now });
    let step_ns = match fields.get("step") {
        Some(text) => step(text)?,
        None => usual_step(range),
    };
    let from = range.from.div_euclid(step_ns) * step_ns;
    let to = range.to.saturating_add(step_ns - 1).div_euclid(step_ns) * step_ns;
    if (to - from) / step_ns > MAX_POINTS {
        return Err(ApiError::bad_request(format!("more than {MAX_POINTS} points: a longer step= or a shorter range")));
    }
    Ok(Grid { range: TimeRange { from, to }, step_ns })
}

fn step(text: &str) -> Result<i64, ApiError> {
    let seconds = text.parse::<i64>().ok().and_then(|seconds| seconds.checked_mul(1_000_000_000));
    let step = seconds.or_else(|| duration_ns(text)).filter(|step| *step > 0 && step % MINUTE_NS == 0);
    step.ok_or_else(|| ApiError::bad_request(format!("step={text:?} is not whole minutes such as 60s or 5m")))
}

fn usual_step(range: TimeRange) -> i64 {
    let least = range.to.saturating_sub(range.from) / USUAL_POINTS;
    let step = STEPS_MINUTES.into_iter().map(|minutes| minutes * MINUTE_NS).find(|step| *step >= least);
    // beyond 120 days: whole days
    step.unwrap_or_else(|| (least / (1_440 * MINUTE_NS) + 1) * 1_440 * MINUTE_NS)
}

impl Red {
    /// Reads what a service answered; of one that answers nobody, everything it did.
    pub(crate) async fn read(deps: &Deps, of: Of<'_>, Grid { range, step_ns }: Grid) -> Result<Self, ApiError> {
        let (mut entries, mut all) = (Self::empty(range, step_ns), Self::empty(range, step_ns));
        each_minute(deps, of, range, |minute| {
            if minute.is_entry() {
                entries.add(&minute);
            }
            all.add(&minute);
        })
        .await?;
        let answers = entries.points.iter().any(|point| point.measured.count > 0);
        Ok(if answers { Self { operations: all.operations, ..entries } } else { all })
    }

    fn empty(range: TimeRange, step_ns: i64) -> Self {
        let times = (0..(range.to - range.from) / step_ns).map(|step| range.from + step * step_ns);
        let points = times.map(|time_unix_nano| Point { time_unix_nano, measured: Measured::default() });
        Self { range, step_ns, points: points.collect(), operations: BTreeMap::new() }
    }

    fn add(&mut self, minute: &Minute) {
        let place = (minute.minute_unix_nano - self.range.from).div_euclid(self.step_ns);
        if let Some(point) = usize::try_from(place).ok().and_then(|place| self.points.get_mut(place)) {
            point.measured.merge(&minute.measured);
        }
        let key = (minute.operation.clone(), minute.kind.clone());
        self.operations.entry(key).or_default().merge(&minute.measured);
    }

    /// Everything in the range together.
    pub(crate) fn total(&self) -> Measured {
        let mut total = Measured::default();
        self.points.iter().for_each(|point| total.merge(&point.measured));
        total
    }

    pub(crate) fn to_json(&self) -> Value {
        let step_s = self.step_ns as f64 / 1e9;
        let point = |point: &Point| {
            let mut json = measured_json(&point.measured, step_s);
            json["time_unix_nano"] = point.time_unix_nano.into();
            json
        };
        let operation = |((operation, kind), measured): (&(String, String), &Measured)| {
            let mut json = measured_json(measured, self.range.seconds());
            json["operation"] = operation.as_str().into();
            json["kind"] = kind.as_str().into();
            json
        };
        json!({
            "from_unix_nano": self.range.from, "to_unix_nano": self.range.to, "step_ms": self.step_ns / 1_000_000,
            "points": self.points.iter().map(point).collect::<Vec<_>>(),
            "operations": self.operations.iter().map(operation).collect::<Vec<_>>(),
        })
    }
}

/// What was measured over so many seconds.
pub(crate) fn measured_json(measured: &Measured, seconds: f64) -> Value {
    let [p50, p95, p99] = measured.quantiles_ms();
    json!({
        "count": measured.count, "rate_per_s": measured.count as f64 / seconds,
        "error_count": measured.error_count, "error_ratio": measured.error_ratio(),
        "duration_ms_p50": p50, "duration_ms_p95": p95, "duration_ms_p99": p99,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fields::tests::fields;

    const HOUR_NS: i64 = 60 * MINUTE_NS;

    #[test]
    fn a_grid_holds_the_range_and_its_steps_are_whole_minutes() {
        let hours = |pairs: &[(&str, &str)], now: i64| {
            let Grid { range, step_ns } = grid(&fields(pairs), now).unwrap();
            [range.from, range.to, step_ns].map(|ns| ns / MINUTE_NS)
        };
        assert_eq!(hours(&[("from", "1"), ("to", "60000000001")], 0), [0, 2, 1]);
        assert_eq!(hours(&[], 48 * HOUR_NS + 1), [47 * 60, 48 * 60 + 1, 1]);
        assert_eq!(hours(&[("from", "-24h")], 48 * HOUR_NS), [24 * 60, 48 * 60, 15]);
        assert_eq!(hours(&[("from", "-24h"), ("step", "3600")], 48 * HOUR_NS), [24 * 60, 48 * 60, 60]);
        for (step, from) in [("90s", "-1h"), ("0", "-1h"), ("often", "-1h"), ("1m", "-720h")] {
            assert!(grid(&fields(&[("step", step), ("from", from)]), 1_000 * HOUR_NS).is_err(), "{step}");
        }
    }

    #[test]
    fn quantiles_of_a_step_come_from_everything_in_it() {
        let mut red = Red::empty(TimeRange { from: 0, to: 5 * MINUTE_NS }, 5 * MINUTE_NS);
        let minute = |minute: i64, durations_ms: &[f64]| {
            let mut measured = Measured { count: durations_ms.len() as i64, error_count: 1, ..Measured::default() };
            durations_ms.iter().for_each(|ms| measured.duration_ms.add(*ms));
            let (service, operation, kind) = ("a".to_owned(), "GET /".to_owned(), "server".to_owned());
            Minute { minute_unix_nano: minute * MINUTE_NS, service, operation, kind, measured }
        };
        red.add(&minute(0, &[1.0; 98]));
        red.add(&minute(4, &[100.0; 2]));
        let json = red.to_json();
        let point = &json["points"][0];
        assert_eq!((point["count"].as_i64(), point["error_count"].as_i64()), (Some(100), Some(2)));
        assert!((point["duration_ms_p95"].as_f64().unwrap() - 1.0).abs() < 0.02, "{point}");
        assert!((point["duration_ms_p99"].as_f64().unwrap() - 100.0).abs() < 2.0, "{point}");
        assert_eq!(json["operations"][0]["operation"], "GET /");
    }
}
