//! Makes the spans of `compare/store`, and sends them: real Nezha spans, repeated a day apart with fresh
//! ids, given OpenTelemetry attributes, written twice, as OTLP requests for weir and as Parquet for its peers.
//!
//! `store_data make SPANS_PARQUET DIR SPANS a|b`    `DIR/otlp/*.bin`, `DIR/parquet/*.parquet`, `DIR/manifest.json`
//! `store_data send URL DIR CONNECTIONS`            every request over OTLP/HTTP; a 503 is sent again
//!
//! Shape `a` has about 7 semantic-convention attributes a span. Shape `b`, wide, has 300 keys, 9 a span, of 1,000
//! values each, beside `http.route` and `http.response.status_code`. Values come from a hash of the span's
//! place, so that the same arguments give the same bytes. Spans stand in the order in which they end, as
//! exporters send them.
//!
//! What is invented: `user.id` (10,000 values) belongs to the trace, as baggage would carry it, and stands on
//! server spans; `session.id` on root spans; `app.request.id`, unique, on one span in 1,000.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::print_stderr)] // a tool for the terminal; it stops where it fails

use std::{
    collections::HashMap,
    fs::{self, File},
    io::{BufReader, BufWriter, Read, Write},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use arrow::{
    array::{
        ArrayRef, AsArray, Int64Builder, ListBuilder, MapBuilder, MapFieldNames, StringBuilder, StructBuilder,
    },
    datatypes::{DataType, Field, Fields, Int64Type, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use bytes::Bytes;
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::Event},
};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};
use prost::Message;
use xxhash_rust::xxh3::xxh3_64_with_seed;

const SEED: u64 = 7;
const DAY_NANOS: i64 = 86_400_000_000_000;
const SPANS_PER_REQUEST: usize = 3_000;
const REQUESTS_PER_FILE: usize = 200;
const SPANS_PER_PARQUET_FILE: usize = 600_000;
const USERS: u64 = 10_000;
const WIDE_KEYS: u64 = 300;
const WIDE_KEYS_PER_SERVICE: u64 = 60;
const WIDE_KEYS_PER_SPAN: u64 = 9;
const WIDE_VALUES: u64 = 1_000;

#[tokio::main]
async fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match arguments.as_slice() {
        ["make", source, dir, spans, shape @ ("a" | "b")] => {
            make(Path::new(source), Path::new(dir), spans.parse().unwrap(), if *shape == "a" { Shape::Narrow } else { Shape::Wide });
        }
        ["send", url, dir, connections] => send(url, Path::new(dir), connections.parse().unwrap()).await,
        _ => {
            eprintln!("usage: store_data make SPANS_PARQUET DIR SPANS a|b | send URL DIR CONNECTIONS");
            std::process::exit(2);
        }
    }
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Shape {
    Narrow,
    Wide,
}

// ---- what was recorded ----

/// The recorded day: each span once, in the order in which they ended.
struct Recording {
    spans: Vec<Recorded>,
    pods: Vec<String>,
    operations: Vec<String>,
}

struct Recorded {
    trace: u32,
    /// Its place among the distinct spans: what its id is made from.
    ordinal: u32,
    parent: Parent,
    pod: usize,
    operation: usize,
    start_unix_nano: i64,
    duration_ns: i64,
    kind: Kind,
    /// The service that a client span calls.
    callee: Option<usize>,
}

