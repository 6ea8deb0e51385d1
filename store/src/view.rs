//! [`View`]: what a query sees, whole: rows in memory and the files of every table. Views are
//! replaced, never changed, so a query that holds one misses nothing and counts nothing twice.

use std::{
    path::Path,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicU8, Ordering::Relaxed},
    },
    time::Instant,
};

use arc_swap::ArcSwap;
use arrow::{compute::concat_batches, record_batch::RecordBatch};
use parking_lot::Mutex;
use weir_schema::{Batch, Table};

use crate::{
    disk::Disk,
    files::{self, Origin, Tail},
};

/// So many small appends in a row are put together: a query pays for each batch it reads.
const RUN: usize = 32;

/// An append with fewer rows is small.
const SMALL_ROWS: usize = 1024;

/// Rows of one append, or of a run of small ones, not yet in files.
#[derive(Debug)]
pub(crate) struct Held {
    /// The first append's place in the log.
    pub(crate) first_sequence: u64,
    /// The last append's place in the log.
    pub(crate) last_sequence: u64,
    /// The rows.
    pub(crate) rows: RecordBatch,
    /// Their size.
    pub(crate) bytes: u64,
    /// When the first of them came.
    pub(crate) since: Instant,
    /// When the last of them came.
    pub(crate) until: Instant,
    /// Whether a map holds an attribute that has a column of its own: found out when a query asks.
    pub(crate) hot_in_map: OnceLock<bool>,
}

/// A file of a table.
#[derive(Debug)]
pub(crate) struct DataFile {
    /// Its name in the table's folder.
    pub(crate) name: String,
    /// Its size.
    pub(crate) bytes: u64,
    /// Its rows.
    pub(crate) rows: u64,
    /// Smallest and largest value of the table's time column.
    pub(crate) time_range: Option<(i64, i64)>,
    /// When it was written (merged and packed files anew), in nanoseconds since 1970.
    pub(crate) written_unix_nano: i64,
    /// Hash of its content, from its entry in the Delta log.
    pub(crate) hash: Option<u64>,
    /// What is read of it before any row.
    pub(crate) tail: Option<Tail>,
    /// Whether a map in it holds an attribute that has a column of its own.
    pub(crate) hot_in_map: bool,
    /// Whether it is packed as tightly as it gets.
    pub(crate) recompressed: bool,
    /// The hash of the file it was packed from: it has the same rows.
    pub(crate) packed_from: Option<u64>,
    /// Which log records its rows come from.
    pub(crate) origin: Origin,
    /// Since when this process knows it.
    pub(crate) since: Instant,
    /// Whether its content was compared with its hash since the store was opened, and was right.
    pub(crate) checked: Checked,
}

/// What is known of a file's content.
#[derive(Debug, Default)]
pub(crate) struct Checked(AtomicU8);

/// One table in a view.
#[derive(Clone, Debug, Default)]
pub(crate) struct TableView {
    /// Rows of the log's past, while it is being replayed.
    pub(crate) replayed: Memory,
    /// Rows appended since the store was opened.
    pub(crate) appended: Memory,
    /// Files.
    pub(crate) files: Arc<Vec<Arc<DataFile>>>,
}

/// Rows in memory, in log order.
#[derive(Clone, Debug, Default)]
pub(crate) struct Memory {
    held: Vec<Arc<Held>>,
    /// So many from the front are being flushed: they stay as they are.
    sealed: usize,
}

/// All tables at one moment.
#[derive(Clone, Debug, Default)]
pub(crate) struct View {
    tables: [TableView; Table::ALL.len()],
    memory_bytes: u64,
}

/// The current view and the one lock under which it is replaced.
#[derive(Debug, Default)]
pub(crate) struct Views {
    current: ArcSwap<View>,
    replace: Mutex<()>,
}

impl Held {
    pub(crate) fn new(sequence: u64, rows: RecordBatch, since: Instant) -> Self {
        let bytes = rows.get_array_memory_size() as u64;
        let (first_sequence, last_sequence, hot_in_map) = (sequence, sequence, OnceLock::new());
        Self { first_sequence, last_sequence, rows, bytes, since, until: since, hot_in_map }
    }

    /// A run of appends as one. `None` when their rows cannot be put together.
    fn together(run: &[Arc<Self>]) -> Option<Self> {
        let (first, last) = (run.first()?, run.last()?);
        let rows = concat_batches(&first.rows.schema(), run.iter().map(|held| &held.rows)).ok()?;
        let held = Self::new(first.first_sequence, rows, first.since);
        Some(Self { last_sequence: last.last_sequence, until: last.until, ..held })
    }
}

