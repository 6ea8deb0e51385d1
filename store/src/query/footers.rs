//! [`Footers`]: what is known of data files before a row of them is read: schema, statistics, page
//! index and bloom filters. Reading a footer again for every statement costs more than most
//! statements, and a bloom filter on disk 0.2 ms a file, so both stay in memory within a bound.

use std::{
    collections::HashMap,
    io,
    path::{Path, PathBuf},
    sync::{
        Arc, OnceLock,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use arrow::datatypes::SchemaRef;
use parking_lot::Mutex;
use parquet::{
    arrow::arrow_reader::{ArrowReaderMetadata, ArrowReaderOptions},
    bloom_filter::Sbbf,
    errors::Result,
    file::metadata::{PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
};

use super::{null_columns, text_views::viewed};
use crate::disk::{Disk, Opened};

/// Bytes of footers and filters that are kept. A million spans take about 3 MiB of it with eight
/// thousand rows a page, so 10 million and their tables fit several times.
const LIMIT_BYTES: usize = 192 << 20;

/// A file's footer with its page index, and its bloom filters as they are asked for. Columns that are
/// null throughout are not in it.
#[derive(Debug)]
pub(super) struct Footer {
    pub(super) metadata: Arc<ParquetMetaData>,
    /// The same, with the schema to read it in: text as views.
    pub(super) reader: ArrowReaderMetadata,
    path: PathBuf,
    disk: Arc<dyn Disk>,
    /// By row group and leaf column. `None`: there is none, or it cannot be read.
    filters: Vec<OnceLock<Option<Sbbf>>>,
    /// Of the footer, and of those filters that were asked for.
    bytes: AtomicUsize,
}

/// The footers in memory, the least recently used leave first.
#[derive(Debug)]
pub(super) struct Footers {
    disk: Arc<dyn Disk>,
    held: Mutex<Held>,
    limit_bytes: usize,
}

#[derive(Debug, Default)]
struct Held {
    footers: HashMap<PathBuf, (Arc<Footer>, u64)>,
    /// Counts uses: the age of an entry.
    clock: u64,
}

impl Footers {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        Self { disk, held: Mutex::default(), limit_bytes: LIMIT_BYTES }
    }

    /// A file, to read rows from.
    pub(super) fn open(&self, path: &Path) -> io::Result<Opened> {
        self.disk.open(path)
    }

    /// The footer of a file, read if it is not there.
    pub(super) fn get(&self, path: &Path) -> Result<Arc<Footer>> {
        if let Some(footer) = self.held.lock().used(path) {
            return Ok(footer);
        }
        let footer = Arc::new(Footer::read(&self.disk, path)?);
        let mut held = self.held.lock();
        held.keep(footer.clone());
        held.shrink_to(self.limit_bytes);
        Ok(footer)
    }

    /// Keeps the bound when filters were asked for: they count from then on.
    pub(super) fn shrink(&self) {
        self.held.lock().shrink_to(self.limit_bytes);
    }
}

impl Held {
    fn used(&mut self, path: &Path) -> Option<Arc<Footer>> {
        self.clock += 1;
        let (footer, used) = self.footers.get_mut(path)?;
        *used = self.clock;
        Some(footer.clone())
    }

    fn keep(&mut self, footer: Arc<Footer>) {
        self.footers.insert(footer.path.clone(), (footer, self.clock));
    }

    fn bytes(&self) -> usize {
        self.footers.values().map(|(footer, _)| footer.bytes.load(Relaxed)).sum()
    }

    fn shrink_to(&mut self, limit_bytes: usize) {
        let mut bytes = self.bytes();
        while bytes > limit_bytes {
            let oldest = self.footers.iter().min_by_key(|(_, (_, used))| *used).map(|(path, _)| path.clone());
            let Some((gone, _)) = oldest.and_then(|path| self.footers.remove(&path)) else { return };
            bytes -= gone.bytes.load(Relaxed);
        }
    }
}

impl Footer {
    fn read(disk: &Arc<dyn Disk>, path: &Path) -> Result<Self> {
        let file = disk.open(path)?;
        let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = Arc::new(null_columns::left_out(metadata.parse_and_finish(&file)?)?);
        let as_written = ArrowReaderMetadata::try_new(metadata.clone(), ArrowReaderOptions::new())?;
        let options = ArrowReaderOptions::new().with_schema(viewed(as_written.schema()));
        let reader = ArrowReaderMetadata::try_new(metadata.clone(), options)?;
        let leaves = metadata.row_groups().iter().map(|group| group.num_columns()).sum();
        Ok(Self {
            reader,
            path: path.to_owned(),
            disk: disk.clone(),
            filters: std::iter::repeat_with(OnceLock::new).take(leaves).collect(),
            bytes: AtomicUsize::new(metadata.memory_size()),
            metadata,
        })
    }

    /// The file, to read rows from.
    pub(super) fn open(&self) -> io::Result<Opened> {
        self.disk.open(&self.path)
    }

    pub(super) fn schema(&self) -> &SchemaRef {
        self.reader.schema()
    }

    pub(super) fn row_groups(&self) -> usize {
        self.metadata.num_row_groups()
    }

    /// The place of a leaf column by its path in Parquet.
    pub(super) fn leaf(&self, path: &str) -> Option<usize> {
        let columns = self.metadata.file_metadata().schema_descr().columns();
        columns.iter().position(|column| column.path().string() == path)
    }

    /// The bloom filter of a leaf column in a row group, if it has one.
    pub(super) fn filter(&self, row_group: usize, leaf: usize) -> Option<&Sbbf> {
        let column = self.metadata.row_groups().get(row_group)?.columns().get(leaf)?;
        column.bloom_filter_offset()?;
        let leaves = self.metadata.file_metadata().schema_descr().num_columns();
        let read = || {
            let file = self.open().ok()?;
            // a filter that cannot be read prunes nothing
            let filter = Sbbf::read_from_column_chunk(column, &file).ok().flatten();
            let bytes = filter.as_ref().and(column.bloom_filter_length()).unwrap_or_default();
            self.bytes.fetch_add(usize::try_from(bytes).unwrap_or_default(), Relaxed);
            filter
        };
        self.filters.get(row_group * leaves + leaf)?.get_or_init(read).as_ref()
    }
}

#[cfg(test)]
mod tests {
    use parquet::{arrow::ArrowWriter, file::properties::WriterProperties};

    use super::*;
    use crate::store::tests::spans;

    fn write(path: &Path) {
        let properties = WriterProperties::builder().set_column_bloom_filter_enabled("trace_id".into(), true).build();
        let rows = spans(&[(1, 2, 3)]);
        let file = std::fs::File::create(path).unwrap();
        let mut writer = ArrowWriter::try_new(file, rows.schema(), Some(properties)).unwrap();
        writer.write(&rows).unwrap();
        writer.close().unwrap();
    }

    #[test]
    fn footers_are_read_once_and_leave_when_there_are_too_many() {
        let dir = tempfile::tempdir().unwrap();
        let paths = ["a", "b"].map(|name| dir.path().join(name));
        for path in &paths {
            write(path);
        }
        let disk: Arc<dyn Disk> = Arc::new(crate::disk::RealDisk);
        let one = Footer::read(&disk, &paths[0]).unwrap().bytes.into_inner();
        let footers = Footers { disk, held: Mutex::default(), limit_bytes: one + one / 2 };
        let first = footers.get(&paths[0]).unwrap();
        assert!(Arc::ptr_eq(&first, &footers.get(&paths[0]).unwrap()));
        footers.get(&paths[1]).unwrap();
        assert_eq!(footers.held.lock().footers.keys().collect::<Vec<_>>(), [&paths[1]]);
        let trace = first.leaf("trace_id").unwrap();
        let filter = first.filter(0, trace).unwrap();
        assert!(filter.check(&[1_u8; 16][..]) && !filter.check(&[2_u8; 16][..]));
        assert!(first.filter(0, first.leaf("service").unwrap()).is_none());
        assert_eq!(footers.held.lock().bytes(), one, "the filter is of a footer that left");
        footers.get(&paths[1]).unwrap().filter(0, trace).unwrap();
        assert!(footers.held.lock().bytes() > one, "a filter counts when it is asked for");
        let footers = Footers { limit_bytes: one, ..footers };
        footers.shrink();
        assert_eq!(footers.held.lock().bytes(), 0);
    }
}
