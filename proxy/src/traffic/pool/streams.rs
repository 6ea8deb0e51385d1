//! [`Streams`]: the HTTP/2 connections of one thread to one endpoint.
//!
//! A request takes a place on a connection that has a stream free; when none has, one more connection
//! is opened, and all who need it wait for the same. Beyond so many connections the least loaded takes
//! them, and its streams wait for the peer's; none takes more than its window is made for, so then there is yet another one.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use futures::{FutureExt, future::WeakShared};
use hyper::client::conn::http2;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{sync::Notify, time::Instant};

use super::{Pool, connect::connect_http2, open};
use crate::{
    config::Http,
    security::Peer,
    telemetry::Failure,
    traffic::{replay::RequestBody, serve::LocalExecutor},
    upstream::{Endpoint, Pick, Upstream},
};

/// 32 connections carry 4,096 streams, or 3,200 to a peer that allows 100 on each. Those of one that allows few wait then, up to
/// [`MAX_STREAMS`] on each.
const ENOUGH_CONNECTIONS: usize = 32;

/// 256 KiB of an answer come before its client reads them: 128 MB/s over a round trip of 2 ms.
const STREAM_WINDOW: u32 = 256 << 10;

/// 128 streams on a connection, as nginx allows by custom; one more opens another connection.
const MAX_STREAMS: usize = 128;

/// 32 MiB, as much as all streams together may hold: clients that do not read must not stop the answers of the others, and no
/// connection holds more than this for them.
const CONNECTION_WINDOW: u32 = STREAM_WINDOW * MAX_STREAMS as u32;

/// What a connection believes of its peer until the settings come: nothing a peer would say.
const UNTOLD: usize = 0x7e57_0001;

/// How often a new connection looks whether they have come.
const SETTINGS_TICK: Duration = Duration::from_millis(1);

type Handshake = Pin<Box<dyn Future<Output = Result<Rc<Shareable>, Failure>>>>;

/// Connections that can be shared.
#[derive(Default)]
pub(super) struct Streams {
    open: RefCell<Vec<Rc<Shareable>>>,
    /// For as long as anybody waits for it: one that all have left would go on with the deadlines of then.
    connecting: RefCell<Option<WeakShared<Handshake>>>,
}

/// One connection and how busy it is.
struct Shareable {
    sender: http2::SendRequest<RequestBody>,
    peer: Option<Arc<Peer>>,
    in_use: Cell<usize>,
    /// Since when none is, if none is.
    idle_since: Cell<Instant>,
    /// As the peer's settings say.
    max_streams: Rc<Cell<usize>>,
}

/// One stream's place; given back when dropped.
pub(crate) struct Place(Rc<Shareable>);

impl Streams {
    /// A place on a kept connection or a new one; the flag says whether it was kept.
    pub(super) async fn place(
        &self,
        pool: &Pool,
        pick: &Pick,
        kept_too: bool,
    ) -> Result<(http2::SendRequest<RequestBody>, Place, bool), Failure> {
        if !kept_too {
            // kept ones closed under the request several times in a row: trust none of them
            self.open.borrow_mut().clear();
        }
        let mut kept = true;
        loop {
            if let Some(connection) = self.free(&pick.upstream) {
                return Ok((connection.sender.clone(), Place::on(connection), kept));
            }
            kept = false;
            self.open(pool, pick).await?;
        }
    }

    /// The first with a free stream, so that later ones run empty and end; where there are enough, the least busy.
    fn free(&self, upstream: &Upstream) -> Option<Rc<Shareable>> {
        let mut open = self.open.borrow_mut();
        open.retain(|connection| !connection.sender.is_closed() && upstream.believes(connection.peer.as_deref()));
        let free = open.iter().find(|c| c.in_use.get() < c.max_streams.get());
        let least = || open.iter().min_by_key(|c| c.in_use.get()).filter(|_| open.len() >= ENOUGH_CONNECTIONS);
        free.or_else(|| least().filter(|c| c.in_use.get() < MAX_STREAMS)).cloned()
    }