#[derive(Clone, Copy)]
enum Parent {
    Root,
    Recorded(u32),
    /// The parent's id was recorded, the parent was not.
    Missing(u64),
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Kind {
    Internal = 1,
    Server = 2,
    Client = 3,
}

impl Recording {
    fn read(path: &Path) -> Self {
        let file = File::open(path).unwrap_or_else(|error| {
            eprintln!("{}: {error}\nthe recorded spans are not part of the project: see compare/store/README.md", path.display());
            std::process::exit(3);
        });
        let reader = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        let mut recording = Self { spans: Vec::new(), pods: Vec::new(), operations: Vec::new() };
        let (mut traces, mut seen, mut parent_ids) = (Names::default(), HashMap::new(), Vec::new());
        let (mut pods, mut operations) = (Names::default(), Names::default());
        for batch in reader {
            let batch = batch.unwrap();
            let text = |name| batch.column_by_name(name).unwrap().as_string::<i32>();
            let number = |name| batch.column_by_name(name).unwrap().as_primitive::<Int64Type>();
            let (trace_ids, span_ids, parents) = (text("trace_id"), text("span_id"), text("parent_id"));
            let (pod_names, operation_names) = (text("pod"), text("operation"));
            let (starts, ends) = (number("start_unix_nano"), number("end_unix_nano"));
            for row in 0..batch.num_rows() {
                let trace = traces.place(trace_ids.value(row)) as u32;
                let span = xxh3_64_with_seed(span_ids.value(row).as_bytes(), 0);
                let ordinal = recording.spans.len() as u32;
                if seen.contains_key(&(trace, span)) {
                    continue; // overlapping recordings repeat rows exactly
                }
                seen.insert((trace, span), ordinal);
                parent_ids.push(parents.value(row).to_owned());
                recording.spans.push(Recorded {
                    trace,
                    ordinal,
                    parent: Parent::Root,
                    pod: pods.place(pod_names.value(row)),
                    operation: operations.place(operation_names.value(row)),
                    start_unix_nano: starts.value(row),
                    duration_ns: (ends.value(row) - starts.value(row)).max(0),
                    kind: Kind::Internal,
                    callee: None,
                });
            }
        }
        (recording.pods, recording.operations) = (pods.names, operations.names);
        recording.link(&parent_ids, &seen);
        recording.spans.sort_by_key(|span| (span.start_unix_nano + span.duration_ns, span.ordinal));
        recording
    }

