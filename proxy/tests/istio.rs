//! Istio's files in whole flows: they run as they stand.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr, sync::Arc, time::Duration};

use axum::{
    Router,
    body::{Body, Bytes},
    extract::Request,
    http::StatusCode,
};
use futures::{StreamExt, stream};
use support::{client, serve, until, url};
use tokio::sync::{Semaphore, mpsc};
use weir_proxy::{Config, Proxy};

/// One connection, one request that waits, and out after the first failure: the circuit breaker of Istio's tasks.
const CIRCUIT_BREAKER: &str = "
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
spec:
  host: reviews
  trafficPolicy:
    connectionPool:
      tcp:
        maxConnections: 1
      http:
        http1MaxPendingRequests: 1
        maxRequestsPerConnection: 1
    outlierDetection:
      consecutive5xxErrors: 1
      interval: 1s
      baseEjectionTime: 3m
      maxEjectionPercent: 100
---
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
    - reviews
  http:
    - route:
        - destination:
            host: reviews
          headers:
            response:
              set:
                x-from: reviews
";

/// Nine of ten requests to v1; testers get v2; a broken part answers as it is told to.
const REVIEWS: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
  namespace: bookinfo
spec:
  hosts:
    - reviews
  http:
    - match:
        - headers:
            end-user:
              exact: jason
      route:
        - destination:
            host: reviews
            subset: v2
    - match:
        - uri:
            prefix: /broken
      fault:
        abort:
          httpStatus: 418
          percentage:
            value: 100
      route:
        - destination:
            host: reviews
            subset: v1
    - match:
        - uri:
            prefix: /api
      rewrite:
        uri: /internal
      headers:
        response:
          set:
            x-routed-by: istio
      route:
        - destination:
            host: reviews.bookinfo.svc.cluster.local
    - route:
        - destination:
            host: reviews
            subset: v1
          weight: 90
        - destination:
            host: reviews
            subset: v2
          weight: 10
---
apiVersion: networking.istio.io/v1
kind: DestinationRule
metadata:
  name: reviews
  namespace: bookinfo
spec:
  host: reviews
  trafficPolicy:
    loadBalancer:
      simple: LEAST_REQUEST
    outlierDetection:
      consecutive5xxErrors: 5
      interval: 10s
      baseEjectionTime: 30s
  subsets:
    - name: v1
      labels:
        version: v1
    - name: v2
      labels:
        version: v2
      trafficPolicy:
        loadBalancer:
          simple: ROUND_ROBIN
";

async fn app(name: &'static str) -> SocketAddr {
    serve(Router::new().fallback(async move |request: Request| format!("{name} {}", request.uri()))).await
}

