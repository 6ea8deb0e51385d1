//! [`LateSource`]: Parquet files read late: the filters that DataFusion's Parquet source leaves to
//! others, those over attribute maps, are evaluated on their own columns first, and the other columns
//! are decoded only for the rows that remain. Without it `SELECT *` with an attribute decodes every
//! column of every row.
//!
//! For each piece of a file: ask its statistics, evaluate the cheap filters, then those over maps,
//! each on the rows that the ones before left; hand the selection to the Parquet source as an access
//! plan. A piece without such rows is never opened. Where a key must have a value, or a column, it is searched
//! for in the encoded pages (`search`); for any other filter its columns are decoded and it is evaluated
//! (`select`).

mod bits;
mod chunk;
mod page;
mod runs;
mod search;
mod select;
mod sought;
#[cfg(test)]
mod tests;
mod texts;

use std::{fmt, sync::Arc};

use arrow::datatypes::DataType;
use datafusion::{
    common::{Result, config::ConfigOptions, tree_node::TreeNodeRecursion},
    datasource::{
        listing::PartitionedFile,
        physical_plan::{FileOpener, FileScanConfig, FileSource, ParquetSource},
        table_schema::TableSchema,
    },
    object_store::ObjectStore,
    physical_expr::{
        EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, conjunction, conjunction_opt, expressions::Column,
        projection::ProjectionExprs, split_conjunction, utils::collect_columns,
    },
    physical_expr_common::physical_expr::is_volatile,
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::{ExecutionPlanMetricsSet, MetricBuilder},
    },
};
use datafusion_datasource::morsel::{MorselPlan, MorselPlanner, Morselizer};

use super::footers::Footers;
pub(super) use select::ColdMaps;
use select::Late;
use sought::{Of, Sought};

/// The source.
#[derive(Clone)]
pub(super) struct LateSource {
    inner: Arc<dyn FileSource>,
    /// Filters over columns that the inner source does not filter by.
    late: Vec<Arc<dyn PhysicalExpr>>,
    footers: Arc<Footers>,
    /// Files are taken in this order, newest first, whoever takes them.
    pub(super) newest_first: bool,
}

impl LateSource {
    pub(super) fn new(inner: ParquetSource, footers: Arc<Footers>) -> Self {
        Self { inner: Arc::new(inner), late: Vec::new(), footers, newest_first: false }
    }

    pub(super) fn footers(&self) -> &Footers {
        &self.footers
    }

    fn over(&self, inner: Arc<dyn FileSource>) -> Arc<dyn FileSource> {
        Arc::new(Self { inner, ..self.clone() })
    }

    /// Whether rows must have a certain id: few have it, and a search finds them for less than decoding
    /// the ids of all.
    fn asks_for_an_id(&self) -> bool {
        let schema = self.table_schema().file_schema();
        let is_id = |name: &str| schema.field_with_name(name).is_ok_and(|field| field.data_type() == &DataType::Binary);
        let of_id = |sought: Sought| matches!(sought.of, Of::Column(name) if is_id(&name));
        let filter = self.inner.filter();
        filter.iter().flat_map(|all| split_conjunction(all)).filter_map(Sought::by).any(of_id)
    }

    fn takes(&self, filter: &Arc<dyn PhysicalExpr>) -> bool {
        let schema = self.table_schema().schema_without_virtual_columns();
        let ours =
            |column: &Column| schema.fields().get(column.index()).is_some_and(|field| field.name() == column.name());
        !is_volatile(filter) && collect_columns(filter).iter().all(ours)
    }
}

