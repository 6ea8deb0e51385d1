//! HTTP/2 on either side, and the way from one version to the other.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use bytes::Bytes;
use h2::{Reason, client, server};
use http::{HeaderMap, Request, Response};
use tokio::net::{TcpListener, TcpStream};
use weir_proxy::Proxy;

use crate::peer::{Peer, Upstream, at, field, proxy, soon, until, with};

pub(crate) async fn connect(proxy: &Proxy) -> client::SendRequest<Bytes> {
    let stream = TcpStream::connect(proxy.addresses()[0]).await.unwrap();
    let (sender, connection) = client::handshake(stream).await.unwrap();
    tokio::spawn(connection);
    soon(sender.ready()).await.unwrap()
}

fn get(uri: &str) -> Request<()> {
    Request::get(uri).body(()).unwrap()
}

/// Gathers a body and the trailers after it.
async fn all(mut body: h2::RecvStream) -> (Vec<u8>, Option<HeaderMap>) {
    let mut bytes = Vec::new();
    while let Some(chunk) = soon(body.data()).await {
        let chunk = chunk.unwrap();
        body.flow_control().release_capacity(chunk.len()).unwrap();
        bytes.extend_from_slice(&chunk);
    }
    (bytes, soon(body.trailers()).await.unwrap())
}

#[tokio::test]
async fn http2_becomes_http1() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = connect(&proxy).await;
    let request =
        Request::post("http://shop:81/a?b=1").header("cookie", "a=1").header("cookie", "b=2").header("te", "trailers");
    let (response, mut send) = client.send_request(request.body(()).unwrap(), false).unwrap();
    send.send_data(Bytes::from_static(b"body"), true).unwrap();
    let mut server = upstream.accept().await;
    let head = server.head().await;
    assert!(head.starts_with("POST /a?b=1 HTTP/1.1\r\n"), "{head}");
    assert_eq!((field(&head, "host"), field(&head, "cookie")), (Some("shop:81"), Some("a=1; b=2")), "{head}");
    assert_eq!(server.until(b"0\r\n\r\n").await, "4\r\nbody\r\n0\r\n\r\n");
    server.send("HTTP/1.1 201 Created\r\nconnection: x-own\r\nx-own: 1\r\ncontent-length: 2\r\n\r\nok").await;
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 201);
    assert!(!response.headers().contains_key("x-own"));
    assert_eq!(all(response.into_body()).await.0, b"ok");
    drop(client);
    proxy.drain().await;
}

#[tokio::test]
async fn http1_becomes_http2_and_a_grpc_status_passes() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = with_h2(&listener);
    let serve = async {
        let (stream, _) = listener.accept().await.unwrap();
        let mut connection = server::handshake(stream).await.unwrap();
        while let Some(request) = connection.accept().await {
            let (request, mut respond) = request.unwrap();
            let uri = request.uri().to_string();
            let response =
                Response::builder().header("content-type", "application/grpc").header("x-uri", uri).body(()).unwrap();
            let mut body = respond.send_response(response, false).unwrap();
            body.send_data(Bytes::from_static(b"message"), false).unwrap();
            body.send_trailers(
                [("grpc-status", "5")].iter().map(|(n, v)| (n.parse().unwrap(), v.parse().unwrap())).collect(),
            )
            .unwrap();
        }
    };
    let ask = async {
        let mut client = connect(&proxy).await;
        let (response, _) = client.send_request(get("http://a/pkg.Service/Method"), true).unwrap();
        let (body, trailers) = all(soon(response).await.unwrap().into_body()).await;
        assert_eq!((body.as_slice(), trailers.unwrap()["grpc-status"].to_str().unwrap()), (&b"message"[..], "5"));
        let mut client = Peer::say(&proxy, "GET /x HTTP/1.1\r\nhost: b\r\n\r\n").await;
        let head = client.head().await;
        assert_eq!(field(&head, "x-uri"), Some("http://b/x"), "{head}");
        assert_eq!(client.until(b"0\r\n\r\n").await, "7\r\nmessage\r\n0\r\n\r\n");
    };
    tokio::select! {
        () = ask => {}
        () = serve => panic!("the upstream's connection ended"),
    }
    proxy.drain().await;
}

