//! What would fill memory because it is there once for every row, where the engine's own pool does not
//! see it: constants, and values that aggregates make of many rows.

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Result, plan_err, resources_datafusion_err,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    config::ConfigOptions,
    logical_expr::{
        BinaryExpr, Expr, LogicalPlan, WindowFrame, WindowFrameBound, WindowFunctionDefinition, expr::WindowFunction,
    },
    optimizer::AnalyzerRule,
    scalar::ScalarValue,
};

/// Rows of a batch.
const BATCH_ROWS: usize = 8192;

/// Rows of a batch where each may hold a value that was made of many.
pub(super) const FEW_ROWS: usize = 32;

/// Bytes that the constants of a plan may take, once for every row of a batch each.
const MAX_CONSTANT_BYTES: usize = 256 << 20;

/// Bytes of a constant beside those of its text.
const NUMBER_BYTES: usize = 8;

/// Rows of a window at most, where each row has a value made of all of them.
const MAX_WINDOW_ROWS: u64 = 1_000;

/// Aggregates whose value is as long as what they are given.
const COLLECTING: [&str; 2] = ["array_agg", "string_agg"];

/// Refuses constants that would stand in each row of a batch: what `repeat('z', 200000)` is folded to. What
/// a column is compared with is there once.
pub(super) fn check_constants(plan: &LogicalPlan) -> Result<()> {
    let mut bytes = 0_usize;
    plan.apply_with_subqueries(|node| {
        let rows = match node {
            // each of its rows has constants of its own, or they are pruned by
            LogicalPlan::Values(_) | LogicalPlan::TableScan(_) | LogicalPlan::Limit(_) => 0,
            // a relation without columns has a row where it is asked for one
            node => node.inputs().iter().map(|input| input.max_rows().unwrap_or(BATCH_ROWS).max(1)).max().unwrap_or(1),
        };
        let rows = rows.min(BATCH_ROWS);
        node.apply_expressions(|expr| {
            bytes = bytes.saturating_add(constant_bytes(expr)?.saturating_mul(rows));
            Ok(TreeNodeRecursion::Continue)
        })
    })?;
    match bytes > MAX_CONSTANT_BYTES {
        true => Err(resources_datafusion_err!(
            "constants could take {bytes} bytes of the rows they stand in, the limit is {MAX_CONSTANT_BYTES}"
        )),
        false => Ok(()),
    }
}

