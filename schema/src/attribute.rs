//! Attribute values: text that people and other readers can use, beside letters that keep types.
//!
//! Parquet readers agree on `map<string, string>` and on little else, so a value is stored as text
//! and its type as one letter in a sibling column, one letter per entry, in order; the column is
//! null when all are strings.
//!
//! | letter | type | text |
//! |---|---|---|
//! | `s` | string | as it is |
//! | `b` | bool | `true`, `false` |
//! | `i` | int | decimal |
//! | `d` | double | shortest decimal that reads back the same |
//! | `y` | bytes | base64 |
//! | `a`, `m` | array, key-value list | JSON |
//! | `A`, `M` | the same, when they hold bytes or a number JSON lacks | OTLP/JSON |
//! | `n` | empty | empty |

use std::io::Write;

use arrow::array::{Array, AsArray, MapArray, StringArray};
use base64::{Engine, display::Base64Display, prelude::BASE64_STANDARD};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use serde_json::{Map, Value, json};

use crate::{
    cells::Maps,
    otlp::{Attribute, Malformed, Value as Wire, nested},
};

/// The letters of one map, as its entries are appended.
#[derive(Default)]
pub(crate) struct Letters {
    letters: Vec<u8>,
    other_than_text: bool,
}

impl Letters {
    pub(crate) fn clear(&mut self) {
        self.letters.clear();
        self.other_than_text = false;
    }

    /// What is stored beside the map: nothing when all values are strings.
    pub(crate) fn needed(&self) -> Option<&[u8]> {
        self.other_than_text.then_some(&self.letters)
    }

    #[inline]
    fn push(&mut self, letter: u8) {
        self.letters.push(letter);
        self.other_than_text |= letter != b's';
    }
}

/// Appends one entry of the map that is being built.
#[inline]
pub(crate) fn append_entry(maps: &mut Maps, letters: &mut Letters, attribute: Attribute<'_>) -> Result<(), Malformed> {
    maps.keys.append(attribute.key);
    let letter = write_text(attribute.value, maps.values.open_cell())?;
    maps.values.end_cell();
    letters.push(letter);
    Ok(())
}

/// Appends one map; `letters` becomes its letters.
pub(crate) fn append<'a>(
    maps: &mut Maps,
    letters: &mut Letters,
    attributes: impl Iterator<Item = Attribute<'a>>,
) -> Result<(), Malformed> {
    letters.clear();
    for attribute in attributes {
        append_entry(maps, letters, attribute)?;
    }
    maps.end_map();
    Ok(())
}

/// Writes a value as text and says its letter.
#[inline]
pub(crate) fn write_text(value: Wire<'_>, out: &mut Vec<u8>) -> Result<u8, Malformed> {
    match value {
        Wire::Text(text) => {
            out.extend_from_slice(text);
            Ok(b's')
        }
        Wire::Int(value) => {
            write_int(value, out);
            Ok(b'i')
        }
        other => write_rare(other, out),
    }
}

fn write_rare(value: Wire<'_>, out: &mut Vec<u8>) -> Result<u8, Malformed> {
    let (written, letter) = match value {
        Wire::Empty => (Ok(()), b'n'),
        Wire::Text(text) => (out.write_all(text), b's'),
        Wire::Bool(b) => (out.write_all(if b { b"true" } else { b"false" }), b'b'),
        Wire::Int(i) => (write!(out, "{i}"), b'i'),
        Wire::Double(d) => (write!(out, "{d:?}"), b'd'),
        Wire::Bytes(bytes) => (write!(out, "{}", Base64Display::new(bytes, &BASE64_STANDARD)), b'y'),
        Wire::Nested(message) => {
            let value = nested(message)?.value;
            let (text, letter) = value.as_ref().map_or((String::new(), b'n'), nested_text);
            (out.write_all(text.as_bytes()), letter)
        }
    };
    written.expect("text is written to memory");
    Ok(letter)
}

