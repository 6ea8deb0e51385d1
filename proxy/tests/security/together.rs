//! What features do together: TLS under TCP and retries, rules before tunnels, reloads under both.

use std::path::Path;

use bytes::Bytes;
use http::{Request, StatusCode};
use http_body_util::{BodyExt, Full};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};
use weir_ca::{CERTIFICATE, KEY};
use weir_proxy::{Config, Proxy};

use crate::mesh::{Mesh, app, client_of, connect, get_plain, inbound, listener_tls, request};

/// `tls: { … }` of an upstream that the workload in `folder` calls as `parser`.
fn upstream_tls(folder: &Path, trust: &Path) -> String {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    format!(
        "tls: {{ certificate: {certificate:?}, key: {key:?}, trust: {trust:?}, verify: {{ server_name: parser }} }}"
    )
}

fn outbound(route: &str, upstream: &str) -> Config {
    let text = format!(
        "service: tagger\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: parser{route} }}] }}]\n\
         upstreams: [{{ name: parser, {upstream} }}]"
    );
    Config::from_yaml(&text).unwrap()
}

#[tokio::test(flavor = "multi_thread")]
async fn plain_tcp_passes_through_tls_on_both_sides() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let echo = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = echo.local_addr().unwrap();
    tokio::spawn(async move {
        let (mut stream, _) = echo.accept().await.unwrap();
        let (mut read, mut write) = stream.split();
        tokio::io::copy(&mut read, &mut write).await.unwrap();
    });
    let tcp = |text: String| Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
    let callee = tcp(format!(
        "service: parser\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: inbound, protocol: tcp, upstream: app, {} }}]\n\
         upstreams: [{{ name: app, endpoints: ['{address}'] }}]",
        listener_tls(&parser, &mesh.trust(), "")
    ));
    let caller = tcp(format!(
        "service: tagger\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: outbound, protocol: tcp, upstream: parser }}]\n\
         upstreams: [{{ name: parser, endpoints: ['{}'], {} }}]",
        callee.addresses()[0],
        upstream_tls(&tagger, &mesh.trust())
    ));
    let mut client = tokio::net::TcpStream::connect(caller.addresses()[0]).await.unwrap();
    client.write_all(b"neither HTTP nor TLS").await.unwrap();
    client.shutdown().await.unwrap();
    let mut back = Vec::new();
    client.read_to_end(&mut back).await.unwrap();
    assert_eq!(back, b"neither HTTP nor TLS");
    assert_eq!((caller.drain().await.tunnels, callee.drain().await.tunnels), (1, 1));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_handshake_that_fails_sent_nothing_and_is_tried_elsewhere() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let callee = inbound(app().await, &listener_tls(&parser, &mesh.trust(), ""), "");
    let (speaks_no_tls, tls) = (app().await, upstream_tls(&tagger, &mesh.trust()));
    let endpoints = format!("endpoints: ['{speaks_no_tls}', '{}'], balance: round_robin, {tls}", callee.addresses()[0]);
    let caller = Proxy::start(outbound(", retries: { on: [connect-failure] }", &endpoints)).unwrap();
    for _ in 0..6 {
        let post = Request::post("/work").header("host", "parser").body(Full::from("a body")).unwrap();
        assert_eq!(get_plain(caller.addresses()[0], post).await.unwrap().status, StatusCode::OK);
    }
    let counters = caller.drain().await;
    assert!(counters.retries >= 1, "one of two endpoints speaks no TLS: {counters:?}");
    callee.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rules_stand_before_tunnels() {
    let rules =
        "connect: tunnelled\n    authorization: { rules: [{ name: reads, action: allow, match: { methods: [GET] } }] }";
    let proxy = inbound(app().await, rules, "");
    let connect = Request::builder().method("CONNECT").uri("parser:80").header("host", "parser:80");
    let denied = get_plain(proxy.addresses()[0], connect.body(Full::default()).unwrap()).await.unwrap();
    assert_eq!((denied.status, &denied.headers["x-weir-reason"]), (StatusCode::FORBIDDEN, &"denied".parse().unwrap()));
    assert_eq!(get_plain(proxy.addresses()[0], request("/")).await.unwrap().status, StatusCode::OK);
    assert_eq!(proxy.drain().await.tunnels, 0);
    let beside = "service: a\nlisteners: [{ address: '127.0.0.1:0', direction: inbound, protocol: detect, upstream: app, \
        routes: [{ upstream: app }], jwt: { issuers: [] } }]\nupstreams: [{ name: app, endpoints: ['a:1'] }]";
    let why = Config::from_yaml(beside).unwrap_err().to_string();
    assert!(why.contains("plain TCP would pass beside"), "{why}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_reload_reaches_connections_that_last() {
    let mesh = Mesh::new("mesh.local");
    let (parser, tagger) = (mesh.workload("parser"), mesh.workload("tagger"));
    let app = app().await;
    let config = |listener: &str| {
        let text = format!(
            "service: parser\nthreads: 1\nlisteners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}], {}{listener} }}]\n\
             upstreams: [{{ name: app, endpoints: ['{app}'] }}]",
            listener_tls(&parser, &mesh.trust(), "")
        );
        Config::from_yaml(&text).unwrap()
    };
    let proxy = Proxy::start(config("")).unwrap();
    let stream = connect(proxy.addresses()[0], &client_of(&tagger)).await.unwrap();
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.unwrap();
    tokio::spawn(connection);
    let mut status = async || {
        sender.ready().await.unwrap();
        let answer = sender.send_request(request("/work")).await.unwrap();
        let status = answer.status();
        let _: Bytes = answer.into_body().collect().await.unwrap().to_bytes();
        status
    };
    assert_eq!(status().await, StatusCode::OK);
    let only_lexers =
        ", authorization: { rules: [{ name: lexers, action: allow, match: { principals: [\"*/sa/lexer\"] } }] }";
    proxy.reload(config(only_lexers)).await.unwrap();
    assert_eq!(status().await, StatusCode::FORBIDDEN, "the same connection, the new rules");
    let broken = config(&format!("{only_lexers} ")).listeners.remove(0);
    let mut unusable = config("");
    unusable.listeners = vec![broken];
    unusable.listeners[0].tls.as_mut().unwrap().certificate = Some(mesh.dir.path().join("nowhere"));
    let why = proxy.reload(unusable).await.unwrap_err().to_string();
    assert!(why.contains("nowhere"), "{why}");
    proxy.reload(config("")).await.unwrap();
    assert_eq!(status().await, StatusCode::OK);
    proxy.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn connections_without_tls_are_not_kept_when_a_reload_asks_for_it() {
    let mesh = Mesh::new("mesh.local");
    let tagger = mesh.workload("tagger");
    let endpoints = format!("endpoints: ['{}']", app().await);
    // those of a part were: it says nothing of TLS itself
    let part = " }, { name: parser-v1, subset_of: { upstream: parser, labels: {} }";
    for (route, more) in [("", ""), ("-v1", part)] {
        let (plain, tls) = (format!("{endpoints}{more}"), upstream_tls(&tagger, &mesh.trust()));
        let proxy = Proxy::start(outbound(route, &plain)).unwrap();
        let status = async || get_plain(proxy.addresses()[0], request("/")).await.unwrap().status;
        assert_eq!(status().await, StatusCode::OK);
        proxy.reload(outbound(route, &format!("{endpoints}, {tls}{more}"))).await.unwrap();
        assert_eq!(status().await, StatusCode::BAD_GATEWAY, "the application speaks no TLS");
        proxy.reload(outbound(route, &plain)).await.unwrap();
        assert_eq!(status().await, StatusCode::OK);
        proxy.drain().await;
    }
}
