//! `Expect: 100-continue` and other interim answers: the upstream decides whether it wants the body.

use std::time::Duration;

use crate::peer::{Peer, Upstream, field, proxy};

const ASK: &str = "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 4\r\n\r\n";
const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn the_body_waits_for_the_upstreams_word() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!(field(&head, "expect"), Some("100-continue"), "{head}");
    server.send("HTTP/1.1 100 Continue\r\n\r\n").await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(server.text(4).await, "body");
    server.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    proxy.drain().await;
}

#[tokio::test]
async fn a_no_comes_before_the_body_does() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, ASK).await;
    let (mut server, _) = upstream.answer("HTTP/1.1 417 Expectation Failed\r\ncontent-length: 0\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 417"), "no 100 came first: {answer}");
    assert_eq!(server.rest().await, "", "an upstream that waits for a body that never comes is let go");
    proxy.drain().await;
}

#[tokio::test]
async fn an_upstream_that_does_not_know_the_question_gets_the_body_all_the_same() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, ASK).await;
    let mut server = upstream.accept().await;
    server.head().await;
    assert_eq!(client.head().await, "HTTP/1.1 100 Continue\r\n\r\n");
    client.send("body").await;
    assert_eq!(server.text(4).await, "body");
    server.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    proxy.drain().await;
}

#[tokio::test]
async fn interim_answers_are_not_the_answer() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut server, _) =
        upstream.answer("HTTP/1.1 103 Early Hints\r\nlink: </a>\r\n\r\nHTTP/1.1 102 Processing\r\n\r\n").await;
    tokio::time::sleep(Duration::from_millis(10)).await; // so that they come apart from the answer
    server.send(OK).await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    proxy.drain().await;
}
