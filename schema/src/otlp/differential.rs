//! The codec beside the generated messages, on requests that nobody would write by hand: every value
//! type, fields in any order, unknown fields and groups between them, scalars written twice, packed
//! fields unpacked. What the generated messages make of the same bytes says what each row must be.
//! And the codec beside nothing: damaged bytes, and bytes made to grow.

use std::collections::BTreeMap;

use arrow::{
    array::{Array, ArrayRef, AsArray, RecordBatch},
    datatypes::{DataType, Float64Type, Int32Type, Int64Type},
};
use opentelemetry_proto::tonic::{
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    metrics::v1::{
        Exemplar, ExponentialHistogram, ExponentialHistogramDataPoint, Gauge, Histogram, HistogramDataPoint, Metric,
        NumberDataPoint, ResourceMetrics, ScopeMetrics, Sum, Summary, SummaryDataPoint, exemplar,
        exponential_histogram_data_point::Buckets, metric::Data, number_data_point::Value as Number,
        summary_data_point::ValueAtQuantile,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use serde_json::{Value as Json, json};

use super::{tests::Random, *};
use crate::attribute::nested_text;

const RECEIVED: UnixNanos = 9;

type Row = BTreeMap<String, Json>;

impl Random {
    fn chance(&mut self, percent: usize) -> bool {
        self.below(100) < percent
    }

    fn u64(&mut self) -> u64 {
        match self.below(4) {
            0 => 0,
            1 => self.below(300) as u64,
            2 => u64::MAX - self.below(3) as u64,
            _ => self.below(1 << 62) as u64,
        }
    }

    fn f64(&mut self) -> f64 {
        let special = [0.0, -0.0, 1.5, f64::NAN, f64::INFINITY, f64::NEG_INFINITY, f64::MIN_POSITIVE];
        if self.chance(50) { special[self.below(special.len())] } else { f64::from_bits(self.below(usize::MAX) as u64) }
    }

    fn text(&mut self) -> String {
        let some = ["", "a", "GET", "/api/v1", "größe", "日本語", "🦀", "a\"b\\c\n", "http.route", "0"];
        some[self.below(some.len())].repeat(1 + self.below(3))
    }

    fn bytes(&mut self, length: usize) -> Vec<u8> {
        (0..length).map(|_| u8::try_from(self.below(256)).unwrap()).collect()
    }

    fn id(&mut self, length: usize) -> Vec<u8> {
        match self.below(8) {
            0 => vec![0; length],
            1 => Vec::new(),
            _ => self.bytes(length),
        }
    }

    fn some<T>(&mut self, most: usize, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(most + 1)).map(|_| make(self)).collect()
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(70).then(|| make(self))
    }

    fn any(&mut self, depth: usize) -> AnyValue {
        let value = match self.below(if depth > 3 { 6 } else { 8 }) {
            0 => None,
            1 => Some(Any::StringValue(self.text())),
            2 => Some(Any::BoolValue(self.chance(50))),
            3 => Some(Any::IntValue(self.u64().cast_signed())),
            4 => Some(Any::DoubleValue(self.f64())),
            5 => Some(Any::BytesValue(self.bytes(3))),
            6 => Some(Any::ArrayValue(ArrayValue { values: self.some(3, |r| r.any(depth + 1)) })),
            _ => Some(Any::KvlistValue(KeyValueList { values: self.some(3, |r| r.pair(depth + 1)) })),
        };
        AnyValue { value }
    }

    fn pair(&mut self, depth: usize) -> KeyValue {
        let known = [
            "http.route",
            "http.method",
            "http.status_code",
            "http.response.status_code",
            "service.name",
            "weir.queue_wait_ns",
            "weir.in_flight",
            "gen_ai.server.time_to_first_token",
            "service.instance.id",
        ];
        let key = if self.chance(50) { known[self.below(known.len())].to_owned() } else { self.text() };
        KeyValue { key, value: self.maybe(|r| r.any(depth)), ..KeyValue::default() }
    }

    fn pairs(&mut self) -> Vec<KeyValue> {
        self.some(5, |r| r.pair(0))
    }

    fn resource(&mut self) -> Option<Resource> {
        self.maybe(|r| Resource { attributes: r.pairs(), dropped_attributes_count: 1, ..Resource::default() })
    }

    fn scope(&mut self) -> Option<InstrumentationScope> {
        self.maybe(|r| InstrumentationScope { name: r.text(), version: r.text(), ..InstrumentationScope::default() })
    }

    fn traces(&mut self) -> ExportTraceServiceRequest {
        let resource_spans = self.some(3, |r| ResourceSpans {
            resource: r.resource(),
            scope_spans: r.some(2, |r| ScopeSpans {
                scope: r.scope(),
                spans: r.some(3, Self::span),
                schema_url: r.text(),
            }),
            schema_url: r.text(),
        });
        ExportTraceServiceRequest { resource_spans }
    }

    fn span(&mut self) -> Span {
        let start = self.u64();
        let event = |r: &mut Self| span::Event {
            time_unix_nano: r.u64(),
            name: r.text(),
            attributes: r.pairs(),
            dropped_attributes_count: 2,
        };
        let link = |r: &mut Self| span::Link {
            trace_id: r.id(16),
            span_id: r.id(8),
            trace_state: r.text(),
            attributes: r.pairs(),
            ..span::Link::default()
        };
        Span {
            trace_id: self.id(16),
            span_id: self.id(8),
            trace_state: if self.chance(30) { "a=b,ot=th:8;rv:1".into() } else { self.text() },
            parent_span_id: self.id(8),
            name: self.text(),
            kind: self.below(7) as i32 - 1,
            start_time_unix_nano: start,
            end_time_unix_nano: if self.chance(90) { start.saturating_add(self.below(99) as u64) } else { self.u64() },
            attributes: self.pairs(),
            events: self.some(2, event),
            links: self.some(2, link),
            status: self.maybe(|r| Status { message: r.text(), code: r.below(4) as i32 }),
            flags: 1,
            ..Span::default()
        }
    }

    fn logs(&mut self) -> ExportLogsServiceRequest {
        let record = |r: &mut Self| LogRecord {
            time_unix_nano: r.u64(),
            observed_time_unix_nano: r.u64(),
            severity_number: r.below(26) as i32 - 1,
            severity_text: r.text(),
            body: r.maybe(|r| r.any(0)),
            attributes: r.pairs(),
            trace_id: r.id(16),
            span_id: r.id(8),
            event_name: r.text(),
            ..LogRecord::default()
        };
        let resource_logs = self.some(3, |r| ResourceLogs {
            resource: r.resource(),
            scope_logs: r.some(2, |r| ScopeLogs {
                scope: r.scope(),
                log_records: r.some(3, record),
                ..ScopeLogs::default()
            }),
            ..ResourceLogs::default()
        });
        ExportLogsServiceRequest { resource_logs }
    }

    fn metrics(&mut self) -> ExportMetricsServiceRequest {
        let resource_metrics = self.some(3, |r| ResourceMetrics {
            resource: r.resource(),
            scope_metrics: r.some(2, |r| ScopeMetrics {
                scope: r.scope(),
                metrics: r.some(3, Self::metric),
                ..ScopeMetrics::default()
            }),
            ..ResourceMetrics::default()
        });
        ExportMetricsServiceRequest { resource_metrics }
    }

    fn metric(&mut self) -> Metric {
        let aggregation_temporality = self.below(3) as i32;
        let data = match self.below(6) {
            0 => None,
            1 => Some(Data::Gauge(Gauge { data_points: self.some(3, Self::number) })),
            2 => Some(Data::Sum(Sum {
                data_points: self.some(3, Self::number),
                aggregation_temporality,
                is_monotonic: self.chance(50),
            })),
            3 => {
                Some(Data::Histogram(Histogram { data_points: self.some(3, Self::histogram), aggregation_temporality }))
            }
            4 => Some(Data::ExponentialHistogram(ExponentialHistogram {
                data_points: self.some(3, Self::exponential),
                aggregation_temporality,
            })),
            _ => Some(Data::Summary(Summary { data_points: self.some(3, Self::summary) })),
        };
        Metric { name: self.text(), description: self.text(), unit: self.text(), data, ..Metric::default() }
    }

    fn number(&mut self) -> NumberDataPoint {
        let value =
            self.maybe(|r| if r.chance(50) { Number::AsInt(r.u64().cast_signed()) } else { Number::AsDouble(r.f64()) });
        NumberDataPoint {
            attributes: self.pairs(),
            start_time_unix_nano: self.u64(),
            time_unix_nano: self.u64(),
            exemplars: self.some(2, Self::exemplar),
            flags: 1,
            value,
        }
    }

    fn exemplar(&mut self) -> Exemplar {
        Exemplar {
            filtered_attributes: Vec::new(),
            time_unix_nano: self.u64(),
            span_id: self.id(8),
            trace_id: self.id(16),
            value: self.maybe(|r| exemplar::Value::AsInt(r.u64().cast_signed())),
        }
    }

    fn histogram(&mut self) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes: self.pairs(),
            time_unix_nano: self.u64(),
            count: self.u64(),
            sum: self.maybe(Self::f64),
            bucket_counts: self.some(4, Self::u64),
            explicit_bounds: self.some(4, Self::f64),
            min: self.maybe(Self::f64),
            max: self.maybe(Self::f64),
            ..HistogramDataPoint::default()
        }
    }

    fn exponential(&mut self) -> ExponentialHistogramDataPoint {
        let buckets = |r: &mut Self| Buckets { offset: r.below(100) as i32 - 50, bucket_counts: r.some(4, Self::u64) };
        ExponentialHistogramDataPoint {
            attributes: self.pairs(),
            count: self.u64(),
            sum: self.maybe(Self::f64),
            scale: self.below(40) as i32 - 20,
            zero_count: self.u64(),
            positive: self.maybe(buckets),
            negative: self.maybe(buckets),
            min: self.maybe(Self::f64),
            zero_threshold: self.f64(),
            ..ExponentialHistogramDataPoint::default()
        }
    }

    fn summary(&mut self) -> SummaryDataPoint {
        let quantile_values = self.some(3, |r| ValueAtQuantile { quantile: r.f64(), value: r.f64() });
        SummaryDataPoint {
            attributes: self.pairs(),
            count: self.u64(),
            sum: self.f64(),
            quantile_values,
            ..SummaryDataPoint::default()
        }
    }
}

