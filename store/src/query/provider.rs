//! [`TableOfView`]: one table of one pinned view as DataFusion sees it: rows in memory and files,
//! together.
//!
//! Each file carries the range of its time column, so a time filter opens only the files it must.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::datatypes::SchemaRef;
use datafusion::{
    catalog::{Session, TableProvider},
    common::{
        ColumnStatistics, DataFusionError, Result, ScalarValue, Statistics, config::TableParquetOptions,
        stats::Precision,
    },
    datasource::{
        TableType,
        listing::PartitionedFile,
        memory::MemorySourceConfig,
        physical_plan::{FileGroup, FileScanConfigBuilder, ParquetSource, parquet::ParquetAccessPlan},
        source::DataSourceExec,
    },
    execution::object_store::ObjectStoreUrl,
    logical_expr::{Expr, TableProviderFilterPushDown},
    physical_plan::{ExecutionPlan, empty::EmptyExec, union::UnionExec},
};
use weir_schema::Table;

use super::{
    footers::Footers,
    inspection::{Inspection, Part},
    late::{ColdMaps, LateSource},
    probe::Probe,
    prune::Needs,
    reader::{Files, OnDisk},
    text_views::{retyped, viewed},
};
use crate::view::{DataFile, TableView};

/// A table of a view.
#[derive(Debug)]
pub(super) struct TableOfView {
    table: Table,
    view: TableView,
    /// The folder its files are in.
    dir: PathBuf,
    footers: Arc<Footers>,
    inspection: Arc<Inspection>,
    /// Its columns as the planner sees them.
    schema: SchemaRef,
}

#[async_trait::async_trait]
impl TableProvider for TableOfView {
    fn schema(&self) -> SchemaRef {
        self.schema.clone()
    }

    fn table_type(&self) -> TableType {
        TableType::Base
    }

    fn supports_filters_pushdown(&self, filters: &[&Expr]) -> Result<Vec<TableProviderFilterPushDown>> {
        // the scan takes them over from the operator above it once it is planned
        Ok(vec![TableProviderFilterPushDown::Inexact; filters.len()])
    }

    async fn scan(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        filters: &[Expr],
        _limit: Option<usize>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        self.inspection.reads(self.table);
        let partitions = session.config().target_partitions().max(1);
        let mut parts = Vec::new();
        if self.view.memory().next().is_some() {
            parts.push(self.memory(partitions, projection)?);
        }
        let files = self.wanted_files(&Needs::of(self.table, filters)).await?;
        if !files.is_empty() {
            parts.push(self.files(session, projection, dealt(files, partitions))?);
        }
        match parts.len() {
            0 => Ok(Arc::new(EmptyExec::new(self.projected(projection)?))),
            1 => Ok(parts.remove(0)),
            _ => UnionExec::try_new(parts),
        }
    }
}

impl TableOfView {
    pub(super) fn new(
        table: Table,
        view: TableView,
        dir: PathBuf,
        footers: Arc<Footers>,
        inspection: Arc<Inspection>,
    ) -> Self {
        Self { table, view, dir, footers, inspection, schema: viewed(&table.schema()) }
    }

    fn projected(&self, projection: Option<&Vec<usize>>) -> Result<SchemaRef> {
        Ok(match projection {
            Some(places) => Arc::new(self.schema.project(places)?),
            None => self.schema.clone(),
        })
    }

    fn memory(&self, partitions: usize, projection: Option<&Vec<usize>>) -> Result<Arc<dyn ExecutionPlan>> {
        let schema = self.projected(projection)?;
        let mut dealt = vec![Vec::new(); partitions];
        for (place, held) in self.view.memory().enumerate() {
            let rows = match projection {
                Some(places) => held.rows.project(places)?,
                None => held.rows.clone(),
            };
            dealt[place % partitions].push(retyped(&rows, &schema)?);
        }
        Ok(MemorySourceConfig::try_new_exec(&dealt, schema, None)?)
    }

