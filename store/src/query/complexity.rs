//! How much a plan asks of the optimizer, refused before it begins: nodes, the fields of a column's
//! type, and terms of conditions.
//!
//! The optimizer moves a condition below a projection by putting the projection's expressions where
//! the condition names them. A column that is named twice, in an expression that is named twice, and so
//! on, makes of a short condition one that fills the memory; so the terms are counted as if all were
//! moved as far as they can.

use arrow::datatypes::DataType;
use datafusion::{
    common::{
        Column, DataFusionError,
        tree_node::{TreeNode, TreeNodeRecursion},
    },
    logical_expr::{Expr, JoinType, LogicalPlan},
};

use super::statement::sql_error;
use crate::error::SqlError;

/// Nodes of a plan.
const MAX_NODES: usize = 5_000;

/// Fields in the type of a column. A struct of a column twice, of that twice, and so on, is one array
/// with a type that nothing can walk.
const MAX_FIELDS: usize = 1_000;

/// Terms of all conditions together. The optimizer takes half a second for 8,000.
const MAX_TERMS: usize = 10_000;

/// Refuses a plan that asks too much.
pub(super) fn check(plan: &LogicalPlan) -> Result<(), SqlError> {
    let mut nodes = 0;
    let mut refused = None;
    let walked = plan.apply_with_subqueries(|node| {
        nodes += 1;
        let too_many = nodes > MAX_NODES;
        let too_wide = node.schema().fields().iter().any(|field| !has_room(field.data_type(), &mut { MAX_FIELDS }));
        refused = match (too_many, too_wide) {
            (true, _) => Some(SqlError::TooComplex { what: "steps in its plan", limit: MAX_NODES }),
            (_, true) => Some(SqlError::TooComplex { what: "fields in a column", limit: MAX_FIELDS }),
            _ => return Ok(TreeNodeRecursion::Continue),
        };
        Ok(TreeNodeRecursion::Stop)
    });
    walked.map_err(|error| sql_error(&error))?;
    refused.map_or_else(|| Conditions::default().of_plan(plan).map(drop), Err)
}

/// Whether a type has no more fields than are left.
fn has_room(data_type: &DataType, left: &mut usize) -> bool {
    match left.checked_sub(1) {
        None => return false,
        Some(less) => *left = less,
    }
    match data_type {
        DataType::Struct(fields) => fields.iter().all(|field| has_room(field.data_type(), left)),
        DataType::List(item)
        | DataType::LargeList(item)
        | DataType::ListView(item)
        | DataType::LargeListView(item)
        | DataType::FixedSizeList(item, _)
        | DataType::Map(item, _) => has_room(item.data_type(), left),
        DataType::Union(fields, _) => fields.iter().all(|(_, field)| has_room(field.data_type(), left)),
        _ => true,
    }
}

/// The terms of the conditions seen so far.
#[derive(Default)]
struct Conditions {
    terms: usize,
}

impl Conditions {
    /// The terms that each column of a plan stands for.
    fn of_plan(&mut self, plan: &LogicalPlan) -> Result<Vec<usize>, SqlError> {
        self.of_subqueries(plan)?;
        let inputs = plan.inputs();
        let known = inputs.iter().map(|input| self.of_plan(input)).collect::<Result<Vec<_>, _>>()?;
        let of_column = |column: &Column| {
            let places = inputs.iter().map(|input| input.schema().maybe_index_of_column(column));
            places.zip(&known).find_map(|(place, terms)| terms.get(place?).copied()).unwrap_or(1)
        };
        for condition in conditions(plan) {
            self.terms = self.terms.saturating_add(terms(condition, &of_column));
            if self.terms > MAX_TERMS {
                return Err(SqlError::TooComplex { what: "terms in its conditions, columns put in", limit: MAX_TERMS });
            }
        }
        let columns = plan.schema().fields().len();
        let mut all = match plan {
            LogicalPlan::Projection(made) => made.expr.iter().map(|expr| terms(expr, &of_column)).collect(),
            LogicalPlan::Aggregate(made) => made.group_expr.iter().map(|expr| terms(expr, &of_column)).collect(),
            LogicalPlan::Join(join) if matches!(join.join_type, JoinType::RightSemi | JoinType::RightAnti) => {
                known.into_iter().next_back().unwrap_or_default()
            }
            LogicalPlan::Join(_)
            | LogicalPlan::Filter(_)
            | LogicalPlan::Sort(_)
            | LogicalPlan::Limit(_)
            | LogicalPlan::Window(_)
            | LogicalPlan::SubqueryAlias(_) => known.concat(),
            // places of columns are not those of the inputs
            _ => vec![known.iter().flatten().copied().max().unwrap_or(1); columns],
        };
        // what an aggregate or a window computes is computed once
        all.resize(columns, 1);
        Ok(all)
    }

