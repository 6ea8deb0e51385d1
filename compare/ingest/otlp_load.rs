//! One sender process of `compare/ingest/run.sh`: sends spans by OTLP/gRPC or OTLP/HTTP and writes what
//! happened to each request.
//!
//! `otlp_load grpc|http URL SEED CLIENTS SPANS_PER_REQUEST SECONDS SPANS_PER_S honour|ignore OUT`
//!
//! Each span has 7 attributes and every 20th an event, over 20 services in traces of 10 spans: the
//! shape the targets are stated for. Requests are encoded before the clock starts; for each send the
//! ids and times in a copy of an encoded request are overwritten, so that no two are the same and the
//! sender costs a copy. A client has one request in the air. At a rate of 0 it sends the next as soon
//! as it is answered (closed loop); else requests fall due at that rate whatever the answers are (open
//! loop), and a client that is more than a second late leaves out what it missed, as a full queue
//! would. Refused, it waits as told and sends the same request again (`honour`), or goes on at once
//! with the next that is due (`ignore`).

#![allow(clippy::unwrap_used)] // a tool for the terminal; it stops where it fails

use std::{
    fmt::Write,
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::{Buf, BufMut, Bytes};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event},
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};
use tokio::time::{Instant, sleep, sleep_until};
use tonic::{
    Code, Status,
    client::Grpc,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
    transport::{Channel, Endpoint},
};
use tonic_types::StatusExt;

const SERVICES: usize = 20;
const SPANS_PER_TRACE: usize = 10;

/// Encoded requests that are sent over and over, their ids and times overwritten.
const POOL: usize = 48;

/// A client that is later than this leaves out what it missed.
const LATE: Duration = Duration::from_secs(1);

/// No request is waited for longer: the time OpenTelemetry's exporters give an export.
const TIMEOUT: Duration = Duration::from_secs(10);

struct Load {
    url: String,
    http: bool,
    seed: u64,
    clients: usize,
    spans_per_request: usize,
    run: Duration,
    spans_per_s: f64,
    honour: bool,
}

/// What became of one request: when its answer came, after how long, and what it was.
struct End {
    at_unix_ms: u128,
    took: Duration,
    answer: Answer,
}

#[derive(Clone, Copy)]
enum Answer {
    Acked,
    Refused { retry_after: Duration },
    Failed,
}

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [transport, url, seed, clients, spans_per_request, seconds, spans_per_s, retry, out] = &arguments[..] else {
        panic!("usage: otlp_load grpc|http URL SEED CLIENTS SPANS_PER_REQUEST SECONDS SPANS_PER_S honour|ignore OUT");
    };
    let load = Load {
        url: url.clone(),
        http: transport == "http",
        seed: seed.parse().unwrap(),
        clients: clients.parse().unwrap(),
        spans_per_request: spans_per_request.parse().unwrap(),
        run: Duration::from_secs_f64(seconds.parse().unwrap()),
        spans_per_s: spans_per_s.parse().unwrap(),
        honour: retry == "honour",
    };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let ends = runtime.block_on(run(load));
    std::fs::write(out, lines(&ends)).unwrap();
}

/// A line for each request: Unix milliseconds, microseconds, answer.
fn lines(ends: &[End]) -> String {
    let mut text = String::new();
    for end in ends {
        let answer = match end.answer {
            Answer::Acked => "acked",
            Answer::Refused { .. } => "refused",
            Answer::Failed => "failed",
        };
        writeln!(text, "{} {} {answer}", end.at_unix_ms, end.took.as_micros()).unwrap();
    }
    text
}

async fn run(load: Load) -> Vec<End> {
    let load = Arc::new(load);
    let pool = Arc::new(pool(&load));
    let mut doors = Vec::new();
    for _ in 0..load.clients {
        doors.push(Door::open(&load).await);
    }
    let start = Instant::now();
    let clients = doors
        .into_iter()
        .enumerate()
        .map(|(number, door)| tokio::spawn(client(load.clone(), pool.clone(), door, number, start)));
    let mut ends = Vec::new();
    for client in clients.collect::<Vec<_>>() {
        ends.extend(client.await.unwrap());
    }
    ends
}

