//! gRPC and streams that an upstream gives up: what counts as a failure, and what may go out again.

use bytes::Bytes;
use h2::server;
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::{io::AsyncWriteExt, net::TcpListener};
use weir_proxy::{Config, Proxy};

use crate::{
    frames::{END_HEADERS, END_STREAM, GOAWAY, HEADERS, SETTINGS, frame},
    http2::connect,
    peer::{Peer, Upstream, soon},
};

/// Flags of a frame of settings: the other side's are taken.
const ACK: u8 = 1;

/// A proxy that tries one endpoint after the other.
fn proxy(endpoints: &[std::net::SocketAddr], route: &str, upstream: &str) -> Proxy {
    let endpoints: Vec<String> = endpoints.iter().map(ToString::to_string).collect();
    let text = format!(
        "service: app\nthreads: 1\ntimeouts: {{ drain_ms: 2000 }}\n\
         listeners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app{route} }}] }}]\n\
         upstreams: [{{ name: app, protocol: h2, balance: round_robin, endpoints: {endpoints:?}{upstream} }}]\n"
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

/// A server of gRPC that sends its head at once and says at the end how it went.
async fn service(status: &'static str) -> std::net::SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let mut connection = server::handshake(stream).await.unwrap();
                while let Some(Ok((_, mut respond))) = connection.accept().await {
                    let head = Response::builder().header("content-type", "application/grpc+proto").body(()).unwrap();
                    let mut body = respond.send_response(head, false).unwrap();
                    body.send_data(Bytes::from_static(b"message"), false).unwrap();
                    let said = (HeaderName::from_static("grpc-status"), HeaderValue::from_static(status));
                    body.send_trailers(HeaderMap::from_iter([said])).unwrap();
                }
            });
        }
    });
    address
}

/// GRPC says in its trailers how it went, and nobody looked at them.
#[tokio::test]
async fn a_status_in_trailers_counts_as_one_in_the_head_does() {
    let proxy = proxy(
        &[service("14").await, service("0").await],
        "",
        ", outlier_detection: { consecutive_gateway_errors: 2, max_ejection_percent: 50 }",
    );
    let mut client = connect(&proxy).await;
    let mut unavailable = 0;
    for _ in 0..20 {
        let (response, _) = client.send_request(Request::post("http://a/s.S/M").body(()).unwrap(), true).unwrap();
        let mut body = soon(response).await.unwrap().into_body();
        while let Some(chunk) = soon(body.data()).await {
            chunk.unwrap();
        }
        let trailers = soon(body.trailers()).await.unwrap().unwrap();
        unavailable += usize::from(trailers["grpc-status"] == "14");
    }
    assert_eq!(unavailable, 2, "two in a row are enough");
    drop(client);
    proxy.drain().await;
}

/// Reads the next frame: its kind, its flags, its stream.
async fn next_frame(peer: &mut Peer) -> (u8, u8, u32) {
    let head = peer.bytes(9).await;
    let length = u32::from_be_bytes([0, head[0], head[1], head[2]]) as usize;
    peer.bytes(length).await;
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]))
}

