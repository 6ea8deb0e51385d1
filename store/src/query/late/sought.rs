//! [`Sought`]: what a filter asks for, if it is of the kind that pages can be searched for.

use std::sync::Arc;

use datafusion::{
    common::ScalarValue,
    logical_expr::Operator,
    physical_expr::{
        PhysicalExpr, ScalarFunctionExpr,
        expressions::{BinaryExpr, Column, InListExpr, Literal},
    },
};

/// Values, one of which a row must have.
#[derive(Debug, PartialEq)]
pub(super) struct Sought {
    pub(super) of: Of,
    pub(super) any_of: Vec<Vec<u8>>,
}

/// Where a row has to have the value.
#[derive(Debug, PartialEq)]
pub(super) enum Of {
    /// In a column of text or ids.
    Column(String),
    /// In a column of maps, behind a key.
    Entry { map: String, key: Vec<u8> },
}

impl Sought {
    /// What `column = value` or `attr(map, key) = value` asks for, or one of several values.
    pub(super) fn by(filter: &Arc<dyn PhysicalExpr>) -> Option<Self> {
        if let Some(comparison) = filter.downcast_ref::<BinaryExpr>().filter(|it| *it.op() == Operator::Eq) {
            let (left, right) = (comparison.left(), comparison.right());
            let (of, value) = asked(left).map(|it| (it, right)).or_else(|| asked(right).map(|it| (it, left)))?;
            return Some(Self { of, any_of: vec![bytes(value)?] });
        }
        let list = filter.downcast_ref::<InListExpr>().filter(|list| !list.negated())?;
        let any_of = list.list().iter().map(bytes).collect::<Option<_>>()?;
        Some(Self { of: asked(list.expr())?, any_of })
    }
}

/// The column, or the map and the key it is asked for.
fn asked(expr: &Arc<dyn PhysicalExpr>) -> Option<Of> {
    if let Some(column) = expr.downcast_ref::<Column>() {
        return Some(Of::Column(column.name().to_owned()));
    }
    let call = expr.downcast_ref::<ScalarFunctionExpr>().filter(|call| call.name() == "attr")?;
    let [map, key] = call.args() else { return None };
    Some(Of::Entry { map: map.downcast_ref::<Column>()?.name().to_owned(), key: bytes(key)? })
}

/// A text or an id as Parquet stores it. Numbers are compared by others.
fn bytes(expr: &Arc<dyn PhysicalExpr>) -> Option<Vec<u8>> {
    let value = expr.downcast_ref::<Literal>()?.value();
    match value {
        ScalarValue::Binary(bytes) | ScalarValue::LargeBinary(bytes) | ScalarValue::BinaryView(bytes) => bytes.clone(),
        _ => Some(value.try_as_str()??.as_bytes().to_vec()),
    }
}