    /// Closes what has carried nothing for as long as it may.
    pub(super) fn sweep(&self, longest: Duration, now: Instant) {
        let lasts = |c: &Shareable| c.in_use.get() > 0 || now.duration_since(c.idle_since.get()) < longest;
        self.open.borrow_mut().retain(|connection| !connection.sender.is_closed() && lasts(connection));
    }

    async fn open(&self, pool: &Pool, pick: &Pick) -> Result<(), Failure> {
        let under_way = self.connecting.borrow().as_ref().and_then(WeakShared::upgrade);
        let connecting = under_way.unwrap_or_else(|| {
            let (longest, http) = (pool.timeouts.get().connect(), pool.http.get());
            let connecting = handshake(pick.upstream.clone(), pick.endpoint.clone(), longest, http);
            let connecting = connecting.boxed_local().shared();
            *self.connecting.borrow_mut() = connecting.downgrade();
            connecting
        });
        let connection = connecting.clone().await;
        // whoever is woken first makes it known; another may have begun since
        self.connecting.borrow_mut().take_if(|known| known.upgrade().is_none_or(|known| known.ptr_eq(&connecting)));
        let connection = connection?;
        let mut open = self.open.borrow_mut();
        if !open.iter().any(|known| Rc::ptr_eq(known, &connection)) && !connection.sender.is_closed() {
            open.push(connection);
        }
        Ok(())
    }
}

impl Place {
    fn on(connection: Rc<Shareable>) -> Self {
        connection.in_use.set(connection.in_use.get() + 1);
        Self(connection)
    }

    /// Who is at the other end, if TLS has proved it.
    pub(crate) fn peer(&self) -> Option<Arc<Peer>> {
        self.0.peer.clone()
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.0.in_use.set(self.0.in_use.get() - 1);
        self.0.idle_since.set(Instant::now());
    }
}

async fn handshake(
    upstream: Arc<Upstream>,
    endpoint: Arc<Endpoint>,
    longest: Duration,
    http: Http,
) -> Result<Rc<Shareable>, Failure> {
    let (wire, peer) = connect_http2(&upstream, &endpoint, longest).await?;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new()).keep_alive_interval(upstream.ping).initial_max_send_streams(UNTOLD);
    builder.initial_stream_window_size(STREAM_WINDOW).initial_connection_window_size(CONNECTION_WINDOW);
    builder.max_header_list_size(u32::try_from(http.max_header_bytes).unwrap_or(u32::MAX));
    let (sender, mut connection) = builder.handshake(TokioIo::new(wire)).await.map_err(|_| Failure::ConnectFailed)?;
    let max_streams = Rc::new(Cell::new(UNTOLD));
    let (told, settled) = (max_streams.clone(), Rc::new(Notify::new()));
    let settles = settled.clone();
    open(endpoint, async move {
        // hyper reads frames on a task of its own and says nothing of settings, so they are asked for
        let mut ask = tokio::time::interval(SETTINGS_TICK);
        let run = poll_fn(|cx| {
            let polled = connection.poll_unpin(cx);
            let allowed = connection.current_max_send_streams();
            // at least one, or a peer that allows none would be connected to for ever
            told.set(allowed.clamp(1, MAX_STREAMS));
            if polled.is_ready() || allowed != UNTOLD {
                settles.notify_one();
            } else {
                while ask.poll_tick(cx).is_ready() {}
            }
            polled
        });
        // how it ended is told to the requests on it
        let _ = run.await;
    });
    // streams beyond what the peer allows would wait in its connection while others are free
    tokio::time::timeout(upstream.connect_timeout.unwrap_or(longest), settled.notified())
        .await
        .map_err(|_| Failure::ConnectTimeout)?;
    let idle_since = Cell::new(Instant::now());
    Ok(Rc::new(Shareable { sender, peer, in_use: Cell::new(0), idle_since, max_streams }))
}

#[cfg(test)]
mod tests;
