//! `/metrics`: everything that is counted, as Prometheus text (exposition format 0.0.4).

use std::{
    fmt::Write,
    sync::atomic::{AtomicU64, Ordering::Relaxed},
};

use tokio::time::Instant;

use crate::{
    regulate::Refusal,
    routing::Route,
    security::Security,
    telemetry::{BOUNDS_S, ENDPOINT, Entry, LmMetric, OWN, SECURITY, WAIT_BOUNDS_S},
    upstream::Upstream,
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
    dropped(workload, &mut out);
    routes(workload, &mut out);
    upstreams(workload, &mut out);
    models(workload, &mut out);
    security(&workload.security, &mut out);
    out.text
}

fn own(workload: &Workload, out: &mut Exposition) {
    OWN.iter().for_each(|entry| out.entry(entry, workload));
}

/// Of handshakes, tokens and rules, where the configuration has any of them.
fn security(security: &Security, out: &mut Exposition) {
    if !security.is_asked_for() {
        return;
    }
    SECURITY.iter().for_each(|entry| out.entry(entry, security));
    let name = "weir_proxy_certificate_expiry_timestamp_seconds";
    out.family(name, "gauge", "when the certificate in use ends, since the Unix epoch");
    for (key, ends) in security.expiries() {
        out.sample(name, &[("key", key)], ends as f64);
    }
}

fn refused(workload: &Workload, out: &mut Exposition) {
    let name = "weir_proxy_refused_requests_total";
    out.family(name, "counter", "requests and connections not read to the end, by what they were like");
    for (violation, count) in workload.tally.refused() {
        out.sample(name, &[("reason", violation.as_str())], count as f64);
    }
}

fn dropped(workload: &Workload, out: &mut Exposition) {
    let families = [
        ("weir_proxy_dropped_spans_total", "spans that did not reach the collector, by why"),
        ("weir_proxy_dropped_logs_total", "access logs that did not reach the collector, by why"),
    ];
    for (place, (name, help)) in families.into_iter().enumerate() {
        out.family(name, "counter", help);
        for (why, counts) in workload.tally.lost() {
            out.sample(name, &[("reason", why.as_str())], counts[place] as f64);
        }
    }
}

fn routes(workload: &Workload, out: &mut Exposition) {
    let labels = |route: &'_ Route| [("direction", route.direction.as_str().to_owned()), ("route", route.name.clone())];
    let name = "weir_proxy_responses_total";
    out.family(name, "counter", "answers by route and class of status; class 0 had none");
    for route in workload.counted_routes() {
        for (class, count) in route.stats.by_class.iter().enumerate() {
            let [direction, route] = labels(route);
            let class = class.to_string();
            out.sample(name, &[(direction.0, &direction.1), (route.0, &route.1), ("class", &class)], count_of(count));
        }
    }
    let name = "weir_proxy_route_shed_total";
    out.family(name, "counter", "requests turned away, by route and reason");
    for route in workload.counted_routes() {
        for (reason, count) in Refusal::REASONS.iter().zip(&route.stats.shed) {
            let [direction, route] = labels(route);
            out.sample(name, &[(direction.0, &direction.1), (route.0, &route.1), ("reason", reason)], count_of(count));
        }
    }
    for (name, help) in [("in_flight", "requests admitted to the route now"), ("queued", "requests that wait now")] {
        let full = format!("weir_proxy_route_{name}");
        out.family(&full, "gauge", help);
        for route in workload.counted_routes() {
            let (in_flight, queued) = workload.load_of(route);
            let value = if name == "queued" { queued } else { in_flight };
            let [direction, route] = labels(route);
            out.sample(&full, &[(direction.0, &direction.1), (route.0, &route.1)], f64::from(value));
        }
    }
    let name = "weir_proxy_request_duration_seconds";
    out.family(name, "histogram", "durations of requests, waiting included");
    for route in workload.counted_routes() {
        let durations = &route.stats.durations;
        let [direction, label] = labels(route);
        let labels = [(direction.0, direction.1.as_str()), (label.0, label.1.as_str())];
        out.histogram(name, &labels, &BOUNDS_S, &durations.buckets(), durations.sum_s());
    }
    let name = "weir_proxy_queue_wait_seconds";
    out.family(name, "histogram", "waits of requests that had to wait for a place");
    for route in workload.counted_routes() {
        let sum = route.stats.queue_wait_ns.load(Relaxed) as f64 / 1e9;
        let [direction, label] = labels(route);
        let labels = [(direction.0, direction.1.as_str()), (label.0, label.1.as_str())];
        out.histogram(name, &labels, &WAIT_BOUNDS_S, &route.stats.wait_buckets(), sum);
    }
}

fn upstreams(workload: &Workload, out: &mut Exposition) {
    let name = "weir_proxy_breaker_shed_ratio";
    out.family(name, "gauge", "the share of calls that the breaker sheds");
    let now = Instant::now();
    for Upstream { name: upstream, circuit, .. } in workload.upstreams.iter().map(AsRef::as_ref) {
        out.sample(name, &[("upstream", upstream)], circuit.shed_probability(now));
    }
    let name = "weir_proxy_discovery_failing_seconds";
    out.family(name, "gauge", "how long the endpoints could not be looked up by now; 0 while they can");
    for upstream in workload.upstreams.iter().filter(|upstream| upstream.is_looked_for()) {
        let failing = upstream.failing_since.lock().map_or(0.0, |since| now.duration_since(since).as_secs_f64());
        out.sample(name, &[("upstream", &upstream.name)], failing);
    }
    for entry in ENDPOINT {
        let name = entry.prometheus();
        out.family(&name, entry.kind.as_str(), entry.says);
        for upstream in &workload.upstreams {
            for endpoint in upstream.endpoints() {
                let labels = [("upstream", upstream.name.as_str()), ("endpoint", endpoint.address())];
                out.sample(&name, &labels, (entry.value)(&endpoint));
            }
        }
    }
}

fn models(workload: &Workload, out: &mut Exposition) {
    let all = workload.lm_stats.series();
    for metric in LmMetric::ALL {
        let [name, unit, help] = metric.about();
        let name = name.replace('.', "_") + if unit == "s" { "_seconds" } else { "" };
        let told: Vec<_> =
            all.iter().flat_map(|(key, series)| series.of(metric).into_iter().map(move |told| (key, told))).collect();
        if !told.is_empty() {
            out.family(&name, "histogram", help);
        }
        for (key, (attribute, seen)) in told {
            let label = |key: &str| key.trim_start_matches("weir.").replace('.', "_");
            let labels: Vec<_> = key.attributes().chain(attribute).map(|(key, value)| (label(key), value)).collect();
            let labels: Vec<_> = labels.iter().map(|(label, value)| (label.as_str(), *value)).collect();
            out.histogram(&name, &labels, seen.bounds, &seen.buckets, seen.sum);
        }
    }
}

fn count_of(counter: &AtomicU64) -> f64 {
    counter.load(Relaxed) as f64
}

// writing to a String cannot fail
impl Exposition {
    /// A family of one sample.
    fn entry<Of>(&mut self, entry: &Entry<Of>, of: &Of) {
        let name = entry.prometheus();
        self.family(&name, entry.kind.as_str(), entry.says);
        self.sample(&name, &[], (entry.value)(of));
    }

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
