//! Exemplars of a data point, as a JSON array.

use serde_json::json;

use crate::{
    attribute,
    otlp::{
        value::Attribute,
        wire::{Fields, Malformed},
    },
};

/// `None` when there are none.
pub(super) fn exemplars(messages: &[&[u8]]) -> Result<Option<String>, Malformed> {
    if messages.is_empty() {
        return Ok(None);
    }
    let one = |(place, message): (usize, &&[u8])| exemplar(message).map_err(|e| e.item("exemplars", place));
    let all = messages.iter().enumerate().map(one).collect::<Result<_, _>>()?;
    Ok(Some(serde_json::Value::Array(all).to_string()))
}

fn exemplar(message: &[u8]) -> Result<serde_json::Value, Malformed> {
    let (mut time, mut value, mut trace_id, mut span_id): (_, _, &[u8], &[u8]) = (0, json!(null), &[], &[]);
    let mut attributes = Vec::new();
    let mut fields = Fields::of(message);
    while let Some(field) = fields.next()? {
        match field.number {
            2 => time = field.fixed64("time_unix_nano")?,
            // as text where JSON has no such number
            3 => value = attribute::to_json(&format!("{:?}", field.double("as_double")?), 'd'),
            4 => span_id = field.bytes("span_id")?,
            5 => trace_id = field.bytes("trace_id")?,
            6 => value = json!(field.fixed64("as_int")?.cast_signed()),
            7 => Attribute::push_checked(field, "filtered_attributes", &mut attributes)?,
            _ => {}
        }
    }
    let mut object = serde_json::Map::new();
    for attribute in attributes {
        let (text, letter) = attribute::to_text(attribute.value)?;
        object.insert(String::from_utf8_lossy(attribute.key).into_owned(), attribute::to_json(&text, letter));
    }
    Ok(json!({"time_unix_nano": time, "value": value, "trace_id": hex::encode(trace_id),
              "span_id": hex::encode(span_id), "attributes": object}))
}
