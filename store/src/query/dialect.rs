//! [`Dialect`]: statements as clients of PostgreSQL write them, in forms that are planned here.
//!
//! The wire crate's parser knows what clients ask of the catalogue (`pg_catalog`, `information_schema`), and of a
//! subquery in a SELECT list that looks at the row outside it makes null. That is for the catalogue alone: a
//! statement that does not read it goes through the rules that keep what it says.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident, ObjectName,
        Statement, Value, visit_expressions_mut, visit_relations,
    },
    dialect::PostgreSqlDialect,
    parser::{Parser, ParserError},
};
use datafusion_postgres::datafusion_pg_catalog::{
    pg_catalog::PG_CATALOG_TABLES,
    sql::{
        PostgresCompatibilityParser,
        rules::{
            CurrentUserVariableToSessionUserFunctionCall, FixArrayLiteral, ResolveUnqualifiedIdentifier,
            RewriteArrayAnyAllOperation, RewritePgCatalogOperator, RewriteRegCastToSubquery, SqlStatementRewriteRule,
            StripCallableQualifier, StripCollate,
        },
    },
};

use super::{catalogue, psql};

/// The function that a LIKE with an escape of its own has its pattern from.
pub(super) const LIKE_ESCAPE: &str = "like_escape";

/// Reads statements.
pub(super) struct Dialect {
    rules: Vec<Box<dyn SqlStatementRewriteRule>>,
    of_catalogue: PostgresCompatibilityParser,
}

impl Dialect {
    pub(super) fn new() -> Self {
        Self {
            rules: vec![
                Box::new(ResolveUnqualifiedIdentifier),
                Box::new(RewriteArrayAnyAllOperation),
                Box::new(StripCallableQualifier),
                Box::new(FixArrayLiteral),
                Box::new(CurrentUserVariableToSessionUserFunctionCall),
                Box::new(StripCollate),
                Box::new(RewritePgCatalogOperator),
                Box::new(RewriteRegCastToSubquery::new()),
            ],
            of_catalogue: PostgresCompatibilityParser::new(),
        }
    }

    pub(super) fn parse(&self, text: &str) -> Result<Vec<Statement>, ParserError> {
        let mut statements = match Parser::parse_sql(&PostgreSqlDialect {}, text) {
            Ok(statements) if !statements.iter().any(reads_catalogue) => {
                statements.into_iter().map(|statement| self.rewritten(statement)).collect()
            }
            // what is no statement may be one to that parser
            _ => self.parse_of_catalogue(text)?,
        };
        statements.iter_mut().for_each(with_backslashes);
        Ok(statements)
    }

    fn rewritten(&self, statement: Statement) -> Statement {
        self.rules.iter().fold(statement, |statement, rule| rule.rewrite(statement))
    }

    fn parse_of_catalogue(&self, text: &str) -> Result<Vec<Statement>, ParserError> {
        let mut statements = self.of_catalogue.parse(&psql::plain(text))?;
        statements.iter_mut().for_each(catalogue::without_what_is_not_there);
        Ok(statements)
    }
}

/// Whether it reads the catalogue.
fn reads_catalogue(statement: &Statement) -> bool {
    let visited = visit_relations(statement, |relation| match is_of_catalogue(relation) {
        true => ControlFlow::Break(()),
        false => ControlFlow::Continue(()),
    });
    visited.is_break()
}

/// Whether a relation is one of the catalogue; `pg_catalog` stands in the search path.
pub(super) fn is_of_catalogue(relation: &ObjectName) -> bool {
    let names: Vec<_> = relation.0.iter().filter_map(|part| part.as_ident()).collect();
    match names.as_slice() {
        [name] => PG_CATALOG_TABLES.iter().any(|table| name.value.eq_ignore_ascii_case(table)),
        [.., schema, _] => ["pg_catalog", "information_schema"].iter().any(|of| schema.value.eq_ignore_ascii_case(of)),
        [] => false,
    }
}

/// `LIKE pattern ESCAPE '/'`: the same pattern with the escape that is planned here.
fn with_backslashes(statement: &mut Statement) {
    let _: ControlFlow<()> = visit_expressions_mut(statement, |expr| {
        if let Expr::Like { pattern, escape_char, .. } | Expr::ILike { pattern, escape_char, .. } = expr
            && let Some(Value::SingleQuotedString(escape)) = escape_char.as_ref().map(|escape| &escape.value)
            && escape != "\\"
        {
            let escape = Expr::Value(Value::SingleQuotedString(escape.clone()).into());
            let given = std::mem::replace(pattern.as_mut(), Expr::Value(Value::Null.into()));
            **pattern = call(LIKE_ESCAPE, vec![given, escape]);
            *escape_char = None;
        }
        ControlFlow::Continue(())
    });
}

/// A call of a function.
pub(super) fn call(name: &str, arguments: Vec<Expr>) -> Expr {
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

    fn parsed(text: &str) -> String {
        Dialect::new().parse(text).unwrap()[0].to_string()
    }

    /// The wire crate's rules made null of the first two.
    #[test]
    fn what_a_statement_says_is_kept() {
        for text in [
            "SELECT (SELECT max(s.n) FROM spans AS s WHERE s.service = o.service) AS most FROM spans AS o",
            "SELECT (SELECT max(n) FROM spans WHERE n < $1)",
            "SELECT service, * FROM spans",
            "SELECT a LIKE 'b%' ESCAPE '\\' FROM t",
        ] {
            assert_eq!(parsed(text), text);
        }
    }

    #[test]
    fn forms_of_postgresql_become_those_planned_here() {
        for (text, expect) in [
            ("SELECT 1 FROM t WHERE a = ANY($1)", "SELECT 1 FROM t WHERE array_contains($1, a)"),
            ("SELECT pg_catalog.version()", "SELECT version()"),
            (
                "SELECT 1 FROM t WHERE a NOT LIKE $1 || '%' ESCAPE '/'",
                "SELECT 1 FROM t WHERE a NOT LIKE like_escape($1 || '%', '/')",
            ),
            ("ABORT", "ROLLBACK"),
        ] {
            assert_eq!(parsed(text), expect);
        }
    }
}
