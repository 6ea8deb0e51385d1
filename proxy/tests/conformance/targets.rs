//! What a request is for: absolute form, authority, `OPTIONS *`, `CONNECT`, and requests that come round.

use weir_proxy::{Config, Proxy};

use crate::peer::{Peer, Upstream, field, proxy, soon, with};

const OK: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";

#[tokio::test]
async fn the_target_decides_and_the_upstream_gets_a_path() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    for (ask, line, host) in [
        ("GET http://b/x?y=1 HTTP/1.1\r\nhost: a", "GET /x?y=1 HTTP/1.1", "b"), // RFC 9112 §3.2.2
        ("GET http://b:81 HTTP/1.1\r\nhost: b:81", "GET / HTTP/1.1", "b:81"),
        ("GET http://b?q HTTP/1.1\r\nhost: b", "GET /?q HTTP/1.1", "b"),
        ("GET /a%20b//c HTTP/1.1\r\nhost: A.b", "GET /a%20b//c HTTP/1.1", "A.b"),
        ("GET / HTTP/1.1\r\nhost: [::1]:80", "GET / HTTP/1.1", "[::1]:80"),
        ("OPTIONS * HTTP/1.1\r\nhost: a", "OPTIONS * HTTP/1.1", "a"),
        ("PURGE /odd HTTP/1.1\r\nhost: a", "PURGE /odd HTTP/1.1", "a"),
    ] {
        let mut client = Peer::say(&proxy, &format!("{ask}\r\nconnection: close\r\n\r\n")).await;
        let (server, head) = upstream.answer(OK).await;
        assert_eq!(head.lines().next(), Some(line), "{ask}");
        assert_eq!(field(&head, "host"), Some(host), "{ask}");
        assert!(client.rest().await.starts_with("HTTP/1.1 200"), "{ask}");
        server.reset(); // each request gets a connection of its own
    }
    proxy.drain().await;
}

#[tokio::test]
async fn connect_is_refused_unless_the_listener_tunnels() {
    let upstream = Upstream::new().await;
    let refusing = proxy(&upstream);
    let mut client = Peer::say(&refusing, "CONNECT app:443 HTTP/1.1\r\nhost: app:443\r\n\r\n").await;
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 405"), "{answer}");
    assert_eq!(field(&answer, "x-weir-reason"), Some("connect_refused"));
    assert!(upstream.is_left_alone().await);
    refusing.drain().await;

    let routes = "connect: tunnelled, routes: [{ match: { host: app }, upstream: app }]";
    let tunnelling = with(&upstream, routes, "", "");
    let elsewhere = "CONNECT other.example:443 HTTP/1.1\r\nhost: other.example:443\r\n\r\n";
    let mut client = Peer::say(&tunnelling, elsewhere).await;
    assert!(client.head().await.starts_with("HTTP/1.1 404"), "no route, no tunnel");
    // what the client says at once must not be taken for a request, and comes first
    let mut client = Peer::say(&tunnelling, "CONNECT app:443 HTTP/1.1\r\nhost: app:443\r\n\r\n\u{1}\u{2}hello").await;
    let mut server = upstream.accept().await;
    assert_eq!(server.text(7).await, "\u{1}\u{2}hello");
    let answer = client.head().await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    for length in ["content-length", "transfer-encoding"] {
        assert_eq!(field(&answer, length), None, "a tunnel has no length: {answer}");
    }
    server.send("welcome").await;
    assert_eq!(client.text(7).await, "welcome");
    client.half_close().await;
    assert_eq!(server.rest().await, "");
    drop(server);
    assert_eq!(client.rest().await, "");
    let counters = tunnelling.drain().await;
    assert_eq!(counters.tunnels, 1);
}

#[tokio::test]
async fn a_request_that_comes_round_is_ended() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let address = free.local_addr().unwrap();
    drop(free);
    for protocol in ["http1", "h2"] {
        let text = format!(
            "service: app\nthreads: 1\n\
             listeners: [{{ address: {address}, direction: outbound, routes: [{{ upstream: itself }}] }}]\n\
             upstreams: [{{ name: itself, endpoints: [\"{address}\"], protocol: {protocol} }}]\n"
        );
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let mut client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
        let answer = client.rest().await;
        assert!(answer.starts_with("HTTP/1.1 508"), "{protocol}: {answer}");
        assert_eq!(field(&answer, "x-weir-reason"), Some("loop"));
        assert_eq!(soon(proxy.drain()).await.requests, 2, "once out, once back");
    }
}

#[tokio::test]
async fn others_on_the_way_are_kept_and_ours_is_added() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let _client = Peer::say(&proxy, "GET / HTTP/1.1\r\nhost: a\r\nvia: 1.1 edge\r\n\r\n").await;
    let (_server, head) = upstream.answer(OK).await;
    let via: Vec<&str> = head.lines().filter_map(|line| line.strip_prefix("via: ")).collect();
    assert!(via.len() == 2 && via[0] == "1.1 edge" && via[1].starts_with("1.1 weir-"), "{head}");
    proxy.drain().await;
}
