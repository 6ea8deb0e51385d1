//! The sidecar in whole flows: what passes, what is measured of it, what holds it back, and what it
//! does when others are away.

use std::{convert::Infallible, net::SocketAddr, num::NonZeroU32, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::State,
    http::{HeaderMap, StatusCode},
    response::Response,
    routing::{get, post},
};
use futures::StreamExt;
use tokio::{
    net::TcpListener,
    sync::{Notify, mpsc},
};
use weir_policy::{ConcurrencyLimit, RateLimit};
use weir_proxy::{Config, Counters, Proxy};

use crate::support::{client, server, sql};

/// An application behind the sidecar, on a free port.
async fn upstream(router: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

/// What the application was sent.
async fn mirror(headers: HeaderMap) -> String {
    let shown = ["traceparent", "x-weir-peer", "x-private", "host"];
    shown.iter().map(|name| format!("{name}={}\n", headers.get(*name).map_or("", |v| v.to_str().unwrap()))).collect()
}

fn config(upstream: &str, more: &str) -> Config {
    let text = format!(
        "service: tagger\ninstance: tagger-0\nthreads: 1\n\
         listeners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes: [{{ upstream: tagger }}]\n  \
         - address: 127.0.0.1:0\n    direction: outbound\n    routes: [{{ upstream: parser }}]\n\
         upstreams:\n  - {{ name: tagger, endpoints: [{upstream:?}] }}\n  - {{ name: parser, endpoints: [{upstream:?}] }}\n{more}"
    );
    Config::from_yaml(&text).unwrap()
}

fn url(proxy: &Proxy, listener: usize, path: &str) -> String {
    format!("http://{}{path}", proxy.addresses()[listener])
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_is_passed_on_measured_and_stored_once() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let app = upstream(Router::new().route("/work", get(mirror))).await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{}\", access_log: all }}\n", weir.addresses.otlp_grpc);
    let proxy = Proxy::start(config(&app.to_string(), &telemetry)).unwrap();
    let parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01";
    let inbound = client().get(url(&proxy, 0, "/work?q=1")).header("traceparent", parent);
    let inbound = inbound.header("x-weir-peer", "tokenizer/tokenizer-0").header("connection", "x-private");
    let seen = inbound.header("x-private", "1").send().await.unwrap().text().await.unwrap();
    assert!(seen.contains("traceparent=00-0af7651916cd43dd8448eb211c80319c-"), "{seen}");
    assert!(!seen.contains("b7ad6b7169203331"), "the sidecar's span is the parent now: {seen}");
    assert!(seen.contains("x-weir-peer=\n") && seen.contains("x-private=\n"), "{seen}");
    let outbound = client().get(url(&proxy, 1, "/work")).send().await.unwrap();
    assert!(outbound.text().await.unwrap().contains("x-weir-peer=tagger/tagger-0"));
    let missing = client().get(url(&proxy, 0, "/nowhere")).send().await.unwrap();
    assert_eq!(missing.status(), 404);

    let counters = proxy.drain().await;
    let Counters { requests, spans_recorded, spans_sent, spans_dropped, logs_sent, .. } = counters;
    assert_eq!((requests, spans_recorded, spans_sent, spans_dropped, logs_sent), (3, 3, 3, 0, 3), "{counters:?}");
    let web = format!("http://{}", weir.addresses.web);
    let statement = "SELECT service, kind, direction, peer_service, http_response_status_code, \
        parent_span_id IS NOT NULL, queue_wait_ns, in_flight FROM spans ORDER BY start_unix_nano";
    let expected = ["tagger,server,inbound,tokenizer,200,true,0,1", "tagger,client,outbound,parser,200,false,0,1"];
    assert_eq!(sql(&web, statement).await[..2], expected);
    assert_eq!(sql(&web, "SELECT count(*) FROM logs WHERE event_name = 'weir.access'").await, ["3"]);
    let metrics = "SELECT DISTINCT name FROM metrics WHERE name LIKE 'http.%' ORDER BY name";
    let expected = ["http.client.open_connections", "http.client.request.duration", "http.server.request.duration"];
    assert_eq!(sql(&web, metrics).await, expected);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_passes_chunk_by_chunk_and_its_tokens_are_counted() {
    let dir = tempfile::tempdir().unwrap();
    let weir = server(dir.path()).await;
    let go_on = Arc::new(Notify::new());
    let stream = async |State(go_on): State<Arc<Notify>>| {
        let (send, receive) = mpsc::channel::<Result<Bytes, Infallible>>(1);
        tokio::spawn(async move {
            send.send(Ok(Bytes::from_static(b"data: one\n\n"))).await.unwrap();
            // the second chunk waits until the client has the first: a proxy that gathers would hang here
            go_on.notified().await;
            let last = b"data: {\"usage\":{\"prompt_tokens\":7,\"completion_tokens\":2}}\n\n";
            send.send(Ok(Bytes::from_static(last))).await.unwrap();
        });
        let body = Body::from_stream(tokio_stream::wrappers::ReceiverStream::new(receive));
        Response::builder().header("content-type", "text/event-stream").body(body).unwrap()
    };
    let app = upstream(Router::new().route("/", get(stream)).with_state(go_on.clone())).await;
    let telemetry = format!("telemetry: {{ otlp: \"http://{}\" }}\n", weir.addresses.otlp_grpc);
    let proxy = Proxy::start(config(&app.to_string(), &telemetry)).unwrap();
    let response = client().get(url(&proxy, 0, "/")).send().await.unwrap();
    let mut chunks = response.bytes_stream();
    assert_eq!(chunks.next().await.unwrap().unwrap(), "data: one\n\n");
    go_on.notify_one();
    while let Some(chunk) = chunks.next().await {
        chunk.unwrap();
    }
    proxy.drain().await;
    let web = format!("http://{}", weir.addresses.web);
    let statement = "SELECT gen_ai_input_tokens, gen_ai_output_tokens, time_to_first_token_ns > 0, \
        time_to_first_token_ns < duration_ns FROM spans";
    assert_eq!(sql(&web, statement).await, ["7,2,true,true"]);
    weir.stop().await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn policy_arrives_is_obeyed_and_is_kept_for_a_start_without_control_plane() {
    let (dir, state) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let weir = server(dir.path()).await;
    let app = upstream(Router::new().route("/", get(async || "ok"))).await;
    let source = format!("http://{}", weir.addresses.otlp_grpc);
    let policy = format!("policy: {{ from: {source:?}, state_dir: {:?} }}\n", state.path());
    let proxy = Proxy::start(config(&app.to_string(), &policy)).unwrap();
    let order = serde_json::json!({"override": {"author": "test", "expires_unix_nano": null, "policy": {
        "service": "tagger", "route": null, "concurrency_limit": null, "breaker": null, "reason": "by hand",
        "rate_limit": {"rate_per_s": 0.001, "burst": 1}}}});
    let ordered = client().post(format!("http://{}/api/v1/policy", weir.addresses.web)).json(&order).send().await;
    assert_eq!(ordered.unwrap().status(), 202);
    until(|| proxy.policy().sequence > 0).await;
    let ask = async |proxy: &Proxy| client().get(url(proxy, 0, "/")).send().await.unwrap();
    assert_eq!(ask(&proxy).await.status(), 200, "the burst");
    let shed = ask(&proxy).await;
    assert_eq!((shed.status().as_u16(), &shed.headers()["x-weir-reason"]), (429, &"rate_limited".parse().unwrap()));
    assert!(shed.headers().contains_key("retry-after"));
    proxy.drain().await;
    weir.stop().await.unwrap();

    let proxy = Proxy::start(config(&app.to_string(), &policy)).unwrap();
    until(|| proxy.policy().sequence > 0).await;
    assert_eq!(proxy.policy().policies[0].reason, "by hand", "from its own disk: nobody else is there");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_service_queues_a_few_and_sheds_the_rest() {
    let (hold, entered) = (Arc::new(Notify::new()), mpsc::unbounded_channel());
    let (entered_in, mut entered) = entered;
    let work = async |State((hold, entered)): State<(Arc<Notify>, mpsc::UnboundedSender<()>)>| {
        entered.send(()).unwrap();
        hold.notified().await;
        "done"
    };
    let app = upstream(Router::new().route("/", get(work)).with_state((hold.clone(), entered_in))).await;
    let limits = "limits: { concurrency_limit: { limit: 1, queue: 1, queue_timeout_ms: 60000 } }\nadmin: 127.0.0.1:0\n";
    let proxy = Proxy::start(config(&app.to_string(), limits)).unwrap();
    let address = url(&proxy, 0, "/");
    let ask = || tokio::spawn(client().get(&address).send());
    let first = ask();
    entered.recv().await.unwrap();
    let second = ask();
    let admin = format!("http://{}/metrics", proxy.admin_address().unwrap());
    let metric = async |line: &str| client().get(&admin).send().await.unwrap().text().await.unwrap().contains(line);
    while !metric("weir_proxy_queued 1").await {}
    let third = ask().await.unwrap().unwrap();
    assert_eq!((third.status().as_u16(), &third.headers()["x-weir-reason"]), (503, &"queue_full".parse().unwrap()));
    hold.notify_one();
    assert_eq!(first.await.unwrap().unwrap().status(), 200);
    entered.recv().await.unwrap();
    hold.notify_one();
    assert_eq!(second.await.unwrap().unwrap().status(), 200);
    assert_eq!(proxy.drain().await.shed, 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn http2_without_tls_is_served_on_the_same_port_and_spoken_upstream() {
    let echo = post(async |body: Bytes| (StatusCode::CREATED, body));
    let app = upstream(Router::new().route("/", echo)).await;
    let mut config = config(&app.to_string(), "");
    config.upstreams[0].protocol = weir_proxy::Protocol::H2;
    let proxy = Proxy::start(config).unwrap();
    for client in [reqwest::Client::builder().http2_prior_knowledge(), reqwest::Client::builder().http1_only()] {
        let client = client.no_proxy().build().unwrap();
        for n in 0..3 {
            let response = client.post(url(&proxy, 0, "/")).body(format!("body {n}")).send().await.unwrap();
            assert_eq!(response.status(), 201);
            assert_eq!(response.text().await.unwrap(), format!("body {n}"));
        }
    }
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn an_upstream_that_fails_is_said_so_and_left() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let app = upstream(Router::new().route("/", get(async || "ok"))).await;
    let mut config = config(&gone.to_string(), "");
    config.upstreams[0].endpoints = vec![gone.into(), app.into()];
    let proxy = Proxy::start(config).unwrap();
    let mut failed = 0;
    for _ in 0..20 {
        let response = client().get(url(&proxy, 0, "/")).send().await.unwrap();
        if response.status() == 502 {
            assert_eq!(response.headers()["x-weir-reason"], "connect_failed");
            failed += 1;
        }
    }
    assert!(failed <= 1, "{failed} of 20 went where nobody listens: one failure is enough to know");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_collector_that_is_away_costs_spans_not_requests() {
    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let app = upstream(Router::new().route("/", get(async || "ok"))).await;
    let telemetry = format!(
        "telemetry: {{ otlp: \"http://{gone}\", queue_records: 8, batch_spans: 4, retry_ms: 50, flush_ms: 50 }}\n"
    );
    let proxy = Proxy::start(config(&app.to_string(), &telemetry)).unwrap();
    let client = client();
    for _ in 0..200 {
        assert_eq!(client.get(url(&proxy, 0, "/")).send().await.unwrap().status(), 200);
    }
    let counters = proxy.drain().await;
    assert_eq!((counters.spans_recorded, counters.spans_sent, counters.spans_dropped), (200, 0, 200), "{counters:?}");
}

#[test]
fn limits_that_cannot_be_enforced_are_refused_by_name() {
    assert!(RateLimit::new(0.0, NonZeroU32::MIN).is_none());
    let limit = ConcurrencyLimit { limit: NonZeroU32::MIN, queue: 0, queue_timeout_ms: 0 };
    let mut config = config("127.0.0.1:1", "");
    config.limits.concurrency_limit = Some(limit);
    assert!(config.validate().is_ok());
    config.listeners.clear();
    assert!(config.validate().unwrap_err().to_string().contains("listeners is empty"));
}

/// Waits for what another task will make true; a test that waits in vain fails by its runner.
async fn until(done: impl Fn() -> bool) {
    let wait = async {
        while !done() {
            tokio::task::yield_now().await;
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.expect("it never came true");
}
