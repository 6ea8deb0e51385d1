//! The committer: moves rows from memory to files, table by table, then trims the log.
//!
//! Order: data file and folder synced → Delta commit, synced → view swapped → log trimmed below
//! the oldest record that any table still holds only in memory. An idle table pins nothing.

use std::{path::PathBuf, sync::Arc, time::Duration};

use arrow::{compute::concat_batches, record_batch::RecordBatch};
use parking_lot::Mutex;
use tokio::sync::{mpsc, oneshot};
use tracing::{debug, warn};
use weir_schema::Table;

use crate::{
    config::Config,
    error::StoreError,
    files::DeltaTable,
    view::{DataFile, TableView, Views},
    wal,
};

/// How often ages are looked at.
const TICK: Duration = Duration::from_millis(250);

/// Rows merged at once. A merge holds them twice, decoded, at up to 1 KiB a row: 2 million took 2.4 GiB.
const MERGE_ROWS: u64 = 512 << 10;

/// A file with this many rows is not merged again: two of them would be more than a merge takes.
const FULL_FILE_ROWS: u64 = MERGE_ROWS / 2;

/// How long a file that a merge replaced stays, for queries that hold an older view.
const REPLACED_FILE_LINGERS: Duration = Duration::from_secs(120);

/// A wish of the store.
pub(crate) enum Order {
    /// Everything in memory, now.
    Flush(oneshot::Sender<Result<(), StoreError>>),
    /// Flush, then end.
    Close(oneshot::Sender<Result<(), StoreError>>),
}

/// The committer's parts.
pub(crate) struct Committer {
    pub(crate) config: Config,
    pub(crate) wal_dir: PathBuf,
    pub(crate) views: Arc<Views>,
    pub(crate) tables: Vec<(Table, DeltaTable)>,
    pub(crate) last_error: Arc<Mutex<Option<String>>>,
    /// Files that no view lists any more, and since when.
    pub(crate) replaced: Vec<(PathBuf, std::time::Instant)>,
}

impl Committer {
    /// Runs until told to close.
    pub(crate) async fn run(mut self, mut orders: mpsc::Receiver<Order>) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            let order = tokio::select! {
                order = orders.recv() => order,
                _ = tick.tick() => {
                    self.flush_due().await;
                    continue;
                }
            };
            match order {
                Some(Order::Flush(reply)) => {
                    // the asker may have gone away
                    let _ = reply.send(self.flush(|_| true).await);
                }
                Some(Order::Close(reply)) => {
                    let _ = reply.send(self.flush(|_| true).await);
                    return;
                }
                None => return,
            }
        }
    }

    /// Flushes what is big or old enough; a failure is kept for `status` and tried again.
    async fn flush_due(&mut self) {
        let (rows, age) = (self.config.flush_rows, Duration::from_millis(self.config.flush_age_ms));
        let half_full = self.views.current().memory_bytes() > self.config.memory_limit_bytes / 2;
        let due = move |table: &TableView| {
            let old = table.memory().next().is_some_and(|held| held.since.elapsed() >= age);
            old || half_full || table.memory_rows() >= rows
        };
        let flushed = self.flush(due).await;
        if let Err(error) = &flushed {
            warn!(%error, "flush failed: rows stay in memory and in the log");
        }
        *self.last_error.lock() = flushed.err().map(|error| error.to_string());
        self.merge_small_files().await;
        self.delete_replaced();
    }

    async fn flush(&mut self, due: impl Fn(&TableView) -> bool) -> Result<(), StoreError> {
        let mut any = false;
        for (table, delta) in &mut self.tables {
            if !due(self.views.current().table(*table)) {
                continue;
            }
            self.views.seal(*table);
            let view = self.views.current();
            let held: Vec<_> = view.table(*table).memory().collect();
            let (Some(first), Some(last)) = (held.first(), held.last()) else { continue };
            let rows = concat_batches(&table.schema(), held.iter().map(|held| &held.rows))?;
            delta.append(&rows, first.first_sequence, last.last_sequence).await?;
            debug!(table = table.name(), rows = rows.num_rows(), "flushed");
            self.views.flushed(*table, last.last_sequence, delta.files());
            any = true;
        }
        if any {
            let segments = wal::segments(&self.wal_dir)?;
            let keep_from = self.views.current().first_unflushed();
            wal::trim(&segments, keep_from.unwrap_or(u64::MAX))?;
        }
        Ok(())
    }

    async fn merge_small_files(&mut self) {
        for place in 0..self.tables.len() {
            if let Err(error) = self.merge_table(place).await {
                warn!(table = self.tables[place].0.name(), %error, "small files could not be merged");
            }
        }
    }

    async fn merge_table(&mut self, place: usize) -> Result<(), StoreError> {
        let (table, delta) = &mut self.tables[place];
        let files = delta.files();
        let small = to_merge(files, self.config.compact_files);
        if small.is_empty() {
            return Ok(());
        }
        let paths: Vec<PathBuf> = small.iter().map(|file| delta.path(&file.name)).collect();
        let (table, read) = (*table, paths.clone());
        let rows = tokio::task::spawn_blocking(move || read_files(table, &read)).await;
        let rows = rows.map_err(|_| StoreError::Closed)??;
        let names: Vec<String> = small.iter().map(|file| file.name.clone()).collect();
        delta.replace(&names, &rows).await?;
        debug!(table = table.name(), files = names.len(), rows = rows.num_rows(), "merged");
        self.views.set_files(table, delta.files());
        let now = std::time::Instant::now();
        self.replaced.extend(paths.into_iter().map(|path| (path, now)));
        Ok(())
    }

    fn delete_replaced(&mut self) {
        let (gone, keep): (Vec<_>, Vec<_>) =
            self.replaced.drain(..).partition(|(_, since)| since.elapsed() > REPLACED_FILE_LINGERS);
        self.replaced = keep;
        for (path, _) in gone {
            if let Err(error) = std::fs::remove_file(&path) {
                warn!(path = %path.display(), %error, "a merged file could not be deleted");
            }
        }
    }
}

