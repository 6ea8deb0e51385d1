//! How large a statement is once each name of its WITH stands for what it means: a name that is used
//! twice by the next, and that twice by a third, makes of a short text a plan that nobody finishes.
//! Asked of the syntax, because the planner walks the whole plan for each query that it adds to it.

use std::{collections::HashMap, ops::ControlFlow};

use datafusion::sql::sqlparser::ast::{
    Expr, GroupByExpr, ObjectName, Query, Select, SelectItem, Statement, Visit, Visitor, visit_expressions,
};

use crate::error::SqlError;

/// Tables and SELECTs that a statement may come to.
const MAX_PARTS: usize = 500;

/// Sets that a GROUP BY may come to: those of CUBE double with each expression.
const MAX_GROUPING_SETS: usize = 4_096;

/// Fields that a column of structs may come to: the type of one made of two of another has twice as many, and is walked whenever
/// something is planned.
const MAX_FIELDS: usize = 4_096;

/// Functions that make a struct of their arguments.
const STRUCTS: [&str; 4] = ["struct", "named_struct", "row", "map"];

/// Refuses a statement that comes to too much.
pub(super) fn check(statement: &Statement) -> Result<(), SqlError> {
    let mut parts = Parts::default();
    match statement.visit(&mut parts) {
        ControlFlow::Break(error) => Err(error),
        ControlFlow::Continue(()) => Ok(()),
    }
}

/// The queries around the place that is looked at, the innermost last.
#[derive(Default)]
struct Parts {
    queries: Vec<Level>,
}

/// A query.
#[derive(Default)]
struct Level {
    /// What it comes to so far.
    parts: usize,
    /// Fields of its widest column.
    fields: usize,
    /// Fields of the widest column that each SELECT under way reads.
    selects: Vec<usize>,
    /// Names of its WITH that are still to come: their queries are visited first, in order.
    unread: Vec<String>,
    /// Names of its WITH, and what each comes to.
    named: HashMap<String, Named>,
}

/// What a name stands for.
#[derive(Clone, Copy)]
struct Named {
    parts: usize,
    fields: usize,
}

/// A table.
const TABLE: Named = Named { parts: 1, fields: 1 };

impl Parts {
    fn add(&mut self, parts: usize) -> ControlFlow<SqlError> {
        let Some(level) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        level.parts = level.parts.saturating_add(parts);
        bounded(level.parts, "tables and SELECTs, names of WITH put in", MAX_PARTS)
    }

    /// What a name comes to: the innermost that is known, a table else.
    fn of(&self, relation: &ObjectName) -> Named {
        let [only] = relation.0.as_slice() else { return TABLE };
        let name = only.as_ident().map(|name| name.value.to_lowercase()).unwrap_or_default();
        self.queries.iter().rev().find_map(|level| level.named.get(&name)).copied().unwrap_or(TABLE)
    }

    /// What the innermost SELECT reads has columns of so many fields.
    fn read(&mut self, fields: usize) {
        if let Some(select) = self.queries.last_mut().and_then(|level| level.selects.last_mut()) {
            *select = fields.max(*select);
        }
    }
}

fn bounded(is: usize, what: &'static str, limit: usize) -> ControlFlow<SqlError> {
    if is > limit { ControlFlow::Break(SqlError::TooComplex { what, limit }) } else { ControlFlow::Continue(()) }
}

impl Visitor for Parts {
    type Break = SqlError;

    fn pre_visit_query(&mut self, query: &Query) -> ControlFlow<SqlError> {
        let names = query.with.iter().flat_map(|with| &with.cte_tables);
        let unread = names.map(|cte| cte.alias.name.value.to_lowercase()).rev().collect();
        self.queries.push(Level { unread, ..Level::default() });
        ControlFlow::Continue(())
    }

    fn post_visit_query(&mut self, _: &Query) -> ControlFlow<SqlError> {
        let (parts, fields) = self.queries.pop().map_or((0, 1), |level| (level.parts, level.fields.max(1)));
        let Some(around) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        match around.unread.pop() {
            Some(name) => {
                // names that differ in the case of letters only count as the larger
                let named = around.named.entry(name).or_insert(TABLE);
                *named = Named { parts: parts.max(named.parts), fields: fields.max(named.fields) };
                ControlFlow::Continue(())
            }
            None => {
                self.read(fields);
                self.add(parts)
            }
        }
    }

    fn pre_visit_select(&mut self, select: &Select) -> ControlFlow<SqlError> {
        if let GroupByExpr::Expressions(by, _) = &select.group_by {
            let sets = by.iter().map(grouping_sets).fold(1, usize::saturating_mul);
            bounded(sets, "sets to group by", MAX_GROUPING_SETS)?;
        }
        if let Some(level) = self.queries.last_mut() {
            level.selects.push(1);
        }
        self.add(1)
    }

