//! `attributes['k']` (or `attributes ->> 'k'`, as clients of PostgreSQL write) as the column it lives in, which prunes. What ids and times are compared with is
//! for [`super::meaning`], which knows types.
//!
//! A value that does not fit the type of its column stays in the map. Where the view says that no map
//! holds such a value, `attributes['http.route']` is the column alone and the map is not decoded.

use std::{ops::ControlFlow, sync::LazyLock};

use arrow::datatypes::DataType as ArrowType;
use datafusion::sql::sqlparser::ast::{
    AccessExpr, BinaryOperator, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, Statement, Subscript, Value, visit_expressions_mut, visit_relations,
};
use weir_schema::{
    Table,
    columns::{self, Column},
};

/// Where the values of attributes that have a column of their own are.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Hot {
    /// All in their columns.
    Columns,
    /// Some, that did not fit, in a map.
    MapsToo,
    /// There is no such column.
    InMapsOnly,
}

/// Rewrites a statement in place.
pub(super) fn rewrite(statement: &mut Statement, hot: Hot) {
    // other tables have no such columns: all their attributes are in the map
    let hot = if reads(statement, Table::Spans) { hot } else { Hot::InMapsOnly };
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        rewrite_expr(expr, hot);
        ControlFlow::Continue(())
    });
}

fn reads(statement: &Statement, table: Table) -> bool {
    let visited = visit_relations(statement, |relation| {
        let last = relation.0.last().and_then(|part| part.as_ident());
        match last.is_some_and(|name| name.value.eq_ignore_ascii_case(table.name())) {
            true => ControlFlow::Break(()),
            false => ControlFlow::Continue(()),
        }
    });
    visited.is_break()
}

/// Children come first, so a comparison sees its sides rewritten.
fn rewrite_expr(expr: &mut Expr, hot: Hot) {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } => {
            as_numbers(left, std::slice::from_mut(right.as_mut()));
            as_numbers(right, std::slice::from_mut(left.as_mut()));
        }
        Expr::InList { expr, list, .. } => as_numbers(expr, list),
        Expr::BinaryOp { left, op: BinaryOperator::Arrow | BinaryOperator::LongArrow, right } => {
            if let Some(rewritten) = text_of(right).and_then(|key| attribute(left, &[], key, hot)) {
                *expr = rewritten;
            }
        }
        Expr::CompoundFieldAccess { root, access_chain } => {
            let subscript = |access: &[AccessExpr]| match access {
                [access @ .., AccessExpr::Subscript(Subscript::Index { index })] => {
                    attribute(root, access, text_of(index)?, hot)
                }
                _ => None,
            };
            if let Some(rewritten) = subscript(access_chain) {
                *expr = rewritten;
            }
        }
        _ => {}
    }
}

/// The name of a column as SQL has it: without quotes, capitals are small letters.
fn folded(name: &Ident) -> String {
    match name.quote_style {
        Some(_) => name.value.clone(),
        None => name.value.to_lowercase(),
    }
}

fn column_name(expr: &Expr) -> Option<String> {
    match expr {
        Expr::Identifier(name) => Some(folded(name)),
        Expr::CompoundIdentifier(parts) => parts.last().map(folded),
        _ => None,
    }
}

/// A number's column as text, compared with texts that are the numbers' only spelling, is compared
/// as a number: that prunes.
fn as_numbers(of: &mut Expr, literals: &mut [Expr]) {
    let Expr::Cast { expr: column, data_type: DataType::Varchar(None), .. } = &*of else { return };
    let whole =
        column_name(column).and_then(|name| spans_column(&name)).is_some_and(|column| column.data_type.is_integer());
    let numbers: Option<Vec<Expr>> = literals.iter().map(canonical_number).collect();
    let (true, Some(numbers)) = (whole, numbers) else { return };
    *of = Expr::clone(column);
    literals.iter_mut().zip(numbers).for_each(|(literal, number)| *literal = number);
}

fn canonical_number(literal: &Expr) -> Option<Expr> {
    let text = text_of(literal)?;
    let number = text.parse::<i64>().ok().filter(|number| number.to_string() == *text)?;
    Some(Expr::Value(Value::Number(number.to_string(), false).into()))
}

fn text_of(literal: &Expr) -> Option<&str> {
    match literal {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) => Some(text),
            _ => None,
        },
        _ => None,
    }
}

/// `attributes['k']`, `attributes ->> 'k'`: the column filled from `k`, else (or where the value did not fit it) the map.
fn attribute(root: &Expr, access: &[AccessExpr], key: &str, hot: Hot) -> Option<Expr> {
    let mut path = match root {
        Expr::Identifier(name) => vec![name.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return None,
    };
    for part in access {
        let AccessExpr::Dot(Expr::Identifier(name)) = part else { return None };
        path.push(name.clone());
    }
    let map = folded(path.last()?);
    if map != "attributes" && map != "resource_attributes" {
        return None;
    }
    let from_map = call("attr", vec![column(path.clone()), text(key)]);
    let of_spans = (map == "attributes").then(|| hot_column(key)).flatten();
    let Some(column_of_key) = of_spans else { return Some(from_map) };
    *path.last_mut()? = Ident::new(column_of_key.name);
    let from_column = match column_of_key.data_type {
        ArrowType::Utf8 => column(path),
        _ => as_text(column(path)),
    };
    Some(match hot {
        Hot::Columns => from_column,
        Hot::MapsToo => call("coalesce", vec![from_column, from_map]),
        Hot::InMapsOnly => from_map,
    })
}

fn as_text(expr: Expr) -> Expr {
    Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(expr),
        data_type: DataType::Varchar(None),
        array: false,
        format: None,
    }
}

