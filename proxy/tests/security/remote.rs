//! TLS towards the control plane and the collector: who they must be, and whom the proxy shows itself as.

use std::{fs, net::SocketAddr, path::Path};

use futures::stream::BoxStream;
use tokio::net::TcpListener;
use tokio_stream::{StreamExt, wrappers::TcpListenerStream};
use tonic::{Request, Response, Status, Streaming, transport::Server};
use weir_ca::{CERTIFICATE, KEY};
use weir_policy::wire::proto::{
    self,
    policy_service_server::{PolicyService, PolicyServiceServer},
};
use weir_proxy::{Config, Proxy};

use crate::{
    mesh::{Mesh, app, get_plain, inbound, inbound_config, listener_tls, metric, request, until},
    registry, sink,
};

/// A control plane that says one thing.
struct OnePolicy;

#[tonic::async_trait]
impl PolicyService for OnePolicy {
    type SubscribeStream = BoxStream<'static, Result<proto::PolicySet, Status>>;

    async fn subscribe(
        &self,
        _: Request<Streaming<proto::ProxyStatus>>,
    ) -> Result<Response<Self::SubscribeStream>, Status> {
        let set = proto::PolicySet { sequence: 7, ..Default::default() };
        let for_ever = tokio_stream::once(Ok(set)).chain(tokio_stream::pending());
        Ok(Response::new(Box::pin(for_ever)))
    }
}

async fn control_plane() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let server = Server::builder().add_service(PolicyServiceServer::new(OnePolicy));
    tokio::spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}

/// `grpc` behind the sidecar of the workload `control`, which lets in only who proves to be of the mesh.
fn guarded(mesh: &Mesh, grpc: SocketAddr) -> Proxy {
    guarded_by(mesh, grpc, "h2")
}

fn guarded_by(mesh: &Mesh, address: SocketAddr, protocol: &str) -> Proxy {
    let tls = listener_tls(&mesh.workload("control"), &mesh.trust(), "");
    let text = format!(
        "service: control\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: grpc }}], {tls} }}]\n\
         upstreams: [{{ name: grpc, protocol: {protocol}, endpoints: ['{address}'] }}]"
    );
    Proxy::start(Config::from_yaml(&text).unwrap()).unwrap()
}

/// `tls: { … }` of who shows the certificate in `folder` and expects `id`.
fn remote_tls(folder: Option<&Path>, trust: &Path, id: &str) -> String {
    let pair = folder.map(|folder| {
        let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
        format!("certificate: {certificate:?}, key: {key:?}, ")
    });
    let pair = pair.unwrap_or_default();
    format!("tls: {{ {pair}trust: {trust:?}, verify: {{ spiffe_ids: ['spiffe://mesh.local/ns/shop/sa/{id}'] }} }}")
}

