//! Timeouts, retries and mirrors in whole flows: what goes out again, how often, and what never does.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod mirrors;
#[path = "../support/mod.rs"]
mod support;
mod timeouts;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::SeqCst},
    },
    time::Duration,
};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::{Request, State},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use futures::{StreamExt, stream};
use opentelemetry_proto::tonic::{
    collector::trace::v1::{
        ExportTraceServiceRequest, ExportTraceServiceResponse,
        trace_service_server::{TraceService, TraceServiceServer},
    },
    common::v1::any_value::Value,
    trace::v1::Span,
};
use parking_lot::Mutex;
use support::{admin, client, nobody, serve, start, until, url};
use tokio::{
    net::TcpListener,
    sync::{Notify, Semaphore},
    time::Instant,
};

/// What an application was sent: method, host and body.
type Seen = Arc<Mutex<Vec<(String, String, Bytes)>>>;

/// Fails the first `failures` requests with `status`, then echoes.
async fn flaky(failures: usize, status: u16, retry_after: Option<&'static str>) -> (SocketAddr, Seen) {
    let (seen, left) = (Seen::default(), Arc::new(AtomicUsize::new(failures)));
    let answer = async move |State((seen, left)): State<(Seen, Arc<AtomicUsize>)>, request: Request| -> Response {
        let (parts, body) = request.into_parts();
        let body = axum::body::to_bytes(body, 1 << 20).await.unwrap_or_default();
        let host =
            parts.headers.get("host").map_or_else(|| parts.uri.to_string(), |host| host.to_str().unwrap().into());
        seen.lock().push((parts.method.to_string(), host, body.clone()));
        if left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_err() {
            return body.into_response();
        }
        let mut response = StatusCode::from_u16(status).unwrap().into_response();
        if let Some(wait) = retry_after {
            response.headers_mut().insert("retry-after", wait.parse().unwrap());
        }
        response
    };
    let address = serve(Router::new().fallback(answer).with_state((seen.clone(), left))).await;
    (address, seen)
}

