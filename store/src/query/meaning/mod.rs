//! [`Meaning`]: what statements mean where types alone do not say it. Ids are bytes and people write
//! hex; times are nanoseconds and people write timestamps; attributes are text and people compare them
//! with numbers. Both sides of a comparison are brought to one type here, by their types and not by
//! their names, so that it holds in subqueries, joins and lists too.
//!
//! The column stays bare wherever the other side can change, for a bare column prunes. Binary operators
//! are seen while they are planned (their types are checked there), everything else by a rule before the
//! engine's own coercion, which would cast a hex text to its bytes and find nothing.

mod arrays;
mod compared;
mod id;
mod refused;
mod time;

use datafusion::{
    common::{
        DFSchema, Result,
        config::ConfigOptions,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Between, BinaryExpr, Case, Expr, Join, JoinConstraint, Like, LogicalPlan, LogicalPlanBuilder, Operator,
        ScalarUDF, Subquery,
        expr::{InList, InSubquery, ScalarFunction, SetComparison},
        expr_rewriter::NamePreserver,
        planner::{ExprPlanner, PlannerResult, RawBinaryExpr, RawFieldAccessExpr},
        utils::merge_schema,
    },
    optimizer::AnalyzerRule,
    sql::sqlparser::ast::BinaryOperator,
};

pub(super) use arrays::typed_parameters;
use compared::{Kinded, all_of_one_kind, of_one_kind};
pub(super) use refused::explained;
pub(crate) use time::nanos_of_text;

/// Functions that this needs, for people too.
pub(super) fn functions() -> Vec<ScalarUDF> {
    vec![id::function(), time::function()]
}

/// The rule.
#[derive(Debug)]
pub(super) struct Meaning;

impl ExprPlanner for Meaning {
    fn plan_binary_op(&self, expr: RawBinaryExpr, schema: &DFSchema) -> Result<PlannerResult<RawBinaryExpr>> {
        use BinaryOperator::{Eq, Gt, GtEq, Lt, LtEq, NotEq};
        let RawBinaryExpr { op, left, right } = expr;
        let (left, right) = match op {
            Eq | NotEq | Lt | LtEq | Gt | GtEq => compared_in(left, right, schema)?,
            _ => (left, right),
        };
        Ok(PlannerResult::Original(RawBinaryExpr { op, left, right }))
    }

    /// `map['key']` of any map, whatever its name.
    fn plan_field_access(
        &self,
        expr: RawFieldAccessExpr,
        schema: &DFSchema,
    ) -> Result<PlannerResult<RawFieldAccessExpr>> {
        Ok(match arrays::of_map(&expr, schema) {
            Some(value) => PlannerResult::Planned(value),
            None => PlannerResult::Original(expr),
        })
    }
}

impl AnalyzerRule for Meaning {
    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        plan.transform_up_with_subqueries(of_node).map(|changed| changed.data)
    }

    fn name(&self) -> &'static str {
        "meaning"
    }
}

/// Its inputs were seen before.
fn of_node(plan: LogicalPlan) -> Result<Transformed<LogicalPlan>> {
    refused::mixed_arms(&plan)?;
    let schema = merge_schema(&plan.inputs());
    let names = NamePreserver::new(&plan);
    let of_whole = |expr: Expr| {
        let name = names.save(&expr);
        let changed = expr.transform_up(|part| of_expr(part, &schema))?;
        Ok(if changed.transformed { changed.update_data(|expr| name.restore(expr)) } else { changed })
    };
    plan.map_expressions(of_whole)?.map_data(of_join)?.map_data(LogicalPlan::recompute_schema)
}

/// The pairs of an equal join stand apart, each side over its own input.
fn of_join(plan: LogicalPlan) -> Result<LogicalPlan> {
    let LogicalPlan::Join(mut join) = plan else { return Ok(plan) };
    let Join { left, right, .. } = &join;
    let (left, right) = (left.schema().clone(), right.schema().clone());
    let mut changed = false;
    for pair in &mut join.on {
        let (l, r) = (Kinded::of(pair.0.clone(), &left), Kinded::of(pair.1.clone(), &right));
        let of_one = of_one_kind(l, r)?;
        changed |= of_one != *pair;
        *pair = of_one;
    }
    if changed {
        // USING is of columns alone, and what it shows once is settled by now
        join.join_constraint = JoinConstraint::On;
    }
    Ok(LogicalPlan::Join(join))
}