    fn post_visit_select(&mut self, select: &Select) -> ControlFlow<SqlError> {
        let Some(level) = self.queries.last_mut() else { return ControlFlow::Continue(()) };
        let read = level.selects.pop().unwrap_or(1);
        let made = select.projection.iter().map(columns_in_structs).max().unwrap_or(0).max(1);
        level.fields = level.fields.max(read.saturating_mul(made));
        bounded(level.fields, "fields in a column, names of WITH put in", MAX_FIELDS)
    }

    fn pre_visit_relation(&mut self, relation: &ObjectName) -> ControlFlow<SqlError> {
        let named = self.of(relation);
        self.read(named.fields);
        self.add(named.parts)
    }
}

/// Columns that a part of an answer puts into structs.
fn columns_in_structs(item: &SelectItem) -> usize {
    let mut columns = 0;
    let _: ControlFlow<()> = visit_expressions(item, |expr| {
        if makes_a_struct(expr) {
            let _: ControlFlow<()> = visit_expressions(expr, |inner| {
                columns += usize::from(matches!(inner, Expr::Identifier(_) | Expr::CompoundIdentifier(_)));
                ControlFlow::Continue(())
            });
        }
        ControlFlow::Continue(())
    });
    columns
}

fn makes_a_struct(expr: &Expr) -> bool {
    match expr {
        Expr::Struct { .. } | Expr::Tuple(_) | Expr::Dictionary(_) | Expr::Map(_) => true,
        Expr::Function(function) => {
            let name = function.name.to_string().to_lowercase();
            STRUCTS.contains(&name.as_str())
        }
        _ => false,
    }
}

fn grouping_sets(by: &Expr) -> usize {
    match by {
        Expr::Cube(by) => 1_usize.checked_shl(by.len() as u32).unwrap_or(usize::MAX),
        Expr::Rollup(by) => by.len() + 1,
        Expr::GroupingSets(sets) => sets.len(),
        _ => 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{config::SqlConfig, query::guard};

    fn checked(text: &str) -> Result<(), SqlError> {
        check(&guard::parse(text, &SqlConfig::default()).unwrap())
    }

    /// `step` so many times, each over the one before.
    fn chain(step: &str, times: usize) -> String {
        let steps = (1..=times).map(|n| format!("a{n} AS ({})", step.replace('@', &format!("a{}", n - 1))));
        let steps: Vec<_> = steps.collect();
        format!("WITH a0 AS (SELECT service FROM spans), {} SELECT count(*) FROM a{times}", steps.join(", "))
    }

    #[test]
    fn what_doubles_is_refused_and_what_adds_up_is_not() {
        let cases = [
            (chain("SELECT * FROM @ UNION ALL SELECT * FROM @", 5), true),
            (chain("SELECT * FROM @ UNION ALL SELECT * FROM @", 18), false),
            (chain("SELECT x.service FROM @ x, @ y", 17), false),
            (chain("SELECT x.service FROM @ x, @ y", 120), false),
            (chain("SELECT service FROM @ WHERE service IN (SELECT service FROM @)", 20), false),
            (chain("SELECT (SELECT max(service) FROM @) AS service FROM @", 20), false),
            (chain("SELECT service FROM @", 100), true),
            (chain("SELECT struct(service, service) AS service FROM @", 12), true),
            (chain("SELECT struct(service, service) AS service FROM @", 13), false),
            (
                chain(
                    "SELECT named_struct('a', upper(@.service), 'b', (service, 1)) AS service FROM @ WHERE 1 = 1",
                    40,
                ),
                false,
            ),
            (chain("SELECT service FROM (SELECT (service, service) AS service FROM @) x", 40), false),
            (
                format!(
                    "SELECT struct(kind, kind) FROM spans{}",
                    " UNION ALL SELECT struct(kind, kind) FROM spans".repeat(40)
                ),
                true,
            ),
            ("WITH a AS (SELECT 1), b AS (WITH a AS (SELECT 2) SELECT * FROM a) SELECT * FROM a, b".into(), true),
            (format!("EXPLAIN {}", chain("SELECT * FROM @ UNION ALL SELECT * FROM @", 18)), false),
            ("WITH RECURSIVE r AS (SELECT 1 AS n UNION ALL SELECT n + 1 FROM r) SELECT * FROM r".into(), true),
            (format!("SELECT 1 FROM spans GROUP BY CUBE (kind{})", ", kind".repeat(11)), true),
            (format!("SELECT 1 FROM spans GROUP BY CUBE (kind{})", ", kind".repeat(12)), false),
            (format!("SELECT 1 FROM spans GROUP BY CUBE (kind{})", ", kind".repeat(70)), false),
            (format!("SELECT 1 FROM spans GROUP BY {}ROLLUP (kind)", "ROLLUP (kind, kind, kind), ".repeat(7)), false),
        ];
        for (text, fits) in cases {
            let checked = checked(&text);
            assert_eq!(checked.is_ok(), fits, "{text}: {checked:?}");
        }
    }
}
