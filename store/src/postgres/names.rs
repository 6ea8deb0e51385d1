//! [`Names`]: what the columns of an answer are called, as PostgreSQL calls them: by column, function or
//! alias, `?column?` where there is none, and twice the same where a statement says so. The engine has
//! each name once, so what comes again has another one inside.

use arrow::datatypes::{Field, Schema};
use datafusion::sql::sqlparser::ast::{AccessExpr, Expr, Ident, SelectItem, SetExpr, Statement, Subscript, Value};

/// Of what has no name.
const UNNAMED: &str = "?column?";

/// The names of an answer's columns; of `*` the engine knows them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Names {
    /// Those of the first columns.
    first: Vec<String>,
    /// Those of the last columns, behind a `*`.
    last: Vec<String>,
}

impl Names {
    /// Takes the names of a statement's columns, and tells apart those that are the same.
    pub(super) fn take(statement: &mut Statement) -> Self {
        match statement {
            Statement::Query(query) => of_body(&mut query.body),
            _ => Self::default(),
        }
    }

    /// Gives them to the columns of its answer.
    pub(super) fn give(&self, schema: &Schema) -> Schema {
        let columns = schema.fields().len();
        let name = |place: usize| {
            let from_last = (place + self.last.len()).checked_sub(columns);
            self.first.get(place).or_else(|| self.last.get(from_last?))
        };
        let field = |(place, field): (usize, &std::sync::Arc<Field>)| match name(place) {
            Some(name) => field.as_ref().clone().with_name(name),
            None => field.as_ref().clone(),
        };
        Schema::new(schema.fields().iter().enumerate().map(field).collect::<Vec<_>>())
    }
}

/// Sides of a UNION are called as the first is.
fn of_body(body: &mut SetExpr) -> Names {
    match body {
        SetExpr::Select(select) => of_items(&mut select.projection),
        SetExpr::Query(query) => of_body(&mut query.body),
        SetExpr::SetOperation { left, right, .. } => {
            of_body(right);
            of_body(left)
        }
        _ => Names::default(),
    }
}

fn of_items(items: &mut [SelectItem]) -> Names {
    let is_star = |item: &SelectItem| matches!(item, SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..));
    let star = items.iter().any(is_star);
    let (mut names, mut behind_star) = (Names::default(), false);
    let mut before: Vec<(String, Option<String>)> = Vec::new();
    for (place, item) in items.iter_mut().enumerate() {
        if is_star(item) {
            behind_star = true;
            names.last.clear();
            continue;
        }
        let (name, table) = name_of_item(item);
        // columns of several tables are not the same to the engine
        let again =
            before.iter().any(|(other, of)| *other == name && (table.is_none() || of.is_none() || table == *of));
        if again || (star && is_column(item)) {
            rename(item, &format!("{name}#{place}"));
        }
        before.push((name.clone(), table));
        if behind_star { names.last.push(name) } else { names.first.push(name) }
    }
    names
}

fn is_column(item: &SelectItem) -> bool {
    matches!(item, SelectItem::UnnamedExpr(Expr::Identifier(_) | Expr::CompoundIdentifier(_)))
}

/// A name, and the table that it is qualified by.
fn name_of_item(item: &SelectItem) -> (String, Option<String>) {
    match item {
        SelectItem::UnnamedExpr(expr @ Expr::CompoundIdentifier(path)) => {
            let table = path[..path.len() - 1].iter().map(folded).collect::<Vec<_>>().join(".");
            (name_of(expr), Some(table))
        }
        SelectItem::UnnamedExpr(expr) => (name_of(expr), None),
        // as the wire crate calls a column beside `*`
        SelectItem::ExprWithAlias { alias, .. } if alias.value.starts_with("__alias_") => {
            (alias.value["__alias_".len()..].to_owned(), None)
        }
        SelectItem::ExprWithAlias { alias, .. } => (folded(alias), None),
        _ => (UNNAMED.to_owned(), None),
    }
}

fn rename(item: &mut SelectItem, name: &str) {
    let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { return };
    let expr = std::mem::replace(expr, Expr::Value(Value::Null.into()));
    *item = SelectItem::ExprWithAlias { expr, alias: Ident::with_quote('"', name) };
}

