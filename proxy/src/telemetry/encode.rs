//! Records → OTLP: what each attribute says, and the messages for logs. Spans, which are many, are written
//! as bytes by `wire`; metrics are made by `measures`.

use std::borrow::Cow;

use opentelemetry_proto::tonic::{
    collector::logs::v1::ExportLogsServiceRequest,
    common::v1::{AnyValue, ArrayValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    resource::v1::Resource,
};

use crate::{
    authority::split_port,
    config::Direction,
    regulate::Refusal,
    telemetry::{Action, LmRecord, SpanRecord},
    traffic::grpc_name,
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
    if record.path.is_some() || record.tunnel.is_none() {
        say("http.request.method", Text(record.method.as_str()));
    }
    if record.status > 0 {
        say("http.response.status_code", Int(u64::from(record.status)));
    }
    if let Some(status) = record.grpc_status {
        say("rpc.grpc.status_code", Int(u64::from(status)));
    }
    if let Some(path) = &record.path {
        say("url.path", Text(path));
    }
    say("weir.direction", Text(route.direction.as_str()));
    say("weir.route", Text(&route.name));
    say("weir.policy_action", Text(record.action.as_str()));
    say("weir.queue_wait_ns", Int(record.queue_wait_ns));
    if let Action::Shed(Refusal::DeadlineUnmeetable { expected }) = record.action {
        say("weir.expected_wait_ns", Int(u64::try_from(expected.as_nanos()).unwrap_or(u64::MAX)));
    }
    say("weir.in_flight", Int(u64::from(record.in_flight)));
    say("http.response.body.size", Int(record.response_bytes));
    say_peer(record, &mut say);
    say_security(record, &mut say);
    if let Some(address) = record.endpoint.as_ref().map(|endpoint| endpoint.address()) {
        say("weir.upstream", Text(address));
        if let (Direction::Outbound, (host, Some(port))) = (route.direction, split_port(address)) {
            say("server.address", Text(host));
            say("server.port", Int(u64::from(port)));
        }
    }
    if record.retries > 0 {
        say("http.request.resend_count", Int(u64::from(record.retries)));
    }
    if let Some(kind) = error_type(record) {
        say("error.type", Text(&kind));
    }
    if let Some(lm) = &record.lm {
        if let Some(provider) = record.upstream.as_ref().and_then(|upstream| upstream.gen_ai_provider.as_deref()) {
            say("gen_ai.provider.name", Text(provider));
        }
        say_lm(lm, &mut say);
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
    let Some(caller) = record.caller.as_deref() else { return };
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

fn error_type(record: &SpanRecord) -> Option<Cow<'static, str>> {
    match (record.failure, record.action) {
        (Some(failure), _) => Some(failure.as_str().into()),
        (None, Action::Shed(refusal)) => Some(refusal.as_str().into()),
        (None, Action::Denied) => Some(Action::Denied.as_str().into()),
        (None, Action::Rejected(reason)) => Some(reason.into()),
        (None, _) if record.status >= 500 => Some(record.status.to_string().into()),
        (None, _) => record.grpc_status.filter(|_| record.failed()).map(|status| grpc_name(status).into()),
    }
}

fn log(record: &SpanRecord) -> LogRecord {
    let end = record.start_unix_nano + record.duration_ns;
    let severity = if record.failed() { SeverityNumber::Error } else { SeverityNumber::Info };
    let path = record.path.as_deref().unwrap_or_default();
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
    let mut all = Vec::with_capacity(18);
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

fn int(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn list(key: &str, values: &[&str]) -> KeyValue {
    let value = |text: &&str| AnyValue { value: Some(Value::StringValue((*text).to_owned())) };
    pair(key, Value::ArrayValue(ArrayValue { values: values.iter().map(value).collect() }))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
