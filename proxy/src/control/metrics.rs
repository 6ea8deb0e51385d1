//! `/metrics`: everything that is counted, as Prometheus text (exposition format 0.0.4).

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{
    regulate::Refusal,
    routing::Route,
    telemetry::{BOUNDS_S, WAIT_BOUNDS_S},
    upstream::{Endpoint, Upstream},
    workload::Workload,
};

/// Names and values of one sample's labels.
type Labels<'a> = &'a [(&'a str, &'a str)];

/// The text so far.
struct Exposition {
    text: String,
}

/// All metrics as they stand.
pub(crate) fn metrics(workload: &Workload) -> String {
    let mut out = Exposition { text: String::with_capacity(16 * 1024) };
    own(workload, &mut out);
    refused(workload, &mut out);
    routes(workload, &mut out);
    upstreams(workload, &mut out);
    models(workload, &mut out);
    workload.security.write_metrics(&mut out.text);
    out.text
}

fn own(workload: &Workload, out: &mut Exposition) {
    let counters = workload.tally.read();
    let (in_flight, queued) = workload.gate.load();
    for (name, kind, help, value) in [
        ("requests_total", "counter", "Requests that came in.", counters.requests),
        ("shed_total", "counter", "Requests that limits or breakers turned away.", counters.shed),
        ("retries_total", "counter", "Attempts beside the first.", counters.retries),
        (
            "retries_refused_total",
            "counter",
            "Retries that a budget or a breaker did not allow.",
            counters.retries_refused,
        ),
        ("mirrored_total", "counter", "Copies of requests that a mirror answered.", counters.mirrored),
        ("mirrors_dropped_total", "counter", "Copies not sent or not answered.", counters.mirrors_dropped),
        ("spans_recorded_total", "counter", "Spans to be exported.", counters.spans_recorded),
        ("spans_sent_total", "counter", "Spans the collector acknowledged.", counters.spans_sent),
        ("spans_rejected_total", "counter", "Spans the collector refused.", counters.spans_rejected),
        ("spans_dropped_total", "counter", "Spans given up.", counters.spans_dropped),
        ("logs_sent_total", "counter", "Access logs the collector acknowledged.", counters.logs_sent),
        ("logs_dropped_total", "counter", "Access logs given up.", counters.logs_dropped),
        ("log_lines_written_total", "counter", "Lines of the access log written.", counters.log_lines_written),
        ("log_lines_dropped_total", "counter", "Lines of the access log given up.", counters.log_lines_dropped),
        ("policies_applied_total", "counter", "Policy sets applied.", counters.policies_applied),
        ("policies_refused_total", "counter", "Policy sets refused whole.", counters.policies_refused),
        ("slow_clients_total", "counter", "Clients cut off for slowness.", counters.slow_clients),
        (
            "connections_refused_total",
            "counter",
            "Connections closed because as many were open as may be.",
            counters.connections_refused,
        ),
        ("tunnels_total", "counter", "Connections passed on unread.", counters.tunnels),
        ("policy_sequence", "gauge", "The policy in force.", workload.applied.load().sequence),
        ("in_flight", "gauge", "Requests admitted to the service now.", u64::from(in_flight)),
        ("queued", "gauge", "Requests that wait for a place now.", u64::from(queued)),
        ("expected_wait_ns", "gauge", "How long one who came now would wait.", workload.expected_wait_ns()),
        ("local_limit", "gauge", "What the local limiter allows; 0 for no limit.", workload.local_limit()),
    ] {
        let name = format!("weir_proxy_{name}");
        out.family(&name, kind, help);
        out.sample(&name, &[], value as f64);
    }
}

fn refused(workload: &Workload, out: &mut Exposition) {
    let name = "weir_proxy_refused_requests_total";
    out.family(name, "counter", "Requests and connections not read to the end, by what they were like.");
    for (violation, count) in workload.tally.refused() {
        out.sample(name, &[("reason", violation.as_str())], count as f64);
    }
}

fn routes(workload: &Workload, out: &mut Exposition) {
    let labels = |route: &'_ Route| [("direction", route.direction.as_str().to_owned()), ("route", route.name.clone())];
    let name = "weir_proxy_responses_total";
    out.family(name, "counter", "Answers by route and class of status; class 0 had none.");
    for route in workload.routes() {
        for (class, count) in route.stats.by_class.iter().enumerate() {
            let [direction, route] = labels(route);
            let class = class.to_string();
            out.sample(name, &[(direction.0, &direction.1), (route.0, &route.1), ("class", &class)], count_of(count));
        }
    }
    let name = "weir_proxy_route_shed_total";
    out.family(name, "counter", "Requests turned away, by route and reason.");
    for route in workload.routes() {
        for (reason, count) in Refusal::REASONS.iter().zip(&route.stats.shed) {
            let [direction, route] = labels(route);
            out.sample(name, &[(direction.0, &direction.1), (route.0, &route.1), ("reason", reason)], count_of(count));
        }
    }
    for (name, help) in [("in_flight", "Requests admitted to the route now."), ("queued", "Requests that wait now.")] {
        let full = format!("weir_proxy_route_{name}");
        out.family(&full, "gauge", help);
        for route in workload.routes() {
            let (in_flight, queued) = route.gate.load();
            let value = if name == "queued" { queued } else { in_flight };
            let [direction, route] = labels(route);
            out.sample(&full, &[(direction.0, &direction.1), (route.0, &route.1)], f64::from(value));
        }
    }
    let name = "weir_proxy_request_duration_seconds";
    out.family(name, "histogram", "Durations of requests, waiting included.");
    for route in workload.routes() {
        let sum = route.stats.duration_ns.load(Relaxed) as f64 / 1e9;
        let [direction, label] = labels(route);
        let labels = [(direction.0, direction.1.as_str()), (label.0, label.1.as_str())];
        out.histogram(name, &labels, &BOUNDS_S, &route.stats.buckets(), sum);
    }
    let name = "weir_proxy_queue_wait_seconds";
    out.family(name, "histogram", "Waits of requests that had to wait for a place.");
    for route in workload.routes() {
        let sum = route.stats.queue_wait_ns.load(Relaxed) as f64 / 1e9;
        let [direction, label] = labels(route);
        let labels = [(direction.0, direction.1.as_str()), (label.0, label.1.as_str())];
        out.histogram(name, &labels, &WAIT_BOUNDS_S, &route.stats.wait_buckets(), sum);
    }
}