fn upstream(address: SocketAddr) -> String {
    format!("{{ name: app, endpoints: ['{address}'] }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn what_is_safe_goes_out_again_with_its_body() {
    for (retries, method, body_bytes, status, expected_attempts) in [
        ("{ on: [5xx] }", "PUT", 40_000, 200, 3),
        ("{ on: [5xx], attempts: 1 }", "PUT", 10, 503, 2),
        ("{ on: [gateway-error] }", "GET", 0, 200, 3),
        ("{ on: [5xx] }", "POST", 10, 503, 1),
        ("{ on: [5xx], non_idempotent: true }", "POST", 10, 200, 3),
        ("{ on: [5xx] }", "PUT", 100_000, 503, 1),
        ("{ on: [5xx], body_bytes: 200000 }", "PUT", 100_000, 200, 3),
        ("{ on: [reset] }", "PUT", 10, 503, 1),
        ("{ on: ['503'] }", "DELETE", 0, 200, 3),
    ] {
        let (address, seen) = flaky(2, 503, None).await;
        let proxy = start(&format!("{{ upstream: app, retries: {retries} }}"), &upstream(address), "");
        let body = vec![b'x'; body_bytes];
        let request = client().request(method.parse().unwrap(), url(&proxy, "/")).body(body.clone());
        let answer = request.send().await.unwrap();
        assert_eq!(answer.status(), status, "{retries} {method} {body_bytes}");
        let bodies: Vec<usize> = seen.lock().iter().map(|(_, _, body)| body.len()).collect();
        assert_eq!(bodies, vec![body_bytes; expected_attempts], "{retries} {method}");
        assert_eq!(proxy.drain().await.retries as usize, expected_attempts - 1);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_that_never_arrived_goes_elsewhere_whatever_it_is() {
    let (app, seen) = flaky(0, 503, None).await;
    let upstreams = format!("{{ name: app, balance: round_robin, endpoints: ['{}', '{app}'] }}", nobody().await);
    let proxy = start("{ upstream: app, retries: { on: [connect-failure] } }", &upstreams, "");
    for n in 0..20 {
        let answer = client().post(url(&proxy, "/")).body(vec![b'x'; 200_000]).send().await.unwrap();
        assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 200_000), "request {n}");
    }
    assert_eq!(seen.lock().len(), 20);
    assert_eq!(proxy.drain().await.retries, 10, "every second attempt went where nobody listens");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_try_may_be_short_and_the_whole_is_bounded() {
    let stalls = Arc::new(AtomicUsize::new(1));
    let answer = async |State(stalls): State<Arc<AtomicUsize>>, request: Request| {
        if request.uri().path() == "/never" || stalls.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() {
            std::future::pending::<()>().await;
        }
        "ok"
    };
    let address = serve(Router::new().fallback(answer).with_state(stalls)).await;
    let routes = "{ upstream: app, timeout_ms: 1000, retries: { on: [5xx], attempts: 50, per_try_timeout_ms: 100 } }";
    let proxy = start(routes, &upstream(address), "");
    let begun = Instant::now();
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap(), "ok");
    assert!(begun.elapsed() < Duration::from_secs(1), "the second try answered");
    let begun = Instant::now();
    let answer = client().get(url(&proxy, "/never")).send().await.unwrap();
    assert_eq!(
        (answer.status().as_u16(), answer.headers()["x-weir-reason"].to_str().unwrap()),
        (504, "upstream_timeout")
    );
    assert!(begun.elapsed() < Duration::from_secs(3), "no try goes out after the deadline");
    let retries = proxy.drain().await.retries;
    assert!((4..=11).contains(&retries), "{retries} retries of at least 100 ms in 1 s");
}

#[tokio::test(flavor = "multi_thread")]
async fn retry_after_is_honoured_or_the_answer_is_passed_on() {
    let (address, seen) = flaky(1, 503, Some("1")).await;
    let proxy = start("{ upstream: app, retries: { on: [5xx] } }", &upstream(address), "");
    let begun = Instant::now();
    assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 200);
    assert!(begun.elapsed() >= Duration::from_secs(1));
    assert_eq!(seen.lock().len(), 2);
    proxy.drain().await;

    let (address, seen) = flaky(1, 503, Some("60")).await;
    let proxy = start("{ upstream: app, timeout_ms: 5000, retries: { on: [5xx] } }", &upstream(address), "");
    let answer = client().get(url(&proxy, "/")).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["retry-after"].to_str().unwrap()), (503, "60"));
    assert_eq!(seen.lock().len(), 1);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_bounds_retries() {
    type Calls = Arc<(Semaphore, Mutex<Vec<String>>)>;
    let calls: Calls = Arc::new((Semaphore::new(0), Mutex::default()));
    let answer = async |State(calls): State<Calls>, request: Request| {
        let call = request.headers()["x-call"].to_str().unwrap().to_owned();
        let again = calls.1.lock().contains(&call);
        calls.1.lock().push(call);
        // what comes a second time stays, so that its place in the budget is taken
        if again {
            calls.0.acquire().await.unwrap().forget();
        }
        StatusCode::SERVICE_UNAVAILABLE
    };
    let address = serve(Router::new().fallback(answer).with_state(calls.clone())).await;
    let upstreams = format!(
        "{{ name: app, endpoints: ['{address}'], retry_budget: {{ budget_percent: 10, min_retry_concurrency: 2, max_retries: 4 }} }}"
    );
    let proxy = start("{ upstream: app, retries: { on: [5xx], attempts: 1 } }", &upstreams, "");
    let (client, url) = (client(), url(&proxy, "/"));
    let sent: Vec<_> = (0..40).map(|n| tokio::spawn(client.get(&url).header("x-call", n).send())).collect();
    let counters = || proxy.counters();
    until("every retry is decided", async || counters().retries + counters().retries_refused == 40).await;
    assert!((2..=4).contains(&counters().retries), "{:?}", counters());
    calls.0.add_permits(40);
    for call in sent {
        assert_eq!(call.await.unwrap().unwrap().status(), 503);
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, calls.1.lock().len() as u64), (40, 40 + counters.retries));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_answer_that_began_is_never_asked_for_again() {
    let (attempts, arrived) = (Arc::new(AtomicUsize::new(0)), Arc::new(Notify::new()));
    let answer = async |State((attempts, arrived)): State<(Arc<AtomicUsize>, Arc<Notify>)>, request: Request| {
        attempts.fetch_add(1, SeqCst);
        let first = stream::iter([Ok(Bytes::from_static(b"begun"))]);
        let breaks = stream::once(async move {
            arrived.notified().await;
            Err(std::io::Error::other("broken"))
        });
        match request.uri().path() {
            "/breaks" => Body::from_stream(first.chain(breaks)),
            _ => Body::from_stream(first.chain(stream::pending())),
        }
    };
    let address = serve(Router::new().fallback(answer).with_state((attempts.clone(), arrived.clone()))).await;
    let routes =
        "{ match: { path: /long }, upstream: app, max_stream_duration_ms: 300, retries: { on: [5xx, reset] } },
                  { upstream: app, idle_timeout_ms: 200, retries: { on: [5xx, reset] } }";
    let proxy = start(routes, &upstream(address), "");
    for path in ["/breaks", "/idle", "/long"] {
        let answer = client().get(url(&proxy, path)).send().await.unwrap();
        assert_eq!(answer.status(), 200, "{path}");
        arrived.notify_one();
        assert!(answer.bytes().await.is_err(), "{path}: the client must see that something is missing");
    }
    assert_eq!(attempts.load(SeqCst), 3);
    assert_eq!(proxy.drain().await.retries, 0);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_outlier_is_ejected_and_the_registry_says_so() {
    let ((good, _), (bad, asked)) = (flaky(0, 503, None).await, flaky(usize::MAX, 503, None).await);
    let upstreams = format!(
        "{{ name: app, balance: round_robin, endpoints: ['{good}', '{bad}'], outlier_detection: {{ consecutive_5xx: 3 }} }}"
    );
    let (proxy, client) = (start("{ upstream: app }", &upstreams, ""), client());
    let mut failed = 0;
    for _ in 0..100 {
        failed += usize::from(client.get(url(&proxy, "/")).send().await.unwrap().status() == 503);
    }
    assert_eq!((failed, asked.lock().len()), (3, 3), "three in a row, then none");
    let rows: serde_json::Value = serde_json::from_str(&admin(&proxy, "/endpoints").await).unwrap();
    let endpoints = rows[0]["endpoints"].as_array().unwrap();
    assert_eq!(rows[0]["source"], "static");
    assert_eq!([&endpoints[0]["healthy"], &endpoints[1]["healthy"]], [true, false]);
    assert!(endpoints[1]["ejected_ms"].as_u64().unwrap() > 20_000);
    proxy.drain().await;
}

/// An HTTP/2 server that refuses the first request of each connection's life, and answers the others.
async fn refusing() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut connection = h2::server::handshake(stream).await.unwrap();
                let mut first = true;
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    if std::mem::take(&mut first) {
                        respond.send_reset(h2::Reason::REFUSED_STREAM);
                    } else {
                        respond.send_response(http::Response::new(()), true).unwrap();
                    }
                }
            });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_stream_goes_out_again_even_if_it_is_a_post() {
    for (retries, expected) in [("retries: { on: [refused-stream] }", 200), ("retries: { on: [connect-failure] }", 502)]
    {
        let upstreams = format!("{{ name: app, protocol: h2, endpoints: ['{}'] }}", refusing().await);
        let proxy = start(&format!("{{ upstream: app, {retries} }}"), &upstreams, "");
        let answer = client().post(url(&proxy, "/")).body("x").send().await.unwrap();
        assert_eq!(answer.status(), expected, "{retries}");
        if expected == 502 {
            assert_eq!(answer.headers()["x-weir-reason"], "stream_refused");
        }
        proxy.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn bodies_are_sent_again_over_http2_too() {
    let (address, seen) = flaky(1, 503, None).await;
    let upstreams = format!("{{ name: app, protocol: h2, endpoints: ['{address}'] }}");
    let proxy = start("{ upstream: app, retries: { on: [5xx] } }", &upstreams, "");
    let chunks = (0..10).map(|n| Ok::<_, std::io::Error>(vec![n; 1_000]));
    let body = reqwest::Body::wrap_stream(stream::iter(chunks));
    let answer = client().put(url(&proxy, "/")).body(body).send().await.unwrap();
    assert_eq!((answer.status().as_u16(), answer.bytes().await.unwrap().len()), (200, 10_000));
    assert_eq!(seen.lock().iter().map(|(_, _, body)| body.len()).collect::<Vec<_>>(), [10_000, 10_000]);
    proxy.drain().await;
}

/// A collector that keeps the spans it is sent.
#[derive(Clone, Default)]
struct Collector(Arc<Mutex<Vec<Span>>>);

#[tonic::async_trait]
impl TraceService for Collector {
    async fn export(
        &self,
        request: tonic::Request<ExportTraceServiceRequest>,
    ) -> Result<tonic::Response<ExportTraceServiceResponse>, tonic::Status> {
        let scopes = request.into_inner().resource_spans.into_iter().flat_map(|resource| resource.scope_spans);
        self.0.lock().extend(scopes.flat_map(|scope| scope.spans));
        Ok(tonic::Response::new(ExportTraceServiceResponse::default()))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_span_says_how_often_its_request_went_out_again_and_where_it_ended() {
    let (good, _) = flaky(0, 503, None).await;
    let gone = nobody().await;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let otlp = listener.local_addr().unwrap();
    let collector = Collector::default();
    let incoming = tonic::transport::server::TcpIncoming::from(listener);
    let service = TraceServiceServer::new(collector.clone());
    tokio::spawn(tonic::transport::Server::builder().add_service(service).serve_with_incoming(incoming));
    let upstreams = format!("{{ name: app, balance: round_robin, endpoints: ['{gone}', '{good}'] }}");
    let telemetry = format!("telemetry: {{ otlp: 'http://{otlp}' }}");
    let proxy = start("{ upstream: app, retries: { on: [connect-failure] } }", &upstreams, &telemetry);
    for _ in 0..4 {
        assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 200);
    }
    proxy.drain().await;
    let spans = collector.0.lock();
    let attribute = |span: &Span, key: &str| {
        let pair = span.attributes.iter().find(|pair| pair.key == key)?;
        match pair.value.as_ref()?.value.as_ref()? {
            Value::StringValue(text) => Some(text.clone()),
            Value::IntValue(int) => Some(int.to_string()),
            _ => None,
        }
    };
    let mut resent: Vec<_> = spans.iter().map(|span| attribute(span, "http.request.resend_count")).collect();
    resent.sort();
    assert_eq!(
        resent,
        [None, None, Some("1".into()), Some("1".into())],
        "one span a request, however often it went out"
    );
    assert!(spans.iter().all(|span| attribute(span, "weir.upstream") == Some(good.to_string())));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_grpc_status_that_is_listed_is_tried_again() {
    for (on, expected) in [("unavailable", "0"), ("cancelled", "14")] {
        let left = Arc::new(AtomicUsize::new(1));
        let answer = async |State(left): State<Arc<AtomicUsize>>| {
            let status = if left.fetch_update(SeqCst, SeqCst, |n| n.checked_sub(1)).is_ok() { "14" } else { "0" };
            [("content-type", "application/grpc"), ("grpc-status", status)]
        };
        let address = serve(Router::new().fallback(answer).with_state(left)).await;
        let routes = format!("{{ upstream: app, retries: {{ on: [{on}] }} }}");
        let proxy = start(&routes, &format!("{{ name: app, protocol: h2, endpoints: ['{address}'] }}"), "");
        let call = client().post(url(&proxy, "/pkg.Service/Call")).header("content-type", "application/grpc").body("x");
        let answer = call.send().await.unwrap();
        assert_eq!(answer.headers()["grpc-status"], expected, "{on}");
        proxy.drain().await;
    }
}
