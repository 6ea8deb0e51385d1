//! `pg_catalog` of a store that has tables and columns, and nothing else of what PostgreSQL describes there:
//! no index, no constraint, no default, no sequence. What asks for these is answered with none.

use std::{collections::HashSet, ops::ControlFlow, sync::Arc};

use async_trait::async_trait;
use datafusion::{
    arrow::datatypes::{DataType, Field, Schema},
    catalog::{SchemaProvider, TableProvider},
    common::DataFusionError,
    datasource::empty::EmptyTable,
    sql::sqlparser::ast::{
        BinaryOperator, CastKind, DataType as SqlType, Expr, FunctionArg, FunctionArgExpr, FunctionArguments, Ident,
        Query, Select, SelectItem, SetExpr, Statement, TableFactor, Value, VisitMut, VisitorMut, visit_expressions,
        visit_expressions_mut, visit_relations,
    },
};

use super::dialect::{call, is_of_catalogue};

/// Tables that are empty here, where the wire crate lists PostgreSQL's own rows, and their columns of numbers.
/// It has these as text, from which nothing can be unnested.
const EMPTY: [(&str, &[&str]); 2] =
    [("pg_index", &["indkey", "indclass", "indcollation", "indoption"]), ("pg_constraint", &["conkey", "confkey"])];

/// The wire crate's `pg_catalog` without indexes and constraints.
#[derive(Debug)]
pub(super) struct Catalogue {
    pub(super) all: Arc<dyn SchemaProvider>,
}

#[async_trait]
impl SchemaProvider for Catalogue {
    fn table_names(&self) -> Vec<String> {
        self.all.table_names()
    }

    async fn table(&self, name: &str) -> Result<Option<Arc<dyn TableProvider>>, DataFusionError> {
        let table = self.all.table(name).await?;
        let empty = EMPTY.iter().find(|(empty, _)| name.eq_ignore_ascii_case(empty));
        Ok(match (table, empty) {
            (Some(table), Some((_, numbers))) => Some(Arc::new(emptied(&table.schema(), numbers))),
            (table, _) => table,
        })
    }

    fn table_exist(&self, name: &str) -> bool {
        self.all.table_exist(name)
    }
}

fn emptied(schema: &Schema, numbers: &[&str]) -> EmptyTable {
    let field = |field: &Arc<Field>| match numbers.contains(&field.name().as_str()) {
        true => Field::new(field.name(), DataType::new_list(DataType::Int32, true), true),
        false => field.as_ref().clone(),
    };
    EmptyTable::new(Arc::new(Schema::new(schema.fields().iter().map(field).collect::<Vec<_>>())))
}

/// Takes out of a statement over the catalogue what is not planned here and would say nothing.
pub(super) fn without_what_is_not_there(statement: &mut Statement) {
    let _: ControlFlow<()> = statement.visit(&mut Subqueries);
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Some(same) = same_of_none(expr) {
            *expr = same;
        }
        ControlFlow::Continue(())
    });
}

/// What says the same where there is no index and no option.
fn same_of_none(expr: &Expr) -> Option<Expr> {
    match expr {
        // of no rows: it only has to be a number that is not the same in all of them, and keep a parameter
        Expr::Function(function) if function.name.to_string().eq_ignore_ascii_case("generate_subscripts") => {
            let FunctionArguments::List(list) = &function.args else { return None };
            match list.args.as_slice() {
                [
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(of @ Expr::CompoundIdentifier(path))),
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(dimension)),
                ] if path.last().is_some_and(is_of_empty) => Some(unnest_and(of, dimension)),
                _ => None,
            }
        }
        Expr::CompoundIdentifier(path) if is_options(path) => Some(no_text()),
        _ => None,
    }
}

/// `unnest(of) + number`.
fn unnest_and(of: &Expr, number: &Expr) -> Expr {
    let left = Box::new(call("unnest", vec![of.clone()]));
    Expr::BinaryOp { left, op: BinaryOperator::Plus, right: Box::new(number.clone()) }
}

fn is_of_empty(column: &Ident) -> bool {
    EMPTY.iter().any(|(_, numbers)| numbers.contains(&column.value.as_str()))
}

/// `pg_class.reloptions`, which the wire crate has not.
fn is_options(path: &[Ident]) -> bool {
    path.last().is_some_and(|column| column.value == "reloptions")
}

