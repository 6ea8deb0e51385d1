//! What the flows need: a root with its workloads, an application that says what it was sent, clients with
//! and without TLS, a proxy between them.

use std::{
    convert::Infallible,
    net::SocketAddr,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use bytes::Bytes;
use http::{HeaderMap, Request, Response, StatusCode, Version};
use http_body_util::{BodyExt, Full};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, pem::PemObject},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, client::TlsStream};
use weir_ca::{Authority, CERTIFICATE, KEY, RootRequest, TRUST, WorkloadRequest};
use weir_proxy::{Config, Proxy};

/// A trust domain: its root and the folders of its workloads.
pub(crate) struct Mesh {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) root: Authority,
}

/// What a client got.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) version: Version,
    pub(crate) headers: HeaderMap,
    /// The application's: each header it was sent as `name: value`, the path first.
    pub(crate) body: String,
}

impl Mesh {
    pub(crate) fn new(trust_domain: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let request = RootRequest { trust_domain: trust_domain.to_owned(), lifetime: RootRequest::LIFETIME };
        let root = Authority::create(&dir.path().join("ca"), &request, SystemTime::now()).unwrap();
        Self { dir, root }
    }

    /// The folder of a workload of the namespace `shop`, certified now.
    pub(crate) fn workload(&self, name: &str) -> PathBuf {
        self.workload_at(name, SystemTime::now())
    }

    /// As [`Self::workload`], certified for a day from `now`.
    pub(crate) fn workload_at(&self, name: &str, now: SystemTime) -> PathBuf {
        let id = format!("spiffe://{}/ns/shop/sa/{name}", self.root.trust_domain()).parse().unwrap();
        let request = WorkloadRequest { id, dns_names: vec![name.to_owned()], lifetime: WorkloadRequest::LIFETIME };
        let folder = self.dir.path().join(name);
        self.root.issue_into(&folder, &request, now).unwrap();
        folder
    }

    pub(crate) fn trust(&self) -> PathBuf {
        self.dir.path().join("ca/ca.crt")
    }
}

impl Answer {
    pub(crate) fn sent(&self, name: &str) -> Option<&str> {
        let line = self.body.lines().find(|line| line.starts_with(&format!("{name}: ")))?;
        Some(&line[name.len() + 2..])
    }
}

/// An application that answers with what it was sent, HTTP/1.1 and HTTP/2 without TLS.
pub(crate) async fn app() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let service = service_fn(|request| async move { Ok::<_, Infallible>(echo(&request)) });
            let serving = async move {
                auto::Builder::new(TokioExecutor::new()).serve_connection(TokioIo::new(stream), service).await
            };
            tokio::spawn(serving);
        }
    });
    address
}

fn echo(request: &Request<Incoming>) -> Response<Full<Bytes>> {
    let path = request.uri().path_and_query().map_or("", |p| p.as_str());
    let header =
        |(name, value): (&http::HeaderName, &http::HeaderValue)| format!("{name}: {}\n", value.to_str().unwrap());
    let headers: String = request.headers().iter().map(header).collect();
    Response::new(Full::new(Bytes::from(format!("path: {path}\n{headers}"))))
}

/// `tls: { … }` of a listener that has the certificate in `folder`.
pub(crate) fn listener_tls(folder: &Path, trust: &Path, more: &str) -> String {
    let (certificate, key) = (folder.join(CERTIFICATE), folder.join(KEY));
    format!("tls: {{ certificate: {certificate:?}, key: {key:?}, trust: {trust:?}{more} }}")
}

/// A proxy with one inbound listener before `app`; `listener` is what more the listener says.
pub(crate) fn inbound(app: SocketAddr, listener: &str, more: &str) -> Proxy {
    Proxy::start(inbound_config(app, listener, more)).unwrap()
}

/// As [`inbound`], not started.
pub(crate) fn inbound_config(app: SocketAddr, listener: &str, more: &str) -> Config {
    let text = format!(
        "service: parser\ninstance: parser-0\nthreads: 1\nadmin: 127.0.0.1:0\n\
         listeners:\n  - address: 127.0.0.1:0\n    direction: inbound\n    routes: [{{ upstream: app }}]\n    {listener}\n\
         upstreams: [{{ name: app, endpoints: [\"{app}\"] }}]\n{more}"
    );
    Config::from_yaml(&text).unwrap_or_else(|why| panic!("{why}\n{text}"))
}

