//! Zipkin v2 JSON: an array of spans (or of traces, as its API gives them); times are microseconds.

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event},
};
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use weir_schema::Encoding;

use super::{Chunk, Item, Reader};

/// Spans per request: about a quarter of a megabyte.
const SPANS_PER_CHUNK: usize = 1000;

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ZipkinSpan {
    trace_id: String,
    id: String,
    #[serde(default)]
    parent_id: Option<String>,
    #[serde(default)]
    name: String,
    #[serde(default)]
    kind: Option<String>,
    #[serde(default)]
    timestamp: Option<u64>,
    #[serde(default)]
    duration: Option<u64>,
    #[serde(default)]
    local_endpoint: Endpoint,
    #[serde(default)]
    remote_endpoint: Endpoint,
    #[serde(default)]
    annotations: Vec<Annotation>,
    #[serde(default)]
    tags: BTreeMap<String, Value>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Endpoint {
    service_name: Option<String>,
}

#[derive(Deserialize)]
struct Annotation {
    timestamp: u64,
    value: String,
}

/// The spans of a file, in requests of [`SPANS_PER_CHUNK`].
pub(super) fn open(bytes: &Bytes) -> Result<Reader, anyhow::Error> {
    let rows: Vec<Value> = serde_json::from_slice(bytes)?;
    let spans: Vec<Value> =
        rows.into_iter().flat_map(|row| if let Value::Array(trace) = row { trace } else { vec![row] }).collect();
    let length = spans.len() as u64;
    let mut items = Vec::new();
    for (chunk, rows) in spans.chunks(SPANS_PER_CHUNK).enumerate() {
        let first = chunk * SPANS_PER_CHUNK;
        let mut by_service: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for (n, row) in rows.iter().enumerate() {
            match read_span(row) {
                Ok((service, span)) => by_service.entry(service).or_default().push(span),
                Err(why) => items.push(Item::Bad(format!("span {}: {why}", first + n))),
            }
        }
        let resource_spans = by_service.into_iter().map(|(service, spans)| resource_spans(service, spans)).collect();
        let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
        items.push(Item::Chunk(
            Chunk::Otlp { encoding: Encoding::Protobuf, body, place: String::new() },
            (first + rows.len()) as u64,
        ));
    }
    Ok(Reader { length, unit: "spans", items: Box::new(items.into_iter()) })
}

fn read_span(row: &Value) -> Result<(String, Span), String> {
    let span = ZipkinSpan::deserialize(row).map_err(|error| error.to_string())?;
    let start = span.timestamp.ok_or("timestamp is missing")? * 1000;
    let mut attributes: Vec<_> = span.tags.iter().map(|(key, value)| attribute(key, value)).collect();
    if let Some(peer) = span.remote_endpoint.service_name {
        attributes.push(attribute("peer.service", &Value::String(peer)));
    }
    let failed = span.tags.contains_key("error");
    let event = |a: Annotation| Event { time_unix_nano: a.timestamp * 1000, name: a.value, ..Event::default() };
    let converted = Span {
        trace_id: hex_id(&span.trace_id, 16)?,
        span_id: hex_id(&span.id, 8)?,
        parent_span_id: span.parent_id.map_or(Ok(Vec::new()), |id| hex_id(&id, 8))?,
        name: span.name,
        kind: kind(span.kind.as_deref()),
        start_time_unix_nano: start,
        end_time_unix_nano: start + span.duration.unwrap_or(0) * 1000,
        attributes,
        events: span.annotations.into_iter().map(event).collect(),
        status: Some(Status { code: if failed { 2 } else { 0 }, message: String::new() }),
        ..Span::default()
    };
    Ok((span.local_endpoint.service_name.unwrap_or_else(|| "unknown_service".into()), converted))
}

fn resource_spans(service: String, spans: Vec<Span>) -> ResourceSpans {
    let resource =
        Some(Resource { attributes: vec![attribute("service.name", &Value::String(service))], ..Resource::default() });
    ResourceSpans {
        resource,
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

fn kind(kind: Option<&str>) -> i32 {
    match kind {
        Some("SERVER") => 2,
        Some("CLIENT") => 3,
        Some("PRODUCER") => 4,
        Some("CONSUMER") => 5,
        _ => 1,
    }
}

/// An id in hex, left-padded with zeros to `length` bytes: older tracers write 64-bit trace ids.
pub(super) fn hex_id(text: &str, length: usize) -> Result<Vec<u8>, String> {
    let wide = 2 * length;
    if text.is_empty() || text.len() > wide {
        return Err(format!("id {text:?} is not 1 to {wide} hex digits"));
    }
    hex::decode(format!("{text:0>wide$}")).map_err(|_| format!("id {text:?} is not hex"))
}

/// A JSON value as a typed OTLP attribute.
pub(super) fn attribute(key: &str, value: &Value) -> KeyValue {
    let typed = match value {
        Value::Bool(b) => any_value::Value::BoolValue(*b),
        Value::Number(n) if n.is_i64() => any_value::Value::IntValue(n.as_i64().unwrap_or_default()),
        Value::Number(n) => any_value::Value::DoubleValue(n.as_f64().unwrap_or_default()),
        Value::String(text) => any_value::Value::StringValue(text.clone()),
        other => any_value::Value::StringValue(other.to_string()),
    };
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(typed) }), ..KeyValue::default() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_ids_are_padded_and_bad_ones_named() {
        let cases = [
            ("1", 8, Ok(8)),
            ("463ac35c9f6413ad", 16, Ok(16)),
            ("", 8, Err(())),
            ("zz", 8, Err(())),
            ("1".repeat(17).as_str(), 8, Err(())),
        ]
        .map(|(text, length, expect)| (text.to_owned(), length, expect));
        for (text, length, expect) in cases {
            assert_eq!(hex_id(&text, length).map(|id| id.len()).map_err(|_| ()), expect, "{text}");
        }
    }

    #[test]
    fn a_span_without_time_is_a_bad_record() {
        let text = r#"[{"traceId":"1","id":"2","name":"get","timestamp":5,"duration":3,"kind":"CLIENT","localEndpoint":{"serviceName":"a"},
            "remoteEndpoint":{"serviceName":"b"}},{"traceId":"1","id":"3"}]"#;
        let items: Vec<_> = open(&Bytes::from(text)).unwrap().items.collect();
        let Item::Bad(why) = &items[0] else { panic!("bad first") };
        assert_eq!(why, "span 1: timestamp is missing");
        let Item::Chunk(Chunk::Otlp { body, .. }, 2) = &items[1] else { panic!("then the request") };
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let span = &request.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!((span.kind, span.end_time_unix_nano, span.attributes[0].key.as_str()), (3, 8_000, "peer.service"));
    }
}
