//! Records → OTLP: what each attribute says, and the messages for metrics and logs. Spans, which are
//! many, are written as bytes by `wire`.

use std::{borrow::Cow, sync::atomic::Ordering::Relaxed};

use opentelemetry_proto::tonic::{
    collector::{logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest},
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
};

use crate::{
    config::Direction,
    telemetry::{Action, BOUNDS_S, SpanRecord},
    workload::{Route, Workload},
};

/// The access logs of one batch.
pub(crate) fn logs(workload: &Workload, records: &[&SpanRecord]) -> ExportLogsServiceRequest {
    let log_records = records.iter().map(|r| log(r)).collect();
    let scope_logs = vec![ScopeLogs { scope: Some(scope()), log_records, ..ScopeLogs::default() }];
    let resource = Some(resource(workload));
    ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { resource, scope_logs, ..ResourceLogs::default() }] }
}

/// Every metric as it stands; `start` is when the proxy started.
pub(crate) fn metrics(workload: &Workload, start_unix_nano: u64, now_unix_nano: u64) -> ExportMetricsServiceRequest {
    let at = At { start_unix_nano, now_unix_nano };
    let counters = workload.tally.read();
    let (in_flight, queued) = workload.gate.load();
    let mut metrics = vec![
        at.gauge("weir.proxy.in_flight", "{request}", "requests admitted to the service now", u64::from(in_flight)),
        at.gauge("weir.proxy.queued", "{request}", "requests that wait for a place now", queued as u64),
        at.sum("weir.proxy.spans_recorded", "{span}", "spans to be exported", counters.spans_recorded),
        at.sum("weir.proxy.spans_sent", "{span}", "spans the collector acknowledged", counters.spans_sent),
        at.sum("weir.proxy.spans_dropped", "{span}", "spans given up", counters.spans_dropped),
        at.gauge("weir.proxy.policy_sequence", "1", "the policy in force", workload.applied.load().sequence),
    ];
    for direction in [Direction::Inbound, Direction::Outbound] {
        let routes: Vec<&Route> = workload.routes().map(AsRef::as_ref).filter(|r| r.direction == direction).collect();
        if !routes.is_empty() {
            metrics.push(at.durations(direction, &routes));
            metrics.push(at.shed(direction, &routes));
        }
    }
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource(workload));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
    }
}

/// The value of an attribute.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Attribute<'a> {
    Text(&'a str),
    Int(u64),
}

/// Says every attribute of a span, in a fixed order.
pub(crate) fn each_attribute(record: &SpanRecord, mut say: impl FnMut(&'static str, Attribute<'_>)) {
    use Attribute::{Int, Text};
    let route = &record.route;
    match record.tunnel.as_ref().and_then(|t| t.to_str().ok()) {
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
    if let Some(path) = &record.path {
        say("url.path", Text(path.path()));
    }
    say("weir.direction", Text(route.direction.as_str()));
    say("weir.route", Text(&route.name));
    say("weir.policy_action", Text(record.action.as_str()));
    say("weir.queue_wait_ns", Int(record.queue_wait_ns));
    say("weir.in_flight", Int(u64::from(record.in_flight)));
    say("http.response.body.size", Int(record.response_bytes));
    say_peer(record, &mut say);
    if let Some(endpoint) = record.endpoint {
        let address = &route.upstream.endpoints[endpoint].address;
        say("weir.upstream", Text(address));
        if let (Direction::Outbound, Some((host, port))) = (route.direction, address.rsplit_once(':')) {
            say("server.address", Text(host));
            say("server.port", Int(port.parse().unwrap_or(0)));
        }
    }
    if let Some(kind) = error_type(record) {
        say("error.type", Text(&kind));
    }
    if let Some(ns) = record.time_to_first_token_ns {
        say("weir.time_to_first_token_ns", Int(ns));
    }
    if let Some(usage) = record.usage {
        say("gen_ai.usage.input_tokens", Int(usage.input_tokens));
        say("gen_ai.usage.output_tokens", Int(usage.output_tokens));
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
        return say("peer.service", Attribute::Text(&record.route.upstream.name));
    }
    let Some(caller) = record.caller.as_ref().and_then(|c| c.to_str().ok()) else { return };
    let (service, instance) = caller.split_once('/').unwrap_or((caller, ""));
    say("peer.service", Attribute::Text(service));
    if !instance.is_empty() {
        say("weir.peer_instance", Attribute::Text(instance));
    }
}

fn error_type(record: &SpanRecord) -> Option<Cow<'static, str>> {
    match (record.failure, record.action) {
        (Some(failure), _) => Some(failure.as_str().into()),
        (None, Action::Shed(refusal)) => Some(refusal.as_str().into()),
        (None, _) => (record.status >= 500).then(|| record.status.to_string().into()),
    }
}

