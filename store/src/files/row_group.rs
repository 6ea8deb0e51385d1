//! One row group: its columns are encoded one by one, by one thread or by several that each take the
//! next until none is left. The file is the same.

use std::{panic::resume_unwind, thread};

use arrow::{
    array::{Array, ArrayRef},
    compute::interleave,
    datatypes::FieldRef,
    record_batch::RecordBatch,
};
use parking_lot::Mutex;
use parquet::arrow::arrow_writer::{ArrowColumnChunk, ArrowColumnWriter, compute_leaves};

use super::order::Place;
use crate::error::StoreError;

/// Rows of a page: what a selective query decodes at least.
pub(super) const PAGE_ROWS: usize = 8192;

/// The rows of a group, in the order of the file. Nothing is copied before it is encoded.
pub(super) struct Pages<'a>(Vec<Page<'a>>);

/// Rows of few batches: each batch that is handed over costs a look at its types.
struct Page<'a> {
    used: Vec<&'a RecordBatch>,
    /// Which of those, and which row of it.
    places: Vec<Place>,
}

/// A column that nobody encodes yet.
pub(super) struct Column {
    /// Where it stands in the table.
    pub(super) place: usize,
    pub(super) field: FieldRef,
    /// One for each column that Parquet makes of it.
    pub(super) writers: Vec<ArrowColumnWriter>,
}

/// A column that was encoded, by its place in the table.
type Encoded = (usize, Vec<ArrowColumnChunk>);

impl<'a> Pages<'a> {
    pub(super) fn of(batches: &'a [RecordBatch], places: &[Place]) -> Self {
        let mut place_of = vec![None; batches.len()];
        Self(places.chunks(PAGE_ROWS).map(|places| Page::of(batches, places, &mut place_of)).collect())
    }

    /// Bytes that a column has in memory, in all the batches that are used: how long it takes, about.
    fn weight(&self, column: usize) -> usize {
        let of_page = |page: &Page<'_>| page.used.iter().map(|rows| rows.column(column).get_array_memory_size()).sum();
        self.0.first().map_or(0, of_page)
    }
}

impl<'a> Page<'a> {
    /// `place_of` is scratch: where each batch stands among those that are used.
    fn of(batches: &'a [RecordBatch], places: &[Place], place_of: &mut [Option<usize>]) -> Self {
        place_of.fill(None);
        let mut used = Vec::new();
        let of_used = |(batch, row): &Place| {
            let place = *place_of[*batch].get_or_insert_with(|| {
                used.push(&batches[*batch]);
                used.len() - 1
            });
            (place, *row)
        };
        let places = places.iter().map(of_used).collect();
        Self { used, places }
    }

    fn column(&self, place: usize) -> Result<ArrayRef, StoreError> {
        let columns: Vec<&dyn Array> = self.used.iter().map(|rows| rows.column(place).as_ref()).collect();
        Ok(interleave(&columns, &self.places)?)
    }
}

impl Column {
    fn encode(mut self, pages: &Pages<'_>) -> Result<Encoded, StoreError> {
        for page in &pages.0 {
            let leaves = compute_leaves(&self.field, &page.column(self.place)?)?;
            for (writer, leaf) in self.writers.iter_mut().zip(leaves) {
                writer.write(&leaf)?;
            }
        }
        let chunks = self.writers.into_iter().map(ArrowColumnWriter::close).collect::<Result<_, _>>()?;
        Ok((self.place, chunks))
    }
}

/// The encoded columns of a row group, in the order of the table.
pub(super) fn encode(
    mut columns: Vec<Column>,
    pages: &Pages<'_>,
    threads: usize,
) -> Result<Vec<ArrowColumnChunk>, StoreError> {
    // the longest is taken first, so that nobody waits for it at the end
    columns.sort_by_cached_key(|column| pages.weight(column.place));
    let columns = Mutex::new(columns);
    let work = || -> Result<Vec<Encoded>, StoreError> {
        let mut done = Vec::new();
        loop {
            let next = columns.lock().pop();
            let Some(column) = next else { return Ok(done) };
            done.push(column.encode(pages)?);
        }
    };
    let mut encoded = thread::scope(|scope| {
        let helper = |_| thread::Builder::new().name("weir-encode".into()).spawn_scoped(scope, work);
        // without a thread there is less help, no less done
        let helpers: Vec<_> = (1..threads).filter_map(|place| helper(place).ok()).collect();
        let mut encoded = work()?;
        for helper in helpers {
            encoded.extend(helper.join().unwrap_or_else(|panic| resume_unwind(panic))?);
        }
        Ok::<_, StoreError>(encoded)
    })?;
    encoded.sort_by_key(|(place, _)| *place);
    Ok(encoded.into_iter().flat_map(|(_, chunks)| chunks).collect())
}
