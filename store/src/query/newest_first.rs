//! [`NewestFirst`]: reads the newest rows first where only the newest are asked for.
//!
//! `ORDER BY start_unix_nano DESC LIMIT 20` keeps a heap of 20, and once it is full everything older
//! than its oldest need not be read. That helps only if the newest are read first and in small
//! pieces: a row group is 128 Ki rows by ascending time, so its last pages are pieces of their own,
//! each with its own range of time.

use std::{ops::Range, sync::Arc};

use datafusion::{
    common::{
        Result, ScalarValue, Statistics,
        config::ConfigOptions,
        stats::Precision,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    datasource::{
        listing::PartitionedFile,
        physical_plan::{
            FileGroup, FileScanConfig, FileScanConfigBuilder,
            parquet::{ParquetAccessPlan, RowGroupAccess},
        },
        source::DataSourceExec,
    },
    physical_expr::expressions::Column,
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ExecutionPlan, filter::FilterExec, projection::ProjectionExec, sorts::sort::SortExec},
};
use parquet::{
    arrow::arrow_reader::RowSelection,
    file::{metadata::ParquetOffsetIndex, page_index::column_index::ColumnIndexMetaData},
};

use super::{
    footers::{Footer, Footers},
    late::LateSource,
    reader::path_of,
};

/// Row groups, from the newest on, that are cut into pieces: a search that 300,000 rows do not
/// satisfy is for something rare, and then each piece only costs.
const ROW_GROUPS_IN_PIECES: usize = 3;

/// Operators below the sort that hand rows on as they are.
const TRANSPARENT: [&str; 4] = ["UnionExec", "RepartitionExec", "CoalescePartitionsExec", "CooperativeExec"];

/// The rule.
#[derive(Debug)]
pub(super) struct NewestFirst;

impl PhysicalOptimizerRule for NewestFirst {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let below_sort = |plan: Arc<dyn ExecutionPlan>| match newest_of(&plan) {
            Some(place) => {
                let changed = plan.map_children(|child| newest_first_below(child, place))?;
                Ok(Transformed::new(changed.data, changed.transformed, TreeNodeRecursion::Jump))
            }
            None => Ok(Transformed::no(plan)),
        };
        plan.transform_down(below_sort).map(|changed| changed.data)
    }

    fn name(&self) -> &'static str {
        "newest_first"
    }

    fn schema_check(&self) -> bool {
        true
    }
}

/// The place of the column by which this operator keeps only the largest.
fn newest_of(plan: &Arc<dyn ExecutionPlan>) -> Option<usize> {
    let sort = plan.downcast_ref::<SortExec>()?;
    sort.fetch()?;
    let first = sort.expr().first();
    let column = first.expr.downcast_ref::<Column>()?;
    first.options.descending.then(|| column.index())
}

fn newest_first_below(plan: Arc<dyn ExecutionPlan>, place: usize) -> Result<Transformed<Arc<dyn ExecutionPlan>>> {
    if let Some(scan) = plan.downcast_ref::<DataSourceExec>() {
        return Ok(match newest_first(scan, place)? {
            Some(scan) => Transformed::yes(scan),
            None => Transformed::no(plan),
        });
    }
    match place_below(&plan, place) {
        Some(place) => plan.map_children(|child| newest_first_below(child, place)),
        None => Ok(Transformed::no(plan)),
    }
}

/// Where a column of this operator stands in what it reads: it may have another name and place there.
fn place_below(plan: &Arc<dyn ExecutionPlan>, place: usize) -> Option<usize> {
    if let Some(projection) = plan.downcast_ref::<ProjectionExec>() {
        return projection.expr().get(place)?.expr.downcast_ref::<Column>().map(Column::index);
    }
    if let Some(filter) = plan.downcast_ref::<FilterExec>() {
        return filter.projection().as_ref().map_or(Some(place), |kept| kept.get(place).copied());
    }
    TRANSPARENT.contains(&plan.name()).then_some(place)
}

/// The time column of the table that a scan has in this place.
fn time_column(config: &FileScanConfig, place: usize) -> Option<(String, usize)> {
    let place = match config.file_source().projection() {
        Some(projection) => projection.iter().nth(place)?.expr.downcast_ref::<Column>()?.index(),
        None => place,
    };
    let schema = config.file_source().table_schema().file_schema();
    let name = schema.fields().get(place)?.name();
    name.ends_with("_unix_nano").then(|| (name.clone(), place))
}

/// The same scan, its files in pieces, the newest first.
fn newest_first(scan: &DataSourceExec, place: usize) -> Result<Option<Arc<dyn ExecutionPlan>>> {
    let Some(config) = scan.data_source().downcast_ref::<FileScanConfig>() else { return Ok(None) };
    let Some(source) = config.file_source().downcast_ref::<LateSource>() else { return Ok(None) };
    let Some((column, place)) = time_column(config, place) else { return Ok(None) };
    let mut source = source.clone();
    source.newest_first = true;
    let mut files: Vec<PartitionedFile> = Vec::new();
    for file in config.file_groups.iter().flat_map(FileGroup::iter) {
        // a file may have been divided by bytes: here it is divided by rows
        if !files.iter().any(|known| known.path() == file.path()) {
            files.push(PartitionedFile { range: None, ..file.clone() });
        }
    }
    let pieces = in_pieces(sorted_by(files, place), source.footers(), &column, place)?;
    let mut groups = vec![Vec::new(); config.file_groups.len().max(1)];
    let count = groups.len();
    for (at, piece) in pieces.into_iter().enumerate() {
        groups[at % count].push(piece);
    }
    let groups = groups.into_iter().map(FileGroup::new).collect();
    let config = FileScanConfigBuilder::from(config.clone()).with_source(Arc::new(source)).with_file_groups(groups);
    Ok(Some(DataSourceExec::from_data_source(config.build())))
}

