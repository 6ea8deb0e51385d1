//! [`Footers`]: what is known of data files before a row of them is read: schema, statistics, page
//! index and bloom filters. Reading a footer again for every statement costs more than most
//! statements, and a bloom filter on disk 0.2 ms a file, so both stay in memory within a bound.

use std::{
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

use super::{
    lru::{Lru, Weighed},
    null_columns,
    probe::Probe,
    text_views::viewed,
};
use crate::disk::{Disk, Opened};

/// Bytes of footers and filters that are kept. A million spans take about 3 MiB of it with eight
/// thousand rows a page, so 10 million and their tables fit several times.
const LIMIT_BYTES: usize = 192 << 20;

/// Bytes of what look-ups of traces ask: a thousand million spans.
const PROBES_BYTES: usize = 64 << 20;

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

/// The footers in memory.
#[derive(Debug)]
pub(super) struct Footers {
    disk: Arc<dyn Disk>,
    footers: Mutex<Lru<Footer>>,
    probes: Mutex<Lru<Probe>>,
}

impl Footers {
    pub(super) fn new(disk: Arc<dyn Disk>) -> Self {
        let (footers, probes) = (Lru::new(LIMIT_BYTES), Lru::new(PROBES_BYTES));
        Self { disk, footers: Mutex::new(footers), probes: Mutex::new(probes) }
    }

    /// A file, to read rows from.
    pub(super) fn open(&self, path: &Path) -> io::Result<Opened> {
        self.disk.open(path)
    }

    /// The footer of a file, read if it is not there.
    pub(super) fn get(&self, path: &Path) -> Result<Arc<Footer>> {
        if let Some(footer) = self.footers.lock().get(path) {
            return Ok(footer);
        }
        let footer = Arc::new(Footer::read(&self.disk, path)?);
        self.footers.lock().keep(path.to_owned(), footer.clone());
        Ok(footer)
    }

    /// What a look-up of a trace asks of a file, if it was asked before.
    pub(super) fn probe(&self, path: &Path) -> Option<Arc<Probe>> {
        self.probes.lock().get(path)
    }

    /// Keeps that.
    pub(super) fn keep_probe(&self, path: PathBuf, probe: Probe) {
        self.probes.lock().keep(path, Arc::new(probe));
    }

    /// Keeps the bound when filters were asked for: they count from then on.
    pub(super) fn shrink(&self) {
        self.footers.lock().shrink();
    }
}

impl Weighed for Footer {
    fn bytes(&self) -> usize {
        self.bytes.load(Relaxed)
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
            self.bytes.fetch_add(filter.as_ref().map_or(0, |_| self.filter_bytes(row_group, leaf)), Relaxed);
            filter
        };
        self.filters.get(row_group * leaves + leaf)?.get_or_init(read).as_ref()
    }

    /// Bytes of that filter.
    pub(super) fn filter_bytes(&self, row_group: usize, leaf: usize) -> usize {
        let length = self.metadata.row_group(row_group).column(leaf).bloom_filter_length();
        length.and_then(|bytes| usize::try_from(bytes).ok()).unwrap_or(0)
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
    fn footers_are_read_once_and_their_filters_count_when_they_are_asked_for() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("a");
        write(&path);
        let footers = Footers::new(Arc::new(crate::disk::RealDisk));
        let footer = footers.get(&path).unwrap();
        assert!(Arc::ptr_eq(&footer, &footers.get(&path).unwrap()));
        let trace = footer.leaf("trace_id").unwrap();
        let before = footer.bytes();
        let filter = footer.filter(0, trace).unwrap();
        assert!(filter.check(&[1_u8; 16][..]) && !filter.check(&[2_u8; 16][..]));
        assert_eq!(footer.bytes(), before + footer.filter_bytes(0, trace));
        assert!(footer.bytes() > before && footer.filter(0, footer.leaf("service").unwrap()).is_none());
        assert!(footers.probe(&path).is_none());
        footers.keep_probe(path.clone(), Probe::of(&footer, "start_unix_nano"));
        let probe = footers.probe(&path).unwrap();
        let [group] = &probe.row_groups[..] else { panic!("one row group") };
        assert_eq!(group.time_range, Some((3, 3)));
        assert!(!group.traces.as_ref().unwrap().check(&[2_u8; 16][..]) && probe.bytes() < before);
    }
}