    /// Parents by place, and from them the kinds: a span with its parent in another pod serves, that parent calls.
    fn link(&mut self, parent_ids: &[String], seen: &HashMap<(u32, u64), u32>) {
        for place in 0..self.spans.len() {
            let parent_id = &parent_ids[place];
            if parent_id == "root" {
                self.spans[place].kind = Kind::Server;
                continue;
            }
            let parent = xxh3_64_with_seed(parent_id.as_bytes(), 0);
            let Some(&found) = seen.get(&(self.spans[place].trace, parent)) else {
                self.spans[place].parent = Parent::Missing(parent);
                self.spans[place].kind = Kind::Server;
                continue;
            };
            self.spans[place].parent = Parent::Recorded(found);
            let pod = self.spans[place].pod;
            if self.spans[found as usize].pod != pod {
                self.spans[place].kind = Kind::Server;
                self.spans[found as usize].callee = Some(pod);
            }
        }
        for span in &mut self.spans {
            if span.callee.is_some() && span.kind == Kind::Internal {
                span.kind = Kind::Client;
            }
        }
    }
}

/// Strings in the order in which they were first seen.
#[derive(Default)]
struct Names {
    names: Vec<String>,
    places: HashMap<String, usize>,
}

impl Names {
    fn place(&mut self, name: &str) -> usize {
        if let Some(&place) = self.places.get(name) {
            return place;
        }
        self.names.push(name.to_owned());
        self.places.insert(name.to_owned(), self.names.len() - 1);
        self.names.len() - 1
    }
}

/// A pod's service is its name without the two parts that are hashes.
fn service(pod: &str) -> &str {
    pod.rsplitn(3, '-').last().unwrap_or(pod)
}

// ---- what is made of it ----

/// One span, complete: what both outputs are written from.
struct Made {
    trace_id: [u8; 16],
    span_id: [u8; 8],
    parent_span_id: Option<[u8; 8]>,
    pod: usize,
    operation: usize,
    start_unix_nano: i64,
    duration_ns: i64,
    kind: Kind,
    error: bool,
    texts: Vec<(String, String)>,
    numbers: Vec<(&'static str, i64)>,
    event: Option<MadeEvent>,
}

struct MadeEvent {
    time_unix_nano: i64,
    name: &'static str,
    attribute: (&'static str, String),
}

/// The four numbers a value may depend on, hashed.
fn hash(purpose: u64, day: u64, place: u64) -> u64 {
    let mut bytes = [0; 24];
    for (slot, number) in bytes.chunks_exact_mut(8).zip([purpose, day, place]) {
        slot.copy_from_slice(&number.to_le_bytes());
    }
    xxh3_64_with_seed(&bytes, SEED)
}

fn make_span(recording: &Recording, span: &Recorded, day: u64, shape: Shape) -> Made {
    let (trace, place) = (u64::from(span.trace), u64::from(span.ordinal));
    let id = |ordinal: u64| hash(3, day, ordinal).to_be_bytes();
    let mut trace_id = [0; 16];
    trace_id[..8].copy_from_slice(&hash(1, day, trace).to_be_bytes());
    trace_id[8..].copy_from_slice(&hash(2, day, trace).to_be_bytes());
    let random = |purpose: u64, below: u64| hash(purpose, day, place) % below;
    let error = span.kind != Kind::Internal && random(10, 100) == 0;
    let status = match (error, random(11, 100)) {
        (true, 0..=69) => 500,
        (true, _) => 503,
        (false, 0..=1) => 404,
        (false, 2..=5) => 204,
        _ => 200,
    };
    let operation = &recording.operations[span.operation];
    let route = format!("/api/v{}/{}", 1 + random(12, 3), operation.trim_start_matches('/').replace('.', "/"));
    let mut made = Made {
        trace_id,
        span_id: id(place),
        parent_span_id: match span.parent {
            Parent::Root => None,
            Parent::Recorded(parent) => Some(id(u64::from(parent))),
            Parent::Missing(parent) => Some(hash(4, day, parent).to_be_bytes()),
        },
        pod: span.pod,
        operation: span.operation,
        start_unix_nano: span.start_unix_nano + day as i64 * DAY_NANOS,
        duration_ns: span.duration_ns,
        kind: span.kind,
        error,
        texts: Vec::new(),
        numbers: vec![("http.response.status_code", status)],
        event: None,
    };
    let mut text = |key: &str, value: String| made.texts.push((key.to_owned(), value));
    text("http.route", route);
    if shape == Shape::Wide {
        // keys: most of them the operation's, the others any of the service's; low values are likelier
        let first = span.pod as u64 * 27;
        let mut keys = Vec::with_capacity(WIDE_KEYS_PER_SPAN as usize);
        for slot in 0..WIDE_KEYS_PER_SPAN {
            let offset = if slot < 6 { hash(20 + slot, 0, span.operation as u64) } else { random(30 + slot, u64::MAX) };
            let key = (first + offset % WIDE_KEYS_PER_SERVICE) % WIDE_KEYS;
            if !keys.contains(&key) {
                keys.push(key);
                let value = random(40 + slot, WIDE_VALUES).min(random(50 + slot, WIDE_VALUES));
                text(&format!("app.k{key:03}"), format!("value-{value:03}"));
            }
        }
    } else {
        text("http.request.method", if hash(13, 0, span.operation as u64).is_multiple_of(3) { "POST" } else { "GET" }.into());
        let address = &recording.pods[span.callee.unwrap_or(span.pod)];
        text("server.address", format!("{}.shop.svc.cluster.local", service(address)));
        let environment = ["production", "production", "production", "staging", "canary"][random(14, 5) as usize];
        text("deployment.environment.name", environment.into());
        if span.kind == Kind::Server {
            text("user.id", format!("user-{:05}", hash(15, day, trace) % USERS));
        } else {
            text("thread.name", format!("worker-{:02}", random(16, 32)));
        }
        if matches!(span.parent, Parent::Root) {
            text("session.id", format!("{:016x}", hash(17, day, trace)));
        }
        if random(18, 1_000) == 0 {
            text("app.request.id", format!("{:032x}", u128::from(hash(19, day, place)) << 64 | u128::from(hash(20, day, place))));
        }
        made.numbers.push(("http.response.body.size", random(21, 100_000) as i64));
    }
    if random(60, 20) == 0 {
        let (name, attribute) = if error {
            ("exception", ("exception.type", ["TimeoutError", "ConnectionRefused", "InvalidArgument"][random(61, 3) as usize].into()))
        } else {
            ("cache.lookup", ("cache.key", format!("item-{:04}", random(62, 5_000))))
        };
        let time_unix_nano = made.start_unix_nano + made.duration_ns / 2;
        made.event = Some(MadeEvent { time_unix_nano, name, attribute });
    }
    made
}

fn make(source: &Path, dir: &Path, spans: usize, shape: Shape) {
    let recording = Recording::read(source);
    eprintln!("{} distinct recorded spans", recording.spans.len());
    let _ = fs::remove_dir_all(dir.join("otlp"));
    let _ = fs::remove_dir_all(dir.join("parquet"));
    let mut requests = OtlpFiles::new(&dir.join("otlp"));
    let mut rows = ParquetFiles::new(&dir.join("parquet"));
    let (mut day, mut made, mut last_day) = (0, 0, 0);
    let mut pending = Vec::with_capacity(SPANS_PER_REQUEST);
    let mut attributes = 0;
    while made < spans {
        for span in recording.spans.iter().take(spans - made) {
            pending.push(make_span(&recording, span, day, shape));
            if pending.len() == SPANS_PER_REQUEST {
                attributes += attribute_count(&pending);
                requests.write(&recording, &pending);
                rows.write(&recording, &mut pending);
            }
        }
        made += recording.spans.len().min(spans - made);
        last_day = day;
        day += 1;
    }
    attributes += attribute_count(&pending);
    if !pending.is_empty() {
        requests.write(&recording, &pending);
        rows.write(&recording, &mut pending);
    }
    requests.close();
    rows.close();
    let first = recording.spans.iter().map(|span| span.start_unix_nano).min().unwrap();
    let manifest = serde_json::json!({
        "shape": if shape == Shape::Narrow { "a" } else { "b" },
        "spans": spans,
        "seed": SEED,
        "days": last_day + 1,
        "first_start_unix_nano": first,
        "attributes_per_span": attributes as f64 / spans as f64,
        "otlp_bytes": requests.bytes,
        "largest_request_bytes": requests.largest,
    });
    fs::write(dir.join("manifest.json"), serde_json::to_string_pretty(&manifest).unwrap()).unwrap();
    println!("{manifest}");
}

fn attribute_count(spans: &[Made]) -> usize {
    spans.iter().map(|span| span.texts.len() + span.numbers.len()).sum()
}

// ---- OTLP ----

/// Requests, each after its length as four bytes, little-endian.
struct OtlpFiles {
    dir: PathBuf,
    file: Option<BufWriter<File>>,
    requests: usize,
    bytes: u64,
    largest: usize,
}

impl OtlpFiles {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), file: None, requests: 0, bytes: 0, largest: 0 }
    }

