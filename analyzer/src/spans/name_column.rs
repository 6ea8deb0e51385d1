//! [`NameColumn`]: a column of names that remembers some: rows of one sender stand together and name the same few.

use std::cell::Cell;

use arrow::array::{Array, StringArray};

use crate::names::{Name, Names, Role};

/// Texts and the names they are.
pub(super) struct NameColumn<'a> {
    pub(super) texts: &'a StringArray,
    role: Role,
    /// By the last bytes of the text, a power of two of them.
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
        let place = &self.seen[hash_of(text) & (self.seen.len() - 1)];
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

/// Of the last eight bytes, where names differ, and the length (D. Knuth, "The Art of Computer Programming", volume 3, 1973, section 6.4).
fn hash_of(text: &str) -> usize {
    let bytes = text.as_bytes();
    let last = match bytes.last_chunk() {
        Some(last) => u64::from_le_bytes(*last),
        None => bytes.iter().fold(0, |all, byte| all << 8 | u64::from(*byte)),
    };
    ((last ^ bytes.len() as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 40) as usize
}