async fn client(load: Arc<Load>, pool: Arc<Vec<Template>>, mut door: Door, number: usize, start: Instant) -> Vec<End> {
    let mut ends = Vec::new();
    let stop = start + load.run;
    let pause = (load.spans_per_s > 0.0)
        .then(|| Duration::from_secs_f64((load.clients * load.spans_per_request) as f64 / load.spans_per_s));
    // clients fall due one after the other
    let mut due = start + pause.unwrap_or_default().mul_f64(number as f64 / load.clients as f64);
    let mut sequence = (load.seed << 40) | ((number as u64) << 24);
    loop {
        if let Some(pause) = pause {
            while due + LATE < Instant::now() {
                due += pause;
            }
            sleep_until(due).await;
            due += pause;
        }
        sequence += 1;
        let body = pool[sequence as usize % pool.len()].fresh(sequence);
        loop {
            if Instant::now() >= stop {
                return ends;
            }
            let sent = Instant::now();
            let answer = tokio::time::timeout(TIMEOUT, door.send(body.clone())).await.unwrap_or(Answer::Failed);
            let at_unix_ms = unix().as_millis();
            ends.push(End { at_unix_ms, took: sent.elapsed(), answer });
            match answer {
                Answer::Refused { retry_after } if load.honour => sleep(retry_after).await,
                Answer::Failed => {
                    sleep(Duration::from_millis(100)).await;
                    break;
                }
                _ => break,
            }
        }
    }
}

fn unix() -> Duration {
    SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap()
}

/// A client's connection.
enum Door {
    Grpc(Grpc<Channel>),
    Http(reqwest::Client, String),
}

impl Door {
    async fn open(load: &Load) -> Self {
        if load.http {
            let client = reqwest::Client::builder().no_proxy().build().unwrap();
            return Self::Http(client, format!("{}/v1/traces", load.url));
        }
        Self::Grpc(Grpc::new(Endpoint::from_shared(load.url.clone()).unwrap().connect_lazy()))
    }

    async fn send(&mut self, body: Bytes) -> Answer {
        match self {
            Self::Grpc(client) => send_grpc(client, body).await,
            Self::Http(client, url) => {
                let post = client.post(url.as_str()).header("content-type", "application/x-protobuf").body(body);
                post.send().await.map_or(Answer::Failed, |response| http_answer(&response))
            }
        }
    }
}

async fn send_grpc(client: &mut Grpc<Channel>, body: Bytes) -> Answer {
    if client.ready().await.is_err() {
        return Answer::Failed;
    }
    let path = http::uri::PathAndQuery::from_static("/opentelemetry.proto.collector.trace.v1.TraceService/Export");
    match client.unary(tonic::Request::new(body), path, Encoded).await {
        Ok(_) => Answer::Acked,
        Err(status) if status.code() == Code::Unavailable => {
            match status.get_error_details().retry_info().and_then(|info| info.retry_delay) {
                Some(retry_after) => Answer::Refused { retry_after },
                None => Answer::Failed,
            }
        }
        Err(_) => Answer::Failed,
    }
}

fn http_answer(response: &reqwest::Response) -> Answer {
    let retry_after = response.headers().get("retry-after").and_then(|value| value.to_str().ok()?.parse().ok());
    match (response.status().as_u16(), retry_after) {
        (200, _) => Answer::Acked,
        (503, Some(seconds)) => Answer::Refused { retry_after: Duration::from_secs(seconds) },
        _ => Answer::Failed,
    }
}

/// Messages that are encoded already.
#[derive(Clone, Copy)]
struct Encoded;

impl Codec for Encoded {
    type Encode = Bytes;
    type Decode = ();
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Encoded {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, out: &mut EncodeBuf<'_>) -> Result<(), Status> {
        out.put(item);
        Ok(())
    }
}

impl Decoder for Encoded {
    type Item = ();
    type Error = Status;

    fn decode(&mut self, message: &mut DecodeBuf<'_>) -> Result<Option<()>, Status> {
        message.advance(message.remaining());
        Ok(Some(()))
    }
}

/// An encoded request, and where the ids and times of its spans stand.
struct Template {
    bytes: Vec<u8>,
    spans: Vec<Places>,
}

struct Places {
    trace_id: usize,
    span_id: usize,
    start: usize,
    end: usize,
}

