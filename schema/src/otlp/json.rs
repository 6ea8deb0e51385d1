//! OTLP/JSON written as protobuf, in one pass: each value goes from the text to its place on the wire, by
//! the table in [`messages`]. A value that its field does not take is an error that names the way to it,
//! never a field that is not set.
//!
//! Fields are read as protobuf's JSON has them: numbers as numbers or strings, with `"NaN"`, `"Infinity"`
//! and `"-Infinity"`; enums by number or name; bytes in either alphabet of base64; `null` for what is not
//! set. Ids are hex, and fields that nobody knows are skipped, as OTLP has it.

mod messages;
#[cfg(test)]
mod tests;

use std::fmt;

use base64::{
    Engine,
    alphabet::{STANDARD, URL_SAFE},
    engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig},
};
use prost::encoding::{WireType, encode_key, encode_varint};
use serde::de::{
    DeserializeSeed, Deserializer, Error, Expected, IgnoredAny, MapAccess, SeqAccess, Unexpected, Visitor,
};

use self::messages::{Field, Kind, Message, Presence};
use super::DecodeError;
use crate::Signal;

const ANY_PADDING: GeneralPurposeConfig =
    GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
const BASE64: GeneralPurpose = GeneralPurpose::new(&STANDARD, ANY_PADDING);
const BASE64_URL: GeneralPurpose = GeneralPurpose::new(&URL_SAFE, ANY_PADDING);

pub(super) fn protobuf(signal: Signal, text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let message = messages::request(signal);
    let mut out = Vec::with_capacity(text.len() / 2);
    let mut reader = serde_json::Deserializer::from_slice(text);
    let read = Object { message, out: &mut out }.deserialize(&mut reader).and_then(|()| reader.end());
    match read {
        Ok(()) => Ok(out),
        Err(source) => Err(DecodeError::Json { path: path(message, text), source }),
    }
}

/// The way to the field that a text is refused for: read once more, because to keep it costs every good request.
fn path(message: &'static Message, text: &[u8]) -> String {
    let mut track = serde_path_to_error::Track::new();
    let mut reader = serde_json::Deserializer::from_slice(text);
    let reader = serde_path_to_error::Deserializer::new(&mut reader, &mut track);
    match (Object { message, out: &mut Vec::new() }).deserialize(reader) {
        // the request itself is whole, and something stands behind it
        Ok(()) => String::new(),
        Err(_) => {
            Some(track.path().to_string()).filter(|path| path != ".").map_or_else(String::new, |path| path + ": ")
        }
    }
}

/// Writes the fields of a message.
struct Object<'o> {
    message: &'static Message,
    out: &'o mut Vec<u8>,
}

/// Finds a field and its place among those of the message.
struct Name(&'static Message);

/// Writes a field and says whether it is set.
struct Set<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

/// Writes the items of a repeated field.
struct Items<'o> {
    field: &'static Field,
    out: &'o mut Vec<u8>,
}

/// Writes one value, without its key.
struct One<'o> {
    kind: Kind,
    out: &'o mut Vec<u8>,
}

impl<'de> DeserializeSeed<'de> for Object<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Object<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        let (mut seen, mut alone) = (0_u32, None);
        while let Some(found) = map.next_key_seed(Name(self.message))? {
            let Some((place, field)) = found else {
                map.next_value::<IgnoredAny>()?;
                continue;
            };
            if seen & (1 << place) != 0 {
                return Err(Error::duplicate_field(field.name));
            }
            seen |= 1 << place;
            let set = map.next_value_seed(Set { field, out: self.out })?;
            if !set || field.presence != Presence::Alone {
                continue;
            }
            if let Some(other) = alone.replace(field.name) {
                return Err(Error::custom(format_args!("`{}` beside `{other}`, where one can be set", field.name)));
            }
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for Name {
    type Value = Option<(usize, &'static Field)>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_identifier(self)
    }
}

impl Visitor<'_> for Name {
    type Value = Option<(usize, &'static Field)>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a field's name")
    }

    fn visit_str<E: Error>(self, name: &str) -> Result<Self::Value, E> {
        Ok(self.0.fields.iter().enumerate().find(|(_, field)| field.name == name))
    }
}

