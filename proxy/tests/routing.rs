//! Routes in whole flows: who gets which request, and what it looks like when it arrives.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr, time::Duration};

use axum::{
    Router,
    extract::{Request, State},
    http::StatusCode,
};
use support::{client, serve, start, url};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    sync::mpsc,
    time::Instant,
};
use weir_proxy::Proxy;

/// An application that says who it is and what it was sent.
async fn app(name: &'static str) -> SocketAddr {
    let answer = async |State(name): State<&'static str>, request: Request| {
        let mut fields: Vec<String> = request
            .headers()
            .iter()
            .filter(|(field, _)| field.as_str() == "host" || field.as_str().starts_with("x-test"))
            .map(|(field, value)| format!("{field}={}", value.to_str().unwrap()))
            .collect();
        fields.sort();
        ([("x-test-app", name)], format!("{name} {} {}", request.uri(), fields.join(" ")))
    };
    serve(Router::new().fallback(answer).with_state(name)).await
}

/// A sidecar with these routes in front of three applications, `reviews-v1`, `reviews-v2` and `other`.
async fn proxy(routes: &str) -> Proxy {
    let [v1, v2, other] = [app("v1").await, app("v2").await, app("other").await].map(|address| address.to_string());
    let upstreams = format!(
        "{{ name: reviews-v1, service: reviews, endpoints: [{v1:?}] }},
         {{ name: reviews-v2, service: reviews, endpoints: [{v2:?}] }}, {{ name: other, endpoints: [{other:?}] }}"
    );
    start(routes, &upstreams, "")
}

