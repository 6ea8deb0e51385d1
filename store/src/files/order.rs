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
            move |row| key(ids.value(row))
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

fn by_trace(batches: &[RecordBatch]) -> Vec<Place> {
    let mut starts: HashMap<u128, i64, RandomState> = HashMap::default();
    for batch in batches {
        let (ids, times) = (ids(batch), times(Table::Spans, batch));
        for (row, time) in times.iter().enumerate() {
            let start = starts.entry(key(ids.value(row))).or_insert(i64::MAX);
            *start = (*start).min(*time);
        }
    }
    let starts = &starts;
    by_key(batches, |batch| {
        let (ids, times) = (ids(batch), times(Table::Spans, batch));
        move |row| {
            let id = key(ids.value(row));
            (starts[&id], id, times[row])
        }
    })
}

fn ids(batch: &RecordBatch) -> &BinaryArray {
    batch["trace_id"].as_binary::<i32>()
}

fn times(table: Table, batch: &RecordBatch) -> &[i64] {
    batch[table.time_column()].as_primitive::<Int64Type>().values()
}

/// An id as a number: compares as its bytes do.
fn key(id: &[u8]) -> u128 {
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
}
