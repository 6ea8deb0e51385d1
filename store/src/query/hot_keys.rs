//! Whether rows keep, in their map, an attribute that has a column of its own: its value did not fit
//! the column's type, so `attributes['k']` has to look into the map too.

use std::{collections::HashSet, sync::LazyLock};

use arrow::{
    array::{Array, AsArray},
    record_batch::RecordBatch,
};
use weir_schema::{Table, columns};

static HOT: LazyLock<HashSet<&str>> =
    LazyLock::new(|| columns::columns(Table::Spans).iter().filter_map(|column| column.attribute).collect());

/// Whether an attribute of a span has a column of its own.
pub(super) fn is_hot(key: &str) -> bool {
    HOT.contains(key)
}

/// Looks through the keys of the rows of `spans`.
pub(crate) fn any_in_map(rows: &RecordBatch) -> bool {
    let Some(map) = rows.column_by_name("attributes").and_then(|column| column.as_map_opt()) else { return false };
    let Some(keys) = map.keys().as_string_opt::<i32>() else { return true };
    let (first, last) = (map.value_offsets().first(), map.value_offsets().last());
    let entries = first.zip(last).map_or(0..0, |(first, last)| *first as usize..*last as usize);
    entries.into_iter().any(|at| keys.is_valid(at) && HOT.contains(keys.value(at)))
}