fn no_text() -> Expr {
    let expr = Box::new(Expr::Value(Value::Null.into()));
    Expr::Cast { kind: CastKind::Cast, expr, data_type: SqlType::Text, array: false, format: None }
}

/// Makes null of the subqueries in SELECT lists that look up a default, a sequence or a collation for the row
/// outside: what they read is empty here, and they are not planned.
struct Subqueries;

impl VisitorMut for Subqueries {
    type Break = ();

    fn pre_visit_query(&mut self, query: &mut Query) -> ControlFlow<()> {
        let SetExpr::Select(select) = query.body.as_mut() else { return ControlFlow::Continue(()) };
        for item in &mut select.projection {
            if let SelectItem::UnnamedExpr(Expr::CompoundIdentifier(path)) = item
                && is_options(path)
            {
                *item = SelectItem::ExprWithAlias { expr: no_text(), alias: Ident::new("reloptions") };
            }
            let (SelectItem::UnnamedExpr(expr) | SelectItem::ExprWithAlias { expr, .. }) = item else { continue };
            let _: ControlFlow<()> = visit_expressions_mut(expr, |part| {
                if matches!(part, Expr::Subquery(query) if is_lookup(query)) {
                    *part = Expr::Value(Value::Null.into());
                }
                ControlFlow::Continue(())
            });
        }
        ControlFlow::Continue(())
    }
}

/// Whether a subquery reads the catalogue alone, and asks for a row that belongs to one outside of it.
fn is_lookup(query: &Query) -> bool {
    let SetExpr::Select(select) = query.body.as_ref() else { return false };
    let of_catalogue = visit_relations(query, |relation| match is_of_catalogue(relation) {
        true => ControlFlow::Continue(()),
        false => ControlFlow::Break(()),
    });
    let own = own_names(select);
    let outside = visit_expressions(query, |expr| match expr {
        Expr::CompoundIdentifier(path)
            if path.len() > 1 && !own.contains(path[path.len() - 2].value.to_lowercase().as_str()) =>
        {
            ControlFlow::Break(())
        }
        _ => ControlFlow::Continue(()),
    });
    of_catalogue.is_continue() && outside.is_break()
}

/// What the tables of a SELECT are called in it.
fn own_names(select: &Select) -> HashSet<String> {
    let tables = select
        .from
        .iter()
        .flat_map(|from| std::iter::once(&from.relation).chain(from.joins.iter().map(|join| &join.relation)));
    let name = |table: &TableFactor| match table {
        TableFactor::Table { alias: Some(alias), .. } => Some(alias.name.value.to_lowercase()),
        TableFactor::Table { name, .. } => name.0.last()?.as_ident().map(|name| name.value.to_lowercase()),
        _ => None,
    };
    tables.filter_map(name).collect()
}

#[cfg(test)]
mod tests {
    use datafusion::sql::sqlparser::{dialect::PostgreSqlDialect, parser::Parser};

    use super::*;

    #[test]
    fn what_is_not_there_is_taken_out_and_nothing_else() {
        for (text, expect) in [
            (
                "SELECT CASE WHEN a.atthasdef THEN (SELECT d.adbin FROM pg_catalog.pg_attrdef d WHERE d.adrelid = a.attrelid) END FROM pg_attribute AS a",
                "SELECT CASE WHEN a.atthasdef THEN NULL END FROM pg_attribute AS a",
            ),
            (
                "SELECT pg_catalog.pg_class.reloptions, unnest(i.indkey), generate_subscripts(i.indkey, $1::INT) FROM pg_index AS i",
                "SELECT CAST(NULL AS TEXT) AS reloptions, unnest(i.indkey), unnest(i.indkey) + $1::INT FROM pg_index AS i",
            ),
            (
                "SELECT (SELECT max(c.oid) FROM pg_class AS c), (SELECT max(s.n) FROM spans AS s WHERE s.n = c.oid) FROM pg_class AS c",
                "SELECT (SELECT max(c.oid) FROM pg_class AS c), (SELECT max(s.n) FROM spans AS s WHERE s.n = c.oid) FROM pg_class AS c",
            ),
        ] {
            let mut statement = Parser::parse_sql(&PostgreSqlDialect {}, text).unwrap().remove(0);
            without_what_is_not_there(&mut statement);
            assert_eq!(statement.to_string(), expect);
        }
    }
}
