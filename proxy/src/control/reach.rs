//! [`Reach`]: how the control plane and the collector are reached, with TLS where their address asks for it.

use std::{
    io,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use futures::future::BoxFuture;
use http::Uri;
use hyper_util::rt::TokioIo;
use parking_lot::Mutex;
use tokio::net::TcpStream;
use tokio_rustls::client::TlsStream;
use tonic::{
    codegen::Service,
    transport::{Channel, Endpoint},
};
use tracing::warn;

use crate::security::{ClientTls, Trusted};

/// Where somebody is, and how it is known to be him.
#[derive(Clone, Debug)]
pub(crate) struct Reach {
    endpoint: Endpoint,
    tls: Option<Secure>,
}

/// Connects with TLS.
#[derive(Clone, Debug)]
struct Secure {
    tls: Arc<ClientTls>,
    /// What was said of the last failure: the same is not said again, for it is tried every few seconds.
    complaint: Arc<Mutex<Option<String>>>,
}

impl Reach {
    /// `None` if `url` is none. One that vanishes without a word, with its machine or behind a gateway that forgets, is noticed
    /// within a quarter of a minute.
    pub(crate) fn new(url: String, tls: Option<Arc<ClientTls>>) -> Option<Self> {
        const PING: Duration = Duration::from_secs(10);
        const PATIENCE: Duration = Duration::from_secs(5);
        let endpoint = Endpoint::from_shared(url).ok()?;
        let endpoint = endpoint.connect_timeout(PATIENCE).tcp_keepalive(Some(PING));
        let endpoint = endpoint.http2_keep_alive_interval(PING).keep_alive_timeout(PATIENCE);
        let tls = tls.map(|tls| Secure { tls, complaint: Arc::default() });
        Some(Self { endpoint: endpoint.keep_alive_while_idle(true), tls })
    }

    /// A channel that connects when it is first used; within a runtime.
    pub(crate) fn channel(&self) -> Channel {
        match &self.tls {
            Some(secure) => self.endpoint.connect_with_connector_lazy(secure.clone()),
            None => self.endpoint.connect_lazy(),
        }
    }
}

impl Secure {
    async fn connect(self, uri: Uri) -> io::Result<TokioIo<Trusted<TlsStream<TcpStream>>>> {
        let address = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(443));
        let stream = TcpStream::connect(&address).await?;
        // a set of limits must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        let secured = self.tls.connect_while_trusted(&address, stream).await;
        self.complain(&address, secured.as_ref().err());
        secured.map(TokioIo::new)
    }

    fn complain(&self, address: &str, error: Option<&io::Error>) {
        let (mut said, why) = (self.complaint.lock(), error.map(io::Error::to_string));
        if let Some(why) = why.as_ref().filter(|why| said.as_ref() != Some(*why)) {
            warn!(address, why, "no TLS with the control plane or the collector");
        }
        *said = why;
    }
}

impl Service<Uri> for Secure {
    type Response = TokioIo<Trusted<TlsStream<TcpStream>>>;
    type Error = io::Error;
    type Future = BoxFuture<'static, io::Result<Self::Response>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(self.clone().connect(uri))
    }
}
