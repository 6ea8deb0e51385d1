//! The codec beside the generated messages: it takes what they take and refuses what they refuse.

use opentelemetry_proto::tonic::{
    collector::trace::v1::ExportTraceServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, KeyValueList, any_value::Value as Any},
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span},
};
use prost::Message;

use super::*;

fn attribute(key: &str, value: Any) -> KeyValue {
    KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}

/// A request that uses every field.
fn request() -> ExportTraceServiceRequest {
    let list = Any::KvlistValue(KeyValueList { values: vec![attribute("deep", Any::IntValue(-1))] });
    let array = Any::ArrayValue(ArrayValue { values: vec![AnyValue { value: Some(list.clone()) }] });
    let attributes = vec![
        attribute("http.route", Any::StringValue("/cart/{id}".into())),
        attribute("http.status_code", Any::IntValue(503)),
        attribute("ratio", Any::DoubleValue(0.25)),
        attribute("blob", Any::BytesValue(vec![0, 1, 255])),
        attribute("flag", Any::BoolValue(true)),
        attribute("list", list),
        attribute("array", array),
        KeyValue { key: "empty".into(), ..KeyValue::default() },
    ];
    let event = span::Event {
        time_unix_nano: 12,
        name: "exception".into(),
        attributes: attributes.clone(),
        dropped_attributes_count: 1,
    };
    let link = span::Link {
        trace_id: vec![7; 16],
        span_id: vec![8; 8],
        trace_state: "a=b".into(),
        attributes: attributes.clone(),
        dropped_attributes_count: 300,
        flags: 1,
    };
    let span = Span {
        trace_id: vec![1; 16],
        span_id: vec![2; 8],
        trace_state: "ot=th:8".into(),
        parent_span_id: vec![3; 8],
        flags: 257,
        name: "GET /cart/{id}".into(),
        kind: 2,
        start_time_unix_nano: 10,
        end_time_unix_nano: 1_000_000,
        attributes: attributes.clone(),
        dropped_attributes_count: 2,
        events: vec![event; 2],
        dropped_events_count: 3,
        links: vec![link],
        dropped_links_count: 4,
        status: Some(Status { message: "no stock".into(), code: 2 }),
    };
    let scope = InstrumentationScope {
        name: "cart".into(),
        version: "1.2".into(),
        attributes: attributes.clone(),
        dropped_attributes_count: 0,
    };
    let spans = vec![Span { events: vec![], links: vec![], ..span.clone() }, span];
    let scope_spans = vec![ScopeSpans { scope: Some(scope), spans, schema_url: "x".into() }];
    let resource = Resource {
        attributes: vec![
            attribute("service.name", Any::StringValue("cart".into())),
            attribute("replicas", Any::IntValue(3)),
        ],
        ..Resource::default()
    };
    let resource_spans = vec![ResourceSpans { resource: Some(resource), scope_spans, schema_url: "y".into() }; 2];
    ExportTraceServiceRequest { resource_spans }
}

/// Fields that no column is made of.
const NOT_READ: [&str; 6] =
    ["dropped_", "flags", "schema_url", "InstrumentationScope.attributes", "entity", "strindex"];

/// A small generator, so that a failure is found again.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 % bound as u64).unwrap()
    }
}

#[test]
fn damaged_requests_are_refused_exactly_when_the_generated_messages_refuse_them() {
    let whole = request().encode_to_vec();
    let mut random = Random(0x9E37_79B9_7F4A_7C15);
    let (mut taken, mut refused) = (0, 0);
    for round in 0..20_000 {
        let mut bytes = whole.clone();
        for _ in 0..=random.below(3) {
            let place = random.below(bytes.len());
            match random.below(3) {
                0 => bytes[place] ^= 1 << random.below(8),
                1 => bytes.truncate(place.max(1)),
                _ => bytes.insert(place, u8::try_from(random.below(256)).unwrap()),
            }
        }
        let ours = decode(Signal::Traces, Encoding::Protobuf, &bytes, 9);
        let theirs = ExportTraceServiceRequest::decode(&bytes[..]);
        match (&ours, &theirs) {
            (Ok(_), Ok(_)) => taken += 1,
            (Err(_), Err(_)) => refused += 1,
            // what is not stored is not looked into
            (Ok(decoded), Err(error))
                if decoded.rejected > 0 || NOT_READ.iter().any(|n| error.to_string().contains(n)) =>
            {
                taken += 1;
            }
            _ => panic!("round {round}: ours {ours:?}, theirs {theirs:?}"),
        }
    }
    assert!(taken > 1_000 && refused > 1_000, "{taken} taken, {refused} refused");
}

#[test]
fn a_damaged_request_is_refused_with_the_path_of_the_field() {
    let mut request = request();
    request.resource_spans.truncate(1);
    let body = request.encode_to_vec();
    let text = |bytes: &[u8]| decode(Signal::Traces, Encoding::Protobuf, bytes, 9).unwrap_err().to_string();
    let place = body.windows(14).rposition(|w| w == b"GET /cart/{id}").unwrap();
    let mut not_utf8 = body.clone();
    not_utf8[place] = 0xff;
    assert_eq!(text(&not_utf8), "malformed protobuf: resource_spans[0].scope_spans[0].spans[1].name: is not UTF-8");
    let cut = text(&body[..body.len() - 1]);
    assert!(cut.starts_with("malformed protobuf: resource_spans[0]: announces"), "{cut}");
}

#[test]
fn a_large_resource_is_not_repeated_without_end() {
    let span = Span { trace_id: vec![1; 16], span_id: vec![2; 8], ..Span::default() };
    let scope_spans = vec![ScopeSpans { spans: vec![span; 1_000], ..ScopeSpans::default() }];
    let large = Resource {
        attributes: vec![attribute("config", Any::StringValue("x".repeat(1 << 20)))],
        ..Resource::default()
    };
    let resource_spans = vec![ResourceSpans { resource: Some(large), scope_spans, ..ResourceSpans::default() }];
    let body = ExportTraceServiceRequest { resource_spans }.encode_to_vec();
    let refused = decode(Signal::Traces, Encoding::Protobuf, &body, 9).unwrap_err().to_string();
    assert!(refused.contains("send fewer rows in a request"), "{refused}");
}

#[test]
fn a_resource_behind_its_spans_is_found() {
    let mut swapped = Vec::new();
    let ResourceSpans { resource, scope_spans, .. } = request().resource_spans.remove(0);
    let spans_first = ResourceSpans { resource: None, scope_spans, ..ResourceSpans::default() }.encode_to_vec();
    let resource_last = ResourceSpans { resource, ..ResourceSpans::default() }.encode_to_vec();
    prost::encoding::encode_key(1, prost::encoding::WireType::LengthDelimited, &mut swapped);
    prost::encoding::encode_varint((spans_first.len() + resource_last.len()) as u64, &mut swapped);
    swapped.extend(spans_first);
    swapped.extend(resource_last);
    let rows = decode(Signal::Traces, Encoding::Protobuf, &swapped, 9).unwrap().batch.unwrap().rows;
    let services = arrow::array::AsArray::as_string::<i32>(&rows["service"]);
    assert!(services.iter().all(|service| service == Some("cart")));
}