/// A message's kind, so far as it takes to find the messages inside.
#[derive(Clone, Copy, PartialEq)]
enum Kind {
    Request(Signal),
    OfResource(Signal),
    OfScope(Signal),
    Holder,
    Span,
    Record,
    Metric,
    Data,
    Point,
    OfHistogram,
    HistogramPoint,
    Pair,
    Any,
    List,
    Leaf,
}

fn inside(kind: Kind, field: u32) -> Option<Kind> {
    use Kind::*;
    match (kind, field) {
        (Request(signal), 1) => Some(OfResource(signal)),
        (OfResource(_), 1) | (OfScope(_), 1) => Some(Holder),
        (OfResource(signal), 2) => Some(OfScope(signal)),
        (OfScope(Signal::Traces), 2) => Some(Span),
        (OfScope(Signal::Logs), 2) => Some(Record),
        (OfScope(Signal::Metrics), 2) => Some(Metric),
        (Span, 9) | (Record, 6) => Some(Pair),
        (Record, 5) | (Pair, 2) => Some(Any),
        (Span, 11 | 13 | 15) => Some(Leaf),
        (Metric, 5 | 7 | 10 | 11) => Some(Data),
        (Metric, 9) => Some(OfHistogram),
        (Data, 1) => Some(Point),
        (OfHistogram, 1) => Some(HistogramPoint),
        (Any, 5 | 6) => Some(List),
        _ => None,
    }
}

