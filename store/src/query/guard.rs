//! What a statement may be: checked on its tokens before it is parsed, and on its syntax before it
//! is planned. A parser recurses, so 3,000 terms in a row must be refused before it sees them.

use std::ops::ControlFlow;

use datafusion::sql::{
    parser::{DFParser, DFParserBuilder, Statement as DfStatement},
    sqlparser::{
        ast::{DescribeAlias, SetExpr, Statement, visit_relations},
        dialect::PostgreSqlDialect,
        keywords::Keyword,
        tokenizer::{Token, Tokenizer},
    },
};

use crate::{config::SqlConfig, error::SqlError};

/// Operators that a left-deep tree may chain: each is a level of recursion in the planner.
const MAX_CHAIN: usize = 500;

/// Calls in calls: the parser reads each argument twice (it may be named by an expression), so every
/// level doubles its work, and 50 of them would never end.
const MAX_CALL_DEPTH: usize = 14;

/// Parses one statement that only reads.
pub(super) fn parse(text: &str, limits: &SqlConfig) -> Result<Statement, SqlError> {
    check_tokens(text, limits)?;
    let dialect = PostgreSqlDialect {};
    let parser: Result<DFParser<'_>, _> =
        DFParserBuilder::new(text).with_dialect(&dialect).with_recursion_limit(2 * limits.max_depth).build();
    let mut statements =
        parser.and_then(|mut parser| parser.parse_statements()).map_err(|e| SqlError::Syntax(e.strip_backtrace()))?;
    let only = statements.pop_front().ok_or_else(|| SqlError::Syntax("the statement is empty".into()))?;
    if !statements.is_empty() {
        return Err(SqlError::NotReadOnly("more than one statement".into()));
    }
    unwrapped(only)
}

/// Refuses a text that is too much for a parser.
pub(super) fn check_tokens(text: &str, limits: &SqlConfig) -> Result<(), SqlError> {
    if text.len() > limits.max_text_bytes {
        return Err(SqlError::TooLong { bytes: text.len(), limit: limits.max_text_bytes });
    }
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize();
    let tokens = tokens.map_err(|error| SqlError::Syntax(error.to_string()))?;
    let words = tokens.iter().filter(|token| !matches!(token, Token::Whitespace(_)));
    if words.clone().count() > limits.max_tokens {
        return Err(SqlError::TooManyTokens { limit: limits.max_tokens });
    }
    let (mut depth, mut chain, mut arms) = (0_usize, 0, 0);
    let mut calls = Calls::default();
    for token in words {
        calls.see(token);
        if calls.deepest > MAX_CALL_DEPTH {
            return Err(SqlError::TooDeep { limit: MAX_CALL_DEPTH });
        }
        match token {
            Token::LParen | Token::LBracket | Token::LBrace => depth += 1,
            Token::RParen | Token::RBracket | Token::RBrace => depth = depth.saturating_sub(1),
            Token::Plus | Token::Minus | Token::Mul | Token::Div | Token::StringConcat => chain += 1,
            Token::Word(word) => match word.keyword {
                Keyword::AND | Keyword::OR | Keyword::NOT => chain += 1,
                Keyword::UNION | Keyword::INTERSECT | Keyword::EXCEPT => arms += 1,
                Keyword::CASE => depth += 1,
                Keyword::END => depth = depth.saturating_sub(1),
                _ => {}
            },
            _ => {}
        }
        if depth > limits.max_depth || arms > limits.max_depth {
            return Err(SqlError::TooDeep { limit: limits.max_depth });
        }
        if chain > MAX_CHAIN {
            return Err(SqlError::TooDeep { limit: MAX_CHAIN });
        }
    }
    Ok(())
}

/// How deep function calls stand in each other.
#[derive(Default)]
struct Calls {
    /// The open parentheses: whether each belongs to a call.
    open: Vec<bool>,
    depth: usize,
    deepest: usize,
    /// The last token can be the name of a function.
    named: bool,
}

