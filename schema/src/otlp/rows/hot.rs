//! [`hot_place`]: which attributes have a column of their own.

use std::sync::LazyLock;

use crate::{Table, columns};

/// Attribute names that have a column of their own. Names are told apart by their length first: most
/// attributes meet no name of their length, or one.
struct Hot {
    by_length: Vec<Vec<(&'static str, usize)>>,
}

/// The column that an attribute of this name has of its own in a table.
pub(in crate::otlp) fn hot_place(table: Table, name: &[u8]) -> Option<usize> {
    static TABLES: LazyLock<Vec<Hot>> = LazyLock::new(|| Table::ALL.into_iter().map(Hot::of).collect());
    TABLES[table as usize].place(name)
}

impl Hot {
    fn of(table: Table) -> Self {
        let mut by_length = Vec::new();
        for (place, column) in columns::columns(table).into_iter().enumerate() {
            let Some(name) = column.attribute else { continue };
            if by_length.len() <= name.len() {
                by_length.resize_with(name.len() + 1, Vec::new);
            }
            by_length[name.len()].push((name, place));
        }
        Self { by_length }
    }

    fn place(&self, name: &[u8]) -> Option<usize> {
        let candidates = self.by_length.get(name.len())?;
        candidates.iter().find(|(candidate, _)| candidate.as_bytes() == name).map(|(_, place)| *place)
    }
}
