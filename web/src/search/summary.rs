//! [`Summary`]: what a found trace is: its root, when it ran, whether anything in it failed.
//!
//! `trace_index` answers for what is in files; a trace that it does not know, or whose root it has
//! not seen, is read from `spans`. Both are asked for a few ids, within an hour of the span that
//! matched, so a store of any size is touched in one place only.

use super::find::{IDS_AT_ONCE, Matched, NEAR_NS, among, places};
use crate::{
    deps::Deps,
    error::ApiError,
    rows::{Rows, ask},
};

/// A trace in a line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) start_unix_nano: i64,
    pub(crate) end_unix_nano: i64,
    /// The root's; the earliest span's where no root is stored.
    pub(crate) service: String,
    pub(crate) operation: String,
    /// Whether a span of it failed.
    pub(crate) error: bool,
    rooted: bool,
}

impl Summary {
    /// What the span that matched says of its trace.
    fn of(span: &Matched) -> Self {
        Self {
            start_unix_nano: span.key.start_unix_nano,
            end_unix_nano: span.key.start_unix_nano.saturating_add(span.duration_ns),
            service: span.service.clone(),
            operation: span.operation.clone(),
            error: span.error,
            rooted: false,
        }
    }

    /// Takes in what another row says of the same trace.
    fn merge(&mut self, row: Self) {
        let earlier = row.rooted == self.rooted && row.start_unix_nano < self.start_unix_nano;
        // a row of the index that has not seen the root names nobody
        if !row.service.is_empty() && (earlier || row.rooted && !self.rooted) {
            self.service = row.service;
            self.operation = row.operation;
            self.rooted = row.rooted;
        }
        self.start_unix_nano = self.start_unix_nano.min(row.start_unix_nano);
        self.end_unix_nano = self.end_unix_nano.max(row.end_unix_nano);
        self.error |= row.error;
    }
}

/// The summary of the trace of each of these spans.
pub(super) async fn of(deps: &Deps, matched: &[Matched]) -> Result<Vec<Summary>, ApiError> {
    let mut summaries: Vec<Summary> = matched.iter().map(Summary::of).collect();
    for some in matched.chunks(IDS_AT_ONCE) {
        take_in(deps, &from_index(some), matched, &mut summaries).await?;
    }
    let open: Vec<Matched> =
        matched.iter().zip(&summaries).filter(|(_, summary)| !summary.rooted).map(|(span, _)| span.clone()).collect();
    for some in open.chunks(IDS_AT_ONCE) {
        take_in(deps, &from_spans(some), matched, &mut summaries).await?;
    }
    Ok(summaries)
}

fn from_index(matched: &[Matched]) -> String {
    format!(
        "SELECT trace_id, start_unix_nano, end_unix_nano, service, operation, error, service IS NOT NULL AS rooted \
         FROM trace_index WHERE {} AND {}",
        near(matched),
        among(matched)
    )
}

fn from_spans(matched: &[Matched]) -> String {
    format!(
        "SELECT trace_id, min(start_unix_nano) AS start_unix_nano, max(start_unix_nano + duration_ns) AS end_unix_nano, \
         first_value(service ORDER BY parent_span_id IS NOT NULL, start_unix_nano) AS service, \
         first_value(operation ORDER BY parent_span_id IS NOT NULL, start_unix_nano) AS operation, \
         bool_or(status = 'error') AS error, bool_or(parent_span_id IS NULL) AS rooted \
         FROM spans WHERE {} AND {} GROUP BY trace_id",
        near(matched),
        among(matched)
    )
}

/// Within an hour of the spans that matched.
fn near(matched: &[Matched]) -> String {
    let starts = || matched.iter().map(|span| span.key.start_unix_nano);
    let (oldest, newest) = (starts().min().unwrap_or_default(), starts().max().unwrap_or_default());
    let (from, to) = (oldest.saturating_sub(NEAR_NS), newest.saturating_add(NEAR_NS));
    format!("start_unix_nano >= {from} AND start_unix_nano <= {to}")
}

async fn take_in(deps: &Deps, statement: &str, matched: &[Matched], summaries: &mut [Summary]) -> Result<(), ApiError> {
    let places = places(matched);
    for rows in ask(deps, statement).await? {
        for (trace_id, row) in rows.trace_ids("trace_id")?.into_iter().zip(read(&rows)?) {
            if let Some(place) = places.get(&trace_id) {
                summaries[*place].merge(row);
            }
        }
    }
    Ok(())
}

fn read(rows: &Rows) -> Result<Vec<Summary>, ApiError> {
    let (starts, ends) = (rows.longs("start_unix_nano")?, rows.longs("end_unix_nano")?);
    let (services, operations) = (rows.texts("service")?, rows.texts("operation")?);
    let (errors, rooted) = (rows.truths("error")?, rows.truths("rooted")?);
    let summary = |row: usize| Summary {
        start_unix_nano: starts[row],
        end_unix_nano: ends[row],
        service: services[row].clone(),
        operation: operations[row].clone(),
        error: errors[row],
        rooted: rooted[row],
    };
    Ok((0..rows.len()).map(summary).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn summary(start: i64, end: i64, service: &str, rooted: bool) -> Summary {
        Summary {
            start_unix_nano: start,
            end_unix_nano: end,
            service: service.into(),
            operation: service.into(),
            error: false,
            rooted,
        }
    }

    #[test]
    fn rows_of_a_trace_add_up_and_the_root_names_it() {
        let mut all = summary(5, 6, "matched", false);
        all.merge(summary(2, 4, "", false));
        all.merge(Summary { error: true, ..summary(3, 9, "root", true) });
        all.merge(summary(1, 2, "earlier", false));
        assert_eq!(all, Summary { error: true, ..summary(1, 9, "root", true) });
        let mut all = summary(5, 6, "matched", false);
        all.merge(summary(4, 6, "earlier", false));
        assert_eq!(all.service, "earlier");
    }
}
