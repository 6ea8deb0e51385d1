//! [`EncodedPage`]: a page of texts, such as a map's keys or values, as it stands in a file, unpacked but
//! not decoded.
//! Repetition levels tell where rows begin, definition levels which entries have a text; the texts are
//! places in a dictionary or stand one after another. What is sought is found among those as they are: no
//! text is made, and of the values none is touched that does not belong to a wanted key.

use arrow::buffer::BooleanBuffer;
use bytes::Bytes;
use parquet::{basic::Encoding, column::page::Page};

use super::{
    bits::Bits,
    runs::{Run, Runs, levels_from},
    texts::{Plain, Texts},
};

/// A page.
#[derive(Debug)]
pub(super) struct EncodedPage {
    first_row: usize,
    levels: usize,
    /// Levels that begin a row.
    starts: Bits,
    /// Levels that have a text; the others are of nulls and of empty maps.
    with_text: Bits,
    texts: Stored,
    count: usize,
}

/// How the texts of a page are stored.
#[derive(Debug)]
enum Stored {
    Plain(Bytes),
    /// As places in a dictionary.
    Places {
        width: usize,
        packed: Bytes,
    },
}

/// How deep a column's texts are.
#[derive(Clone, Copy, Debug)]
pub(super) struct Depth {
    /// A row may have many.
    pub(super) repeated: bool,
    /// The definition level of a text; at lower ones something around it is null or empty.
    pub(super) defined: u32,
}

/// An entry of a row's map, or a row's only text.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Entry {
    pub(super) row: usize,
    /// Counted from the row's first.
    place: usize,
}

impl EncodedPage {
    /// `None`: it is of a form that is not known here.
    pub(super) fn of(page: Page, first_row: usize, depth: Depth) -> Option<Self> {
        let Page::DataPage {
            buf,
            num_values,
            encoding,
            def_level_encoding: Encoding::RLE,
            rep_level_encoding: Encoding::RLE,
            ..
        } = page
        else {
            return None;
        };
        let levels = num_values as usize;
        let all = || BooleanBuffer::new_set(levels);
        let (starts, rest) = match depth.repeated {
            true => section(&buf).and_then(|(bytes, rest)| Some((!&levels_from(1, 1, &bytes, levels)?, rest)))?,
            false => (all(), buf),
        };
        let (with_text, texts) = match depth.defined {
            0 => (all(), rest),
            most => section(&rest).and_then(|(bytes, rest)| Some((levels_from(most, most, &bytes, levels)?, rest)))?,
        };
        let texts = match encoding {
            Encoding::PLAIN => Stored::Plain(texts),
            #[allow(deprecated)] // old files have it
            Encoding::RLE_DICTIONARY | Encoding::PLAIN_DICTIONARY => match texts.first() {
                Some(width) => Stored::Places { width: usize::from(*width), packed: texts.slice(1..) },
                None => Stored::Plain(texts), // no text at all
            },
            _ => return None,
        };
        let count = with_text.count_set_bits();
        Some(Self { first_row, levels, starts: Bits::of(&starts), with_text: Bits::of(&with_text), texts, count })
    }

    /// Whether a sought text may be in it.
    pub(super) fn may_have(&self, sought: &Texts) -> bool {
        match &self.texts {
            Stored::Plain(bytes) => sought.may_be_in(bytes),
            Stored::Places { .. } => sought.any_in_dictionary(),
        }
    }

    /// Of each row the first entry with a sought text. `None`: the page is not what it says.
    pub(super) fn first_entries(&self, sought: &Texts) -> Option<Vec<Entry>> {
        let mut entries: Vec<Entry> = Vec::new();
        for nth in self.texts.all(sought, self.count)? {
            let level = self.with_text.select(nth)?;
            let row = self.starts.rank(level + 1).checked_sub(1)?;
            let place = level - self.starts.select(row)?;
            let row = self.first_row + row;
            if entries.last().is_none_or(|before| before.row < row) {
                entries.push(Entry { row, place });
            }
        }
        Some(entries)
    }

    /// Which of these entries, in order, have a sought text: their rows. `None`: the page is not what it
    /// says, or not a page of the same map.
    pub(super) fn rows(&self, of: &[Entry], sought: &Texts) -> Option<Vec<usize>> {
        let mut with_text = Vec::with_capacity(of.len());
        for entry in of {
            let row = entry.row.checked_sub(self.first_row)?;
            let level = self.starts.select(row)? + entry.place;
            let of_row = level < self.levels && self.starts.rank(level + 1) == row + 1;
            if !of_row {
                return None;
            }
            if self.with_text.get(level) {
                with_text.push((self.with_text.rank(level), entry.row));
            }
        }
        self.texts.some(sought, self.count, &with_text)
    }
}

impl Stored {
    /// Which texts of all, by their number, are sought.
    fn all(&self, sought: &Texts, count: usize) -> Option<Vec<usize>> {
        match self {
            Self::Plain(bytes) => {
                let texts: Vec<bool> = Plain(bytes).take(count).map(|text| sought.have(text)).collect();
                (texts.len() == count).then(|| (0..count).filter(|nth| texts[*nth]).collect())
            }
            Self::Places { width, packed } => sought_places(sought, Runs::new(packed, *width, count), count),
        }
    }

    /// The rows of those texts, given by their number in ascending order, that are sought.
    fn some(&self, sought: &Texts, count: usize, texts: &[(usize, usize)]) -> Option<Vec<usize>> {
        let mut rows = Vec::new();
        let mut seen = 0;
        match self {
            Self::Plain(bytes) => {
                let mut plain = Plain(bytes);
                for (nth, row) in texts {
                    let text = plain.nth(nth - seen)?;
                    seen = nth + 1;
                    rows.extend(sought.have(text).then_some(*row));
                }
            }
            Self::Places { width, packed } => {
                let mut runs = Runs::new(packed, *width, count);
                let mut texts = texts.iter().peekable();
                while texts.peek().is_some() {
                    let run = runs.next()?;
                    let end = seen + run.count();
                    while let Some((nth, row)) = texts.next_if(|(nth, _)| *nth < end) {
                        rows.extend(sought.have_place(run.get(nth - seen))?.then_some(*row));
                    }
                    seen = end;
                }
            }
        }
        Some(rows)
    }
}

/// Which of so many places in a dictionary have a sought text. `None`: some are missing, or not in it.
fn sought_places(sought: &Texts, runs: Runs<'_>, count: usize) -> Option<Vec<usize>> {
    let mut found = Vec::new();
    let mut seen = 0;
    for run in runs {
        match run {
            Run::Same { number, count } if sought.have_place(number)? => found.extend(seen..seen + count),
            Run::Same { .. } => {}
            Run::Packed(places) => {
                for (at, place) in places.iter().enumerate() {
                    if sought.have_place(place)? {
                        found.push(seen + at);
                    }
                }
            }
        }
        seen += run.count();
    }
    (seen == count).then_some(found)
}

/// Bytes behind their length, and what comes after.
fn section(bytes: &Bytes) -> Option<(Bytes, Bytes)> {
    let length = u32::from_le_bytes(*bytes.first_chunk()?) as usize;
    let end = length.checked_add(4).filter(|end| *end <= bytes.len())?;
    Some((bytes.slice(4..end), bytes.slice(end..)))
}