/// A server that leaves without two phases says which streams it has not looked at, and they were answered
/// with 502.
#[tokio::test]
async fn streams_that_a_goaway_leaves_out_go_elsewhere() {
    let (leaves, stays) = (Upstream::new().await, service("0").await);
    let proxy = proxy(&[leaves.address, stays], ", retries: { on: [refused-stream] }", "");
    let mut client = connect(&proxy).await;
    let post = || Request::post("http://a/s.S/M").body(()).unwrap();
    let ask = |client: &mut h2::client::SendRequest<Bytes>| client.send_request(post(), true).unwrap().0;
    let mut asked = vec![ask(&mut client)];
    let mut server = leaves.accept().await;
    server.until(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await;
    server.send(frame(SETTINGS, 0, 0, &[])).await;
    server.send(frame(SETTINGS, ACK, 0, &[])).await;
    let mut streams = Vec::new();
    while streams.len() < 2 {
        if streams.len() == 1 && asked.len() < 4 {
            // every second one goes to the other endpoint
            asked.extend((0..3).map(|_| ask(&mut client)));
        }
        let (kind, _, stream) = next_frame(&mut server).await;
        if kind == HEADERS {
            streams.push(stream);
        }
    }
    let payload: Vec<u8> = [streams[0].to_be_bytes(), 0_u32.to_be_bytes()].concat();
    server.send(frame(GOAWAY, 0, 0, &payload)).await;
    // `:status 200`
    server.send(frame(HEADERS, END_HEADERS | END_STREAM, streams[0], &[0x88])).await;
    for answer in asked {
        assert_eq!(soon(answer).await.unwrap().status(), 200);
    }
    drop((client, server));
    assert_eq!(proxy.drain().await.retries, 1);
}

#[tokio::test]
async fn our_own_answers_invite_to_try_again_only_where_that_helps() {
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    for (route, request_bytes, expected) in [
        (", match: { path: /none }", 0, "12"),
        ("", 0, "14"),
        ("", 100, "8"),
        (", fault: { abort: { status: 403 } }", 0, "7"),
    ] {
        let text = format!(
            "service: app\nthreads: 1\nhttp: {{ max_body_bytes: 10 }}\n\
             listeners: [{{ address: \"127.0.0.1:0\", direction: inbound, routes: [{{ upstream: app{route} }}] }}]\n\
             upstreams: [{{ name: app, endpoints: [\"{nobody}\"] }}]\n"
        );
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let mut client = connect(&proxy).await;
        let request = Request::post("http://a/s.S/M").header("content-type", "application/grpc");
        let request = request.header("content-length", request_bytes).body(()).unwrap();
        let (response, mut body) = client.send_request(request, request_bytes == 0).unwrap();
        if request_bytes > 0 {
            // it may be refused before it is sent
            let _ = body.send_data(vec![b'x'; request_bytes].into(), true);
        }
        let response = soon(response).await.unwrap();
        let status = (response.status().as_u16(), response.headers()["grpc-status"].to_str().unwrap());
        assert_eq!(status, (200, expected), "{route} {request_bytes}");
        drop(client);
        proxy.drain().await;
    }
}

/// To the default protocol it was `upstream_reset`, which said nothing to anybody and ejected endpoints.
#[tokio::test]
async fn grpc_over_http1_is_named_and_nobody_s_fault() {
    for (eager, kind, reason) in [
        (true, "application/grpc", "grpc_over_http1"),
        (false, "application/grpc+proto", "grpc_over_http1"),
        (false, "application/grpc-web", "upstream_reset"),
        (false, "text/plain", "upstream_reset"),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                // some servers say their settings before they hear what is no preface
                if eager {
                    stream.write_all(&frame(SETTINGS, 0, 0, &[])).await.unwrap();
                }
                let _ = server::handshake(stream).await;
            }
        });
        let once = ", outlier_detection: { consecutive_5xx: 1, max_ejection_percent: 100 }, panic_threshold_percent: 0";
        let text = format!(
            "service: app\nthreads: 1\n\
             listeners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}]\n\
             upstreams: [{{ name: app, endpoints: ['{address}']{once} }}]\n"
        );
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        let ask = async || {
            let request = format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-type: {kind}\r\ncontent-length: 1\r\nconnection: close\r\n\r\nx"
            );
            Peer::say(&proxy, &request).await.rest().await
        };
        let (first, second) = (ask().await, ask().await);
        assert!(first.contains(&format!("x-weir-reason: {reason}\r\n")), "{kind}: {first}");
        let named = reason == "grpc_over_http1";
        assert_eq!(first.contains("grpc-status: 14\r\n") && first.contains("say protocol: h2"), named, "{first}");
        assert_eq!(second.contains("x-weir-reason: no_endpoint"), !named, "{kind}: {second}");
        proxy.drain().await;
    }
}