/// Fields of any message that may be written twice: the last is meant.
fn is_scalar(kind: Kind, field: u32, wire_type: u8) -> bool {
    match kind {
        Kind::Span => matches!(field, 3 | 5 | 6 | 7 | 8),
        Kind::Record => matches!(field, 1 | 2 | 3 | 11 | 12),
        Kind::Point | Kind::HistogramPoint => wire_type == 1 && matches!(field, 2 | 3),
        Kind::Any => wire_type != 2,
        _ => false,
    }
}

/// The same message, written as no exporter writes it.
fn scramble(bytes: &[u8], kind: Kind, random: &mut Random) -> Vec<u8> {
    let mut fields: Vec<(u32, Vec<u8>)> = Vec::new();
    let mut rest = bytes;
    while !rest.is_empty() {
        let (number, wire_type, value, after) = split(rest);
        rest = after;
        let value = match inside(kind, number) {
            Some(inner) if wire_type == 2 => scramble(value, inner, random),
            _ => value.to_vec(),
        };
        if is_scalar(kind, number, wire_type) && random.chance(20) {
            let other = match wire_type {
                0 => vec![1],
                2 => random.text().into_bytes(),
                _ => vec![1; value.len()],
            };
            fields.push((number, written(number, wire_type, &other)));
        }
        // counts and bounds, one by one
        let packed = kind == Kind::HistogramPoint && matches!(number, 6 | 7) && wire_type == 2;
        if packed && random.chance(50) {
            fields.extend(value.chunks(8).map(|one| (number, written(number, 1, one))));
        } else {
            fields.push((number, written(number, wire_type, &value)));
        }
    }
    if random.chance(50) {
        // the order among fields of one number stays
        let mut keys: Vec<(u32, usize)> = fields.iter().enumerate().map(|(i, (n, _))| (*n, i)).collect();
        let turn = random.below(7) as u32;
        keys.sort_by_key(|(number, place)| (number.wrapping_mul(2_654_435_761).rotate_left(turn), *place));
        fields = keys.into_iter().map(|(_, place)| fields[place].clone()).collect();
    }
    let mut out = Vec::new();
    for (_, field) in fields {
        if random.chance(10) {
            out.extend(unknown(random));
        }
        out.extend(field);
    }
    out
}

