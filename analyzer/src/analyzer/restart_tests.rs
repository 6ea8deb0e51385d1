//! A stop and a start: half a window is not taken for a whole one, and what people ordered holds.

use std::{collections::BTreeSet, sync::Arc};

use arrow::{
    array::{ArrayRef, ListArray, StringArray, StructArray},
    buffer::OffsetBuffer,
    datatypes::{Field, Schema},
};

use super::{
    made::{Made, batch},
    *,
};

const SECOND: i64 = 1_000_000_000;

/// Ten requests a second, each received half a second after it ended.
fn requests(seconds: std::ops::Range<i64>) -> Vec<Made> {
    let made = |number: i64| {
        let start = number * SECOND / 10;
        let duration = 5_000_000;
        let trace = u128::from(number.unsigned_abs());
        Made { trace, start, duration, received: start + duration + SECOND / 2, ..Made::default() }
    };
    (seconds.start * 10..seconds.end * 10).map(made).collect()
}

/// The requests per second of each window that closes.
fn rates(analyzer: &mut Analyzer, until: i64) -> Vec<(i64, f64)> {
    let mut found = Vec::new();
    while let Some(snapshot) = analyzer.next_window(until * SECOND) {
        found.push((snapshot.time_unix_nano / SECOND, snapshot.services[0].rate_per_s));
    }
    found
}

/// Stopped at 1,026 s, in the middle of a window, and started at `start`, as a server does it.
fn restarted(start: i64) -> Analyzer {
    let mut before = Analyzer::new(Config::default());
    before.push(&batch(&requests(1_000..1_026)));
    before.step(1_026 * SECOND);
    let note = before.checkpoint().unwrap();
    assert!(before.stop().iter().any(|rows| rows.table == Table::Operations), "rows are complete");
    let mut after = Analyzer::new(Config::default());
    after.restore_history(&note).unwrap();
    let read_from = (start - 120) * SECOND;
    let stored: Vec<Made> = requests(1_000..1_026).into_iter().filter(|span| span.start >= read_from).collect();
    after.restore(&batch(&stored), &BTreeSet::new(), read_from);
    after.was_away(read_from, 1_026 * SECOND..start * SECOND);
    after
}

#[test]
fn windows_with_a_stop_or_a_start_in_them_are_not_judged() {
    let mut after = restarted(1_043);
    after.push(&batch(&requests(1_043..1_075)));
    assert_eq!(rates(&mut after, 1_070), [(1_060, 10.0), (1_070, 10.0)]);
    assert_eq!(after.counters.late, 0);
}

#[test]
fn a_stop_closes_no_window_ahead_of_time() {
    let mut before = Analyzer::new(Config::default());
    // one sender is most of a minute ahead
    let ahead = Made { trace: 1, start: 1_080 * SECOND, received: 1_025 * SECOND, ..Made::default() };
    before.push(&batch(&requests(1_000..1_025)));
    before.push(&batch([&ahead]));
    before.step(1_025 * SECOND);
    before.stop();
    let mut after = Analyzer::new(Config::default());
    after.restore_history(&before.checkpoint().unwrap()).unwrap();
    after.push(&batch(&requests(1_030..1_045)));
    after.step(1_045 * SECOND);
    assert_eq!(after.counters.late, 0, "what came after the stop is heard");
}

#[test]
fn what_was_not_read_back_whole_is_not_judged() {
    // started two minutes and 22 s after the first request: what began before 1,022 s is not read
    let mut after = Analyzer::new(Config::default());
    let stored: Vec<Made> = requests(1_000..1_060).into_iter().filter(|span| span.start >= 1_022 * SECOND).collect();
    after.restore(&batch(&stored), &BTreeSet::new(), 1_022 * SECOND);
    after.was_away(1_022 * SECOND, 1_060 * SECOND..1_142 * SECOND);
    assert_eq!(rates(&mut after, 1_060), [(1_040, 10.0), (1_050, 10.0)]);
}

#[test]
fn orders_are_in_the_note_and_one_without_them_is_read() {
    let mut before = Analyzer::new(Config::default());
    before.command(Command::SetControl { enabled: true });
    before.command(Command::KillSwitch { engaged: true, author: "ana".into() });
    before.step(1_000 * SECOND);
    let note = before.checkpoint().unwrap();
    let mut after = Analyzer::new(Config::default());
    after.restore_history(&note).unwrap();
    let control = after.regulated().control;
    assert!(control.enabled && control.kill_switch);
    // an older weir noted no orders
    let mut older: ciborium::Value = ciborium::from_reader(&note[12..]).unwrap();
    let fields = older.as_map_mut().unwrap();
    fields.retain(|(name, _)| name.as_text() != Some("control"));
    let mut bytes = note[..12].to_vec();
    ciborium::into_writer(&older, &mut bytes).unwrap();
    let mut after = Analyzer::new(Config::default());
    assert_eq!(after.restore_history(&bytes), Ok(()));
    assert!(!after.regulated().control.kill_switch);
}

/// Rows of which each carries an exception.
fn throwing(spans: &[Made]) -> RecordBatch {
    let rows = batch(spans);
    let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
    let names: ArrayRef = Arc::new(StringArray::from(vec!["exception"; spans.len()]));
    let events: ArrayRef = Arc::new(StructArray::from(vec![(field("name", &names), names.clone())]));
    let offsets = OffsetBuffer::from_lengths(vec![1; spans.len()]);
    let events: ArrayRef = Arc::new(ListArray::new(field("element", &events), offsets, events.clone(), None));
    let place = rows.schema().index_of("events").unwrap();
    let mut fields = rows.schema().fields().to_vec();
    let mut columns = rows.columns().to_vec();
    (fields[place], columns[place]) = (field("events", &events), events);
    RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).unwrap()
}

#[test]
fn exceptions_in_spans_that_are_read_back_are_seen() {
    let seen = |history_from: i64| {
        let mut after = Analyzer::new(Config::default());
        after.restore(&throwing(&requests(1_000..1_010)), &BTreeSet::new(), history_from * SECOND);
        after.findings.lines()
    };
    assert_eq!(seen(1_000), 100);
    assert_eq!(seen(1_020), 0, "of what was judged before nothing is gathered");
}
