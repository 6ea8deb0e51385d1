//! One Parquet file: how rows are encoded, and what the Delta log says of it.

use std::{io, path::Path};

use arrow::{
    array::AsArray,
    compute::{cast, max, min},
    datatypes::{DataType, FieldRef, Int64Type},
    record_batch::RecordBatch,
};
use parquet::{
    arrow::{
        ArrowSchemaConverter, ArrowWriter,
        arrow_reader::ParquetRecordBatchReaderBuilder,
        arrow_writer::{ArrowColumnWriter, ArrowWriterOptions},
    },
    basic::{self, Compression, ZstdLevel},
    file::properties::{BloomFilterPosition, EnabledStatistics, WriterProperties},
    schema::types::ColumnPath,
};
use weir_schema::Table;

use super::{
    Origin,
    hashed::{HashedFile, Tail, Written},
    order,
    row_group::{self, Column, PAGE_ROWS, Pages},
};
use crate::{disk::Disk, error::StoreError};

/// Rows of a row group: trace by id reads one.
pub(crate) const ROW_GROUP_ROWS: usize = 128 * 1024;

/// Distinct values a bloom filter is begun for; it is folded to what there were.
const BLOOM_VALUES: u64 = ROW_GROUP_ROWS as u64;

/// How hard a file is compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Level {
    /// Zstandard 1: it is merged or spliced soon.
    Fresh,
    /// Zstandard 3, and 9 for attribute values: it stays for a while.
    Merged,
}

/// A file that was written and is durable, but for its name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct NewFile {
    pub(crate) name: String,
    pub(crate) bytes: u64,
    pub(crate) hash: u64,
    pub(crate) tail: Option<Tail>,
    pub(crate) rows: u64,
    pub(crate) time_range: Option<(i64, i64)>,
    pub(crate) hot_in_map: bool,
    pub(crate) recompressed: bool,
    pub(crate) packed_from: Option<u64>,
    /// Whoever commits it says so.
    pub(crate) origin: Origin,
}

/// Rows as they go into a file: nothing is copied before it is written.
pub(crate) struct RowsInOrder<'a> {
    table: Table,
    batches: &'a [RecordBatch],
    places: Vec<order::Place>,
}

impl<'a> RowsInOrder<'a> {
    pub(crate) fn new(table: Table, batches: &'a [RecordBatch]) -> Self {
        Self { table, batches, places: order::places(table, batches) }
    }

    fn time_range(&self) -> Option<(i64, i64)> {
        let times = || self.batches.iter().map(|batch| batch[self.table.time_column()].as_primitive::<Int64Type>());
        times().filter_map(min).min().zip(times().filter_map(max).max())
    }
}

/// How rows become a file.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Encoding {
    pub(crate) level: Level,
    /// By so many threads, this one among them.
    pub(crate) threads: usize,
}

/// Writes a durable file; its folder is not synced yet. What a failure leaves is removed.
pub(crate) fn write(
    disk: &dyn Disk,
    path: &Path,
    rows: &RowsInOrder<'_>,
    encoding: Encoding,
    hot_in_map: bool,
) -> Result<NewFile, StoreError> {
    let written = write_groups(disk, path, rows, encoding);
    let Written { bytes, hash, tail } = written.inspect_err(|_| abandon(disk, path))?;
    let name = path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let (rows, time_range) = (rows.places.len() as u64, rows.time_range());
    let origin = Origin::default();
    Ok(NewFile {
        name,
        bytes,
        hash,
        tail,
        rows,
        time_range,
        hot_in_map,
        recompressed: false,
        packed_from: None,
        origin,
    })
}

fn write_groups(
    disk: &dyn Disk,
    path: &Path,
    rows: &RowsInOrder<'_>,
    Encoding { level, threads }: Encoding,
) -> Result<Written, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let mut file = HashedFile::create(disk, path).map_err(io)?;
    let options =
        ArrowWriterOptions::new().with_properties(properties(rows.table, level)).with_skip_arrow_metadata(true);
    let writer = ArrowWriter::try_new_with_options(&mut file, rows.table.schema(), options)?;
    let (mut writer, columns) = writer.into_serialized_writer()?;
    for (number, places) in rows.places.chunks(ROW_GROUP_ROWS).enumerate() {
        let columns = columns_of(rows.table, columns.create_column_writers(number)?);
        let mut group = writer.next_row_group()?;
        for chunk in row_group::encode(columns, &Pages::of(rows.batches, places), threads)? {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
    }
    let rows_end = writer.bytes_written();
    writer.inner_mut().begin_tail(rows_end);
    writer.close()?;
    disk.reached(crate::disk::Step::DataFileWritten).map_err(io)?;
    file.finish().map_err(io)
}

