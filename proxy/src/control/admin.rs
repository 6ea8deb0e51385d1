//! The admin address: `/metrics`, `/policy`, `/config`, `/healthz`, and `POST /drain`.

use std::{
    convert::Infallible,
    fmt::Write,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header::CONTENT_TYPE};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpListener, task::JoinSet, time::Instant};
use tokio_util::sync::CancellationToken;
use tracing::warn;

use crate::{
    reload::Status,
    telemetry::BOUNDS_S,
    workload::{Current, Workload},
};

/// Scrapers and people; more at once are closed.
const MAX_CONNECTIONS: usize = 64;

/// What is told of the proxy, and what can be begun.
#[derive(Clone)]
pub(crate) struct Admin {
    pub(crate) current: Current,
    pub(crate) status: Arc<ArcSwap<Status>>,
    /// What `POST /drain` begins.
    pub(crate) drain: CancellationToken,
}

/// Answers until `stop`.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                let admin = admin.clone();
                let service = service_fn(move |request| {
                    let response = answer(&request, &admin);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new());
                connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
            Ok((stream, _)) => drop(stream),
            Err(error) => warn!(%error, "the admin address cannot accept"),
        }
    }
}

fn answer(request: &Request<Incoming>, admin: &Admin) -> Response<Full<Bytes>> {
    let (workload, drain) = (admin.current.load(), &admin.drain);
    const TEXT: &str = "text/plain; charset=utf-8";
    match (request.method(), request.uri().path()) {
        (&Method::GET, "/metrics") => {
            respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics(&workload))
        }
        (&Method::GET, "/policy") => {
            let json = serde_json::to_string_pretty(&**workload.applied.load()).unwrap_or_default();
            respond(StatusCode::OK, "application/json", json)
        }
        (&Method::GET, "/config") => {
            let json = serde_json::to_string_pretty(&**admin.status.load()).unwrap_or_default();
            respond(StatusCode::OK, "application/json", json)
        }
        (&Method::GET, "/healthz") if drain.is_cancelled() => {
            respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".to_owned())
        }
        (&Method::GET, "/healthz") => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
        (&Method::POST, "/drain") => {
            drain.cancel();
            respond(StatusCode::ACCEPTED, TEXT, "draining\n".to_owned())
        }
        (_, "/drain") => respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "drain with POST\n".to_owned()),
        _ => respond(
            StatusCode::NOT_FOUND,
            TEXT,
            "there is /metrics, /policy, /config, /healthz and POST /drain\n".to_owned(),
        ),
    }
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, http::HeaderValue::from_static(content_type));
    response
}

/// Prometheus text.
fn metrics(workload: &Workload) -> String {
    let mut text = String::new();
    let counters = workload.tally.read();
    let (in_flight, queued) = workload.gate.load();
    for (name, kind, value) in [
        ("requests_total", "counter", counters.requests),
        ("shed_total", "counter", counters.shed),
        ("spans_recorded_total", "counter", counters.spans_recorded),
        ("spans_sent_total", "counter", counters.spans_sent),
        ("spans_rejected_total", "counter", counters.spans_rejected),
        ("spans_dropped_total", "counter", counters.spans_dropped),
        ("logs_sent_total", "counter", counters.logs_sent),
        ("logs_dropped_total", "counter", counters.logs_dropped),
        ("policies_applied_total", "counter", counters.policies_applied),
        ("policies_refused_total", "counter", counters.policies_refused),
        ("slow_clients_total", "counter", counters.slow_clients),
        ("connections_refused_total", "counter", counters.connections_refused),
        ("tunnels_total", "counter", counters.tunnels),
        ("policy_sequence", "gauge", workload.applied.load().sequence),
        ("in_flight", "gauge", u64::from(in_flight)),
        ("queued", "gauge", queued as u64),
    ] {
        // writing to a String cannot fail
        let _ = writeln!(text, "# TYPE weir_proxy_{name} {kind}\nweir_proxy_{name} {value}");
    }
    let _ = writeln!(text, "# TYPE weir_proxy_refused_requests_total counter");
    for (violation, count) in workload.tally.refused() {
        let _ = writeln!(text, "weir_proxy_refused_requests_total{{reason={:?}}} {count}", violation.as_str());
    }
    breakers(workload, &mut text);
    durations(workload, &mut text);
    text
}

fn breakers(workload: &Workload, text: &mut String) {
    let now = Instant::now();
    let _ = writeln!(text, "# TYPE weir_proxy_breaker_shed_ratio gauge");
    for upstream in &workload.upstreams {
        let shed = upstream.circuit.shed_probability(now);
        let _ = writeln!(text, "weir_proxy_breaker_shed_ratio{{upstream={:?}}} {shed}", upstream.name);
    }
}

fn durations(workload: &Workload, text: &mut String) {
    let _ = writeln!(text, "# TYPE weir_proxy_request_duration_seconds histogram");
    for route in workload.routes() {
        let labels = format!("route={:?},direction={:?}", route.name, route.direction.as_str());
        let name = "weir_proxy_request_duration_seconds";
        let mut below = 0;
        let bounds = BOUNDS_S.iter().map(f64::to_string).chain(["+Inf".to_owned()]);
        for (bound, count) in bounds.zip(route.stats.buckets()) {
            below += count;
            let _ = writeln!(text, "{name}_bucket{{{labels},le=\"{bound}\"}} {below}");
        }
        let sum = route.stats.duration_ns.load(Relaxed) as f64 / 1e9;
        let _ = writeln!(text, "{name}_sum{{{labels}}} {sum}\n{name}_count{{{labels}}} {below}");
    }
}
