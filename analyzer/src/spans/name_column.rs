//! [`NameColumn`]: a column of names that remembers some: rows of one sender stand together and name the same few.

use std::cell::Cell;

use arrow::array::{Array, StringArray};

use crate::names::{Name, Names, Role};

/// Texts and the names they are.
pub(super) struct NameColumn<'a> {
    pub(super) texts: &'a StringArray,
    role: Role,
    /// By the last bytes of the text: where names differ.
    seen: Box<[Seen<'a>]>,
}

/// A text and its name.
type Seen<'a> = Cell<Option<(&'a str, Name)>>;

/// So many of 24 bytes at most: a column's stay within the second cache; of 512, replicas of 1,000 services displaced each other. A small
/// batch has as many as rows, or clearing them would cost more than they save.
const MAX_SEEN: usize = 4_096;

impl<'a> NameColumn<'a> {
    pub(super) fn new(role: Role, texts: &'a StringArray) -> Self {
        let places = texts.len().next_power_of_two().min(MAX_SEEN);
        Self { texts, role, seen: vec![Cell::new(None); places].into() }
    }

    pub(super) fn name(&self, row: usize, names: &mut Names) -> Name {
        let text = self.texts.value(row);
        let place = &self.seen[hash_of(text) % self.seen.len()];
        if let Some((seen, name)) = place.get()
            && seen == text
        {
            return name;
        }
        let name = names.said(self.role, text);
        place.set(Some((text, name)));
        name
    }
}

fn hash_of(text: &str) -> usize {
    let mix = |hash: usize, byte: &u8| hash.wrapping_mul(37).wrapping_add(*byte as usize);
    text.as_bytes().iter().rev().take(6).fold(text.len(), mix)
}