fn split(bytes: &[u8]) -> (u32, u8, &[u8], &[u8]) {
    let mut rest = bytes;
    let key = prost::encoding::decode_varint(&mut rest).unwrap();
    let wire_type = (key & 7) as u8;
    let length = match wire_type {
        0 => rest.iter().position(|byte| *byte < 0x80).unwrap() + 1,
        1 => 8,
        5 => 4,
        _ => prost::encoding::decode_varint(&mut rest).unwrap() as usize,
    };
    let (value, rest) = rest.split_at(length);
    ((key >> 3) as u32, wire_type, value, rest)
}

fn written(number: u32, wire_type: u8, value: &[u8]) -> Vec<u8> {
    let mut out = Vec::new();
    prost::encoding::encode_varint(u64::from(number << 3 | u32::from(wire_type)), &mut out);
    if wire_type == 2 {
        prost::encoding::encode_varint(value.len() as u64, &mut out);
    }
    out.extend_from_slice(value);
    out
}

/// A field that OTLP does not have.
fn unknown(random: &mut Random) -> Vec<u8> {
    let number = 1_000 + random.below(100_000) as u32;
    match random.below(5) {
        0 => written(number, 0, &[0xff, 0x01]),
        1 => written(number, 1, &[7; 8]),
        2 => written(number, 2, &random.bytes(5)),
        3 => written(number, 5, &[7; 4]),
        _ => [written(number, 3, &[]), written(1, 0, &[1]), written(number, 4, &[])].concat(),
    }
}

#[test]
fn any_request_gives_the_rows_that_the_generated_messages_say() {
    let mut random = Random(0x2545_F491_4F6C_DD1D);
    let mut rows = [0, 0, 0];
    for round in 0..1_500 {
        let (signal, bytes) = request(round, &mut random);
        let bytes = scramble(&bytes, Kind::Request(signal), &mut random);
        let expected = match signal {
            Signal::Traces => spans(&ExportTraceServiceRequest::decode(&bytes[..]).unwrap()),
            Signal::Metrics => points(&ExportMetricsServiceRequest::decode(&bytes[..]).unwrap()),
            Signal::Logs => records(&ExportLogsServiceRequest::decode(&bytes[..]).unwrap()),
        };
        let decoded = decode(signal, Encoding::Protobuf, &bytes, RECEIVED).unwrap();
        let found = decoded.batch.as_ref().map_or(Vec::new(), |batch| found(&batch.rows));
        rows[signal as usize] += found.len();
        assert_eq!(found.len(), expected.len(), "round {round}");
        for (row, (found, expected)) in found.iter().zip(&expected).enumerate() {
            assert_eq!(found, expected, "round {round}, row {row} of {signal:?}");
        }
    }
    assert!(rows.iter().all(|rows| *rows > 300), "{rows:?}");
}

fn request(round: usize, random: &mut Random) -> (Signal, Vec<u8>) {
    match round % 3 {
        0 => (Signal::Traces, random.traces().encode_to_vec()),
        1 => (Signal::Metrics, random.metrics().encode_to_vec()),
        _ => (Signal::Logs, random.logs().encode_to_vec()),
    }
}

#[test]
fn a_hundred_thousand_damaged_requests_end_in_rows_or_in_an_error() {
    let mut random = Random(0xDEAD_BEEF_CAFE_F00D);
    let (mut taken, mut refused) = (0, 0);
    let mut round = 0;
    while taken + refused < 100_000 {
        let (signal, whole) = request(round, &mut random);
        round += 1;
        if whole.is_empty() {
            continue;
        }
        for _ in 0..40 {
            let mut bytes = whole.clone();
            for _ in 0..=random.below(2) {
                damage(&mut bytes, &mut random);
            }
            match decode(signal, Encoding::Protobuf, &bytes, RECEIVED) {
                Ok(_) => taken += 1,
                Err(error) => {
                    assert!(!error.to_string().is_empty());
                    refused += 1;
                }
            }
        }
    }
    println!("{taken} taken, {refused} refused, none panicked");
    assert!(taken > 10_000 && refused > 10_000, "{taken} taken, {refused} refused");
}

fn damage(bytes: &mut Vec<u8>, random: &mut Random) {
    let place = random.below(bytes.len());
    match random.below(10) {
        0..=5 => bytes[place] ^= 1 << random.below(8),
        6 => bytes.truncate(place.max(1)),
        7 => bytes.insert(place, u8::try_from(random.below(256)).unwrap()),
        8 => bytes[place] = 0xff,
        _ => {
            let end = place + random.below((bytes.len() - place).min(64) + 1);
            let part = bytes[place..end].to_vec();
            bytes.splice(place..place, part);
        }
    }
}

