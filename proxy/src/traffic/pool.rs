//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: one connection per endpoint carries everything this thread sends there.

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{net::TcpStream, time::Instant};

use crate::{
    config::{Protocol, Timeouts},
    counters::add,
    telemetry::Failure,
    traffic::{replay::RequestBody, serve::LocalExecutor},
    upstream::{Endpoint, Pick},
};

/// Kept per endpoint and thread; more would be closed again by idleness anyway.
const MAX_IDLE: usize = 256;

/// The connections of one thread, by endpoint.
pub(crate) struct Pool {
    timeouts: Timeouts,
    kept: RefCell<HashMap<usize, Kept, foldhash::fast::RandomState>>,
    /// Which change of the endpoints it knows.
    generation: Cell<usize>,
}

/// The connections to one endpoint.
#[derive(Default)]
struct Kept {
    http1: Vec<Idle>,
    http2: Option<http2::SendRequest<RequestBody>>,
}

/// A connection one request may use.
pub(crate) enum Connection {
    Http1(Lease),
    Http2(http2::SendRequest<RequestBody>),
}

/// A lent HTTP/1.1 connection.
pub(crate) struct Lease {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    endpoint: Arc<Endpoint>,
    /// How many more requests the connection may carry.
    left: u32,
    pool: Rc<Pool>,
}

struct Idle {
    sender: http1::SendRequest<RequestBody>,
    since: Instant,
    left: u32,
}

impl Pool {
    pub(crate) fn new(timeouts: Timeouts) -> Self {
        Self { timeouts, kept: RefCell::default(), generation: Cell::new(0) }
    }

    /// Closes what is kept for endpoints that are no longer there; what is lent is closed when it comes back.
    pub(crate) fn keep_only(&self, generation: usize, there: impl FnOnce() -> HashSet<usize>) {
        if self.generation.replace(generation) != generation {
            let there = there();
            self.kept.borrow_mut().retain(|id, _| there.contains(id));
        }
    }

    /// A kept connection, else a new one. The flag says which: a kept one may turn out to be closed.
    pub(crate) async fn connection(
        self: &Rc<Self>,
        pick: &Pick,
        kept_too: bool,
    ) -> Result<(Connection, bool), Failure> {
        let id = pick.endpoint.id;
        match pick.upstream.protocol {
            Protocol::Http1 => {
                if kept_too && let Some((sender, left)) = self.idle(pick).await {
                    return Ok((Connection::Http1(self.lease(sender, pick, left)), true));
                }
                let sender = self.connect_http1(pick).await?;
                // from here on a connection that comes back is kept
                self.kept.borrow_mut().entry(id).or_default();
                Ok((Connection::Http1(self.lease(sender, pick, pick.upstream.requests_per_connection)), false))
            }
            Protocol::H2 => {
                let kept = self.kept.borrow().get(&id).and_then(|kept| kept.http2.clone());
                if let Some(sender) = kept.filter(|sender| kept_too && !sender.is_closed()) {
                    return Ok((Connection::Http2(sender), true));
                }
                let sender = self.connect_http2(pick).await?;
                self.kept.borrow_mut().entry(id).or_default().http2 = Some(sender.clone());
                Ok((Connection::Http2(sender), false))
            }
        }
    }

    fn lease(self: &Rc<Self>, sender: http1::SendRequest<RequestBody>, pick: &Pick, left: u32) -> Lease {
        Lease { sender, endpoint: pick.endpoint.clone(), left: left - 1, pool: self.clone() }
    }

    async fn idle(&self, pick: &Pick) -> Option<(http1::SendRequest<RequestBody>, u32)> {
        let longest = pick.upstream.pool_idle.unwrap_or(self.timeouts.pool_idle());
        loop {
            // taken out before the await, so no borrow is held over it
            let Idle { mut sender, since, left } = self.kept.borrow_mut().get_mut(&pick.endpoint.id)?.http1.pop()?;
            pick.endpoint.stats.idle.fetch_sub(1, Relaxed);
            let fresh = since.elapsed() < longest;
            if fresh && (sender.is_ready() || sender.ready().await.is_ok()) {
                return Some((sender, left));
            }
        }
    }

    async fn connect_http1(&self, pick: &Pick) -> Result<http1::SendRequest<RequestBody>, Failure> {
        let io = self.connect(pick).await?;
        let (sender, connection) = http1::handshake(io).await.map_err(|_| Failure::ConnectFailed)?;
        // it ends when the sender is dropped or the peer closes; how it ended is the request's to tell
        open(&pick.endpoint, connection);
        Ok(sender)
    }

    async fn connect_http2(&self, pick: &Pick) -> Result<http2::SendRequest<RequestBody>, Failure> {
        let io = self.connect(pick).await?;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(10)));
        let (sender, connection) = builder.handshake(io).await.map_err(|_| Failure::ConnectFailed)?;
        open(&pick.endpoint, connection);
        Ok(sender)
    }

    async fn connect(&self, pick: &Pick) -> Result<TokioIo<TcpStream>, Failure> {
        let connect = TcpStream::connect(pick.endpoint.address());
        let longest = pick.upstream.connect_timeout.unwrap_or(self.timeouts.connect());
        let stream = tokio::time::timeout(longest, connect).await;
        let stream = stream.map_err(|_| Failure::ConnectTimeout).and_then(|s| s.map_err(|_| Failure::ConnectFailed));
        let stats = &pick.endpoint.stats;
        add(if stream.is_ok() { &stats.connects } else { &stats.connect_failures }, 1);
        let stream = stream?;
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        Ok(TokioIo::new(stream))
    }
}

/// Runs a connection, and counts it as open for as long as it runs.
fn open(endpoint: &Arc<Endpoint>, connection: impl Future<Output = hyper::Result<()>> + 'static) {
    let endpoint = endpoint.clone();
    endpoint.stats.open.fetch_add(1, Relaxed);
    tokio::task::spawn_local(async move {
        // how it ended is the request's to tell
        let _ = connection.await;
        endpoint.stats.open.fetch_sub(1, Relaxed);
    });
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let mut kept = self.pool.kept.borrow_mut();
        let Some(Kept { http1: idle, .. }) = kept.get_mut(&self.endpoint.id) else { return };
        if self.left > 0 && !self.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Idle { sender: self.sender, since: Instant::now(), left: self.left });
            self.endpoint.stats.idle.fetch_add(1, Relaxed);
        }
    }
}
