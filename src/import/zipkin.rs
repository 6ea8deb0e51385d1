//! Zipkin v2 JSON: an array of spans (or of traces, as its API gives them); times are microseconds.
//!
//! In Zipkin a server may share the id of the span that called it (B3's older way, and a default of many tracers). Here each span has
//! an id of its own: the server's becomes another one, made of the shared one and always the same, below the client's; what the server called moves along.

use std::collections::{BTreeMap, HashMap};

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

/// Trace and span id.
type Id = (Vec<u8>, Vec<u8>);

/// The services whose spans share the id of their caller's.
#[derive(Default)]
struct Shared(HashMap<Id, String>);

impl Shared {
    /// Ids that a client and a server have.
    fn of(rows: &[Value]) -> Self {
        let (mut clients, mut servers) = (HashMap::new(), HashMap::new());
        for row in rows {
            let Ok((service, span)) = read_span(row) else { continue };
            let id = (span.trace_id, span.span_id);
            match span.kind {
                // its caller may stand in another file
                SERVER if row["shared"] == true => {
                    clients.insert(id.clone(), ());
                    servers.insert(id, service);
                }
                CLIENT => drop(clients.insert(id, ())),
                SERVER => drop(servers.insert(id, service)),
                _ => {}
            }
        }
        servers.retain(|id, _| clients.contains_key(id));
        Self(servers)
    }

    /// Gives the server's side an id of its own, and what it called that parent.
    fn tell_apart(&self, service: &str, span: &mut Span) {
        let of = |id: &[u8]| self.0.get(&(span.trace_id.clone(), id.to_vec()));
        if span.kind == SERVER && of(&span.span_id).is_some() {
            let own = of_server(&span.span_id);
            span.parent_span_id = std::mem::replace(&mut span.span_id, own);
        } else if of(&span.parent_span_id).is_some_and(|server| server == service) {
            span.parent_span_id = of_server(&span.parent_span_id);
        }
    }
}

/// Far from any other: a fixed number, as good as drawn, is taken from all bits.
fn of_server(id: &[u8]) -> Vec<u8> {
    const FAR: [u8; 8] = 0x9e37_79b9_7f4a_7c15_u64.to_be_bytes();
    let other: Vec<u8> = id.iter().zip(FAR).map(|(byte, far)| byte ^ far).collect();
    if other.iter().all(|byte| *byte == 0) { FAR.to_vec() } else { other }
}

/// The spans of a file, in requests of [`SPANS_PER_CHUNK`].
pub(super) fn open(bytes: &Bytes) -> Result<Reader, anyhow::Error> {
    let rows: Vec<Value> = serde_json::from_slice(bytes)?;
    let spans: Vec<Value> =
        rows.into_iter().flat_map(|row| if let Value::Array(trace) = row { trace } else { vec![row] }).collect();
    let length = spans.len() as u64;
    let shared = Shared::of(&spans);
    let mut items = Vec::new();
    for (chunk, rows) in spans.chunks(SPANS_PER_CHUNK).enumerate() {
        let first = chunk * SPANS_PER_CHUNK;
        let mut by_service: BTreeMap<String, Vec<Span>> = BTreeMap::new();
        for (n, row) in rows.iter().enumerate() {
            match read_span(row) {
                Ok((service, mut span)) => {
                    shared.tell_apart(&service, &mut span);
                    by_service.entry(service).or_default().push(span);
                }
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

const SERVER: i32 = 2;
const CLIENT: i32 = 3;

fn kind(kind: Option<&str>) -> i32 {
    match kind {
        Some("SERVER") => SERVER,
        Some("CLIENT") => CLIENT,
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
    fn a_server_that_shares_its_callers_id_is_a_span_of_its_own() {
        let span = |id: &str, parent: &str, kind: &str, service: &str, shared: bool| {
            serde_json::json!({"traceId": "1", "id": id, "parentId": parent, "kind": kind, "timestamp": 5, "duration": 3,
                "localEndpoint": {"serviceName": service}, "shared": shared})
        };
        let spans = [
            span("2", "1", "CLIENT", "front", false),
            span("2", "1", "SERVER", "back", true),
            span("3", "2", "CLIENT", "back", false),
            span("4", "2", "", "front", false),
        ];
        let text = serde_json::to_vec(&spans).unwrap();
        let items: Vec<_> = open(&Bytes::from(text)).unwrap().items.collect();
        let Item::Chunk(Chunk::Otlp { body, .. }, 4) = &items[0] else { panic!("one request") };
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let spans = request.resource_spans.iter().flat_map(|of| &of.scope_spans[0].spans);
        let ids: Vec<_> = spans.map(|span| (span.kind, span.span_id.clone(), span.parent_span_id.clone())).collect();
        let id = |n: u64| n.to_be_bytes().to_vec();
        let own = of_server(&id(2));
        // by service: back, then front
        let expected = [(SERVER, own.clone(), id(2)), (CLIENT, id(3), own), (CLIENT, id(2), id(1)), (1, id(4), id(2))];
        assert_eq!(ids, expected);
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
