//! Spans → the bytes of an `ExportTraceServiceRequest`, without a tree of messages in between.
//!
//! A sidecar encodes every span it emits, so this is on the budget of each request: a tree costs some
//! forty allocations a span, this writes into three buffers that are kept. The field numbers are those
//! of `opentelemetry/proto/trace/v1/trace.proto`; a test holds the bytes against the generated messages.

use bytes::Bytes;

use crate::{
    config::Direction,
    telemetry::{
        SpanRecord,
        conventions::{OTHER, known_method},
        encode::{Attribute, each_attribute, each_resource_attribute},
    },
    workload::Workload,
};

/// Wire types.
const VARINT: u32 = 0;
const FIXED64: u32 = 1;
const DELIMITED: u32 = 2;
const FIXED32: u32 = 5;

/// `SPAN_KIND_SERVER` and `SPAN_KIND_CLIENT`.
const SERVER: u64 = 2;
const CLIENT: u64 = 3;

/// `STATUS_CODE_ERROR`.
const ERROR: u64 = 2;

/// W3C trace flags: sampled.
const SAMPLED: u32 = 1;

/// Writes requests; its buffers grow once and stay.
#[derive(Debug, Default)]
pub(crate) struct SpanWriter {
    span: Vec<u8>,
    scope_spans: Vec<u8>,
    small: Vec<u8>,
}

impl SpanWriter {
    /// The request for one batch.
    pub(crate) fn request<'a>(&mut self, workload: &Workload, records: impl Iterator<Item = &'a SpanRecord>) -> Bytes {
        self.scope_spans.clear();
        self.write_scope();
        for record in records {
            self.write_span(record);
            delimited(&mut self.scope_spans, 2, &self.span);
        }
        let Self { scope_spans, small, .. } = self;
        small.clear();
        each_resource_attribute(workload, |key, value| key_value(small, 1, key, value));
        // its length is known beforehand, so that nothing is written twice
        let resource_spans = field_length(small.len()) + field_length(scope_spans.len());
        let mut request = Vec::with_capacity(field_length(resource_spans));
        tag(&mut request, 1, DELIMITED);
        varint(&mut request, resource_spans as u64);
        delimited(&mut request, 1, small);
        delimited(&mut request, 2, scope_spans);
        request.into()
    }

    fn write_scope(&mut self) {
        self.small.clear();
        delimited(&mut self.small, 1, b"weir-proxy");
        delimited(&mut self.small, 2, env!("CARGO_PKG_VERSION").as_bytes());
        delimited(&mut self.scope_spans, 1, &self.small);
    }

    fn write_span(&mut self, record: &SpanRecord) {
        let SpanRecord { trace, route, start_unix_nano, duration_ns, method, .. } = record;
        let span = &mut self.span;
        span.clear();
        delimited(span, 1, &trace.trace_id);
        delimited(span, 2, &trace.span_id);
        if let Some(state) = &trace.state {
            delimited(span, 3, state.as_bytes());
        }
        if let Some(parent) = &trace.parent_span_id {
            delimited(span, 4, parent);
        }
        let method = match known_method(method) {
            OTHER if record.is_tcp() => "TCP",
            OTHER => "HTTP",
            known => known,
        };
        let route_name = route.name.as_str();
        tag(span, 5, DELIMITED);
        varint(span, (method.len() + 1 + route_name.len()) as u64);
        span.extend_from_slice(method.as_bytes());
        span.push(b' ');
        span.extend_from_slice(route_name.as_bytes());
        tag(span, 6, VARINT);
        varint(span, if route.direction == Direction::Inbound { SERVER } else { CLIENT });
        fixed64(span, 7, *start_unix_nano);
        fixed64(span, 8, start_unix_nano + duration_ns);
        each_attribute(record, |key, value| key_value(span, 9, key, value));
        if record.is_error() {
            self.small.clear();
            if let Some(failure) = record.failure {
                delimited(&mut self.small, 2, failure.as_str().as_bytes());
            }
            tag(&mut self.small, 3, VARINT);
            varint(&mut self.small, ERROR);
            delimited(&mut self.span, 15, &self.small);
        }
        tag(&mut self.span, 16, FIXED32);
        self.span.extend_from_slice(&SAMPLED.to_le_bytes());
    }
}

