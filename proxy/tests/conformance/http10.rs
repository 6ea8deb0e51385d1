//! HTTP/1.0 clients: they close after each answer unless they say otherwise, and know no chunks.

use crate::peer::{Peer, Upstream, field, proxy};

#[tokio::test]
async fn a_client_without_host_is_served_and_closed() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "GET /a HTTP/1.0\r\n\r\n").await;
    let (_held, head) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nok").await;
    assert!(head.starts_with("GET /a HTTP/1.1\r\n"), "the hop to the upstream has its own version: {head}");
    assert_eq!(field(&head, "host"), Some(upstream.address.to_string().as_str()));
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.0 200 OK\r\n") && answer.ends_with("\r\n\r\nok"), "{answer}");
    proxy.drain().await;
}

#[tokio::test]
async fn chunks_become_a_body_that_ends_with_the_connection() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "GET / HTTP/1.0\r\nhost: a\r\n\r\n").await;
    let chunked = "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n4\r\ndefg\r\n0\r\n\r\n";
    let _held = upstream.answer(chunked).await;
    let answer = client.rest().await;
    assert_eq!(field(&answer, "transfer-encoding"), None);
    assert!(answer.ends_with("\r\n\r\nabcdefg"), "{answer}");
    proxy.drain().await;
}

#[tokio::test]
async fn keep_alive_is_honoured_when_it_is_asked_for() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let ask = "GET / HTTP/1.0\r\nhost: a\r\nconnection: keep-alive\r\n\r\n";
    let mut client = Peer::say(&proxy, ask).await;
    let (mut server, head) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n1").await;
    assert_eq!(field(&head, "connection"), None, "{head}");
    let answer = client.head().await;
    assert_eq!(field(&answer, "connection"), Some("keep-alive"), "{answer}");
    assert_eq!(client.text(1).await, "1");
    client.send(ask).await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 1\r\n\r\n2").await;
    client.head().await;
    assert_eq!(client.text(1).await, "2");
    proxy.drain().await;
}