fn name_of(expr: &Expr) -> String {
    let name = match expr {
        Expr::Identifier(name) => return folded(name),
        Expr::CompoundIdentifier(path) => return path.last().map(folded).unwrap_or_default(),
        Expr::Function(function) => {
            let last = function.name.0.last().and_then(|part| part.as_ident());
            return last.map(folded).unwrap_or_default();
        }
        Expr::Nested(inner) | Expr::Cast { expr: inner, .. } => return name_of(inner),
        // a key says more than the map that it is in
        Expr::CompoundFieldAccess { root, access_chain } => {
            return key(access_chain).unwrap_or_else(|| name_of(root));
        }
        Expr::Subquery(query) => match query.body.as_ref() {
            SetExpr::Select(select) => {
                return select.projection.first().map(|item| name_of_item(item).0).unwrap_or_default();
            }
            _ => UNNAMED,
        },
        Expr::Case { .. } => "case",
        Expr::Exists { .. } => "exists",
        Expr::Extract { .. } => "extract",
        Expr::Substring { .. } => "substring",
        Expr::Trim { .. } => "btrim",
        Expr::Position { .. } => "position",
        Expr::Ceil { .. } => "ceil",
        Expr::Floor { .. } => "floor",
        Expr::AtTimeZone { .. } => "timezone",
        Expr::Interval(_) => "interval",
        Expr::Array(_) => "array",
        _ => UNNAMED,
    };
    name.to_owned()
}

/// The `k` of `attributes['k']`.
fn key(access: &[AccessExpr]) -> Option<String> {
    match access.last()? {
        AccessExpr::Subscript(Subscript::Index { index: Expr::Value(value) }) => match &value.value {
            Value::SingleQuotedString(key) => Some(key.clone()),
            _ => None,
        },
        AccessExpr::Dot(Expr::Identifier(name)) => Some(folded(name)),
        _ => None,
    }
}

/// A name as SQL has it: without quotes, capitals are small letters.
fn folded(name: &Ident) -> String {
    if name.quote_style.is_some() { name.value.clone() } else { name.value.to_lowercase() }
}

#[cfg(test)]
mod tests {
    use arrow::datatypes::DataType;
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, parser::Parser};

    use super::*;

    fn statement(text: &str) -> Statement {
        Parser::parse_sql(&PostgreSqlDialect {}, text).unwrap().remove(0)
    }

    #[test]
    fn columns_are_called_as_postgresql_calls_them_and_are_told_apart_inside() {
        let cases: [(&str, &[&str], &str); 9] = [
            (
                "SELECT count(*), COUNT(*) FROM t",
                &["count", "count"],
                "SELECT count(*), COUNT(*) AS \"count#1\" FROM t",
            ),
            ("SELECT 1, 1", &["?column?", "?column?"], "SELECT 1, 1 AS \"?column?#1\""),
            ("SELECT a AS x, b AS X FROM t", &["x", "x"], "SELECT a AS x, b AS \"x#1\" FROM t"),
            ("SELECT p.a, c.a FROM p, c", &["a", "a"], "SELECT p.a, c.a FROM p, c"),
            ("SELECT p.a, p.a FROM p", &["a", "a"], "SELECT p.a, p.a AS \"a#1\" FROM p"),
            ("SELECT \"A\", a::TEXT, -a FROM t", &["A", "a", "?column?"], "SELECT \"A\", a::TEXT, -a FROM t"),
            (
                "SELECT m['k'], (SELECT max(a) FROM t) FROM t",
                &["k", "max"],
                "SELECT m['k'], (SELECT max(a) FROM t) FROM t",
            ),
            (
                "SELECT 1, 1 UNION SELECT 2, 2",
                &["?column?", "?column?"],
                "SELECT 1, 1 AS \"?column?#1\" UNION SELECT 2, 2 AS \"?column?#1\"",
            ),
            ("SHOW a", &[], "SHOW a"),
        ];
        for (text, names, inside) in cases {
            let mut statement = statement(text);
            assert_eq!(Names::take(&mut statement).first, names, "{text}");
            assert_eq!(statement.to_string(), inside);
        }
    }

    #[test]
    fn what_stands_around_a_star_keeps_its_names() {
        let mut statement = statement("SELECT count(*), *, a, 1 FROM t");
        let names = Names::take(&mut statement);
        assert_eq!(statement.to_string(), "SELECT count(*), *, a AS \"a#2\", 1 FROM t");
        let field = |name: &str| Field::new(name, DataType::Utf8, true);
        let answered = Schema::new(["count(*)", "a", "b", "a#2", "Int64(1)"].map(field).to_vec());
        let given = names.give(&answered);
        let given: Vec<_> = given.fields().iter().map(|field| field.name().as_str()).collect();
        assert_eq!(given, ["count", "a", "b", "a", "?column?"]);
    }
}