/// A `KeyValue` as field `number`; its length is known beforehand, so nothing is moved.
fn key_value(to: &mut Vec<u8>, number: u32, key: &str, value: Attribute<'_>) {
    let value_length = match value {
        Attribute::Text(text) => field_length(text.len()),
        Attribute::Int(int) => 1 + varint_length(int),
        Attribute::List(texts) => field_length(list_length(texts)),
    };
    tag(to, number, DELIMITED);
    varint(to, (field_length(key.len()) + field_length(value_length)) as u64);
    delimited(to, 1, key.as_bytes());
    tag(to, 2, DELIMITED);
    varint(to, value_length as u64);
    match value {
        Attribute::Text(text) => delimited(to, 1, text.as_bytes()),
        Attribute::Int(int) => {
            tag(to, 3, VARINT);
            varint(to, int);
        }
        Attribute::List(texts) => {
            tag(to, 5, DELIMITED);
            varint(to, list_length(texts) as u64);
            for text in texts {
                tag(to, 1, DELIMITED);
                varint(to, field_length(text.len()) as u64);
                delimited(to, 1, text.as_bytes());
            }
        }
    }
}

/// An `ArrayValue` of strings.
fn list_length(texts: &[&str]) -> usize {
    texts.iter().map(|text| field_length(field_length(text.len()))).sum()
}

/// What a delimited field with a number below 16 takes.
fn field_length(length: usize) -> usize {
    1 + varint_length(length as u64) + length
}

fn delimited(to: &mut Vec<u8>, number: u32, bytes: &[u8]) {
    tag(to, number, DELIMITED);
    varint(to, bytes.len() as u64);
    to.extend_from_slice(bytes);
}

fn fixed64(to: &mut Vec<u8>, number: u32, value: u64) {
    tag(to, number, FIXED64);
    to.extend_from_slice(&value.to_le_bytes());
}

fn tag(to: &mut Vec<u8>, number: u32, wire_type: u32) {
    varint(to, u64::from(number << 3 | wire_type));
}

fn varint(to: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        to.push(value as u8 | 0x80);
        value >>= 7;
    }
    to.push(value as u8);
}

fn varint_length(value: u64) -> usize {
    ((64 - (value | 1).leading_zeros()) as usize).div_ceil(7)
}

#[cfg(test)]
pub(super) mod tests {
    use std::sync::Arc;

