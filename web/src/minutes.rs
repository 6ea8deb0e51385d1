//! [`each_minute`]: rate, errors and durations of operations, minute by minute, over a time range.
//!
//! Closed minutes are rows of `operations`, a few a minute however many spans there were. What that
//! table does not reach (the open minute, or spans that were imported past the analyzer) is counted
//! from `spans` with their weights, into the same logarithmic buckets, so that both parts merge to exact sketches. A span that was sent
//! twice in different requests counts twice there, until its minute is closed.

use weir_analyzer::sketch::{LN_GAMMA, Sketch};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::{TimeRange, now_unix_nano, quoted},
    rows::{Rows, ask, ask_each},
};

pub(crate) use weir_store::MINUTE_NS;

/// A minute is written when it is over and its late spans had a minute to come. What is written of a later one is of a
/// clock that is ahead, and says nothing of the others.
const WRITTEN_AFTER_NS: i64 = 2 * MINUTE_NS;

/// Whose minutes.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Of<'a> {
    pub(crate) service: Option<&'a str>,
    pub(crate) operation: Option<&'a str>,
}

/// One operation in one minute; a minute may have several rows, which add up.
#[derive(Clone, Debug)]
pub(crate) struct Minute {
    pub(crate) minute_unix_nano: i64,
    pub(crate) service: String,
    pub(crate) operation: String,
    pub(crate) kind: String,
    pub(crate) measured: Measured,
}

/// What adds up.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Measured {
    pub(crate) count: i64,
    pub(crate) error_count: i64,
    pub(crate) duration_ms: Sketch,
}

impl Minute {
    /// Whether it counts requests to the service, not its calls to others.
    pub(crate) fn is_entry(&self) -> bool {
        matches!(self.kind.as_str(), "server" | "consumer")
    }
}

impl Measured {
    pub(crate) fn merge(&mut self, other: &Self) {
        self.count += other.count;
        self.error_count += other.error_count;
        self.duration_ms.merge(&other.duration_ms);
    }

    pub(crate) fn error_ratio(&self) -> f64 {
        if self.count == 0 { 0.0 } else { self.error_count as f64 / self.count as f64 }
    }

    /// Duration quantiles 0.5, 0.95 and 0.99; none when nothing was measured.
    pub(crate) fn quantiles_ms(&self) -> [Option<f64>; 3] {
        [0.5, 0.95, 0.99].map(|q| self.duration_ms.quantile(q))
    }
}

