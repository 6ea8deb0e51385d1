//! Istio's files in whole flows: they run as they stand.

#![allow(clippy::unwrap_used, reason = "a test that meets what it did not expect is to stop")]

mod support;

use std::{collections::BTreeMap, net::SocketAddr};

use axum::{Router, extract::Request};
use support::{client, serve, url};
use weir_proxy::{Config, Proxy};

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

#[tokio::test(flavor = "multi_thread")]
async fn the_file_runs_as_it_is_and_splits_ninety_to_ten() {
    let apps = [app("v1").await, app("v1").await, app("v2").await];
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("reviews.yaml");
    std::fs::write(&file, REVIEWS).unwrap();
    let text = format!(
        "service: productpage\nthreads: 2\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, istio: [{file:?}] }}]\n\
         upstreams:\n  - name: reviews\n    endpoints:\n      - {{ address: '{}', labels: {{ version: v1 }} }}\n      \
         - {{ address: '{}', labels: {{ version: v1 }} }}\n      - {{ address: '{}', labels: {{ version: v2 }} }}\n",
        apps[0], apps[1], apps[2]
    );
    let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
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
