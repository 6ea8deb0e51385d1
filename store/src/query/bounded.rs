//! What keeps one operator from using a thread or the memory for itself, where the engine's own pool
//! and deadline cannot: functions whose result is much larger than what they are given, and
//! operators that make many rows of one.

use std::sync::Arc;

use arrow::{
    array::{Array, AsArray},
    compute::{cast, max},
    datatypes::{DataType, Int64Type},
};
use datafusion::{
    common::{
        Result,
        config::ConfigOptions,
        resources_datafusion_err,
        tree_node::{Transformed, TreeNode},
    },
    execution::{FunctionRegistry, session_state::SessionState},
    logical_expr::{ColumnarValue, ScalarFunctionArgs, ScalarUDF, ScalarUDFImpl, Signature},
    physical_optimizer::PhysicalOptimizerRule,
    physical_plan::{ChildrenPropertiesMode, ExecutionPlan, ReplaceChildrenOptions, coop::CooperativeExec},
};

use super::small_steps::SmallSteps;

/// Bytes that one call over one batch may make.
const MAX_RESULT_BYTES: usize = 64 << 20;

/// Functions that make arrays of any length from a number; `generate_series` in FROM makes the same
/// rows one batch at a time.
const REMOVED: [&str; 6] = ["array_repeat", "list_repeat", "array_resize", "list_resize", "range", "generate_series"];

/// Functions whose result grows, and how: bytes of a row from the longest text of each argument and
/// the largest number.
const GROWING: [(&str, Growth); 5] = [
    ("repeat", |longest, number| longest[0].saturating_mul(number)),
    ("lpad", |_, number| number.saturating_mul(4)),
    ("rpad", |_, number| number.saturating_mul(4)),
    ("replace", |longest, _| longest[0].saturating_add(1).saturating_mul(longest[2].max(1))),
    ("regexp_replace", |longest, _| longest[0].saturating_add(1).saturating_mul(longest[2].max(1))),
];

type Growth = fn(longest: &[usize; 4], number: usize) -> usize;

/// Takes out or bounds what could not be stopped.
pub(super) fn bound_functions(state: &mut SessionState) -> Result<()> {
    for name in REMOVED {
        state.deregister_udf(name)?;
    }
    for (name, growth) in GROWING {
        let inner = state.udf(name)?;
        state.register_udf(Arc::new(ScalarUDF::new_from_impl(Bounded { inner, name, growth })))?;
    }
    Ok(())
}

/// A function that refuses to make more than [`MAX_RESULT_BYTES`] at once.
#[derive(Debug)]
struct Bounded {
    inner: Arc<ScalarUDF>,
    name: &'static str,
    growth: Growth,
}

impl PartialEq for Bounded {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name
    }
}

impl Eq for Bounded {}

impl std::hash::Hash for Bounded {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        self.name.hash(state);
    }
}

impl ScalarUDFImpl for Bounded {
    fn name(&self) -> &str {
        self.name
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

    fn coerce_types(&self, arguments: &[DataType]) -> Result<Vec<DataType>> {
        self.inner.coerce_types(arguments)
    }

    fn invoke_with_args(&self, args: ScalarFunctionArgs) -> Result<ColumnarValue> {
        let (longest, number) = sizes(&args.args)?;
        let rows =
            if args.args.iter().any(|arg| matches!(arg, ColumnarValue::Array(_))) { args.number_rows } else { 1 };
        let bytes = (self.growth)(&longest, number).saturating_mul(rows);
        if bytes > MAX_RESULT_BYTES {
            let name = self.name;
            return Err(resources_datafusion_err!(
                "{name} could make {bytes} bytes of {rows} row(s), the limit is {MAX_RESULT_BYTES}"
            ));
        }
        self.inner.invoke_with_args(args)
    }
}

/// The longest text of each of the first arguments, and the largest number among all.
fn sizes(arguments: &[ColumnarValue]) -> Result<([usize; 4], usize)> {
    let (mut longest, mut number) = ([0; 4], 0);
    for (place, argument) in arguments.iter().enumerate() {
        let array = argument.to_array(1)?;
        if array.data_type().is_integer() {
            let numbers = cast(&array, &DataType::Int64)?;
            let largest = max(numbers.as_primitive::<Int64Type>()).unwrap_or(0);
            number = number.max(usize::try_from(largest).unwrap_or(0));
        } else if let (Some(slot), true) = (longest.get_mut(place), array.data_type().is_string()) {
            let texts = cast(&array, &DataType::LargeUtf8)?;
            let texts = texts.as_string::<i64>();
            *slot = texts.offsets().windows(2).map(|ends| ends[1] - ends[0]).max().unwrap_or(0) as usize;
        }
    }
    Ok((longest, number))
}

fn with_small_steps(join: Arc<dyn ExecutionPlan>) -> Result<Arc<dyn ExecutionPlan>> {
    let mut children: Vec<Arc<dyn ExecutionPlan>> = join.children().into_iter().cloned().collect();
    if let Some(probe) = children.pop() {
        children.push(Arc::new(SmallSteps { input: probe }));
    }
    join.replace_children(children, ReplaceChildrenOptions::new(ChildrenPropertiesMode::Recompute))
}

/// Makes operators that turn one row into many give way to others after each batch: a deadline and a
/// cancellation are noticed only between two turns.
#[derive(Debug)]
pub(super) struct GiveWay;

impl PhysicalOptimizerRule for GiveWay {
    fn optimize(&self, plan: Arc<dyn ExecutionPlan>, _: &ConfigOptions) -> Result<Arc<dyn ExecutionPlan>> {
        let wrap = |plan: Arc<dyn ExecutionPlan>| {
            let plan = if plan.name() == "NestedLoopJoinExec" { with_small_steps(plan)? } else { plan };
            let multiplies = plan.name().contains("Join") || matches!(plan.name(), "UnnestExec" | "RecursiveQueryExec");
            Ok(if multiplies {
                Transformed::yes(Arc::new(CooperativeExec::new(plan)) as Arc<dyn ExecutionPlan>)
            } else {
                Transformed::no(plan)
            })
        };
        plan.transform_up(wrap).map(|wrapped| wrapped.data)
    }

    fn name(&self) -> &'static str {
        "give_way"
    }

    fn schema_check(&self) -> bool {
        true
    }
}
