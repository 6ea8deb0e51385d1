//! The bounds on what one client may cost: size of heads and bodies, and the time it may take.

use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    frames::{CONTINUATION, DATA, END_HEADERS, END_STREAM, GET, HEADERS, POST, frame, open},
    http2,
    peer::{Peer, Upstream, field, metric, proxy, soon, with},
};

const ROUTES: &str = "routes: [{ upstream: app }]";

#[tokio::test]
async fn heads_are_bounded_in_bytes_and_fields() {
    let upstream = Upstream::new().await;
    let fields = |n: usize| (0..n).map(|i| format!("x-{i}: 1\r\n")).collect::<String>();
    let long = |n: usize| format!("x: {}\r\n", "y".repeat(n));
    for (more, many, expected) in [
        ("", fields(101), "HTTP/1.1 431"),
        ("http: { max_headers: 10 }\n", fields(10), "HTTP/1.1 431"),
        ("http: { max_headers: 200 }\n", fields(201), "HTTP/1.1 431"),
        ("", long(61 * 1024), "HTTP/1.1 431"),
        ("http: { max_header_bytes: 8192 }\n", long(9 * 1024), "HTTP/1.1 431"),
    ] {
        let proxy = with(&upstream, ROUTES, "", more);
        let mut client = Peer::say(&proxy, &format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n")).await;
        let answer = client.rest().await;
        assert!(answer.starts_with(expected), "{more}: {answer}");
        proxy.drain().await;
    }
    assert!(upstream.is_left_alone().await);
}

#[tokio::test]
async fn bodies_are_bounded_whether_announced_or_not() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ROUTES, "", "http: { max_body_bytes: 8 }\n");
    let mut client =
        Peer::say(&proxy, "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 9\r\n\r\n123456789")
            .await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert_eq!(field(&answer, "x-weir-reason"), Some("request_too_large"));
    assert!(upstream.is_left_alone().await, "what is too long from the start is not passed on");

    let ask = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
    let mut client = Peer::say(&proxy, &format!("{ask}8\r\n12345678\r\n")).await;
    let mut server = upstream.accept().await;
    server.until(b"12345678\r\n").await;
    client.send("1\r\n9\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 413"), "{answer}");
    assert!(!server.rest().await.ends_with("0\r\n\r\n"), "the upstream is not told that this was all");

    let mut client = http2::connect(&proxy).await;
    let request = http::Request::post("http://a/").body(()).unwrap();
    let (response, mut send) = client.send_request(request, false).unwrap();
    send.send_data("123456789".into(), false).unwrap();
    let _server = upstream.accept().await;
    assert_eq!(soon(response).await.unwrap().status(), 413);
    drop((client, send));
    proxy.drain().await;
}

#[tokio::test]
async fn chunks_that_break_their_frames_are_the_clients_fault() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let ask = "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n";
    let mut client = Peer::say(&proxy, ask).await;
    let mut server = upstream.accept().await;
    server.until(b"ab\r\n").await;
    client.send("0x2\r\ncd\r\n").await;
    let answer = client.rest().await;
    assert!(answer.starts_with("HTTP/1.1 400") && answer.contains("request_malformed"), "{answer}");
    assert_eq!(metric(&proxy, "weir_proxy_refused_requests_total{reason=\"chunk\"}").await, 1);
    proxy.drain().await;
}

#[tokio::test]
async fn heads_that_drip_are_cut() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ROUTES, "", "timeouts: { header_read_ms: 100, drain_ms: 2000 }\n");
    for opening in ["", "G", "GET / HTTP/1.1\r\nhost: a\r\nx: ", "PRI * HTTP/2.0\r\n\r\nSM"] {
        let (mut read, mut write) = Peer::say(&proxy, opening).await.stream.into_split();
        // byte after byte does not win time
        let drip = tokio::spawn(async move {
            while write.write_all(b"x").await.is_ok() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = soon(read.read_to_end(&mut answer)).await;
        drip.abort();
        let answer = String::from_utf8_lossy(&answer);
        assert!(!answer.contains(" 200 "), "{opening:?}: {answer}");
    }
    assert!(upstream.is_left_alone().await);
    proxy.drain().await;
}

#[tokio::test]
async fn bodies_that_drip_or_stop_are_cut() {
    let upstream = Upstream::new().await;
    let announced = "content-length: 100\r\n\r\nx";
    let stream = "transfer-encoding: chunked\r\n\r\n1\r\nx\r\n";
    for (timeouts, framing) in [("header_read_ms: 100", announced), ("body_idle_ms: 100", stream)] {
        let more = format!("timeouts: {{ {timeouts}, drain_ms: 2000 }}\n");
        let proxy = with(&upstream, ROUTES, "", &more);
        let mut client = Peer::say(&proxy, &format!("POST / HTTP/1.1\r\nhost: a\r\n{framing}")).await;
        let _server = upstream.accept().await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 408"), "{timeouts}: {answer}");
        assert_eq!(field(&answer, "x-weir-reason"), Some("request_too_slow"));
        assert_eq!(proxy.drain().await.slow_clients, 1);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_its_answer_is_cut() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, ROUTES, "", "timeouts: { write_idle_ms: 100, drain_ms: 2000 }\n");
    let _client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let (mut server, _) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 100000000\r\n\r\n").await;
    let chunk = vec![b'x'; 1 << 20];
    soon(async { while tokio::io::AsyncWriteExt::write_all(&mut server.stream, &chunk).await.is_ok() {} }).await;
    assert_eq!(proxy.drain().await.slow_clients, 1);
}

/// Over HTTP/2 a client in the middle of a head was once told to go and then waited for, up to the first
/// unanswered PING.
#[tokio::test]
async fn over_http2_neither_heads_nor_bodies_drip() {
    let upstream = Upstream::new().await;
    let more = "timeouts: { http2_idle_ms: 200, header_read_ms: 200, write_idle_ms: 300, drain_ms: 2000 }\nhttp: { min_body_bytes_per_s: 1000 }\n";
    let proxy = with(&upstream, ROUTES, "", more);
    // a literal field of 4 KiB, of which only the beginning comes, and a body of 1,000 bytes
    let unfinished = frame(HEADERS, END_STREAM, 1, &[GET, &[0, 1, b'x', 0x7f, 0x81, 0x1f]].concat());
    let unsent = frame(HEADERS, END_HEADERS, 1, &[POST, &[0x0f, 0x0d, 4], b"1000"].concat());
    for (opening, drop) in [
        (unfinished.clone(), Vec::new()),
        (unfinished, frame(CONTINUATION, 0, 1, b"y")),
        (unsent, frame(DATA, 0, 1, b"x")),
    ] {
        let mut peer = open(&proxy).await;
        peer.send(opening).await;
        let (mut read, mut write) = peer.stream.into_split();
        let drip = tokio::spawn(async move {
            while write.write_all(&drop).await.is_ok() {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let mut answer = Vec::new();
        let _ = soon(read.read_to_end(&mut answer)).await;
        drip.abort();
    }
    assert_eq!(proxy.drain().await.slow_clients, 1, "the body");
}
