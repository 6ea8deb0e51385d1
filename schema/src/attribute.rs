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

use arrow::array::{Array, AsArray, MapArray, MapBuilder, MapFieldNames, StringArray, StringBuilder};
use base64::{Engine, prelude::BASE64_STANDARD};
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue, any_value::Value as Any};
use serde_json::{Map, Value, json};

/// A builder of an attribute map.
pub type AttributesBuilder = MapBuilder<StringBuilder, StringBuilder>;

/// A builder whose entries are named as in [`crate::columns::attribute_map`].
#[must_use]
pub fn builder() -> AttributesBuilder {
    let names = MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() };
    MapBuilder::new(Some(names), StringBuilder::new(), StringBuilder::new())
}

/// Appends one map and says its letters; `None` when all values are strings.
pub fn append<'a>(builder: &mut AttributesBuilder, attributes: impl Iterator<Item = &'a KeyValue>) -> Option<String> {
    let mut letters = String::new();
    for attribute in attributes {
        let (text, letter) = to_text(attribute.value.as_ref());
        builder.keys().append_value(&attribute.key);
        builder.values().append_value(text);
        letters.push(letter);
    }
    builder.append(true).expect("keys and values are appended in pairs");
    letters.bytes().any(|letter| letter != b's').then_some(letters)
}

/// A value as text and letter.
#[must_use]
pub fn to_text(value: Option<&AnyValue>) -> (String, char) {
    match value.and_then(|v| v.value.as_ref()) {
        None => (String::new(), 'n'),
        Some(Any::StringValue(text)) => (text.clone(), 's'),
        Some(Any::BoolValue(b)) => (b.to_string(), 'b'),
        Some(Any::IntValue(i)) => (i.to_string(), 'i'),
        Some(Any::DoubleValue(d)) => (format!("{d:?}"), 'd'),
        Some(Any::BytesValue(bytes)) => (BASE64_STANDARD.encode(bytes), 'y'),
        Some(nested @ Any::ArrayValue(_)) => nested_text(nested, 'a', 'A'),
        Some(nested @ Any::KvlistValue(_)) => nested_text(nested, 'm', 'M'),
        Some(_) => (String::new(), 'n'),
    }
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

fn nested_text(nested: &Any, plain: char, exact: char) -> (String, char) {
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

    use super::*;

    fn any(value: Any) -> AnyValue {
        AnyValue { value: Some(value) }
    }

    #[test]
    fn every_type_keeps_its_value_and_its_letter() {
        let array = |values| Any::ArrayValue(ArrayValue { values });
        let list = |value| {
            Any::KvlistValue(KeyValueList {
                values: vec![KeyValue { key: "k".into(), value: Some(any(value)), ..KeyValue::default() }],
            })
        };
        let cases = [
            (Any::StringValue("1".into()), 's', json!("1")),
            (Any::BoolValue(true), 'b', json!(true)),
            (Any::IntValue(i64::MIN), 'i', json!(i64::MIN)),
            (Any::DoubleValue(0.1), 'd', json!(0.1)),
            (Any::DoubleValue(1.0), 'd', json!(1.0)),
            (Any::DoubleValue(f64::NAN), 'd', json!("NaN")),
            (Any::BytesValue(vec![0, 255]), 'y', json!("AP8=")),
            (array(vec![any(Any::IntValue(1)), any(Any::StringValue("a".into()))]), 'a', json!([1, "a"])),
            (
                array(vec![any(Any::BytesValue(vec![1]))]),
                'A',
                json!({"arrayValue": {"values": [{"bytesValue": "AQ=="}]}}),
            ),
            (list(Any::BoolValue(false)), 'm', json!({"k": false})),
        ];
        for (value, letter, json) in cases {
            let (text, got) = to_text(Some(&any(value.clone())));
            assert_eq!((got, to_json(&text, got)), (letter, json), "{value:?}");
        }
    }

    #[test]
    fn a_map_of_strings_needs_no_letters() {
        let string = |key: &str| KeyValue {
            key: key.into(),
            value: Some(any(Any::StringValue("v".into()))),
            ..KeyValue::default()
        };
        let mut builder = builder();
        assert_eq!(append(&mut builder, [string("a"), string("b")].iter()), None);
        let int = KeyValue { key: "c".into(), value: Some(any(Any::IntValue(3))), ..KeyValue::default() };
        let letters = append(&mut builder, [string("a"), int].iter());
        assert_eq!(letters.as_deref(), Some("si"));
        let map = builder.finish();
        assert_eq!(*map.data_type(), crate::columns::attribute_map());
        let types = StringArray::from(vec![None, letters.as_deref()]);
        assert_eq!(Value::Object(map_to_json(&map, Some(&types), 1)), json!({"a": "v", "c": 3}));
    }
}
