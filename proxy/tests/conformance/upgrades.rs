//! Leaving HTTP: WebSocket over HTTP/1.1 and over an HTTP/2 stream, and wishes that are not granted.

use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request};

use crate::{
    http2,
    peer::{Peer, Upstream, field, proxy, soon, with},
};

const ASK: &str = "GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\nsec-websocket-version: 13\r\n\r\n";
const YES: &str = "HTTP/1.1 101 Switching Protocols\r\nupgrade: websocket\r\nconnection: Upgrade\r\n\
    sec-websocket-accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n\r\n";
const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn a_websocket_is_opened_and_its_bytes_are_nobodys_business() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")), "{head}");
    assert_eq!(field(&head, "sec-websocket-key"), Some("dGhlIHNhbXBsZSBub25jZQ=="));
    server.send(format!("{YES}early")).await; // the first frame may come with the answer
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 101"), "{head}");
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")), "{head}");
    assert_eq!(client.text(5).await, "early");
    for n in 0..100_u8 {
        client.send([n, 0, b'\n', 0x81]).await;
        assert_eq!(server.bytes(4).await, [n, 0, b'\n', 0x81]);
        server.send([0xff, n]).await;
        assert_eq!(client.bytes(2).await, [0xff, n]);
    }
    drop(server);
    assert_eq!(client.rest().await, "");
    let counters = proxy.drain().await;
    assert_eq!((counters.tunnels, counters.requests), (1, 1));
}

#[tokio::test]
async fn a_no_leaves_the_connection_as_it_was() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    // the next request is there already: it must be read as one once the answer says so
    let mut client = Peer::say(&proxy, &format!("{ASK}{GET}")).await;
    let (mut server, _) = upstream.answer("HTTP/1.1 403 Forbidden\r\ncontent-length: 2\r\n\r\nno").await;
    assert!(client.head().await.starts_with("HTTP/1.1 403"));
    assert_eq!(client.text(2).await, "no");
    assert!(server.head().await.starts_with("GET / "));
    server.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    client.send("GET / HTTP/1.1\r\nhost : a\r\n\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400"), "and it is read strictly again");
    proxy.drain().await;
}

/// The answer to the request before an upgrade was taken for the answer to it, and the first line feed in
/// a tunnel was then read as the end of a bad line.
#[tokio::test]
async fn the_answer_to_an_earlier_request_is_not_the_one_to_an_upgrade() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, &format!("{GET}{ASK}")).await;
    let (mut server, head) = upstream.answer(OK).await;
    assert!(head.starts_with("GET / "), "{head}");
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert!(server.head().await.starts_with("GET /chat "));
    server.send(YES).await;
    assert!(client.head().await.starts_with("HTTP/1.1 101"));
    client.send([0x81, 0, b'\n', b'\r', b'\n', 0]).await;
    assert_eq!(server.bytes(6).await, [0x81, 0, b'\n', b'\r', b'\n', 0]);
    drop((client, server));
    proxy.drain().await;
}

/// While the answer to an upgrade was awaited nobody read, and a client that left was waited for.
#[tokio::test]
async fn a_client_that_leaves_before_its_upgrade_is_answered_frees_the_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    client.reset();
    assert_eq!(server.rest().await, "", "the upstream's connection is closed");
    proxy.drain().await;
}

#[tokio::test]
async fn h2c_and_upgrades_with_a_body_are_answered_as_plain_requests() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    for ask in [
        "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n\r\n",
        "POST / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\ncontent-length: 2\r\n\r\nhi",
        "GET / HTTP/1.1\r\nhost: a\r\nupgrade: websocket\r\n\r\n", // not named by Connection
    ] {
        let mut client = Peer::say(&proxy, ask).await;
        let (server, head) = upstream.answer(OK).await;
        assert_eq!((field(&head, "upgrade"), field(&head, "connection")), (None, None), "{head}");
        assert!(client.head().await.starts_with("HTTP/1.1 200"));
        server.reset();
    }
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_that_switches_unasked_is_a_bad_gateway() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, GET).await;
    let _server = upstream.answer(YES).await;
    assert!(client.head().await.starts_with("HTTP/1.1 502"));
    proxy.drain().await;
}

