//! Back-pressure: who reads slowly slows the writer down, and nothing is gathered in between; and when memory is at its bound
//! all the same, nothing new is let in.

use tokio::io::AsyncWriteExt;

use crate::{
    http2,
    peer::{Peer, Upstream, file, metric, proxy, soon, with},
};

/// Far more than the sockets' buffers and the proxy's together may hold.
const LONG_BYTES: usize = 64 << 20;

/// What those buffers may hold.
const BUFFERED_BYTES: usize = 24 << 20;

/// Writes until nothing more is taken for a while; returns how much was.
async fn fill(peer: &mut Peer, most: usize) -> usize {
    let chunk = vec![b'x'; 64 * 1024];
    let mut written = 0;
    while written < most {
        let wait = std::time::Duration::from_millis(300);
        match tokio::time::timeout(wait, peer.stream.write(&chunk)).await {
            Ok(count) => written += count.unwrap(),
            Err(_stalled) => break,
        }
    }
    written
}

#[tokio::test]
async fn a_slow_client_slows_the_upstream() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG_BYTES}\r\n\r\n");
    let (mut server, _) = upstream.answer(&answer).await;
    let written = fill(&mut server, LONG_BYTES).await;
    assert!(written < BUFFERED_BYTES, "{written} bytes were taken for a client that reads none");
    client.head().await;
    let read = client.bytes(written).await;
    assert!(fill(&mut server, 1 << 20).await > 0, "it goes on when the client does");
    drop((client, server, read));
    proxy.drain().await;
}

#[tokio::test]
async fn a_slow_http2_stream_slows_its_upstream_only() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = http2::connect(&proxy).await;
    let get = || http::Request::get("http://a/").body(()).unwrap();
    let (slow, _) = client.send_request(get(), true).unwrap();
    let answer = format!("HTTP/1.1 200 OK\r\ncontent-length: {LONG_BYTES}\r\n\r\n");
    let (mut server, _) = upstream.answer(&answer).await;
    let slow = soon(slow).await.unwrap();
    let written = fill(&mut server, LONG_BYTES).await;
    assert!(written < BUFFERED_BYTES, "{written} bytes were taken for a stream that is not read");
    let (quick, _) = client.send_request(get(), true).unwrap();
    let _quick = upstream.answer("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert_eq!(soon(quick).await.unwrap().status(), 204, "other streams pass it");
    drop((slow, server, client));
    proxy.drain().await;
}

#[tokio::test]
async fn a_slow_upstream_slows_the_client() {
    let upstream = Upstream::new().await;
    for (listener, opening) in [
        ("routes: [{ upstream: app }]", format!("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: {LONG_BYTES}\r\n\r\n")),
        ("protocol: tcp, upstream: app", "x".into()),
    ] {
        let proxy = with(&upstream, listener, "", "timeouts: { drain_ms: 50 }\n");
        let mut client = Peer::say(&proxy, &opening).await;
        let server = upstream.accept().await;
        let written = fill(&mut client, LONG_BYTES).await;
        assert!(written < BUFFERED_BYTES, "{written} bytes were taken for an upstream that reads none");
        drop((client, server));
        proxy.drain().await;
    }
}

/// What is let in stands behind a look of the control thread.
async fn overloaded(proxy: &weir_proxy::Proxy, full: bool) {
    let bound_met = async || {
        let (memory, bound) =
            (metric(proxy, "weir_proxy_memory_bytes").await, metric(proxy, "weir_proxy_memory_bound_bytes").await);
        (memory >= bound) == full
    };
    soon(async { while !bound_met().await {} }).await;
}

#[tokio::test]
async fn nothing_new_is_let_in_while_memory_is_at_its_bound() {
    let upstream = Upstream::new().await;
    let (listener, little) = ("routes: [{ upstream: app }]", "max_memory_mib: 1\n");
    let proxy = with(&upstream, listener, "", "");
    let get = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut client = Peer::say(&proxy, get).await;
    let mut server = upstream.accept().await;

    proxy.reload(file(upstream.address, listener, "", little)).await.unwrap();
    overloaded(&proxy, true).await;
    server.head().await;
    server.send("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await;
    assert!(client.head().await.starts_with("HTTP/1.1 200"), "what is under way goes on");
    client.send(get).await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 503") && answer.contains("x-weir-reason: overloaded"), "{answer}");
    let mut another = Peer::connect(&proxy).await;
    assert_eq!(another.rest().await, "", "closed at once");
    assert_eq!(metric(&proxy, "weir_proxy_overloaded_total").await, 2);

    proxy.reload(file(upstream.address, listener, "", "")).await.unwrap();
    overloaded(&proxy, false).await;
    let mut again = Peer::say(&proxy, get).await;
    server.head().await;
    server.send("HTTP/1.1 204 No Content\r\n\r\n").await;
    assert!(again.head().await.starts_with("HTTP/1.1 204"));
    drop((client, again, server));
    proxy.drain().await;
}
