//! The beginning of a drain: clients are told to go, and whoever has not heard of it finds open sockets a while longer.

use bytes::Bytes;
use http::Request;
use tokio::net::TcpStream;

use crate::peer::{Peer, Upstream, field, soon, until, with};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

/// The sockets closed in the moment in which health went red, and whoever had not looked was refused.
#[tokio::test]
async fn whoever_has_not_heard_of_the_drain_is_served_and_told_to_go() {
    let upstream = Upstream::new().await;
    let timeouts = "timeouts: { lame_duck_ms: 2000, drain_ms: 2000 }";
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", timeouts);
    let (address, admin) = (proxy.addresses()[0], proxy.admin_address().unwrap());
    let ask_admin = async |ask: &str| {
        let mut peer = Peer::new(TcpStream::connect(admin).await.unwrap());
        peer.send(format!("{ask} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n")).await;
        peer.rest().await
    };
    let mut kept = Peer::say(&proxy, GET).await;
    let (mut server, _) = upstream.answer(OK).await;
    kept.head().await;
    let (early, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    let connection = tokio::spawn(connection);
    let mut early: h2::client::SendRequest<Bytes> = soon(early.ready()).await.unwrap();
    let answered = early.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap().0;
    server.head().await;
    server.send(OK).await;
    assert_eq!(soon(answered).await.unwrap().status(), 200);

    assert!(ask_admin("POST /drain").await.starts_with("HTTP/1.1 202"));
    assert!(ask_admin("GET /healthz").await.starts_with("HTTP/1.1 503"));
    // HTTP/2 is told at once, and has nothing left to wait for
    soon(connection).await.unwrap().unwrap();
    kept.send(GET).await;
    server.head().await;
    server.send(OK).await;
    assert_eq!(field(&kept.head().await, "connection"), Some("close"));
    for _ in 0..10 {
        let mut late = Peer::say(&proxy, GET).await;
        server.head().await;
        server.send(OK).await;
        let head = late.head().await;
        assert!(head.starts_with("HTTP/1.1 200"), "{head}");
        assert_eq!(field(&head, "connection"), Some("close"), "{head}");
        assert_eq!(late.rest().await, "", "and its connection ends");
    }
    let (mut late, connection) = h2::client::handshake(TcpStream::connect(address).await.unwrap()).await.unwrap();
    tokio::spawn(connection);
    let answered = late.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap().0;
    server.head().await;
    server.send(OK).await;
    assert_eq!(soon(answered).await.unwrap().status(), 200);
    until(|| std::net::TcpStream::connect(address).is_err()).await;
    proxy.drain().await;
}

#[tokio::test]
async fn a_reload_that_comes_too_late_is_refused() {
    let upstream = Upstream::new().await;
    let text = format!(
        "service: app\nthreads: 1\nadmin: 127.0.0.1:0\ntimeouts: {{ lame_duck_ms: 500 }}\n\
         listeners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}]\n\
         upstreams: [{{ name: app, endpoints: ['{}'] }}]",
        upstream.address
    );
    let config = weir_proxy::Config::from_yaml(&text).unwrap();
    let proxy = weir_proxy::Proxy::start(config.clone()).unwrap();
    let mut admin = Peer::new(TcpStream::connect(proxy.admin_address().unwrap()).await.unwrap());
    admin.send("POST /drain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    admin.rest().await;
    // the thread may be about to take an order when it hears of the drain
    soon(async { while proxy.reload(config.clone()).await.is_ok() {} }).await;
    proxy.drain().await;
}