/// The columns of a row group, each with its writers.
fn columns_of(table: Table, writers: Vec<ArrowColumnWriter>) -> Vec<Column> {
    let leaves = leaves(table);
    let mut writers = writers.into_iter();
    let mut column = |(place, field): (usize, &FieldRef)| {
        let of_field = leaves.iter().filter(|leaf| leaf.parts().first() == Some(field.name())).count();
        Column { place, field: field.clone(), writers: writers.by_ref().take(of_field).collect() }
    };
    table.schema().fields().iter().enumerate().map(&mut column).collect()
}

/// A file that nothing names yet goes; if it cannot, the next start removes it.
pub(super) fn abandon(disk: &dyn Disk, path: &Path) {
    match disk.remove(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            tracing::warn!(path = %path.display(), %error, "an unfinished file could not be removed");
        }
        _ => {}
    }
}

/// All rows of a file, in today's columns: what an older file lacks is null.
pub(crate) fn read(disk: &dyn Disk, table: Table, path: &Path) -> Result<Vec<RecordBatch>, StoreError> {
    let bytes = disk.read(path).map_err(|source| StoreError::Io { path: path.to_owned(), source })?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(bytes)?.with_batch_size(PAGE_ROWS).build()?;
    reader.map(|batch| conform(table, &batch?)).collect()
}

fn conform(table: Table, rows: &RecordBatch) -> Result<RecordBatch, StoreError> {
    let schema = table.schema();
    let columns = schema.fields().iter().map(|field| match rows.column_by_name(field.name()) {
        Some(column) => cast(column, field.data_type()),
        None => Ok(arrow::array::new_null_array(field.data_type(), rows.num_rows())),
    });
    let columns = columns.collect::<Result<Vec<_>, _>>()?;
    Ok(RecordBatch::try_new(schema, columns)?)
}

/// How a table's files are encoded.
pub(super) fn properties(table: Table, level: Level) -> WriterProperties {
    let (usual, of_values) = match level {
        Level::Fresh => (1, 1),
        Level::Merged => (3, 9),
    };
    let zstd = |level| Compression::ZSTD(ZstdLevel::try_new(level).unwrap_or_default());
    let mut properties = WriterProperties::builder()
        .set_compression(zstd(usual))
        .set_bloom_filter_position(BloomFilterPosition::End)
        .set_max_row_group_row_count(Some(ROW_GROUP_ROWS))
        .set_data_page_row_count_limit(PAGE_ROWS)
        .set_write_batch_size(1024);
    for leaf in leaves(table) {
        properties = properties.set_column_statistics_enabled(leaf.clone(), statistics(table, &leaf));
    }
    for field in table.schema().fields() {
        let path = ColumnPath::from(field.name().as_str());
        if field.data_type() == &DataType::Int64 {
            properties = properties
                .set_column_dictionary_enabled(path.clone(), false)
                .set_column_encoding(path.clone(), basic::Encoding::DELTA_BINARY_PACKED);
        }
        match (table, field.name().as_str()) {
            (Table::Spans, "start_unix_nano" | "duration_ns") => {
                // nanoseconds that no neighbour tells: their high bytes repeat, and this sets them apart
                properties = properties.set_column_encoding(path, basic::Encoding::BYTE_STREAM_SPLIT);
            }
            (Table::TraceIndex, "trace_id") => {
                // sorted by it: neighbours share their first bytes, and pages have disjoint ranges
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path, basic::Encoding::DELTA_BYTE_ARRAY);
            }
            (_, "span_id" | "parent_span_id") => {
                properties = properties
                    .set_column_dictionary_enabled(path.clone(), false)
                    .set_column_encoding(path.clone(), basic::Encoding::DELTA_LENGTH_BYTE_ARRAY)
                    .set_column_statistics_enabled(path, EnabledStatistics::None);
            }
            (_, "trace_id") => properties = with_bloom(properties, path, 0.001),
            (Table::Spans | Table::Logs, "attributes") => {
                let values = ColumnPath::new(["attributes", "key_value", "value"].map(String::from).to_vec());
                // values of all keys in turn: bytes compress better than 17-bit places in a dictionary
                properties = properties
                    .set_column_dictionary_enabled(values.clone(), false)
                    .set_column_compression(values.clone(), zstd(of_values));
                properties = with_bloom(properties, values, 0.1);
            }
            _ => {}
        }
    }
    properties.build()
}

/// Of which columns the least and largest value are kept. In tables of what was measured, each page has
/// something of everything, but for time; nothing is pruned by those of a map or list.
fn statistics(table: Table, leaf: &ColumnPath) -> EnabledStatistics {
    let measured = matches!(table, Table::Spans | Table::Logs | Table::Metrics);
    match leaf.parts() {
        [name] if !measured || name == table.time_column() || name == "duration_ns" => EnabledStatistics::Page,
        [_] => EnabledStatistics::Chunk,
        _ => EnabledStatistics::None,
    }
}

