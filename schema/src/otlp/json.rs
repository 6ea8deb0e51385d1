//! OTLP/JSON written as protobuf. What protobuf's JSON allows and the messages' readers do not is tried when they refuse a text:
//! numbers that JSON has not (`"NaN"`, `"Infinity"`, `"-Infinity"`), and `null` for what is not set.

use ciborium::Value;
use opentelemetry_proto::tonic::collector::{
    logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest, trace::v1::ExportTraceServiceRequest,
};
use prost::Message;
use serde::de::DeserializeOwned;
use serde_json::Value as Json;

use super::{DecodeError, Malformed};
use crate::Signal;

/// Objects that any OTLP/JSON request may have: as messages they take up to 350 bytes, and `{}` is two.
const MAX_OBJECTS: usize = 1 << 17;

/// Bytes for each object of a larger request; the smallest attribute is two objects in 36.
const OBJECT_BYTES: usize = 16;

/// Fields that are doubles, alone or in a list.
const DOUBLES: [&str; 9] =
    ["doubleValue", "asDouble", "sum", "min", "max", "value", "quantile", "zeroThreshold", "explicitBounds"];

pub(super) fn protobuf(signal: Signal, text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    if text.iter().filter(|byte| **byte == b'{').count() > MAX_OBJECTS.max(text.len() / OBJECT_BYTES) {
        return Err(Malformed::new(format!("more than {MAX_OBJECTS} objects in a request of its size")).into());
    }
    match signal {
        Signal::Traces => convert::<ExportTraceServiceRequest>(text),
        Signal::Metrics => convert::<ExportMetricsServiceRequest>(text),
        Signal::Logs => convert::<ExportLogsServiceRequest>(text),
    }
}

fn convert<M: Message + DeserializeOwned>(text: &[u8]) -> Result<Vec<u8>, DecodeError> {
    let message = serde_json::from_slice::<M>(text).or_else(|_| lenient(text).ok_or(()));
    message.map(|message| message.encode_to_vec()).map_err(|()| refusal::<M>(text))
}

/// Reads a text with the allowances above; `None` when they do not help.
fn lenient<M: DeserializeOwned>(text: &[u8]) -> Option<M> {
    let json: Json = serde_json::from_slice(text).ok()?;
    allowed("", json).deserialized().ok()
}

fn allowed(field: &str, json: Json) -> Value {
    match json {
        Json::Null => Value::Null,
        Json::Bool(bool) => Value::Bool(bool),
        Json::String(text) => special(field, &text).map_or(Value::Text(text), Value::Float),
        Json::Number(number) => match number.as_i64().map(Value::from).or_else(|| number.as_u64().map(Value::from)) {
            Some(whole) if !DOUBLES.contains(&field) => whole,
            _ => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
        },
        Json::Array(items) => Value::Array(items.into_iter().map(|item| allowed(field, item)).collect()),
        Json::Object(fields) => {
            let set = fields.into_iter().filter(|(_, value)| !value.is_null());
            Value::Map(set.map(|(name, value)| (Value::Text(name.clone()), allowed(&name, value))).collect())
        }
    }
}

fn special(field: &str, text: &str) -> Option<f64> {
    match text {
        _ if !DOUBLES.contains(&field) => None,
        "NaN" => Some(f64::NAN),
        "Infinity" => Some(f64::INFINITY),
        "-Infinity" => Some(f64::NEG_INFINITY),
        _ => None,
    }
}

/// Why a text is refused, with the field: read once more, because to keep the way to each field costs every good request.
fn refusal<M: DeserializeOwned>(text: &[u8]) -> DecodeError {
    let read = serde_path_to_error::deserialize::<_, M>(&mut serde_json::Deserializer::from_slice(text));
    match read {
        Err(error) => {
            let path = Some(error.path().to_string()).filter(|path| path != ".");
            DecodeError::Json {
                path: path.map(|path| format!("{path}: ")).unwrap_or_default(),
                source: error.into_inner(),
            }
        }
        // the message itself is whole, so there is more behind it
        Ok(_) => DecodeError::Json {
            path: String::new(),
            source: serde::de::Error::custom("text behind the end of the request"),
        },
    }
}

#[cfg(test)]
mod tests {
    use opentelemetry_proto::tonic::common::v1::any_value::Value as Any;

    use super::*;

    fn traces(text: &str) -> Result<ExportTraceServiceRequest, String> {
        let bytes = protobuf(Signal::Traces, text.as_bytes()).map_err(|error| error.to_string())?;
        Ok(ExportTraceServiceRequest::decode(&bytes[..]).unwrap())
    }

    fn span(attribute: &str) -> String {
        format!(
            r#"{{"resourceSpans":[{{"scopeSpans":[{{"spans":[{{"traceId":"0102","spanId":"03","kind":2,"startTimeUnixNano":"5","endTimeUnixNano":7,
            "attributes":[{{"key":"k","value":{attribute}}}]}}]}}]}}]}}"#
        )
    }

    #[test]
    fn numbers_that_json_has_not_are_read_and_cost_nothing_else() {
        type Expected = fn(&Any) -> bool;
        let cases: [(&str, Expected); 7] = [
            (r#"{"doubleValue":"NaN"}"#, |v| matches!(v, Any::DoubleValue(d) if d.is_nan())),
            (r#"{"doubleValue":"Infinity"}"#, |v| *v == Any::DoubleValue(f64::INFINITY)),
            (r#"{"doubleValue":"-Infinity"}"#, |v| *v == Any::DoubleValue(f64::NEG_INFINITY)),
            (r#"{"stringValue":"NaN"}"#, |v| *v == Any::StringValue("NaN".into())),
            (r#"{"doubleValue":1}"#, |v| *v == Any::DoubleValue(1.0)),
            (r#"{"intValue":"-7"}"#, |v| *v == Any::IntValue(-7)),
            (
                r#"{"arrayValue":{"values":[{"doubleValue":"NaN"},{"intValue":"3"},{"boolValue":true}]}}"#,
                |v| matches!(v, Any::ArrayValue(a) if a.values.len() == 3 && a.values[1].value == Some(Any::IntValue(3))),
            ),
        ];
        for (text, expected) in cases {
            // beside a null, so that each takes the way of allowances
            for spans in [span(text), span(text).replacen(r#""kind":2"#, r#""kind":2,"status":null,"links":null"#, 1)] {
                let request = traces(&spans).unwrap_or_else(|error| panic!("{spans}: {error}"));
                let span = &request.resource_spans[0].scope_spans[0].spans[0];
                assert_eq!(
                    (&span.trace_id[..], span.start_time_unix_nano, span.end_time_unix_nano),
                    (&[1, 2][..], 5, 7)
                );
                assert_eq!(span.kind, 2);
                assert!(expected(span.attributes[0].value.as_ref().unwrap().value.as_ref().unwrap()), "{spans}");
            }
        }
    }

    #[test]
    fn a_refusal_names_the_field() {
        let number = span(r#"{"intValue":"many"}"#);
        assert!(traces(&number).unwrap_err().contains("resourceSpans[0].scopeSpans[0].spans[0].attributes[0].value"));
        let cases = [
            (r#"{"resourceSpans":[{"scopeSpans":[{"spans":[{"traceId":5}]}]}]}"#, "spans[0].traceId"),
            (r#"{"resourceSpans":7}"#, "resourceSpans: "),
            (r#"{"resourceSpans":[]} x"#, "behind the end"),
            ("[", "malformed OTLP/JSON"),
            ("", "malformed OTLP/JSON"),
        ];
        for (text, part) in cases {
            let error = traces(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }
}