impl<'de> DeserializeSeed<'de> for Set<'_> {
    type Value = bool;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        deserializer.deserialize_option(self)
    }
}

impl<'de> Visitor<'de> for Set<'_> {
    type Value = bool;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value or null")
    }

    fn visit_none<E: Error>(self) -> Result<bool, E> {
        Ok(false)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<bool, D::Error> {
        let Self { field, out } = self;
        if field.presence == Presence::Repeated {
            deserializer.deserialize_seq(Items { field, out })?;
            return Ok(true);
        }
        let before = out.len();
        encode_key(field.number, field.kind.wire_type(), out);
        let value = out.len();
        One { kind: field.kind, out }.deserialize(deserializer)?;
        // zero and empty are zeros on the wire, and are not written there
        if field.presence == Presence::Implicit && out[value..].iter().all(|byte| *byte == 0) {
            out.truncate(before);
        }
        Ok(true)
    }
}

impl<'de> Visitor<'de> for Items<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut items: S) -> Result<(), S::Error> {
        let Self { field, out } = self;
        let kind = field.kind;
        let packed = kind.wire_type() != WireType::LengthDelimited;
        let mut before = out.len();
        encode_key(field.number, WireType::LengthDelimited, out);
        let first = out.len();
        while items.next_element_seed(One { kind, out })?.is_some() {
            if !packed {
                before = out.len();
                encode_key(field.number, WireType::LengthDelimited, out);
            }
        }
        if packed && out.len() > first {
            put_length(out, first);
        } else {
            out.truncate(before);
        }
        Ok(())
    }
}

impl<'de> DeserializeSeed<'de> for One<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for One<'_> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.kind.fmt(f)
    }

    fn visit_bool<E: Error>(self, value: bool) -> Result<(), E> {
        match self.kind {
            Kind::Bool => self.out.push(u8::from(value)),
            other => return Err(E::invalid_type(Unexpected::Bool(value), &other)),
        }
        Ok(())
    }

    fn visit_i64<E: Error>(self, value: i64) -> Result<(), E> {
        let written = self.kind.write_whole(value.into(), self.out);
        written.ok_or_else(|| E::invalid_value(Unexpected::Signed(value), &self.kind))
    }

    fn visit_u64<E: Error>(self, value: u64) -> Result<(), E> {
        let written = self.kind.write_whole(value.into(), self.out);
        written.ok_or_else(|| E::invalid_value(Unexpected::Unsigned(value), &self.kind))
    }

    fn visit_f64<E: Error>(self, value: f64) -> Result<(), E> {
        let written = self.kind.write_double(value, self.out);
        written.ok_or_else(|| E::invalid_value(Unexpected::Float(value), &self.kind))
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        let written = self.kind.write_text(text, self.out);
        written.ok_or_else(|| E::invalid_value(Unexpected::Str(text), &self.kind))
    }

    fn visit_map<M: MapAccess<'de>>(self, map: M) -> Result<(), M::Error> {
        let Self { kind, out } = self;
        let Kind::Message(message) = kind else { return Err(Error::invalid_type(Unexpected::Map, &kind)) };
        let first = out.len();
        Object { message, out }.visit_map(map)?;
        put_length(out, first);
        Ok(())
    }
}

impl Kind {
    fn wire_type(self) -> WireType {
        match self {
            Self::Message(_) | Self::Text | Self::Hex | Self::Base64 => WireType::LengthDelimited,
            Self::Double | Self::Fixed64 | Self::Sfixed64 => WireType::SixtyFourBit,
            Self::Fixed32 => WireType::ThirtyTwoBit,
            Self::Bool | Self::Uint32 | Self::Sint32 | Self::Int64 | Self::Uint64 | Self::Enum(_) => WireType::Varint,
        }
    }