impl Checked {
    const INTACT: u8 = 1;
    const DAMAGED: u8 = 2;
    const TAIL_INTACT: u8 = 3;

    /// Of a file that this process wrote a moment ago.
    pub(crate) fn intact() -> Self {
        Self(AtomicU8::new(Self::INTACT))
    }

    /// `None`: nobody looked.
    pub(crate) fn known(&self) -> Option<bool> {
        match self.0.load(Relaxed) {
            Self::INTACT => Some(true),
            Self::DAMAGED => Some(false),
            _ => None,
        }
    }

    /// The same of its tail.
    fn known_tail(&self) -> Option<bool> {
        match self.0.load(Relaxed) {
            Self::TAIL_INTACT => Some(true),
            _ => self.known(),
        }
    }

    fn set_tail(&self, intact: bool) {
        match intact {
            // what is known of the whole says more
            true => drop(self.0.compare_exchange(0, Self::TAIL_INTACT, Relaxed, Relaxed)),
            false => self.set(false),
        }
    }

    fn set(&self, intact: bool) {
        self.0.store(if intact { Self::INTACT } else { Self::DAMAGED }, Relaxed);
    }
}

impl DataFile {
    /// The time of its newest row, as retention has it: where that has not come yet, a clock was ahead, and the time at which
    /// the file was written counts. Such rows would be kept for ever, and others dropped for them.
    pub(crate) fn newest_unix_nano(&self, now_unix_nano: i64) -> Option<i64> {
        let (_, high) = self.time_range?;
        Some(if high > now_unix_nano { self.written_unix_nano.min(now_unix_nano) } else { high })
    }

    /// Whether the content is what was written: looked at once while the store is open.
    pub(crate) fn is_intact(&self, disk: &dyn Disk, path: &Path) -> bool {
        self.checked.known().unwrap_or_else(|| self.look(disk, path))
    }

    /// The same of its tail alone; of the whole content where its tail has no hash.
    pub(crate) fn is_tail_intact(&self, disk: &dyn Disk, path: &Path) -> bool {
        let Some(tail) = self.tail else { return self.is_intact(disk, path) };
        self.checked.known_tail().unwrap_or_else(|| {
            let looked = files::is_tail_intact(disk, path, self.bytes, tail);
            looked.inspect(|intact| self.checked.set_tail(*intact)).unwrap_or(true)
        })
    }

    /// Whether both have the same rows: they are one file, or one was packed from the other.
    pub(crate) fn has_rows_of(&self, other: &Self) -> bool {
        let known = |file: &Self| [file.hash, file.packed_from].into_iter().flatten().collect::<Vec<_>>();
        self.rows == other.rows && known(self).iter().any(|hash| known(other).contains(hash))
    }

    /// Whether the content is what was written, now.
    pub(crate) fn look(&self, disk: &dyn Disk, path: &Path) -> bool {
        // a file that cannot be read is an error of its own, said by whoever reads it
        let looked = self.hash.map_or(Ok(true), |hash| files::is_intact(disk, path, hash));
        if let Ok(intact) = looked {
            self.looked_at(intact);
        }
        looked.unwrap_or(true)
    }

    /// Somebody looked at the whole content.
    pub(crate) fn looked_at(&self, intact: bool) {
        self.checked.set(intact);
    }
}

impl View {
    pub(crate) fn table(&self, table: Table) -> &TableView {
        &self.tables[table as usize]
    }

    /// Bytes of all rows in memory.
    pub(crate) fn memory_bytes(&self) -> u64 {
        self.memory_bytes
    }

    /// The lowest sequence that is only in memory.
    pub(crate) fn first_unflushed(&self) -> Option<u64> {
        self.tables.iter().filter_map(|table| table.memory().next()).map(|held| held.first_sequence).min()
    }

    fn count_bytes(&mut self) {
        self.memory_bytes = self.tables.iter().flat_map(TableView::memory).map(|held| held.bytes).sum();
    }
}

impl TableView {
    /// Rows in memory, in log order.
    pub(crate) fn memory(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.replayed.held.iter().chain(&self.appended.held)
    }

    /// Rows of the log's past in memory, in log order.
    pub(crate) fn replayed(&self) -> impl Iterator<Item = &Arc<Held>> {
        self.replayed.held.iter()
    }

    pub(crate) fn memory_rows(&self) -> usize {
        self.memory().map(|held| held.rows.num_rows()).sum()
    }
}

impl Views {
    pub(crate) fn current(&self) -> Arc<View> {
        self.current.load_full()
    }

