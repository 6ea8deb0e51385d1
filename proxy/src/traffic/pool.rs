//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: one connection per endpoint carries everything this thread sends there.

mod connect;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::time::Instant;

use self::connect::{connect, open};
use crate::{
    config::{Protocol, Timeouts},
    security::Peer,
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
    http1: Vec<Own>,
    http2: Option<Shared>,
}

/// A connection one request may use.
pub(crate) enum Connection {
    Http1(Lease),
    Http2(Shared),
}

/// A lent HTTP/1.1 connection.
pub(crate) struct Lease {
    pub(crate) own: Own,
    endpoint: Arc<Endpoint>,
    pool: Rc<Pool>,
}

/// An HTTP/1.1 connection.
pub(crate) struct Own {
    pub(crate) sender: http1::SendRequest<RequestBody>,
    /// Who is at the other end, if TLS has proved it.
    pub(crate) peer: Option<Arc<Peer>>,
    since: Instant,
    /// How many more requests it may carry.
    left: u32,
}

/// An HTTP/2 connection.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) sender: http2::SendRequest<RequestBody>,
    pub(crate) peer: Option<Arc<Peer>>,
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
        match pick.upstream.protocol {
            Protocol::Http1 => {
                if kept_too && let Some(own) = self.idle(pick).await {
                    return Ok((Connection::Http1(self.lend(own, pick)), true));
                }
                let own = self.connect_http1(pick).await?;
                // from here on a connection that comes back is kept
                self.kept.borrow_mut().entry(pick.endpoint.id).or_default();
                Ok((Connection::Http1(self.lend(own, pick)), false))
            }
            Protocol::H2 => {
                let kept = self.kept.borrow().get(&pick.endpoint.id).and_then(|kept| kept.http2.clone());
                if let Some(shared) = kept.filter(|shared| kept_too && !shared.sender.is_closed()) {
                    return Ok((Connection::Http2(shared), true));
                }
                let shared = self.connect_http2(pick).await?;
                self.kept.borrow_mut().entry(pick.endpoint.id).or_default().http2 = Some(shared.clone());
                Ok((Connection::Http2(shared), false))
            }
        }
    }

    fn lend(self: &Rc<Self>, own: Own, pick: &Pick) -> Lease {
        Lease { own: Own { left: own.left - 1, ..own }, endpoint: pick.endpoint.clone(), pool: self.clone() }
    }

    async fn idle(&self, pick: &Pick) -> Option<Own> {
        let longest = pick.upstream.pool_idle.unwrap_or(self.timeouts.pool_idle());
        loop {
            // taken out before the await, so no borrow is held over it
            let mut own = self.kept.borrow_mut().get_mut(&pick.endpoint.id)?.http1.pop()?;
            pick.endpoint.stats.idle.fetch_sub(1, Relaxed);
            let fresh = own.since.elapsed() < longest;
            if fresh && (own.sender.is_ready() || own.sender.ready().await.is_ok()) {
                return Some(own);
            }
        }
    }

    async fn connect_http1(&self, pick: &Pick) -> Result<Own, Failure> {
        let (wire, peer) = connect(&pick.upstream, &pick.endpoint, self.timeouts.connect()).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(|_| Failure::ConnectFailed)?;
        // it ends when the sender is dropped or the peer closes
        open(pick.endpoint.clone(), connection);
        Ok(Own { sender, peer, since: Instant::now(), left: pick.upstream.requests_per_connection })
    }

    async fn connect_http2(&self, pick: &Pick) -> Result<Shared, Failure> {
        let (wire, peer) = connect(&pick.upstream, &pick.endpoint, self.timeouts.connect()).await?;
        let mut builder = http2::Builder::new(LocalExecutor);
        builder.timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(10)));
        let (sender, connection) = builder.handshake(TokioIo::new(wire)).await.map_err(|_| Failure::ConnectFailed)?;
        open(pick.endpoint.clone(), connection);
        Ok(Shared { sender, peer })
    }
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let mut kept = self.pool.kept.borrow_mut();
        let Some(Kept { http1: idle, .. }) = kept.get_mut(&self.endpoint.id) else { return };
        if self.own.left > 0 && !self.own.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Own { since: Instant::now(), ..self.own });
            self.endpoint.stats.idle.fetch_add(1, Relaxed);
        }
    }
}