#[test]
fn a_request_that_is_made_to_grow_is_refused_or_stays_within_ten_times_its_size() {
    let repeated = |path: &[u32], times: usize| {
        let mut message: Vec<u8> = written(*path.last().unwrap(), 2, &[]).repeat(times);
        for number in path.iter().rev().skip(1) {
            message = written(*number, 2, &message);
        }
        message
    };
    // what each makes: resources, scopes, records, attributes, events, values
    let cases: [(Signal, &[u32]); 14] = [
        (Signal::Traces, &[1]),
        (Signal::Traces, &[1, 2]),
        (Signal::Traces, &[1, 2, 2]),
        (Signal::Traces, &[1, 2, 2, 9]),
        (Signal::Traces, &[1, 2, 2, 11]),
        (Signal::Traces, &[1, 2, 2, 13]),
        (Signal::Traces, &[1, 1, 1]),
        (Signal::Logs, &[1]),
        (Signal::Logs, &[1, 2, 2]),
        (Signal::Logs, &[1, 2, 2, 6]),
        (Signal::Metrics, &[1, 2, 2]),
        (Signal::Metrics, &[1, 2, 2, 5, 1]),
        (Signal::Metrics, &[1, 2, 2, 9, 1]),
        (Signal::Metrics, &[1, 2, 2, 5, 1, 5]),
    ];
    for (signal, path) in cases {
        // the longest once a signal, where nothing stops it early
        let most = if path.len() == 1 { 10_000_000 } else { 1_000_000 };
        for times in [1_000, most] {
            let bytes = repeated(path, times);
            let Ok(decoded) = decode(signal, Encoding::Protobuf, &bytes, RECEIVED) else { continue };
            let made = decoded.batch.map_or(0, |batch| batch.rows.get_array_memory_size());
            let most = 10 * bytes.len() + (32 << 20);
            assert!(made <= most, "{signal:?} {path:?} {times}: {} bytes became {made}", bytes.len());
        }
    }
    let json = format!(r#"{{"resourceLogs":[{}{{}}]}}"#, "{},".repeat(2_000_000));
    assert!(decode(Signal::Logs, Encoding::Json, json.as_bytes(), RECEIVED).is_err());
}

#[test]
fn values_nest_a_hundred_levels_and_then_an_error() {
    assert_eq!(decode_nested(40).unwrap().accepted, 1);
    // on a thread with a large stack: writing the test's message recurses without a bound
    let deep = std::thread::Builder::new().stack_size(256 << 20);
    let refused = deep.spawn(|| decode_nested(5_000).unwrap_err().to_string()).unwrap().join().unwrap();
    assert!(refused.contains("recursion limit"), "{refused}");
}

fn decode_nested(levels: usize) -> Result<Decoded, DecodeError> {
    let mut value = Any::IntValue(1);
    for _ in 0..levels {
        value = Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(value) }] });
    }
    let record = LogRecord { body: Some(AnyValue { value: Some(value) }), ..LogRecord::default() };
    let scope_logs = vec![ScopeLogs { log_records: vec![record], ..ScopeLogs::default() }];
    let resource_logs = vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }];
    let bytes = ExportLogsServiceRequest { resource_logs }.encode_to_vec();
    decode(Signal::Logs, Encoding::Protobuf, &bytes, RECEIVED)
}

// ---- what the generated messages say ----

fn spans(request: &ExportTraceServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_spans {
        for of_scope in &of_resource.scope_spans {
            for span in &of_scope.spans {
                let unset = |id: &[u8]| id.iter().all(|byte| *byte == 0);
                let usable = span.trace_id.len() == 16
                    && !unset(&span.trace_id)
                    && span.span_id.len() == 8
                    && !unset(&span.span_id)
                    && matches!(span.parent_span_id.len(), 0 | 8)
                    && span.end_time_unix_nano >= span.start_time_unix_nano;
                if usable {
                    let mut row = shared(of_resource.resource.as_ref(), of_scope.scope.as_ref(), true);
                    span_row(&mut row, span);
                    rows.push(row);
                }
            }
        }
    }
    rows
}

