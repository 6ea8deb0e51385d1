//! `attributes['k']` (or `attributes ->> 'k'`, as clients of PostgreSQL write) as the column it lives in, which prunes. What ids and times are compared with is
//! for [`super::meaning`], which knows types.
//!
//! A value that does not fit the type of its column stays in the map. Where the view says that no map
//! holds such a value, `attributes['http.route']` is the column alone and the map is not decoded.

use std::{collections::HashMap, ops::ControlFlow, sync::LazyLock};

use arrow::datatypes::DataType as ArrowType;
use datafusion::{
    common::ParamValues,
    sql::sqlparser::ast::{
        AccessExpr, BinaryOperator, CaseWhen, CastKind, DataType, Expr, Function, FunctionArg, FunctionArgExpr,
        FunctionArguments, Ident, Statement, Subscript, TableFactor, Value, Visit, Visitor, WindowType,
        helpers::attached_token::AttachedToken, visit_expressions_mut,
    },
};
use weir_schema::{
    Table,
    columns::{self, Column},
};

use super::dialect::call;
use crate::error::SqlError;

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

/// Rewrites a statement in place. `given` are the values of its parameters, where they are known.
pub(super) fn rewrite(statement: &mut Statement, hot: Hot, given: Option<&ParamValues>) -> Result<(), SqlError> {
    let around = Around { tables: Tables::of(statement), hot, given };
    let rewritten = visit_expressions_mut(statement, |expr| match rewrite_expr(expr, &around) {
        Ok(()) => ControlFlow::Continue(()),
        Err(error) => ControlFlow::Break(error),
    });
    match rewritten {
        ControlFlow::Continue(()) => Ok(()),
        ControlFlow::Break(error) => Err(error),
    }
}

/// What an expression stands in.
struct Around<'a> {
    tables: Tables,
    hot: Hot,
    given: Option<&'a ParamValues>,
}

impl Around<'_> {
    /// Where the attributes at this path are: other tables have no such columns, all of theirs are in the map.
    fn hot_at(&self, path: &[Ident]) -> Hot {
        let of_table = match path {
            [.., table, _] => self.tables.0.get(&folded(table)).copied(),
            _ => None,
        };
        match of_table {
            Some(table) if table != Table::Spans => Hot::InMapsOnly,
            None if !self.tables.reads(Table::Spans) => Hot::InMapsOnly,
            _ => self.hot,
        }
    }

    /// Whether what a map holds can only be attributes of spans.
    fn is_of_spans_only(&self) -> bool {
        let with_attributes = [Table::Logs, Table::Metrics];
        self.tables.reads(Table::Spans) && !with_attributes.iter().any(|table| self.tables.reads(*table))
    }
}

/// The tables of a statement, by the names they have in it.
#[derive(Default)]
struct Tables(HashMap<String, Table>);

impl Tables {
    fn of(statement: &Statement) -> Self {
        let mut tables = Self::default();
        // it never breaks off
        let _ = Visit::visit(statement, &mut tables);
        tables
    }

    fn reads(&self, table: Table) -> bool {
        self.0.values().any(|read| *read == table)
    }
}

impl Visitor for Tables {
    type Break = ();

    fn pre_visit_table_factor(&mut self, factor: &TableFactor) -> ControlFlow<()> {
        if let TableFactor::Table { name, alias, .. } = factor {
            let named = name.0.last().and_then(|part| part.as_ident());
            let table = named.and_then(|named| Table::ALL.into_iter().find(|table| table.name() == folded(named)));
            if let Some((named, table)) = named.zip(table) {
                self.0.insert(folded(alias.as_ref().map_or(named, |alias| &alias.name)), table);
            }
        }
        ControlFlow::Continue(())
    }
}

/// Children come first, so a comparison sees its sides rewritten.
fn rewrite_expr(expr: &mut Expr, around: &Around<'_>) -> Result<(), SqlError> {
    match expr {
        Expr::BinaryOp { left, op: BinaryOperator::Eq | BinaryOperator::NotEq, right } => {
            as_numbers(left, std::slice::from_mut(right.as_mut()));
            as_numbers(right, std::slice::from_mut(left.as_mut()));
        }
        Expr::InList { expr, list, .. } => as_numbers(expr, list),
        Expr::Function(function) => order_by_hex(function),
        _ => {}
    }
    if let Some(Access { map, path: Some(path), key }) = Access::of(expr) {
        let key = bound(key, around.given);
        let hot = around.hot_at(&path);
        match attribute(path, &key, hot) {
            Some(rewritten) => *expr = rewritten,
            None if around.is_of_spans_only() => lives_elsewhere(map, &key)?,
            None => {}
        }
    }
    Ok(())
}