/// Files or pieces, the newest first: by the first column whose largest value is known, which is the
/// table's time.
pub(super) fn sorted(files: Vec<PartitionedFile>) -> Vec<PartitionedFile> {
    let place = files.first().and_then(|file| file.statistics.as_ref()).and_then(|statistics| {
        statistics.column_statistics.iter().position(|column| column.max_value != Precision::Absent)
    });
    match place {
        Some(place) => sorted_by(files, place),
        None => files,
    }
}

fn sorted_by(mut files: Vec<PartitionedFile>, place: usize) -> Vec<PartitionedFile> {
    files.sort_by_key(|file| std::cmp::Reverse(newest(file, place)));
    files
}

fn newest(file: &PartitionedFile, place: usize) -> i64 {
    let most =
        file.statistics.as_ref().and_then(|all| all.column_statistics.get(place)?.max_value.get_value().cloned());
    match most {
        Some(ScalarValue::Int64(Some(most))) => most,
        _ => i64::MAX, // it may have anything
    }
}

fn in_pieces(
    files: Vec<PartitionedFile>,
    footers: &Footers,
    column: &str,
    place: usize,
) -> Result<Vec<PartitionedFile>> {
    let mut pieces = Vec::new();
    let mut to_cut = ROW_GROUPS_IN_PIECES;
    for file in files {
        if to_cut == 0 {
            pieces.push(file);
            continue;
        }
        let footer = footers.get(path_of(&file)?)?;
        let all = ParquetAccessPlan::new_all(footer.row_groups());
        let plan = file.extension::<ParquetAccessPlan>().unwrap_or(&all);
        for row_group in plan.row_group_indexes().into_iter().rev() {
            let ranges = match to_cut {
                0 => vec![],
                _ => page_ranges(&footer, row_group, column).unwrap_or_default(),
            };
            to_cut = to_cut.saturating_sub(1);
            if ranges.is_empty() {
                pieces.push(piece(&file, &footer, row_group, RowGroupAccess::Scan, None, place));
            }
            for (rows, times) in ranges {
                let total = usize::try_from(footer.metadata.row_group(row_group).num_rows()).unwrap_or(0);
                let selection = RowSelection::from_consecutive_ranges(std::iter::once(rows), total);
                let access = RowGroupAccess::Selection(selection);
                pieces.push(piece(&file, &footer, row_group, access, Some(times), place));
            }
        }
    }
    Ok(sorted_by(pieces, place))
}

type Piece = (Range<usize>, (i64, i64));

/// Runs of pages from the last on, each run as long as all before it, with their range of time.
fn page_ranges(footer: &Footer, row_group: usize, column: &str) -> Option<Vec<Piece>> {
    let leaf = footer.leaf(column)?;
    let offsets: &ParquetOffsetIndex = footer.metadata.offset_index()?;
    let pages = offsets.get(row_group)?.get(leaf)?.page_locations();
    let ColumnIndexMetaData::INT64(index) = footer.metadata.column_index()?.get(row_group)?.get(leaf)? else {
        return None;
    };
    let rows = usize::try_from(footer.metadata.row_group(row_group).num_rows()).ok()?;
    let starts = pages.iter().map(|page| usize::try_from(page.first_row_index).ok()).collect::<Option<Vec<_>>>()?;
    let (mut end_page, mut pieces) = (pages.len(), Vec::new());
    while end_page > 0 {
        let taken = pages.len() - end_page;
        let first_page = end_page.saturating_sub(taken.max(1));
        let run = first_page..end_page;
        let least = run.clone().map(|page| index.min_value(page).copied()).collect::<Option<Vec<_>>>()?;
        let most = run.map(|page| index.max_value(page).copied()).collect::<Option<Vec<_>>>()?;
        let end = starts.get(end_page).copied().unwrap_or(rows);
        pieces.push((starts[first_page]..end, (least.into_iter().min()?, most.into_iter().max()?)));
        end_page = first_page;
    }
    Some(pieces)
}

fn piece(
    file: &PartitionedFile,
    footer: &Footer,
    row_group: usize,
    access: RowGroupAccess,
    times: Option<(i64, i64)>,
    place: usize,
) -> PartitionedFile {
    let mut plan = ParquetAccessPlan::new_none(footer.row_groups());
    plan.set(row_group, access);
    let mut piece = file.clone().with_extension(plan);
    let Some((least, most)) = times else { return piece };
    if let Some(statistics) = &piece.statistics {
        let mut narrower = Statistics::clone(statistics);
        narrower.num_rows = narrower.num_rows.to_inexact();
        narrower.column_statistics[place].min_value = Precision::Exact(ScalarValue::Int64(Some(least)));
        narrower.column_statistics[place].max_value = Precision::Exact(ScalarValue::Int64(Some(most)));
        piece.statistics = Some(Arc::new(narrower));
    }
    piece
}