impl Template {
    /// A copy with ids that no other has, at the present time.
    fn fresh(&self, sequence: u64) -> Bytes {
        let mut bytes = self.bytes.clone();
        let mut write = |place: usize, value: u64| bytes[place..place + 8].copy_from_slice(&value.to_le_bytes());
        let (now, mut id) = (unix().as_nanos() as u64, sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1);
        for (index, span) in self.spans.iter().enumerate() {
            let trace = (index / SPANS_PER_TRACE) as u64;
            write(span.trace_id, sequence.wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(trace));
            // xorshift: cheap, and not to be compressed
            id ^= id << 13;
            id ^= id >> 7;
            id ^= id << 17;
            write(span.span_id, id);
            let start = now + index as u64 * 10_000;
            write(span.start, start);
            write(span.end, start + 50_000 + id % 50_000_000);
        }
        Bytes::from(bytes)
    }
}

fn pool(load: &Load) -> Vec<Template> {
    let mut random = StdRng::seed_from_u64(load.seed);
    (0..POOL).map(|_| template(&mut random, load.spans_per_request)).collect()
}

fn template(random: &mut StdRng, count: usize) -> Template {
    let mut by_service: Vec<Vec<Span>> = vec![Vec::new(); SERVICES];
    for index in 0..count {
        by_service[index % SERVICES].push(span(random, index));
    }
    let order: Vec<Span> = by_service.iter().flatten().cloned().collect();
    let resource_spans = by_service.into_iter().enumerate().map(|(service, spans)| {
        let attributes = vec![text("service.name", &format!("service-{service}")), text("host.name", "host-1")];
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        let resource = Some(Resource { attributes, ..Resource::default() });
        ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }
    });
    let bytes = ExportTraceServiceRequest { resource_spans: resource_spans.collect() }.encode_to_vec();
    let mut from = 0;
    let spans = order.iter().map(|span| {
        let places = places(&bytes, from, span);
        from = places.end;
        places
    });
    let spans = spans.collect();
    Template { bytes, spans }
}

/// Fields stand in the order of their numbers, each behind its key and length.
fn places(bytes: &[u8], from: usize, span: &Span) -> Places {
    let trace_id = from + bytes[from..].windows(16).position(|window| window == span.trace_id).unwrap();
    let span_id = trace_id + 16 + 2;
    let parent = if span.parent_span_id.is_empty() { 0 } else { 2 + 8 };
    let start = span_id + 8 + parent + 2 + span.name.len() + 2 + 1;
    let end = start + 8 + 1;
    assert_eq!(bytes[start..start + 8], span.start_time_unix_nano.to_le_bytes());
    assert_eq!(bytes[end..end + 8], span.end_time_unix_nano.to_le_bytes());
    Places { trace_id, span_id, start, end }
}

fn span(random: &mut StdRng, index: usize) -> Span {
    let place = index % SPANS_PER_TRACE;
    let route = format!("/api/v1/resource-{}", random.random_range(0..40));
    let attributes = vec![
        text("http.request.method", if index.is_multiple_of(3) { "POST" } else { "GET" }),
        text("http.route", &route),
        int("http.response.status_code", if random.random_ratio(1, 50) { 500 } else { 200 }),
        text("server.address", &format!("10.0.0.{}", random.random_range(1..20))),
        text("user.id", &format!("user-{}", random.random_range(0..10_000))),
        int("http.response.body.size", random.random_range(0..100_000)),
        text("deployment.environment.name", "production"),
    ];
    let event = Event { time_unix_nano: 1, name: "retry".into(), ..Event::default() };
    Span {
        trace_id: random.random::<u128>().to_be_bytes().to_vec(),
        span_id: random.random::<u64>().to_be_bytes().to_vec(),
        parent_span_id: if place == 0 { Vec::new() } else { (index as u64).to_be_bytes().to_vec() },
        name: format!("GET {route}"),
        kind: if place.is_multiple_of(2) { 2 } else { 3 },
        start_time_unix_nano: 1 + random.random_range(0..u64::MAX / 4),
        end_time_unix_nano: u64::MAX / 2 - random.random_range(0..u64::MAX / 8),
        attributes,
        events: if index.is_multiple_of(20) { vec![event] } else { Vec::new() },
        ..Span::default()
    }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.into()))
}

fn int(key: &str, value: i64) -> KeyValue {
    pair(key, Value::IntValue(value))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