    fn write(&mut self, recording: &Recording, spans: &[Made]) {
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

    fn close(&mut self) {
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

const SCOPE: &str = "shop.instrumentation";
const SCOPE_VERSION: &str = "1.4.0";

fn resource(pod: &str) -> [(&'static str, &str); 3] {
    [("service.name", service(pod)), ("service.instance.id", pod), ("telemetry.sdk.language", "go")]
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

// ---- Parquet ----

/// The same spans as plain columns, ids in hex, attributes as two maps by the type of the value.
struct ParquetFiles {
    dir: PathBuf,
    schema: SchemaRef,
    writer: Option<ArrowWriter<File>>,
    rows: usize,
}

impl ParquetFiles {
    fn new(dir: &Path) -> Self {
        fs::create_dir_all(dir).unwrap();
        Self { dir: dir.to_owned(), schema: parquet_schema(), writer: None, rows: 0 }
    }

    fn write(&mut self, recording: &Recording, spans: &mut Vec<Made>) {
        if self.rows.is_multiple_of(SPANS_PER_PARQUET_FILE) {
            self.close();
            let path = self.dir.join(format!("spans-{:04}.parquet", self.rows / SPANS_PER_PARQUET_FILE));
            let level = ZstdLevel::try_new(1).unwrap();
            let properties = WriterProperties::builder().set_compression(Compression::ZSTD(level)).build();
            let file = File::create(path).unwrap();
            self.writer = Some(ArrowWriter::try_new(file, self.schema.clone(), Some(properties)).unwrap());
        }
        self.writer.as_mut().unwrap().write(&batch(&self.schema, recording, spans)).unwrap();
        self.rows += spans.len();
        spans.clear();
    }

    fn close(&mut self) {
        if let Some(writer) = self.writer.take() {
            writer.close().unwrap();
        }
    }
}

fn map_field_names() -> MapFieldNames {
    MapFieldNames { entry: "key_value".into(), key: "key".into(), value: "value".into() }
}

fn map_type(value: DataType) -> DataType {
    let fields = Fields::from(vec![Field::new("key", DataType::Utf8, false), Field::new("value", value, true)]);
    DataType::Map(Arc::new(Field::new("key_value", DataType::Struct(fields), false)), false)
}

fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("attribute_key", DataType::Utf8, true),
        Field::new("attribute_value", DataType::Utf8, true),
    ])
}

fn parquet_schema() -> SchemaRef {
    use DataType::{Int64, Utf8};
    let events = DataType::List(Arc::new(Field::new("element", DataType::Struct(event_fields()), true)));
    let columns = [
        ("trace_id", Utf8),
        ("span_id", Utf8),
        ("parent_span_id", Utf8),
        ("start_unix_nano", Int64),
        ("duration_ns", Int64),
        ("service", Utf8),
        ("instance", Utf8),
        ("operation", Utf8),
        ("kind", Utf8),
        ("status", Utf8),
        ("scope_name", Utf8),
        ("scope_version", Utf8),
        ("attributes", map_type(Utf8)),
        ("int_attributes", map_type(Int64)),
        ("resource_attributes", map_type(Utf8)),
        ("events", events),
    ];
    let fields = columns.map(|(name, data_type)| Field::new(name, data_type, false));
    Arc::new(Schema::new(fields.to_vec()))
}

fn batch(schema: &SchemaRef, recording: &Recording, spans: &[Made]) -> RecordBatch {
    let strings = |value: &dyn Fn(&Made) -> String| -> ArrayRef {
        let mut column = StringBuilder::new();
        spans.iter().for_each(|span| column.append_value(value(span)));
        Arc::new(column.finish())
    };
    let numbers = |value: &dyn Fn(&Made) -> i64| -> ArrayRef {
        let mut column = Int64Builder::new();
        spans.iter().for_each(|span| column.append_value(value(span)));
        Arc::new(column.finish())
    };
    let kind = |kind| match kind {
        Kind::Internal => "internal",
        Kind::Server => "server",
        Kind::Client => "client",
    };
    let pod = |span: &Made| recording.pods[span.pod].as_str();
    let mut texts = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), StringBuilder::new());
    let mut integers = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), Int64Builder::new());
    let mut resources = MapBuilder::new(Some(map_field_names()), StringBuilder::new(), StringBuilder::new());
    let mut events = ListBuilder::new(StructBuilder::from_fields(event_fields(), 0))
        .with_field(Field::new("element", DataType::Struct(event_fields()), true));
    for span in spans {
        for (key, value) in &span.texts {
            texts.keys().append_value(key);
            texts.values().append_value(value);
        }
        texts.append(true).unwrap();
        for (key, value) in &span.numbers {
            integers.keys().append_value(key);
            integers.values().append_value(*value);
        }
        integers.append(true).unwrap();
        for (key, value) in resource(pod(span)) {
            resources.keys().append_value(key);
            resources.values().append_value(value);
        }
        resources.append(true).unwrap();
        if let Some(event) = &span.event {
            let fields = events.values();
            fields.field_builder::<Int64Builder>(0).unwrap().append_value(event.time_unix_nano);
            let texts = [event.name, event.attribute.0, &event.attribute.1];
            for (place, value) in texts.into_iter().enumerate() {
                fields.field_builder::<StringBuilder>(place + 1).unwrap().append_value(value);
            }
            fields.append(true);
        }
        events.append(true);
    }
    let columns: Vec<ArrayRef> = vec![
        strings(&|span| hex::encode(span.trace_id)),
        strings(&|span| hex::encode(span.span_id)),
        strings(&|span| span.parent_span_id.map(hex::encode).unwrap_or_default()),
        numbers(&|span| span.start_unix_nano),
        numbers(&|span| span.duration_ns),
        strings(&|span| service(pod(span)).into()),
        strings(&|span| pod(span).into()),
        strings(&|span| recording.operations[span.operation].clone()),
        strings(&|span| kind(span.kind).into()),
        strings(&|span| if span.error { "error" } else { "unset" }.into()),
        strings(&|_| SCOPE.into()),
        strings(&|_| SCOPE_VERSION.into()),
        Arc::new(texts.finish()),
        Arc::new(integers.finish()),
        Arc::new(resources.finish()),
        Arc::new(events.finish()),
    ];
    RecordBatch::try_new(schema.clone(), columns).unwrap()
}