#[tokio::test]
async fn a_reset_stream_is_reset_on_the_other_side() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = with_h2(&listener);
    let mut client = connect(&proxy).await;
    let (response, mut send) = client.send_request(get("http://a/"), false).unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut connection = server::handshake(stream).await.unwrap();
    let (_request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    send.send_reset(Reason::CANCEL);
    drop(response);
    tokio::select! {
        reason = soon(std::future::poll_fn(|cx| respond.poll_reset(cx))) => assert_eq!(reason.unwrap(), Reason::CANCEL),
        _ = connection.accept() => panic!("no second request"),
    }
    // and the other way: what the upstream breaks off does not look finished to the client
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    let (_request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    let mut body = respond.send_response(Response::new(()), false).unwrap();
    body.send_data(Bytes::from_static(b"half"), false).unwrap();
    let run = tokio::spawn(async move { while connection.accept().await.is_some() {} });
    let mut received = soon(response).await.unwrap().into_body();
    assert_eq!(soon(received.data()).await.unwrap().unwrap(), "half");
    body.send_reset(Reason::INTERNAL_ERROR);
    assert!(soon(received.data()).await.unwrap().is_err());
    run.abort();
    drop(client);
    proxy.drain().await;
}

#[tokio::test]
async fn when_a_connection_is_full_another_is_opened() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = with_h2(&listener);
    let connections = Arc::new(AtomicUsize::new(0));
    let (release, _) = tokio::sync::broadcast::channel::<()>(1);
    let (waiting, counted) = (release.clone(), connections.clone());
    let waiters = Arc::new(AtomicUsize::new(0));
    let waiters_seen = waiters.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            counted.fetch_add(1, Relaxed);
            let (waiting, waiters) = (waiting.clone(), waiters.clone());
            tokio::spawn(async move {
                let mut connection =
                    server::Builder::new().max_concurrent_streams(2).handshake::<_, Bytes>(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let mut released = waiting.subscribe();
                    waiters.fetch_add(1, Relaxed);
                    tokio::spawn(async move {
                        let _ = released.recv().await;
                        let _ = respond.send_response(Response::new(()), true);
                    });
                }
            });
        }
    });
    let mut client = connect(&proxy).await;
    // the first request learns what the upstream allows
    let ask = |client: &mut client::SendRequest<Bytes>| client.send_request(get("http://a/"), true).unwrap().0;
    let mut responses = vec![ask(&mut client)];
    until(|| waiters_seen.load(Relaxed) == 1).await;
    responses.extend((0..6).map(|_| ask(&mut client)));
    until(|| waiters_seen.load(Relaxed) == 7).await;
    assert_eq!(connections.load(Relaxed), 4, "seven streams, two on each");
    release.send(()).unwrap();
    for response in responses {
        assert_eq!(soon(response).await.unwrap().status(), 200);
    }
    drop(client);
    proxy.drain().await;
}

/// An answer that comes before the request has ended is whole although its stream is reset behind it (RFC 9113 §8.1), and the
/// connection goes on.
#[tokio::test]
async fn an_early_answer_and_a_reset_without_error_is_an_answer() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let proxy = with_h2(&listener);
    let mut client = connect(&proxy).await;
    let upload = Request::post("http://a/").body(()).unwrap();
    let (response, mut send) = client.send_request(upload, false).unwrap();
    send.send_data(Bytes::from_static(b"some"), false).unwrap();
    let (stream, _) = soon(listener.accept()).await.unwrap();
    let mut connection = server::handshake(stream).await.unwrap();
    let (request, mut respond) = soon(connection.accept()).await.unwrap().unwrap();
    let mut body = respond.send_response(Response::builder().status(413).body(()).unwrap(), false).unwrap();
    body.send_data(Bytes::from_static(b"too much"), true).unwrap();
    // nobody reads on: h2 says NO_ERROR behind the answer
    drop((request, respond, body));
    tokio::spawn(async move {
        while let Some(Ok((_, mut respond))) = connection.accept().await {
            respond.send_response(Response::new(()), true).unwrap();
        }
    });
    let response = soon(response).await.unwrap();
    assert_eq!(response.status(), 413);
    assert_eq!(all(response.into_body()).await.0, b"too much");
    drop(send);
    // nobody accepts another connection
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    assert_eq!(soon(response).await.unwrap().status(), 200);
    drop(client);
    proxy.drain().await;
}

#[tokio::test]
async fn what_http2_can_say_twice_must_agree() {
    let upstream = Upstream::new().await;
    let proxy = proxy(&upstream);
    let mut client = connect(&proxy).await;
    let contradiction = Request::get("http://a/").header("host", "b").body(()).unwrap();
    let (response, _) = client.send_request(contradiction, true).unwrap();
    let response = soon(response).await.unwrap();
    assert_eq!(
        (response.status().as_u16(), &response.headers()["x-weir-reason"]),
        (400, &"request_malformed".parse().unwrap())
    );
    assert!(upstream.is_left_alone().await);
    drop(client);
    assert_eq!(proxy.drain().await.requests_refused, 1);
}

#[tokio::test]
async fn a_drain_lets_streams_end_and_takes_no_more() {
    let upstream = Upstream::new().await;
    let proxy = with(&upstream, "routes: [{ upstream: app }]", "", "timeouts: { drain_ms: 20000 }\n");
    let mut client = connect(&proxy).await;
    let (response, _) = client.send_request(get("http://a/"), true).unwrap();
    let (mut server, _) = upstream.answer("HTTP/1.1 200 OK\r\ncontent-length: 8\r\n\r\nhalf").await;
    let mut body = soon(response).await.unwrap().into_body();
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "half");
    let mut admin = Peer::new(TcpStream::connect(proxy.admin_address().unwrap()).await.unwrap());
    admin.send("POST /drain HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n").await;
    assert!(admin.rest().await.starts_with("HTTP/1.1 202"));
    soon(proxy.drain_requested()).await;
    let drained = tokio::spawn(proxy.drain());
    soon(std::future::poll_fn(|cx| match client.poll_ready(cx) {
        // told to go away
        std::task::Poll::Ready(Err(_)) => std::task::Poll::Ready(()),
        _ => {
            cx.waker().wake_by_ref();
            std::task::Poll::Pending
        }
    }))
    .await;
    server.send("half").await;
    assert_eq!(soon(body.data()).await.unwrap().unwrap(), "half");
    assert!(soon(body.data()).await.is_none());
    assert_eq!(soon(drained).await.unwrap().requests, 1);
}

fn with_h2(listener: &TcpListener) -> Proxy {
    at(listener.local_addr().unwrap(), "routes: [{ upstream: app }]", ", protocol: h2", "")
}
