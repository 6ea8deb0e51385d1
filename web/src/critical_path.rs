//! [`CriticalPaths`]: the critical paths of many requests in a time range, as one flame.
//!
//! With `service=` (and `operation=`) a request is the topmost span of it in a trace; without, it is the whole trace. A bounded number
//! of traces is read, always the same for the same store and range: the range is cut into equal slices, each gives its newest, and
//! what quiet slices leave over is given to those that have more. So a long range is seen from end to end, and
//! no statement looks at more than it needs.

use std::collections::BTreeMap;

use serde::Serialize;
use weir_analyzer::{
    critical_path::{SpanNode, Timeline},
    flame::{Flame, FramePath},
};

use crate::{
    deps::Deps,
    error::ApiError,
    fields::{Fields, TimeRange, quoted},
    red::USUAL_RANGE_NS,
    rows::{Rows, ask},
    search::{self, NEAR_NS, Search},
};

/// What can be asked.
pub(crate) const FIELDS: [&str; 5] = ["service", "operation", "from", "to", "limit"];

/// Traces that are read when nothing is said: a share of a tenth is known within four hundredths then.
const DEFAULT_TRACES: usize = 200;

/// Traces that are read at most.
const MAX_TRACES: usize = 1_000;

/// Spans that are read at most: about 40 MB. An answer that met it has read fewer traces, and says how many.
const MAX_SPANS: usize = 100_000;

/// Slices of a range.
const SLICES: usize = 10;

/// Traces that one statement reads.
const TRACES_AT_ONCE: usize = 50;

/// The critical paths of requests in a range.
#[derive(Debug, Serialize)]
pub(crate) struct CriticalPaths {
    pub(crate) from_unix_nano: i64,
    pub(crate) to_unix_nano: i64,
    pub(crate) service: Option<String>,
    pub(crate) operation: Option<String>,
    /// Traces that were read.
    pub(crate) traces: usize,
    /// Whether there are more in the range.
    pub(crate) sampled: bool,
    /// Spans of those traces.
    pub(crate) spans: usize,
    /// Spans that were moved because their clock differs from their caller's.
    pub(crate) skewed_spans: usize,
    pub(crate) requests: u64,
    /// Durations of the requests together.
    pub(crate) total_ns: i64,
    /// The part of it that has no frame.
    pub(crate) other_ns: i64,
    pub(crate) paths: Vec<FramePath>,
}

/// What is asked of the root of a request.
#[derive(Clone, Copy, Debug)]
struct Of<'a> {
    service: Option<&'a str>,
    operation: Option<&'a str>,
}

/// The spans of a trace by its id.
type Traces = BTreeMap<[u8; 16], Vec<SpanNode>>;

impl CriticalPaths {
    pub(crate) async fn read(deps: &Deps, fields: &Fields, now: i64) -> Result<Self, ApiError> {
        fields.only(&FIELDS)?;
        let range = TimeRange::of(fields, now)?.unwrap_or(TimeRange { from: now - USUAL_RANGE_NS, to: now });
        let of = Of { service: fields.get("service"), operation: fields.get("operation") };
        let limit = fields.limit(DEFAULT_TRACES, MAX_TRACES)?;
        let (ids, more) = sample(deps, of, range, limit, now).await?;
        let (traces, whole) = spans(deps, &ids, range).await?;
        Ok(Self { sampled: more || !whole, ..Self::of_traces(&traces, of, range) })
    }

    fn of_traces(traces: &Traces, of: Of, range: TimeRange) -> Self {
        let mut flame = Flame::default();
        let (mut spans, mut skewed_spans) = (0, 0);
        for nodes in traces.values() {
            let timeline = Timeline::of(nodes);
            spans += nodes.len();
            skewed_spans += timeline.skewed();
            let entered = timeline.topmost(|span| of.is_met(span));
            let roots = if of.is_anything() { timeline.main_root().into_iter().collect() } else { entered };
            for root in roots {
                flame.add(nodes, &timeline.path(root));
            }
        }
        Self {
            from_unix_nano: range.from,
            to_unix_nano: range.to,
            service: of.service.map(str::to_owned),
            operation: of.operation.map(str::to_owned),
            traces: traces.len(),
            sampled: false,
            spans,
            skewed_spans,
            requests: flame.requests(),
            total_ns: flame.root_ns(),
            other_ns: flame.other_ns(),
            paths: flame.paths(),
        }
    }
}

impl Of<'_> {
    fn is_anything(self) -> bool {
        self.service.is_none() && self.operation.is_none()
    }

    fn is_met(self, span: &SpanNode) -> bool {
        self.service.is_none_or(|service| service == span.service)
            && self.operation.is_none_or(|operation| operation == span.operation)
    }

    fn conditions(self) -> Vec<String> {
        if self.is_anything() {
            return vec!["parent_span_id IS NULL".to_owned()];
        }
        let is = |name: &str, value: &str| format!("{name} = {}", quoted(value));
        let service = self.service.map(|service| is("service", service));
        service.into_iter().chain(self.operation.map(|operation| is("operation", operation))).collect()
    }
}

