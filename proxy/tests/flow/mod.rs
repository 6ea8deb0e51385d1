//! What whole flows need: an application, a client, a sidecar between them, and its admin address.

#![allow(dead_code, unused_imports, reason = "each test file needs some of it")]

pub(crate) mod collector;
pub(crate) mod control_plane;
#[path = "../support/mod.rs"]
mod support;

use std::{net::SocketAddr, time::Duration};

use weir_proxy::{Config, Proxy};

pub(crate) use support::{admin, serve as app, until, url};

/// A sidecar of `tagger` with one inbound listener, these routes, and whatever else the file says.
pub(crate) fn proxy(app: SocketAddr, routes: &str, more: &str) -> Proxy {
    Proxy::start(config(app, routes, more)).unwrap()
}

/// As [`proxy`], not started.
pub(crate) fn config(app: SocketAddr, routes: &str, more: &str) -> Config {
    let text = format!(
        "service: tagger\ninstance: tagger-0\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes:\n{routes}\n\
         upstreams:\n  - {{ name: app, endpoints: [\"{app}\"] }}\n{more}"
    );
    Config::from_yaml(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

/// A client that fails rather than hang.
pub(crate) fn client() -> reqwest::Client {
    reqwest::Client::builder().no_proxy().timeout(Duration::from_secs(60)).build().unwrap()
}

/// Asks, and gives the status and the reason that the proxy states, if it answered itself.
pub(crate) async fn ask(request: reqwest::RequestBuilder) -> (u16, String) {
    let response = request.send().await.unwrap();
    let reason = response.headers().get("x-weir-reason").map(|reason| reason.to_str().unwrap().to_owned());
    (response.status().as_u16(), reason.unwrap_or_default())
}

/// The value of a metric without labels.
pub(crate) async fn metric(proxy: &Proxy, name: &str) -> f64 {
    let text = admin(proxy, "/metrics").await;
    let line = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
    line.unwrap_or_else(|| panic!("no {name} in\n{text}")).parse().unwrap()
}
