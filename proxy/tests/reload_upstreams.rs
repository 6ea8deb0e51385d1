//! What a reload leaves as it was: endpoints that were found, connections to them, Istio's routes; and what
//! it begins anew: the search for endpoints.

#![allow(clippy::unwrap_used)] // a test stops where it fails

mod support;

use axum::{Router, routing::get};
use support::{admin, client, serve, start, until, url, yaml};
use weir_proxy::Config;

fn config(routes: &str, upstreams: &str) -> Config {
    Config::from_yaml(&yaml(routes, upstreams, "")).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_that_were_found_stay_and_are_looked_for_again() {
    let app = async |name: &'static str| serve(Router::new().route("/", get(async move || name))).await;
    let (a, b) = (app("a").await, app("b").await);
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.yaml");
    let write = |text: String| {
        let aside = path.with_extension("new");
        std::fs::write(&aside, text).unwrap();
        std::fs::rename(&aside, &path).unwrap();
    };
    write(format!("- '{a}'\n"));
    let upstreams = format!("{{ name: app, discover: {{ file: {path:?} }} }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let ask = async || client().get(url(&proxy, "/")).send().await.unwrap();
    until("found", async || ask().await.status() == 200).await;
    for n in 0..5 {
        let routes = format!("{{ upstream: app, response_headers: {{ set: {{ x-reload: '{n}' }} }} }}");
        proxy.reload(config(&routes, &upstreams)).await.unwrap();
        let answer = ask().await;
        assert_eq!((answer.status().as_u16(), answer.headers()["x-reload"].to_str().unwrap()), (200, &*n.to_string()));
        assert_eq!(answer.text().await.unwrap(), "a", "found before, and not forgotten");
    }
    write(format!("- '{b}'\n"));
    until("found anew", async || ask().await.text().await.unwrap() == "b").await;
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_and_counts_of_endpoints_outlive_a_reload() {
    let app = serve(Router::new().route("/", get(async || "ok"))).await;
    let upstreams = format!("{{ name: app, endpoints: ['{app}'] }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let one = client();
    let ask = async || one.get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap();
    let connects = async || {
        let text = admin(&proxy, "/metrics").await;
        let line = text.lines().find(|line| line.starts_with("weir_proxy_endpoint_connects_total{")).unwrap();
        line.rsplit_once(' ').unwrap().1.to_owned()
    };
    assert_eq!(ask().await, "ok");
    assert_eq!(connects().await, "1");
    for timeout_ms in 1_000..1_005 {
        proxy.reload(config(&format!("{{ upstream: app, timeout_ms: {timeout_ms} }}"), &upstreams)).await.unwrap();
        assert_eq!(ask().await, "ok");
    }
    assert_eq!(connects().await, "1", "one client, one thread, one connection");
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn istios_files_are_read_again() {
    let app = serve(Router::new().route("/new", get(async || "new")).route("/", get(async || "old"))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("istio.yaml");
    let rewritten = |to: &str| {
        format!(
            "apiVersion: networking.istio.io/v1\nkind: VirtualService\nmetadata: {{ name: app }}\nspec:\n  hosts: ['*']\n  \
             http: [{{ rewrite: {{ uri: {to} }}, route: [{{ destination: {{ host: app }} }}] }}]\n"
        )
    };
    std::fs::write(&path, rewritten("/")).unwrap();
    let text = format!(
        "service: shop\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, istio: [{path:?}] }}]\n\
         upstreams: [{{ name: app, endpoints: ['{app}'] }}]"
    );
    let config = || Config::from_yaml(&text).unwrap();
    let proxy = weir_proxy::Proxy::start(config()).unwrap();
    let ask = async || client().get(url(&proxy, "/")).send().await.unwrap().text().await.unwrap();
    assert_eq!(ask().await, "old");
    std::fs::write(&path, rewritten("/new")).unwrap();
    proxy.reload(config()).await.unwrap();
    assert_eq!(ask().await, "new");
    std::fs::write(&path, "kind: Gateway\n").unwrap();
    let why = proxy.reload(config()).await.unwrap_err().to_string();
    assert!(why.contains("apiVersion"), "{why}");
    assert_eq!(ask().await, "new");
    proxy.drain().await;
}

/// Each reload counted from zero, so that ten of them let ten times as many through.
#[tokio::test(flavor = "multi_thread")]
async fn bounds_on_connections_hold_over_a_reload() {
    let (entered, mut has_entered) = tokio::sync::mpsc::unbounded_channel();
    let go_on = std::sync::Arc::new(tokio::sync::Semaphore::new(0));
    let held = go_on.clone();
    let work = async move || {
        entered.send(()).unwrap();
        held.acquire().await.unwrap().forget();
    };
    let app = serve(Router::new().fallback(get(work))).await;
    let upstreams = format!("{{ name: app, endpoints: ['{app}'], max_connections: 1, max_pending_requests: 0 }}");
    let proxy = start("{ upstream: app }", &upstreams, "");
    let first = tokio::spawn(client().get(url(&proxy, "/")).send());
    has_entered.recv().await.unwrap();
    let mut more = upstreams.clone();
    for _ in 0..2 {
        proxy.reload(config("{ upstream: app }", &more)).await.unwrap();
        assert_eq!(client().get(url(&proxy, "/")).send().await.unwrap().status(), 503, "one is at the upstream");
    }
    more = upstreams.replace("max_connections: 1", "max_connections: 2");
    proxy.reload(config("{ upstream: app }", &more)).await.unwrap();
    let second = tokio::spawn(client().get(url(&proxy, "/")).send());
    has_entered.recv().await.unwrap();
    go_on.add_permits(2);
    for answer in [first, second] {
        assert_eq!(answer.await.unwrap().unwrap().status(), 200);
    }
    proxy.drain().await;
}

/// A part of an upstream that is new in the file was empty until the search had an answer.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_part_of_an_upstream_has_what_was_found_for_the_whole() {
    let app = serve(Router::new().fallback(get(async || "ok"))).await;
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("endpoints.yaml");
    std::fs::write(&path, format!("- {{ address: '{app}', labels: {{ version: v2 }} }}\n")).unwrap();
    let whole = format!("{{ name: app, discover: {{ file: {path:?} }} }}");
    let proxy = start("{ upstream: app }", &whole, "");
    let ask = async || client().get(url(&proxy, "/")).send().await.unwrap().status();
    until("found", async || ask().await == 200).await;
    std::fs::remove_file(&path).unwrap();
    let part = "{ name: canary, subset_of: { upstream: app, labels: { version: v2 } } }";
    proxy.reload(config("{ upstream: canary }", &format!("{whole}, {part}"))).await.unwrap();
    assert_eq!(ask().await, 200);
    let other = part.replace("v2", "v3");
    proxy.reload(config("{ upstream: canary }", &format!("{whole}, {other}"))).await.unwrap();
    assert_eq!(ask().await, 503, "there is no such version");
    proxy.drain().await;
}