    fn files(
        &self,
        session: &dyn Session,
        projection: Option<&Vec<usize>>,
        groups: Vec<FileGroup>,
    ) -> Result<Arc<dyn ExecutionPlan>> {
        let options = session.config_options().execution.parquet.clone();
        let source = ParquetSource::new(self.schema())
            .with_table_parquet_options(TableParquetOptions { global: options, ..Default::default() })
            .with_parquet_file_reader_factory(Arc::new(Files { footers: self.footers.clone() }))
            .with_pushdown_filters(true)
            .with_reorder_filters(true)
            // asked already, out of memory
            .with_bloom_filter_on_read(false)
            .with_enable_page_index(true);
        let source = LateSource::new(source, self.footers.clone());
        let config = FileScanConfigBuilder::new(ObjectStoreUrl::local_filesystem(), Arc::new(source))
            .with_statistics(self.statistics(&groups))
            .with_file_groups(groups)
            .with_projection_indices(projection.cloned())?
            .build();
        Ok(DataSourceExec::from_data_source(config))
    }

    /// The files that can have wanted rows, and which row groups of them.
    async fn wanted_files(&self, needs: &Needs) -> Result<Vec<PartitionedFile>> {
        let mut wanted = Vec::new();
        for file in self.view.files.iter().filter(|file| needs.want_time(file.time_range)) {
            // files that are looked at, or footers that are read, for the first time take longer than a
            // look at the deadline
            tokio::task::yield_now().await;
            let (partitioned, path) = (self.partitioned(file), self.dir.join(&file.name));
            let passes = |part| self.inspection.passes(self.table, file, &path, part);
            if !needs.ask_footers() {
                wanted.extend(passes(Part::Rows).then_some(partitioned));
                continue;
            }
            let row_groups = if passes(Part::Tail) { self.wanted_row_groups(&path, needs)? } else { Vec::new() };
            if !row_groups.contains(&true) || !passes(Part::Rows) {
                continue;
            }
            if row_groups.contains(&false) {
                let mut plan = ParquetAccessPlan::new_all(row_groups.len());
                row_groups.iter().enumerate().filter(|(_, wanted)| !**wanted).for_each(|(group, _)| plan.skip(group));
                wanted.push(partitioned.with_extension(plan));
            } else {
                wanted.push(partitioned);
            }
        }
        if needs.ask_footers() {
            self.footers.shrink();
        }
        Ok(wanted)
    }

    /// Which row groups of a file can have a row that is wanted; for a trace less than its footer may tell that none has.
    fn wanted_row_groups(&self, path: &Path, needs: &Needs) -> Result<Vec<bool>> {
        let for_trace = needs.ask_for_trace();
        let probe = if for_trace { self.footers.probe(path) } else { None };
        if probe.as_ref().is_some_and(|probe| !needs.may_be_in(probe)) {
            return Ok(Vec::new());
        }
        let footer = self.footers.get(path);
        let unread = |e| DataFusionError::from(e).context(format!("{} cannot be read", path.display()));
        let footer = footer.map_err(unread)?;
        if for_trace && probe.is_none() {
            self.footers.keep_probe(path.to_owned(), Probe::of(&footer, needs.time_column()));
        }
        Ok(needs.row_groups(&footer))
    }

    fn partitioned(&self, file: &DataFile) -> PartitionedFile {
        let path = self.dir.join(&file.name);
        // what EXPLAIN shows: where the data folder is, is nobody's business
        let shown = format!("{}/{}", self.table.name(), file.name);
        let partitioned = PartitionedFile::new(shown, file.bytes)
            .with_statistics(Arc::new(self.file_statistics(file)))
            .with_extension(OnDisk(path));
        let cold = self.table == Table::Spans && !file.hot_in_map;
        if cold { partitioned.with_extension(ColdMaps) } else { partitioned }
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

    fn statistics(&self, groups: &[FileGroup]) -> Statistics {
        let rows = groups.iter().flat_map(FileGroup::iter).filter_map(|file| {
            file.statistics.as_ref().and_then(|statistics| statistics.num_rows.get_value().copied())
        });
        let mut all = Statistics::new_unknown(&self.schema);
        all.num_rows = Precision::Exact(rows.sum());
        all
    }
}

/// Files dealt out by size, so that partitions are even.
fn dealt(mut files: Vec<PartitionedFile>, partitions: usize) -> Vec<FileGroup> {
    files.sort_by_key(|file| std::cmp::Reverse(file.object_meta.size));
    let mut groups = vec![Vec::new(); partitions.min(files.len())];
    let count = groups.len();
    for (place, file) in files.into_iter().enumerate() {
        groups[place % count].push(file);
    }
    groups.into_iter().map(FileGroup::new).collect()
}
