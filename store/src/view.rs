//! [`View`]: what a query sees, whole: rows in memory and the files of every table. Views are
//! replaced, never changed, so a query that holds one misses nothing and counts nothing twice.

use std::{sync::Arc, time::Instant};

use arc_swap::ArcSwap;
use arrow::record_batch::RecordBatch;
use parking_lot::Mutex;
use weir_schema::{Batch, Table};

/// Rows of one append, not yet in files.
#[derive(Debug)]
pub(crate) struct Held {
    /// Its place in the log.
    pub(crate) sequence: u64,
    /// The rows.
    pub(crate) rows: RecordBatch,
    /// Their size.
    pub(crate) bytes: u64,
    /// When they came.
    pub(crate) since: Instant,
}

/// A file of a table.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct DataFile {
    /// Its name in the table's folder.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its rows.
    pub(crate) rows: u64,
    /// Smallest and largest value of the table's time column.
    pub(crate) time_range: Option<(i64, i64)>,
}

/// One table in a view.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableView {
    /// Rows in memory, in log order.
    pub(crate) memory: Vec<Arc<Held>>,
    /// Files.
    pub(crate) files: Arc<Vec<DataFile>>,
}

/// All tables at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    tables: [TableView; Table::ALL.len()],
}

/// The current view and the one lock under which it is replaced.
#[derive(Debug, Default)]
pub(crate) struct Views {
    current: ArcSwap<View>,
    replace: Mutex<()>,
}

impl View {
    pub(crate) fn table(&self, table: Table) -> &TableView {
        &self.tables[table as usize]
    }

    /// Bytes of all rows in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.tables.iter().flat_map(|table| &table.memory).map(|held| held.bytes).sum()
    }

    /// The lowest sequence that is only in memory.
    pub(crate) fn first_unflushed(&self) -> Option<u64> {
        self.tables.iter().filter_map(|table| table.memory.first()).map(|held| held.sequence).min()
    }
}

impl TableView {
    pub(crate) fn memory_rows(&self) -> usize {
        self.memory.iter().map(|held| held.rows.num_rows()).sum()
    }
}

impl Views {
    pub(crate) fn current(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Makes appended rows visible.
    pub(crate) fn append(&self, rows: Vec<(u64, Batch)>) {
        if rows.is_empty() {
            return;
        }
        let since = Instant::now();
        self.change(|view| {
            for (sequence, batch) in rows {
                let bytes = batch.rows.get_array_memory_size() as u64;
                let held = Held { sequence, rows: batch.rows, bytes, since };
                view.tables[batch.table as usize].memory.push(Arc::new(held));
            }
        });
    }

    /// Moves rows up to `sequence` from memory to `files`, in one step.
    pub(crate) fn flushed(&self, table: Table, sequence: u64, files: Vec<DataFile>) {
        self.change(|view| {
            let table = &mut view.tables[table as usize];
            table.memory.retain(|held| held.sequence > sequence);
            table.files = Arc::new(files);
        });
    }

    /// Replaces the files of a table, rows unchanged.
    pub(crate) fn set_files(&self, table: Table, files: Vec<DataFile>) {
        self.change(|view| view.tables[table as usize].files = Arc::new(files));
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let _one_at_a_time = self.replace.lock();
        let mut view = View::clone(&self.current.load());
        change(&mut view);
        self.current.store(Arc::new(view));
    }
}
