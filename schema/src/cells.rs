//! [`Bytes`] and [`Maps`]: columns of bytes as they grow. Text is kept as bytes and checked once per
//! column when it is finished: one pass over all cells costs a tenth of a check per cell. A value that
//! many rows share is appended for all of them at once.

use std::sync::Arc;

use arrow::{
    array::{BinaryArray, MapArray, NullBufferBuilder, StringArray, StructArray},
    buffer::{Buffer, OffsetBuffer, ScalarBuffer},
    datatypes::{DataType, Field},
    error::ArrowError,
};

use crate::columns;

/// A column of text or bytes.
pub(crate) struct Bytes {
    bytes: Vec<u8>,
    /// Where each cell ends; the first begins at 0.
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

/// A column of attribute maps.
pub(crate) struct Maps {
    pub(crate) keys: Bytes,
    pub(crate) values: Bytes,
    offsets: Vec<i32>,
    valid: NullBufferBuilder,
}

impl Bytes {
    pub(crate) fn new() -> Self {
        Self { bytes: Vec::new(), offsets: vec![0], valid: NullBufferBuilder::new(0) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Room for `rows` more cells of `bytes` in all.
    pub(crate) fn reserve(&mut self, rows: usize, bytes: usize) {
        self.offsets.reserve(rows);
        self.bytes.reserve(bytes);
    }

    #[inline]
    pub(crate) fn append(&mut self, value: &[u8]) {
        self.bytes.extend_from_slice(value);
        self.end_cell();
    }

    /// The same value in `rows` cells.
    pub(crate) fn append_n(&mut self, value: &[u8], rows: usize) {
        self.reserve(rows, rows * value.len());
        for _ in 0..rows {
            self.bytes.extend_from_slice(value);
            self.offsets.push(offset(self.bytes.len()));
        }
        self.valid.append_n_non_nulls(rows);
    }

    pub(crate) fn append_nulls(&mut self, rows: usize) {
        let end = offset(self.bytes.len());
        self.offsets.resize(self.offsets.len() + rows, end);
        self.valid.append_n_nulls(rows);
    }

    /// Room for the bytes of the cell that `end_cell` ends.
    #[inline]
    pub(crate) fn open_cell(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }

    #[inline]
    pub(crate) fn end_cell(&mut self) {
        self.offsets.push(offset(self.bytes.len()));
        self.valid.append_non_null();
    }

    /// All cells of `other`, `times` over; it has no nulls.
    fn append_all(&mut self, other: &Self, times: usize) {
        self.reserve(times * other.len(), times * other.bytes.len());
        for _ in 0..times {
            let base = offset(self.bytes.len());
            self.bytes.extend_from_slice(&other.bytes);
            self.offsets.extend(other.offsets[1..].iter().map(|end| base + end));
        }
        self.valid.append_n_non_nulls(times * other.len());
    }

    pub(crate) fn finish_binary(self) -> BinaryArray {
        let Self { bytes, offsets, mut valid } = self;
        BinaryArray::try_new(offsets_of(offsets), Buffer::from_vec(bytes), valid.finish())
            .expect("each cell ends where the next begins")
    }

    /// # Errors
    /// A cell that is not UTF-8.
    pub(crate) fn finish_text(self) -> Result<StringArray, ArrowError> {
        let Self { bytes, offsets, mut valid } = self;
        StringArray::try_new(offsets_of(offsets), Buffer::from_vec(bytes), valid.finish())
    }
}

impl Maps {
    pub(crate) fn new() -> Self {
        Self { keys: Bytes::new(), values: Bytes::new(), offsets: vec![0], valid: NullBufferBuilder::new(0) }
    }

    #[inline]
    pub(crate) fn len(&self) -> usize {
        self.offsets.len() - 1
    }

    /// Room for `rows` more maps.
    pub(crate) fn reserve(&mut self, rows: usize) {
        self.offsets.reserve(rows);
    }

    /// Ends a map that has the entries appended since the last.
    #[inline]
    pub(crate) fn end_map(&mut self) {
        debug_assert_eq!(self.keys.len(), self.values.len(), "entries are pairs");
        self.offsets.push(offset(self.keys.len()));
        self.valid.append_non_null();
    }

    pub(crate) fn append_nulls(&mut self, rows: usize) {
        let end = offset(self.keys.len());
        self.offsets.resize(self.offsets.len() + rows, end);
        self.valid.append_n_nulls(rows);
    }

    /// The one map of `other` in `rows` rows.
    pub(crate) fn append_n(&mut self, other: &Self, rows: usize) {
        self.keys.append_all(&other.keys, rows);
        self.values.append_all(&other.values, rows);
        let (first, entries) = (self.keys.len() - rows * other.keys.len(), other.keys.len());
        self.offsets.extend((1..=rows).map(|row| offset(first + row * entries)));
        self.valid.append_n_non_nulls(rows);
    }

    /// Bytes of all keys and values.
    pub(crate) fn text_bytes(&self) -> usize {
        self.keys.bytes.len() + self.values.bytes.len()
    }

    /// # Errors
    /// A key or value that is not UTF-8.
    pub(crate) fn finish(self) -> Result<MapArray, ArrowError> {
        let Self { keys, values, offsets, mut valid } = self;
        let DataType::Map(entry, ordered) = columns::attribute_map() else { unreachable!("a map is a map") };
        let DataType::Struct(fields) = entry.data_type() else { unreachable!("a map's entries are structs") };
        let pairs = vec![Arc::new(keys.finish_text()?) as _, Arc::new(values.finish_text()?) as _];
        let entries = StructArray::try_new(fields.clone(), pairs, None)?;
        MapArray::try_new(entry as Arc<Field>, offsets_of(offsets), entries, valid.finish(), ordered)
    }
}

#[inline]
fn offset(length: usize) -> i32 {
    i32::try_from(length).expect("the cells of a request are smaller than 2 GiB")
}

pub(crate) fn offsets_of(offsets: Vec<i32>) -> OffsetBuffer<i32> {
    OffsetBuffer::new(ScalarBuffer::from(offsets))
}

#[cfg(test)]
mod tests {
    use arrow::array::Array;

    use super::*;

    #[test]
    fn cells_nulls_and_repetitions_stand_in_order() {
        let mut cells = Bytes::new();
        cells.append(b"a");
        cells.append_nulls(2);
        cells.append_n(b"bc", 2);
        cells.open_cell().extend_from_slice(b"d");
        cells.end_cell();
        let text = cells.finish_text().unwrap();
        let expected = [Some("a"), None, None, Some("bc"), Some("bc"), Some("d")];
        assert_eq!(text.iter().collect::<Vec<_>>(), expected);
    }

    #[test]
    fn text_that_is_not_utf8_is_found_even_when_the_cells_together_are() {
        for cells_of in [&[b"\xff" as &[u8]][..], &[b"\xc3", b"\xa9"]] {
            let mut cells = Bytes::new();
            cells_of.iter().for_each(|cell| cells.append(cell));
            assert!(cells.finish_text().is_err(), "{cells_of:?}");
        }
    }

    #[test]
    fn a_map_is_repeated() {
        let mut one = Maps::new();
        one.keys.append(b"k");
        one.values.append(b"v");
        one.end_map();
        let mut maps = Maps::new();
        maps.append_nulls(1);
        maps.append_n(&one, 2);
        maps.end_map();
        let maps = maps.finish().unwrap();
        let lengths: Vec<_> = (0..4).map(|row| maps.is_valid(row).then(|| maps.value(row).len())).collect();
        assert_eq!(lengths, [None, Some(1), Some(1), Some(0)]);
    }
}