/// Name, kind, help and value of a sample of each endpoint.
type OfEndpoint = (&'static str, &'static str, &'static str, fn(&Endpoint) -> f64);

fn upstreams(workload: &Workload, out: &mut Exposition) {
    let name = "weir_proxy_breaker_shed_ratio";
    out.family(name, "gauge", "The share of calls that the breaker sheds.");
    let now = Instant::now();
    for Upstream { name: upstream, circuit, .. } in workload.upstreams.iter().map(AsRef::as_ref) {
        out.sample(name, &[("upstream", upstream)], circuit.shed_probability(now));
    }
    let samples: [OfEndpoint; 9] = [
        ("requests_total", "counter", "Calls that an endpoint answered or failed.", |e| count_of(&e.stats.requests)),
        ("failures_total", "counter", "Calls that failed or were answered with a 5xx.", |e| {
            count_of(&e.stats.failures)
        }),
        ("latency_seconds_total", "counter", "Seconds to the heads of answers, summed.", |e| {
            count_of(&e.stats.latency_ns) / 1e9
        }),
        ("in_flight", "gauge", "Calls under way.", |e| f64::from(e.in_flight.load(Relaxed))),
        ("connects_total", "counter", "Connections opened.", |e| count_of(&e.stats.connects)),
        ("connect_failures_total", "counter", "Connections that could not be opened.", |e| {
            count_of(&e.stats.connect_failures)
        }),
        ("resets_total", "counter", "Connections closed before the answer came.", |e| count_of(&e.stats.resets)),
        ("connections_open", "gauge", "Connections open now.", |e| f64::from(e.stats.open.load(Relaxed))),
        ("connections_idle", "gauge", "Connections kept that no request uses.", |e| {
            f64::from(e.stats.idle.load(Relaxed))
        }),
    ];
    for (name, kind, help, value) in samples {
        let name = format!("weir_proxy_endpoint_{name}");
        out.family(&name, kind, help);
        for upstream in &workload.upstreams {
            for endpoint in upstream.endpoints() {
                let labels = [("upstream", upstream.name.as_str()), ("endpoint", endpoint.address())];
                out.sample(&name, &labels, value(&endpoint));
            }
        }
    }
}

fn models(workload: &Workload, out: &mut Exposition) {
    let all = workload.lm_stats.series();
    let mut last = "";
    for place in 0..4 {
        for (key, series) in &all {
            let (name, unit, help, token_type, histogram) = series.named()[place];
            let full = name.replace('.', "_") + if unit == "s" { "_seconds" } else { "" };
            if name != last {
                out.family(&full, "histogram", help);
                last = name;
            }
            let mut labels = vec![
                ("route", key.route.as_str()),
                ("gen_ai_operation_name", key.operation),
                ("gen_ai_response_model", key.model.as_str()),
            ];
            labels.extend(token_type.map(|kind| ("gen_ai_token_type", kind)));
            out.histogram(&full, &labels, histogram.bounds, &histogram.buckets, histogram.sum);
        }
    }
}

fn count_of(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

// writing to a String cannot fail
impl Exposition {
    fn family(&mut self, name: &str, kind: &str, help: &str) {
        let _ = writeln!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}");
    }

    fn sample(&mut self, name: &str, labels: Labels<'_>, value: f64) {
        self.text.push_str(name);
        for (place, (label, value)) in labels.iter().enumerate() {
            let _ = write!(self.text, "{}{label}=\"", if place == 0 { '{' } else { ',' });
            escape(&mut self.text, value);
            self.text.push('"');
        }
        let _ = writeln!(self.text, "{} {value}", if labels.is_empty() { "" } else { "}" });
    }

    fn histogram(&mut self, name: &str, labels: Labels<'_>, bounds: &[f64], buckets: &[u64], sum: f64) {
        let (bucket, mut below) = (format!("{name}_bucket"), 0);
        let bounds = bounds.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(buckets) {
            below += count;
            let mut labels = labels.to_vec();
            labels.push(("le", &bound));
            self.sample(&bucket, &labels, below as f64);
        }
        self.sample(&format!("{name}_sum"), labels, sum);
        self.sample(&format!("{name}_count"), labels, below as f64);
    }
}

fn escape(to: &mut String, value: &str) {
    for c in value.chars() {
        match c {
            '\\' => to.push_str("\\\\"),
            '"' => to.push_str("\\\""),
            '\n' => to.push_str("\\n"),
            c => to.push(c),
        }
    }
}
