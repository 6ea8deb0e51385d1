//! [`Late`]: which rows of a piece of a file the filters want, each asked of the rows that the ones before
//! left: by a search through encoded pages where the filter is of that kind, else by evaluating it.

use std::{fmt, sync::Arc};

use arrow::{
    array::{Array, AsArray, BooleanArray},
    compute::prep_null_mask_filter,
    datatypes::SchemaRef,
};
use datafusion::{
    common::{
        Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    datasource::{
        listing::PartitionedFile,
        physical_plan::parquet::{ParquetAccessPlan, RowGroupAccess},
    },
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{Column, Literal, lit},
        split_conjunction,
        utils::{collect_columns, reassign_expr_columns},
    },
    physical_expr_adapter::{DefaultPhysicalExprAdapterFactory, PhysicalExprAdapterFactory},
    physical_optimizer::pruning::FilePruner,
    physical_plan::metrics::Count,
};
use datafusion_datasource::morsel::Morselizer;
use parquet::arrow::{
    ProjectionMask,
    arrow_reader::{ParquetRecordBatchReaderBuilder, RowSelection},
};

use super::{
    super::{
        footers::{Footer, Footers},
        hot_keys,
        reader::path_of,
    },
    search::{Found, search},
    sought::Sought,
};

/// Rows of a map that are looked at between two looks at the deadline.
const BATCH_ROWS: usize = 8192;

/// What one partition of a scan needs to evaluate late filters.
pub(super) struct Late {
    pub(super) inner: Arc<dyn Morselizer>,
    /// What the inner source filters by, and may have learned by now.
    pub(super) cheap: Option<Arc<dyn PhysicalExpr>>,
    pub(super) filters: Vec<Arc<dyn PhysicalExpr>>,
    pub(super) schema: SchemaRef,
    pub(super) footers: Arc<Footers>,
    pub(super) selected: Count,
    pub(super) read: Count,
}

/// Says of a file that no map in it holds an attribute that has a column of its own.
#[derive(Clone, Copy, Debug)]
pub(in crate::query) struct ColdMaps;

impl fmt::Debug for Late {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Late({:?})", self.filters)
    }
}

impl Late {
    /// Whether the statistics of a piece say that nothing in it is wanted.
    pub(super) fn excluded(&self, file: &PartitionedFile) -> Result<bool> {
        let Some(filter) = &self.cheap else { return Ok(false) };
        let pruner = FilePruner::try_new(filter.clone(), &self.schema, file, Count::new());
        pruner.map_or(Ok(false), |mut pruner| pruner.should_prune())
    }

    /// The rows of a piece that all filters want.
    pub(super) async fn select(&self, file: &PartitionedFile) -> Result<Option<ParquetAccessPlan>> {
        let footer = self.footers.get(path_of(file)?)?;
        let given = file.extension::<ParquetAccessPlan>().cloned();
        let mut plan = given.unwrap_or_else(|| ParquetAccessPlan::new_all(footer.row_groups()));
        let of_file = |filter| {
            let filter = adapted(filter, &self.schema, &footer)?;
            if file.extension::<ColdMaps>().is_some() { without_hot_keys(filter) } else { Ok(filter) }
        };
        let cheap = self.cheap.iter().flat_map(|filter| split_conjunction(filter));
        let cheap = cheap.map(of_file).collect::<Result<Vec<_>>>()?;
        let late = self.filters.iter().map(of_file).collect::<Result<Vec<_>>>()?;
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
            for filter in &cheap {
                selection = self.narrowed_cheaply(filter, &footer, row_group, selection).await?;
            }
            for filter in &late {
                let found = found(filter, &footer, row_group, selection).await?;
                self.read.add(found.looked_into);
                selection = found.selection;
            }
            self.selected.add(selection.row_count());
            match selection.row_count() {
                0 => plan.skip(row_group),
                _ => plan.set(row_group, RowGroupAccess::Selection(selection)),
            }
        }
        Ok((!plan.row_group_indexes().is_empty()).then_some(plan))
    }

    /// The inner source evaluates these filters too, so where nothing else is asked only what a search
    /// through pages finds is worth it.
    async fn narrowed_cheaply(
        &self,
        filter: &Arc<dyn PhysicalExpr>,
        footer: &Footer,
        row_group: usize,
        selection: RowSelection,
    ) -> Result<RowSelection> {
        if !self.filters.is_empty() {
            return Ok(found(filter, footer, row_group, selection).await?.selection);
        }
        let found = searched(filter, footer, row_group, &selection).await?;
        Ok(found.map_or(selection, |found| found.selection))
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

/// The selected rows for which a filter holds.
async fn found(
    filter: &Arc<dyn PhysicalExpr>,
    footer: &Footer,
    row_group: usize,
    selection: RowSelection,
) -> Result<Found> {
    if let Some(found) = searched(filter, footer, row_group, &selection).await? {
        return Ok(found);
    }
    let looked_into = selection.row_count();
    Ok(Found { selection: narrowed(filter, footer, row_group, selection).await?, looked_into })
}

/// The same by a search. `None`: the filter or the file is of another kind.
async fn searched(
    filter: &Arc<dyn PhysicalExpr>,
    footer: &Footer,
    row_group: usize,
    selection: &RowSelection,
) -> Result<Option<Found>> {
    match Sought::by(filter).filter(|_| selection.selects_any()) {
        Some(sought) => search(&sought, footer, row_group, selection).await,
        None => Ok(None),
    }
}

/// The same by evaluating it. Only its columns are decoded.
async fn narrowed(
    filter: &Arc<dyn PhysicalExpr>,
    footer: &Footer,
    row_group: usize,
    selection: RowSelection,
) -> Result<RowSelection> {
    if !selection.selects_any() {
        return Ok(selection);
    }
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
