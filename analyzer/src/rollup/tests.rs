//! Rows beyond the bound, and numbers without end.

use super::*;

#[test]
fn spans_of_all_minutes_and_services_at_once_fill_no_more_than_twice_the_rows() {
    let mut rollup = Rollup::default();
    let span =
        |n: i64| Span { start: n * MINUTE_NS, service: n as Name % 9_000, operation: n as Name, ..Span::default() };
    (0..450_000).for_each(|n| rollup.span(&span(n)));
    assert_eq!((rollup.operations.len(), rollup.refused), (2 * MAX_ROWS, 250_000));
    // one minute of many services is no such case, and nothing of a row that is there is lost
    let more = Span { start: 7 * MINUTE_NS, service: 7, operation: 7, ..Span::default() };
    rollup.span(&more);
    assert_eq!((rollup.refused, rollup.operations[&(7 * MINUTE_NS, 7, 7, 0)].durations.count), (250_000, 2));
    let call = |n: i64| Call {
        caller: n as Name,
        callee: 1,
        callee_kind: NodeKind::Service,
        start: n * MINUTE_NS,
        duration_ns: 1,
        known_at: 0,
        error: false,
        gap_ns: None,
        weight: 1,
    };
    (0..250_000).for_each(|n| rollup.call(&call(n)));
    assert_eq!((rollup.edges.len(), rollup.refused), (2 * MAX_ROWS, 300_000));
}

#[test]
fn a_minute_of_endless_tokens_has_as_many_as_can_be_told() {
    let mut rollup = Rollup::default();
    let hostile = Span { input_tokens: i64::MAX, output_tokens: i64::MAX / 2, weight: 7, ..Span::default() };
    (0..3).for_each(|_| rollup.span(&hostile));
    let row = rollup.operations.values().next().unwrap();
    assert_eq!((row.input_tokens, row.output_tokens), (i64::MAX, i64::MAX));
}