/// Hands on every row of a range.
pub(crate) async fn each_minute(
    deps: &Deps,
    of: Of<'_>,
    range: TimeRange,
    mut take: impl FnMut(Minute),
) -> Result<(), ApiError> {
    let names = [("service", of.service), ("operation", of.operation)];
    let names = names.map(|(name, value)| value.map(|value| format!(" AND {name} = {}", quoted(value))));
    let names: String = names.into_iter().flatten().collect();
    // asked first: a minute that is written meanwhile is counted from its spans, and only from them
    let covered = covered(deps).await?;
    if let Some(closed) = within(range, covered) {
        ask_each(deps, &of_closed_minutes(closed, &names), |rows| {
            rolled_up(&rows)?.into_iter().for_each(&mut take);
            Ok(())
        })
        .await?;
    }
    for open in beyond(range, covered) {
        ask_each(deps, &of_spans(open, &names), |rows| {
            counted(&rows)?.into_iter().for_each(&mut take);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

fn of_closed_minutes(closed: TimeRange, names: &str) -> String {
    format!(
        "SELECT minute_unix_nano, service, operation, kind, count, error_count, duration_sketch \
         FROM operations WHERE {}{names}",
        closed.condition("minute_unix_nano")
    )
}

fn of_spans(open: TimeRange, names: &str) -> String {
    format!(
        "SELECT time_bucket('1 minute', start_unix_nano) AS minute, service, operation, kind, \
         CAST(ceil(ln(greatest(duration_ns, 1) / 1e6) / {LN_GAMMA}) AS BIGINT) AS bucket, \
         CAST(round(sum(coalesce(sample_weight, 1.0))) AS BIGINT) AS count, \
         CAST(round(sum(CASE WHEN status = 'error' THEN coalesce(sample_weight, 1.0) ELSE 0.0 END)) AS BIGINT) AS error_count \
         FROM spans WHERE {}{names} \
         GROUP BY minute, service, operation, kind, bucket",
        open.condition("start_unix_nano")
    )
}

fn rolled_up(rows: &Rows) -> Result<Vec<Minute>, ApiError> {
    let sketches = rows.sketches("duration_sketch")?;
    let sketch = |row: usize, _| sketches[row].clone();
    minutes(rows, &rows.longs("minute_unix_nano")?, sketch)
}

fn counted(rows: &Rows) -> Result<Vec<Minute>, ApiError> {
    let buckets = rows.longs("bucket")?;
    let sketch = |row: usize, count: i64| {
        let mut sketch = Sketch::default();
        // the middle of a bucket falls into it
        sketch.add_many(((buckets[row] as f64 - 0.5) * LN_GAMMA).exp(), count);
        sketch
    };
    minutes(rows, &rows.longs("minute")?, sketch)
}

fn minutes(rows: &Rows, times: &[i64], sketch: impl Fn(usize, i64) -> Sketch) -> Result<Vec<Minute>, ApiError> {
    let (services, operations, kinds) = (rows.texts("service")?, rows.texts("operation")?, rows.texts("kind")?);
    let (counts, errors) = (rows.longs("count")?, rows.longs("error_count")?);
    let minute = |row: usize| Minute {
        minute_unix_nano: times[row],
        service: services[row].clone(),
        operation: operations[row].clone(),
        kind: kinds[row].clone(),
        measured: Measured { count: counts[row], error_count: errors[row], duration_ms: sketch(row, counts[row]) },
    };
    Ok((0..rows.len()).map(minute).collect())
}

/// From the first minute of `operations` to the end of the last that can be whole; none while there is none.
async fn covered(deps: &Deps) -> Result<Option<TimeRange>, ApiError> {
    let statement = format!(
        "SELECT min(minute_unix_nano) AS first, max(minute_unix_nano) AS last, count(*) AS count FROM operations \
         WHERE minute_unix_nano <= {}",
        now_unix_nano() - WRITTEN_AFTER_NS
    );
    let mut covered = None;
    for rows in ask(deps, &statement).await? {
        let (first, last, counts) = (rows.longs("first")?, rows.longs("last")?, rows.longs("count")?);
        if let (Some(from), Some(last), Some(1..)) = (first.first(), last.first(), counts.first()) {
            covered = Some(TimeRange { from: *from, to: last.saturating_add(MINUTE_NS) });
        }
    }
    Ok(covered)
}

/// The part of `range` that is covered.
fn within(range: TimeRange, covered: Option<TimeRange>) -> Option<TimeRange> {
    let covered = covered?;
    let part = TimeRange { from: range.from.max(covered.from), to: range.to.min(covered.to) };
    (part.from < part.to).then_some(part)
}

/// The parts of `range` that are not covered.
fn beyond(range: TimeRange, covered: Option<TimeRange>) -> Vec<TimeRange> {
    let Some(covered) = covered else { return vec![range] };
    let before = TimeRange { from: range.from, to: range.to.min(covered.from) };
    let after = TimeRange { from: range.from.max(covered.to), to: range.to };
    [before, after].into_iter().filter(|part| part.from < part.to).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_covered_is_before_and_after() {
        let range = |from, to| TimeRange { from, to };
        let cases = [
            (range(0, 10), None, vec![range(0, 10)]),
            (range(0, 10), Some(range(3, 5)), vec![range(0, 3), range(5, 10)]),
            (range(4, 10), Some(range(3, 5)), vec![range(5, 10)]),
            (range(3, 5), Some(range(3, 5)), vec![]),
            (range(0, 2), Some(range(3, 5)), vec![range(0, 2)]),
            (range(7, 9), Some(range(3, 5)), vec![range(7, 9)]),
        ];
        for (asked, covered, expected) in cases {
            assert_eq!(beyond(asked, covered), expected, "{asked:?} {covered:?}");
            let mut all: Vec<TimeRange> = within(asked, covered).into_iter().chain(expected).collect();
            all.sort_by_key(|part| part.from);
            assert!(all.windows(2).all(|pair| pair[0].to == pair[1].from), "{all:?}");
            assert_eq!((all[0].from, all[all.len() - 1].to), (asked.from, asked.to), "every moment is in one part");
        }
    }
}
