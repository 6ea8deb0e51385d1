//! [`find`]: one page of a search: spans that match, newest first, until enough different traces
//! are among them; then what each of those traces is.

use std::collections::{HashMap, HashSet};

use super::{
    Cursor, Search,
    cursor::Key,
    summary::{self, Summary},
};
use crate::{
    deps::Deps,
    error::ApiError,
    rows::{Rows, ask},
};

/// Spans read for each trace that is wanted, at first: a trace often has several that match.
const SPANS_PER_TRACE: usize = 8;

/// Spans read at once at most: what one statement holds in memory while it sorts.
const MAX_STEP: usize = 20_000;

/// Spans read for one page at most; a page that met it is short, and its cursor goes on.
const MAX_SPANS: usize = 200_000;

/// Ids in one statement: it is bounded in tokens.
pub(super) const IDS_AT_ONCE: usize = 500;

/// A trace is looked at within this time of the span that matched.
pub(crate) const NEAR_NS: i64 = 3_600_000_000_000;

/// A page of traces.
pub(crate) struct Found {
    /// Newest first.
    pub(crate) traces: Vec<FoundTrace>,
    /// Where older ones begin, if there may be any.
    pub(crate) next: Option<Cursor>,
}

/// A trace that matches.
pub(crate) struct FoundTrace {
    /// Its newest span that matches.
    pub(crate) matched: Matched,
    /// The trace itself.
    pub(crate) summary: Summary,
}

/// A span that matches.
#[derive(Clone, Debug)]
pub(crate) struct Matched {
    pub(crate) key: Key,
    pub(crate) span_id: String,
    pub(crate) service: String,
    pub(crate) operation: String,
    pub(crate) duration_ns: i64,
    pub(crate) error: bool,
}

/// Finds the page that a search asks for.
pub(crate) async fn find(deps: &Deps, search: &Search) -> Result<Found, ApiError> {
    let Page { matched, last } = page(deps, search).await?;
    let next = last.map(|key| Cursor { key, as_of_unix_nano: search.as_of_unix_nano });
    let summaries = summary::of(deps, &matched).await?;
    let traces = matched.into_iter().zip(summaries).map(|(matched, summary)| FoundTrace { matched, summary });
    Ok(Found { traces: traces.collect(), next })
}

/// The ids of a page's traces alone, newest first, and whether older ones may match.
pub(crate) async fn ids(deps: &Deps, search: &Search) -> Result<(Vec<[u8; 16]>, bool), ApiError> {
    let Page { matched, last } = page(deps, search).await?;
    Ok((matched.iter().map(|span| span.key.trace_id).collect(), last.is_some()))
}

struct Page {
    matched: Vec<Matched>,
    /// The last place that was looked at, unless nothing is below it.
    last: Option<Key>,
}

async fn page(deps: &Deps, search: &Search) -> Result<Page, ApiError> {
    let mut seen = HashSet::new();
    let mut matched = Vec::new();
    let mut below = search.after.map(|cursor| cursor.key);
    let mut step = search.limit.saturating_add(1).saturating_mul(SPANS_PER_TRACE).min(MAX_STEP);
    let mut read = 0;
    loop {
        let spans = spans(deps, search, below, step).await?;
        let exhausted = spans.len() < step;
        read += spans.len();
        below = spans.last().map(|span| span.key).or(below);
        let mut fresh: Vec<Matched> = spans.into_iter().filter(|span| seen.insert(span.key.trace_id)).collect();
        if let Some(cursor) = search.after {
            let shown = shown(deps, search, cursor, &fresh).await?;
            fresh.retain(|span| !shown.contains(&span.key.trace_id));
        }
        matched.extend(fresh);
        if matched.len() > search.limit {
            matched.truncate(search.limit);
            let last = matched.last().map(|span| span.key);
            return Ok(Page { matched, last });
        }
        if exhausted || read >= MAX_SPANS {
            return Ok(Page { matched, last: below.filter(|_| !exhausted) });
        }
        step = step.saturating_mul(2).min(MAX_STEP);
    }
}

/// The next spans that match, newest first.
async fn spans(deps: &Deps, search: &Search, below: Option<Key>, limit: usize) -> Result<Vec<Matched>, ApiError> {
    let statement = format!(
        "SELECT trace_id, start_unix_nano, span_id, service, operation, duration_ns, status FROM spans \
         WHERE {} ORDER BY start_unix_nano DESC, trace_id DESC LIMIT {limit}",
        search.condition(below.map(Key::below))
    );
    let mut spans = Vec::new();
    for rows in ask(deps, &statement).await? {
        spans.extend(matched(&rows)?);
    }
    Ok(spans)
}

fn matched(rows: &Rows) -> Result<Vec<Matched>, ApiError> {
    let (ids, starts, durations) =
        (rows.trace_ids("trace_id")?, rows.longs("start_unix_nano")?, rows.longs("duration_ns")?);
    let (spans, services) = (rows.bytes("span_id")?, rows.texts("service")?);
    let (operations, statuses) = (rows.texts("operation")?, rows.texts("status")?);
    let span = |row: usize| Matched {
        key: Key { start_unix_nano: starts[row], trace_id: ids[row] },
        span_id: hex::encode(&spans[row]),
        service: services[row].clone(),
        operation: operations[row].clone(),
        duration_ns: durations[row],
        error: statuses[row] == "error",
    };
    Ok((0..rows.len()).map(span).collect())
}

/// Which of these traces stood on an earlier page: those with a newer span that matches, at or above
/// the cursor.
async fn shown(deps: &Deps, search: &Search, cursor: Cursor, fresh: &[Matched]) -> Result<HashSet<[u8; 16]>, ApiError> {
    let start = cursor.key.start_unix_nano;
    let near = format!("start_unix_nano >= {start} AND start_unix_nano < {}", start.saturating_add(NEAR_NS));
    let mut shown = HashSet::new();
    for some in fresh.chunks(IDS_AT_ONCE) {
        let statement = format!(
            "SELECT trace_id, max(start_unix_nano) AS newest FROM spans WHERE {} GROUP BY trace_id",
            search.condition([near.clone(), among(some)])
        );
        for rows in ask(deps, &statement).await? {
            let newest = rows.trace_ids("trace_id")?.into_iter().zip(rows.longs("newest")?);
            let above = newest.map(|(trace_id, start_unix_nano)| Key { start_unix_nano, trace_id });
            shown.extend(above.filter(|key| *key >= cursor.key).map(|key| key.trace_id));
        }
    }
    Ok(shown)
}

/// The condition that picks the traces of these spans.
pub(super) fn among(matched: &[Matched]) -> String {
    is_one_of(matched.iter().map(|span| span.key.trace_id))
}

/// The condition that picks these traces.
pub(crate) fn is_one_of(ids: impl IntoIterator<Item = [u8; 16]>) -> String {
    let ids: Vec<String> = ids.into_iter().map(|id| format!("'{}'", hex::encode(id))).collect();
    format!("trace_id IN ({})", ids.join(", "))
}

/// By id, where each of them stands.
pub(super) fn places(matched: &[Matched]) -> HashMap<[u8; 16], usize> {
    matched.iter().enumerate().map(|(place, span)| (span.key.trace_id, place)).collect()
}