/// A look into a map: `map['k']`, `map ->> 'k'`, `attr(map, 'k')`.
struct Access<'a> {
    map: &'a Expr,
    /// The names that lead to the map, the last its own; none where it is no column.
    path: Option<Vec<Ident>>,
    key: &'a Expr,
}

impl<'a> Access<'a> {
    fn of(expr: &'a Expr) -> Option<Self> {
        let (map, inner, key) = match expr {
            Expr::BinaryOp { left, op: BinaryOperator::Arrow | BinaryOperator::LongArrow, right } => {
                (left.as_ref(), &[][..], right.as_ref())
            }
            Expr::CompoundFieldAccess { root, access_chain } => match access_chain.as_slice() {
                [inner @ .., AccessExpr::Subscript(Subscript::Index { index })] => (root.as_ref(), inner, index),
                _ => return None,
            },
            Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("attr") => {
                let [map, key] = arguments(function)? else { return None };
                (argument(map)?, &[][..], argument(key)?)
            }
            _ => return None,
        };
        Some(Self { map, path: path(map, inner), key })
    }
}

fn arguments(function: &Function) -> Option<&[FunctionArg]> {
    match &function.args {
        FunctionArguments::List(list) => Some(&list.args),
        _ => None,
    }
}

fn argument(argument: &FunctionArg) -> Option<&Expr> {
    match argument {
        FunctionArg::Unnamed(FunctionArgExpr::Expr(expr)) => Some(expr),
        _ => None,
    }
}

/// The names of a column, one after another.
fn path(root: &Expr, access: &[AccessExpr]) -> Option<Vec<Ident>> {
    let mut path = match root {
        Expr::Identifier(name) => vec![name.clone()],
        Expr::CompoundIdentifier(parts) => parts.clone(),
        _ => return None,
    };
    for part in access {
        let AccessExpr::Dot(Expr::Identifier(name)) = part else { return None };
        path.push(name.clone());
    }
    Some(path)
}

/// A key as a literal, where it is a parameter that has a value.
fn bound(key: &Expr, given: Option<&ParamValues>) -> Expr {
    let value = match key {
        Expr::Value(value) => match &value.value {
            Value::Placeholder(name) => given.and_then(|given| given.get_placeholders_with_values(name).ok()),
            _ => None,
        },
        _ => None,
    };
    match value.as_ref().and_then(|value| value.value().try_as_str().flatten()) {
        Some(value) => text(value),
        None => key.clone(),
    }
}

/// A map that was selected under another name has left the columns of its table behind.
fn lives_elsewhere(map: &Expr, key: &Expr) -> Result<(), SqlError> {
    match text_of(key).and_then(hot_column) {
        Some(column) => Err(SqlError::Syntax(format!(
            "'{}' lives in the column {} of spans, not in {map}: select {1} where {map} is selected",
            text_of(key).unwrap_or_default(),
            column.name,
        ))),
        None => Ok(()),
    }
}

/// What is said of a column that is not there, where the statement may not have named it itself.
pub(super) fn explained(column: &str, said: String) -> String {
    match spans_column(column).and_then(|column| column.attribute) {
        Some(key) => {
            format!("'{key}' lives in the column {column}, which has to be selected beside attributes: {said}")
        }
        None => said,
    }
}

