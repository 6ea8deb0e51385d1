//! What keeps one call of a function from using all memory, where the engine's own pool cannot: each
//! function whose result is larger than what it is given states how much, and refuses to make more
//! than [`MAX_RESULT_BYTES`] of a batch. Ten calls that double are a thousandfold, so what only adds up
//! (`||` among it) is bounded like what multiplies.

use std::{collections::HashMap, sync::Arc};

use arrow::{array::ArrayRef, compute::kernels::concat_elements::concat_elements_dyn, datatypes::FieldRef};
use datafusion::{
    arrow::datatypes::{DataType, Field},
    common::{
        Result, ScalarValue,
        config::ConfigOptions,
        exec_err, plan_err, resources_datafusion_err,
        tree_node::{Transformed, TreeNode},
    },
    execution::{FunctionRegistry, session_state::SessionState},
    logical_expr::{
        BinaryExpr, ColumnarValue, Documentation, Expr, LogicalPlan, Operator, ReturnFieldArgs, ScalarFunctionArgs,
        ScalarUDF, ScalarUDFImpl, Signature, Volatility, expr::ScalarFunction, expr_rewriter::NamePreserver,
    },
    optimizer::AnalyzerRule,
};

use super::{given::Given, watch};

/// Bytes that one call over one batch may make.
const MAX_RESULT_BYTES: usize = 64 << 20;

/// Functions that make arrays of any length from a number; `generate_series` in FROM makes the same
/// rows one batch at a time.
const REMOVED: [&str; 6] = ["array_repeat", "list_repeat", "array_resize", "list_resize", "range", "generate_series"];

/// Bytes that a number takes as text, beside those it is given.
const NUMBER_TEXT: usize = 40;

/// Functions whose result grows, and to how many bytes of a batch.
const GROWING: [(&str, Growth); 24] = [
    (CONCAT, |given| given.bytes),
    ("concat", |given| given.bytes),
    ("concat_ws", |given| given.bytes.saturating_add(given.of[0].bytes.saturating_mul(given.count))),
    ("overlay", |given| given.bytes),
    ("encode", |given| given.bytes.saturating_mul(2)),
    ("translate", |given| given.bytes.saturating_mul(4)),
    ("repeat", |given| given.rows.saturating_mul(given.of[0].longest).saturating_mul(given.number)),
    ("lpad", |given| given.rows.saturating_mul(given.number).saturating_mul(4)),
    ("rpad", |given| given.rows.saturating_mul(given.number).saturating_mul(4)),
    ("replace", replaced),
    ("regexp_replace", replaced),
    ("regexp_match", |given| given.of[0].bytes.saturating_mul(given.groups + 1)),
    ("string_to_array", |given| given.bytes.saturating_mul(17)),
    ("array_to_string", |given| {
        let of_item = NUMBER_TEXT.saturating_add(given.of[1].longest).saturating_add(given.of[2].longest);
        given.bytes.saturating_add((given.of[0].bytes / 4).saturating_mul(of_item))
    }),
    ("make_array", |given| given.bytes),
    ("map", |given| given.bytes),
    ("array_append", |given| given.bytes),
    ("array_prepend", |given| given.bytes),
    ("array_concat", |given| given.bytes),
    ("array_union", |given| given.bytes),
    // the shorter are filled up to the longest
    ("arrays_zip", |given| given.bytes.saturating_mul(given.count)),
    ("array_replace", |given| given.bytes),
    ("array_replace_n", items_replaced),
    ("array_replace_all", items_replaced),
];

/// The function behind `||` of texts.
const CONCAT: &str = "textcat";

type Growth = fn(&Given) -> usize;

/// Each byte, and the place behind the last, may become the new text.
fn replaced(given: &Given) -> usize {
    given.of[0].bytes.saturating_add(given.rows).saturating_mul(given.of[2].longest.max(1))
}

/// An item takes four bytes at least, those of truths aside, which are replaced by truths.
fn items_replaced(given: &Given) -> usize {
    given.bytes.saturating_add((given.of[0].bytes / 4).saturating_mul(given.of[2].longest))
}

/// Takes out or bounds what could not be stopped.
pub(super) fn bound_functions(state: &mut SessionState) -> Result<()> {
    for name in REMOVED {
        state.deregister_udf(name)?;
    }
    let mut bounded = HashMap::new();
    for (name, growth) in GROWING {
        let inner =
            if name == CONCAT { Arc::new(ScalarUDF::new_from_impl(TextConcat::new())) } else { state.udf(name)? };
        let function = Arc::new(ScalarUDF::new_from_impl(Bounded { inner, growth }));
        if name != CONCAT {
            state.register_udf(function.clone())?;
        }
        bounded.insert(name, function);
    }
    state.add_analyzer_rule(Arc::new(Bind { bounded }));
    Ok(())
}

/// A function that refuses to make more than [`MAX_RESULT_BYTES`] at once.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    growth: Growth,
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
        watch::look()?;
        let given = Given::of(&args.args, args.number_rows)?;
        let bytes = (self.growth)(&given);
        if bytes > MAX_RESULT_BYTES {
            let (name, rows) = (if self.name() == CONCAT { "||" } else { self.name() }, given.rows);
            return Err(resources_datafusion_err!(
                "{name} could make {bytes} bytes of {rows} row(s), the limit is {MAX_RESULT_BYTES}"
            ));
        }
        self.inner.invoke_with_args(args)
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
    bounded: HashMap<&'static str, Arc<ScalarUDF>>,
}

impl AnalyzerRule for Bind {
    fn name(&self) -> &str {
        "bind_bounded"
    }

    fn analyze(&self, plan: LogicalPlan, _: &ConfigOptions) -> Result<LogicalPlan> {
        let of_node = |node: LogicalPlan| {
            let names = NamePreserver::new(&node);
            node.map_expressions(|expr| {
                let name = names.save(&expr);
                let bound = expr.transform_up(|part| Ok(self.of_expr(part)))?;
                Ok(bound.update_data(|expr| name.restore(expr)))
            })
        };
        plan.transform_up_with_subqueries(of_node).map(|bound| bound.data)
    }
}

impl Bind {
    /// Sides have one type by now.
    fn of_expr(&self, expr: Expr) -> Transformed<Expr> {
        let (name, args) = match expr {
            Expr::BinaryExpr(BinaryExpr { left, op: Operator::StringConcat, right }) => (CONCAT, vec![*left, *right]),
            Expr::ScalarFunction(ScalarFunction { func, args }) => match self.bounded.get_key_value(func.name()) {
                Some((name, _)) => (*name, args),
                None => return Transformed::no(Expr::ScalarFunction(ScalarFunction { func, args })),
            },
            other => return Transformed::no(other),
        };
        Transformed::yes(Expr::ScalarFunction(ScalarFunction { func: self.bounded[name].clone(), args }))
    }
}
