//! [`Scope`]: what every row of one instrumentation scope shares beside its resource.

use super::{
    rows::Rows,
    source::Source,
    value::Attribute,
    wire::{Fields, Malformed},
};
use crate::{
    attribute::{self, Letters},
    cells::Maps,
};

/// A scope, and how many items its message holds.
#[derive(Default)]
pub(super) struct Scope<'a> {
    name: &'a [u8],
    version: &'a [u8],
    attributes: Vec<Attribute<'a>>,
    schema_url: &'a [u8],
    /// Spans, log records or metrics.
    pub(super) items: usize,
}

/// Where the columns of a scope stand in a table.
#[derive(Clone, Copy)]
pub(super) struct ScopePlaces {
    pub(super) name: usize,
    pub(super) version: usize,
    pub(super) attributes: usize,
    pub(super) attribute_types: usize,
    pub(super) schema_url: usize,
}

impl<'a> Scope<'a> {
    /// Reads all of a `ScopeSpans`, `ScopeLogs` or `ScopeMetrics` but its items: they share their numbers.
    pub(super) fn of(message: &'a [u8]) -> Result<Self, Malformed> {
        let (mut scope, mut fields) = (Self::default(), Fields::of(message));
        while let Some(field) = fields.next()? {
            match field.number {
                1 => scope.read(field.bytes("scope")?).map_err(|e| e.field("scope"))?,
                2 => scope.items += 1,
                3 => scope.schema_url = field.text("schema_url")?.as_bytes(),
                _ => {}
            }
        }
        Ok(scope)
    }

    /// Reads an `InstrumentationScope`.
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.name = field.text("name")?.as_bytes(),
                2 => self.version = field.text("version")?.as_bytes(),
                3 => Attribute::push_checked(field, "attributes", &mut self.attributes)?,
                _ => {}
            }
        }
        Ok(())
    }

    /// Fills its columns for all rows that lack them, from `first` on. A scope that names no schema has its
    /// resource's.
    pub(super) fn write(
        &self,
        rows: &mut Rows,
        at: ScopePlaces,
        first: usize,
        source: &Source<'_>,
    ) -> Result<(), Malformed> {
        rows.text_from(at.name, first, set(self.name));
        rows.text_from(at.version, first, set(self.version));
        rows.text_from(at.schema_url, first, set(self.schema_url).or(set(source.schema_url)));
        if self.attributes.is_empty() {
            return Ok(());
        }
        let (mut map, mut letters) = (Maps::new(), Letters::default());
        attribute::append(&mut map, &mut letters, self.attributes.iter().copied())?;
        rows.repeat(first, map.text_bytes())?;
        rows.map_from(at.attributes, first, &map);
        rows.text_from(at.attribute_types, first, letters.needed());
        Ok(())
    }
}

fn set(text: &[u8]) -> Option<&[u8]> {
    Some(text).filter(|text| !text.is_empty())
}
