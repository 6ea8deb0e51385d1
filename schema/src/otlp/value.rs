//! [`Attribute`] and [`Value`]: a key and a value as they stand in the request. Arrays and key-value
//! lists stay bytes until they are written as text; text is bytes that the column checks when it is
//! finished, or [`Attribute::check`] where no column does.

use opentelemetry_proto::tonic::common::v1::AnyValue;
use prost::Message;

use super::wire::{Field, Fields, Malformed};

/// Attributes, events or links that one record may have. An empty one takes two bytes in a request
/// and twenty times that in memory; OpenTelemetry's SDKs stop at 128.
pub(super) const MAX_ITEMS: usize = 1 << 16;

/// One attribute, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) struct Attribute<'a> {
    pub(crate) key: &'a [u8],
    pub(crate) value: Value<'a>,
}

/// One `AnyValue`, borrowed.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Value<'a> {
    Empty,
    Text(&'a [u8]),
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
        let mut attribute = Self { key: b"", value: Value::Empty };
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => {
                    attribute.check_replaced()?;
                    attribute.key = field.bytes("key")?;
                }
                2 => {
                    attribute.check_replaced()?;
                    attribute.value = Value::of(field, "value")?;
                }
                _ => {}
            }
        }
        Ok(attribute)
    }

    /// Reads a `KeyValue` that is an item of a repeated field, behind those already there. Its text is
    /// not checked.
    #[inline]
    pub(super) fn push(field: Field<'a>, name: &'static str, attributes: &mut Vec<Self>) -> Result<(), Malformed> {
        let place = attributes.len();
        if place >= MAX_ITEMS {
            return Err(too_many(name));
        }
        attributes.push(Self::read(field.bytes(name)?).map_err(|e| e.item(name, place))?);
        Ok(())
    }

    /// As [`Attribute::push`], and checks its text.
    pub(super) fn push_checked(
        field: Field<'a>,
        name: &'static str,
        attributes: &mut Vec<Self>,
    ) -> Result<(), Malformed> {
        Self::push(field, name, attributes)?;
        check_last(name, attributes)
    }

    /// What another key or value replaces is in no column.
    #[inline(always)]
    fn check_replaced(&self) -> Result<(), Malformed> {
        match self.value {
            Value::Empty => Ok(()),
            _ => self.check(),
        }
    }

    fn check(&self) -> Result<(), Malformed> {
        utf8(self.key, "key")?;
        self.value.check().map_err(|e| e.field("value"))
    }
}

fn check_last(name: &'static str, attributes: &[Attribute<'_>]) -> Result<(), Malformed> {
    match attributes.split_last() {
        Some((last, before)) => last.check().map_err(|e| e.item(name, before.len())),
        None => Ok(()),
    }
}

/// Says which attribute is not UTF-8.
pub(super) fn check_all(name: &'static str, attributes: &[Attribute<'_>]) -> Result<(), Malformed> {
    let check = |(place, attribute): (usize, &Attribute<'_>)| attribute.check().map_err(|e| e.item(name, place));
    attributes.iter().enumerate().try_for_each(check)
}

/// Pushes a message that is an item of a repeated field.
pub(super) fn push_item<'a>(field: Field<'a>, name: &'static str, items: &mut Vec<&'a [u8]>) -> Result<(), Malformed> {
    if items.len() >= MAX_ITEMS {
        return Err(too_many(name));
    }
    items.push(field.bytes(name)?);
    Ok(())
}

#[cold]
fn too_many(name: &'static str) -> Malformed {
    Malformed::new(format!("more than {MAX_ITEMS} in one record")).field(name)
}

fn utf8(text: &[u8], name: &'static str) -> Result<(), Malformed> {
    match std::str::from_utf8(text) {
        Ok(_) => Ok(()),
        Err(_) => Err(Malformed::new("is not UTF-8").field(name)),
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
            if !matches!(value, Self::Empty) {
                // what another value replaces is in no column
                value.check()?;
            }
            value = match field.number {
                1 => Self::Text(field.bytes("string_value")?),
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

    /// Whether text is UTF-8, and a nested value what it is said to be.
    #[inline]
    pub(super) fn check(&self) -> Result<(), Malformed> {
        match self {
            Self::Text(text) => utf8(text, "string_value"),
            Self::Nested(message) => nested(message).map(drop),
            _ => Ok(()),
        }
    }
}

/// The tree of a nested value: 100 levels deep at most.
pub(crate) fn nested(message: &[u8]) -> Result<AnyValue, Malformed> {
    AnyValue::decode(message).map_err(|error| Malformed::new(error.to_string()))
}

/// A text attribute that is not empty.
pub(super) fn text<'a>(attributes: &[Attribute<'a>], key: &str) -> Option<&'a [u8]> {
    match attributes.iter().find(|attribute| attribute.key == key.as_bytes())?.value {
        Value::Text(text) if !text.is_empty() => Some(text),
        _ => None,
    }
}
