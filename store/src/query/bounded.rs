//! What keeps one call of a function from using all memory, where the engine's own pool cannot: each
//! function whose result is larger than what it is given states how much, and refuses to make more
//! than [`MAX_RESULT_BYTES`] of a batch. Ten calls that double are a thousandfold, so what only adds up
//! (`||` among it) is bounded like what multiplies.

use std::{collections::HashMap, sync::Arc};

use arrow::{
    array::{Array, ArrayRef},
    compute::{concat, kernels::concat_elements::concat_elements_dyn},
    datatypes::FieldRef,
};
use datafusion::{
    arrow::datatypes::{DataType, Field},
    common::{
        Result, ScalarValue,
        config::ConfigOptions,
        exec_err, plan_err, resources_datafusion_err,
        tree_node::{Transformed, TreeNode, TreeNodeRecursion},
    },
    execution::{FunctionRegistry, session_state::SessionState},
    logical_expr::{
        BinaryExpr, ColumnarValue, Documentation, Expr, Like, LogicalPlan, Operator, ReturnFieldArgs,
        ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature, Volatility, expr::ScalarFunction,
        expr_rewriter::NamePreserver, lit,
    },
    optimizer::AnalyzerRule,
};

use super::{
    arguments::Arguments,
    costs::{CONCAT, COSTS, Cost, MATCHES, USUAL_PLACES},
    pattern::places,
    watch::{self, Watch},
};

/// Bytes that one call over one batch may make.
pub(super) const MAX_RESULT_BYTES: usize = 64 << 20;

/// Bytes that all calls of a statement may make of one batch each: what is made of what was made lives
/// as long.
const MAX_BYTES_OF_ALL: usize = 512 << 20;

/// Functions that make arrays of any length from a number; `generate_series` in FROM makes the same
/// rows one batch at a time.
const REMOVED: [&str; 6] = ["array_repeat", "list_repeat", "array_resize", "list_resize", "range", "generate_series"];

/// Steps between two looks at the watch: well below a second.
const STEPS: usize = 10_000_000;

/// Steps that a single row may take: nothing looks at the watch meanwhile.
const MAX_STEPS: usize = 20 * STEPS;

/// Takes out or bounds what could not be stopped.
pub(super) fn bound_functions(state: &mut SessionState) -> Result<()> {
    for name in REMOVED {
        state.deregister_udf(name)?;
    }
    let mut bounded = HashMap::new();
    for cost in COSTS {
        let concat = cost.name == CONCAT;
        let inner =
            if concat { Arc::new(ScalarUDF::new_from_impl(TextConcat::new())) } else { state.udf(cost.name)? };
        let function = Bounded { inner, cost, most_bytes: MAX_RESULT_BYTES, watch: None };
        // a usual pattern is not bounded, and what the optimizer makes of it prunes
        if !concat && cost.name != MATCHES {
            state.register_udf(Arc::new(ScalarUDF::new_from_impl(function.clone())))?;
        }
        bounded.insert(cost.name, function);
    }
    state.add_analyzer_rule(Arc::new(Bind { bounded }));
    Ok(())
}

/// A function that refuses to make more than its share of bytes at once, and to take long without a look
/// at the watch.
#[derive(Clone, Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    cost: Cost,
    most_bytes: usize,
    /// Of the statement that it was put into: parts of it run in tasks that know none.
    watch: Option<Watch>,
}

impl Bounded {
    fn look(&self) -> Result<()> {
        self.watch.as_ref().map_or_else(watch::look, Watch::look)
    }

    fn refuse<T>(&self, could: &str, rows: usize, limit: usize) -> Result<T> {
        let name = if self.name() == CONCAT { "||" } else { self.name() };
        Err(resources_datafusion_err!("{name} could {could} of {rows} row(s), the limit is {limit}"))
    }