/// Decimal digits, without the machinery of formatting: most attributes that are not text are counts.
fn write_int(value: i64, out: &mut Vec<u8>) {
    let (mut digits, mut first, mut rest) = ([0_u8; 20], 20, value.unsigned_abs());
    loop {
        first -= 1;
        digits[first] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    if value < 0 {
        first -= 1;
        digits[first] = b'-';
    }
    out.extend_from_slice(&digits[first..]);
}

/// A value as text and letter.
pub(crate) fn to_text(value: Wire<'_>) -> Result<(String, char), Malformed> {
    let mut text = Vec::new();
    let letter = write_text(value, &mut text)?;
    let text = String::from_utf8(text).map_err(|_| Malformed::new("is not UTF-8"))?;
    Ok((text, char::from(letter)))
}

/// The typed JSON value of a stored text. A text that does not fit its letter is given as it is.
#[must_use]
pub fn to_json(text: &str, letter: char) -> Value {
    let as_it_is = || Value::String(text.to_owned());
    match letter {
        'b' => text.parse::<bool>().map_or_else(|_| as_it_is(), Value::Bool),
        'i' => text.parse::<i64>().map_or_else(|_| as_it_is(), Value::from),
        'd' => text.parse::<f64>().ok().and_then(serde_json::Number::from_f64).map_or_else(as_it_is, Value::Number),
        'a' | 'm' | 'A' | 'M' => serde_json::from_str(text).unwrap_or_else(|_| as_it_is()),
        'n' => Value::Null,
        _ => as_it_is(),
    }
}

/// One row of a map column as a JSON object of typed values.
#[must_use]
pub fn map_to_json(map: &MapArray, types: Option<&StringArray>, row: usize) -> Map<String, Value> {
    if map.is_null(row) {
        return Map::new();
    }
    let entries = map.value(row);
    let (keys, values) = (entries.column(0).as_string::<i32>(), entries.column(1).as_string::<i32>());
    let letters = types.filter(|types| types.is_valid(row)).map(|types| types.value(row).as_bytes());
    let value = |entry: usize| match letters.and_then(|letters| letters.get(entry)) {
        _ if values.is_null(entry) => Value::Null,
        Some(letter) => to_json(values.value(entry), char::from(*letter)),
        None => Value::String(values.value(entry).to_owned()),
    };
    (0..keys.len()).map(|entry| (keys.value(entry).to_owned(), value(entry))).collect()
}

pub(crate) fn nested_text(nested: &Any) -> (String, u8) {
    let (plain, exact) = if matches!(nested, Any::ArrayValue(_)) { (b'a', b'A') } else { (b'm', b'M') };
    match plain_json(nested) {
        Some(json) => (json.to_string(), plain),
        None => (otlp_json(nested).to_string(), exact),
    }
}

/// Plain JSON, unless a value inside would lose its type.
fn plain_json(value: &Any) -> Option<Value> {
    let inner = |v: &AnyValue| v.value.as_ref().map_or(Some(Value::Null), plain_json);
    match value {
        Any::StringValue(text) => Some(Value::String(text.clone())),
        Any::BoolValue(b) => Some(Value::Bool(*b)),
        Any::IntValue(i) => Some(Value::from(*i)),
        Any::DoubleValue(d) => serde_json::Number::from_f64(*d).map(Value::Number),
        Any::ArrayValue(array) => array.values.iter().map(inner).collect::<Option<Vec<_>>>().map(Value::Array),
        Any::KvlistValue(list) => {
            let entry = |kv: &KeyValue| Some((kv.key.clone(), kv.value.as_ref().map_or(Some(Value::Null), inner)?));
            list.values.iter().map(entry).collect::<Option<Map<_, _>>>().map(Value::Object)
        }
        _ => None,
    }
}

fn otlp_json(value: &Any) -> Value {
    let inner = |v: &AnyValue| v.value.as_ref().map_or_else(|| json!({}), otlp_json);
    match value {
        Any::StringValue(text) => json!({ "stringValue": text }),
        Any::BoolValue(b) => json!({ "boolValue": b }),
        Any::IntValue(i) => json!({ "intValue": i.to_string() }),
        Any::DoubleValue(d) if d.is_finite() => json!({ "doubleValue": d }),
        Any::DoubleValue(d) if d.is_nan() => json!({ "doubleValue": "NaN" }),
        Any::DoubleValue(d) => json!({ "doubleValue": if *d > 0.0 { "Infinity" } else { "-Infinity" } }),
        Any::BytesValue(bytes) => json!({ "bytesValue": BASE64_STANDARD.encode(bytes) }),
        Any::ArrayValue(array) => {
            json!({ "arrayValue": { "values": array.values.iter().map(inner).collect::<Vec<_>>() } })
        }
        Any::KvlistValue(list) => {
            let entry =
                |kv: &KeyValue| json!({ "key": kv.key, "value": kv.value.as_ref().map_or_else(|| json!({}), inner) });
            json!({ "kvlistValue": { "values": list.values.iter().map(entry).collect::<Vec<_>>() } })
        }
        _ => json!({}),
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::{ArrayValue, KeyValueList};
    use prost::Message;

    use super::*;

    fn any(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    fn text(key: &str) -> Attribute<'_> {
        Attribute { key: key.as_bytes(), value: Wire::Text(b"v") }
    }

    #[test]
    fn every_type_keeps_its_value_and_its_letter() {
        let array = |values| Any::ArrayValue(ArrayValue { values });
        let list = |value| {
            Any::KvlistValue(KeyValueList {
                values: vec![KeyValue { key: "k".into(), value: Some(any(value)), ..KeyValue::default() }],
            })
        };
        let exact = any(array(vec![any(Any::BytesValue(vec![1]))])).encode_to_vec();
        let plain = any(array(vec![any(Any::IntValue(1)), any(Any::StringValue("a".into()))])).encode_to_vec();
        let pairs = any(list(Any::BoolValue(false))).encode_to_vec();
        let cases = [
            (Wire::Empty, 'n', json!(null)),
            (Wire::Text(b"1"), 's', json!("1")),
            (Wire::Bool(true), 'b', json!(true)),
            (Wire::Int(i64::MIN), 'i', json!(i64::MIN)),
            (Wire::Int(i64::MAX), 'i', json!(i64::MAX)),
            (Wire::Int(0), 'i', json!(0)),
            (Wire::Int(-10), 'i', json!(-10)),
            (Wire::Double(0.1), 'd', json!(0.1)),
            (Wire::Double(1.0), 'd', json!(1.0)),
            (Wire::Double(f64::NAN), 'd', json!("NaN")),
            (Wire::Bytes(&[0, 255]), 'y', json!("AP8=")),
            (Wire::Nested(&plain), 'a', json!([1, "a"])),
            (Wire::Nested(&exact), 'A', json!({"arrayValue": {"values": [{"bytesValue": "AQ=="}]}})),
            (Wire::Nested(&pairs), 'm', json!({"k": false})),
        ];
        for (value, letter, json) in cases {
            let (text, got) = to_text(value).unwrap();
            assert_eq!((got, to_json(&text, got)), (letter, json), "{value:?}");
        }
    }

    #[test]
    fn a_map_of_strings_needs_no_letters() {
        let (mut maps, mut letters) = (Maps::new(), Letters::default());
        append(&mut maps, &mut letters, [text("a"), text("b")].into_iter()).unwrap();
        assert_eq!(letters.needed(), None);
        let int = Attribute { key: b"c", value: Wire::Int(3) };
        append(&mut maps, &mut letters, [text("a"), int].into_iter()).unwrap();
        assert_eq!(letters.needed(), Some(&b"si"[..]));
        let map = maps.finish().unwrap();
        assert_eq!(*map.data_type(), crate::columns::attribute_map());
        let types = StringArray::from(vec![None, Some("si")]);
        assert_eq!(Value::Object(map_to_json(&map, Some(&types), 1)), json!({"a": "v", "c": 3}));
    }
}
