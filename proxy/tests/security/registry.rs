//! TLS towards a registry: endpoints are taken only from one that proves to be it.

use std::net::SocketAddr;

use axum::{Json, Router, routing::get};
use serde_json::json;
use weir_ca::{CERTIFICATE, KEY};
use weir_proxy::{Config, Proxy};

use crate::mesh::{Mesh, app, get_plain, listener_tls, metric, request, until};

/// A catalogue that knows one instance, `app`; a question that knows it too is held.
pub(crate) async fn catalogue(app: SocketAddr) -> SocketAddr {
    let answer = async move |uri: http::Uri| {
        if uri.query().unwrap_or_default().contains("index=1") {
            std::future::pending::<()>().await;
        }
        let entry = json!({ "Node": { "Address": "127.0.0.1" }, "Service": { "Port": app.port() } });
        ([("x-consul-index", "1")], Json(vec![entry]))
    };
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let router = Router::new().route("/v1/health/service/{name}", get(answer));
    tokio::spawn(async move { axum::serve(listener, router).await });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn endpoints_are_found_where_the_agent_proves_to_be_the_one() {
    let (mesh, app) = (Mesh::new("mesh.local"), app().await);
    let (consul, caller) = (mesh.workload("consul"), mesh.workload("caller"));
    // the agent's TLS is that of a sidecar that asks for a certificate
    let agent = format!(
        "service: consul\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: agent }}], {} }}]\n\
         upstreams: [{{ name: agent, endpoints: ['{}'] }}]",
        listener_tls(&consul, &mesh.trust(), ""),
        catalogue(app).await,
    );
    let agent = Proxy::start(Config::from_yaml(&agent).unwrap()).unwrap();
    let start = |more: &str| {
        let text = format!(
            "service: shop\nthreads: 1\nadmin: 127.0.0.1:0\n\
             listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: app }}] }}]\n\
             upstreams: [{{ name: app, discover: {{ consul: {{ service: app, address: 'https://{}', {more} }} }} }}]",
            agent.addresses()[0]
        );
        Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
    };
    let pair = format!("certificate: {:?}, key: {:?}, ", caller.join(CERTIFICATE), caller.join(KEY));
    let trust = mesh.trust();
    let good = start(&format!("tls: {{ {pair}trust: {trust:?}, verify: {{ server_name: consul }} }}"));
    let found = async {
        while get_plain(good.addresses()[0], request("/")).await.unwrap().status != 200 {
            tokio::task::yield_now().await;
        }
    };
    tokio::time::timeout(std::time::Duration::from_secs(30), found).await.expect("the instance is found");
    for (bad, why) in [
        (format!("tls: {{ {pair}trust: {trust:?}, verify: {{ server_name: other }} }}"), "another name"),
        (format!("tls: {{ {pair}verify: {{ server_name: consul }} }}"), "not of the system's roots"),
        (format!("tls: {{ trust: {trust:?}, verify: {{ server_name: consul }} }}"), "shows no certificate"),
    ] {
        let bad = start(&bad);
        until(&bad, "weir_proxy_discovery_failing_seconds", f64::MIN_POSITIVE).await;
        assert_eq!(get_plain(bad.addresses()[0], request("/")).await.unwrap().status, 503, "{why}");
        bad.drain().await;
    }
    assert_eq!(metric(&good, "weir_proxy_discovery_failing_seconds").await, 0.0);
    good.drain().await;
    agent.drain().await;
}
