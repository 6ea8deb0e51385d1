//! The types of attributes beside their map. A map holds text, and the letters of the types are a column
//! of their own, so `SELECT attributes` alone would answer `"3"` where the span said 3. The plan selects the
//! letters too, in a column that people are not shown.

use std::sync::Arc;

use arrow::datatypes::DataType;
use datafusion::{
    common::{Column, DFSchema, ExprSchema, Result},
    logical_expr::{Expr, LogicalPlan, Projection, SubqueryAlias, expr::Alias},
};

use crate::render::hidden_types_of;

/// The plan with a hidden column of letters for each map of attributes that it answers, where they are
/// known: not across a UNION, a DISTINCT or a group.
pub(super) fn with_types(plan: LogicalPlan) -> Result<LogicalPlan> {
    Ok(match plan {
        LogicalPlan::Projection(Projection { expr: mut selected, input, .. }) => {
            let input = below(input)?;
            let letters: Vec<Expr> =
                selected.iter().filter_map(|one| letters_beside(one, &selected, input.schema())).collect();
            selected.extend(letters);
            LogicalPlan::Projection(Projection::try_new(selected, input)?)
        }
        LogicalPlan::SubqueryAlias(named) => {
            LogicalPlan::SubqueryAlias(SubqueryAlias::try_new(below(named.input)?, named.alias)?)
        }
        LogicalPlan::Sort(mut sort) => {
            sort.input = below(sort.input)?;
            LogicalPlan::Sort(sort)
        }
        LogicalPlan::Limit(mut limit) => {
            limit.input = below(limit.input)?;
            LogicalPlan::Limit(limit)
        }
        LogicalPlan::Filter(mut filter) => {
            filter.input = below(filter.input)?;
            LogicalPlan::Filter(filter)
        }
        other => other,
    })
}

fn below(input: Arc<LogicalPlan>) -> Result<Arc<LogicalPlan>> {
    with_types(Arc::unwrap_or_clone(input)).map(Arc::new)
}

/// The letters of a map that is selected as it is, unless they are selected under its name.
fn letters_beside(selected: &Expr, all: &[Expr], input: &DFSchema) -> Option<Expr> {
    let (map, relation, name) = match selected {
        Expr::Column(map) => (map, map.relation.clone(), &map.name),
        Expr::Alias(Alias { expr, relation, name, .. }) => match expr.as_ref() {
            Expr::Column(map) => (map, relation.clone(), name),
            _ => return None,
        },
        _ => return None,
    };
    let field = input.field_from_column(map).ok()?;
    if !matches!(field.data_type(), DataType::Map(..)) {
        return None;
    }
    let beside = |name: String| Some(Column { name, ..map.clone() }).filter(|column| input.has_column(column));
    let under_its_name = map.name.strip_suffix("attributes").map(|stem| format!("{stem}attribute_types"));
    let letters = under_its_name.and_then(beside).or_else(|| beside(hidden_types_of(&map.name)))?;
    let letters = Expr::Column(letters);
    let shown_beside = name == &map.name && all.contains(&letters);
    (!shown_beside).then(|| letters.alias_qualified(relation, hidden_types_of(name)))
}