impl Calls {
    fn see(&mut self, token: &Token) {
        match token {
            Token::LParen => {
                self.open.push(self.named);
                self.depth += usize::from(self.named);
                self.deepest = self.deepest.max(self.depth);
            }
            Token::RParen => self.depth -= usize::from(self.open.pop().unwrap_or(false)),
            _ => {}
        }
        self.named = matches!(token, Token::Word(word) if !NOT_A_NAME.contains(&word.keyword));
    }
}

/// Words before a parenthesis that is not a call's.
const NOT_A_NAME: [Keyword; 32] = [
    Keyword::ALL,
    Keyword::AND,
    Keyword::ANY,
    Keyword::AS,
    Keyword::BETWEEN,
    Keyword::BY,
    Keyword::CASE,
    Keyword::DISTINCT,
    Keyword::ELSE,
    Keyword::EXCEPT,
    Keyword::EXISTS,
    Keyword::FILTER,
    Keyword::FROM,
    Keyword::GROUP,
    Keyword::HAVING,
    Keyword::IN,
    Keyword::INTERSECT,
    Keyword::JOIN,
    Keyword::LATERAL,
    Keyword::LIKE,
    Keyword::MATERIALIZED,
    Keyword::NOT,
    Keyword::ON,
    Keyword::OR,
    Keyword::OVER,
    Keyword::SELECT,
    Keyword::THEN,
    Keyword::UNION,
    Keyword::USING,
    Keyword::VALUES,
    Keyword::WHEN,
    Keyword::WHERE,
];

fn unwrapped(statement: DfStatement) -> Result<Statement, SqlError> {
    let refused = |what: &str| Err(SqlError::NotReadOnly(what.into()));
    match statement {
        DfStatement::Statement(statement) => read_only(&statement).map(|()| *statement),
        DfStatement::Explain(explain) => match *explain.statement {
            DfStatement::Statement(inner) => {
                read_only(&inner)?;
                Ok(explained(inner, explain.options.analyze))
            }
            _ => refused("EXPLAIN of a statement that changes something"),
        },
        DfStatement::CopyTo(_) => refused("COPY"),
        DfStatement::CreateExternalTable(_) => refused("CREATE EXTERNAL TABLE"),
        DfStatement::Reset(_) => refused("RESET"),
    }
}

/// EXPLAIN as the planner knows it.
fn explained(statement: Box<Statement>, analyze: bool) -> Statement {
    Statement::Explain {
        describe_alias: DescribeAlias::Explain,
        analyze,
        verbose: false,
        query_plan: false,
        estimate: false,
        statement,
        format: None,
        options: None,
    }
}

/// A table of `information_schema` that tells how the engine is set up.
const SETTINGS: &str = "df_settings";

/// Refuses a statement that would change something, or reaches for what is not of the data.
pub(super) fn allowed(statement: &Statement) -> Result<(), SqlError> {
    read_only(statement)?;
    let settings = visit_relations(statement, |relation| {
        let last = relation.0.last().and_then(|part| part.as_ident());
        match last.is_some_and(|name| name.value.eq_ignore_ascii_case(SETTINGS)) {
            true => ControlFlow::Break(relation.to_string()),
            false => ControlFlow::Continue(()),
        }
    });
    settings.break_value().map_or(Ok(()), |name| Err(SqlError::Syntax(format!("table '{name}' not found"))))
}

/// Refuses a statement that would change something.
fn read_only(statement: &Statement) -> Result<(), SqlError> {
    let fine = match statement {
        Statement::Query(query) => only_selects(&query.body),
        Statement::Explain { statement, .. } => return read_only(statement),
        Statement::ShowTables { .. } | Statement::ShowColumns { .. } | Statement::ExplainTable { .. } => true,
        _ => false,
    };
    if fine {
        return Ok(());
    }
    let text = statement.to_string();
    let first = text.split_whitespace().next().unwrap_or_default();
    Err(SqlError::NotReadOnly(first.to_owned()))
}