// ---- sending ----

/// How many requests wait to be sent; the readers of the files wait when there are as many.
const QUEUE: usize = 16;

async fn send(url: &str, dir: &Path, connections: usize) {
    let mut files: Vec<PathBuf> = fs::read_dir(dir.join("otlp")).unwrap().map(|entry| entry.unwrap().path()).collect();
    files.sort();
    let (bodies, queue) = tokio::sync::mpsc::channel::<Vec<u8>>(QUEUE);
    let queue = Arc::new(tokio::sync::Mutex::new(queue));
    let start = Instant::now();
    let workers: Vec<_> = (0..connections)
        .map(|_| {
            let (queue, url) = (queue.clone(), format!("{url}/v1/traces"));
            tokio::spawn(async move {
                let client = reqwest::Client::builder().build().unwrap();
                let (mut sent, mut refused) = (0_u64, 0_u64);
                loop {
                    let next = queue.lock().await.recv().await;
                    let Some(body) = next else { return (sent, refused) };
                    refused += post(&client, &url, body.into()).await;
                    sent += 1;
                }
            })
        })
        .collect();
    tokio::task::spawn_blocking(move || files.iter().for_each(|path| read_requests(path, &bodies))).await.unwrap();
    let (mut sent, mut refused) = (0, 0);
    for worker in workers {
        let (of_worker, refused_to_worker) = worker.await.unwrap();
        sent += of_worker;
        refused += refused_to_worker;
    }
    let seconds = start.elapsed().as_secs_f64();
    println!("{}", serde_json::json!({"requests": sent, "refused": refused, "seconds": seconds}));
}

fn read_requests(path: &Path, bodies: &tokio::sync::mpsc::Sender<Vec<u8>>) {
    let mut file = BufReader::with_capacity(1 << 20, File::open(path).unwrap());
    let mut length = [0; 4];
    while file.read_exact(&mut length).is_ok() {
        let mut body = vec![0; u32::from_le_bytes(length) as usize];
        file.read_exact(&mut body).unwrap();
        bodies.blocking_send(body).unwrap();
    }
}

/// Sends until it is taken; says how often it was not.
async fn post(client: &reqwest::Client, url: &str, body: Bytes) -> u64 {
    let mut refused = 0;
    loop {
        let answer = client.post(url).header("content-type", "application/x-protobuf").body(body.clone()).send().await;
        match answer {
            Ok(answer) if answer.status().is_success() => return refused,
            Ok(answer) if [429, 502, 503, 504].contains(&answer.status().as_u16()) => {}
            Ok(answer) => panic!("{}: {}", answer.status(), answer.text().await.unwrap_or_default()),
            Err(error) if refused > 200 => panic!("{error}"),
            Err(_) => {}
        }
        refused += 1;
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}