fn span_row(row: &mut Row, span: &Span) {
    let start = nanos(span.start_time_unix_nano);
    id(row, "trace_id", &span.trace_id);
    id(row, "span_id", &span.span_id);
    id(row, "parent_span_id", &span.parent_span_id);
    set(row, "start_unix_nano", json!(start));
    set(row, "duration_ns", json!(nanos(span.end_time_unix_nano) - start));
    set(row, "operation", json!(span.name));
    let kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    set(row, "kind", json!(usize::try_from(span.kind).ok().and_then(|kind| kinds.get(kind)).unwrap_or(&"unspecified")));
    let status = span.status.clone().unwrap_or_default();
    set(row, "status", json!(["unset", "ok", "error", "unset"][status.code as usize]));
    text(row, "status_message", &status.message);
    text(row, "trace_state", &span.trace_state);
    if span.trace_state.contains("ot=th:8") {
        set(row, "sample_weight", json!("2.0"));
    }
    let hot: BTreeMap<&str, (String, DataType)> = crate::columns::columns(crate::Table::Spans)
        .into_iter()
        .filter_map(|column| Some((column.attribute?, (column.name.to_owned(), column.data_type))))
        .collect();
    let mut rest = Vec::new();
    for pair in &span.attributes {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        let taken = hot.get(pair.key.as_str()).is_some_and(|(name, kind)| hot_cell(row, name, kind, value));
        if !taken {
            rest.push(pair.clone());
        }
    }
    for pair in &span.attributes {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        match (pair.key.as_str(), value) {
            ("http.method", value) => {
                hot_cell(row, "http_request_method", &DataType::Utf8, value);
            }
            ("http.status_code", value) => {
                hot_cell(row, "http_response_status_code", &DataType::Int32, value);
            }
            ("gen_ai.server.time_to_first_token", Some(Any::DoubleValue(seconds))) => {
                let nanos = Any::IntValue((seconds * 1e9) as i64);
                hot_cell(row, "time_to_first_token_ns", &DataType::Int64, Some(&nanos));
            }
            _ => {}
        }
    }
    attributes(row, "attributes", "attribute_types", &rest);
    let items = |rows: Vec<Row>| Json::Array(rows.into_iter().map(|row| json!(row)).collect());
    if !span.events.is_empty() {
        let event = |event: &span::Event| {
            let mut row = Row::new();
            set(&mut row, "time_unix_nano", json!(nanos(event.time_unix_nano)));
            set(&mut row, "name", json!(event.name));
            attributes(&mut row, "attributes", "attribute_types", &event.attributes);
            row
        };
        set(row, "events", items(span.events.iter().map(event).collect()));
    }
    if !span.links.is_empty() {
        let link = |link: &span::Link| {
            let mut row = Row::new();
            set(&mut row, "trace_id", json!(hex::encode(&link.trace_id)));
            set(&mut row, "span_id", json!(hex::encode(&link.span_id)));
            text(&mut row, "trace_state", &link.trace_state);
            attributes(&mut row, "attributes", "attribute_types", &link.attributes);
            row
        };
        set(row, "links", items(span.links.iter().map(link).collect()));
    }
}

fn hot_cell(row: &mut Row, name: &str, kind: &DataType, value: Option<&Any>) -> bool {
    let cell = match (kind, value) {
        _ if row.contains_key(name) => None,
        (DataType::Utf8, Some(Any::StringValue(text))) => Some(json!(text)),
        (DataType::Int64, Some(Any::IntValue(value))) => Some(json!(value)),
        (DataType::Int32, Some(Any::IntValue(value))) => i32::try_from(*value).ok().map(|value| json!(value)),
        _ => None,
    };
    cell.map(|cell| set(row, name, cell)).is_some()
}

fn records(request: &ExportLogsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_logs {
        for of_scope in &of_resource.scope_logs {
            for record in &of_scope.log_records {
                let mut row = shared(of_resource.resource.as_ref(), of_scope.scope.as_ref(), false);
                let (time, observed) = (record.time_unix_nano, record.observed_time_unix_nano);
                let when = [time, observed].into_iter().find(|time| *time > 0).map_or(RECEIVED, nanos);
                set(&mut row, "time_unix_nano", json!(when));
                if observed > 0 {
                    set(&mut row, "observed_unix_nano", json!(nanos(observed)));
                }
                id(&mut row, "trace_id", &record.trace_id);
                id(&mut row, "span_id", &record.span_id);
                if record.severity_number > 0 {
                    set(&mut row, "severity_number", json!(record.severity_number));
                }
                text(&mut row, "severity", &record.severity_text);
                text(&mut row, "event_name", &record.event_name);
                if let Some(body) = &record.body {
                    let (text, letter) = typed(Some(body));
                    set(&mut row, "body", json!(text));
                    set(&mut row, "body_type", json!(letter));
                }
                attributes(&mut row, "attributes", "attribute_types", &record.attributes);
                rows.push(row);
            }
        }
    }
    rows
}

fn points(request: &ExportMetricsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_metrics {
        for of_scope in &of_resource.scope_metrics {
            for metric in &of_scope.metrics {
                for mut point in metric_points(metric) {
                    point.append(&mut shared(of_resource.resource.as_ref(), of_scope.scope.as_ref(), false));
                    set(&mut point, "name", json!(metric.name));
                    text(&mut point, "unit", &metric.unit);
                    text(&mut point, "description", &metric.description);
                    rows.push(point);
                }
            }
        }
    }
    rows
}