fn only_selects(body: &SetExpr) -> bool {
    match body {
        SetExpr::Select(select) => select.into.is_none(),
        SetExpr::Query(query) => only_selects(&query.body),
        SetExpr::SetOperation { left, right, .. } => only_selects(left) && only_selects(right),
        SetExpr::Values(_) | SetExpr::Table(_) => true,
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_changes_something_is_refused_by_name() {
        let cases = [
            ("DROP TABLE spans", "DROP"),
            ("SET datafusion.runtime.memory_limit = '1'", "SET"),
            ("INSERT INTO spans VALUES (1)", "INSERT"),
            ("CREATE VIEW v AS SELECT 1", "CREATE"),
            ("COPY spans TO 'x.csv'", "COPY"),
            ("CREATE EXTERNAL TABLE t STORED AS CSV LOCATION 'x'", "CREATE EXTERNAL TABLE"),
            ("SELECT 1; SELECT 2", "more than one"),
            ("DELETE FROM spans", "DELETE"),
            ("EXPLAIN DROP TABLE spans", "DROP"),
        ];
        for (text, what) in cases {
            match parse(text, &SqlConfig::default()) {
                Err(SqlError::NotReadOnly(why)) => assert!(why.contains(what), "{text}: {why}"),
                other => panic!("{text}: {other:?}"),
            }
        }
    }

    #[test]
    fn what_would_overflow_a_stack_is_refused_before_parsing() {
        let long = |item: &str| format!("SELECT 1{}", item.repeat(3000));
        let parens = format!("SELECT {}1{}", "(".repeat(200), ")".repeat(200));
        for text in [
            long("+1"),
            long(" UNION ALL SELECT 1"),
            format!("SELECT 1 WHERE true{}", " AND true".repeat(3000)),
            parens,
            format!("SELECT {}1{}", "abs(".repeat(15), ")".repeat(15)),
        ] {
            let refused = parse(&text, &SqlConfig::default());
            assert!(matches!(refused, Err(SqlError::TooManyTokens { .. } | SqlError::TooDeep { .. })), "{refused:?}");
        }
        let refused = parse(&format!("SELECT '{}'", "x".repeat(70_000)), &SqlConfig::default());
        assert!(matches!(refused, Err(SqlError::TooLong { .. })));
    }

    #[test]
    fn settings_are_not_there() {
        for text in [
            "SELECT * FROM information_schema.df_settings",
            "SELECT 1 WHERE EXISTS (SELECT 1 FROM weir.INFORMATION_SCHEMA.\"DF_SETTINGS\")",
            "EXPLAIN SELECT * FROM information_schema.df_settings",
            "DESCRIBE information_schema.df_settings",
        ] {
            let refused = parse(text, &SqlConfig::default()).and_then(|statement| allowed(&statement));
            assert!(matches!(&refused, Err(SqlError::Syntax(why)) if why.contains("not found")), "{text}: {refused:?}");
        }
        assert!(
            parse("SELECT * FROM information_schema.tables", &SqlConfig::default()).is_ok_and(|s| allowed(&s).is_ok())
        );
    }

    #[test]
    fn reading_is_allowed() {
        for text in [
            "SELECT 1",
            "WITH a AS (SELECT 1) SELECT * FROM a",
            "VALUES (1)",
            "EXPLAIN SELECT 1",
            "SHOW TABLES",
            "DESCRIBE spans",
            "SELECT round(coalesce(sum(nullif(abs(duration_ns), 0)), 1) / (count(*) + (1)), 2) FROM spans WHERE (a IN ((1), (2)))",
        ] {
            assert!(parse(text, &SqlConfig::default()).is_ok(), "{text}: {:?}", parse(text, &SqlConfig::default()));
        }
    }
}
