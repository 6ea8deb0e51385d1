//! Plain TCP, alone on a listener or beside HTTP.

use crate::peer::{Peer, Upstream, proxy, until, with};

const TCP: &str = "protocol: tcp, upstream: app";
const BOTH: &str = "protocol: detect, upstream: app, routes: [{ upstream: app }]";

#[tokio::test]
async fn bytes_pass_both_ways_and_each_end_on_its_own() {
    let upstream = Upstream::new().await;
    let away = "telemetry: { otlp: \"http://127.0.0.1:1\", retry_ms: 1, flush_ms: 1 }\n";
    let proxy = with(&upstream, TCP, "", away);
    let mut client = Peer::say(&proxy, "\u{0}question").await;
    let mut server = upstream.accept().await;
    assert_eq!(server.text(9).await, "\u{0}question");
    client.half_close().await;
    assert_eq!(server.rest().await, "");
    server.send("answer").await;
    drop(server);
    assert_eq!(client.rest().await, "answer");
    let counters = proxy.drain().await;
    assert_eq!((counters.tunnels, counters.requests), (1, 0), "a connection is no request");
    assert_eq!(counters.spans_recorded, 1, "but it has a span");
}

#[tokio::test]
async fn the_server_may_speak_first() {
    let upstream = Upstream::new().await;
    for listener in [TCP, BOTH] {
        let proxy = with(&upstream, listener, "", "timeouts: { detect_ms: 50, drain_ms: 2000 }\n");
        let mut client = Peer::connect(&proxy).await;
        let mut server = upstream.accept().await;
        server.send("220 mesh ESMTP\r\n").await;
        assert_eq!(client.until(b"\r\n").await, "220 mesh ESMTP\r\n");
        client.send("HELO a\r\n").await;
        assert_eq!(server.until(b"\r\n").await, "HELO a\r\n");
        drop((client, server));
        proxy.drain().await;
    }
}

#[tokio::test]
async fn a_listener_for_both_tells_them_apart() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, BOTH, "", "");
    let mut redis = Peer::say(&proxy, "*1\r\n$4\r\nPING\r\n").await;
    let mut server = upstream.accept().await;
    assert_eq!(server.text(14).await, "*1\r\n$4\r\nPING\r\n");
    server.send("+PONG\r\n").await;
    assert_eq!(redis.until(b"\r\n").await, "+PONG\r\n");

    let mut browser = Peer::say(&proxy, "GET / HT").await;
    browser.send("TP/1.1\r\nhost: a\r\n\r\n").await;
    let (_held, head) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(head.contains("via: 1.1 weir-"), "it was read as HTTP: {head}");
    assert!(browser.head().await.starts_with("HTTP/1.1 200"));
    drop((redis, server));
    let counters = proxy.drain().await;
    assert_eq!((counters.tunnels, counters.requests), (1, 1));
}

#[tokio::test]
async fn where_only_http_is_taken_other_bytes_are_refused() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "*1\r\n$4\r\nPING\r\n").await;
    assert!(client.rest().await.starts_with("HTTP/1.1 400"));
    assert!(upstream.is_left_alone().await);
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_that_is_away_closes_the_client() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, TCP, "", "");
    drop(upstream);
    let mut client = Peer::connect(&proxy).await;
    assert_eq!(client.rest().await, "");
    proxy.drain().await;
}

#[tokio::test]
async fn a_reset_passes_and_a_drain_ends_what_is_left() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, TCP, "", "timeouts: { drain_ms: 50 }\n");
    let client = Peer::say(&proxy, "x").await;
    let mut server = upstream.accept().await;
    server.text(1).await;
    client.reset();
    assert_eq!(server.rest().await, "");
    let mut second = Peer::say(&proxy, "y").await;
    let mut server = upstream.accept().await;
    server.text(1).await;
    until(|| proxy.counters().tunnels == 2).await;
    proxy.drain().await;
    assert_eq!((second.rest().await, server.rest().await), (String::new(), String::new()));
}