/// A window over ids in their order, which the engine has for numbers and texts: as text it is the same.
fn order_by_hex(function: &mut Function) {
    let Some(WindowType::WindowSpec(window)) = &mut function.over else { return };
    for by in &mut window.order_by {
        let is_id = column_name(&by.expr)
            .is_some_and(|name| ["trace_id", "span_id", "parent_span_id"].contains(&name.as_str()));
        if is_id {
            by.expr = call("hex", vec![by.expr.clone()]);
        }
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

/// The attribute: the column filled from its key, else (or where the value did not fit it) the map.
/// `None` where the path is that of another map.
fn attribute(path: Vec<Ident>, key: &Expr, hot: Hot) -> Option<Expr> {
    let map = folded(path.last()?);
    if map != "attributes" && map != "resource_attributes" {
        return None;
    }
    let of_spans = map == "attributes" && hot != Hot::InMapsOnly;
    let Some(known) = text_of(key) else { return Some(of_any_key(&path, key, of_spans)) };
    let from_map = call("attr", vec![column(path.clone()), text(known)]);
    let Some(hot_column) = hot_column(known).filter(|_| of_spans) else { return Some(from_map) };
    let from_column = beside(&path, hot_column);
    Some(match hot {
        Hot::MapsToo => call("coalesce", vec![from_column, from_map]),
        _ => from_column,
    })
}

/// Where the key is known of each row only, each of the columns may have it.
fn of_any_key(path: &[Ident], key: &Expr, of_spans: bool) -> Expr {
    let key = match key {
        Expr::Value(_) => as_text(key.clone()),
        key => key.clone(),
    };
    let from_map = call("attr", vec![column(path.to_vec()), key.clone()]);
    if !of_spans {
        return from_map;
    }
    let hot = SPANS.iter().filter_map(|column| Some((column.attribute?, column)));
    let when =
        |(attribute, column): (&str, &Column)| CaseWhen { condition: text(attribute), result: beside(path, column) };
    let from_columns = Expr::Case {
        case_token: AttachedToken::empty(),
        end_token: AttachedToken::empty(),
        operand: Some(Box::new(key)),
        conditions: hot.map(when).collect(),
        else_result: None,
    };
    call("coalesce", vec![from_columns, from_map])
}

/// A column of the table that the map at this path is in, as text.
fn beside(path: &[Ident], of: &Column) -> Expr {
    let mut path = path.to_vec();
    if let Some(name) = path.last_mut() {
        *name = Ident::new(of.name);
    }
    match of.data_type {
        ArrowType::Utf8 => column(path),
        _ => as_text(column(path)),
    }
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

#[cfg(test)]
mod tests {
    use datafusion::common::ScalarValue;

    use super::*;
    use crate::{config::SqlConfig, query::guard};

    fn rewritten_with(text: &str, hot: Hot) -> Result<String, SqlError> {
        let mut statement = guard::parse(text, &SqlConfig::default())?;
        rewrite(&mut statement, hot, None)?;
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
            (
                "SELECT attr(attributes, 'http.route') FROM spans",
                "SELECT coalesce(http_route, attr(attributes, 'http.route')) FROM spans",
            ),
            (
                "SELECT l.attributes['http.route'], s.attributes['http.route'] FROM spans s JOIN logs AS l ON true",
                "SELECT attr(l.attributes, 'http.route'), coalesce(s.http_route, attr(s.attributes, 'http.route')) FROM spans s JOIN logs AS l ON true",
            ),
            ("SELECT attributes[k] FROM logs", "SELECT attr(attributes, k) FROM logs"),
            ("SELECT attributes[$1] FROM logs", "SELECT attr(attributes, CAST($1 AS VARCHAR)) FROM logs"),
            ("SELECT a['http.route'] FROM logs", "SELECT a['http.route'] FROM logs"),
            (
                "SELECT rank() OVER (ORDER BY trace_id) FROM spans",
                "SELECT rank() OVER (ORDER BY hex(trace_id)) FROM spans",
            ),
        ];
        for (text, expect) in cases {
            assert_eq!(rewritten(text).unwrap(), expect);
        }
    }

    #[test]
    fn a_hot_attribute_of_a_map_that_left_its_columns_behind_is_refused() {
        for access in ["t.a['http.route']", "t.a ->> 'http.route'", "attr(t.a, 'http.route')"] {
            let text = format!("SELECT {access} FROM (SELECT attributes AS a FROM spans) t");
            let refused = rewritten(&text);
            assert!(matches!(&refused, Err(SqlError::Syntax(why)) if why.contains("select http_route")), "{refused:?}");
        }
        let others = [
            "SELECT t.a['x'] FROM (SELECT attributes AS a FROM spans) t",
            "SELECT event['attributes']['error.type'] FROM (SELECT unnest(events) AS event FROM spans) t",
            "SELECT l.a['http.route'] FROM spans s JOIN (SELECT attributes AS a FROM logs) l ON true",
        ];
        for text in others {
            assert_eq!(rewritten(text).unwrap(), text);
        }
    }

    #[test]
    fn a_key_that_is_a_parameter_or_a_column_finds_the_columns_too() {
        let key = |given: Option<ParamValues>| {
            let mut statement = guard::parse("SELECT attributes[$1] FROM spans", &SqlConfig::default()).unwrap();
            rewrite(&mut statement, Hot::Columns, given.as_ref()).unwrap();
            statement.to_string()
        };
        let given = vec![ScalarValue::from("http.route")];
        assert_eq!(key(Some(ParamValues::from(given))), "SELECT http_route FROM spans");
        let any = key(None);
        assert!(any.contains("WHEN 'http.route' THEN http_route") && any.contains("attr(attributes, CAST($1"), "{any}");
    }
}