fn log(record: &SpanRecord) -> LogRecord {
    let end = record.start_unix_nano + record.duration_ns;
    let severity = if record.failed() { SeverityNumber::Error } else { SeverityNumber::Info };
    let path = record.path.as_ref().map_or("", |p| p.path());
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

#[derive(Clone, Copy)]
struct At {
    start_unix_nano: u64,
    now_unix_nano: u64,
}

impl At {
    fn number(self, value: u64, attributes: Vec<KeyValue>) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: self.start_unix_nano,
            time_unix_nano: self.now_unix_nano,
            value: Some(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX))),
            ..NumberDataPoint::default()
        }
    }

    fn gauge(self, name: &str, unit: &str, description: &str, value: u64) -> Metric {
        let data = Data::Gauge(Gauge { data_points: vec![self.number(value, Vec::new())] });
        metric(name, unit, description, data)
    }

    fn sum(self, name: &str, unit: &str, description: &str, value: u64) -> Metric {
        metric(name, unit, description, cumulative(vec![self.number(value, Vec::new())]))
    }

    fn shed(self, direction: Direction, routes: &[&Route]) -> Metric {
        let points = routes.iter().map(|r| self.number(r.stats.shed.load(Relaxed), of_route(direction, r)));
        metric("weir.proxy.shed", "{request}", "requests that policy turned away", cumulative(points.collect()))
    }

    fn durations(self, direction: Direction, routes: &[&Route]) -> Metric {
        let points = routes.iter().map(|route| {
            let bucket_counts = route.stats.buckets();
            HistogramDataPoint {
                attributes: of_route(direction, route),
                start_time_unix_nano: self.start_unix_nano,
                time_unix_nano: self.now_unix_nano,
                count: bucket_counts.iter().sum(),
                sum: Some(route.stats.duration_ns.load(Relaxed) as f64 / 1e9),
                bucket_counts,
                explicit_bounds: BOUNDS_S.to_vec(),
                ..HistogramDataPoint::default()
            }
        });
        let aggregation_temporality = AggregationTemporality::Cumulative.into();
        let data = Data::Histogram(Histogram { data_points: points.collect(), aggregation_temporality });
        let name = match direction {
            Direction::Inbound => "http.server.request.duration",
            Direction::Outbound => "http.client.request.duration",
        };
        metric(name, "s", "duration of requests, queueing in the proxy included", data)
    }
}

fn cumulative(data_points: Vec<NumberDataPoint>) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
}

fn metric(name: &str, unit: &str, description: &str, data: Data) -> Metric {
    let (name, unit, description) = (name.to_owned(), unit.to_owned(), description.to_owned());
    Metric { name, unit, description, data: Some(data), ..Metric::default() }
}

fn of_route(direction: Direction, route: &Route) -> Vec<KeyValue> {
    vec![text("weir.direction", direction.as_str()), text("weir.route", &route.name)]
}

fn resource(workload: &Workload) -> Resource {
    let attributes = pairs(|say| each_resource_attribute(workload, say));
    Resource { attributes, ..Resource::default() }
}

fn pairs(walk: impl FnOnce(&mut dyn FnMut(&'static str, Attribute<'_>))) -> Vec<KeyValue> {
    let mut all = Vec::with_capacity(18);
    walk(&mut |key, value| {
        all.push(match value {
            Attribute::Text(value) => text(key, value),
            Attribute::Int(value) => int(key, value),
        });
    });
    all
}

fn scope() -> InstrumentationScope {
    let (name, version) = ("weir-proxy".to_owned(), env!("CARGO_PKG_VERSION").to_owned());
    InstrumentationScope { name, version, ..InstrumentationScope::default() }
}

fn text(key: &str, value: &str) -> KeyValue {
    pair(key, Value::StringValue(value.to_owned()))
}

fn int(key: &str, value: u64) -> KeyValue {
    pair(key, Value::IntValue(i64::try_from(value).unwrap_or(i64::MAX)))
}

fn pair(key: &str, value: Value) -> KeyValue {
    KeyValue { key: key.to_owned(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
}
