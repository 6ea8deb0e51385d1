//! [`LateSource`]: Parquet files read late: the filters that DataFusion's Parquet source leaves to
//! others, those over attribute maps, are evaluated on their own columns first, and the other columns
//! are decoded only for the rows that remain. Without it `SELECT *` with an attribute decodes every
//! column of every row.
//!
//! For each piece of a file: ask its statistics, evaluate the cheap filters, then those over maps,
//! each on the rows that the ones before left; hand the selection to the Parquet source as an access
//! plan. A piece without such rows is never opened.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, AsArray, BooleanArray},
    compute::prep_null_mask_filter,
    datatypes::SchemaRef,
};
use datafusion::{
    common::{
        Result, ScalarValue,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileOpener, FileScanConfig, FileSource, ParquetSource,
            parquet::{ParquetAccessPlan, RowGroupAccess},
        },
        table_schema::TableSchema,
    },
    object_store::ObjectStore,
    physical_expr::{
        EquivalenceProperties, PhysicalExpr, PhysicalSortExpr, ScalarFunctionExpr, conjunction, conjunction_opt,
        expressions::{Column, Literal, lit},
        projection::ProjectionExprs,
        split_conjunction,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_expr_adapter::{DefaultPhysicalExprAdapterFactory, PhysicalExprAdapterFactory},
    physical_expr_common::physical_expr::is_volatile,
    physical_optimizer::pruning::FilePruner,
    physical_plan::{
        DisplayFormatType, SortOrderPushdownResult,
        filter_pushdown::{FilterPushdownPropagation, PushedDown},
        metrics::{Count, ExecutionPlanMetricsSet, MetricBuilder},
    },
};
use datafusion_datasource::morsel::{MorselPlan, MorselPlanner, Morselizer};
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection},
};

use super::{
    footers::{Footer, Footers},
    hot_keys,
    reader::path_of,
};

/// Rows of a map that are looked at between two looks at the deadline.
const BATCH_ROWS: usize = 8192;

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
        if self.late.is_empty() {
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

/// What one partition of a scan needs to evaluate late filters.
struct Late {
    inner: Arc<dyn Morselizer>,
    /// What the inner source filters by, and may have learned by now.
    cheap: Option<Arc<dyn PhysicalExpr>>,
    filters: Vec<Arc<dyn PhysicalExpr>>,
    schema: SchemaRef,
    footers: Arc<Footers>,
    selected: Count,
    read: Count,
}

#[derive(Debug)]
struct LateMorselizer(Arc<Late>);

/// A piece that was not looked at yet.
#[derive(Debug)]
struct Unread {
    late: Arc<Late>,
    file: PartitionedFile,
}

/// Says of a file that no map in it holds an attribute that has a column of its own.
#[derive(Clone, Copy, Debug)]
pub(super) struct ColdMaps;

/// Nothing to read.
#[derive(Debug)]
struct Nothing;

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Late({:?})", self.filters)
    }
}

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

impl Late {
    /// Whether the statistics of a piece say that nothing in it is wanted.
    fn excluded(&self, file: &PartitionedFile) -> Result<bool> {
        let Some(filter) = &self.cheap else { return Ok(false) };
        let pruner = FilePruner::try_new(filter.clone(), &self.schema, file, Count::new());
        pruner.map_or(Ok(false), |mut pruner| pruner.should_prune())
    }

    /// The rows of a piece that all filters want.
    async fn select(&self, file: &PartitionedFile) -> Result<Option<ParquetAccessPlan>> {
        let footer = self.footers.get(path_of(file)?)?;
        let given = file.extension::<ParquetAccessPlan>().cloned();
        let mut plan = given.unwrap_or_else(|| ParquetAccessPlan::new_all(footer.row_groups()));
        let cheap = self.cheap.iter().flat_map(|filter| split_conjunction(filter));
        let filters = cheap.chain(&self.filters).map(|filter| {
            let filter = adapted(filter, &self.schema, &footer)?;
            if file.extension::<ColdMaps>().is_some() { without_hot_keys(filter) } else { Ok(filter) }
        });
        let filters = filters.collect::<Result<Vec<_>>>()?;
        for row_group in plan.row_group_indexes() {
            if let Some(range) = &file.range
                && !range.contains(start_of(&footer, row_group))
            {
                plan.skip(row_group);
                continue;
            }
            let mut selection = match &plan.inner()[row_group] {
                RowGroupAccess::Selection(selection) => selection.clone(),
                _ => all_rows(&footer, row_group),
            };
            self.read.add(selection.row_count());
            for filter in &filters {
                if selection.row_count() == 0 {
                    break;
                }
                selection = narrowed(filter, &footer, row_group, selection).await?;
            }
            self.selected.add(selection.row_count());
            match selection.row_count() {
                0 => plan.skip(row_group),
                _ => plan.set(row_group, RowGroupAccess::Selection(selection)),
            }
        }
        Ok((!plan.row_group_indexes().is_empty()).then_some(plan))
    }
}

