//! [`Agent`]: asks Consul's agent over HTTP or HTTPS, one question after the other on one connection.
//!
//! A question follows the answer before it within milliseconds, so the connection is hardly ever idle and has no pool.

use std::{fmt::Display, sync::Arc};

use bytes::Bytes;
use http::{Request, Response, Uri};
use http_body_util::{BodyExt, Empty, Limited};
use hyper::client::conn::http1::{SendRequest, handshake};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use crate::security::ClientTls;

/// 16 MiB: some ten thousand instances.
const MAX_ANSWER_BYTES: usize = 16 << 20;

type Sender = SendRequest<Empty<Bytes>>;

/// Where it is, and the connection to it while there is one.
pub(super) struct Agent {
    /// `host:port`.
    address: String,
    /// Whether the address is `https://`.
    secure: bool,
    tls: Option<Arc<ClientTls>>,
    kept: Option<Sender>,
}

impl Agent {
    /// At the host of `uri`; with TLS where the configuration asks for it.
    pub(super) fn new(uri: &Uri, tls: Option<Arc<ClientTls>>) -> Self {
        let usual = if tls.is_some() { 443 } else { 80 };
        let address = format!("{}:{}", uri.host().unwrap_or_default(), uri.port_u16().unwrap_or(usual));
        Self { address, secure: uri.scheme_str() == Some("https"), tls, kept: None }
    }

    /// Asks, and reads the answer to its end; the caller bounds the time.
    pub(super) async fn ask(&mut self, request: Request<Empty<Bytes>>) -> Result<Response<Bytes>, String> {
        let mut sender = match self.kept.take().filter(Sender::is_ready) {
            Some(sender) => sender,
            None => self.connect().await?,
        };
        let (head, body) = sender.send_request(request).await.map_err(said)?.into_parts();
        let body = Limited::new(body, MAX_ANSWER_BYTES).collect().await.map_err(said)?.to_bytes();
        self.kept = Some(sender);
        Ok(Response::from_parts(head, body))
    }

    async fn connect(&self) -> Result<Sender, String> {
        let stream = TcpStream::connect(&self.address).await.map_err(said)?;
        match &self.tls {
            // the configuration has moved on, and this watch is about to end
            None if self.secure => Err("an https address without TLS".into()),
            Some(tls) => speak(tls.connect_while_trusted(&self.address, stream).await.map_err(said)?).await,
            None => speak(stream).await,
        }
    }
}

async fn speak(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Sender, String> {
    let (sender, connection) = handshake(TokioIo::new(stream)).await.map_err(said)?;
    // it ends when the sender is dropped, and what went wrong is told to who asks
    tokio::spawn(connection);
    Ok(sender)
}

fn said(error: impl Display) -> String {
    error.to_string()
}
