//! [`Address`]: one GET for a key set, over HTTP or HTTPS, bounded in time and size. Redirects are not
//! followed: the address is configured, and what it redirects to is not.

use std::{path::Path, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{
    HeaderValue, Request, Uri,
    header::{ACCEPT, HOST},
    uri::{PathAndQuery, Scheme},
};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use rustls::{ClientConfig, crypto::CryptoProvider, pki_types::ServerName};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use tokio_rustls::TlsConnector;

use crate::security::tls::{root_store, system_roots};

/// 5 s for the whole of it: the last good keys serve meanwhile.
const TIMEOUT: Duration = Duration::from_secs(5);

/// 1 MiB: a hundred keys with their certificates.
const MAX_BYTES: usize = 1 << 20;

/// Where a key set is asked for.
#[derive(Debug)]
pub(crate) struct Address {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<Arc<ClientConfig>>,
}

impl Address {
    /// The roots are those in `trust`, else the system's.
    pub(crate) fn new(url: &str, trust: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<Self, String> {
        let uri: Uri = url.parse().map_err(|error| format!("{url}: {error}"))?;
        let secure = uri.scheme() == Some(&Scheme::HTTPS);
        let host = uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']').to_owned();
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let tls = if secure { Some(Arc::new(client_config(trust, provider)?)) } else { None };
        Ok(Self { uri, host, port, tls })
    }

    /// Asks once.
    pub(crate) async fn get(&self) -> Result<Vec<u8>, String> {
        let got = tokio::time::timeout(TIMEOUT, self.connect_and_ask()).await;
        got.unwrap_or_else(|_| Err("no answer in 5 s".to_owned())).map_err(|why| format!("{}: {why}", self.uri))
    }

    async fn connect_and_ask(&self) -> Result<Vec<u8>, String> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await.map_err(|error| error.to_string())?;
        let Some(tls) = &self.tls else { return self.ask(stream).await };
        let name = ServerName::try_from(self.host.clone()).map_err(|error| error.to_string())?;
        let stream = TlsConnector::from(tls.clone()).connect(name, stream).await.map_err(|error| error.to_string())?;
        self.ask(stream).await
    }

    async fn ask(&self, stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Vec<u8>, String> {
        let (mut sender, connection) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        let connection = tokio::spawn(connection);
        let response = sender.send_request(self.request()?).await.map_err(|error| error.to_string())?;
        if response.status() != http::StatusCode::OK {
            return Err(format!("it answers {}", response.status()));
        }
        let body = Limited::new(response.into_body(), MAX_BYTES).collect().await.map_err(|error| error.to_string())?;
        connection.abort();
        Ok(body.to_bytes().into())
    }

    fn request(&self) -> Result<Request<Empty<Bytes>>, String> {
        let path = self.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        let host = self.uri.authority().map_or("", |authority| authority.as_str());
        let mut request = Request::new(Empty::new());
        *request.uri_mut() = Uri::from(path);
        request.headers_mut().insert(HOST, HeaderValue::from_str(host).map_err(|error| error.to_string())?);
        request.headers_mut().insert(ACCEPT, HeaderValue::from_static("application/json"));
        Ok(request)
    }
}

fn client_config(trust: Option<&Path>, provider: &Arc<CryptoProvider>) -> Result<ClientConfig, String> {
    let roots = match trust {
        Some(path) => {
            let named = |why: String| format!("trust: {}: {why}", path.display());
            let pem = std::fs::read(path).map_err(|error| named(error.to_string()))?;
            root_store(&pem).map_err(named)?
        }
        None => system_roots()?,
    };
    let builder = ClientConfig::builder_with_provider(provider.clone());
    let builder = builder.with_safe_default_protocol_versions().map_err(|error| error.to_string())?;
    Ok(builder.with_root_certificates(roots).with_no_client_auth())
}
