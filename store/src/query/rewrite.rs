//! What people type, turned into what prunes: ids as hex strings, times as RFC 3339, and
//! `attributes['k']` as the column it lives in.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::ast::{
    AccessExpr, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList,
    FunctionArguments, Ident, ObjectName, Statement, Subscript, Value, visit_expressions_mut,
};
use weir_schema::{Table, columns};

use crate::error::SqlError;

/// Rewrites a statement in place.
pub(super) fn rewrite(statement: &mut Statement) -> Result<(), SqlError> {
    let visited = visit_expressions_mut(statement, |expr| match rewrite_expr(expr) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match visited {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

fn rewrite_expr(expr: &mut Expr) -> Result<(), SqlError> {
    match expr {
        Expr::BinaryOp { left, right, .. } => {
            literal_for(left, right)?;
            literal_for(right, left)
        }
        Expr::InList { expr, list, .. } => list.iter_mut().try_for_each(|item| literal_for(expr, item)),
        Expr::Between { expr, low, high, .. } => {
            literal_for(expr, low)?;
            literal_for(expr, high)
        }
        Expr::CompoundFieldAccess { root, access_chain } => {
            if let Some(rewritten) = attribute(root, access_chain) {
                *expr = rewritten;
            }
            Ok(())
        }
        _ => Ok(()),
    }
}

/// A string beside an id is hex, a string beside a time is RFC 3339.
fn literal_for(column: &Expr, literal: &mut Expr) -> Result<(), SqlError> {
    let Some(name) = column_name(column) else { return Ok(()) };
    let Expr::Value(value) = literal else { return Ok(()) };
    let Value::SingleQuotedString(text) = &value.value else { return Ok(()) };
    if matches!(name, "trace_id" | "span_id" | "parent_span_id") {
        if text.is_empty() || !text.len().is_multiple_of(2) || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(SqlError::Syntax(format!("{name} is compared with {text:?}, which is not hex")));
        }
        value.value = Value::HexStringLiteral(text.clone());
    } else if name.ends_with("_unix_nano") {
        let time: jiff::Timestamp = text.parse().map_err(|_| {
            SqlError::Syntax(format!(
                "{name} is compared with {text:?}, which is not a time such as 2022-08-23T12:00:00Z"
            ))
        })?;
        value.value = Value::Number(time.as_nanosecond().to_string(), false);
    }
    Ok(())
}

fn column_name(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Identifier(name) => Some(&name.value),
        Expr::CompoundIdentifier(parts) => parts.last().map(|name| name.value.as_str()),
        _ => None,
    }
}

/// `attributes['k']`: the column filled from `k`, else (or where the value did not fit it) the map.
fn attribute(root: &Expr, access_chain: &[AccessExpr]) -> Option<Expr> {
    let [access @ .., AccessExpr::Subscript(Subscript::Index { index: Expr::Value(key) })] = access_chain else {
        return None;
    };
    let Value::SingleQuotedString(key) = &key.value else { return None };
    let mut path = match root {
        Expr::Identifier(name) => vec![name.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return None,
    };
    for part in access {
        let AccessExpr::Dot(Expr::Identifier(name)) = part else { return None };
        path.push(name.clone());
    }
    let map = path.last()?.value.clone();
    if map != "attributes" && map != "resource_attributes" {
        return None;
    }
    let from_map = call("attr", vec![column(path.clone()), text(key)]);
    let hot = (map == "attributes").then(|| hot_column(key)).flatten();
    let Some(hot) = hot else { return Some(from_map) };
    *path.last_mut()? = Ident::new(hot);
    let hot = Expr::Cast {
        kind: CastKind::Cast,
        expr: Box::new(column(path)),
        data_type: DataType::Varchar(None),
        array: false,
        format: None,
    };
    Some(call("coalesce", vec![hot, from_map]))
}

/// A name of one part is not a compound one to the planner.
fn column(mut path: Vec<Ident>) -> Expr {
    match path.len() {
        1 => Expr::Identifier(path.remove(0)),
        _ => Expr::CompoundIdentifier(path),
    }
}

fn hot_column(key: &str) -> Option<&'static str> {
    columns::columns(Table::Spans).into_iter().find(|column| column.attribute == Some(key)).map(|column| column.name)
}

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
    use crate::{config::SqlConfig, query::guard};

    fn rewritten(text: &str) -> Result<String, SqlError> {
        let mut statement = guard::parse(text, &SqlConfig::default())?;
        rewrite(&mut statement)?;
        Ok(statement.to_string())
    }

    #[test]
    fn ids_times_and_attributes_become_what_prunes() {
        let cases = [
            ("SELECT 1 FROM spans WHERE trace_id = '0a'", "SELECT 1 FROM spans WHERE trace_id = X'0a'"),
            (
                "SELECT 1 FROM spans s WHERE s.span_id IN ('0a', 'ff')",
                "SELECT 1 FROM spans s WHERE s.span_id IN (X'0a', X'ff')",
            ),
            (
                "SELECT 1 FROM spans WHERE start_unix_nano >= '1970-01-01T00:00:01Z'",
                "SELECT 1 FROM spans WHERE start_unix_nano >= 1000000000",
            ),
            ("SELECT attributes['x'] FROM spans", "SELECT attr(attributes, 'x') FROM spans"),
            (
                "SELECT attributes['http.route'] FROM spans",
                "SELECT coalesce(CAST(http_route AS VARCHAR), attr(attributes, 'http.route')) FROM spans",
            ),
            ("SELECT operation = '0a' FROM spans", "SELECT operation = '0a' FROM spans"),
        ];
        for (text, expect) in cases {
            assert_eq!(rewritten(text).unwrap(), expect);
        }
        assert!(rewritten("SELECT 1 FROM spans WHERE trace_id = 'xyz'").unwrap_err().to_string().contains("not hex"));
    }
}