/// A name of one part is not a compound one to the planner.
fn column(mut path: Vec<Ident>) -> Expr {
    match path.len() {
        1 => Expr::Identifier(path.remove(0)),
        _ => Expr::CompoundIdentifier(path),
    }
}

fn hot_column(key: &str) -> Option<&'static Column> {
    SPANS.iter().find(|column| column.attribute == Some(key))
}

fn spans_column(name: &str) -> Option<&'static Column> {
    SPANS.iter().find(|column| column.name == name)
}

static SPANS: LazyLock<Vec<Column>> = LazyLock::new(|| columns::columns(Table::Spans));

fn text(value: &str) -> Expr {
    Expr::Value(Value::SingleQuotedString(value.to_owned()).into())
}

fn call(name: &str, arguments: Vec<Expr>) -> Expr {
    let args = arguments.into_iter().map(|a| FunctionArg::Unnamed(FunctionArgExpr::Expr(a))).collect();
    Expr::Function(Function {
        name: ObjectName::from(vec![Ident::new(name)]),
        uses_odbc_syntax: false,
        parameters: FunctionArguments::None,
        args: FunctionArguments::List(FunctionArgumentList { duplicate_treatment: None, args, clauses: Vec::new() }),
        filter: None,
        null_treatment: None,
        over: None,
        within_group: Vec::new(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SqlConfig, error::SqlError, query::guard};

    fn rewritten_with(text: &str, hot: Hot) -> Result<String, SqlError> {
        let mut statement = guard::parse(text, &SqlConfig::default())?;
        rewrite(&mut statement, hot);
        Ok(statement.to_string())
    }

    fn rewritten(text: &str) -> Result<String, SqlError> {
        rewritten_with(text, Hot::MapsToo)
    }

    #[test]
    fn a_hot_attribute_is_its_column_alone_where_no_map_has_it() {
        let cases = [
            ("attributes['http.route'] = '/a'", "http_route = '/a'"),
            ("s.attributes['http.route'] = '/a'", "s.http_route = '/a'"),
            ("attributes['http.response.status_code'] = '500'", "http_response_status_code = 500"),
            ("'500' <> attributes['http.response.status_code']", "500 <> http_response_status_code"),
            ("attributes['http.response.status_code'] IN ('200', '404')", "http_response_status_code IN (200, 404)"),
            ("attributes['http.response.status_code'] = '0500'", "CAST(http_response_status_code AS VARCHAR) = '0500'"),
            (
                "attributes['http.response.status_code'] IN ('200', 'x')",
                "CAST(http_response_status_code AS VARCHAR) IN ('200', 'x')",
            ),
            ("attributes['http.response.status_code'] < '6'", "CAST(http_response_status_code AS VARCHAR) < '6'"),
            ("attributes['x'] = '1'", "attr(attributes, 'x') = '1'"),
            ("resource_attributes['http.route'] = '1'", "attr(resource_attributes, 'http.route') = '1'"),
        ];
        for (filter, expect) in cases {
            let text = |filter: &str| format!("SELECT 1 FROM spans s WHERE {filter}");
            assert_eq!(rewritten_with(&text(filter), Hot::Columns).unwrap(), text(expect));
        }
    }

    #[test]
    fn attributes_become_what_prunes() {
        let cases = [
            ("SELECT attributes['x'] FROM spans", "SELECT attr(attributes, 'x') FROM spans"),
            (
                "SELECT attributes['http.route'] FROM spans",
                "SELECT coalesce(http_route, attr(attributes, 'http.route')) FROM spans",
            ),
            ("SELECT attributes['http.route'] FROM logs", "SELECT attr(attributes, 'http.route') FROM logs"),
            ("SELECT S.ATTRIBUTES['x'] FROM spans s", "SELECT attr(S.ATTRIBUTES, 'x') FROM spans s"),
            (
                "SELECT Attributes['http.route'] FROM SPANS",
                "SELECT coalesce(http_route, attr(Attributes, 'http.route')) FROM SPANS",
            ),
            (
                "SELECT s.attributes ->> 'http.route' FROM spans s",
                "SELECT coalesce(s.http_route, attr(s.attributes, 'http.route')) FROM spans s",
            ),
            ("SELECT attributes -> 'x' FROM logs", "SELECT attr(attributes, 'x') FROM logs"),
            ("SELECT body ->> 'x' FROM logs", "SELECT body ->> 'x' FROM logs"),
            ("SELECT \"ATTRIBUTES\"['x'] FROM spans", "SELECT \"ATTRIBUTES\"['x'] FROM spans"),
            ("SELECT trace_id = '0a' FROM spans", "SELECT trace_id = '0a' FROM spans"),
        ];
        for (text, expect) in cases {
            assert_eq!(rewritten(text).unwrap(), expect);
        }
    }
}
