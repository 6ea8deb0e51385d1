//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: requests share connections; when one carries as many streams as the peer allows, another is
//! opened beside it (`pool::streams`).

mod streams;

use std::{cell::RefCell, rc::Rc};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpStream, time::Instant};

use self::streams::{Place, Streams};
use crate::{
    config::{Protocol, Timeouts},
    telemetry::Failure,
    traffic::request_body::RequestBody,
    workload::Endpoint,
};

/// Kept per endpoint and thread; more would be closed again by idleness anyway.
const MAX_IDLE: usize = 256;

/// The connections of one thread, by endpoint.
pub(crate) struct Pool {
    timeouts: Timeouts,
    http1: Vec<RefCell<Vec<Idle>>>,
    http2: Vec<Streams>,
}

/// A connection one request may use.
pub(crate) enum Connection {
    Http1(Lent),
    Http2(http2::SendRequest<RequestBody>, Place),
}

/// What a request holds of a connection until its answer has ended.
pub(crate) enum Lease {
    Http1(Lent),
    /// One of its streams; given back when dropped.
    Http2(#[expect(dead_code, reason = "held for its drop")] Place),
}

/// A lent HTTP/1.1 connection.
pub(crate) struct Lent {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    endpoint: usize,
    pool: Rc<Pool>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
}

impl Pool {
    pub(crate) fn new(endpoints: usize, timeouts: Timeouts) -> Self {
        let http1 = (0..endpoints).map(|_| RefCell::default()).collect();
        let http2 = (0..endpoints).map(|_| Streams::default()).collect();
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
                if kept_too && let Some(sender) = self.idle(endpoint.id).await {
                    return Ok((Connection::Http1(self.lend(sender, endpoint.id)), true));
                }
                let sender = self.connect_http1(endpoint).await?;
                Ok((Connection::Http1(self.lend(sender, endpoint.id)), false))
            }
            Protocol::H2 => {
                let (sender, place, kept) = self.http2[endpoint.id].place(self, endpoint, kept_too).await?;
                Ok((Connection::Http2(sender, place), kept))
            }
        }
    }

    /// A TCP connection that is nobody else's.
    pub(crate) async fn connect(&self, endpoint: &Endpoint) -> Result<TokioIo<TcpStream>, Failure> {
        connect(endpoint.address.clone(), self.timeouts).await
    }

    fn lend(self: &Rc<Self>, sender: http1::SendRequest<RequestBody>, endpoint: usize) -> Lent {
        Lent { sender, endpoint, pool: self.clone() }
    }

    async fn idle(&self, endpoint: usize) -> Option<http1::SendRequest<RequestBody>> {
        loop {
            // taken out before the await, so no borrow is held over it
            let Idle { mut sender, since } = self.http1[endpoint].borrow_mut().pop()?;
            let fresh = since.elapsed() < self.timeouts.pool_idle();
            if fresh && (sender.is_ready() || sender.ready().await.is_ok()) {
                return Some(sender);
            }
        }
    }

    async fn connect_http1(&self, endpoint: &Endpoint) -> Result<http1::SendRequest<RequestBody>, Failure> {
        let io = self.connect(endpoint).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Failure::ConnectFailed)?;
        // it ends when the sender is dropped or the peer closes; how it ended is the request's to tell
        tokio::task::spawn_local(connection.with_upgrades());
        Ok(sender)
    }
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let Self::Http1(Lent { sender, endpoint, pool }) = self else { return };
        let mut idle = pool.http1[endpoint].borrow_mut();
        if !sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { sender, since: Instant::now() });
        }
    }
}

async fn connect(address: String, timeouts: Timeouts) -> Result<TokioIo<TcpStream>, Failure> {
    let stream = tokio::time::timeout(timeouts.connect(), TcpStream::connect(address)).await;
    let stream = stream.map_err(|_| Failure::ConnectTimeout)?.map_err(|_| Failure::ConnectFailed)?;
    // small answers must not wait for more to fill a packet; a socket that refuses still works
    let _ = stream.set_nodelay(true);
    Ok(TokioIo::new(stream))
}