#[tokio::test(flavor = "multi_thread")]
async fn spans_go_to_the_collector_that_proves_to_be_the_one() {
    let (mesh, app) = (Mesh::new("mesh.local"), app().await);
    let (address, mut spans) = sink::start().await;
    let collector = guarded(&mesh, address);
    let parser = mesh.workload("parser");
    for (shows, expects, sent) in [(Some(&*parser), "control", 1), (Some(&*parser), "other", 0), (None, "control", 0)] {
        let tls = remote_tls(shows, &mesh.trust(), expects);
        let url = format!("https://{}", collector.addresses()[0]);
        let proxy = inbound(app, "", &format!("telemetry: {{ otlp: '{url}', retry_ms: 100, flush_ms: 5000, {tls} }}"));
        get_plain(proxy.addresses()[0], request("/work")).await.unwrap();
        let counters = proxy.drain().await;
        assert_eq!((counters.spans_sent, counters.spans_dropped), (sent, 1 - sent), "{shows:?} {expects}");
    }
    assert_eq!(spans.recv().await.unwrap()["url.path"], "/work");
    collector.drain().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn policies_are_taken_from_the_control_plane_that_proves_to_be_the_one() {
    let (mesh, app) = (Mesh::new("mesh.local"), app().await);
    let control = guarded(&mesh, control_plane().await);
    let parser = mesh.workload("parser");
    let url = format!("https://{}", control.addresses()[0]);
    let policy = |id: &str| format!("policy: {{ from: '{url}', {} }}", remote_tls(Some(&parser), &mesh.trust(), id));
    let (good, bad) = (inbound(app, "", &policy("control")), inbound(app, "", &policy("other")));
    until(&good, "weir_proxy_policy_sequence", 7.0).await;
    until(&control, "weir_proxy_tls_handshakes_failed_total", 1.0).await;
    assert_eq!(bad.policy().sequence, 0);
    for reloaded in [&good, &bad] {
        let id = if std::ptr::eq(reloaded, &good) { "control" } else { "other" };
        reloaded.reload(inbound_config(app, "", &policy(id))).await.unwrap();
    }
    assert_eq!(good.policy().sequence, 7, "over a reload it is the same stream");
    good.drain().await;
    bad.drain().await;
    control.drain().await;
}

/// A stream of policies, and what else lasts, went on with somebody whose root was trusted no more.
#[tokio::test(flavor = "multi_thread")]
async fn whose_root_is_taken_out_is_spoken_to_no_more() {
    const HANDSHAKES: &str = "weir_proxy_tls_handshakes_total";
    const REFUSED: &str = "weir_proxy_tls_handshakes_failed_total";
    let app = app().await;
    for kind in ["policy", "telemetry", "registry"] {
        let (mesh, other) = (Mesh::new("mesh.local"), Mesh::new("mesh.local"));
        let server = match kind {
            "policy" => guarded(&mesh, control_plane().await),
            "telemetry" => guarded(&mesh, sink::start().await.0),
            _ => guarded_by(&mesh, registry::catalogue(app).await, "http1"),
        };
        let trust = mesh.dir.path().join("trust.crt");
        let trusted = |meshes: &[&Mesh]| {
            let all: String = meshes.iter().map(|mesh| mesh.root.certificate_pem()).collect();
            fs::write(&trust, all).unwrap();
        };
        let tls = remote_tls(Some(&mesh.workload("parser")), &trust, "control");
        let url = format!("https://{}", server.addresses()[0]);
        let (upstream, more) = match kind {
            "policy" => (format!("endpoints: ['{app}']"), format!("policy: {{ from: '{url}', {tls} }}")),
            "telemetry" => (
                format!("endpoints: ['{app}']"),
                format!("telemetry: {{ otlp: '{url}', metrics_interval_ms: 20, {tls} }}"),
            ),
            _ => (format!("discover: {{ consul: {{ service: app, address: '{url}', {tls} }} }}"), String::new()),
        };
        trusted(&[&mesh, &other]);
        let text = format!(
            "service: parser\nthreads: 1\nadmin: 127.0.0.1:0\n{more}\n\
             listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: found }}] }}]\n\
             upstreams: [{{ name: found, {upstream} }}]"
        );
        let proxy = Proxy::start(Config::from_yaml(&text).unwrap()).unwrap();
        until(&server, HANDSHAKES, 1.0).await;
        assert_eq!(metric(&server, REFUSED).await, 0.0, "{kind}");
        trusted(&[&other]);
        until(&server, REFUSED, 1.0).await;
        assert_eq!(metric(&server, HANDSHAKES).await, 1.0, "{kind}");
        trusted(&[&mesh, &other]);
        until(&server, HANDSHAKES, 2.0).await;
        proxy.drain().await;
        server.drain().await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_used_is_named() {
    let app = app().await;
    for (more, expected) in [
        ("policy: { from: 'http://127.0.0.1:1', tls: {} }", "policy.tls: policy.from is \"http://127.0.0.1:1\""),
        ("policy: { from: 'ftp://127.0.0.1:1' }", "policy.from is \"ftp://127.0.0.1:1\": expected http://host:port"),
        ("telemetry: { tls: {} }", "telemetry.tls: there is no telemetry.otlp to reach"),
        ("telemetry: { otlp: 'https://c:1', tls: { certificate: c } }", "telemetry.tls: certificate and key belong"),
        (
            "telemetry: { otlp: 'https://c:1', tls: { verify: { spiffe_ids: ['spiffe://a/b'] } } }",
            "telemetry.tls.verify.spiffe_ids needs telemetry.tls.trust",
        ),
    ] {
        let text = format!(
            "service: a\nlisteners: [{{ address: '127.0.0.1:0', direction: inbound, routes: [{{ upstream: app }}] }}]\n\
             upstreams: [{{ name: app, endpoints: ['{app}'] }}]\n{more}"
        );
        let why = Config::from_yaml(&text).unwrap_err().to_string();
        assert!(why.starts_with(expected), "{more}: {why}");
    }
    let absent = inbound_config(app, "", "policy: { from: 'https://127.0.0.1:1', tls: { trust: /nowhere/ca.crt } }");
    let why = Proxy::check(&absent).unwrap_err().to_string();
    assert!(why.starts_with("policy.tls.trust: /nowhere/ca.crt:"), "{why}");
}
