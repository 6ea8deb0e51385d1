//! [`TableOfView`]: one table of one pinned view as DataFusion sees it: rows in memory and files,
//! together.
//!
//! Each file carries the range of its time column, so a time filter opens only the files it must.

use std::{path::PathBuf, sync::Arc};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{ColumnStatistics, Result, ScalarValue, Statistics, stats::Precision},
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource},
        source::DataSourceExec,
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown, utils::conjunction},
    physical_plan::{ExecutionPlan, union::UnionExec},
};
use weir_schema::Table;

use crate::view::{DataFile, TableView};

/// A table of a view.
#[derive(Debug)]
pub(super) struct TableOfView {
    pub(super) table: Table,
    pub(super) view: TableView,
    /// The folder its files are in.
    pub(super) dir: PathBuf,
}

#[async_trait::async_trait]
impl TableProvider for TableOfView {
    fn schema(&self) -> SchemaRef {
        self.table.schema()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let memory = self.memory(session, projection)?;
        if self.view.files.is_empty() {
            return Ok(memory);
        }
        let files = self.files(session, projection, filters)?;
        if self.view.memory().next().is_none() {
            return Ok(files);
        }
        UnionExec::try_new(vec![memory, files])
    }
}

impl TableOfView {
    fn memory(&self, session: &dyn Session, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let rows = self.view.memory().map(|held| held.rows.clone());
        let mut partitions = vec![Vec::new(); session.config().target_partitions().max(1)];
        let count = partitions.len();
        for (place, batch) in rows.enumerate() {
            partitions[place % count].push(batch);
        }
        Ok(MemorySourceConfig::try_new_exec(&partitions, self.schema(), projection.cloned())?)
    }

    fn files(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = session.config_options().execution.parquet.clone();
        let mut source = ParquetSource::new(self.schema())
            .with_table_parquet_options(datafusion::common::config::TableParquetOptions {
                global: options,
                ..Default::default()
            })
            .with_pushdown_filters(true)
            .with_bloom_filter_on_read(true)
            .with_enable_page_index(true);
        if let Some(filter) = conjunction(filters.to_vec()) {
            let schema = datafusion::common::DFSchema::try_from(self.schema())?;
            source = source.with_predicate(session.create_physical_expr(filter, &schema)?);
        }
        let groups = self.groups(session.config().target_partitions().max(1));
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_file_groups(groups)
            .with_statistics(self.statistics())
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// Files dealt out by size, so that partitions are even.
    fn groups(&self, partitions: usize) -> Vec<FileGroup> {
        let mut files: Vec<&DataFile> = self.view.files.iter().map(AsRef::as_ref).collect();
        files.sort_by_key(|file| std::cmp::Reverse(file.bytes));
        let mut groups = vec![Vec::new(); partitions.min(files.len())];
        let count = groups.len();
        for (place, file) in files.into_iter().enumerate() {
            groups[place % count].push(self.partitioned(file));
        }
        groups.into_iter().map(FileGroup::new).collect()
    }

    fn partitioned(&self, file: &DataFile) -> PartitionedFile {
        let path = self.dir.join(&file.name);
        PartitionedFile::new(path.to_string_lossy().into_owned(), file.bytes)
            .with_statistics(Arc::new(self.file_statistics(file)))
    }

    fn file_statistics(&self, file: &DataFile) -> Statistics {
        let schema = self.schema();
        let mut columns = vec![ColumnStatistics::new_unknown(); schema.fields().len()];
        let place = schema.index_of(self.table.time_column());
        if let (Ok(place), Some((low, high))) = (place, file.time_range) {
            columns[place].min_value = Precision::Exact(ScalarValue::Int64(Some(low)));
            columns[place].max_value = Precision::Exact(ScalarValue::Int64(Some(high)));
            columns[place].null_count = Precision::Exact(0);
        }
        let rows = usize::try_from(file.rows).unwrap_or(usize::MAX);
        let bytes = usize::try_from(file.bytes).unwrap_or(usize::MAX);
        Statistics {
            num_rows: Precision::Exact(rows),
            total_byte_size: Precision::Inexact(bytes),
            column_statistics: columns,
        }
    }

    fn statistics(&self) -> Statistics {
        let rows = self.view.files.iter().map(|file| file.rows).sum::<u64>();
        let mut all = Statistics::new_unknown(&self.schema());
        all.num_rows = Precision::Exact(usize::try_from(rows).unwrap_or(usize::MAX));
        all
    }
}
