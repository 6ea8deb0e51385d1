//! [`Bodies`]: requests that are encoded before the clock starts, and are new each time they are sent.
//!
//! Thousands wait in the air, so a body is shared, and a piece of it is copied only when the connection takes it. Of a plain body each
//! piece gets the ids and times of this sending. A compressed one cannot be overwritten: more of them are made, with times spread over
//! the run, and before the shared member stands one of a few bytes that no other request has. (Members of gzip follow each other;
//! so do the fields of a message, whose last value counts.)

use std::{
    io::Write,
    ops::Range,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use flate2::{Compression, write::GzEncoder};
use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, KeyValue, any_value::Value},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, span::Event},
};
use prost::Message;
use rand::{Rng, SeedableRng, rngs::StdRng};

use crate::unix;

const SERVICES: usize = 20;
const SPANS_PER_TRACE: usize = 10;

/// Encoded requests that are sent over and over, their ids and times overwritten.
const PLAIN: usize = 48;

/// Compressed ones: what one of two senders gets acked in a phase of 15 s at 150,000 spans/s.
const COMPRESSED: usize = 600;

/// What is copied at once: a frame.
const PIECE_BYTES: usize = 64 << 10;

/// What is sent.
pub(crate) enum Bodies {
    Plain(Vec<Arc<Template>>),
    /// Taken in turn, because their times follow each other.
    Gzip {
        bodies: Vec<Bytes>,
        next: AtomicUsize,
    },
}

/// One request; a clone is the same request again.
#[derive(Clone)]
pub(crate) enum Body {
    Plain { template: Arc<Template>, sequence: u64, at_unix_ns: u64 },
    Gzip { own: Bytes, shared: Bytes },
}

impl Bodies {
    pub(crate) fn plain(seed: u64, spans: usize) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        Self::Plain((0..PLAIN).map(|_| Arc::new(template(&mut random, spans))).collect())
    }

    /// Compressed by the fastest level; the times are of the `run` that begins when the last of them is made.
    pub(crate) fn gzip(seed: u64, spans: usize, run: Duration) -> Self {
        let mut random = StdRng::seed_from_u64(seed);
        let template = |random: &mut StdRng| Arc::new(template(random, spans));
        let began = Instant::now();
        let first = Body::plain(template(&mut random), 0, 0).gzip();
        let begins_ns = unix().as_nanos() as u64 + (began.elapsed() * COMPRESSED as u32).as_nanos() as u64;
        drop(first);
        let body = |number: usize| {
            let at = begins_ns + (run.as_nanos() as u64 / COMPRESSED as u64) * number as u64;
            Body::plain(template(&mut random), (seed << 40) | number as u64, at).gzip()
        };
        Self::Gzip { bodies: (0..COMPRESSED).map(body).collect(), next: AtomicUsize::new(0) }
    }

    /// The request of this number.
    pub(crate) fn body(&self, sequence: u64) -> Body {
        match self {
            Self::Plain(templates) => {
                let template = templates[sequence as usize % templates.len()].clone();
                Body::plain(template, sequence, unix().as_nanos() as u64)
            }
            Self::Gzip { bodies, next } => {
                let shared = bodies[next.fetch_add(1, Relaxed) % bodies.len()].clone();
                Body::Gzip { own: own_member(sequence), shared }
            }
        }
    }
}

impl Body {
    fn plain(template: Arc<Template>, sequence: u64, at_unix_ns: u64) -> Self {
        Self::Plain { template, sequence, at_unix_ns }
    }

    pub(crate) fn is_gzip(&self) -> bool {
        matches!(self, Self::Gzip { .. })
    }

    pub(crate) fn bytes(&self) -> usize {
        match self {
            Self::Plain { template, .. } => template.bytes.len(),
            Self::Gzip { own, shared } => own.len() + shared.len(),
        }
    }

    /// Its pieces, made as they are taken.
    pub(crate) fn pieces(self) -> impl Iterator<Item = Bytes> + Send + 'static {
        let count = match &self {
            Self::Plain { template, .. } => template.pieces.len(),
            Self::Gzip { .. } => 2,
        };
        (0..count).map(move |number| match &self {
            Self::Plain { template, sequence, at_unix_ns } => template.piece(number, *sequence, *at_unix_ns),
            Self::Gzip { own, .. } if number == 0 => own.clone(),
            Self::Gzip { shared, .. } => shared.clone(),
        })
    }

    fn gzip(self) -> Bytes {
        let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
        self.pieces().for_each(|piece| gzip.write_all(&piece).unwrap());
        Bytes::from(gzip.finish().unwrap())
    }
}

/// A resource without spans that only this request has.
fn own_member(sequence: u64) -> Bytes {
    let attributes = vec![text("request", &sequence.to_string())];
    let resource = Some(Resource { attributes, ..Resource::default() });
    let resource_spans = vec![ResourceSpans { resource, ..ResourceSpans::default() }];
    let mut gzip = GzEncoder::new(Vec::new(), Compression::fast());
    gzip.write_all(&ExportTraceServiceRequest { resource_spans }.encode_to_vec()).unwrap();
    Bytes::from(gzip.finish().unwrap())
}

/// An encoded request, and where the ids and times of its spans stand.
pub(crate) struct Template {
    bytes: Vec<u8>,
    spans: Vec<Places>,
    pieces: Vec<Piece>,
}

struct Places {
    trace_id: usize,
    span_id: usize,
    start: usize,
    end: usize,
}

/// A run of whole spans, and what stands before the first of them.
struct Piece {
    bytes: Range<usize>,
    spans: Range<usize>,
}

impl Template {
    /// A copy of a piece with ids that no other request has, at this time.
    fn piece(&self, number: usize, sequence: u64, at_unix_ns: u64) -> Bytes {
        let Piece { bytes: range, spans } = &self.pieces[number];
        let mut bytes = self.bytes[range.clone()].to_vec();
        let mut write = |place: usize, value: u64| {
            bytes[place - range.start..][..8].copy_from_slice(&value.to_le_bytes());
        };
        for index in spans.clone() {
            let span = &self.spans[index];
            let trace = (index / SPANS_PER_TRACE) as u64;
            write(span.trace_id, sequence.wrapping_mul(0xd6e8_feb8_6659_fd93).wrapping_add(trace));
            let id = mixed(sequence.wrapping_mul(0x9e37_79b9_7f4a_7c15).wrapping_add(index as u64));
            write(span.span_id, id | 1);
            let start = at_unix_ns + index as u64 * 10_000;
            write(span.start, start);
            write(span.end, start + 50_000 + id % 50_000_000);
        }
        Bytes::from(bytes)
    }
}

/// The finalizer of SplitMix64: cheap, and not to be compressed.
fn mixed(value: u64) -> u64 {
    let value = (value ^ (value >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let value = (value ^ (value >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    value ^ (value >> 31)
}

/// Cuts before spans, so that nothing that is overwritten is cut.
fn pieces(length: usize, spans: &[Places]) -> Vec<Piece> {
    let (mut pieces, mut begin, mut first) = (Vec::new(), 0, 0);
    for (index, span) in spans.iter().enumerate() {
        if span.trace_id - begin >= PIECE_BYTES {
            pieces.push(Piece { bytes: begin..span.trace_id, spans: first..index });
            (begin, first) = (span.trace_id, index);
        }
    }
    pieces.push(Piece { bytes: begin..length, spans: first..spans.len() });
    pieces
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
    let spans: Vec<_> = spans.collect();
    let pieces = pieces(bytes.len(), &spans);
    Template { bytes, spans, pieces }
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