fn metric_points(metric: &Metric) -> Vec<Row> {
    let temporality = |row: &mut Row, temporality: i32| {
        if let Some(name) = [None, Some("delta"), Some("cumulative")][temporality as usize] {
            set(row, "temporality", json!(name));
        }
    };
    match &metric.data {
        None => Vec::new(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(|point| number_row("gauge", point)).collect(),
        Some(Data::Sum(sum)) => {
            let row = |point| {
                let mut row = number_row("sum", point);
                set(&mut row, "monotonic", json!(sum.is_monotonic));
                temporality(&mut row, sum.aggregation_temporality);
                row
            };
            sum.data_points.iter().map(row).collect()
        }
        Some(Data::Histogram(histogram)) => {
            let row = |point: &HistogramDataPoint| {
                let mut row =
                    point_row("histogram", point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
                temporality(&mut row, histogram.aggregation_temporality);
                set(&mut row, "count", json!(nanos(point.count)));
                for (name, value) in [("value", point.sum), ("min", point.min), ("max", point.max)] {
                    double(&mut row, name, value);
                }
                list(&mut row, "bounds", point.explicit_bounds.clone());
                list(&mut row, "bucket_counts", point.bucket_counts.iter().map(|count| *count as f64).collect());
                row
            };
            histogram.data_points.iter().map(row).collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let row = |point: &ExponentialHistogramDataPoint| {
                let mut row = point_row(
                    "exponential_histogram",
                    point.start_time_unix_nano,
                    point.time_unix_nano,
                    &point.attributes,
                );
                temporality(&mut row, histogram.aggregation_temporality);
                set(&mut row, "count", json!(nanos(point.count)));
                set(&mut row, "scale", json!(point.scale));
                set(&mut row, "zero_count", json!(nanos(point.zero_count)));
                let threshold = Some(point.zero_threshold).filter(|threshold| threshold.to_bits() != 0);
                for (name, value) in
                    [("value", point.sum), ("min", point.min), ("max", point.max), ("zero_threshold", threshold)]
                {
                    double(&mut row, name, value);
                }
                for (buckets, counts, offset) in [
                    (&point.positive, "bucket_counts", "positive_offset"),
                    (&point.negative, "negative_bucket_counts", "negative_offset"),
                ] {
                    if let Some(buckets) = buckets {
                        let values: Vec<_> = buckets.bucket_counts.iter().map(|count| bits(*count as f64)).collect();
                        set(&mut row, counts, json!(values));
                        set(&mut row, offset, json!(buckets.offset));
                    }
                }
                row
            };
            histogram.data_points.iter().map(row).collect()
        }
        Some(Data::Summary(summary)) => {
            let row = |point: &SummaryDataPoint| {
                let mut row = point_row("summary", point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
                set(&mut row, "count", json!(nanos(point.count)));
                double(&mut row, "value", Some(point.sum));
                list(&mut row, "bounds", point.quantile_values.iter().map(|q| q.quantile).collect());
                list(&mut row, "bucket_counts", point.quantile_values.iter().map(|q| q.value).collect());
                row
            };
            summary.data_points.iter().map(row).collect()
        }
    }
}

fn number_row(kind: &str, point: &NumberDataPoint) -> Row {
    let mut row = point_row(kind, point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
    match point.value {
        Some(Number::AsInt(value)) => {
            double(&mut row, "value", Some(value as f64));
            set(&mut row, "value_int", json!(value));
        }
        Some(Number::AsDouble(value)) => double(&mut row, "value", Some(value)),
        None => {}
    }
    let exemplar = |exemplar: &Exemplar| {
        let value = match exemplar.value {
            Some(exemplar::Value::AsInt(value)) => json!(value),
            _ => Json::Null,
        };
        json!({"time_unix_nano": exemplar.time_unix_nano, "value": value, "trace_id": hex::encode(&exemplar.trace_id),
               "span_id": hex::encode(&exemplar.span_id), "attributes": {}})
    };
    if !point.exemplars.is_empty() {
        set(&mut row, "exemplars", json!(Json::Array(point.exemplars.iter().map(exemplar).collect()).to_string()));
    }
    row
}

fn point_row(kind: &str, start: u64, time: u64, pairs: &[KeyValue]) -> Row {
    let mut row = Row::new();
    set(&mut row, "kind", json!(kind));
    set(&mut row, "time_unix_nano", json!(if time > 0 { nanos(time) } else { RECEIVED }));
    if start > 0 {
        set(&mut row, "start_unix_nano", json!(nanos(start)));
    }
    attributes(&mut row, "attributes", "attribute_types", pairs);
    row
}

fn shared(resource: Option<&Resource>, scope: Option<&InstrumentationScope>, with_version: bool) -> Row {
    let mut row = Row::new();
    let pairs = resource.map_or(&[][..], |resource| resource.attributes.as_slice());
    let first = |key: &str| {
        let value = pairs.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()?;
        if let Any::StringValue(text) = value { Some(text.as_str()).filter(|text| !text.is_empty()) } else { None }
    };
    set(&mut row, "service", json!(first("service.name").unwrap_or(UNKNOWN_SERVICE)));
    text(&mut row, "instance", first("service.instance.id").unwrap_or_default());
    attributes(&mut row, "resource_attributes", "resource_attribute_types", pairs);
    if let Some(scope) = scope {
        text(&mut row, "scope_name", &scope.name);
        if with_version {
            text(&mut row, "scope_version", &scope.version);
        }
    }
    set(&mut row, "received_unix_nano", json!(RECEIVED));
    row
}

fn attributes(row: &mut Row, name: &str, types: &str, pairs: &[KeyValue]) {
    let entries: Vec<(String, (String, char))> =
        pairs.iter().map(|pair| (pair.key.clone(), typed(pair.value.as_ref()))).collect();
    set(row, name, json!(entries.iter().map(|(key, (text, _))| [key, text]).collect::<Vec<_>>()));
    if entries.iter().any(|(_, (_, letter))| *letter != 's') {
        set(row, types, json!(entries.iter().map(|(_, (_, letter))| *letter).collect::<String>()));
    }
}

fn typed(value: Option<&AnyValue>) -> (String, char) {
    use base64::{Engine, prelude::BASE64_STANDARD};
    match value.and_then(|value| value.value.as_ref()) {
        None => (String::new(), 'n'),
        Some(Any::StringValue(text)) => (text.clone(), 's'),
        Some(Any::BoolValue(value)) => (value.to_string(), 'b'),
        Some(Any::IntValue(value)) => (value.to_string(), 'i'),
        Some(Any::DoubleValue(value)) => (format!("{value:?}"), 'd'),
        Some(Any::BytesValue(bytes)) => (BASE64_STANDARD.encode(bytes), 'y'),
        Some(nested) => {
            let (text, letter) = nested_text(nested);
            (text, char::from(letter))
        }
    }
}

fn set(row: &mut Row, name: &str, value: Json) {
    row.insert(name.to_owned(), value);
}

fn text(row: &mut Row, name: &str, value: &str) {
    if !value.is_empty() {
        set(row, name, json!(value));
    }
}

fn id(row: &mut Row, name: &str, id: &[u8]) {
    if id.iter().any(|byte| *byte != 0) {
        set(row, name, json!(hex::encode(id)));
    }
}

fn double(row: &mut Row, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        set(row, name, bits(value));
    }
}

fn list(row: &mut Row, name: &str, values: Vec<f64>) {
    if !values.is_empty() {
        set(row, name, json!(values.into_iter().map(bits).collect::<Vec<_>>()));
    }
}

/// NaN is not itself, so doubles are compared as text.
fn bits(value: f64) -> Json {
    json!(format!("{value:?}"))
}

// ---- what the codec made ----

fn found(rows: &RecordBatch) -> Vec<Row> {
    (0..rows.num_rows())
        .map(|row| {
            let cells = rows
                .schema()
                .fields()
                .iter()
                .zip(rows.columns())
                .map(|(field, column)| (field.name().clone(), cell(column, row)))
                .collect::<Vec<_>>();
            cells.into_iter().filter(|(_, cell)| !cell.is_null()).collect()
        })
        .collect()
}

fn cell(column: &ArrayRef, row: usize) -> Json {
    if column.is_null(row) {
        return Json::Null;
    }
    match column.data_type() {
        DataType::Binary => json!(hex::encode(column.as_binary::<i32>().value(row))),
        DataType::Utf8 => json!(column.as_string::<i32>().value(row)),
        DataType::Int64 => json!(column.as_primitive::<Int64Type>().value(row)),
        DataType::Int32 => json!(column.as_primitive::<Int32Type>().value(row)),
        DataType::Float64 => bits(column.as_primitive::<Float64Type>().value(row)),
        DataType::Boolean => json!(column.as_boolean().value(row)),
        DataType::Map(..) => {
            let entries = column.as_map().value(row);
            let pair = |entry| [cell(entries.column(0), entry), cell(entries.column(1), entry)];
            json!((0..entries.len()).map(pair).collect::<Vec<_>>())
        }
        DataType::List(_) => {
            let items = column.as_list::<i32>().value(row);
            json!((0..items.len()).map(|item| cell(&items, item)).collect::<Vec<_>>())
        }
        DataType::Struct(fields) => {
            let columns = column.as_struct();
            let cells =
                fields.iter().zip(columns.columns()).map(|(field, column)| (field.name().clone(), cell(column, row)));
            json!(cells.filter(|(_, cell)| !cell.is_null()).collect::<Row>())
        }
        other => panic!("no column is {other}"),
    }
}