/// A filter over the table as one over the file: an older file may lack a column.
fn adapted(filter: &Arc<dyn PhysicalExpr>, schema: &SchemaRef, footer: &Footer) -> Result<Arc<dyn PhysicalExpr>> {
    DefaultPhysicalExprAdapterFactory.create(schema.clone(), footer.schema().clone())?.rewrite(filter.clone())
}

/// Null for what a map is asked for and does not have, so that the map need not be decoded.
fn without_hot_keys(filter: Arc<dyn PhysicalExpr>) -> Result<Arc<dyn PhysicalExpr>> {
    let null_for_hot = |expr: Arc<dyn PhysicalExpr>| {
        let hot = expr.downcast_ref::<ScalarFunctionExpr>().filter(|call| asks_for_hot(call));
        Ok(match hot {
            Some(call) => Transformed::yes(lit(ScalarValue::try_new_null(call.return_type())?)),
            None => Transformed::no(expr),
        })
    };
    filter.transform_down(null_for_hot).map(|changed| changed.data)
}

fn asks_for_hot(call: &ScalarFunctionExpr) -> bool {
    let [map, key] = call.args() else { return false };
    let of_span = map.downcast_ref::<Column>().is_some_and(|column| column.name() == "attributes");
    let key = key.downcast_ref::<Literal>().and_then(|key| key.value().try_as_str().flatten());
    call.name() == "attr" && of_span && key.is_some_and(hot_keys::is_hot)
}

/// Where DataFusion says that a row group is when it divides a file by bytes.
fn start_of(footer: &Footer, row_group: usize) -> i64 {
    let column = footer.metadata.row_group(row_group).column(0);
    column.dictionary_page_offset().unwrap_or_else(|| column.data_page_offset())
}

fn all_rows(footer: &Footer, row_group: usize) -> RowSelection {
    let rows = usize::try_from(footer.metadata.row_group(row_group).num_rows()).unwrap_or(0);
    RowSelection::from_consecutive_ranges(std::iter::once(0..rows), rows)
}

/// The selected rows for which a filter holds. Only its columns are decoded.
async fn narrowed(
    filter: &Arc<dyn PhysicalExpr>,
    footer: &Footer,
    row_group: usize,
    selection: RowSelection,
) -> Result<RowSelection> {
    let mut roots: Vec<usize> = collect_columns(filter).iter().map(|column| column.index()).collect();
    roots.sort_unstable();
    let schema = Arc::new(footer.schema().project(&roots)?);
    let filter = reassign_expr_columns(filter.clone(), &schema)?;
    let mask = ProjectionMask::roots(footer.metadata.file_metadata().schema_descr(), roots);
    let file = footer.open()?;
    let batches = ParquetRecordBatchReaderBuilder::new_with_metadata(file, footer.reader.clone())
        .with_projection(mask)
        .with_row_groups(vec![row_group])
        .with_row_selection(selection.clone())
        .with_batch_size(BATCH_ROWS)
        .build()?;
    let mut wanted: Vec<BooleanArray> = Vec::new();
    for batch in batches {
        let batch = batch?;
        let answer = filter.evaluate(&batch)?.into_array(batch.num_rows())?;
        let answer = answer.as_boolean();
        wanted.push(if answer.null_count() == 0 { answer.clone() } else { prep_null_mask_filter(answer) });
        tokio::task::yield_now().await;
    }
    Ok(selection.and_then(&RowSelection::from_filters(&wanted)))
}
