//! Jaeger JSON, as its UI and query API give it: `{"data":[{"traceID","spans","processes"}]}`.
//! Each trace becomes one OTLP request; times are microseconds, tags are typed.

use std::collections::BTreeMap;

use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::KeyValue,
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event},
};
use prost::Message;
use serde::Deserialize;
use serde_json::Value;
use weir_schema::Encoding;

use super::{
    Chunk, Item, Reader,
    zipkin::{attribute, hex_id},
};

#[derive(Deserialize)]
struct File {
    data: Vec<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Trace {
    spans: Vec<Value>,
    #[serde(default)]
    processes: BTreeMap<String, Process>,
}

#[derive(Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Process {
    service_name: String,
    #[serde(default)]
    tags: Vec<Tag>,
}

#[derive(Clone, Deserialize)]
struct Tag {
    key: String,
    value: Value,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct JaegerSpan {
    #[serde(rename = "traceID")]
    trace_id: String,
    #[serde(rename = "spanID")]
    span_id: String,
    #[serde(rename = "parentSpanID", default)]
    parent_span_id: String,
    operation_name: String,
    #[serde(default)]
    references: Vec<Reference>,
    start_time: u64,
    duration: u64,
    #[serde(default)]
    tags: Vec<Tag>,
    #[serde(default)]
    logs: Vec<Log>,
    #[serde(rename = "processID", default)]
    process_id: String,
    process: Option<Process>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Reference {
    ref_type: String,
    #[serde(rename = "spanID")]
    span_id: String,
}

#[derive(Deserialize)]
struct Log {
    timestamp: u64,
    #[serde(default)]
    fields: Vec<Tag>,
}

/// The traces of a file, one request each.
pub(super) fn open(bytes: &Bytes) -> Result<Reader, anyhow::Error> {
    let file: File = serde_json::from_slice(bytes)?;
    let length = file.data.len() as u64;
    let items = file.data.into_iter().enumerate().flat_map(|(index, trace)| trace_items(index, trace));
    Ok(Reader { length, unit: "traces", items: Box::new(items) })
}

fn trace_items(index: usize, trace: Value) -> Vec<Item> {
    let trace: Trace = match serde_json::from_value(trace) {
        Ok(trace) => trace,
        Err(error) => return vec![Item::Bad(format!("data[{index}]: {error}"))],
    };
    let mut items = Vec::new();
    let mut by_process: BTreeMap<String, (Process, Vec<Span>)> = BTreeMap::new();
    for (n, span) in trace.spans.into_iter().enumerate() {
        match read_span(span, &trace.processes) {
            Ok((id, process, span)) => by_process.entry(id).or_insert((process, Vec::new())).1.push(span),
            Err(why) => items.push(Item::Bad(format!("data[{index}].spans[{n}]: {why}"))),
        }
    }
    let resource_spans = by_process.into_values().map(|(process, spans)| resource_spans(process, spans)).collect();
    let body = Bytes::from(ExportTraceServiceRequest { resource_spans }.encode_to_vec());
    items.push(Item::Chunk(Chunk::Otlp { encoding: Encoding::Protobuf, body, place: String::new() }, index as u64 + 1));
    items
}

fn read_span(span: Value, processes: &BTreeMap<String, Process>) -> Result<(String, Process, Span), String> {
    let span: JaegerSpan = serde_json::from_value(span).map_err(|error| error.to_string())?;
    let process = match (&span.process, processes.get(&span.process_id)) {
        (Some(process), _) | (None, Some(process)) => process.clone(),
        (None, None) => return Err(format!("processID {:?} is not in processes", span.process_id)),
    };
    let parent = span.references.iter().find(|r| r.ref_type == "CHILD_OF").or(span.references.first());
    let parent = parent.map_or(span.parent_span_id.as_str(), |r| r.span_id.as_str());
    let start = span.start_time * 1000;
    let converted = Span {
        trace_id: hex_id(&span.trace_id, 16)?,
        span_id: hex_id(&span.span_id, 8)?,
        parent_span_id: if parent.is_empty() { Vec::new() } else { hex_id(parent, 8)? },
        name: span.operation_name,
        kind: kind(&span.tags),
        start_time_unix_nano: start,
        end_time_unix_nano: start + span.duration * 1000,
        attributes: attributes(&span.tags),
        events: span.logs.iter().map(event).collect(),
        status: Some(status(&span.tags)),
        ..Span::default()
    };
    let id = if span.process_id.is_empty() { process.service_name.clone() } else { span.process_id };
    Ok((id, process, converted))
}

fn resource_spans(process: Process, spans: Vec<Span>) -> ResourceSpans {
    let mut attributes = attributes(&process.tags);
    attributes.push(attribute("service.name", &Value::String(process.service_name)));
    let resource = Some(Resource { attributes, ..Resource::default() });
    ResourceSpans {
        resource,
        scope_spans: vec![ScopeSpans { spans, ..ScopeSpans::default() }],
        ..ResourceSpans::default()
    }
}

fn event(log: &Log) -> Event {
    let name = log.fields.iter().find(|f| f.key == "event" || f.key == "message");
    let name = name.and_then(|f| f.value.as_str()).unwrap_or("log").to_owned();
    Event { time_unix_nano: log.timestamp * 1000, name, attributes: attributes(&log.fields), ..Event::default() }
}

fn attributes(tags: &[Tag]) -> Vec<KeyValue> {
    tags.iter().filter(|t| t.key != "span.kind").map(|t| attribute(&t.key, &t.value)).collect()
}

fn kind(tags: &[Tag]) -> i32 {
    let kind = tags.iter().find(|t| t.key == "span.kind").and_then(|t| t.value.as_str());
    match kind {
        Some("internal") => 1,
        Some("server") => 2,
        Some("client") => 3,
        Some("producer") => 4,
        Some("consumer") => 5,
        _ => 0,
    }
}

fn status(tags: &[Tag]) -> Status {
    let tag = |key: &str| tags.iter().find(|t| t.key == key).map(|t| &t.value);
    let failed = tag("error").is_some_and(|v| v.as_bool() == Some(true) || v.as_str() == Some("true"))
        || tag("otel.status_code").and_then(Value::as_str) == Some("ERROR");
    let message = tag("otel.status_description").and_then(Value::as_str).unwrap_or_default().to_owned();
    Status { code: if failed { 2 } else { 0 }, message }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_trace_keeps_its_parents_kinds_and_types() {
        let file = serde_json::json!({"data": [{"traceID": "1", "processes": {"p1": {"serviceName": "cart"}}, "spans": [
            {"traceID": "ab", "spanID": "1", "operationName": "GET", "startTime": 5, "duration": 2, "processID": "p1",
             "references": [{"refType": "CHILD_OF", "traceID": "ab", "spanID": "2"}],
             "tags": [{"key": "span.kind", "type": "string", "value": "server"}, {"key": "n", "type": "int64", "value": 3},
                      {"key": "error", "type": "bool", "value": true}]},
            {"traceID": "ab", "spanID": "3", "operationName": "GET", "startTime": 5, "duration": 2, "processID": "p9"}]}]});
        let reader = open(&Bytes::from(file.to_string())).unwrap();
        let items: Vec<_> = reader.items.collect();
        let Item::Bad(why) = &items[0] else { panic!("the unknown process is a bad record") };
        assert!(why.starts_with("data[0].spans[1]: processID"), "{why}");
        let Item::Chunk(Chunk::Otlp { body, .. }, _) = &items[1] else { panic!("a request follows") };
        let request = ExportTraceServiceRequest::decode(body.clone()).unwrap();
        let span = &request.resource_spans[0].scope_spans[0].spans[0];
        assert_eq!((span.kind, span.parent_span_id[7], span.trace_id.len()), (2, 2, 16));
        assert_eq!((span.start_time_unix_nano, span.end_time_unix_nano), (5_000, 7_000));
        assert_eq!(span.status.as_ref().unwrap().code, 2);
    }
}