    /// So many rows at a time.
    fn in_turns(&self, args: &ScalarFunctionArgs, at_once: usize) -> Result<ColumnarValue> {
        let rows = args.number_rows;
        let mut made = Vec::new();
        for from in (0..rows).step_by(at_once) {
            self.look()?;
            let rows = at_once.min(rows - from);
            let of_turn = |value: &ColumnarValue| match value {
                ColumnarValue::Array(array) => ColumnarValue::Array(array.slice(from, rows)),
                constant => constant.clone(),
            };
            let turn = ScalarFunctionArgs {
                args: args.args.iter().map(of_turn).collect(),
                arg_fields: args.arg_fields.clone(),
                number_rows: rows,
                return_field: args.return_field.clone(),
                config_options: args.config_options.clone(),
            };
            made.push(self.inner.invoke_with_args(turn)?.to_array(rows)?);
        }
        let made: Vec<&dyn Array> = made.iter().map(AsRef::as_ref).collect();
        Ok(ColumnarValue::Array(concat(&made)?))
    }
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.inner == other.inner
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.inner.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.inner.name()
    }

    fn aliases(&self) -> &[String] {
        self.inner.aliases()
    }

    fn signature(&self) -> &Signature {
        self.inner.signature()
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        self.inner.return_type(arguments)
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        self.inner.return_field_from_args(arguments)
    }

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn documentation(&self) -> Option<&Documentation> {
        self.inner.documentation()
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        // what is evaluated ahead takes long, too
        self.look()?;
        let given = Arguments::of(&args.args, args.number_rows)?;
        let (bytes, steps) = ((self.cost.bytes)(&given), (self.cost.steps)(&given));
        if bytes > self.most_bytes {
            return self.refuse(&format!("make {bytes} bytes"), given.rows, self.most_bytes);
        }
        let steps_of_row = steps / given.rows.max(1);
        if steps_of_row > MAX_STEPS {
            return self.refuse(&format!("take {steps_of_row} steps for each"), given.rows, MAX_STEPS);
        }
        match steps > STEPS && given.rows > 1 {
            true => self.in_turns(&args, (STEPS / steps_of_row.max(1)).max(1)),
            false => self.inner.invoke_with_args(args),
        }
    }
}

/// `a || b` of texts or bytes as a function; null if either is.
#[derive(Debug, PartialEq, Eq, Hash)]
struct TextConcat {
    signature: Signature,
}

impl TextConcat {
    fn new() -> Self {
        Self { signature: Signature::any(2, Volatility::Immutable) }
    }
}

impl ScalarUDFImpl for TextConcat {
    fn name(&self) -> &str {
        CONCAT
    }

    fn signature(&self) -> &Signature {
        &self.signature
    }

    fn return_type(&self, arguments: &[DataType]) -> Result<DataType> {
        match arguments {
            [DataType::FixedSizeBinary(a), DataType::FixedSizeBinary(b)] => match a.checked_add(*b) {
                Some(width) => Ok(DataType::FixedSizeBinary(width)),
                None => plan_err!("|| makes more bytes of a row than there can be"),
            },
            [left, _] => Ok(left.clone()),
            _ => plan_err!("|| has two sides"),
        }
    }

    fn return_field_from_args(&self, arguments: ReturnFieldArgs<'_>) -> Result<FieldRef> {
        let fields = arguments.arg_fields;
        let types: Vec<_> = fields.iter().map(|field| field.data_type().clone()).collect();
        let nullable = fields.iter().any(|field| field.is_nullable());
        Ok(Arc::new(Field::new(self.name(), self.return_type(&types)?, nullable)))
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let [left, right] = args.args.as_slice() else { return exec_err!("|| has two sides") };
        let scalars = matches!((left, right), (ColumnarValue::Scalar(_), ColumnarValue::Scalar(_)));
        let rows = if scalars { 1 } else { args.number_rows };
        let joined: ArrayRef = concat_elements_dyn(&left.to_array(rows)?, &right.to_array(rows)?)?;
        if scalars {
            return Ok(ColumnarValue::Scalar(ScalarValue::try_from_array(&joined, 0)?));
        }
        Ok(ColumnarValue::Array(joined))
    }
}