    use http::{Method, Version};
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest, common::v1::any_value::Value, trace::v1::Span,
    };
    use prost::Message;

    use super::*;
    use crate::{
        Config,
        counters::Tally,
        lm::{FinishReasons, Name, Operation},
        regulate::Refusal,
        security::{Decision, Peer, Security},
        telemetry::{Action, Failure, LmRecord, Proof, Said},
        traffic::TraceContext,
    };

    pub(in crate::telemetry) fn config() -> Config {
        let text = "service: tagger\ninstance: tagger-0\nservers: 4\n\
            listeners: [{ address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: app }] }]\n\
            upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";
        Config::from_yaml(text).unwrap()
    }

    pub(in crate::telemetry) fn workload() -> Workload {
        let config = config();
        Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::new(Tally::default()), Security::default())
    }

    pub(in crate::telemetry) fn record(workload: &Workload) -> SpanRecord {
        SpanRecord {
            trace: TraceContext {
                marks: Default::default(),
                trace_id: [7; 16],
                span_id: [8; 8],
                parent_span_id: Some([9; 8]),
                sampled: true,
                decided_here: false,
                goes_on: true,
                state: Some("vendor=1".into()),
            },
            route: workload.listeners[0][0].clone(),
            upstream: Some(workload.upstreams[0].clone()),
            start_unix_nano: 1_700_000_000_000_000_000,
            duration_ns: 12_345_678,
            method: Method::POST,
            tunnel: None,
            said: Said::new(
                ["/v1/generate", "tagger:8080", "curl/8", "tokenizer/tokenizer-0", "10.0.0.7"],
                Version::HTTP_2,
                false,
            ),
            proof: Some(Box::new(Proof {
                source: Some(Arc::new(Peer {
                    principal: "spiffe://mesh.local/tokenizer".parse().ok(),
                    ..Peer::default()
                })),
                destination: None,
                decision: Some(Arc::new(Decision { allowed: true, rule: Some("callers".to_owned()) })),
            })),
            status: 504,
            grpc_status: Some(4),
            action: Action::Queued,
            failure: Some(Failure::UpstreamTimeout),
            queue_wait_ns: u64::from(u32::MAX) * 9,
            in_flight: 300,
            endpoint: workload.upstreams[0].endpoints().first().cloned(),
            retries: 2,
            response_bytes: 127,
            log: false,
            lm: Some(Box::new(LmRecord {
                operation: Some(Operation::Chat),
                request_model: Some(Name::new("gpt-x")),
                response_model: Some(Name::new("gpt-x-1")),
                input_tokens: Some(0),
                cache_read_tokens: Some(3),
                cache_creation_tokens: Some(2),
                output_tokens: Some(16_384),
                time_to_first_token_ns: Some(128),
                time_per_output_token_ns: Some(9),
                finish_reasons: FinishReasons::of(&["stop", "length"]),
                compressed: true,
            })),
        }
    }

    fn decoded(records: &[SpanRecord], workload: &Workload) -> ExportTraceServiceRequest {
        let bytes = SpanWriter::default().request(workload, records.iter());
        let request = ExportTraceServiceRequest::decode(bytes.clone()).unwrap();
        assert_eq!(request.encode_to_vec().len(), bytes.len(), "no shorter form exists");
        request
    }

    fn attributes(span: &Span) -> Vec<(&str, String)> {
        let value =
            |kv: &opentelemetry_proto::tonic::common::v1::KeyValue| match kv.value.as_ref().unwrap().value.as_ref() {
                Some(Value::StringValue(text)) => text.clone(),
                Some(Value::IntValue(int)) => int.to_string(),
                Some(Value::ArrayValue(list)) => format!("{} texts", list.values.len()),
                other => panic!("{other:?}"),
            };
        span.attributes.iter().map(|kv| (kv.key.as_str(), value(kv))).collect()
    }

    #[test]
    fn the_generated_messages_read_every_field() {
        let workload = workload();
        let request = decoded(&[record(&workload)], &workload);
        let resource_spans = &request.resource_spans[0];
        let names: Vec<&str> =
            resource_spans.resource.as_ref().unwrap().attributes.iter().map(|a| a.key.as_str()).collect();
        assert_eq!(names, ["service.name", "service.instance.id", "weir.servers"]);
        assert_eq!(resource_spans.scope_spans[0].scope.as_ref().unwrap().name, "weir-proxy");
        let span = &resource_spans.scope_spans[0].spans[0];
        assert_eq!((&*span.trace_id, &*span.span_id, &*span.parent_span_id), (&[7; 16][..], &[8; 8][..], &[9; 8][..]));
        assert_eq!(
            (span.name.as_str(), span.kind, span.flags, span.trace_state.as_str()),
            ("POST app", 2, 1, "vendor=1")
        );
        assert_eq!(span.end_time_unix_nano - span.start_time_unix_nano, 12_345_678);
        let status = span.status.as_ref().unwrap();
        assert_eq!((status.code, status.message.as_str()), (2, "upstream_timeout"));
        let expected = [
            ("http.request.method", "POST"),
            ("url.scheme", "https"),
            ("url.path", "/v1/generate"),
            ("network.protocol.version", "2"),
            ("http.response.status_code", "504"),
            ("rpc.grpc.status_code", "4"),
            ("client.address", "10.0.0.7"),
            ("user_agent.original", "curl/8"),
            ("weir.direction", "inbound"),
            ("weir.route", "app"),
            ("weir.policy_action", "queued"),
            ("weir.queue_wait_ns", "38654705655"),
            ("weir.in_flight", "300"),
            ("http.response.body.size", "127"),
            ("peer.service", "tokenizer"),
            ("weir.peer_instance", "tokenizer-0"),
            ("source.principal", "spiffe://mesh.local/tokenizer"),
            ("weir.authorization", "allowed"),
            ("weir.authorization_rule", "callers"),
            ("weir.upstream", "127.0.0.1:9001"),
            ("server.address", "tagger"),
            ("server.port", "8080"),
            ("http.request.resend_count", "2"),
            ("error.type", "upstream_timeout"),
            ("gen_ai.operation.name", "chat"),
            ("gen_ai.request.model", "gpt-x"),
            ("gen_ai.response.model", "gpt-x-1"),
            ("gen_ai.response.finish_reasons", "2 texts"),
            ("weir.time_to_first_token_ns", "128"),
            ("weir.time_per_output_token_ns", "9"),
            ("gen_ai.usage.input_tokens", "0"),
            ("gen_ai.usage.cache_read.input_tokens", "3"),
            ("gen_ai.usage.cache_creation.input_tokens", "2"),
            ("gen_ai.usage.output_tokens", "16384"),
            ("weir.lm_unread", "compressed"),
        ];
        assert_eq!(attributes(span), expected.map(|(key, value)| (key, value.to_owned())));
    }

    #[test]
    fn what_is_absent_is_not_written_and_buffers_do_not_leak() {
        let workload = workload();
        let full = record(&workload);
        let bare = SpanRecord {
            trace: TraceContext { parent_span_id: None, state: None, ..full.trace.clone() },
            said: Said::default(),
            proof: None,
            status: 429,
            action: Action::Shed(Refusal::QueueFull),
            failure: None,
            endpoint: None,
            lm: None,
            ..full.clone()
        };
        let request = decoded(&[full, bare], &workload);
        let span = &request.resource_spans[0].scope_spans[0].spans[1];
        assert!(span.parent_span_id.is_empty() && span.trace_state.is_empty() && span.status.is_none());
        let attributes = attributes(span);
        assert!(attributes.contains(&("error.type", "queue_full".into())), "{attributes:?}");
        assert!(!attributes.iter().any(|(key, _)| key.starts_with("gen_ai") || *key == "url.path"));
    }

    /// Whatever a client made up as a method was the name of a span.
    #[test]
    fn a_method_that_nobody_knows_is_told_apart_from_names() {
        let workload = workload();
        let record = SpanRecord { method: "BREW".parse().unwrap(), ..record(&workload) };
        let request = decoded(&[record], &workload);
        let span = &request.resource_spans[0].scope_spans[0].spans[0];
        let attributes = attributes(span);
        assert_eq!(span.name, "HTTP app");
        for (key, value) in [("http.request.method", "_OTHER"), ("http.request.method_original", "BREW")] {
            assert!(attributes.contains(&(key, value.to_owned())), "{attributes:?}");
        }
    }

    #[test]
    fn lengths_of_varints_are_those_written() {
        for value in [0, 1, 127, 128, 16_383, 16_384, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = Vec::new();
            varint(&mut bytes, value);
            assert_eq!(bytes.len(), varint_length(value), "{value}");
        }
    }

    #[test]
    fn a_tunnel_says_what_it_carried() {
        let workload = workload();
        for (path, tunnel, expected) in [
            (
                None,
                "tcp",
                [("network.transport", Some("tcp")), ("network.protocol.name", None), ("http.request.method", None)],
            ),
            (
                Some("/chat"),
                "websocket",
                [
                    ("network.transport", None),
                    ("network.protocol.name", Some("websocket")),
                    ("http.request.method", Some("POST")),
                ],
            ),
        ] {
            let said = Said::new([path.unwrap_or_default(), "", "", "", ""], Version::HTTP_11, false);
            let record = SpanRecord { said, tunnel: Some(tunnel.into()), ..record(&workload) };
            let request = decoded(&[record], &workload);
            let attributes = attributes(&request.resource_spans[0].scope_spans[0].spans[0]);
            for (key, value) in expected {
                let said = attributes.iter().find(|(k, _)| *k == key).map(|(_, v)| v.as_str());
                assert_eq!(said, value, "{key} of {tunnel}");
            }
        }
    }
}