/// Small files, oldest first, when there are enough of them.
fn to_merge(mut files: Vec<Arc<DataFile>>, enough: usize) -> Vec<Arc<DataFile>> {
    files.retain(|file| file.rows <= FULL_FILE_ROWS);
    if files.len() < enough {
        return Vec::new();
    }
    files.sort_by_key(|file| file.time_range);
    let mut rows = 0;
    files
        .into_iter()
        .take_while(|file| {
            rows += file.rows;
            rows <= MERGE_ROWS
        })
        .collect()
}

fn read_files(table: Table, paths: &[PathBuf]) -> Result<RecordBatch, StoreError> {
    let mut batches = Vec::new();
    for path in paths {
        let file = std::fs::File::open(path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let reader = parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder::try_new(file)?.build()?;
        for batch in reader {
            batches.push(conform(table, &batch?)?);
        }
    }
    Ok(concat_batches(&table.schema(), &batches)?)
}

/// Rows of an older file in today's columns: what it lacks is null.
fn conform(table: Table, rows: &RecordBatch) -> Result<RecordBatch, StoreError> {
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => arrow::compute::cast(column, field.data_type()),
        None => Ok(arrow::array::new_null_array(field.data_type(), rows.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(rows: &[u64]) -> Vec<Arc<DataFile>> {
        let file = |(place, rows): (usize, &u64)| {
            let time = place as i64;
            Arc::new(DataFile {
                name: format!("f{place}"),
                bytes: 1,
                rows: *rows,
                time_range: Some((time, time)),
                hash: None,
                hot_in_map: false,
                checked: std::sync::OnceLock::new(),
            })
        };
        rows.iter().enumerate().map(file).collect()
    }

    #[test]
    fn merges_are_bounded_and_come_to_an_end() {
        assert!(to_merge(files(&[100; 3]), 4).is_empty(), "too few to be worth it");
        assert_eq!(to_merge(files(&[100; 4]), 4).len(), 4);
        let large = to_merge(files(&[200_000; 8]), 4);
        assert_eq!(large.len(), 2, "what is merged at once fits in memory");
        let merged: u64 = large.iter().map(|file| file.rows).sum();
        assert!(to_merge(files(&[merged; 8]), 4).is_empty(), "what a merge made is not merged again");
    }
}
