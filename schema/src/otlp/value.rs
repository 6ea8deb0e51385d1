//! [`Attribute`] and [`Value`]: a key and a value as they stand in the request. Arrays and key-value
//! lists stay bytes until they are written as text.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use prost::Message;

use super::wire::{Field, Fields, Malformed};

/// One attribute, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attribute<'a> {
    pub(crate) key: &'a str,
    pub(crate) value: Value<'a>,
}

/// One `AnyValue`, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Empty,
    Text(&'a str),
    Bool(bool),
    Int(i64),
    Double(f64),
    Bytes(&'a [u8]),
    /// An array or a key-value list: the whole message, checked when it is written.
    Nested(&'a [u8]),
}

impl<'a> Attribute<'a> {
    /// Reads a `KeyValue`.
    #[inline]
    pub(super) fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut attribute = Self { key: "", value: Value::Empty };
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => attribute.key = field.text("key")?,
                2 => attribute.value = Value::of(field, "value")?,
                _ => {}
            }
        }
        Ok(attribute)
    }

    /// Reads a `KeyValue` that is an item of a repeated field, behind those already there.
    #[inline]
    pub(super) fn push(field: Field<'a>, name: &'static str, attributes: &mut Vec<Self>) -> Result<(), Malformed> {
        let place = attributes.len();
        attributes.push(Self::read(field.bytes(name)?).map_err(|e| e.item(name, place))?);
        Ok(())
    }
}

impl<'a> Value<'a> {
    /// The value of a field that is an `AnyValue`.
    #[inline]
    pub(super) fn of(field: Field<'a>, name: &'static str) -> Result<Self, Malformed> {
        Self::read(field.bytes(name)?).map_err(|e| e.field(name))
    }

    #[inline]
    fn read(message: &'a [u8]) -> Result<Self, Malformed> {
        let mut value = Self::Empty;
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            if matches!(value, Self::Nested(_)) {
                // what another value replaces is never written, so it is checked here
                nested(message)?;
            }
            value = match field.number {
                1 => Self::Text(field.text("string_value")?),
                2 => Self::Bool(field.varint("bool_value")? != 0),
                3 => Self::Int(field.varint("int_value")?.cast_signed()),
                4 => Self::Double(field.double("double_value")?),
                5 | 6 => {
                    field.bytes(if field.number == 5 { "array_value" } else { "kvlist_value" })?;
                    Self::Nested(message)
                }
                7 => Self::Bytes(field.bytes("bytes_value")?),
                _ => value,
            };
        }
        Ok(value)
    }
}

/// The tree of a nested value: 100 levels deep at most.
pub(crate) fn nested(message: &[u8]) -> Result<AnyValue, Malformed> {
    AnyValue::decode(message).map_err(|error| Malformed::new(error.to_string()))
}

/// A text attribute that is not empty.
pub(super) fn text<'a>(attributes: &[Attribute<'a>], key: &str) -> Option<&'a str> {
    match attributes.iter().find(|attribute| attribute.key == key)?.value {
        Value::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}
