//! Ids and texts in one column: an error that says what to write. The engine would make texts of the
//! bytes of ids, or the other way round.

use datafusion::{
    common::{DFSchema, Result, plan_err},
    logical_expr::{Expr, LogicalPlan},
};

use super::compared::{Kind, kind};

/// Functions that give one of their arguments.
pub(super) const CHOOSES: [&str; 6] = ["coalesce", "nullif", "nvl", "nvl2", "greatest", "least"];

/// Refuses a choice between ids and texts.
pub(super) fn mixed<'a>(what: &str, choices: impl IntoIterator<Item = &'a Expr>, schema: &DFSchema) -> Result<()> {
    let choices: Vec<&Expr> = choices.into_iter().collect();
    let of = |wanted: Kind| choices.iter().find(|choice| kind(choice, schema) == Some(wanted));
    match (of(Kind::Id), of(Kind::Text)) {
        (Some(id), Some(text)) => plan_err!("{what} gives an id, {id}, or a text, {text}: write hex({id})"),
        _ => Ok(()),
    }
}

/// What the engine said of types that do not go together, with what to write where one is an id's.
pub(in crate::query) fn explained(said: String) -> String {
    let of_an_id = said.contains("Binary") && said.contains("Utf8");
    if of_an_id { format!("{said}\nBinary is an id and Utf8 a text: write hex(id) to have a text of it") } else { said }
}

/// Refuses a UNION of ids with texts.
pub(super) fn mixed_arms(plan: &LogicalPlan) -> Result<()> {
    let LogicalPlan::Union(union) = plan else { return Ok(()) };
    let columns = union.inputs.iter().map(|arm| arm.schema().fields().len()).min().unwrap_or(0);
    let place_is_mixed = |place: &usize| {
        let kinds = union.inputs.iter().filter_map(|arm| Kind::of(arm.schema().field(*place).data_type()));
        let kinds: Vec<Kind> = kinds.collect();
        kinds.contains(&Kind::Id) && kinds.contains(&Kind::Text)
    };
    match (0..columns).find(place_is_mixed) {
        Some(place) => {
            let name = union.inputs[0].schema().field(place).name();
            plan_err!(
                "column {} of the UNION, {name}, is an id in one arm and a text in another: write hex({name})",
                place + 1
            )
        }
        None => Ok(()),
    }
}