#[tokio::test]
async fn a_websocket_over_an_http2_stream_is_one_over_http1_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = http2::connect(&proxy).await;
    soon(async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let mut request = Request::builder().method(Method::CONNECT).uri("http://a/chat");
    request = request.header("sec-websocket-version", "13").extension(h2::ext::Protocol::from_static("websocket"));
    let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("GET /chat HTTP/1.1\r\n"), "{head}");
    assert_eq!((field(&head, "connection"), field(&head, "upgrade")), (Some("upgrade"), Some("websocket")), "{head}");
    assert_eq!(field(&head, "sec-websocket-key").map(str::len), Some(24), "{head}");
    server.send(YES).await;
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 200);
    assert!(!response.headers().contains_key("sec-websocket-accept"), "{response:?}");
    let mut receive = response.into_body();
    send.send_data(Bytes::from_static(b"ping"), false).unwrap();
    assert_eq!(server.text(4).await, "ping");
    server.send("pong").await;
    assert_eq!(soon(receive.data()).await.unwrap().unwrap(), "pong");
    send.send_data(Bytes::new(), true).unwrap();
    assert_eq!(server.rest().await, "");
    drop((server, client));
    proxy.drain().await;
}

/// A connection that carries a tunnel alone was told to go as an idle one, and then cut.
#[tokio::test]
async fn a_connection_with_a_live_tunnel_on_it_is_not_idle() {
    let upstream = Upstream::new().await;
    let timeouts = "timeouts: { http2_idle_ms: 50, write_idle_ms: 50, header_read_ms: 50, drain_ms: 2000 }\n";
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", timeouts);
    let mut client = http2::connect(&proxy).await;
    soon(async {
        while !client.is_extended_connect_protocol_enabled() {
            tokio::task::yield_now().await;
        }
    })
    .await;
    let request = Request::builder().method(Method::CONNECT).uri("http://a/chat");
    let request = request.header("sec-websocket-version", "13").extension(h2::ext::Protocol::from_static("websocket"));
    let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(YES).await;
    let mut receive = soon(response).await.unwrap().into_body();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(40)).await;
        send.send_data(Bytes::from_static(b"ping"), false).unwrap();
        assert_eq!(server.text(4).await, "ping");
        server.send("pong").await;
        assert_eq!(soon(receive.data()).await.unwrap().unwrap(), "pong");
    }
    drop((server, client, send, receive));
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_of_http2_cannot_be_upgraded_nor_tunnelled_to() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", ", protocol: h2", "");
    let mut client = http2::connect(&proxy).await;
    let request = Request::builder().method(Method::CONNECT).uri("http://a/chat");
    let request = request.extension(h2::ext::Protocol::from_static("websocket")).body(()).unwrap();
    let (response, _send) = client.send_request(request, false).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-weir-reason"]),
        (501, &"upgrade_unsupported".parse().unwrap())
    );
    // a client of HTTP/1.1 was answered as if it had not asked, by an upstream that could make nothing of it
    let mut over_http1 = Peer::say(&proxy, ASK).await;
    let head = over_http1.head().await;
    assert!(head.starts_with("HTTP/1.1 501"), "{head}");
    assert_eq!(field(&head, "x-weir-reason"), Some("upgrade_unsupported"));
    assert!(upstream.is_left_alone().await);
    drop((client, over_http1));
    proxy.drain().await;
}

#[tokio::test]
async fn a_tunnel_in_which_nothing_moves_is_closed() {
    let upstream = Upstream::new().await;
    let timeouts = "timeouts: { tunnel_idle_ms: 50, drain_ms: 2000 }\n";
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", timeouts);
    let mut client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(YES).await;
    client.head().await;
    assert_eq!((client.rest().await, server.rest().await), (String::new(), String::new()));
    proxy.drain().await;
}

/// Whoever let its connection become a tunnel had room for another one, and so without an end.
#[tokio::test]
async fn a_tunnel_is_an_open_connection() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "max_connections_per_client: 1\n");
    let mut client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send(format!("{YES}early")).await;
    client.head().await;
    assert_eq!(client.text(5).await, "early");
    assert_eq!(Peer::connect(&proxy).await.rest().await, "");
    assert_eq!(proxy.counters().connections_refused, 1);
    client.send("still there").await;
    assert_eq!(server.text(11).await, "still there");
    drop(client);
    assert_eq!(server.rest().await, "");
    drop(server);
    // the place is free once the proxy has seen that; until then newcomers are closed
    let mut clients = vec![Peer::say(&proxy, GET).await];
    while upstream.is_left_alone().await {
        clients.push(Peer::say(&proxy, GET).await);
    }
    proxy.drain().await;
}
