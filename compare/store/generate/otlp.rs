//! The spans as OTLP requests, in files for `send`.

use std::{
    fs::{self, File},
    io::{BufWriter, Write},
    path::{Path, PathBuf},
};

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event},
};
use prost::Message;

use crate::{
    recording::Recording,
    span::{Made, SCOPE, SCOPE_VERSION, resource},
};

const REQUESTS_PER_FILE: usize = 200;

/// Requests, each after its length as four bytes, little-endian.
pub(crate) struct OtlpFiles {
    dir: PathBuf,
    file: Option<BufWriter<File>>,
    requests: usize,
    pub(crate) bytes: u64,
    pub(crate) largest: usize,
}

impl OtlpFiles {
    pub(crate) fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), file: None, requests: 0, bytes: 0, largest: 0 }
    }

    pub(crate) fn write(&mut self, recording: &Recording, spans: &[Made]) {
        let body = request(recording, spans).encode_to_vec();
        assert!(body.len() < 4 << 20, "a request of {} bytes is larger than collectors take", body.len());
        if self.requests.is_multiple_of(REQUESTS_PER_FILE) {
            self.close();
            let path = self.dir.join(format!("requests-{:04}.bin", self.requests / REQUESTS_PER_FILE));
            self.file = Some(BufWriter::with_capacity(1 << 20, File::create(path).unwrap()));
        }
        let file = self.file.as_mut().unwrap();
        file.write_all(&(body.len() as u32).to_le_bytes()).unwrap();
        file.write_all(&body).unwrap();
        self.requests += 1;
        self.bytes += body.len() as u64;
        self.largest = self.largest.max(body.len());
    }

    pub(crate) fn close(&mut self) {
        if let Some(mut file) = self.file.take() {
            file.flush().unwrap();
        }
    }
}

/// One request as a collector forwards it: a resource for each pod.
fn request(recording: &Recording, spans: &[Made]) -> ExportTraceServiceRequest {
    let mut by_pod: Vec<Vec<Span>> = vec![Vec::new(); recording.pods.len()];
    for span in spans {
        by_pod[span.pod].push(otlp_span(recording, span));
    }
    let filled = by_pod.into_iter().enumerate().filter(|(_, spans)| !spans.is_empty());
    let resource_spans = filled.map(|(pod, spans)| {
        let attributes = resource(&recording.pods[pod]).into_iter().map(|(key, value)| text(key, value)).collect();
        let scope = InstrumentationScope { name: SCOPE.into(), version: SCOPE_VERSION.into(), ..Default::default() };
        ResourceSpans {
            resource: Some(Resource { attributes, ..Resource::default() }),
            scope_spans: vec![ScopeSpans { scope: Some(scope), spans, ..ScopeSpans::default() }],
            ..ResourceSpans::default()
        }
    });
    ExportTraceServiceRequest { resource_spans: resource_spans.collect() }
}

fn otlp_span(recording: &Recording, span: &Made) -> Span {
    let mut attributes: Vec<KeyValue> = span.texts.iter().map(|(key, value)| text(key, value)).collect();
    attributes.extend(span.numbers.iter().map(|(key, value)| pair(key, Value::IntValue(*value))));
    let event = span.event.as_ref().map(|event| Event {
        time_unix_nano: event.time_unix_nano as u64,
        name: event.name.into(),
        attributes: vec![text(event.attribute.0, &event.attribute.1)],
        ..Event::default()
    });
    Span {
        trace_id: span.trace_id.to_vec(),
        span_id: span.span_id.to_vec(),
        parent_span_id: span.parent_span_id.map(|id| id.to_vec()).unwrap_or_default(),
        name: recording.operations[span.operation].clone(),
        kind: span.kind as i32,
        start_time_unix_nano: span.start_unix_nano as u64,
        end_time_unix_nano: (span.start_unix_nano + span.duration_ns) as u64,
        attributes,
        events: event.into_iter().collect(),
        status: span.error.then(|| Status { code: 2, message: String::new() }),
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
