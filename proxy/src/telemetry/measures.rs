//! Counts → OTLP metrics: what `/metrics` shows as text, for who collects instead of scrapes.
//!
//! Everything is cumulative since the start, so an export that is lost is made good by the next.

use std::sync::{Arc, atomic::Ordering::Relaxed};

use opentelemetry_proto::tonic::{
    collector::metrics::v1::ExportMetricsServiceRequest,
    common::v1::KeyValue,
    metrics::v1::{
        AggregationTemporality, Gauge, Histogram, HistogramDataPoint, Metric, NumberDataPoint, ResourceMetrics,
        ScopeMetrics, Sum, metric::Data, number_data_point,
    },
};

use crate::{
    authority::split_port,
    config::Direction,
    connection::Violation,
    routing::Route,
    telemetry::{
        BOUNDS_S, ENDPOINT, Entry, LmMetric, OWN, SECURITY, WAIT_BOUNDS_S,
        catalog::Kind,
        durations::Key,
        encode::{flag, int, resource, scope, text},
    },
    upstream::{Endpoint, EndpointStats, Upstream},
    workload::Workload,
};

/// Told apart by route.
const SHED: &str = "weir.proxy.shed";

/// Every metric as it stands; `start` is when the proxy started.
pub(crate) fn metrics(workload: &Workload, start_unix_nano: u64, now_unix_nano: u64) -> ExportMetricsServiceRequest {
    let at = At { start_unix_nano, now_unix_nano };
    // by route below
    let own = OWN.iter().filter(|entry| entry.otlp() != SHED);
    let mut metrics: Vec<Metric> = own.map(|entry| at.entry(entry, workload)).collect();
    metrics.push(at.refused(workload));
    metrics.extend(at.dropped(workload));
    for direction in [Direction::Inbound, Direction::Outbound] {
        let routes: Vec<&Route> =
            workload.counted_routes().map(AsRef::as_ref).filter(|r| r.direction == direction).collect();
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
    fn number(self, value: number_data_point::Value, attributes: Vec<KeyValue>) -> NumberDataPoint {
        NumberDataPoint {
            attributes,
            start_time_unix_nano: self.start_unix_nano,
            time_unix_nano: self.now_unix_nano,
            value: Some(value),
            ..NumberDataPoint::default()
        }
    }

    fn count(self, value: u64, attributes: Vec<KeyValue>) -> NumberDataPoint {
        self.number(number_data_point::Value::AsInt(i64::try_from(value).unwrap_or(i64::MAX)), attributes)
    }

    /// A metric of one point.
    fn entry<Of>(self, entry: &Entry<Of>, of: &Of) -> Metric {
        of_points(entry, vec![self.point(entry, of, Vec::new())])
    }

    fn point<Of>(self, entry: &Entry<Of>, of: &Of, attributes: Vec<KeyValue>) -> NumberDataPoint {
        let value = (entry.value)(of);
        // what is counted is whole, what is timed is not
        let value = match entry.unit {
            "s" => number_data_point::Value::AsDouble(value),
            _ => number_data_point::Value::AsInt(value as i64),
        };
        self.number(value, attributes)
    }

    fn gauge(self, name: &str, unit: &str, description: &str, value: u64) -> Metric {
        let data = Data::Gauge(Gauge { data_points: vec![self.count(value, Vec::new())] });
        metric(name, unit, description, data)
    }

    fn refused(self, workload: &Workload) -> Metric {
        let of = |violation: Violation| vec![text("weir.reason", violation.as_str())];
        let points = workload.tally.refused().map(|(violation, count)| self.count(count, of(violation)));
        let says = "requests and connections not read to the end, by what they were like";
        metric("weir.proxy.refused_requests", "{request}", says, cumulative(points.collect()))
    }

    fn dropped(self, workload: &Workload) -> [Metric; 2] {
        let families = [
            ("weir.proxy.dropped_spans", "{span}", "spans that did not reach the collector, by why"),
            ("weir.proxy.dropped_logs", "{record}", "access logs that did not reach the collector, by why"),
        ];
        let mut place = 0..families.len();
        families.map(|(name, unit, says)| {
            let place = place.next().unwrap_or_default();
            let lost = workload.tally.lost();
            let points = lost.map(|(why, counts)| self.count(counts[place], vec![text("weir.reason", why.as_str())]));
            metric(name, unit, says, cumulative(points.collect()))
        })
    }

    fn shed(self, direction: Direction, routes: &[&Route]) -> Metric {
        let points = routes.iter().map(|r| self.count(r.stats.shed_count(), of_route(direction, r)));
        metric(SHED, "{request}", "requests that policy turned away", cumulative(points.collect()))
    }

    /// What became of handshakes, tokens and rules, where there are any.
    fn security(self, workload: &Workload) -> Vec<Metric> {
        if !workload.security.is_asked_for() {
            return Vec::new();
        }
        let security = &workload.security;
        let mut metrics: Vec<Metric> = SECURITY.iter().map(|entry| self.entry(entry, security)).collect();
        if let Some(at_unix_s) = security.first_expiry_unix_s().and_then(|at| u64::try_from(at).ok()) {
            let says = "when the first certificate in use ends, since the Unix epoch";
            metrics.push(self.gauge("weir.proxy.certificate_expiry", "s", says, at_unix_s));
        }
        metrics
    }

    /// RED and connections of every endpoint.
    fn endpoints(self, workload: &Workload) -> Vec<Metric> {
        let each = |entry: &Entry<Endpoint>| {
            let point = |upstream: &Upstream, e: &Endpoint| self.point(entry, e, of_endpoint(upstream, e));
            of_points(entry, of_all(workload, &point))
        };
        let mut metrics: Vec<Metric> = ENDPOINT.iter().map(each).collect();
        metrics.push(self.open_connections(workload));
        metrics
    }

    /// In the convention's words: an open connection is idle or used.
    fn open_connections(self, workload: &Workload) -> Metric {
        let state = |state, value: fn(&EndpointStats) -> u32| {
            let point = |upstream: &Upstream, endpoint: &Endpoint| {
                let mut attributes = of_endpoint(upstream, endpoint);
                attributes.push(text("http.connection.state", state));
                self.count(u64::from(value(&endpoint.stats)), attributes)
            };
            of_all(workload, &point)
        };
        let idle = state("idle", |stats| stats.idle.load(Relaxed));
        let active = state("active", |stats| stats.open.load(Relaxed).saturating_sub(stats.idle.load(Relaxed)));
        let data = Data::Gauge(Gauge { data_points: [idle, active].concat() });
        metric("http.client.open_connections", "{connection}", "connections to endpoints now", data)
    }

    /// The GenAI metrics: a point for each series that has seen anything.
    fn gen_ai(self, workload: &Workload) -> Vec<Metric> {
        let all = workload.lm_stats.series();
        let metric_of = |of: LmMetric| {
            let points = all.iter().flat_map(|(key, series)| {
                let told = series.of(of).into_iter();
                told.map(|(attribute, seen)| {
                    let attributes = key.attributes().chain(attribute).map(|(key, value)| text(key, value)).collect();
                    self.distribution(attributes, seen.buckets.clone(), seen.sum, seen.bounds)
                })
            });
            let (points, [name, unit, says]) = (points.collect::<Vec<_>>(), of.about());
            (!points.is_empty()).then(|| metric(name, unit, says, histogram(points)))
        };
        LmMetric::ALL.into_iter().filter_map(metric_of).collect()
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
        let points = routes.iter().flat_map(|route| {
            let about = about(direction, route);
            // bytes that passed unread are no request of HTTP
            let series =
                route.stats.durations.series().filter(|series| series.key.is_none_or(|key| key.method.is_some()));
            series.map(move |series| {
                let mut attributes = about.clone();
                of_key(series.key, &mut attributes);
                self.distribution(attributes, series.buckets(), series.sum_s(), &BOUNDS_S)
            })
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

fn of_points<Of>(entry: &Entry<Of>, data_points: Vec<NumberDataPoint>) -> Metric {
    let data = match entry.kind {
        Kind::Counter => cumulative(data_points),
        Kind::Gauge => Data::Gauge(Gauge { data_points }),
    };
    metric(&entry.otlp(), entry.unit, entry.says, data)
}

/// A point for each endpoint of each upstream.
fn of_all(workload: &Workload, point: &dyn Fn(&Upstream, &Endpoint) -> NumberDataPoint) -> Vec<NumberDataPoint> {
    let of_upstream = |upstream: &Arc<Upstream>| {
        upstream.endpoints().iter().map(|endpoint| point(upstream, endpoint)).collect::<Vec<_>>()
    };
    workload.upstreams.iter().flat_map(of_upstream).collect()
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

/// Of a route, and whom it calls, where that is one service; its port, where its endpoints have one.
fn about(direction: Direction, route: &Route) -> Vec<KeyValue> {
    let mut attributes = of_route(direction, route);
    let Some(upstreams) = route.upstreams().filter(|_| direction == Direction::Outbound) else { return attributes };
    let mut services: Vec<&str> = upstreams.clone().map(|upstream| upstream.service.as_str()).collect();
    services.dedup();
    if let [service] = services[..] {
        attributes.push(text("server.address", service));
        let endpoints = upstreams.flat_map(|upstream| upstream.endpoints());
        let mut ports: Vec<_> = endpoints.map(|endpoint| split_port(endpoint.address()).1).collect();
        ports.dedup();
        if let [Some(port)] = ports[..] {
            attributes.push(int("server.port", port.into()));
        }
    }
    attributes
}

/// Adds what tells a series from others of its route.
fn of_key(key: Option<Key>, to: &mut Vec<KeyValue>) {
    let Some(Key { method, secure, status, reason, failed }) = key else {
        return to.push(flag("otel.metric.overflow"));
    };
    to.extend(method.map(|method| text("http.request.method", method)));
    to.push(text("url.scheme", if secure { "https" } else { "http" }));
    if status > 0 {
        to.push(int("http.response.status_code", status.into()));
    }
    match reason {
        Some(reason) => to.push(text("error.type", reason)),
        None if failed => to.push(text("error.type", &status.to_string())),
        None => {}
    }
}