/// The sidecar of `productpage`, which routes as `istio` says to these endpoints of `reviews`.
fn sidecar(istio: &str, endpoints: &[String]) -> Proxy {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reviews.yaml");
    std::fs::write(&file, istio).unwrap();
    let text = format!(
        "service: productpage\nthreads: 2\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, istio: [{file:?}] }}]\n\
         upstreams: [{{ name: reviews, endpoints: [{}] }}]\n",
        endpoints.join(", ")
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn the_file_runs_as_it_is_and_splits_ninety_to_ten() {
    let apps = [app("v1").await, app("v1").await, app("v2").await];
    let of = |app: usize, version: &str| format!("{{ address: '{}', labels: {{ version: {version} }} }}", apps[app]);
    let proxy = sidecar(REVIEWS, &[of(0, "v1"), of(1, "v1"), of(2, "v2")]);
    let client = client();
    let get = |path: &str| client.get(url(&proxy, path)).header("host", "reviews");
    let mut counts: BTreeMap<String, u32> = BTreeMap::new();
    for _ in 0..1_000 {
        let answer = get("/").send().await.unwrap().text().await.unwrap();
        *counts.entry(answer[..2].to_owned()).or_default() += 1;
    }
    assert_eq!(counts, BTreeMap::from([("v1".into(), 900), ("v2".into(), 100)]));
    for _ in 0..20 {
        let answer = get("/x").header("end-user", "jason").send().await.unwrap();
        assert_eq!(answer.text().await.unwrap(), "v2 /x");
    }
    assert_eq!(get("/broken").send().await.unwrap().status(), 418);
    let answer = get("/api/1?x=2").send().await.unwrap();
    assert_eq!(answer.headers()["x-routed-by"], "istio");
    assert!(answer.text().await.unwrap().ends_with(" /internal/1?x=2"));
    let elsewhere = client.get(url(&proxy, "/")).header("host", "ratings").send().await.unwrap();
    assert_eq!(elsewhere.status(), 404);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_circuit_breaker_sheds_what_does_not_fit_and_leaves_what_fails() {
    let hold = Arc::new(Semaphore::new(0));
    let (entered, mut entries) = mpsc::channel(8);
    let held = hold.clone();
    let answer = async move |request: Request| {
        if request.uri().path() == "/broken" {
            return Err(StatusCode::INTERNAL_SERVER_ERROR);
        }
        entered.send(()).await.unwrap();
        held.acquire().await.unwrap().forget();
        Ok("ok")
    };
    let address = serve(Router::new().fallback(answer)).await;
    let proxy = sidecar(CIRCUIT_BREAKER, &[format!("'{address}'")]);
    let get = |path: &str| client().get(url(&proxy, path)).header("host", "reviews");
    let first = tokio::spawn(get("/").send());
    entries.recv().await.unwrap();
    let others = [tokio::spawn(get("/").send()), tokio::spawn(get("/").send())];
    until("one of two is shed", async || proxy.counters().shed == 1).await;
    hold.add_permits(2);
    let answer = first.await.unwrap().unwrap();
    assert_eq!((answer.status().as_u16(), answer.headers()["x-from"].to_str().unwrap()), (200, "reviews"));
    let mut statuses = Vec::new();
    for other in others {
        statuses.push(other.await.unwrap().unwrap().status().as_u16());
    }
    statuses.sort_unstable();
    assert_eq!(statuses, [200, 503]);
    assert_eq!(get("/broken").send().await.unwrap().status(), 500);
    let refused = get("/").send().await.unwrap();
    assert_eq!((refused.status().as_u16(), refused.headers()["x-weir-reason"].to_str().unwrap()), (503, "no_endpoint"));
    proxy.drain().await;
}

const TIMEOUT: &str = "
apiVersion: networking.istio.io/v1
kind: VirtualService
metadata:
  name: reviews
spec:
  hosts:
    - reviews
  http:
    - timeout: 1s
      route:
        - destination:
            host: reviews
";

/// Whoever sent for longer than the timeout got the head of the answer and an end without its body.
#[tokio::test(flavor = "multi_thread")]
async fn a_timeout_begins_when_the_request_was_sent() {
    let late = |wait_ms: u64| {
        stream::once(async move {
            tokio::time::sleep(Duration::from_millis(wait_ms)).await;
            Ok::<_, std::io::Error>(Bytes::from_static(b"ends"))
        })
    };
    let answer = async move |request: Request| {
        let (parts, body) = request.into_parts();
        axum::body::to_bytes(body, 1 << 20).await.unwrap();
        match parts.uri.path() {
            "/never" => std::future::pending().await,
            path => Body::from_stream(late(if path == "/late" { 100 } else { 60_000 })),
        }
    };
    let address = serve(Router::new().fallback(answer)).await;
    let proxy = sidecar(TIMEOUT, &[format!("'{address}'")]);
    let ask = async |path: &str| {
        let body = stream::once(async { Ok(Bytes::from_static(b"begins")) }).chain(late(1_300));
        let body = reqwest::Body::wrap_stream(body);
        client().post(url(&proxy, path)).header("host", "reviews").body(body).send().await.unwrap()
    };
    assert_eq!(ask("/late").await.text().await.unwrap(), "ends");
    assert_eq!(ask("/never").await.status(), 504);
    let endless = ask("/endless").await;
    assert_eq!(endless.status(), 200);
    assert!(endless.text().await.is_err(), "it is bounded all the same");
    proxy.drain().await;
}
