//! Somebody else's Parquet file of spans, read in its own columns, for an import.

use std::{fs::File, path::Path};

use arrow::record_batch::RecordBatch;
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use crate::error::StoreError;

/// Rows read at once.
const BATCH_ROWS: usize = 65_536;

/// A file that is being read.
pub struct ParquetSpans {
    /// Its rows.
    pub rows: u64,
    /// Its rows, batch by batch.
    pub batches: Box<dyn Iterator<Item = Result<RecordBatch, StoreError>>>,
}

pub(crate) fn open(path: &Path) -> Result<ParquetSpans, StoreError> {
    let file = File::open(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let builder = ParquetRecordBatchReaderBuilder::try_new(file)?.with_batch_size(BATCH_ROWS);
    let rows = u64::try_from(builder.metadata().file_metadata().num_rows()).unwrap_or(0);
    let batches = builder.build()?.map(|batch| batch.map_err(StoreError::from));
    Ok(ParquetSpans { rows, batches: Box::new(batches) })
}
