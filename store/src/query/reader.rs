//! [`Files`]: how DataFusion's Parquet scan gets at bytes: footers from [`Footers`], pages by plain
//! reads. The engine's threads are its own, so a read may wait on one: the detour over the object
//! store's pool of blocking threads costs more than the copy out of the page cache.

use std::{fmt, ops::Range, path::PathBuf, sync::Arc};

use bytes::Bytes;
use datafusion::{
    common::{Result, exec_datafusion_err},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{ParquetFileMetrics, ParquetFileReaderFactory},
    },
    physical_plan::metrics::ExecutionPlanMetricsSet,
};
use futures::{FutureExt, future::BoxFuture};
use parquet::{
    arrow::{arrow_reader::ArrowReaderOptions, async_reader::AsyncFileReader},
    errors::{ParquetError, Result as ParquetResult},
    file::metadata::ParquetMetaData,
};

use super::footers::Footers;
use crate::disk::Opened;

/// Where a file of a scan is: the scan's own paths are percent-encoded.
#[derive(Clone, Debug)]
pub(super) struct OnDisk(pub(super) PathBuf);

/// Opens files.
#[derive(Debug)]
pub(super) struct Files {
    pub(super) footers: Arc<Footers>,
}

struct Reader {
    path: PathBuf,
    file: Option<Opened>,
    footers: Arc<Footers>,
    metrics: ParquetFileMetrics,
}

/// The path of a file of a scan.
pub(super) fn path_of(file: &PartitionedFile) -> Result<&PathBuf> {
    let on_disk = file.extension::<OnDisk>();
    on_disk.map(|OnDisk(path)| path).ok_or_else(|| exec_datafusion_err!("a file without its path"))
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({})", self.path.display())
    }
}

impl ParquetFileReaderFactory for Files {
    fn create_reader(
        &self,
        partition: usize,
        file: PartitionedFile,
        _metadata_size_hint: Option<usize>,
        metrics: &ExecutionPlanMetricsSet,
    ) -> Result<Box<dyn AsyncFileReader + Send>> {
        let metrics = ParquetFileMetrics::new(partition, file.object_meta.location.as_ref(), metrics);
        let path = path_of(&file)?.clone();
        Ok(Box::new(Reader { path, file: None, footers: self.footers.clone(), metrics }))
    }
}

impl Reader {
    fn read(&mut self, range: Range<u64>) -> ParquetResult<Bytes> {
        let file = match self.file.take() {
            Some(file) => file,
            None => self.footers.open(&self.path)?,
        };
        let bytes = file.read_at(range)?;
        self.file = Some(file);
        self.metrics.bytes_scanned.add(bytes.len());
        Ok(bytes)
    }
}

impl AsyncFileReader for Reader {
    fn get_bytes(&mut self, range: Range<u64>) -> BoxFuture<'_, ParquetResult<Bytes>> {
        async move { self.read(range) }.boxed()
    }

    fn get_byte_ranges(&mut self, ranges: Vec<Range<u64>>) -> BoxFuture<'_, ParquetResult<Vec<Bytes>>> {
        async move { ranges.into_iter().map(|range| self.read(range)).collect() }.boxed()
    }

    fn get_metadata<'a>(
        &'a mut self,
        _: Option<&'a ArrowReaderOptions>,
    ) -> BoxFuture<'a, ParquetResult<Arc<ParquetMetaData>>> {
        let footer = self.footers.get(&self.path).map(|footer| footer.metadata.clone());
        async move { footer.map_err(|error| ParquetError::External(Box::new(error))) }.boxed()
    }
}
