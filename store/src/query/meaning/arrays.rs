//! Lists and maps: `x = ANY(array)` is `x IN (…)` wherever the array is known, for that prunes; a
//! parameter there is an array of what it is compared with; `map['key']` reads any map.

use std::sync::Arc;

use arrow::{
    array::{Array, ListArray},
    datatypes::{DataType, Field},
};
use datafusion::{
    common::{
        DFSchema, Result, ScalarValue,
        tree_node::{Transformed, TreeNode},
    },
    logical_expr::{
        Cast, Expr, ExprSchemable, GetFieldAccess, LogicalPlan,
        expr::{InList, Placeholder, ScalarFunction},
        lit,
        planner::RawFieldAccessExpr,
        utils::merge_schema,
    },
};

use super::{
    super::{functions::attr_of, text_views::plain_type},
    compared::Kind,
    id,
};

/// `x = ANY(array)` as the engine plans it.
const ANY: &str = "array_has";

/// A search in an array whose elements the statement names.
pub(super) fn as_list(call: &ScalarFunction) -> Option<InList> {
    let [array, sought] = call.args.as_slice() else { return None };
    let list = elements(array).filter(|_| call.name() == ANY)?;
    Some(InList { expr: sought.clone().into(), list, negated: false })
}

fn elements(array: &Expr) -> Option<Vec<Expr>> {
    match array {
        Expr::ScalarFunction(call) if call.name() == "make_array" => Some(call.args.clone()),
        Expr::Cast(Cast { expr, .. }) => elements(expr),
        Expr::Literal(ScalarValue::List(list), _) => of_literal(list),
        _ => None,
    }
}

fn of_literal(list: &ListArray) -> Option<Vec<Expr>> {
    let items = (list.len() == 1 && list.is_valid(0)).then(|| list.value(0))?;
    (0..items.len()).map(|place| ScalarValue::try_from_array(&items, place).ok().map(lit)).collect()
}

/// A search for an id in an array of texts that is not known yet is one for its digits.
pub(super) fn of_any(mut call: ScalarFunction, schema: &DFSchema) -> ScalarFunction {
    if let ([array, sought], true) = (call.args.as_mut_slice(), call.func.name() == ANY)
        && let Ok(DataType::List(element)) = array.get_type(schema)
        && Kind::of(element.data_type()) == Some(Kind::Text)
    {
        *sought = id::shown(sought.clone(), schema);
    }
    call
}

/// The plan with the types of parameters that stand for arrays.
pub(in crate::query) fn typed_parameters(plan: LogicalPlan) -> Result<LogicalPlan> {
    let of_node = |plan: LogicalPlan| {
        let schema = merge_schema(&plan.inputs());
        plan.map_expressions(|expr| expr.transform_up(|part| Ok(typed(part, &schema))))
    };
    plan.transform_up_with_subqueries(of_node).map(|changed| changed.data)
}

fn typed(expr: Expr, schema: &DFSchema) -> Transformed<Expr> {
    let Expr::ScalarFunction(mut call) = expr else { return Transformed::no(expr) };
    let of_any = call.name() == ANY;
    if let ([Expr::Placeholder(Placeholder { field: field @ None, .. }), sought], true) =
        (call.args.as_mut_slice(), of_any)
        && let Ok(element) = sought.get_type(schema)
    {
        *field = Some(Arc::new(Field::new_list("", Field::new_list_field(sent(&element), true), true)));
        return Transformed::yes(Expr::ScalarFunction(call));
    }
    Transformed::no(Expr::ScalarFunction(call))
}

/// The type in which a client sends what is compared with this one: ids are hex.
fn sent(data_type: &DataType) -> DataType {
    match Kind::of(data_type) {
        Some(Kind::Id | Kind::Text) => DataType::Utf8,
        _ => plain_type(data_type),
    }
}

/// What a map has under a key.
pub(super) fn of_map(access: &RawFieldAccessExpr, schema: &DFSchema) -> Option<Expr> {
    let GetFieldAccess::NamedStructField { name } = &access.field_access else { return None };
    let is_map = matches!(access.expr.get_type(schema), Ok(DataType::Map(..)));
    is_map.then(|| attr_of(access.expr.clone(), lit(name.clone())))
}
