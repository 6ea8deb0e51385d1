//! [`Column`]: the cells of one column as they grow, of whichever type it has.

use std::sync::Arc;

use arrow::{
    array::{ArrayBuilder, ArrayRef, BooleanBuilder, Float64Builder, Int32Builder, Int64Builder, ListBuilder},
    datatypes::DataType,
    error::ArrowError,
};

use super::lists::{Events, Links};
use crate::cells::{Bytes, Maps};

/// One column.
pub(super) enum Column {
    Binary(Bytes),
    Text(Bytes),
    Long(Int64Builder),
    Int(Int32Builder),
    Double(Float64Builder),
    Bool(BooleanBuilder),
    Map(Box<Maps>),
    Doubles(ListBuilder<Float64Builder>),
    Events(Box<Events>),
    Links(Box<Links>),
}

impl Column {
    pub(super) fn new(name: &str, data_type: &DataType) -> Self {
        match data_type {
            DataType::Binary => Self::Binary(Bytes::new()),
            DataType::Utf8 => Self::Text(Bytes::new()),
            DataType::Int64 => Self::Long(Int64Builder::new()),
            DataType::Int32 => Self::Int(Int32Builder::new()),
            DataType::Float64 => Self::Double(Float64Builder::new()),
            DataType::Boolean => Self::Bool(BooleanBuilder::new()),
            DataType::Map(..) => Self::Map(Box::new(Maps::new())),
            DataType::List(item) if name == "events" => Self::Events(Box::new(Events::new(item))),
            DataType::List(item) if name == "links" => Self::Links(Box::new(Links::new(item))),
            DataType::List(item) => Self::Doubles(ListBuilder::new(Float64Builder::new()).with_field(item.clone())),
            other => unreachable!("no table has a column of type {other}"),
        }
    }

    #[inline]
    pub(super) fn len(&self) -> usize {
        match self {
            Self::Binary(c) | Self::Text(c) => c.len(),
            Self::Long(b) => b.len(),
            Self::Int(b) => b.len(),
            Self::Double(b) => b.len(),
            Self::Bool(b) => b.len(),
            Self::Map(m) => m.len(),
            Self::Doubles(b) => b.len(),
            Self::Events(e) => e.len(),
            Self::Links(l) => l.len(),
        }
    }

    /// Room for `rows` more.
    pub(super) fn reserve(&mut self, rows: usize) {
        match self {
            // an id, or a short name
            Self::Binary(c) | Self::Text(c) => c.reserve(rows, 16 * rows),
            Self::Long(b) if b.is_empty() => *b = Int64Builder::with_capacity(rows),
            Self::Map(m) => m.reserve(rows),
            _ => {}
        }
    }

    /// Nulls up to `rows`.
    #[inline]
    pub(super) fn fill(&mut self, rows: usize) {
        let missing = rows.saturating_sub(self.len());
        if missing > 0 {
            self.append_nulls(missing);
        }
    }

    fn append_nulls(&mut self, count: usize) {
        match self {
            Self::Binary(c) | Self::Text(c) => c.append_nulls(count),
            Self::Long(b) => b.append_nulls(count),
            Self::Int(b) => b.append_nulls(count),
            Self::Double(b) => b.append_nulls(count),
            Self::Bool(b) => b.append_nulls(count),
            Self::Map(m) => m.append_nulls(count),
            Self::Doubles(b) => b.append_nulls(count),
            Self::Events(e) => e.append_nulls(count),
            Self::Links(l) => l.append_nulls(count),
        }
    }

    /// # Errors
    /// Text that is not UTF-8.
    pub(super) fn finish(self) -> Result<ArrayRef, ArrowError> {
        Ok(match self {
            Self::Binary(c) => Arc::new(c.finish_binary()),
            Self::Text(c) => Arc::new(c.finish_text()?),
            Self::Long(mut b) => Arc::new(b.finish()),
            Self::Int(mut b) => Arc::new(b.finish()),
            Self::Double(mut b) => Arc::new(b.finish()),
            Self::Bool(mut b) => Arc::new(b.finish()),
            Self::Map(m) => Arc::new(m.finish()?),
            Self::Doubles(mut b) => Arc::new(b.finish()),
            Self::Events(e) => e.finish()?,
            Self::Links(l) => l.finish()?,
        })
    }
}