    /// Writes a number; `None` when it is too large, or no number is meant.
    fn write_whole(self, number: i128, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Double => out.extend_from_slice(&(number as f64).to_le_bytes()),
            Self::Uint32 => encode_varint(u32::try_from(number).ok()?.into(), out),
            Self::Fixed32 => out.extend_from_slice(&u32::try_from(number).ok()?.to_le_bytes()),
            Self::Sint32 => {
                let number = i32::try_from(number).ok()?;
                encode_varint(u64::from(((number << 1) ^ (number >> 31)).cast_unsigned()), out);
            }
            Self::Enum(_) => encode_varint(i64::from(i32::try_from(number).ok()?).cast_unsigned(), out),
            Self::Int64 => encode_varint(i64::try_from(number).ok()?.cast_unsigned(), out),
            Self::Uint64 => encode_varint(u64::try_from(number).ok()?, out),
            Self::Sfixed64 => out.extend_from_slice(&i64::try_from(number).ok()?.to_le_bytes()),
            Self::Fixed64 => out.extend_from_slice(&u64::try_from(number).ok()?.to_le_bytes()),
            Self::Message(_) | Self::Text | Self::Bool | Self::Hex | Self::Base64 => return None,
        }
        Some(())
    }

    /// Writes a number that may have a fraction, where one is meant.
    fn write_double(self, number: f64, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Double => {
                out.extend_from_slice(&number.to_le_bytes());
                Some(())
            }
            _ if number.fract() == 0.0 => self.write_whole(number as i128, out),
            _ => None,
        }
    }

    fn write_text(self, text: &str, out: &mut Vec<u8>) -> Option<()> {
        match self {
            Self::Text => put_bytes(out, text.as_bytes()),
            Self::Hex => {
                let digits = text.strip_prefix("0x").unwrap_or(text);
                encode_varint((digits.len() / 2) as u64, out);
                let first = out.len();
                out.resize(first + digits.len() / 2, 0);
                hex::decode_to_slice(digits, &mut out[first..]).ok()?;
            }
            Self::Base64 => {
                let engine = if text.contains(['-', '_']) { BASE64_URL } else { BASE64 };
                put_bytes(out, &engine.decode(text).ok()?);
            }
            Self::Enum(number) => self.write_whole(number(text)?.into(), out)?,
            Self::Double => self.write_double(double(text)?, out)?,
            Self::Message(_) | Self::Bool => return None,
            _ => match text.parse::<i128>() {
                Ok(whole) => self.write_whole(whole, out)?,
                Err(_) => self.write_double(text.parse().ok()?, out)?,
            },
        }
        Some(())
    }
}

impl Expected for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Message(_) => "an object",
            Self::Text => "a string",
            Self::Bool => "true or false",
            Self::Double => "a number, \"NaN\", \"Infinity\" or \"-Infinity\"",
            Self::Uint32 | Self::Fixed32 => "a whole number of 32 bits",
            Self::Sint32 => "a whole number of 32 bits with sign",
            Self::Int64 | Self::Sfixed64 => "a whole number of 64 bits with sign",
            Self::Uint64 | Self::Fixed64 => "a whole number of 64 bits",
            Self::Enum(_) => "an enum's number or name",
            Self::Hex => "hex digits, two a byte",
            Self::Base64 => "base64",
        })
    }
}

/// A double that is a string: the numbers that JSON has not are spelled in one way.
fn double(text: &str) -> Option<f64> {
    match text {
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok().filter(|number: &f64| number.is_finite()),
    }
}

fn put_bytes(out: &mut Vec<u8>, bytes: &[u8]) {
    encode_varint(bytes.len() as u64, out);
    out.extend_from_slice(bytes);
}

/// Puts the length of all from `first` on before it.
fn put_length(out: &mut Vec<u8>, first: usize) {
    let end = out.len();
    encode_varint((end - first) as u64, out);
    let length = out.len() - end;
    out[first..].rotate_right(length);
}
