//! Splicing: several files become one, their row groups copied as they are. Nothing is decoded, so
//! large files cost what copying their bytes costs.

use std::{path::Path, sync::Arc};

use bytes::Bytes;
use parquet::{
    bloom_filter::Sbbf,
    column::writer::ColumnCloseResult,
    file::{
        metadata::{ColumnChunkMetaData, PageIndexPolicy, ParquetMetaData, ParquetMetaDataReader},
        reader::ChunkReader,
        writer::SerializedFileWriter,
    },
};
use weir_schema::Table;

use super::{
    Origin,
    hashed::{HashedFile, Written},
    parquet_file::{Level, NewFile, abandon, properties},
};
use crate::{disk::Disk, error::StoreError, view::DataFile};

/// Writes a durable file with the row groups of `sources`, in their order. `None` when their columns
/// differ: then they must be read and written anew.
pub(crate) fn splice(
    disk: &dyn Disk,
    table: Table,
    path: &Path,
    sources: &[(&DataFile, Bytes)],
) -> Result<Option<NewFile>, StoreError> {
    let mut parts = Vec::with_capacity(sources.len());
    for (_, bytes) in sources {
        let metadata = ParquetMetaDataReader::new().with_page_index_policy(PageIndexPolicy::Optional);
        parts.push((metadata.parse_and_finish(bytes)?, bytes));
    }
    let Some((first, _)) = parts.first() else { return Ok(None) };
    let columns = first.file_metadata().schema_descr().root_schema();
    if parts.iter().any(|(metadata, _)| metadata.file_metadata().schema_descr().root_schema() != columns) {
        return Ok(None);
    }
    let Written { bytes, hash, tail } = write(disk, table, path, &parts).inspect_err(|_| abandon(disk, path))?;
    let files = || sources.iter().map(|(file, _)| *file);
    let low = files().map(|file| file.time_range.map(|(low, _)| low)).min().flatten();
    let high = files().filter_map(|file| file.time_range.map(|(_, high)| high)).max();
    Ok(Some(NewFile {
        name: path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default(),
        bytes,
        hash,
        tail,
        rows: files().map(|file| file.rows).sum(),
        time_range: low.zip(high),
        hot_in_map: files().any(|file| file.hot_in_map),
        recompressed: files().all(|file| file.recompressed),
        packed_from: None,
        origin: Origin::default(),
    }))
}

fn write(
    disk: &dyn Disk,
    table: Table,
    path: &Path,
    parts: &[(ParquetMetaData, &Bytes)],
) -> Result<Written, StoreError> {
    let io = |source| StoreError::Io { path: path.to_owned(), source };
    let mut file = HashedFile::create(disk, path).map_err(io)?;
    let schema = parts[0].0.file_metadata().schema_descr().root_schema_ptr();
    let mut writer = SerializedFileWriter::new(&mut file, schema, Arc::new(properties(table, Level::Merged)))?;
    for (metadata, bytes) in parts {
        for group in 0..metadata.num_row_groups() {
            let mut out = writer.next_row_group()?;
            for column in 0..metadata.row_group(group).num_columns() {
                out.append_column(*bytes, chunk(metadata, bytes, group, column)?)?;
            }
            out.close()?;
        }
    }
    let rows_end = writer.bytes_written();
    writer.inner_mut().begin_tail(rows_end);
    writer.close()?;
    disk.reached(crate::disk::Step::DataFileWritten).map_err(io)?;
    file.finish().map_err(io)
}

/// A column chunk as if it had just been written.
pub(super) fn chunk(
    metadata: &ParquetMetaData,
    bytes: &Bytes,
    group: usize,
    column: usize,
) -> Result<ColumnCloseResult, StoreError> {
    let rows = metadata.row_group(group);
    let chunk: &ColumnChunkMetaData = rows.column(column);
    Ok(ColumnCloseResult {
        bytes_written: u64::try_from(chunk.compressed_size()).unwrap_or(0),
        rows_written: u64::try_from(rows.num_rows()).unwrap_or(0),
        metadata: chunk.clone(),
        bloom_filter: Sbbf::read_from_column_chunk(chunk, &ByteRange(bytes))?,
        column_index: metadata.column_index().map(|index| index[group][column].clone()),
        offset_index: metadata.offset_index().map(|index| index[group][column].clone()),
    })
}

/// The bytes of a file, to read filters from.
struct ByteRange<'a>(&'a Bytes);

impl parquet::file::reader::Length for ByteRange<'_> {
    fn len(&self) -> u64 {
        self.0.len() as u64
    }
}

impl ChunkReader for ByteRange<'_> {
    type T = <Bytes as ChunkReader>::T;

    fn get_read(&self, start: u64) -> parquet::errors::Result<Self::T> {
        self.0.get_read(start)
    }

    fn get_bytes(&self, start: u64, length: usize) -> parquet::errors::Result<Bytes> {
        self.0.get_bytes(start, length)
    }
}
