//! The same mesh whose spans carry exceptions and nobody logs anything: live, they come with the spans.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int64Array, ListArray, MapBuilder, StringArray, StringBuilder, StructArray},
    buffer::OffsetBuffer,
    datatypes::{Field, Schema},
    record_batch::RecordBatch,
};

use super::*;

fn batch(columns: Vec<(&str, ArrayRef)>) -> RecordBatch {
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

/// One event with an exception on each span for which `throws` holds.
fn events(spans: &[&Span], throws: impl Fn(&Span) -> bool) -> ArrayRef {
    let lengths: Vec<usize> = spans.iter().map(|span| usize::from(throws(span))).collect();
    let count = lengths.iter().sum();
    let mut attributes = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
    for _ in 0..count {
        attributes.keys().append_value("exception.type");
        attributes.values().append_value("TimeoutError");
        attributes.append(true).unwrap();
    }
    let attributes: ArrayRef = Arc::new(attributes.finish());
    let names: ArrayRef = Arc::new(StringArray::from(vec!["exception"; count]));
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let all = StructArray::from(vec![
        (field("name", &names), names.clone()),
        (field("attributes", &attributes), attributes.clone()),
    ]);
    let all: ArrayRef = Arc::new(all);
    Arc::new(ListArray::new(field("element", &all), OffsetBuffer::from_lengths(lengths), all.clone(), None))
}

/// Rows of `spans` of a window in which the parser's server spans throw, or nobody's.
fn rows(window: &[Vec<Span>], names: &Names, throws: bool) -> RecordBatch {
    let spans: Vec<&Span> = window.iter().flatten().collect();
    let parser = names.find("parser");
    let text = |of: fn(&Span) -> Name| -> ArrayRef {
        Arc::new(StringArray::from_iter_values(spans.iter().map(|span| names.text(of(span)))))
    };
    let long = |of: fn(&Span) -> i64| -> ArrayRef {
        Arc::new(Int64Array::from_iter_values(spans.iter().map(|span| of(span))))
    };
    let id = |of: fn(&Span) -> u64| -> ArrayRef {
        Arc::new(BinaryArray::from_iter_values(spans.iter().map(|span| of(span).to_be_bytes())))
    };
    let traces = spans.iter().map(|span| span.trace.to_be_bytes());
    batch(vec![
        ("trace_id", Arc::new(BinaryArray::from_iter_values(traces))),
        ("span_id", id(|span| span.id)),
        ("parent_span_id", id(|span| span.parent)),
        ("start_unix_nano", long(|span| span.start)),
        ("duration_ns", long(|span| span.duration_ns)),
        ("service", text(|span| span.service)),
        ("operation", text(|span| span.operation)),
        ("kind", text(|span| span.kind)),
        ("status", Arc::new(StringArray::from(vec!["unset"; spans.len()]))),
        ("events", events(&spans, |span| throws && Some(span.service) == parser && span.side == Side::Server)),
    ])
}

/// The ranking, live, of a window after eight in which the parser threw as `before` says.
fn after(seed: u64, before: bool, now: bool) -> Ranking {
    let (mut mesh, mut causes) = (Mesh::new(seed), Causes::live(100_000));
    let mut rank = |mesh: &mut Mesh, throws: bool| {
        let window = mesh.window(100, Fault::Nothing);
        let rows = rows(&window, &mesh.names, throws);
        causes.add_events(&rows, &mut mesh.names, |_| true);
        let (ranking, observed) = causes.rank_live(&slices(&window), &mesh.names, (0, 0));
        causes.remember(observed);
        ranking
    };
    (0..8).for_each(|_| drop(rank(&mut mesh, before)));
    rank(&mut mesh, now)
}

#[test]
fn an_exception_tells_live_what_neither_status_nor_logs_do() {
    for seed in 1..=3 {
        let ranking = after(seed, false, true);
        assert_eq!(first(&ranking), ("parser", CauseKind::ChangedCalls, true), "{ranking:?}");
        let cause = &ranking.causes[0];
        assert_eq!(cause.harmless, 0.0, "an exception is not what a new version logs");
        let shown = &cause.evidence[0];
        assert!(shown.text.contains("throws more often than before: exception TimeoutError"), "{shown:?}");
        assert!(shown.sql.as_ref().is_some_and(|sql| sql.contains("'exception'")), "{shown:?}");
    }
}

#[test]
fn exceptions_that_are_usual_or_gone_accuse_nobody() {
    for now in [true, false] {
        let ranking = after(4, true, now);
        assert!(ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{now}: {ranking:?}");
    }
}

#[test]
fn traces_that_are_not_wanted_take_no_room() {
    let (mut mesh, mut causes) = (Mesh::new(5), Causes::live(100_000));
    let window = mesh.window(100, Fault::Nothing);
    let rows = rows(&window, &mesh.names, true);
    let wanted = window[3][0].trace;
    causes.add_events(&rows, &mut mesh.names, |trace| trace == wanted);
    assert_eq!(causes.lines.count(), 1);
}