    /// Makes appended rows visible.
    pub(crate) fn append(&self, rows: Vec<(u64, Batch)>) {
        self.take_in(rows, |table| &mut table.appended);
    }

    /// Makes rows of the log's past visible.
    pub(crate) fn replay(&self, rows: Vec<(u64, Batch)>) {
        self.take_in(rows, |table| &mut table.replayed);
    }

    /// From here on the rows now in memory of a table stay in the pieces they are in, so that those
    /// that a flush takes can be told from those that come meanwhile.
    pub(crate) fn seal(&self, table: Table) {
        self.change(|view| {
            let TableView { replayed, appended, .. } = &mut view.tables[table as usize];
            replayed.sealed = replayed.held.len();
            appended.sealed = appended.held.len();
        });
    }

    fn take_in(&self, rows: Vec<(u64, Batch)>, place: fn(&mut TableView) -> &mut Memory) {
        if rows.is_empty() {
            return;
        }
        let since = Instant::now();
        self.change(|view| {
            for (sequence, batch) in rows {
                let held = Held::new(sequence, batch.rows, since);
                view.memory_bytes += held.bytes;
                let memory = place(&mut view.tables[batch.table as usize]);
                memory.held.push(Arc::new(held));
                if let Some((before, after)) = memory.put_together() {
                    view.memory_bytes = (view.memory_bytes + after).saturating_sub(before);
                }
            }
        });
    }

    /// Moves rows up to `sequence` from memory to `files`, in one step.
    pub(crate) fn flushed(&self, table: Table, sequence: u64, files: Vec<Arc<DataFile>>) {
        self.change(|view| {
            let table = &mut view.tables[table as usize];
            table.replayed.let_go(sequence);
            table.appended.let_go(sequence);
            table.files = Arc::new(files);
            view.count_bytes();
        });
    }

    /// Replaces the files of a table, rows in memory unchanged.
    pub(crate) fn set_files(&self, table: Table, files: Vec<Arc<DataFile>>) {
        self.change(|view| view.tables[table as usize].files = Arc::new(files));
    }

    fn change(&self, change: impl FnOnce(&mut View)) {
        let _one_at_a_time = self.replace.lock();
        let mut view = View::clone(&self.current.load());
        change(&mut view);
        self.current.store(Arc::new(view));
    }
}

impl Memory {
    /// Makes one of the last [`RUN`] if all are small; says how many bytes they had and have.
    fn put_together(&mut self) -> Option<(u64, u64)> {
        let run = self.held.len().checked_sub(RUN).filter(|run| *run >= self.sealed)?;
        let small = self.held[run..].iter().all(|held| held.rows.num_rows() < SMALL_ROWS);
        let together = small.then(|| Held::together(&self.held[run..])).flatten()?;
        let (before, after) = (self.held[run..].iter().map(|held| held.bytes).sum(), together.bytes);
        self.held.truncate(run);
        self.held.push(Arc::new(together));
        Some((before, after))
    }

    /// Lets go of what is in files.
    fn let_go(&mut self, sequence: u64) {
        self.held.retain(|held| held.last_sequence > sequence);
        self.sealed = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::tests::spans;

    #[test]
    fn small_appends_are_put_together_in_log_order_and_counted() {
        let views = Views::default();
        for sequence in 1..=100 {
            let rows = spans(&[(1, sequence, sequence as i64)]);
            views.append(vec![(sequence, Batch { table: Table::Spans, rows })]);
        }
        let view = views.current();
        let spans = view.table(Table::Spans);
        assert_eq!(spans.memory_rows(), 100);
        assert!(spans.memory().count() < RUN * 2, "{}", spans.memory().count());
        assert_eq!(view.memory_bytes(), spans.memory().map(|held| held.bytes).sum::<u64>());
        let ends: Vec<_> = spans.memory().map(|held| (held.first_sequence, held.last_sequence)).collect();
        assert!(ends.windows(2).all(|pair| pair[0].1 + 1 == pair[1].0), "{ends:?}");
        assert_eq!(view.first_unflushed(), Some(1));
        views.seal(Table::Spans);
        for sequence in 101..=140 {
            let rows = crate::store::tests::spans(&[(1, sequence, sequence as i64)]);
            views.append(vec![(sequence, Batch { table: Table::Spans, rows })]);
        }
        views.flushed(Table::Spans, 100, Vec::new());
        assert_eq!(views.current().table(Table::Spans).memory_rows(), 40, "what came meanwhile stays");
        views.flushed(Table::Spans, 140, Vec::new());
        assert_eq!((views.current().memory_bytes(), views.current().first_unflushed()), (0, None));
    }
}
