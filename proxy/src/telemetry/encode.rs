//! Records → OTLP: what each attribute says, and the messages for logs. Spans, which are many, are written
//! as bytes by `wire`; metrics are made by `measures`.

use http::Method;
use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};

use crate::{
    authority::split_port,
    config::Direction,
    counters::nanos,
    regulate::Refusal,
    telemetry::{
        Action, LmRecord, SpanRecord,
        conventions::{OTHER, known_method},
    },
    workload::Workload,
};

/// The access logs of one batch.
pub(crate) fn logs(workload: &Workload, records: &[&SpanRecord]) -> ExportLogsServiceRequest {
    let log_records = records.iter().map(|r| log(r)).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource = Some(resource(workload));
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute<'a> {
    Text(&'a str),
    Int(u64),
    List(&'a [&'a str]),
}

/// Says every attribute of a span, in a fixed order.
pub(crate) fn each_attribute(record: &SpanRecord, mut say: impl FnMut(&'static str, Attribute<'_>)) {
    use Attribute::{Int, Text};
    let route = &record.route;
    match record.tunnel.as_deref() {
        Some("tcp") => say("network.transport", Text("tcp")),
        Some(protocol) => say("network.protocol.name", Text(protocol)),
        None => {}
    }
    if !record.is_tcp() {
        say_request(record, &mut say);
    }
    if record.status > 0 {
        say("http.response.status_code", Int(u64::from(record.status)));
    }
    if let Some(status) = record.grpc_status {
        say("rpc.grpc.status_code", Int(u64::from(status)));
    }
    say_client(record, &mut say);
    say("weir.direction", Text(route.direction.as_str()));
    say("weir.route", Text(&route.name));
    say("weir.policy_action", Text(record.action.as_str()));
    say("weir.queue_wait_ns", Int(record.queue_wait_ns));
    if let Action::Shed(Refusal::DeadlineUnmeetable { expected }) = record.action {
        say("weir.expected_wait_ns", Int(nanos(expected)));
    }
    say("weir.in_flight", Int(u64::from(record.in_flight)));
    say("http.response.body.size", Int(record.response_bytes));
    say_peer(record, &mut say);
    say_security(record, &mut say);
    say_server(record, &mut say);
    if record.retries > 0 {
        say("http.request.resend_count", Int(u64::from(record.retries)));
    }
    if let Some(kind) = record.error_type() {
        say("error.type", Text(&kind));
    }
    if let Some(lm) = &record.lm {
        if let Some(provider) = record.upstream.as_ref().and_then(|upstream| upstream.gen_ai_provider.as_deref()) {
            say("gen_ai.provider.name", Text(provider));
        }
        say_lm(lm, &mut say);
    }
}

/// Says what was asked for.
fn say_request(record: &SpanRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    use Attribute::Text;
    let method = known_method(&record.method);
    say("http.request.method", Text(method));
    if method == OTHER {
        say("http.request.method_original", Text(record.method.as_str()));
    }
    say("url.scheme", Text(record.scheme()));
    if let Some(path) = record.said.path() {
        say("url.path", Text(path));
    }
    if let (Direction::Outbound, Some(host), Some(path)) =
        (record.route.direction, record.said.host(), record.said.path())
    {
        say("url.full", Text(&format!("{}://{host}{path}", record.scheme())));
    }
    if let Some(version) = record.protocol_version() {
        say("network.protocol.version", Text(version));
    }
    if let Some((service, method)) = record.rpc() {
        say("rpc.system", Text("grpc"));
        say("rpc.service", Text(service));
        say("rpc.method", Text(method));
    }
}

/// Says where it comes from.
fn say_client(record: &SpanRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    for (key, text) in [("client.address", record.said.address()), ("user_agent.original", record.said.agent())] {
        if let Some(text) = text {
            say(key, Attribute::Text(text));
        }
    }
}

/// Says where it goes: to an endpoint, of which a server is only told what it was called; and a tunnel to what was asked for.
fn say_server(record: &SpanRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    let endpoint = record.endpoint.as_ref().map(|endpoint| endpoint.address());
    if let Some(address) = endpoint {
        say("weir.upstream", Attribute::Text(address));
    }
    if let Some(subset) = record.upstream.as_ref().and_then(|upstream| upstream.subset.as_deref()) {
        say("weir.subset", Attribute::Text(subset));
    }
    let to_endpoint = record.route.direction == Direction::Outbound && record.method != Method::CONNECT;
    // a tunnel that was refused before it had an upstream goes nowhere, whatever the client said
    let has_upstream = record.route.direction == Direction::Inbound || record.upstream.is_some();
    let address = if to_endpoint { endpoint } else { record.said.host().filter(|_| has_upstream) };
    let Some((host, port)) = address.map(split_port) else { return };
    say("server.address", Attribute::Text(host.trim_matches(['[', ']'])));
    if let Some(port) = port {
        say("server.port", Attribute::Int(u64::from(port)));
    }
}

