//! [`Source`]: what every row of one resource shares, read once and repeated for each row.

use arrow::array::{Array, AsArray, MapArray, StringArray};

use super::{
    UNKNOWN_SERVICE,
    rows::Rows,
    value::{Attribute, text},
    wire::{Fields, Malformed},
};
use crate::attribute;

/// A resource.
pub(super) struct Source<'a> {
    service: &'a str,
    instance: Option<&'a str>,
    map: MapArray,
    letters: String,
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
    pub(super) fn read(resource: &'a [u8]) -> Result<Self, Malformed> {
        let (mut fields, mut attributes) = (Fields::of(resource), Vec::new());
        while let Some(field) = fields.next()? {
            if field.number == 1 {
                Attribute::push(field, "attributes", &mut attributes)?;
            }
        }
        let (mut builder, mut letters) = (attribute::builder(), String::new());
        attribute::append(&mut builder, &mut letters, attributes.iter().copied())?;
        Ok(Self {
            service: text(&attributes, "service.name").unwrap_or(UNKNOWN_SERVICE),
            instance: text(&attributes, "service.instance.id"),
            map: builder.finish(),
            letters,
        })
    }

    #[inline]
    pub(super) fn write(&self, rows: &mut Rows, at: SourcePlaces) -> Result<(), Malformed> {
        rows.text(at.service, self.service);
        rows.maybe_text(at.instance, self.instance);
        let (keys, values): (&StringArray, &StringArray) = (self.map.keys().as_string(), self.map.values().as_string());
        rows.repeat(keys.value_data().len() + values.value_data().len())?;
        let map = rows.map(at.resource_attributes);
        map.keys().append_array(keys).expect("a resource is smaller than a request");
        map.values().append_array(values).expect("a resource is smaller than a request");
        map.append(true).expect("keys and values are appended in pairs");
        rows.maybe_text(at.resource_attribute_types, super::non_empty(&self.letters));
        debug_assert_eq!(keys.len(), values.len());
        Ok(())
    }
}
