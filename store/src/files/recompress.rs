//! Recompression: a file's pages, packed again as tightly as is worth it for rows that stay. A page is
//! unpacked and packed but not decoded, so its rows, their order and every statistic stay as they are;
//! the pages of a column that holds nothing but nulls become one.
//! It goes a column at a time: whoever does it has other things to do in between.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use parquet::{
    basic::{Compression, Encoding},
    column::{
        page::{CompressedPage, Page, PageWriter},
        writer::ColumnCloseResult,
    },
    errors::{ParquetError, Result as ParquetResult},
    file::{
        metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
        page_index::column_index::ColumnIndexMetaData,
        serialized_reader::SerializedPageReader,
        writer::{SerializedFileWriter, SerializedPageWriter, TrackedWrite},
    },
};
use weir_schema::Table;
use zstd::bulk::Compressor;

use super::{
    Origin,
    hashed::{HashedFile, Written},
    parquet_file::{Level, NewFile, abandon, properties},
    splice::chunk,
};
use crate::{disk::Disk, error::StoreError, view::DataFile};

/// Zstandard's level. Ids and times do not get smaller above it.
const LEVEL: i32 = 12;

/// For columns of many bytes, which would take seconds: a column is packed in one go.
const LEVEL_OF_LARGE: i32 = 3;

/// What is packed with [`LEVEL`] takes a quarter of a second at most.
const LARGE_BYTES: i64 = 16 << 20;

/// What is packed with [`LEVEL_OF_VALUES`] takes as long.
const LARGE_BYTES_OF_VALUES: i64 = 6 << 20;

/// For values of more bytes than that.
const LEVEL_OF_MANY_VALUES: i32 = 9;

/// For what attributes say, a quarter of all bytes: a microsecond more a span, and 3 % less of them.
const LEVEL_OF_VALUES: i32 = 15;

/// A file that is being written anew.
pub(crate) struct Recompression {
    source: Arc<DataFile>,
    bytes: Bytes,
    metadata: ParquetMetaData,
    path: PathBuf,
    writer: SerializedFileWriter<HashedFile>,
    /// Row groups that are in the file.
    done: usize,
    /// Columns of the next one.
    columns: Vec<(Bytes, ColumnCloseResult)>,
}

impl Recompression {
    /// Begins the file at `path`. `bytes` are those of the source.
    pub(crate) fn begin(
        disk: &dyn Disk,
        table: Table,
        path: PathBuf,
        source: Arc<DataFile>,
        bytes: Bytes,
    ) -> Result<Self, StoreError> {
        let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        let metadata = metadata.parse_and_finish(&bytes)?;
        let file = HashedFile::create(disk, &path).map_err(|source| StoreError::Io { path: path.clone(), source })?;
        let schema = metadata.file_metadata().schema_descr().root_schema_ptr();
        let writer = SerializedFileWriter::new(file, schema, Arc::new(properties(table, Level::Merged)));
        let writer = writer.inspect_err(|_| abandon(disk, &path))?;
        Ok(Self { source, bytes, metadata, path, writer, done: 0, columns: Vec::new() })
    }

    /// The file whose rows these are.
    pub(crate) fn source(&self) -> &Arc<DataFile> {
        &self.source
    }

