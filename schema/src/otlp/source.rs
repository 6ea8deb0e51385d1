//! [`Source`]: what every row of one resource shares, read once and repeated for each row.

use super::{
    UNKNOWN_SERVICE,
    rows::Rows,
    value::{Attribute, text},
    wire::{Fields, Malformed},
};
use crate::{
    attribute::{self, Letters},
    cells::Maps,
};

/// A resource.
pub(super) struct Source<'a> {
    service: &'a [u8],
    instance: Option<&'a [u8]>,
    map: Maps,
    letters: Letters,
    /// The schema its attributes follow; empty when it names none.
    pub(super) schema_url: &'a [u8],
}

/// Where the columns of a source stand in a table.
#[derive(Clone, Copy)]
pub(super) struct SourcePlaces {
    pub(super) service: usize,
    pub(super) instance: usize,
    pub(super) resource_attributes: usize,
    pub(super) resource_attribute_types: usize,
}

impl<'a> Source<'a> {
    /// Reads a `Resource`; an absent one has no bytes.
    pub(super) fn read(resource: &'a [u8], schema_url: &'a str) -> Result<Self, Malformed> {
        let (mut fields, mut attributes) = (Fields::of(resource), Vec::new());
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                Attribute::push_checked(field, "attributes", &mut attributes)?;
            }
        }
        let (mut map, mut letters) = (Maps::new(), Letters::default());
        attribute::append(&mut map, &mut letters, attributes.iter().copied())?;
        Ok(Self {
            service: text(&attributes, "service.name").unwrap_or(UNKNOWN_SERVICE.as_bytes()),
            instance: text(&attributes, "service.instance.id"),
            map,
            letters,
            schema_url: schema_url.as_bytes(),
        })
    }

    /// Fills its columns for all rows that lack them, from `first` on.
    pub(super) fn write(&self, rows: &mut Rows, at: SourcePlaces, first: usize) -> Result<(), Malformed> {
        rows.repeat(first, self.map.text_bytes())?;
        rows.text_from(at.service, first, Some(self.service));
        rows.text_from(at.instance, first, self.instance);
        rows.map_from(at.resource_attributes, first, &self.map);
        rows.text_from(at.resource_attribute_types, first, self.letters.needed());
        Ok(())
    }
}
