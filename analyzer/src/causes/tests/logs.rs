//! The same mesh with logs: each server says that it begins, and that it ends.

use std::sync::Arc;

use arrow::{
    array::{ArrayRef, BinaryArray, Int32Array, Int64Array, StringArray},
    datatypes::{Field, Schema},
    record_batch::RecordBatch,
};

use super::*;

/// What is otherwise in the logs of a window.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Said {
    Usual,
    /// The parser no longer says that it ends.
    NoEnd,
    /// The parser says that it failed.
    Error,
    /// Nothing comes from the parser.
    Silence,
    /// The tagger no longer says that it ends.
    TaggerNoEnd,
}

/// The rows of `logs` of a window. Without span ids they are laid to the first span of their service.
pub(super) fn logs(window: &[Vec<Span>], names: &Names, said: Said, with_spans: bool) -> RecordBatch {
    let mut rows: Vec<(i64, &str, u128, u64, i32, String)> = Vec::new();
    for (number, span) in window.iter().flatten().enumerate().filter(|(_, span)| span.side == Side::Server) {
        let service = names.text(span.service);
        let id = if with_spans { span.id } else { 0 };
        let mut say = |at, severity, body: String| rows.push((at, service, span.trace, id, severity, body));
        let (parser, tagger) = (service == "parser", service == "tagger");
        if parser && said == Said::Silence {
            continue;
        }
        say(span.start, 9, format!("request {number} begins"));
        if parser && said == Said::Error {
            say(span.end(), 17, format!("cannot read word {number}"));
        } else if !(parser && said == Said::NoEnd || tagger && said == Said::TaggerNoEnd) {
            say(span.end(), 9, format!("took {number} words and ended"));
        }
    }
    let ids = |bytes: Vec<Option<Vec<u8>>>| -> ArrayRef { Arc::new(BinaryArray::from_iter(bytes)) };
    let span_id = |id: u64| (id != 0).then(|| id.to_be_bytes().to_vec());
    let columns: [(&str, ArrayRef); 6] = [
        ("time_unix_nano", Arc::new(Int64Array::from_iter_values(rows.iter().map(|row| row.0)))),
        ("service", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.1)))),
        ("trace_id", ids(rows.iter().map(|row| Some(row.2.to_be_bytes().to_vec())).collect())),
        ("span_id", ids(rows.iter().map(|row| span_id(row.3)).collect())),
        ("severity_number", Arc::new(Int32Array::from_iter_values(rows.iter().map(|row| row.4)))),
        ("body", Arc::new(StringArray::from_iter_values(rows.iter().map(|row| row.5.as_str())))),
    ];
    let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
    let schema = Schema::new(fields.collect::<Vec<_>>());
    RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
}

/// The ranking of a window of 100 requests after eight healthy ones, all with logs.
fn after_health_with_logs(seed: u64, fault: Fault, said: Said, with_spans: bool) -> Ranking {
    let mut mesh = Mesh::new(seed);
    let mut causes = Causes::default();
    for _ in 0..8 {
        let window = mesh.window(100, Fault::Nothing);
        causes.add_logs(&logs(&window, &mesh.names, Said::Usual, with_spans), &mesh.names, |_| true);
        let (_, observed) = causes.rank(&slices(&window), &mesh.names);
        causes.remember(observed);
    }
    let window = mesh.window(100, fault);
    causes.add_logs(&logs(&window, &mesh.names, said, with_spans), &mesh.names, |_| true);
    causes.rank(&slices(&window), &mesh.names).0
}

#[test]
fn a_line_that_is_new_or_gone_is_a_change_where_it_is_logged() {
    let cases = [
        (Said::NoEnd, "parser", "no longer logs the line"),
        (Said::Error, "parser", "the error line"),
        (Said::TaggerNoEnd, "tagger", "no longer logs the line"),
    ];
    for seed in 1..=3 {
        for ((said, service, text), with_spans) in cases.into_iter().flat_map(|case| [(case, true), (case, false)]) {
            let ranking = after_health_with_logs(seed, Fault::Nothing, said, with_spans);
            assert_eq!(first(&ranking), (service, CauseKind::ChangedCalls, true), "{said:?}: {ranking:?}");
            assert!(ranking.causes[0].evidence[0].text.contains(text), "{said:?}: {ranking:?}");
        }
    }
}

#[test]
fn lines_as_ever_accuse_nobody_and_neither_does_silence() {
    for seed in 1..=4 {
        for said in [Said::Usual, Said::Silence] {
            let ranking = after_health_with_logs(seed, Fault::Nothing, said, true);
            assert!(ranking.causes.iter().all(|cause| cause.confidence < SUSPICIOUS), "{said:?}: {ranking:?}");
        }
    }
}

#[test]
fn a_callee_that_logs_as_usual_has_no_part_in_its_callers_stop() {
    for seed in 1..=3 {
        let without = after_health(seed, Fault::Returns);
        let with = after_health_with_logs(seed, Fault::Returns, Said::Usual, true);
        assert!(without.causes[0].share < 0.7, "{without:?}");
        assert_eq!(first(&with), ("tagger", CauseKind::ChangedCalls, true), "{with:?}");
        assert!(with.causes[0].share > 0.9, "{with:?}");
    }
}
