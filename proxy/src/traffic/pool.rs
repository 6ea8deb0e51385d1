//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: one connection per endpoint carries everything this thread sends there.

use std::{cell::RefCell, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::Instant,
};
use tokio_rustls::client::TlsStream;
use tracing::debug;

use crate::{
    config::{Protocol, Timeouts},
    security::{ClientTls, Peer},
    telemetry::Failure,
    traffic::serve::LocalExecutor,
    workload::Endpoint,
};

/// Kept per endpoint and thread; more would be closed again by idleness anyway.
const MAX_IDLE: usize = 256;

/// The connections of one thread, by endpoint.
pub(crate) struct Pool {
    timeouts: Timeouts,
    http1: Vec<RefCell<Vec<Idle>>>,
    http2: Vec<RefCell<Option<Shared>>>,
}

/// A connection one request may use.
pub(crate) enum Connection {
    Http1(Lease),
    Http2(http2::SendRequest<Incoming>, Option<Arc<Peer>>),
}

/// A lent HTTP/1.1 connection.
pub(crate) struct Lease {
    pub(crate) sender: http1::SendRequest<Incoming>,
    /// Who is at the other end, if TLS has proved it.
    pub(crate) peer: Option<Arc<Peer>>,
    endpoint: usize,
    pool: Rc<Pool>,
}

/// An HTTP/1.1 connection and who is at its other end.
type Own = (http1::SendRequest<Incoming>, Option<Arc<Peer>>);

/// An HTTP/2 connection and who is at its other end.
type Shared = (http2::SendRequest<Incoming>, Option<Arc<Peer>>);

struct Idle {
    sender: http1::SendRequest<Incoming>,
    peer: Option<Arc<Peer>>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(endpoints: usize, timeouts: Timeouts) -> Self {
        let http1 = (0..endpoints).map(|_| RefCell::default()).collect();
        let http2 = (0..endpoints).map(|_| RefCell::default()).collect();
        Self { timeouts, http1, http2 }
    }

    /// A kept connection, else a new one. The flag says which: a kept one may turn out to be closed.
    pub(crate) async fn connection(
        self: &Rc<Self>,
        endpoint: &Endpoint,
        protocol: Protocol,
        kept_too: bool,
    ) -> Result<(Connection, bool), Failure> {
        match protocol {
            Protocol::Http1 => {
                if kept_too && let Some((sender, peer)) = self.idle(endpoint.id).await {
                    return Ok((Connection::Http1(self.lease(sender, peer, endpoint.id)), true));
                }
                let (sender, peer) = self.connect_http1(endpoint).await?;
                Ok((Connection::Http1(self.lease(sender, peer, endpoint.id)), false))
            }
            Protocol::H2 => {
                let kept =
                    self.http2[endpoint.id].borrow().clone().filter(|(sender, _)| kept_too && !sender.is_closed());
                if let Some((sender, peer)) = kept {
                    return Ok((Connection::Http2(sender, peer), true));
                }
                let (sender, peer) = self.connect_http2(endpoint).await?;
                *self.http2[endpoint.id].borrow_mut() = Some((sender.clone(), peer.clone()));
                Ok((Connection::Http2(sender, peer), false))
            }
        }
    }

    fn lease(self: &Rc<Self>, sender: http1::SendRequest<Incoming>, peer: Option<Arc<Peer>>, endpoint: usize) -> Lease {
        Lease { sender, peer, endpoint, pool: self.clone() }
    }

    async fn idle(&self, endpoint: usize) -> Option<Own> {
        loop {
            // taken out before the await, so no borrow is held over it
            let Idle { mut sender, peer, since } = self.http1[endpoint].borrow_mut().pop()?;
            let fresh = since.elapsed() < self.timeouts.pool_idle();
            if fresh && (sender.is_ready() || sender.ready().await.is_ok()) {
                return Some((sender, peer));
            }
        }
    }

    async fn connect_http1(&self, endpoint: &Endpoint) -> Result<Own, Failure> {
        let stream = self.connect(endpoint).await?;
        let Some(tls) = &endpoint.tls else { return Ok((http1_over(stream).await?, None)) };
        let (stream, peer) = self.secure(tls, endpoint, stream).await?;
        Ok((http1_over(stream).await?, Some(peer)))
    }

    async fn connect_http2(&self, endpoint: &Endpoint) -> Result<Shared, Failure> {
        let stream = self.connect(endpoint).await?;
        let Some(tls) = &endpoint.tls else { return Ok((http2_over(stream).await?, None)) };
        let (stream, peer) = self.secure(tls, endpoint, stream).await?;
        Ok((http2_over(stream).await?, Some(peer)))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<TcpStream, Failure> {
        let connect = TcpStream::connect(endpoint.address.as_str());
        let stream = tokio::time::timeout(self.timeouts.connect(), connect).await;
        let stream = stream.map_err(|_| Failure::ConnectTimeout)?.map_err(|_| Failure::ConnectFailed)?;
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        Ok(stream)
    }

    /// Shakes hands, in the time that connecting may take once more.
    async fn secure(
        &self,
        tls: &ClientTls,
        endpoint: &Endpoint,
        stream: TcpStream,
    ) -> Result<(TlsStream<TcpStream>, Arc<Peer>), Failure> {
        let secured = tokio::time::timeout(self.timeouts.connect(), tls.connect(&endpoint.address, stream)).await;
        secured.map_err(|_| Failure::ConnectTimeout)?.map_err(|error| {
            debug!(upstream = endpoint.address, %error, "no TLS with the upstream");
            Failure::TlsFailed
        })
    }
}

/// What either protocol runs on.
trait Stream: AsyncRead + AsyncWrite + Unpin + 'static {}

impl<T: AsyncRead + AsyncWrite + Unpin + 'static> Stream for T {}

async fn http1_over(stream: impl Stream) -> Result<http1::SendRequest<Incoming>, Failure> {
    let (sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(|_| Failure::ConnectFailed)?;
    // it ends when the sender is dropped or the peer closes; how it ended is the request's to tell
    tokio::task::spawn_local(connection);
    Ok(sender)
}

async fn http2_over(stream: impl Stream) -> Result<http2::SendRequest<Incoming>, Failure> {
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(10)));
    let handshake = builder.handshake(TokioIo::new(stream)).await;
    let (sender, connection) = handshake.map_err(|_| Failure::ConnectFailed)?;
    tokio::task::spawn_local(connection);
    Ok(sender)
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let mut idle = self.pool.http1[self.endpoint].borrow_mut();
        if !self.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { sender: self.sender, peer: self.peer, since: Instant::now() });
        }
    }
}
