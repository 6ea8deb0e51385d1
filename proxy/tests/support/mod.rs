//! What the flows share: a sidecar from a few lines of YAML, and a client that follows nothing.

#![allow(dead_code, reason = "each test file is a program of its own and uses a part of this")]

use std::{net::SocketAddr, time::Duration};

use axum::Router;
use reqwest::{Client, redirect::Policy};
use tokio::{net::TcpListener, time::Instant};
use weir_proxy::{Config, Proxy};

/// Serves an application on a free port.
pub(crate) async fn serve(app: Router) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move { axum::serve(listener, app).await });
    address
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap()
}

/// A sidecar with one outbound listener; `routes` and `upstreams` are YAML in flow style, `more` more keys.
pub(crate) fn start(routes: &str, upstreams: &str, more: &str) -> Proxy {
    Proxy::start(Config::from_yaml(&yaml(routes, upstreams, more)).unwrap()).unwrap()
}

/// What [`start`] reads.
pub(crate) fn yaml(routes: &str, upstreams: &str, more: &str) -> String {
    format!(
        "service: shop\nthreads: 2\nadmin: 127.0.0.1:0\n\
         listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{routes}] }}]\n\
         upstreams: [{upstreams}]\n{more}"
    )
}

/// A client that keeps connections and follows no redirect.
pub(crate) fn client() -> Client {
    Client::builder().redirect(Policy::none()).no_proxy().build().unwrap()
}

/// Of the first listener.
pub(crate) fn url(proxy: &Proxy, path: &str) -> String {
    format!("http://{}{path}", proxy.addresses()[0])
}

/// What the admin address says at `path`.
pub(crate) async fn admin(proxy: &Proxy, path: &str) -> String {
    let address = proxy.admin_address().unwrap();
    client().get(format!("http://{address}{path}")).send().await.unwrap().text().await.unwrap()
}

/// Waits until `done`, for at most half a minute.
pub(crate) async fn until(what: &str, mut done: impl AsyncFnMut() -> bool) {
    let give_up = Instant::now() + Duration::from_secs(30);
    while !done().await {
        assert!(Instant::now() < give_up, "{what}: it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