/// How a client does TLS: whom it trusts, what it shows, what it offers.
pub(crate) fn client(trust: &Path, folder: Option<&Path>, alpn: &[&str]) -> Arc<ClientConfig> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(CertificateDer::pem_file_iter(trust).unwrap().map(Result::unwrap));
    let builder = ClientConfig::builder_with_provider(provider).with_safe_default_protocol_versions().unwrap();
    let builder = builder.with_root_certificates(roots);
    let mut config = match folder {
        None => builder.with_no_client_auth(),
        Some(folder) => {
            let chain = CertificateDer::pem_file_iter(folder.join(CERTIFICATE)).unwrap().map(Result::unwrap).collect();
            let key = PrivateKeyDer::from_pem_file(folder.join(KEY)).unwrap();
            builder.with_client_auth_cert(chain, key).unwrap()
        }
    };
    config.alpn_protocols = alpn.iter().map(|name| name.as_bytes().to_vec()).collect();
    Arc::new(config)
}

/// A client of a workload that offers HTTP/1.1.
pub(crate) fn client_of(folder: &Path) -> Arc<ClientConfig> {
    client(&folder.join(TRUST), Some(folder), &["http/1.1"])
}

/// Shakes hands with the workload `parser`.
pub(crate) async fn connect(address: SocketAddr, config: &Arc<ClientConfig>) -> std::io::Result<TlsStream<TcpStream>> {
    let stream = TcpStream::connect(address).await?;
    TlsConnector::from(config.clone()).connect(ServerName::try_from("parser").unwrap(), stream).await
}

/// One request on a new connection with TLS. A server that refuses a certificate says so after the client's handshake.
pub(crate) async fn get(address: SocketAddr, config: &Arc<ClientConfig>, path: &str) -> Result<Answer, String> {
    let stream = connect(address, config).await.map_err(|error| error.to_string())?;
    let http2 = stream.get_ref().1.alpn_protocol() == Some(b"h2");
    ask(stream, http2, request(path)).await
}

/// One request on a new connection without TLS.
pub(crate) async fn get_plain(address: SocketAddr, request: Request<Full<Bytes>>) -> Result<Answer, String> {
    let stream = TcpStream::connect(address).await.map_err(|error| error.to_string())?;
    ask(stream, false, request).await
}

pub(crate) fn request(path: &str) -> Request<Full<Bytes>> {
    Request::builder().uri(path).header("host", "parser").body(Full::default()).unwrap()
}

/// One request on `stream`.
pub(crate) async fn ask<S>(stream: S, http2: bool, mut request: Request<Full<Bytes>>) -> Result<Answer, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let io = TokioIo::new(stream);
    let sent = if http2 {
        *request.uri_mut() = format!("https://parser{}", request.uri()).parse().unwrap();
        let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
        let (mut sender, connection) = builder.handshake(io).await.map_err(|error| error.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    } else {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(io).await.map_err(|e| e.to_string())?;
        tokio::spawn(connection);
        sender.send_request(request).await
    };
    let (parts, body) = sent.map_err(|error| error.to_string())?.into_parts();
    let body = body.collect().await.map_err(|error| error.to_string())?.to_bytes();
    let body = String::from_utf8(body.to_vec()).unwrap();
    Ok(Answer { status: parts.status, version: parts.version, headers: parts.headers, body })
}

/// The value of a metric of the proxy.
pub(crate) async fn metric(proxy: &Proxy, name: &str) -> f64 {
    let mut request = request("/metrics");
    request.headers_mut().insert("host", "localhost".parse().unwrap());
    let answer = get_plain(proxy.admin_address().unwrap(), request).await.unwrap();
    let line = answer
        .body
        .lines()
        .find(|line| line.starts_with(&format!("{name} ")) || line.starts_with(&format!("{name}{{")));
    line.unwrap_or_else(|| panic!("no {name} in {}", answer.body)).rsplit_once(' ').unwrap().1.parse().unwrap()
}

/// Waits until a metric has reached `value`.
pub(crate) async fn until(proxy: &Proxy, name: &str, value: f64) {
    let wait = async {
        while metric(proxy, name).await < value {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    };
    tokio::time::timeout(Duration::from_secs(30), wait).await.unwrap_or_else(|_| panic!("{name} never was {value}"));
}

/// Waits until the other side has closed a connection on which nothing is said.
pub(crate) async fn is_closed(mut stream: impl AsyncRead + Unpin) {
    use tokio::io::AsyncReadExt;
    let mut rest = Vec::new();
    let closed = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut rest)).await;
    assert!(closed.is_ok(), "the connection stays open");
}