    fn of_subqueries(&mut self, plan: &LogicalPlan) -> Result<(), SqlError> {
        let mut subqueries = Vec::new();
        let keep = |subquery: &LogicalPlan| {
            subqueries.push(subquery.clone());
            Ok::<_, DataFusionError>(TreeNodeRecursion::Continue)
        };
        plan.apply_subqueries(keep).map_err(|error| sql_error(&error))?;
        subqueries.iter().try_for_each(|subquery| self.of_plan(subquery).map(drop))
    }
}

/// The expressions of a node that the optimizer may move.
fn conditions(plan: &LogicalPlan) -> Vec<&Expr> {
    match plan {
        LogicalPlan::Filter(filter) => vec![&filter.predicate],
        LogicalPlan::Join(join) => {
            join.on.iter().flat_map(|(left, right)| [left, right]).chain(join.filter.as_ref()).collect()
        }
        _ => Vec::new(),
    }
}

/// The terms of an expression with its columns put in.
fn terms(expr: &Expr, of_column: &impl Fn(&Column) -> usize) -> usize {
    let mut terms = 0_usize;
    let counted = expr.apply(|part| {
        terms = terms.saturating_add(if let Expr::Column(column) = part { of_column(column) } else { 1 });
        Ok(TreeNodeRecursion::Continue)
    });
    debug_assert!(counted.is_ok(), "nothing in it fails");
    terms
}

#[cfg(test)]
mod tests {
    use datafusion::{prelude::SessionContext, sql::parser::Statement};

    use super::*;
    use crate::{
        config::SqlConfig,
        query::{engine::STACK_BYTES, guard},
    };

    async fn checked(text: String) -> Result<(), SqlError> {
        let statement = guard::parse(&text, &SqlConfig::default()).unwrap();
        let statement = Statement::Statement(Box::new(statement));
        let plan = SessionContext::new().state().statement_to_plan(statement).await.unwrap();
        check(&plan)
    }

    /// `made` so many times in each other, and what comes behind.
    fn nested(made: &str, times: usize, tail: &str) -> String {
        let (open, close) = (format!("SELECT {made} AS s FROM (").repeat(times), ") t".repeat(times));
        format!("{open}SELECT 1 AS s{close} {tail}")
    }

    #[test]
    fn plans_that_would_explode_are_refused() {
        // as large a stack as statements have
        let mut threads = tokio::runtime::Builder::new_multi_thread();
        let runtime = threads.worker_threads(1).thread_stack_size(STACK_BYTES).build().unwrap();
        let cases = [
            (nested("s + s", 8, ""), true),
            (nested("s + s", 30, ""), true),
            (nested("s + s", 8, "WHERE s = 1"), true),
            (nested("s + s", 30, "WHERE s = 1"), false),
            (nested("s + 1", 30, "WHERE s = 1"), true),
            (nested("max(s + s)", 30, "WHERE s = 1"), true),
            (format!("SELECT 1 FROM ({}) a JOIN (SELECT 1 AS s) b ON a.s = b.s", nested("s + s", 30, "")), false),
            (format!("SELECT 1 WHERE EXISTS ({})", nested("s + s", 30, "WHERE s = 1")), false),
            (nested("struct(s, s)", 5, ""), true),
            (nested("struct(s, s)", 14, ""), false),
        ];
        for (text, fits) in cases {
            let checked = runtime.block_on(runtime.spawn(checked(text.clone()))).unwrap();
            assert_eq!(checked.is_ok(), fits, "{text}: {checked:?}");
        }
    }
}
