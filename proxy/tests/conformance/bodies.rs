//! How long a message is: lengths, chunks, trailers, ends of connections, and answers that have no body.

use crate::peer::{Peer, Upstream, field, proxy};

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";

#[tokio::test]
async fn answers_without_a_body_keep_what_they_say_of_it() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::connect(&proxy).await;
    let mut server: Option<Peer> = None;
    for (method, answer, status, length) in [
        ("HEAD", "200 OK\r\ncontent-length: 5", "HTTP/1.1 200", Some("5")),
        ("HEAD", "200 OK\r\ntransfer-encoding: chunked", "HTTP/1.1 200", None),
        ("GET", "204 No Content", "HTTP/1.1 204", None),
        // RFC 9110 §8.6: may be sent, may be left out
        ("GET", "304 Not Modified\r\ncontent-length: 5\r\netag: \"x\"", "HTTP/1.1 304", None),
        ("GET", "200 OK\r\ncontent-length: 0", "HTTP/1.1 200", Some("0")),
        ("DELETE", "200 OK\r\ncontent-length: 0", "HTTP/1.1 200", Some("0")),
    ] {
        // all on one connection: a body that is sent or awaited wrongly would spoil the next
        client.send(format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let server = match &mut server {
            Some(server) => server,
            none => none.insert(upstream.accept().await),
        };
        server.head().await;
        server.send(format!("HTTP/1.1 {answer}\r\n\r\n")).await;
        let head = client.head().await;
        assert!(head.starts_with(status), "{method} {answer}: {head}");
        assert_eq!(field(&head, "content-length"), length, "{method} {answer}: {head}");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn bytes_behind_an_answer_without_a_body_are_nobodys_answer() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    for (method, answer) in [
        ("HEAD", "200 OK\r\ncontent-length: 44"),
        ("GET", "204 No Content\r\ncontent-length: 44"),
        ("GET", "304 Not Modified\r\ncontent-length: 44"),
    ] {
        let mut client = Peer::say(&proxy, &format!("{method} / HTTP/1.1\r\nhost: a\r\n\r\n")).await;
        let stray = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nstray";
        let (_server, _) = upstream.answer(&format!("HTTP/1.1 {answer}\r\n\r\n{stray}")).await;
        client.head().await;
        client.send(GET).await;
        let _second = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nright").await;
        client.head().await;
        assert_eq!(client.text(5).await, "right", "{method} {answer}");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn lengths_and_chunks_pass_as_they_are() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 0\r\n\r\n").await;
    let mut server = upstream.accept().await;
    assert_eq!(field(&server.head().await, "content-length"), Some("0"));
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 3\r\n\r\nabc").await;
    assert_eq!(field(&client.head().await, "content-length"), Some("3"));
    assert_eq!(client.text(3).await, "abc");

    client.send("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n").await;
    let head = server.head().await;
    assert_eq!(field(&head, "transfer-encoding"), Some("chunked"), "{head}");
    assert_eq!(field(&head, "content-length"), None, "{head}");
    assert_eq!(server.until(b"abc\r\n").await, "3\r\nabc\r\n");
    client.send("0\r\n\r\n").await;
    assert_eq!(server.until(b"0\r\n\r\n").await, "0\r\n\r\n");
    server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\nx\r\n").await;
    assert_eq!(field(&client.head().await, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.until(b"x\r\n").await, "1\r\nx\r\n", "a chunk is passed on before the next comes");
    server.send("0\r\n\r\n").await;
    assert_eq!(client.until(b"0\r\n\r\n").await, "0\r\n\r\n");

    client.send("GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let head = server.head().await;
    let framed = ["content-length", "transfer-encoding"].map(|name| field(&head, name));
    assert_eq!(framed, [None, None], "no body is not an empty body: {head}");
    proxy.drain().await;
}

#[tokio::test]
async fn trailers_pass_both_ways() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let ask = "POST / HTTP/1.1\r\nhost: a\r\nte: trailers\r\nconnection: te\r\ntrailer: x-sum\r\n\
        transfer-encoding: chunked\r\n\r\n2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n";
    let mut client = Peer::say(&proxy, ask).await;
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert_eq!((field(&head, "te"), field(&head, "trailer")), (Some("trailers"), Some("x-sum")), "{head}");
    let body = server.until(b"\r\n\r\n").await;
    assert_eq!(body, "2\r\nhi\r\n0\r\nx-sum: 1\r\n\r\n");
    let answer =
        "HTTP/1.1 200 OK\r\ntrailer: x-took\r\ntransfer-encoding: chunked\r\n\r\n2\r\nok\r\n0\r\nx-took: 2\r\n\r\n";
    server.send(answer).await;
    client.head().await;
    assert_eq!(client.until(b"\r\n\r\n").await, "2\r\nok\r\n0\r\nx-took: 2\r\n\r\n");
    proxy.drain().await;
}

#[tokio::test]
async fn a_body_that_ends_with_the_connection_becomes_chunks() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, GET).await;
    let (mut server, _) = upstream.answer("HTTP/1.1 200 OK\r\n\r\nto the ").await;
    assert_eq!(field(&client.head().await, "transfer-encoding"), Some("chunked"));
    assert_eq!(client.until(b"to the \r\n").await, "7\r\nto the \r\n");
    server.send("end").await;
    drop(server);
    assert_eq!(client.until(b"0\r\n\r\n").await, "3\r\nend\r\n0\r\n\r\n");
    client.send(GET).await;
    let _held = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    client.head().await; // the client's connection lasted
    proxy.drain().await;
}

#[tokio::test]
async fn what_breaks_off_is_not_passed_for_whole() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    for answer in [
        "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n4\r\nhalf\r\nzz\r\n",
    ] {
        let mut client = Peer::say(&proxy, GET).await;
        let (server, _) = upstream.answer(answer).await;
        client.until(b"half").await;
        drop(server);
        let rest = client.rest().await;
        assert!(!rest.ends_with("0\r\n\r\n"), "{answer:?} became {rest:?}");
    }
    proxy.drain().await;
}

#[tokio::test]
async fn an_early_answer_ends_the_upload() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nsome").await;
    let mut server = upstream.accept().await;
    server.head().await;
    server.text(4).await;
    server.send("HTTP/1.1 413 Payload Too Large\r\ncontent-length: 0\r\nconnection: close\r\n\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(server.rest().await, "", "the rest is not sent there");
    proxy.drain().await;
}

#[tokio::test]
async fn an_answer_may_begin_while_the_request_goes_on() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let ask = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\none\r\n";
    let mut client = Peer::say(&proxy, ask).await;
    let mut server = upstream.accept().await;
    server.until(b"one\r\n").await;
    server.send("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n1\r\na\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"));
    assert_eq!(client.until(b"a\r\n").await, "1\r\na\r\n");
    client.send("3\r\ntwo\r\n").await;
    assert_eq!(server.until(b"two\r\n").await, "3\r\ntwo\r\n");
    server.send("1\r\nb\r\n").await;
    assert_eq!(client.until(b"b\r\n").await, "1\r\nb\r\n");
    client.send("0\r\n\r\n").await;
    assert_eq!(server.until(b"0\r\n\r\n").await, "0\r\n\r\n");
    server.send("0\r\n\r\n").await;
    assert_eq!(client.until(b"0\r\n\r\n").await, "0\r\n\r\n");
    proxy.drain().await;
}
