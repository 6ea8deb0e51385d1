//! Records → OTLP messages.

use std::sync::atomic::Ordering::Relaxed;

use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value},
    logs::v1::{LogRecord, ResourceLogs, ScopeLogs, SeverityNumber},
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
    resource::v1::Resource,
    trace::v1::{ResourceSpans, ScopeSpans, Span, Status, span::SpanKind, status::StatusCode},
};

use crate::{
    config::Direction,
    telemetry::{Action, BOUNDS_S, SpanRecord},
    workload::{Route, Workload},
};

/// W3C trace flags: sampled.
const SAMPLED: u32 = 1;

/// The spans of one batch.
pub(crate) fn spans(workload: &Workload, records: &[&SpanRecord]) -> ExportTraceServiceRequest {
    let spans = records.iter().map(|r| span(r)).collect();
    let scope_spans = vec![ScopeSpans { scope: Some(scope()), spans, ..ScopeSpans::default() }];
    let resource = Some(resource(workload));
    ExportTraceServiceRequest {
        resource_spans: vec![ResourceSpans { resource, scope_spans, ..ResourceSpans::default() }],
    }
}

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

fn span(record: &SpanRecord) -> Span {
    let SpanRecord { trace, route, start_unix_nano, duration_ns, method, .. } = record;
    let kind = match route.direction {
        Direction::Inbound => SpanKind::Server,
        Direction::Outbound => SpanKind::Client,
    };
    let code = if record.failed() { StatusCode::Error } else { StatusCode::Unset };
    let message = record.failure.map_or_else(String::new, |f| f.as_str().to_owned());
    Span {
        trace_id: trace.trace_id.to_vec(),
        span_id: trace.span_id.to_vec(),
        parent_span_id: trace.parent_span_id.map_or_else(Vec::new, |id| id.to_vec()),
        trace_state: trace.state.as_ref().and_then(|s| s.to_str().ok()).unwrap_or_default().to_owned(),
        flags: SAMPLED,
        name: format!("{method} {}", route.name),
        kind: kind.into(),
        start_time_unix_nano: *start_unix_nano,
        end_time_unix_nano: start_unix_nano + duration_ns,
        attributes: attributes(record),
        status: Some(Status { message, code: code.into() }),
        ..Span::default()
    }
}

fn attributes(record: &SpanRecord) -> Vec<KeyValue> {
    let route = &record.route;
    let mut all = Vec::with_capacity(18);
    all.push(text("http.request.method", record.method.as_str()));
    if record.status > 0 {
        all.push(int("http.response.status_code", u64::from(record.status)));
    }
    if let Some(path) = &record.path {
        all.push(text("url.path", path.path()));
    }
    all.push(text("weir.direction", route.direction.as_str()));
    all.push(text("weir.route", &route.name));
    all.push(text("weir.policy_action", record.action.as_str()));
    all.push(int("weir.queue_wait_ns", record.queue_wait_ns));
    all.push(int("weir.in_flight", u64::from(record.in_flight)));
    all.push(int("http.response.body.size", record.response_bytes));
    peer(record, &mut all);
    if let Some(endpoint) = record.endpoint {
        let address = &route.upstream.endpoints[endpoint].address;
        all.push(text("weir.upstream", address));
        if let (Direction::Outbound, Some((host, port))) = (route.direction, address.rsplit_once(':')) {
            all.push(text("server.address", host));
            all.push(int("server.port", port.parse().unwrap_or(0)));
        }
    }
    if let Some(kind) = error_type(record) {
        all.push(text("error.type", &kind));
    }
    if let Some(ns) = record.time_to_first_token_ns {
        all.push(int("weir.time_to_first_token_ns", ns));
    }
    if let Some(usage) = record.usage {
        all.push(int("gen_ai.usage.input_tokens", usage.input_tokens));
        all.push(int("gen_ai.usage.output_tokens", usage.output_tokens));
    }
    all
}

/// Who is at the other end: the caller as its sidecar said, or the upstream that is called.
fn peer(record: &SpanRecord, all: &mut Vec<KeyValue>) {
    if record.route.direction == Direction::Outbound {
        all.push(text("peer.service", &record.route.upstream.name));
        return;
    }
    let Some(caller) = record.caller.as_ref().and_then(|c| c.to_str().ok()) else { return };
    let (service, instance) = caller.split_once('/').unwrap_or((caller, ""));
    all.push(text("peer.service", service));
    if !instance.is_empty() {
        all.push(text("weir.peer_instance", instance));
    }
}

fn error_type(record: &SpanRecord) -> Option<String> {
    match (record.failure, record.action) {
        (Some(failure), _) => Some(failure.as_str().to_owned()),
        (None, Action::Shed(refusal)) => Some(refusal.as_str().to_owned()),
        (None, _) => (record.status >= 500).then(|| record.status.to_string()),
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
        attributes: attributes(record),
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
    let mut attributes = vec![text("service.name", &workload.service), text("service.instance.id", &workload.instance)];
    if let Some(servers) = workload.servers {
        attributes.push(int("weir.servers", u64::from(servers)));
    }
    Resource { attributes, ..Resource::default() }
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
