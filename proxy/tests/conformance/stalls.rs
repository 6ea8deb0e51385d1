//! Clients and upstreams that stop in the middle: what they hold is given to others in the end.

use std::time::Duration;

use bytes::Bytes;
use h2::client;
use http::Request;
use tokio::{net::TcpStream, time::timeout};
use weir_proxy::Proxy;

use crate::{
    http2,
    peer::{Peer, Upstream, metric, soon, with},
};

const ONE: &str =
    "routes: [{ upstream: app, limits: { concurrency_limit: { limit: 1, queue: 9, queue_timeout_ms: 15000 } } }]";

/// A connection on which no answer has room.
async fn without_a_window(proxy: &Proxy) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let (sender, connection) = client::Builder::new().initial_window_size(0).handshake(stream).await.unwrap();
    // it answers pings, and is well in every other way
    tokio::spawn(connection);
    soon(sender.ready()).await.unwrap()
}

/// A client that gives no window held its place, and its upstream's connection, for ever.
#[tokio::test]
async fn a_client_that_gives_no_window_does_not_keep_its_place() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ONE, "", "timeouts: { write_idle_ms: 300, drain_ms: 500 }\n");
    let mut stuck = without_a_window(&proxy).await;
    let (answer, _) = stuck.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
    let head = "HTTP/1.1 200 OK\r\ncontent-length: 100000\r\n\r\n";
    let (mut server, _) = upstream.answer(&format!("{head}{}", "x".repeat(50_000))).await;
    let _answer = soon(answer).await.unwrap();
    let mut client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (_second, _) = upstream.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
    server.rest().await;
    assert_eq!(metric(&proxy, "weir_proxy_slow_clients_total").await, 1);
    drop((stuck, client));
    proxy.drain().await;
}

/// One that reads slowly, but does read, is left alone.
#[tokio::test]
async fn a_client_that_reads_slowly_is_no_client_that_reads_nothing() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ONE, "", "timeouts: { write_idle_ms: 400, drain_ms: 500 }\n");
    let mut slow = without_a_window(&proxy).await;
    let (answer, _) = slow.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
    let (_server, _) =
        upstream.answer(&format!("HTTP/1.1 200 OK\r\ncontent-length: 64\r\n\r\n{}", "x".repeat(64))).await;
    let mut body = soon(answer).await.unwrap().into_body();
    // all of a short answer is the proxy's to deliver, and holds nothing any more
    body.flow_control().release_capacity(0).unwrap();
    assert_eq!(metric(&proxy, "weir_proxy_slow_clients_total").await, 0);
    drop((slow, body));
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_that_stalls_in_its_answer_does_not_keep_its_place() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ONE, "", "timeouts: { stream_idle_ms: 300, drain_ms: 500 }\n");
    let mut stuck = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (_silent, _) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf").await;
    assert!(stuck.rest().await.ends_with("half"));
    let mut client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (_second, _) = upstream.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 204"));
    drop(client);
    proxy.drain().await;
}

#[tokio::test]
async fn an_http2_connection_without_requests_is_told_to_go() {
    let upstream = Upstream::new().await;
    let more = "timeouts: { http2_idle_ms: 200, drain_ms: 500 }\n";
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", more);
    let stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let (mut sender, connection) = client::handshake(stream).await.unwrap();
    let connection = tokio::spawn(connection);
    let (answer, _) = sender.send_request(Request::get("http://a/").body(()).unwrap(), true).unwrap();
    let mut server = upstream.accept().await;
    server.head().await;
    assert!(
        timeout(Duration::from_secs(1), async {
            while !connection.is_finished() {
                tokio::task::yield_now().await
            }
        })
        .await
        .is_err(),
        "one request is under way"
    );
    server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(soon(answer).await.unwrap().status(), 204);
    drop(sender);
    let _ = soon(connection).await;
    proxy.drain().await;
}

#[tokio::test]
async fn one_client_may_not_take_every_connection() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "max_connections_per_client: 2\n");
    let one = http2::connect(&proxy).await;
    let two = http2::connect(&proxy).await;
    let mut three = Peer::connect(&proxy).await;
    assert_eq!(three.rest().await, "", "closed at once");
    drop(one);
    // the place is free as soon as the proxy has seen the end
    soon(async {
        loop {
            let mut again = Peer::connect(&proxy).await;
            if timeout(Duration::from_millis(200), again.rest()).await.is_err() {
                return;
            }
        }
    })
    .await;
    assert!(metric(&proxy, "weir_proxy_connections_refused_total").await >= 1);
    drop(two);
    proxy.drain().await;
}
