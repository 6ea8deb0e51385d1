//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: one connection per endpoint carries everything this thread sends there.

use std::{
    cell::RefCell,
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    config::{Protocol, Timeouts},
    counters::add,
    telemetry::Failure,
    traffic::{read_along::ReadAlong, serve::LocalExecutor},
    workload::{Endpoint, EndpointStats},
};

/// Kept per endpoint and thread; more would be closed again by idleness anyway.
const MAX_IDLE: usize = 256;

/// The connections of one thread, by endpoint.
pub(crate) struct Pool {
    timeouts: Timeouts,
    http1: Vec<RefCell<Vec<Idle>>>,
    http2: Vec<RefCell<Option<http2::SendRequest<ReadAlong<Incoming>>>>>,
}

/// A connection one request may use.
pub(crate) enum Connection {
    Http1(Lease),
    Http2(http2::SendRequest<ReadAlong<Incoming>>),
}

/// A lent HTTP/1.1 connection.
pub(crate) struct Lease {
    pub(crate) sender: http1::SendRequest<ReadAlong<Incoming>>,
    endpoint: usize,
    stats: Arc<EndpointStats>,
    pool: Rc<Pool>,
}

struct Idle {
    sender: http1::SendRequest<ReadAlong<Incoming>>,
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
                if kept_too && let Some(sender) = self.idle(endpoint).await {
                    return Ok((Connection::Http1(self.lease(sender, endpoint)), true));
                }
                let sender = self.connect_http1(endpoint).await?;
                Ok((Connection::Http1(self.lease(sender, endpoint)), false))
            }
            Protocol::H2 => {
                let kept = self.http2[endpoint.id].borrow().clone().filter(|sender| kept_too && !sender.is_closed());
                if let Some(sender) = kept {
                    return Ok((Connection::Http2(sender), true));
                }
                let sender = self.connect_http2(endpoint).await?;
                *self.http2[endpoint.id].borrow_mut() = Some(sender.clone());
                Ok((Connection::Http2(sender), false))
            }
        }
    }

    fn lease(self: &Rc<Self>, sender: http1::SendRequest<ReadAlong<Incoming>>, endpoint: &Endpoint) -> Lease {
        Lease { sender, endpoint: endpoint.id, stats: endpoint.stats.clone(), pool: self.clone() }
    }

    async fn idle(&self, endpoint: &Endpoint) -> Option<http1::SendRequest<ReadAlong<Incoming>>> {
        loop {
            // taken out before the await, so no borrow is held over it
            let Idle { mut sender, since } = self.http1[endpoint.id].borrow_mut().pop()?;
            endpoint.stats.idle.fetch_sub(1, Relaxed);
            let fresh = since.elapsed() < self.timeouts.pool_idle();
            if fresh && (sender.is_ready() || sender.ready().await.is_ok()) {
                return Some(sender);
            }
        }
    }

    async fn connect_http1(&self, endpoint: &Endpoint) -> Result<http1::SendRequest<ReadAlong<Incoming>>, Failure> {
        let io = self.connect(endpoint).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Failure::ConnectFailed)?;
        // it ends when the sender is dropped or the peer closes; how it ended is the request's to tell
        open(endpoint, connection);
        Ok(sender)
    }

    async fn connect_http2(&self, endpoint: &Endpoint) -> Result<http2::SendRequest<ReadAlong<Incoming>>, Failure> {
        let io = self.connect(endpoint).await?;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(10)));
        let (sender, connection) = builder.handshake(io).await.map_err(|_| Failure::ConnectFailed)?;
        open(endpoint, connection);
        Ok(sender)
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<TokioIo<TcpStream>, Failure> {
        let connect = TcpStream::connect(endpoint.address.as_str());
        let stream = tokio::time::timeout(self.timeouts.connect(), connect).await;
        let stream = stream.map_err(|_| Failure::ConnectTimeout).and_then(|s| s.map_err(|_| Failure::ConnectFailed));
        let counter = if stream.is_ok() { &endpoint.stats.connects } else { &endpoint.stats.connect_failures };
        add(counter, 1);
        let stream = stream?;
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        Ok(TokioIo::new(stream))
    }
}

/// Runs a connection, and counts it as open for as long as it runs.
fn open(endpoint: &Endpoint, connection: impl Future<Output = hyper::Result<()>> + 'static) {
    let stats = endpoint.stats.clone();
    stats.open.fetch_add(1, Relaxed);
    tokio::task::spawn_local(async move {
        let _ = connection.await;
        stats.open.fetch_sub(1, Relaxed);
    });
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let mut idle = self.pool.http1[self.endpoint].borrow_mut();
        if !self.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { sender: self.sender, since: Instant::now() });
            self.stats.idle.fetch_add(1, Relaxed);
        }
    }
}
