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