async fn text(request: reqwest::RequestBuilder) -> String {
    request.send().await.unwrap().text().await.unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn ninety_to_ten_is_ninety_to_ten() {
    let split = "{ split: [{ upstream: reviews-v1, weight: 90 }, { upstream: reviews-v2, weight: 10 }] }";
    let proxy = proxy(split).await;
    let (client, url) = (client(), url(&proxy, "/"));
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..1_000 {
        let answer = text(client.get(&url)).await;
        *counts.entry(answer[..2].to_owned()).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("v1".into(), 900), ("v2".into(), 100)]));
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_first_route_that_matches_is_taken() {
    let routes = "
        { match: { path_prefix: /reviews, headers: { x-test-user: { exact: anna } } }, upstream: reviews-v2 },
        { match: { path_regex: '/reviews/[0-9]+', methods: [GET], query: { full: { present: true } } }, upstream: other },
        { match: { path_prefix: /reviews }, upstream: reviews-v1 }";
    let proxy = proxy(routes).await;
    let client = client();
    let to = |path: &str| client.get(url(&proxy, path));
    for (request, expected) in [
        (to("/reviews").header("x-test-user", "anna"), "v2 /reviews "),
        (to("/reviews/12?full").header("x-test-user", "bert"), "other /reviews/12?full "),
        (to("/reviews/12"), "v1 /reviews/12 "),
        (client.post(url(&proxy, "/reviews/12?full")), "v1 /reviews/12?full "),
    ] {
        let answer = text(request).await;
        assert!(answer.starts_with(expected), "{expected}: {answer}");
    }
    let nowhere = to("/nowhere").send().await.unwrap();
    assert_eq!(
        (nowhere.status(), nowhere.headers()["x-weir-reason"].to_str().unwrap()),
        (StatusCode::NOT_FOUND, "no_route")
    );
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn requests_and_answers_are_changed_on_the_way() {
    let routes = "
        { match: { path_prefix: /old }, upstream: other, rewrite: { path: /new, host: other.internal }, request_headers: { remove: [x-test-secret], set: { x-test-a: one }, add: { x-test-b: two } }, response_headers: { remove: [x-test-app], set: { x-test-via: weir } } }";
    let proxy = proxy(routes).await;
    let request = client().get(url(&proxy, "/old/thing?x=1")).header("x-test-secret", "1").header("x-test-b", "1");
    let answer = request.send().await.unwrap();
    assert_eq!(answer.headers()["x-test-via"], "weir");
    assert!(answer.headers().get("x-test-app").is_none());
    let seen = answer.text().await.unwrap();
    assert_eq!(seen, "other /new/thing?x=1 host=other.internal x-test-a=one x-test-b=1 x-test-b=two");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn clients_are_sent_elsewhere_and_faults_strike_as_often_as_asked() {
    let routes = "
        { match: { path_prefix: /moved }, redirect: { path: /here, host: elsewhere.example, status: 308 } },
        { match: { path: /broken }, upstream: other, fault: { abort: { percent: 100, status: 418 } } },
        { match: { path: /half }, upstream: other, fault: { abort: { percent: 50, status: 503 } } },
        { match: { path: /slow }, upstream: other, fault: { delay: { ms: 150 } } }";
    let proxy = proxy(routes).await;
    let client = client();
    let get = async |path: &str| client.get(url(&proxy, path)).send().await.unwrap();
    let moved = get("/moved/on?x=1").await;
    assert_eq!(
        (moved.status().as_u16(), moved.headers()["location"].to_str().unwrap()),
        (308, "http://elsewhere.example/here?x=1")
    );
    let broken = get("/broken").await;
    assert_eq!(
        (broken.status().as_u16(), broken.headers()["x-weir-reason"].to_str().unwrap()),
        (418, "fault_injected")
    );
    let mut aborted = 0;
    for _ in 0..400 {
        aborted += u32::from(get("/half").await.status().as_u16() == 503);
    }
    // five standard deviations of 400 fair coins
    assert!((150..=250).contains(&aborted), "{aborted} of 400");
    let before = Instant::now();
    assert_eq!(get("/slow").await.status().as_u16(), 200);
    assert!(before.elapsed() >= Duration::from_millis(150));
    assert_eq!(proxy.drain().await.requests, 403);
}

/// What Istio's documents show of `directResponse` answered text/plain whatever the route said.
#[tokio::test(flavor = "multi_thread")]
async fn an_answer_of_the_route_s_own_is_edited_too() {
    let edits = "response_headers: { set: { content-type: application/json, x-test: '1' }, remove: [x-weir-reason] }";
    let routes = format!(
        "{{ match: {{ path: /hello }}, respond: {{ status: 200, body: '{{}}' }}, {edits} }},
         {{ match: {{ path: /moved }}, redirect: {{ path: /here }}, {edits} }},
         {{ upstream: other, fault: {{ abort: {{ status: 503 }} }}, {edits} }}"
    );
    let proxy = proxy(&routes).await;
    let client = client();
    for (path, kind, status, shown) in [
        ("/hello", "", 200, Some("application/json")),
        ("/moved", "", 301, Some("application/json")),
        // as in Envoy, a fault is none of the route's answers
        ("/fault", "", 503, Some("text/plain; charset=utf-8")),
        ("/hello", "application/grpc", 200, Some("application/grpc")),
    ] {
        let answer = client.get(url(&proxy, path)).header("content-type", kind).send().await.unwrap();
        let field = |name: &str| answer.headers().get(name).map(|value| value.to_str().unwrap());
        assert_eq!((answer.status().as_u16(), field("content-type")), (status, shown), "{path} {kind}");
        assert_eq!(field("x-test").is_some(), path != "/fault", "{path}");
        assert_eq!(field("x-weir-reason").is_some(), path == "/fault", "{path}");
    }
    proxy.drain().await;
}

/// They went out whatever the file said, to those outside of the mesh too.
#[tokio::test(flavor = "multi_thread")]
async fn who_sends_is_said_unless_it_may_not_be() {
    let (seen, mut copies) = mpsc::unbounded_channel();
    let answer = async move |request: Request| {
        let all = |name| request.headers().get_all(name).iter().count();
        let said = format!("peer {} via {}", all("x-weir-peer"), all("via"));
        if request.headers()["host"].to_str().unwrap().contains("-shadow") {
            seen.send(said.clone()).unwrap();
        }
        said
    };
    let app = serve(Router::new().fallback(answer)).await;
    let routes = "{ match: { path_prefix: /inside }, upstream: inside }, { match: { path_prefix: /outside }, upstream: outside },
        { match: { path_prefix: /removed }, upstream: inside, request_headers: { remove: [via] } },
        { match: { path_prefix: /copied }, upstream: inside, mirror: { upstream: outside } }";
    let upstreams = format!(
        "{{ name: inside, endpoints: ['{app}'] }},
         {{ name: outside, endpoints: ['{app}'], send_peer: false, send_via: false }}"
    );
    let proxy = start(routes, &upstreams, "");
    let client = client();
    for (path, via, expected) in [
        ("/inside", None, "peer 1 via 1"),
        ("/inside", Some("1.1 other"), "peer 1 via 2"),
        ("/outside", None, "peer 0 via 0"),
        ("/outside", Some("1.1 other"), "peer 0 via 1"),
        ("/removed", Some("1.1 other"), "peer 1 via 0"),
        ("/copied", None, "peer 1 via 1"),
    ] {
        let mut request = client.get(url(&proxy, path)).header("x-weir-peer", "somebody/else");
        if let Some(via) = via {
            request = request.header("via", via);
        }
        assert_eq!(text(request).await, expected, "{path} {via:?}");
    }
    assert_eq!(copies.recv().await.unwrap(), "peer 0 via 0", "a copy goes outside");
    proxy.drain().await;
}

/// What comes back for a path that no client library would send as it stands.
async fn raw(proxy: &Proxy, path: &str) -> String {
    let mut stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let request = format!("GET {path} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.unwrap();
    let body = answer.rsplit("\r\n").find(|line| line.starts_with('v') || line.starts_with("other")).unwrap_or(&answer);
    body.split(" host=").next().unwrap_or_default().to_owned()
}

/// `/public/../admin` once took the route of `/public` and the rule of `/admin`.
#[tokio::test(flavor = "multi_thread")]
async fn routes_see_a_path_as_rules_do_and_it_goes_on_as_it_came() {
    let routes = "{ match: { path_prefix: /admin }, upstream: reviews-v1 },
        { match: { path_prefix: /public }, upstream: reviews-v2, rewrite: { path: /v2 } }, { upstream: other }";
    let proxy = proxy(routes).await;
    for (path, expected) in [
        ("/public/../admin/x", "v1 /public/../admin/x"),
        ("//admin", "v1 //admin"),
        ("/%61dmin/./x?a=%2e", "v1 /%61dmin/./x?a=%2e"),
        ("/public/%2e%2e/admin", "v1 /public/%2e%2e/admin"),
        ("/public/x%20y//z", "v2 /v2/x%20y//z"),
        ("/public/x/.//z", "v2 /v2/x/z"),
        ("/admin/../public/a%2Fb?q=1", "v2 /v2/a%2Fb?q=1"),
        ("/public%2Fx", "other /public%2Fx"),
        ("/ADMIN", "other /ADMIN"),
    ] {
        assert_eq!(raw(&proxy, path).await, expected, "{path}");
    }
    proxy.drain().await;
}