/// Puts the bounded functions where a plan has others: the planner makes calls for operators and
/// literals of arrays by itself, and `||` of texts is none.
#[derive(Debug)]
struct Bind {
    bounded: HashMap<&'static str, Bounded>,
}

impl AnalyzerRule for Bind {
    fn name(&self) -> &str {
        "bind_bounded"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let calls = self.calls(&plan)?;
        let most_bytes = MAX_RESULT_BYTES.min(MAX_BYTES_OF_ALL / calls.max(1));
        let bound = |function: &Bounded| {
            let function = Bounded { most_bytes, watch: Watch::current(), ..function.clone() };
            Arc::new(ScalarUDF::new_from_impl(function))
        };
        let bound: HashMap<_, _> = self.bounded.iter().map(|(name, function)| (*name, bound(function))).collect();
        let of_node = |node: LogicalPlan| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let bound = expr.transform_up(|part| Ok(with_bounds(part, &bound)))?;
                Ok(bound.update_data(|expr| name.restore(expr)))
            })
        };
        plan.transform_up_with_subqueries(of_node).map(|bound| bound.data)
    }
}

impl Bind {
    /// Calls of bounded functions.
    fn calls(&self, plan: &LogicalPlan) -> Result<usize> {
        let mut calls = 0;
        plan.apply_with_subqueries(|node| {
            node.apply_expressions(|expr| {
                expr.apply(|part| {
                    calls += usize::from(name_of(part).is_some_and(|name| self.bounded.contains_key(name)));
                    Ok(TreeNodeRecursion::Continue)
                })
            })
        })?;
        Ok(calls)
    }
}

/// The bounded function that says what an expression does.
fn name_of(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::BinaryExpr(BinaryExpr { op: Operator::StringConcat, .. }) => Some(CONCAT),
        Expr::BinaryExpr(BinaryExpr { op, right, .. }) if matching(*op).is_some() => {
            (!is_usual_pattern(right)).then_some(MATCHES)
        }
        Expr::SimilarTo(similar) => (!is_usual_pattern(&similar.pattern)).then_some(MATCHES),
        Expr::ScalarFunction(ScalarFunction { func, args }) if func.name() == MATCHES => {
            (!args.get(1).is_some_and(is_usual_pattern)).then_some(MATCHES)
        }
        Expr::ScalarFunction(ScalarFunction { func, .. }) => Some(func.name()),
        _ => None,
    }
}

/// Whether an operator matches patterns: whether letters of both cases are the same, and whether the
/// answer is turned round.
fn matching(op: Operator) -> Option<(bool, bool)> {
    match op {
        Operator::RegexMatch => Some((false, false)),
        Operator::RegexIMatch => Some((true, false)),
        Operator::RegexNotMatch => Some((false, true)),
        Operator::RegexNotIMatch => Some((true, true)),
        _ => None,
    }
}

/// A pattern that costs little.
fn is_usual_pattern(pattern: &Expr) -> bool {
    let Expr::Literal(pattern, _) = pattern else { return false };
    pattern.try_as_str().flatten().is_none_or(|pattern| places(pattern) <= USUAL_PLACES)
}

/// Sides have one type by now.
fn with_bounds(expr: Expr, bound: &HashMap<&'static str, Arc<ScalarUDF>>) -> Transformed<Expr> {
    let Some(func) = name_of(&expr).and_then(|name| bound.get(name)).cloned() else { return Transformed::no(expr) };
    let (mut args, how) = match expr {
        Expr::BinaryExpr(BinaryExpr { left, op, right }) => (vec![*left, *right], matching(op)),
        Expr::SimilarTo(Like { negated, expr, pattern, case_insensitive, .. }) => {
            (vec![*expr, *pattern], Some((case_insensitive, negated)))
        }
        Expr::ScalarFunction(ScalarFunction { args, .. }) => (args, None),
        other => return Transformed::no(other),
    };
    let (both_cases, turned) = how.unwrap_or_default();
    args.extend(both_cases.then(|| lit("i")));
    let call = Expr::ScalarFunction(ScalarFunction { func, args });
    Transformed::yes(if turned { Expr::Not(Box::new(call)) } else { call })
}