    /// Works until `budget` is over, at least on one column. `false`: nothing is left to do.
    pub(crate) fn advance(&mut self, budget: Duration) -> Result<bool, StoreError> {
        let started = Instant::now();
        while self.done < self.metadata.num_row_groups() {
            self.next_column()?;
            if started.elapsed() >= budget {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Packs a column; after the last one of a row group writes that.
    fn next_column(&mut self) -> Result<(), StoreError> {
        let (group, column) = (self.done, self.columns.len());
        if column < self.metadata.row_group(group).num_columns() {
            let packed = match tighter(&self.metadata, &self.bytes, group, column)? {
                Some(packed) => packed,
                None => (self.bytes.clone(), chunk(&self.metadata, &self.bytes, group, column)?),
            };
            self.columns.push(packed);
        }
        if self.columns.len() == self.metadata.row_group(group).num_columns() {
            let mut out = self.writer.next_row_group()?;
            for (bytes, close) in self.columns.drain(..) {
                out.append_column(&bytes, close)?;
            }
            out.close()?;
            self.done += 1;
        }
        Ok(())
    }

    /// Makes the file durable, but for its name. What a failure leaves is removed.
    pub(crate) fn finish(mut self, disk: &dyn Disk) -> Result<NewFile, StoreError> {
        let io = |source| StoreError::Io { path: self.path.clone(), source };
        let rows_end = self.writer.bytes_written();
        self.writer.inner_mut().begin_tail(rows_end);
        let written = self.writer.into_inner().map_err(StoreError::from).and_then(|file| file.finish().map_err(io));
        let Written { bytes, hash, tail } = written.inspect_err(|_| abandon(disk, &self.path))?;
        let name = self.path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let DataFile { rows, time_range, hot_in_map, .. } = *self.source;
        let packed_from = self.source.packed_from.or(self.source.hash);
        let origin = Origin::default();
        Ok(NewFile { name, bytes, hash, tail, rows, time_range, hot_in_map, recompressed: true, packed_from, origin })
    }

    /// Removes what there is of the file.
    pub(crate) fn abandon(self, disk: &dyn Disk) {
        abandon(disk, &self.path);
    }
}

/// A column chunk in fewer bytes, as if it had just been written. `None`: it has to stay as it is.
fn tighter(
    metadata: &ParquetMetaData,
    bytes: &Bytes,
    group: usize,
    column: usize,
) -> Result<Option<(Bytes, ColumnCloseResult)>, StoreError> {
    let mut close = chunk(metadata, bytes, group, column)?;
    let null = is_null(&close);
    let packed = if null { Packed::nulls(&close.metadata)? } else { Packed::of(metadata, bytes, group, column)? };
    if let Some(index) = &mut close.offset_index {
        if null {
            index.page_locations.truncate(1);
            index.unencoded_byte_array_data_bytes.iter_mut().for_each(|sizes| sizes.truncate(1));
        }
        if index.page_locations.len() != packed.data_pages.len() {
            return Ok(None);
        }
        for (location, (offset, size)) in index.page_locations.iter_mut().zip(&packed.data_pages) {
            (location.offset, location.compressed_page_size) = (*offset, *size);
        }
    }
    let before = &close.metadata;
    let zstd = matches!(before.compression(), Compression::ZSTD(_));
    let smaller = (packed.bytes.len() as i64) < before.compressed_size();
    let Some((first, _)) = packed.data_pages.first().filter(|_| zstd && smaller && packed.whole) else {
        return Ok(None);
    };
    close.bytes_written = packed.bytes.len() as u64;
    close.metadata = before
        .clone()
        .into_builder()
        .set_total_compressed_size(packed.bytes.len() as i64)
        .set_total_uncompressed_size(packed.unpacked_bytes)
        .set_data_page_offset(*first)
        .set_dictionary_page_offset(packed.dictionary)
        .build()?;
    Ok(Some((packed.bytes.into(), close)))
}

/// Whether a column, itself and not a part of one, has no value here, and nothing is known of its pages.
fn is_null(close: &ColumnCloseResult) -> bool {
    let (chunk, column) = (&close.metadata, close.metadata.column_descr());
    let nulls = chunk.statistics().and_then(|statistics| statistics.null_count_opt());
    let flat = (column.max_def_level(), column.max_rep_level()) == (1, 0);
    let unknown = matches!(close.column_index, None | Some(ColumnIndexMetaData::NONE));
    flat && unknown && nulls.and_then(|nulls| i64::try_from(nulls).ok()) == Some(chunk.num_values())
}

/// The pages of a column chunk, one after another from 0.
#[derive(Default)]
struct Packed {
    bytes: Vec<u8>,
    unpacked_bytes: i64,
    dictionary: Option<i64>,
    /// Where each is and how long, its header with it.
    data_pages: Vec<(i64, i32)>,
    /// All pages were of a kind that is known here.
    whole: bool,
}

impl Packed {
    /// One page of nothing but nulls: it says how many there are.
    fn nulls(chunk: &ColumnChunkMetaData) -> Result<Self, StoreError> {
        let count = u32::try_from(chunk.num_values()).map_err(|e| ParquetError::External(Box::new(e)))?;
        // levels as Parquet packs a run of them: its length twice, seven bits a byte, then the level, 0
        let mut run = Vec::new();
        let mut left = u64::from(count) << 1;
        while left > 0x7f {
            run.push((left & 0x7f) as u8 | 0x80);
            left >>= 7;
        }
        run.extend([left as u8, 0]);
        let levels = [&(run.len() as u32).to_le_bytes(), run.as_slice()].concat();
        let page = Page::DataPage {
            buf: levels.into(),
            num_values: count,
            encoding: Encoding::PLAIN,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            statistics: None,
        };
        Self::pages([Ok(page)], LEVEL)
    }

    fn of(metadata: &ParquetMetaData, bytes: &Bytes, group: usize, column: usize) -> Result<Self, StoreError> {
        let rows = metadata.row_group(group);
        let chunk = rows.column(column);
        let of_values = chunk.column_path().parts().ends_with(&["key_value".into(), "value".into()]);
        let level = match of_values {
            _ if chunk.uncompressed_size() > LARGE_BYTES => LEVEL_OF_LARGE,
            true if chunk.uncompressed_size() > LARGE_BYTES_OF_VALUES => LEVEL_OF_MANY_VALUES,
            true => LEVEL_OF_VALUES,
            false => LEVEL,
        };
        let row_count = usize::try_from(rows.num_rows()).unwrap_or(0);
        let pages = SerializedPageReader::new(Arc::new(bytes.clone()), chunk, row_count, None)?;
        Self::pages(pages, level)
    }

    fn pages(pages: impl IntoIterator<Item = ParquetResult<Page>>, level: i32) -> Result<Self, StoreError> {
        let mut compressor = Compressor::new(level).map_err(|e| ParquetError::External(Box::new(e)))?;
        let mut packed = Self { whole: true, ..Self::default() };
        let mut out = TrackedWrite::new(&mut packed.bytes);
        let mut writer = SerializedPageWriter::new(&mut out);
        for page in pages {
            let Some((page, is_data)) = repacked(page?, &mut compressor)? else {
                packed.whole = false;
                break;
            };
            let written = writer.write_page(page)?;
            let offset = i64::try_from(written.offset).unwrap_or(i64::MAX);
            packed.unpacked_bytes += i64::try_from(written.uncompressed_size).unwrap_or(0);
            match is_data {
                true => packed.data_pages.push((offset, i32::try_from(written.compressed_size).unwrap_or(i32::MAX))),
                false => packed.dictionary = Some(offset),
            }
        }
        writer.close()?;
        out.into_inner()?;
        Ok(packed)
    }
}

/// The page as it goes into the file, and whether it has rows.
fn repacked(page: Page, compressor: &mut Compressor<'_>) -> ParquetResult<Option<(CompressedPage, bool)>> {
    let unpacked = page.buffer().len();
    let packed = compressor.compress(page.buffer()).map_err(|e| ParquetError::External(Box::new(e)))?;
    let packed = Bytes::from(packed);
    let is_data = page.is_data_page();
    let page = match page {
        Page::DataPage { num_values, encoding, def_level_encoding, rep_level_encoding, statistics, .. } => {
            Page::DataPage { buf: packed, num_values, encoding, def_level_encoding, rep_level_encoding, statistics }
        }
        Page::DictionaryPage { num_values, encoding, is_sorted, .. } => {
            Page::DictionaryPage { buf: packed, num_values, encoding, is_sorted }
        }
        // its levels are not packed; weir writes none
        Page::DataPageV2 { .. } => return Ok(None),
    };
    Ok(Some((CompressedPage::new(page, unpacked), is_data)))
}

#[cfg(test)]
mod tests {
    use arrow::record_batch::RecordBatch;
    use parquet::arrow::arrow_reader::{
        ArrowReaderOptions, ParquetRecordBatchReaderBuilder, RowSelection, RowSelector,
    };

    use super::*;
    use crate::{
        disk::RealDisk,
        files::{Encoding, RowsInOrder, delta::data_file, is_intact, is_tail_intact, write},
        store::tests::spans,
    };

    const FRESH: Encoding = Encoding { level: Level::Fresh, threads: 1 };

    /// Rows of the second page and some of the third: the offset index has to be right.
    fn read(bytes: &Bytes) -> Vec<RecordBatch> {
        let options = ArrowReaderOptions::new().with_page_index_policy(PageIndexPolicy::Required);
        let reader = ParquetRecordBatchReaderBuilder::try_new_with_options(bytes.clone(), options).unwrap();
        let wanted = [RowSelector::skip(8_192), RowSelector::select(9_000), RowSelector::skip(2_808)];
        let reader = reader.with_row_selection(RowSelection::from(wanted.to_vec())).build().unwrap();
        reader.map(Result::unwrap).collect()
    }

    #[test]
    fn a_file_becomes_smaller_and_says_the_same() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fresh.parquet");
        let rows: Vec<_> = (0..20_000).map(|n| ((n / 100) as u8, n, n as i64 * n as i64 % 100_000)).collect();
        let batches = [spans(&rows)];
        let fresh = write(&RealDisk, &path, &RowsInOrder::new(Table::Spans, &batches), FRESH, true).unwrap();
        let source = Arc::new(data_file(&fresh));
        let before = RealDisk.read(&path).unwrap();
        let path = dir.path().join("packed.parquet");
        let mut begun = Recompression::begin(&RealDisk, Table::Spans, path.clone(), source, before.clone()).unwrap();
        while begun.advance(Duration::ZERO).unwrap() {}
        let packed = begun.finish(&RealDisk).unwrap();
        assert!(packed.bytes < fresh.bytes, "{} became {}", fresh.bytes, packed.bytes);
        assert_eq!((packed.rows, packed.time_range, packed.hot_in_map), (fresh.rows, fresh.time_range, true));
        assert_eq!(packed.packed_from, Some(fresh.hash));
        assert!(packed.recompressed && is_intact(&RealDisk, &path, packed.hash).unwrap());
        assert!(is_tail_intact(&RealDisk, &path, packed.bytes, packed.tail.unwrap()).unwrap());
        let after = RealDisk.read(&path).unwrap();
        assert_eq!(read(&after), read(&before));
        let footer = |bytes: &Bytes| {
            let reader = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Required);
            reader.parse_and_finish(bytes).unwrap()
        };
        let (before, after) = (footer(&before), footer(&after));
        assert_eq!(before.column_index(), after.column_index());
        let pages = |of: &ParquetMetaData, column: &str| {
            let leaf = of.file_metadata().schema_descr().columns().iter().position(|c| c.name() == column).unwrap();
            of.offset_index().unwrap()[0][leaf].page_locations().len()
        };
        assert_eq!(["service", "db_system"].map(|column| pages(&before, column)), [3, 3]);
        assert_eq!(["service", "db_system"].map(|column| pages(&after, column)), [3, 1]);
        for (before, after) in before.row_groups()[0].columns().iter().zip(after.row_groups()[0].columns()) {
            assert_eq!(before.statistics(), after.statistics());
            assert_eq!(before.bloom_filter_offset().is_some(), after.bloom_filter_offset().is_some());
        }
    }

    #[test]
    fn what_is_given_up_is_removed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("fresh.parquet");
        let batches = [spans(&[(1, 2, 3)])];
        let fresh = write(&RealDisk, &path, &RowsInOrder::new(Table::Spans, &batches), FRESH, false).unwrap();
        let bytes = RealDisk.read(&path).unwrap();
        let packed = dir.path().join("packed.parquet");
        let source = Arc::new(data_file(&fresh));
        let mut begun = Recompression::begin(&RealDisk, Table::Spans, packed.clone(), source, bytes).unwrap();
        begun.advance(Duration::ZERO).unwrap();
        assert!(packed.exists());
        begun.abandon(&RealDisk);
        assert!(!packed.exists());
    }
}
