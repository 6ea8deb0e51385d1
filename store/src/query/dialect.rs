//! [`Dialect`]: statements as clients of PostgreSQL write them, in forms that are planned here.
//!
//! The wire crate's parser knows what clients ask of the catalogue (`pg_catalog`, `information_schema`), and of a
//! subquery in a SELECT list that looks at the row outside it makes null. That is for the catalogue alone: a
//! statement that does not read it goes through the rules that keep what it says.

use std::ops::ControlFlow;

use datafusion::sql::sqlparser::{
    ast::{
        BinaryOperator, Expr, Function, FunctionArg, FunctionArgExpr, FunctionArgumentList, FunctionArguments, Ident,
        ObjectName, Statement, Value, visit_expressions_mut, visit_relations,
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

use super::{catalogue, psql, similar_to, to_char};
use crate::error::SqlError;

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

/// `SIMILAR TO` and `to_char`, whoever asks: their patterns in the forms that are planned here, a regular expression and chrono's.
pub(super) fn with_patterns(statement: &mut Statement) -> Result<(), SqlError> {
    let visited = visit_expressions_mut(statement, |expr| {
        let said = match expr {
            Expr::SimilarTo { .. } => as_expression(expr),
            Expr::Function(function) if is_to_char(function) => in_words_of_chrono(function),
            _ => Ok(()),
        };
        said.map_or_else(|why| ControlFlow::Break(SqlError::Syntax(why)), ControlFlow::Continue)
    });
    visited.break_value().map_or(Ok(()), Err)
}

fn as_expression(expr: &mut Expr) -> Result<(), String> {
    let Expr::SimilarTo { negated, expr: of, pattern, escape_char } = expr else { return Ok(()) };
    let Some(text) = literal(pattern) else {
        return Err(
            "SIMILAR TO takes its pattern as a text in quotes here: use LIKE, or ~ with a regular expression".into()
        );
    };
    let escape = match escape_char.as_ref().map(|escape| &escape.value) {
        None => Some('\\'),
        Some(Value::SingleQuotedString(escape)) if escape.chars().count() < 2 => escape.chars().next(),
        Some(other) => return Err(format!("ESCAPE {other} is not a letter in quotes")),
    };
    let op = if *negated { BinaryOperator::PGRegexNotMatch } else { BinaryOperator::PGRegexMatch };
    let matched = Expr::Value(Value::SingleQuotedString(similar_to::expression(text, escape)).into());
    let of = std::mem::replace(of.as_mut(), Expr::Value(Value::Null.into()));
    *expr = Expr::BinaryOp { left: Box::new(Expr::Nested(Box::new(of))), op, right: Box::new(matched) };
    Ok(())
}

fn is_to_char(function: &Function) -> bool {
    matches!(function.name.0.last().and_then(|part| part.as_ident()), Some(name) if name.value.eq_ignore_ascii_case("to_char"))
}

fn in_words_of_chrono(function: &mut Function) -> Result<(), String> {
    let FunctionArguments::List(list) = &mut function.args else { return Ok(()) };
    let [_, FunctionArg::Unnamed(FunctionArgExpr::Expr(given))] = &mut list.args[..] else { return Ok(()) };
    let Some(text) = literal(given) else { return Ok(()) };
    let made = to_char::format(text).map_err(|word| {
        format!(
            "to_char: {word} of {text:?} is not known here: use FMMonth, FMDay, Mon or Dy, or chrono's words ('%B')"
        )
    })?;
    *given = Expr::Value(Value::SingleQuotedString(made).into());
    Ok(())
}

/// The text of a literal.
fn literal(expr: &Expr) -> Option<&str> {
    match expr {
        Expr::Value(value) => match &value.value {
            Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => Some(text),
            _ => None,
        },
        Expr::Cast { expr, .. } | Expr::Nested(expr) => literal(expr),
        _ => None,
    }
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
    fn patterns_of_postgresql_become_those_planned_here_and_stay() {
        for (text, expect) in [
            ("SELECT a NOT SIMILAR TO 'b%' FROM t", "SELECT (a) !~ '^(?s:b.*)$' FROM t"),
            ("EXPLAIN SELECT to_char(a, 'YYYY-MM') FROM t", "EXPLAIN SELECT to_char(a, '%Y-%m') FROM t"),
            ("SELECT to_char(a, 'DD'::text) FROM t", "SELECT to_char(a, '%d') FROM t"),
        ] {
            let mut statement = Dialect::new().parse(text).unwrap().remove(0);
            for _ in 0..2 {
                with_patterns(&mut statement).unwrap();
                assert_eq!(statement.to_string(), expect);
            }
        }
        for text in ["SELECT a SIMILAR TO b", "SELECT a SIMILAR TO 'b' ESCAPE '!!'", "SELECT to_char(a, 'Month')"] {
            let mut statement = Dialect::new().parse(text).unwrap().remove(0);
            assert!(with_patterns(&mut statement).is_err(), "{text}");
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
