//! What belongs to one connection stays there: keep-alive, pipelining, resets, fields for one hop only.

use crate::peer::{Peer, Upstream, field, proxy, with};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn fields_for_one_hop_go_no_further() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let ask = "GET / HTTP/1.1\r\nhost: a\r\nconnection: x-private, keep-alive, host\r\nx-private: 1\r\n\
        keep-alive: timeout=5\r\nproxy-connection: keep-alive\r\nproxy-authorization: basic x\r\nte: gzip, trailers\r\n\
        upgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\nx-public: 1\r\n\r\n";
    let mut client = Peer::say(&proxy, ask).await;
    let answer = "HTTP/1.1 200 OK\r\nconnection: x-own\r\nx-own: 1\r\nkeep-alive: timeout=1\r\nx-public: 1\r\n\
        content-length: 0\r\nproxy-authenticate: basic\r\n\r\n";
    let (_server, head) = upstream.answer(answer).await;
    let gone = [
        "connection",
        "x-private",
        "keep-alive",
        "proxy-connection",
        "proxy-authorization",
        "te",
        "upgrade",
        "http2-settings",
    ];
    for name in gone {
        assert_eq!(field(&head, name), None, "{head}");
    }
    assert_eq!((field(&head, "host"), field(&head, "x-public")), (Some("a"), Some("1")), "{head}");
    let head = client.head().await;
    for name in ["connection", "x-own", "keep-alive", "proxy-authenticate"] {
        assert_eq!(field(&head, name), None, "{head}");
    }
    assert_eq!(field(&head, "x-public"), Some("1"), "{head}");
    proxy.drain().await;
}

#[tokio::test]
async fn pipelined_requests_are_answered_in_turn() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let post = "POST /2 HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\n\r\nGET /x";
    let mut client = Peer::say(&proxy, &format!("GET /1 HTTP/1.1\r\nhost: a\r\n\r\n{post}{GET}")).await;
    let mut server = upstream.accept().await;
    for (line, body) in [("GET /1 ", ""), ("POST /2 ", "GET /x"), ("GET / ", "")] {
        let head = server.head().await;
        assert!(head.starts_with(line), "{head}");
        assert_eq!(server.text(body.len()).await, body);
        server.send(format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{line}", line.len())).await;
    }
    for line in ["GET /1 ", "POST /2 ", "GET / "] {
        client.head().await;
        assert_eq!(client.text(line.len()).await, line);
    }
    proxy.drain().await;
}

#[tokio::test]
async fn a_bad_request_behind_a_good_one_is_refused_in_its_turn() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, &format!("{GET}GET / HTTP/1.1\r\nhost : a\r\n\r\n{GET}")).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nfirst").await;
    let answers = client.rest().await;
    let (first, second) = answers.split_once("first").expect("the good one is answered");
    assert!(first.starts_with("HTTP/1.1 200") && second.starts_with("HTTP/1.1 400"), "{answers}");
    assert_eq!(second.matches("HTTP/1.1").count(), 1, "nothing after it is read: {answers}");
    let counters = proxy.drain().await;
    assert_eq!((counters.requests, counters.requests_refused), (1, 1));
}

#[tokio::test]
async fn a_kept_connection_that_closed_is_not_the_clients_business() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, GET).await;
    let (server, _) = upstream.answer(OK).await;
    client.head().await;
    server.reset();
    client.send(GET).await;
    let _held = upstream.answer(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_that_closes_with_its_answer_is_not_used_again() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::connect(&proxy).await;
    for _ in 0..3 {
        client.send(GET).await;
        let _gone = upstream.answer("HTTP/1.1 200 OK\r\nconnection: close\r\ncontent-length: 0\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(field(&head, "connection"), None, "the client's connection is another matter: {head}");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn a_reset_upstream_is_a_bad_gateway_and_the_client_stays() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, GET).await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.reset();
    let head = client.head().await;
    assert!(head.starts_with("HTTP/1.1 502"), "{head}");
    assert_eq!(field(&head, "x-weir-reason"), Some("upstream_reset"));
    let length = field(&head, "content-length").unwrap().parse().unwrap();
    client.bytes(length).await;
    client.send(GET).await;
    let _held = upstream.answer(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    proxy.drain().await;
}

#[tokio::test]
async fn a_client_that_leaves_frees_the_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    for half_close in [false, true] {
        let mut client = Peer::say(&proxy, GET).await;
        let mut server = upstream.accept().await;
        server.head().await;
        // the end of what a client says cannot be told from its leaving, and work for nobody is the dearer mistake
        match half_close {
            true => client.half_close().await,
            false => client.reset(),
        }
        assert_eq!(server.rest().await, "", "the upstream's connection is closed");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn heads_up_to_the_bound_pass() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let long = "x".repeat(32 * 1024);
    let mut client = Peer::say(&proxy, &format!("GET / HTTP/1.1\r\nhost: a\r\nx-long: {long}\r\n\r\n")).await;
    let (_server, head) =
        upstream.answer(&format!("HTTP/1.1 200 OK\r\nx-long: {long}\r\ncontent-length: 0\r\n\r\n")).await;
    assert_eq!(field(&head, "x-long"), Some(long.as_str()));
    assert_eq!(field(&client.head().await, "x-long"), Some(long.as_str()));
    proxy.drain().await;
}

#[tokio::test]
async fn one_connection_too_many_is_closed_and_counted() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "max_connections: 2\n");
    let (first, _second) = (Peer::connect(&proxy).await, Peer::connect(&proxy).await);
    let mut third = Peer::connect(&proxy).await;
    assert_eq!(third.rest().await, "");
    assert_eq!(proxy.counters().connections_refused, 1);
    drop(first);
    // the place is free once the proxy has seen that; until then newcomers are closed
    let mut clients = vec![Peer::say(&proxy, GET).await];
    while upstream.is_left_alone().await {
        clients.push(Peer::say(&proxy, GET).await);
    }
    proxy.drain().await;
}

/// What a burst left behind was looked at only when it was wanted again.
#[tokio::test]
async fn connections_that_a_burst_left_behind_are_closed() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", ", pool_idle_ms: 300", "");
    let (mut clients, mut servers) = (Vec::new(), Vec::new());
    for _ in 0..5 {
        clients.push(Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await);
        servers.push(upstream.accept().await);
    }
    for server in &mut servers {
        server.head().await;
        server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    }
    for client in &mut clients {
        client.head().await;
    }
    for server in &mut servers {
        assert_eq!(server.rest().await, "", "closed by the proxy");
    }
    proxy.drain().await;
}