impl FileSource for LateSource {
    fn create_file_opener(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Arc<dyn FileOpener>> {
        self.inner.create_file_opener(store, config, partition)
    }

    fn create_morselizer(
        &self,
        store: Arc<dyn ObjectStore>,
        config: &FileScanConfig,
        partition: usize,
    ) -> Result<Box<dyn Morselizer>> {
        let inner = self.inner.create_morselizer(store, config, partition)?;
        if self.late.is_empty() && !self.asks_for_an_id() {
            return Ok(inner);
        }
        let selected = MetricBuilder::new(self.metrics()).counter("late_rows_selected", partition);
        let read = MetricBuilder::new(self.metrics()).counter("late_rows_read", partition);
        let late = Late {
            inner: inner.into(),
            cheap: self.inner.filter(),
            filters: self.late.clone(),
            schema: self.table_schema().file_schema().clone(),
            footers: self.footers.clone(),
            selected,
            read,
        };
        Ok(Box::new(LateMorselizer(Arc::new(late))))
    }

    fn table_schema(&self) -> &TableSchema {
        self.inner.table_schema()
    }

    fn with_batch_size(&self, batch_size: usize) -> Arc<dyn FileSource> {
        self.over(self.inner.with_batch_size(batch_size))
    }

    fn filter(&self) -> Option<Arc<dyn PhysicalExpr>> {
        conjunction_opt(self.inner.filter().into_iter().chain(self.late.iter().cloned()))
    }

    fn projection(&self) -> Option<&ProjectionExprs> {
        self.inner.projection()
    }

    fn metrics(&self) -> &ExecutionPlanMetricsSet {
        self.inner.metrics()
    }

    fn file_type(&self) -> &str {
        self.inner.file_type()
    }

    fn fmt_extra(&self, form: DisplayFormatType, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.inner.fmt_extra(form, f)?;
        if self.late.is_empty() {
            return Ok(());
        }
        write!(f, ", late={}", conjunction(self.late.iter().cloned()))
    }

    fn try_pushdown_filters(
        &self,
        filters: Vec<Arc<dyn PhysicalExpr>>,
        config: &ConfigOptions,
    ) -> Result<FilterPushdownPropagation<Arc<dyn FileSource>>> {
        let inner = self.inner.try_pushdown_filters(filters.clone(), config)?;
        let mut source = Self { inner: inner.updated_node.unwrap_or_else(|| self.inner.clone()), ..self.clone() };
        let mut answers = inner.filters;
        for (filter, answer) in filters.into_iter().zip(&mut answers) {
            if matches!(answer, PushedDown::No) && self.takes(&filter) {
                source.late.push(filter);
                *answer = PushedDown::Yes;
            }
        }
        let source = Arc::new(source) as Arc<dyn FileSource>;
        Ok(FilterPushdownPropagation::with_parent_pushdown_result(answers).with_updated_node(source))
    }

    fn try_pushdown_sort(
        &self,
        order: &[PhysicalSortExpr],
        properties: &EquivalenceProperties,
    ) -> Result<SortOrderPushdownResult<Arc<dyn FileSource>>> {
        self.inner.try_pushdown_sort(order, properties)?.try_map(|inner| Ok(self.over(inner)))
    }

    fn reorder_files(&self, files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
        if self.newest_first { super::newest_first::sorted(files) } else { self.inner.reorder_files(files) }
    }

    fn try_pushdown_projection(&self, projection: &ProjectionExprs) -> Result<Option<Arc<dyn FileSource>>> {
        Ok(self.inner.try_pushdown_projection(projection)?.map(|inner| self.over(inner)))
    }

    fn apply_expressions(
        &self,
        f: &mut dyn FnMut(&Arc<dyn PhysicalExpr>) -> Result<TreeNodeRecursion>,
    ) -> Result<TreeNodeRecursion> {
        for filter in &self.late {
            f(filter)?;
        }
        self.inner.apply_expressions(f)
    }
}

#[derive(Debug)]
struct LateMorselizer(Arc<Late>);

/// A piece that was not looked at yet.
#[derive(Debug)]
struct Unread {
    late: Arc<Late>,
    file: PartitionedFile,
}

/// Nothing to read.
#[derive(Debug)]
struct Nothing;

impl Morselizer for LateMorselizer {
    fn plan_file(&self, file: PartitionedFile) -> Result<Box<dyn MorselPlanner>> {
        Ok(Box::new(Unread { late: self.0.clone(), file }))
    }
}

impl MorselPlanner for Nothing {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        Ok(None)
    }
}

impl MorselPlanner for Unread {
    fn plan(self: Box<Self>) -> Result<Option<MorselPlan>> {
        let Self { late, file } = *self;
        if late.excluded(&file)? {
            return Ok(None);
        }
        let selected = async move {
            match late.select(&file).await? {
                Some(plan) => late.inner.plan_file(file.with_extension(plan)),
                None => Ok(Box::new(Nothing) as Box<dyn MorselPlanner>),
            }
        };
        Ok(Some(MorselPlan::new().with_pending_planner(selected)))
    }
}