/// Bytes of the constants of an expression, but for those that something is compared with.
fn constant_bytes(expr: &Expr) -> Result<usize> {
    let mut bytes = 0_usize;
    expr.apply(|part| {
        let of_part = match part {
            Expr::Literal(value, _) => value.size() - size_of::<ScalarValue>() + NUMBER_BYTES,
            // counted when they come by themselves
            Expr::BinaryExpr(BinaryExpr { left, op, right }) if op.negate().is_some() => {
                return jump(&mut bytes, &[left, right]);
            }
            Expr::Like(like) | Expr::SimilarTo(like) => return jump(&mut bytes, &[&like.expr, &like.pattern]),
            Expr::InList(list) => return jump(&mut bytes, &[&list.expr]),
            Expr::Between(between) => return jump(&mut bytes, &[&between.expr]),
            _ => 0,
        };
        bytes = bytes.saturating_add(of_part);
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(bytes)
}

/// Counts what is compared, unless it is a constant itself, and goes on beside it.
fn jump(bytes: &mut usize, sides: &[&Expr]) -> Result<TreeNodeRecursion> {
    for side in sides {
        if !matches!(side, Expr::Literal(..)) {
            *bytes = bytes.saturating_add(constant_bytes(side)?);
        }
    }
    Ok(TreeNodeRecursion::Jump)
}

/// Whether a value that may be long, made by an aggregate or of constants, may come once for every row of
/// something else.
pub(super) fn repeats_long_values(plan: &LogicalPlan) -> Result<bool> {
    let mut found = false;
    plan.apply_with_subqueries(|node| {
        found |= match node {
            LogicalPlan::Join(join) => {
                [&join.left, &join.right].into_iter().any(|side| is_of_no_table(side)) || collects_below(node)?
            }
            LogicalPlan::Window(_) | LogicalPlan::Unnest(_) => collects_below(node)?,
            _ => false,
        } || asks_for_a_long_value(node)?;
        Ok(if found { TreeNodeRecursion::Stop } else { TreeNodeRecursion::Continue })
    })?;
    Ok(found)
}

/// Rows made of constants, which may be of any length.
fn is_of_no_table(side: &LogicalPlan) -> bool {
    let reads = side.exists(|node| Ok(matches!(node, LogicalPlan::TableScan(_))));
    !reads.unwrap_or(true) && side.schema().fields().iter().any(|field| is_of_any_length(field.data_type()))
}

fn collects_below(node: &LogicalPlan) -> Result<bool> {
    node.exists(|below| Ok(collects(below)))
}

/// Whether an expression asks for the one value of a subquery.
fn asks_for_a_long_value(node: &LogicalPlan) -> Result<bool> {
    let mut asks = false;
    node.apply_expressions(|expr| {
        asks |= expr.exists(|part| match part {
            Expr::ScalarSubquery(one) => {
                Ok(one.subquery.schema().fields().iter().any(|field| is_of_any_length(field.data_type())))
            }
            _ => Ok(false),
        })?;
        Ok(TreeNodeRecursion::Continue)
    })?;
    Ok(asks)
}

fn is_of_any_length(data_type: &DataType) -> bool {
    data_type.primitive_width().is_none() && !matches!(data_type, DataType::Boolean | DataType::Null)
}

fn collects(node: &LogicalPlan) -> bool {
    let LogicalPlan::Aggregate(aggregate) = node else { return false };
    let of = |expr: &Expr| match expr.clone().unalias() {
        Expr::AggregateFunction(function) => COLLECTING.contains(&function.func.name()),
        _ => false,
    };
    aggregate.aggr_expr.iter().any(of)
}

/// Refuses windows in which each row would have a value made of very many: the square of the rows.
#[derive(Debug)]
pub(super) struct ShortWindows;

impl AnalyzerRule for ShortWindows {
    fn name(&self) -> &str {
        "short_windows"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.apply_with_subqueries(|node| {
            let LogicalPlan::Window(window) = node else { return Ok(TreeNodeRecursion::Continue) };
            window.window_expr.iter().try_for_each(check_window)?;
            Ok(TreeNodeRecursion::Continue)
        })?;
        Ok(plan)
    }
}

fn check_window(expr: &Expr) -> Result<()> {
    let Expr::WindowFunction(window) = expr.clone().unalias() else { return Ok(()) };
    let WindowFunction { fun, params } = window.as_ref();
    let WindowFunctionDefinition::AggregateUDF(function) = fun else { return Ok(()) };
    let name = function.name();
    match COLLECTING.contains(&name) && !is_short(&params.window_frame) {
        true => plan_err!(
            "{name}(…) OVER (…) makes each row as long as all it is made of: use GROUP BY, or a window of \
             ROWS BETWEEN n PRECEDING AND m FOLLOWING with at most {MAX_WINDOW_ROWS} rows"
        ),
        false => Ok(()),
    }
}

fn is_short(frame: &WindowFrame) -> bool {
    let rows = |bound: &WindowFrameBound| match bound {
        WindowFrameBound::CurrentRow => Some(0),
        WindowFrameBound::Preceding(n) | WindowFrameBound::Following(n) => match n {
            ScalarValue::UInt64(n) => *n,
            _ => None,
        },
    };
    let by_rows = frame.units == datafusion::logical_expr::WindowFrameUnits::Rows;
    let most = rows(&frame.start_bound).zip(rows(&frame.end_bound)).map(|(before, after)| before.saturating_add(after));
    by_rows && most.is_some_and(|rows| rows <= MAX_WINDOW_ROWS)
}
