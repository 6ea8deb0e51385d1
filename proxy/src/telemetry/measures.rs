//! Counts → OTLP metrics: what `/metrics` shows as text, for who collects instead of scrapes.
//!
//! Everything is cumulative since the start, so an export that is lost is made good by the next.

use std::sync::atomic::{AtomicU64, Ordering::Relaxed};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};

use crate::{
    config::Direction,
    routing::Route,
    telemetry::{
        BOUNDS_S, Series, WAIT_BOUNDS_S,
        encode::{resource, scope, text},
    },
    upstream::{Endpoint, EndpointStats, Upstream},
    workload::Workload,
};

/// Every metric as it stands; `start` is when the proxy started.
pub(crate) fn metrics(workload: &Workload, start_unix_nano: u64, now_unix_nano: u64) -> ExportMetricsServiceRequest {
    let at = At { start_unix_nano, now_unix_nano };
    let counters = workload.tally.read();
    let (in_flight, queued) = workload.gate.load();
    let mut metrics = vec![
        at.gauge("weir.proxy.in_flight", "{request}", "requests admitted to the service now", u64::from(in_flight)),
        at.gauge("weir.proxy.queued", "{request}", "requests that wait for a place now", u64::from(queued)),
        at.gauge("weir.proxy.expected_wait", "ns", "how long one who came now would wait", workload.expected_wait_ns()),
        at.gauge(
            "weir.proxy.local_limit",
            "{request}",
            "what the local limiter allows; 0 for no limit",
            workload.local_limit(),
        ),
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
            metrics.push(at.queue_waits(direction, &routes));
        }
    }
    metrics.extend(at.security(workload));
    metrics.extend(at.endpoints(workload));
    metrics.extend(at.gen_ai(workload));
    let scope_metrics = vec![ScopeMetrics { scope: Some(scope()), metrics, ..ScopeMetrics::default() }];
    let resource = Some(resource(workload));
    ExportMetricsServiceRequest {
        resource_metrics: vec![ResourceMetrics { resource, scope_metrics, ..ResourceMetrics::default() }],
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
        let points = routes.iter().map(|r| self.number(r.stats.shed_count(), of_route(direction, r)));
        metric("weir.proxy.shed", "{request}", "requests that policy turned away", cumulative(points.collect()))
    }

    /// What became of handshakes, tokens and rules, where there are any.
    fn security(self, workload: &Workload) -> Vec<Metric> {
        if !workload.security.is_asked_for() {
            return Vec::new();
        }
        let stats = &workload.security.stats;
        let counts = [
            ("weir.proxy.tls_handshakes_failed", "{handshake}", "handshakes that failed", &stats.handshakes_failed),
            (
                "weir.proxy.certificates_refused",
                "{change}",
                "new certificates unfit for use",
                &stats.certificates_refused,
            ),
            ("weir.proxy.unauthenticated", "{request}", "requests answered with 401", &stats.unauthenticated),
            ("weir.proxy.authorization_denied", "{request}", "requests that rules denied", &stats.denied),
        ];
        let mut metrics: Vec<Metric> = counts
            .into_iter()
            .map(|(name, unit, says, count)| self.sum(name, unit, says, count.load(Relaxed)))
            .collect();
        if let Some(at_unix_s) = workload.security.first_expiry_unix_s().and_then(|at| u64::try_from(at).ok()) {
            let says = "when the first certificate in use ends, since the Unix epoch";
            metrics.push(self.gauge("weir.proxy.certificate_expiry", "s", says, at_unix_s));
        }
        metrics
    }

    /// RED and connections of every endpoint.
    fn endpoints(self, workload: &Workload) -> [Metric; 5] {
        let of_all = |value: &dyn Fn(&EndpointStats) -> u64| {
            let of_upstream = |upstream: &Upstream| {
                let point = |e: &Endpoint| self.number(value(&e.stats), of_endpoint(upstream, e));
                upstream.endpoints().iter().map(|endpoint| point(endpoint)).collect::<Vec<_>>()
            };
            workload.upstreams.iter().flat_map(|upstream| of_upstream(upstream)).collect::<Vec<_>>()
        };
        let count = |name, unit, description, counter: fn(&EndpointStats) -> &AtomicU64| {
            metric(name, unit, description, cumulative(of_all(&|stats| counter(stats).load(Relaxed))))
        };
        // the state is the convention's: an open connection is idle or used
        let state = |state, value: fn(&EndpointStats) -> u32| {
            let mut points = of_all(&|stats| u64::from(value(stats)));
            points.iter_mut().for_each(|point| point.attributes.push(text("http.connection.state", state)));
            points
        };
        let idle = state("idle", |stats| stats.idle.load(Relaxed));
        let active = state("active", |stats| stats.open.load(Relaxed).saturating_sub(stats.idle.load(Relaxed)));
        let connections = Data::Gauge(Gauge { data_points: [idle, active].concat() });
        [
            metric("http.client.open_connections", "{connection}", "connections to endpoints now", connections),
            count("weir.proxy.endpoint.requests", "{request}", "calls that ended", |stats| &stats.requests),
            count("weir.proxy.endpoint.failures", "{request}", "calls that failed", |stats| &stats.failures),
            count("weir.proxy.endpoint.connects", "{connection}", "connections opened", |stats| &stats.connects),
            count("weir.proxy.endpoint.resets", "{connection}", "connections closed early", |stats| &stats.resets),
        ]
    }

    /// The GenAI metrics: one metric a name, with a point for each series that has seen anything.
    fn gen_ai(self, workload: &Workload) -> Vec<Metric> {
        let all = workload.lm_stats.series();
        let empty = Series::default();
        let metric_of = |name: &'static str, unit, description| {
            let points = all.iter().flat_map(|(key, series)| {
                let same = series.named().into_iter().filter(move |named| named.0 == name);
                let seen = same.filter(|named| named.4.buckets.iter().any(|n| *n > 0));
                seen.map(move |(.., token_type, histogram)| {
                    let mut attributes = vec![
                        text("weir.route", &key.route),
                        text("gen_ai.operation.name", key.operation),
                        text("gen_ai.response.model", &key.model),
                    ];
                    attributes.extend(token_type.map(|kind| text("gen_ai.token.type", kind)));
                    self.distribution(attributes, histogram.buckets.clone(), histogram.sum, histogram.bounds)
                })
            });
            metric(name, unit, description, histogram(points.collect()))
        };
        let mut metrics: Vec<Metric> = Vec::new();
        for (name, unit, description, ..) in empty.named() {
            if metrics.last().is_none_or(|last| last.name != name) && !all.is_empty() {
                metrics.push(metric_of(name, unit, description));
            }
        }
        metrics
    }

    fn queue_waits(self, direction: Direction, routes: &[&Route]) -> Metric {
        let points = routes.iter().map(|route| {
            let sum_s = route.stats.queue_wait_ns.load(Relaxed) as f64 / 1e9;
            self.distribution(of_route(direction, route), route.stats.wait_buckets(), sum_s, &WAIT_BOUNDS_S)
        });
        metric(
            "weir.proxy.queue_wait",
            "s",
            "waits of requests that had to wait for a place",
            histogram(points.collect()),
        )
    }

    fn distribution(
        self,
        attributes: Vec<KeyValue>,
        bucket_counts: Vec<u64>,
        sum: f64,
        bounds: &[f64],
    ) -> HistogramDataPoint {
        HistogramDataPoint {
            attributes,
            start_time_unix_nano: self.start_unix_nano,
            time_unix_nano: self.now_unix_nano,
            count: bucket_counts.iter().sum(),
            sum: Some(sum),
            bucket_counts,
            explicit_bounds: bounds.to_vec(),
            ..HistogramDataPoint::default()
        }
    }

    fn durations(self, direction: Direction, routes: &[&Route]) -> Metric {
        let points = routes.iter().map(|route| {
            let sum_s = route.stats.duration_ns.load(Relaxed) as f64 / 1e9;
            self.distribution(of_route(direction, route), route.stats.buckets(), sum_s, &BOUNDS_S)
        });
        let data = histogram(points.collect());
        let name = match direction {
            Direction::Inbound => "http.server.request.duration",
            Direction::Outbound => "http.client.request.duration",
        };
        metric(name, "s", "duration of requests, queueing in the proxy included", data)
    }
}

fn histogram(data_points: Vec<HistogramDataPoint>) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Data::Histogram(Histogram { data_points, aggregation_temporality })
}

fn cumulative(data_points: Vec<NumberDataPoint>) -> Data {
    let aggregation_temporality = AggregationTemporality::Cumulative.into();
    Data::Sum(Sum { data_points, aggregation_temporality, is_monotonic: true })
}

fn metric(name: &str, unit: &str, description: &str, data: Data) -> Metric {
    let (name, unit, description) = (name.to_owned(), unit.to_owned(), description.to_owned());
    Metric { name, unit, description, data: Some(data), ..Metric::default() }
}

fn of_endpoint(upstream: &Upstream, endpoint: &Endpoint) -> Vec<KeyValue> {
    vec![text("weir.upstream", &upstream.name), text("server.address", endpoint.address())]
}

fn of_route(direction: Direction, route: &Route) -> Vec<KeyValue> {
    vec![text("weir.direction", direction.as_str()), text("weir.route", &route.name)]
}