/// The columns that Parquet stores.
fn leaves(table: Table) -> Vec<ColumnPath> {
    let schema = ArrowSchemaConverter::new().convert(&table.schema());
    let schema = schema.expect("tables have only types that Parquet has");
    schema.columns().iter().map(|column| column.path().clone()).collect()
}

fn with_bloom(
    properties: parquet::file::properties::WriterPropertiesBuilder,
    path: ColumnPath,
    false_positives: f64,
) -> parquet::file::properties::WriterPropertiesBuilder {
    properties
        .set_column_bloom_filter_enabled(path.clone(), true)
        .set_column_bloom_filter_fpp(path.clone(), false_positives)
        .set_column_bloom_filter_max_ndv(path, BLOOM_VALUES)
}

#[cfg(test)]
mod tests {
    use parquet::file::metadata::ParquetMetaDataReader;

    use super::*;
    use crate::{
        disk::RealDisk,
        files::{is_intact, is_tail_intact},
        store::tests::spans,
    };

    #[test]
    fn a_file_reads_back_in_order_and_a_flipped_bit_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        let batches = [spans(&[(2, 1, 50), (1, 2, 10)]), spans(&[(2, 3, 20)])];
        let rows = RowsInOrder::new(Table::Spans, &batches);
        let file = write(&RealDisk, &path, &rows, Encoding { level: Level::Fresh, threads: 1 }, false).unwrap();
        assert_eq!((file.rows, file.time_range), (3, Some((10, 50))));
        let read = read(&RealDisk, Table::Spans, &path).unwrap();
        assert_eq!(read[0]["start_unix_nano"].as_primitive::<Int64Type>().values(), &[10, 20, 50]);
        assert!(is_intact(&RealDisk, &path, file.hash).unwrap());
        let mut bytes = std::fs::read(&path).unwrap();
        bytes[20] ^= 1;
        std::fs::write(&path, bytes).unwrap();
        assert!(!is_intact(&RealDisk, &path, file.hash).unwrap());
    }

    #[test]
    fn what_is_read_before_any_row_has_a_hash_of_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("part.parquet");
        let rows: Vec<_> = (0..ROW_GROUP_ROWS as u64 + 9_000).map(|n| ((n / 5_000) as u8, n, n as i64)).collect();
        let batches = [spans(&rows)];
        let in_order = RowsInOrder::new(Table::Spans, &batches);
        let file = write(&RealDisk, &path, &in_order, Encoding { level: Level::Fresh, threads: 1 }, false).unwrap();
        let (bytes, tail) = (std::fs::read(&path).unwrap(), file.tail.unwrap());
        assert_eq!(Tail::from_tag(&tail.to_tag()), Some(tail));
        let footer = ParquetMetaDataReader::new().parse_and_finish(&bytes::Bytes::from(bytes.clone())).unwrap();
        let columns = || footer.row_groups().iter().flat_map(|group| group.columns());
        let ends = columns().map(|column| column.byte_range()).map(|(start, length)| start + length);
        assert_eq!(ends.max(), Some(tail.offset), "all rows are before it");
        assert!(columns().filter_map(|column| column.bloom_filter_offset()).all(|at| at as u64 >= tail.offset));
        let intact_after = |change: fn(&mut Vec<u8>, usize)| {
            let mut changed = bytes.clone();
            change(&mut changed, usize::try_from(tail.offset).unwrap());
            std::fs::write(&path, changed).unwrap();
            is_tail_intact(&RealDisk, &path, file.bytes, tail).unwrap()
        };
        assert!(intact_after(|_, _| ()) && intact_after(|bytes, tail| bytes[tail - 1] ^= 1));
        assert!(!intact_after(|bytes, tail| bytes[tail] ^= 1));
        assert!(!intact_after(|bytes, _| *bytes.last_mut().unwrap() ^= 1));
        assert!(!intact_after(|bytes, tail| bytes.truncate(tail - 1)) && !intact_after(|bytes, _| bytes.push(0)));
    }

    #[test]
    fn several_threads_write_the_same_file_as_one() {
        let dir = tempfile::tempdir().unwrap();
        let rows: Vec<_> = (0..ROW_GROUP_ROWS as u64 + 9_000).map(|n| ((n / 50) as u8, n, n as i64 * 7)).collect();
        let batches: Vec<_> = rows.chunks(3_000).map(spans).collect();
        let rows_in_order = RowsInOrder::new(Table::Spans, &batches);
        let written = [1, 4].map(|threads| {
            let path = dir.path().join(format!("{threads}.parquet"));
            write(&RealDisk, &path, &rows_in_order, Encoding { level: Level::Fresh, threads }, false).unwrap()
        });
        assert_eq!(written[0].hash, written[1].hash);
        let read = read(&RealDisk, Table::Spans, &dir.path().join("4.parquet")).unwrap();
        assert_eq!(read.iter().map(RecordBatch::num_rows).sum::<usize>(), rows.len());
    }
}
