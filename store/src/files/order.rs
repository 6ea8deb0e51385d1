//! The order of rows in a file. Spans of one trace stand together, traces by their start: a trace is
//! read from one page, a time range from few. The trace index stands by id.

use std::collections::HashMap;

use arrow::{
    array::{AsArray, BinaryArray},
    datatypes::Int64Type,
    record_batch::RecordBatch,
};
use foldhash::fast::RandomState;
use weir_schema::Table;

/// A row: which batch, and where in it.
pub(super) type Place = (usize, usize);

/// The places of all rows, in the order of a file.
pub(super) fn places(table: Table, batches: &[RecordBatch]) -> Vec<Place> {
    match table {
        Table::Spans => by_trace(batches),
        Table::TraceIndex => by_key(batches, |batch| {
            let ids = ids(batch);
            move |row| id_as_number(ids.value(row))
        }),
        _ => by_key(batches, |batch| {
            let times = times(table, batch);
            move |row| times[row]
        }),
    }
}

fn by_key<'a, K: Ord, F: Fn(usize) -> K + 'a>(
    batches: &'a [RecordBatch],
    key_of: impl Fn(&'a RecordBatch) -> F,
) -> Vec<Place> {
    let mut rows = Vec::with_capacity(batches.iter().map(RecordBatch::num_rows).sum());
    for (place, batch) in batches.iter().enumerate() {
        let key = key_of(batch);
        rows.extend((0..batch.num_rows()).map(|row| (key(row), (place, row))));
    }
    // equal keys keep the order they came in
    rows.sort_by(|(a, _), (b, _)| a.cmp(b));
    rows.into_iter().map(|(_, place)| place).collect()
}

/// Each row is looked up once; traces are sorted by their starts, and the rows of each among themselves.
fn by_trace(batches: &[RecordBatch]) -> Vec<Place> {
    let Numbered { rows, mut traces } = Numbered::of(batches);
    traces.sort_unstable_by_key(|trace| (trace.start, trace.id));
    let mut next = vec![0; traces.len()];
    let mut before = 0;
    for trace in &traces {
        next[trace.number] = before;
        before += trace.rows;
    }
    let mut sorted = vec![(0, (0, 0)); rows.len()];
    for (number, time, place) in rows {
        sorted[next[number]] = (time, place);
        next[number] += 1;
    }
    let mut rest = sorted.as_mut_slice();
    for trace in &traces {
        let (of_trace, after) = rest.split_at_mut(trace.rows);
        // equal times keep the order they came in
        of_trace.sort_by_key(|(time, _)| *time);
        rest = after;
    }
    sorted.into_iter().map(|(_, place)| place).collect()
}

/// Rows by the number of their trace.
struct Numbered {
    rows: Vec<(usize, i64, Place)>,
    traces: Vec<Trace>,
}

struct Trace {
    number: usize,
    id: u128,
    start: i64,
    rows: usize,
}

impl Numbered {
    fn of(batches: &[RecordBatch]) -> Self {
        let count = batches.iter().map(RecordBatch::num_rows).sum();
        let mut numbered = Self { rows: Vec::with_capacity(count), traces: Vec::new() };
        let mut numbers: HashMap<u128, usize, RandomState> = HashMap::default();
        for (place, batch) in batches.iter().enumerate() {
            let (ids, times) = (ids(batch), times(Table::Spans, batch));
            for (row, time) in times.iter().enumerate() {
                let id = id_as_number(ids.value(row));
                let number = *numbers.entry(id).or_insert(numbered.traces.len());
                numbered.add(number, id, *time, (place, row));
            }
        }
        numbered
    }

    fn add(&mut self, number: usize, id: u128, time: i64, place: Place) {
        if number == self.traces.len() {
            self.traces.push(Trace { number, id, start: time, rows: 0 });
        }
        let trace = &mut self.traces[number];
        trace.start = trace.start.min(time);
        trace.rows += 1;
        self.rows.push((number, time, place));
    }
}

fn ids(batch: &RecordBatch) -> &BinaryArray {
    batch["trace_id"].as_binary::<i32>()
}

fn times(table: Table, batch: &RecordBatch) -> &[i64] {
    batch[table.time_column()].as_primitive::<Int64Type>().values()
}

/// An id as a number: compares as its bytes do.
pub(crate) fn id_as_number(id: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let length = id.len().min(16);
    bytes[..length].copy_from_slice(&id[..length]);
    u128::from_be_bytes(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::spans;

    #[test]
    fn spans_of_a_trace_stand_together_by_the_traces_start() {
        let batches = [spans(&[(2, 1, 50), (1, 2, 10)]), spans(&[(2, 3, 20), (1, 4, 60)])];
        assert_eq!(places(Table::Spans, &batches), [(0, 1), (1, 1), (1, 0), (0, 0)]);
    }

    /// Against the definition: by the trace's start, its id, the row's time, and as they came.
    #[test]
    fn any_rows_stand_by_trace_then_time_then_as_they_came() {
        let mut state = 7_u64;
        let mut random = |below: u64| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            (state >> 33) % below
        };
        for _ in 0..50 {
            let mut rows = |count: u64| -> Vec<(u8, u64, i64)> {
                (0..count).map(|span| (1 + random(6) as u8, span + 1, random(9) as i64)).collect()
            };
            let given = [rows(20), rows(1), rows(33)];
            let batches: Vec<RecordBatch> = given.iter().map(|rows| spans(rows)).collect();
            let all = || {
                given
                    .iter()
                    .enumerate()
                    .flat_map(|(batch, rows)| rows.iter().enumerate().map(move |(row, span)| ((batch, row), *span)))
            };
            let start = |trace: u8| all().filter(|(_, span)| span.0 == trace).map(|(_, span)| span.2).min();
            let mut expected: Vec<_> = all().collect();
            expected.sort_by_key(|(_, (trace, _, time))| (start(*trace), *trace, *time));
            let expected: Vec<Place> = expected.into_iter().map(|(place, _)| place).collect();
            assert_eq!(places(Table::Spans, &batches), expected);
        }
    }
}