/// Ids of at most so many traces, and whether there are more.
async fn sample(
    deps: &Deps,
    of: Of<'_>,
    range: TimeRange,
    limit: usize,
    now: i64,
) -> Result<(Vec<[u8; 16]>, bool), ApiError> {
    let newest_of = async |slice: TimeRange, limit: usize| {
        let mut conditions = of.conditions();
        conditions.push(slice.condition("start_unix_nano"));
        search::ids(deps, &Search::of_conditions(conditions, limit, now)).await
    };
    let slices = slices(range, limit.min(SLICES));
    let mut found = Vec::with_capacity(slices.len());
    for slice in &slices {
        found.push(newest_of(*slice, limit / slices.len()).await?);
    }
    let taken: usize = found.iter().map(|(ids, _)| ids.len()).sum();
    let (mut left, mut with_more) = (limit.saturating_sub(taken), found.iter().filter(|(_, more)| *more).count());
    for (slice, found) in slices.iter().zip(&mut found).filter(|(_, (_, more))| *more) {
        let further = left.div_ceil(with_more);
        if further > 0 {
            *found = newest_of(*slice, found.0.len() + further).await?;
        }
        (left, with_more) = (left - further, with_more - 1);
    }
    let more = found.iter().any(|(_, more)| *more);
    let mut ids: Vec<_> = found.into_iter().flat_map(|(ids, _)| ids).collect();
    // a trace may begin in one slice and go on in the next
    ids.sort_unstable();
    ids.dedup();
    Ok((ids, more))
}

fn slices(range: TimeRange, count: usize) -> Vec<TimeRange> {
    let at = |slice: usize| {
        let length = i128::from(range.to) - i128::from(range.from);
        let offset = length * slice as i128 / count as i128;
        range.from.saturating_add(i64::try_from(offset).unwrap_or(i64::MAX))
    };
    (0..count).map(|slice| TimeRange { from: at(slice), to: at(slice + 1) }).collect()
}

/// The traces with these ids, as many as the bound on spans allows, and whether those are all.
async fn spans(deps: &Deps, ids: &[[u8; 16]], range: TimeRange) -> Result<(Traces, bool), ApiError> {
    let near = TimeRange { from: range.from.saturating_sub(NEAR_NS), to: range.to.saturating_add(NEAR_NS) };
    let mut traces = Traces::new();
    let mut read = 0;
    for some in ids.chunks(TRACES_AT_ONCE) {
        let statement = format!(
            "SELECT trace_id, span_id, parent_span_id, start_unix_nano, duration_ns, kind, service, instance, operation, \
             resource_attributes['host.name'] AS host FROM spans WHERE {} AND {} ORDER BY trace_id LIMIT {}",
            near.condition("start_unix_nano"),
            search::is_one_of(some.iter().copied()),
            MAX_SPANS - read + 1
        );
        for rows in ask(deps, &statement).await? {
            read += rows.len();
            add_spans(&rows, &mut traces)?;
        }
        if read > MAX_SPANS {
            // of the last trace something may be missing
            let kept = traces.len() > 1;
            return Ok((if kept { without_last(traces) } else { traces }, false));
        }
    }
    Ok((traces, true))
}

fn without_last(mut traces: Traces) -> Traces {
    traces.pop_last();
    traces
}

fn add_spans(rows: &Rows, traces: &mut Traces) -> Result<(), ApiError> {
    let (ids, spans, parents) = (rows.trace_ids("trace_id")?, rows.bytes("span_id")?, rows.bytes("parent_span_id")?);
    let (starts, durations) = (rows.longs("start_unix_nano")?, rows.longs("duration_ns")?);
    let [kinds, services, instances, operations, hosts] =
        ["kind", "service", "instance", "operation", "host"].map(|name| rows.texts(name));
    let (mut kinds, mut services, mut instances) = (kinds?, services?, instances?);
    let (mut operations, mut hosts) = (operations?, hosts?);
    for row in 0..rows.len() {
        traces.entry(ids[row]).or_default().push(SpanNode {
            span_id: spans[row].as_slice().try_into().unwrap_or_default(),
            parent: parents[row].as_slice().try_into().ok(),
            start: starts[row],
            end: starts[row].saturating_add(durations[row]),
            kind: std::mem::take(&mut kinds[row]),
            service: std::mem::take(&mut services[row]),
            instance: std::mem::take(&mut instances[row]),
            host: std::mem::take(&mut hosts[row]),
            operation: std::mem::take(&mut operations[row]),
        });
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn span(id: u8, parent: u8, service: &str, start: i64, end: i64) -> SpanNode {
        SpanNode {
            span_id: [id; 8],
            parent: (parent > 0).then_some([parent; 8]),
            start,
            end,
            service: service.into(),
            operation: format!("{service}/"),
            ..SpanNode::default()
        }
    }

    #[test]
    fn slices_cover_a_range_and_nothing_else() {
        for range in [TimeRange { from: 5, to: 38 }, TimeRange { from: 0, to: i64::MAX }, TimeRange { from: 0, to: 1 }]
        {
            let slices = slices(range, 10);
            assert_eq!((slices[0].from, slices[9].to, slices.len()), (range.from, range.to, 10));
            assert!(slices.windows(2).all(|pair| pair[0].to == pair[1].from));
        }
    }

    #[test]
    fn a_request_is_a_trace_or_where_a_service_is_entered() {
        let trace =
            vec![span(1, 0, "a", 0, 100), span(2, 1, "b", 10, 40), span(3, 2, "b", 20, 30), span(4, 1, "b", 50, 90)];
        let traces = Traces::from([([1; 16], trace)]);
        let range = TimeRange { from: 0, to: 100 };
        let of = |service| CriticalPaths::of_traces(&traces, Of { service, operation: None }, range);
        let (whole, b) = (of(None), of(Some("b")));
        assert_eq!((whole.requests, whole.total_ns, whole.paths[0].self_ns), (1, 100, 30));
        assert_eq!((b.requests, b.total_ns, b.traces, b.spans), (2, 70, 1, 4));
        let said: Vec<_> = b.paths.iter().map(|path| (path.depth, path.total_ns, path.requests)).collect();
        assert_eq!(said, [(0, 70, 2), (1, 10, 1)]);
        assert_eq!(of(Some("nobody")).requests, 0);
    }
}