/// Says what is known of a call to a model.
fn say_lm(lm: &LmRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    use Attribute::{Int, List, Text};
    if let Some(operation) = lm.operation {
        say("gen_ai.operation.name", Text(operation.as_str()));
    }
    if let Some(model) = &lm.request_model {
        say("gen_ai.request.model", Text(model.as_str()));
    }
    if let Some(model) = &lm.response_model {
        say("gen_ai.response.model", Text(model.as_str()));
    }
    let reasons: Vec<&str> = lm.finish_reasons.names().collect();
    if !reasons.is_empty() {
        say("gen_ai.response.finish_reasons", List(&reasons));
    }
    let numbers = [
        ("weir.time_to_first_token_ns", lm.time_to_first_token_ns),
        ("weir.time_per_output_token_ns", lm.time_per_output_token_ns),
        ("gen_ai.usage.input_tokens", lm.input_tokens),
        ("gen_ai.usage.cache_read.input_tokens", lm.cache_read_tokens),
        ("gen_ai.usage.cache_creation.input_tokens", lm.cache_creation_tokens),
        ("gen_ai.usage.output_tokens", lm.output_tokens),
    ];
    for (key, number) in numbers {
        if let Some(number) = number {
            say(key, Int(number));
        }
    }
    if lm.compressed {
        say("weir.lm_unread", Text("compressed"));
    }
}

/// Says who sends.
pub(crate) fn each_resource_attribute(workload: &Workload, mut say: impl FnMut(&'static str, Attribute<'_>)) {
    say("service.name", Attribute::Text(&workload.service));
    say("service.instance.id", Attribute::Text(&workload.instance));
    if let Some(servers) = workload.servers {
        say("weir.servers", Attribute::Int(u64::from(servers)));
    }
}

/// Who is at the other end: the caller as its sidecar said, or the upstream that is called.
fn say_peer(record: &SpanRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    if record.route.direction == Direction::Outbound {
        return record.upstream.iter().for_each(|upstream| say("peer.service", Attribute::Text(&upstream.service)));
    }
    let Some(caller) = record.said.caller() else { return };
    let (service, instance) = caller.split_once('/').unwrap_or((caller, ""));
    say("peer.service", Attribute::Text(service));
    if !instance.is_empty() {
        say("weir.peer_instance", Attribute::Text(instance));
    }
}

/// Who TLS has proved to be at either end, in Istio's words, and what rules said.
fn say_security(record: &SpanRecord, say: &mut impl FnMut(&'static str, Attribute<'_>)) {
    let Some(proof) = &record.proof else { return };
    for (key, peer) in [("source.principal", &proof.source), ("destination.principal", &proof.destination)] {
        if let Some(id) = peer.as_ref().and_then(|peer| peer.principal.as_ref()) {
            say(key, Attribute::Text(id.as_str()));
        }
    }
    if let Some(decision) = &proof.decision {
        say("weir.authorization", Attribute::Text(if decision.allowed { "allowed" } else { "denied" }));
        if let Some(rule) = &decision.rule {
            say("weir.authorization_rule", Attribute::Text(rule));
        }
    }
}

fn log(record: &SpanRecord) -> LogRecord {
    let end = record.start_unix_nano + record.duration_ns;
    let severity = if record.failed() { SeverityNumber::Error } else { SeverityNumber::Info };
    let path = record.said.path().unwrap_or_default();
    let millis = record.duration_ns as f64 / 1e6;
    let body = format!("{} {path} {} {millis:.1} ms {}", record.method, record.status, record.action.as_str());
    LogRecord {
        time_unix_nano: end,
        observed_time_unix_nano: end,
        severity_number: severity.into(),
        severity_text: if record.failed() { "ERROR" } else { "INFO" }.to_owned(),
        body: Some(AnyValue { value: Some(Value::StringValue(body)) }),
        attributes: pairs(|say| each_attribute(record, say)),
        trace_id: record.trace.trace_id.to_vec(),
        span_id: record.trace.span_id.to_vec(),
        event_name: "weir.access".to_owned(),
        ..LogRecord::default()
    }
}

pub(super) fn resource(workload: &Workload) -> Resource {
    let attributes = pairs(|say| each_resource_attribute(workload, say));
    Resource { attributes, ..Resource::default() }
}

fn pairs(walk: impl FnOnce(&mut dyn FnMut(&'static str, Attribute<'_>))) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(32);
    walk(&mut |key, value| {
        all.push(match value {
            Attribute::Text(value) => text(key, value),
            Attribute::Int(value) => int(key, value),
            Attribute::List(values) => list(key, values),
        });
    });
    all
}

pub(super) fn scope() -> InstrumentationScope {
    let (name, version) = ("weir-proxy".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

pub(super) fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

pub(super) fn int(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

/// What is so.
pub(super) fn flag(key: &str) -> KeyValue {
    pair(key, Value::BoolValue(true))
}

fn list(key: &str, values: &[&str]) -> KeyValue {
    let value = |text: &&str| AnyValue { value: Some(Value::StringValue((*text).to_owned())) };
    pair(key, Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