/// Its parts were seen before.
fn of_expr(expr: Expr, schema: &DFSchema) -> Result<Transformed<Expr>> {
    let changed = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if compares(op) => {
            let (left, right) = compared_in(*left, *right, schema)?;
            Expr::BinaryExpr(BinaryExpr { left: left.into(), op, right: right.into() })
        }
        Expr::BinaryExpr(BinaryExpr { left, op, right }) if takes_text(op) => {
            let (left, right) = (id::shown(*left, schema), id::shown(*right, schema));
            Expr::BinaryExpr(BinaryExpr { left: left.into(), op, right: right.into() })
        }
        Expr::Between(Between { expr, negated, low, high }) => {
            let (expr, ends) = all_of_one_kind(*expr, vec![*low, *high], schema)?;
            let [low, high] = <[Expr; 2]>::try_from(ends).expect("as many as were given");
            Expr::Between(Between { expr: expr.into(), negated, low: low.into(), high: high.into() })
        }
        Expr::InList(list) => of_list(list, schema)?,
        Expr::InSubquery(InSubquery { expr, subquery, negated }) => {
            let (expr, subquery) = of_subquery(*expr, subquery, schema)?;
            Expr::InSubquery(InSubquery { expr: expr.into(), subquery, negated })
        }
        Expr::SetComparison(SetComparison { expr, subquery, op, quantifier }) => {
            let (expr, subquery) = of_subquery(*expr, subquery, schema)?;
            Expr::SetComparison(SetComparison { expr: expr.into(), subquery, op, quantifier })
        }
        Expr::Case(case) => of_case(case, schema)?,
        Expr::Like(like) => Expr::Like(of_like(like, schema)),
        Expr::SimilarTo(like) => Expr::SimilarTo(of_like(like, schema)),
        Expr::Cast(cast) => match id::cast(&cast.expr, cast.field.data_type(), schema) {
            Some(expr) => expr,
            None => return Ok(Transformed::no(Expr::Cast(cast))),
        },
        Expr::ScalarFunction(call) => match arrays::as_list(&call) {
            Some(list) => of_list(list, schema)?,
            None => of_call(call, schema)?,
        },
        other => return Ok(Transformed::no(other)),
    };
    Ok(Transformed::yes(changed))
}

fn compares(op: Operator) -> bool {
    use Operator::{Eq, Gt, GtEq, IsDistinctFrom, IsNotDistinctFrom, Lt, LtEq, NotEq};
    matches!(op, Eq | NotEq | Lt | LtEq | Gt | GtEq | IsDistinctFrom | IsNotDistinctFrom)
}

/// Operators whose sides are texts.
fn takes_text(op: Operator) -> bool {
    use Operator::{
        ILikeMatch, LikeMatch, NotILikeMatch, NotLikeMatch, RegexIMatch, RegexMatch, RegexNotIMatch, RegexNotMatch,
        StringConcat,
    };
    let of_patterns = matches!(op, LikeMatch | ILikeMatch | NotLikeMatch | NotILikeMatch);
    of_patterns || matches!(op, RegexMatch | RegexIMatch | RegexNotMatch | RegexNotIMatch | StringConcat)
}

fn compared_in(left: Expr, right: Expr, schema: &DFSchema) -> Result<(Expr, Expr)> {
    of_one_kind(Kinded::of(left, schema), Kinded::of(right, schema))
}

fn of_list(InList { expr, list, negated }: InList, schema: &DFSchema) -> Result<Expr> {
    let (expr, list) = all_of_one_kind(*expr, list, schema)?;
    Ok(Expr::InList(InList { expr: expr.into(), list, negated }))
}

fn of_like(like: Like, schema: &DFSchema) -> Like {
    Like { expr: id::shown(*like.expr, schema).into(), ..like }
}

fn of_case(mut case: Case, schema: &DFSchema) -> Result<Expr> {
    let results = case.when_then_expr.iter().map(|(_, then)| then.as_ref()).chain(case.else_expr.as_deref());
    refused::mixed("CASE", results, schema)?;
    if let Some(operand) = case.expr.take() {
        let (whens, thens): (Vec<_>, Vec<_>) = case.when_then_expr.into_iter().unzip();
        let whens = whens.into_iter().map(|when| *when).collect();
        let (operand, whens) = all_of_one_kind(*operand, whens, schema)?;
        case.expr = Some(operand.into());
        case.when_then_expr = whens.into_iter().map(Box::new).zip(thens).collect();
    }
    Ok(Expr::Case(case))
}

fn of_call(call: ScalarFunction, schema: &DFSchema) -> Result<Expr> {
    let mut call = arrays::of_any(call, schema);
    if refused::CHOOSES.contains(&call.name()) {
        refused::mixed(call.name(), &call.args, schema)?;
    }
    if id::TAKE_TEXT.contains(&call.name()) {
        call.args = call.args.into_iter().map(|arg| id::shown(arg, schema)).collect();
    }
    Ok(Expr::ScalarFunction(call))
}

/// The one column of a subquery beside what it is compared with.
fn of_subquery(expr: Expr, subquery: Subquery, schema: &DFSchema) -> Result<(Expr, Subquery)> {
    let inner = subquery.subquery.schema();
    if inner.fields().len() != 1 {
        return Ok((expr, subquery));
    }
    let column = Expr::Column(inner.columns().remove(0));
    let (expr, of_column) = of_one_kind(Kinded::of(expr, schema), Kinded::of(column.clone(), inner))?;
    if of_column == column {
        return Ok((expr, subquery));
    }
    let plan = LogicalPlanBuilder::new_from_arc(subquery.subquery).project([of_column])?.build()?;
    Ok((expr, Subquery { subquery: plan.into(), ..subquery }))
}
