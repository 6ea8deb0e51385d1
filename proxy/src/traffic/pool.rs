//! [`Pool`]: kept connections of one data thread; no lock, no other thread's business.
//!
//! HTTP/1.1: a connection is lent to one request and comes back when the response's body has ended.
//! HTTP/2: requests share connections; when one carries as many streams as the peer allows, another is
//! opened beside it (`pool::streams`).

mod connect;
mod streams;

use std::{
    cell::{Cell, RefCell},
    collections::{HashMap, HashSet},
    rc::{Rc, Weak},
    sync::{Arc, atomic::Ordering::Relaxed},
};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use tokio::time::{Duration, Instant};

pub(crate) use self::connect::Wire;
use self::{
    connect::{connect, open},
    streams::{Place, Streams},
};
use crate::{
    config::{Http, Protocol, Timeouts},
    security::Peer,
    telemetry::Failure,
    traffic::replay::RequestBody,
    upstream::{Endpoint, Pick, Upstream},
};

/// Kept per endpoint and thread; more would be closed again by idleness anyway.
const MAX_IDLE: usize = 256;

/// The connections of one thread, by endpoint.
pub(crate) struct Pool {
    /// Those of the configuration in force.
    timeouts: Cell<Timeouts>,
    http: Cell<Http>,
    kept: RefCell<HashMap<usize, Rc<Kept>, foldhash::fast::RandomState>>,
    /// Which change of the endpoints it knows.
    generation: Cell<usize>,
}

/// The connections to one endpoint.
struct Kept {
    endpoint: Arc<Endpoint>,
    /// The one that was used last is the last, and used first: so those at the beginning grow old.
    http1: RefCell<Vec<Own>>,
    /// How long one may be idle.
    longest: Cell<Duration>,
    http2: Streams,
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
    pub(crate) own: Own,
    endpoint: Arc<Endpoint>,
    /// Where it goes back to, unless the endpoint is gone by then.
    kept: Weak<Kept>,
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

impl Pool {
    pub(crate) fn new(timeouts: Timeouts, http: Http) -> Self {
        Self {
            timeouts: Cell::new(timeouts),
            http: Cell::new(http),
            kept: RefCell::default(),
            generation: Cell::new(0),
        }
    }

    /// The configuration was read again; connections stay.
    pub(crate) fn obey(&self, timeouts: Timeouts, http: Http) {
        self.timeouts.set(timeouts);
        self.http.set(http);
    }

    /// Closes what is kept for endpoints that are no longer there; what is lent is closed when it comes back.
    pub(crate) fn keep_only(&self, generation: usize, there: impl FnOnce() -> HashSet<usize>) {
        if self.generation.replace(generation) != generation {
            let there = there();
            self.kept.borrow_mut().retain(|id, _| there.contains(id));
        }
    }

    /// Closes what was idle for too long, or was closed by its upstream; else a burst would leave connections behind for as
    /// long as those allow. And what is kept for endpoints that are no longer `there`: no request may come to notice.
    pub(crate) fn sweep(&self, there: &HashSet<usize>) {
        let mut kept = self.kept.borrow_mut();
        kept.retain(|id, _| there.contains(id));
        kept.values().for_each(|kept| kept.sweep(Instant::now()));
    }

    /// A kept connection, else a new one. The flag says which: a kept one may turn out to be closed.
    pub(crate) async fn connection(&self, pick: &Pick, kept_too: bool) -> Result<(Connection, bool), Failure> {
        let new = || Rc::new(Kept::of(pick.endpoint.clone()));
        let kept = self.kept.borrow_mut().entry(pick.endpoint.id).or_insert_with(new).clone();
        kept.longest.set(self.longest(&pick.upstream));
        match pick.upstream.protocol {
            Protocol::Http1 => {
                let idle = if kept_too { idle(pick, &kept).await } else { None };
                let was_kept = idle.is_some();
                let own = match idle {
                    Some(own) => own,
                    None => self.connect_http1(pick).await?,
                };
                let own = Own { left: own.left - 1, ..own };
                let lent = Lent { own, endpoint: pick.endpoint.clone(), kept: Rc::downgrade(&kept) };
                Ok((Connection::Http1(lent), was_kept))
            }
            Protocol::H2 => {
                let (sender, place, was_kept) = kept.http2.place(self, pick, kept_too).await?;
                Ok((Connection::Http2(sender, place), was_kept))
            }
        }
    }

    /// A connection that is nobody else's.
    pub(crate) async fn connect(&self, pick: &Pick) -> Result<(Wire, Option<Arc<Peer>>), Failure> {
        connect(&pick.upstream, &pick.endpoint, self.timeouts.get().connect()).await
    }

    /// How long a connection may be idle: over HTTP/2, which ends in good order, for as long as we let clients.
    fn longest(&self, upstream: &Upstream) -> Duration {
        let timeouts = self.timeouts.get();
        upstream.pool_idle.unwrap_or(match upstream.protocol {
            Protocol::Http1 => timeouts.pool_idle(),
            Protocol::H2 => timeouts.http2_idle(),
        })
    }

    async fn connect_http1(&self, pick: &Pick) -> Result<Own, Failure> {
        let (wire, peer) = self.connect(pick).await?;
        let (sender, connection) = http1::handshake(TokioIo::new(wire)).await.map_err(|_| Failure::ConnectFailed)?;
        // it ends when the sender is dropped or the peer closes
        open(pick.endpoint.clone(), connection.with_upgrades());
        Ok(Own { sender, peer, since: Instant::now(), left: pick.upstream.requests_per_connection })
    }
}

/// A kept connection that can be used.
async fn idle(pick: &Pick, kept: &Kept) -> Option<Own> {
    loop {
        // taken out before the await, so no borrow is held over it
        let mut own = kept.http1.borrow_mut().pop()?;
        pick.endpoint.stats.idle.fetch_sub(1, Relaxed);
        let fresh = own.since.elapsed() < kept.longest.get();
        let believed = pick.upstream.believes(own.peer.as_deref());
        if fresh && believed && (own.sender.is_ready() || own.sender.ready().await.is_ok()) {
            return Some(own);
        }
    }
}

impl Kept {
    fn of(endpoint: Arc<Endpoint>) -> Self {
        Self { endpoint, http1: RefCell::default(), longest: Cell::new(Duration::MAX), http2: Streams::default() }
    }

    fn sweep(&self, now: Instant) {
        let (longest, mut idle) = (self.longest.get(), self.http1.borrow_mut());
        let before = idle.len();
        idle.retain(|own| now.duration_since(own.since) < longest && !own.sender.is_closed());
        self.forget(before - idle.len());
        self.http2.sweep(longest, now);
    }

    fn forget(&self, count: usize) {
        self.endpoint.stats.idle.fetch_sub(u32::try_from(count).unwrap_or(u32::MAX), Relaxed);
    }
}

impl Drop for Kept {
    fn drop(&mut self) {
        self.forget(self.http1.borrow().len());
    }
}

impl Lease {
    /// Gives the connection back once the response has been read to its end.
    pub(crate) fn give_back(self) {
        let Self::Http1(Lent { own, endpoint, kept }) = self else { return };
        let Some(kept) = kept.upgrade() else { return };
        let mut idle = kept.http1.borrow_mut();
        if own.left > 0 && !own.sender.is_closed() && idle.len() < MAX_IDLE {
            idle.push(Own { since: Instant::now(), ..own });
            endpoint.stats.idle.fetch_add(1, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicUsize;

    use tokio::{io::AsyncReadExt, net::TcpListener, task::LocalSet};

    use super::*;
    use crate::{Config, security::Security, workload::Workload};

    /// Takes connections at every address of this machine, and counts those that are open.
    fn take(listener: TcpListener) -> Arc<AtomicUsize> {
        let open = Arc::new(AtomicUsize::new(0));
        let count = open.clone();
        tokio::task::spawn_local(async move {
            while let Ok((mut stream, _)) = listener.accept().await {
                count.fetch_add(1, Relaxed);
                let count = count.clone();
                tokio::task::spawn_local(async move {
                    while stream.read(&mut [0; 64]).await.is_ok_and(|n| n > 0) {}
                    count.fetch_sub(1, Relaxed);
                });
            }
        });
        open
    }

    /// What was kept for an endpoint that went stayed once until the next request, which may never come.
    #[tokio::test]
    async fn a_thousand_endpoints_that_went_leave_nothing() {
        let flow = async {
            let listener = TcpListener::bind("0.0.0.0:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let open = take(listener);
            let text = "service: a\nlisteners: [{ address: '127.0.0.1:0', direction: outbound, routes: [{ upstream: app }] }]\n\
                upstreams: [{ name: app, discover: { file: x } }]";
            let config = Config::from_yaml(text).unwrap();
            let workload = Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::default(), Security::default());
            let pool = Pool::new(config.timeouts, config.http);
            let mut all = Vec::new();
            for n in 0..1_000 {
                workload.publish("app", &[format!("127.1.{}.{}:{port}", n / 250, n % 250 + 1).as_str().into()]);
                pool.keep_only(workload.endpoint_changes.load(Relaxed), || workload.endpoint_ids());
                let pick = workload.upstreams[0].pick(None, &[], Instant::now()).unwrap();
                let Ok((Connection::Http1(lent), false)) = pool.connection(&pick, true).await else {
                    panic!("a new connection to {}", pick.endpoint.address())
                };
                Lease::Http1(lent).give_back();
                all.push(Arc::downgrade(&pick.endpoint));
                assert_eq!(pool.kept.borrow().len(), 1);
            }
            // the last one goes, and nobody asks for anything any more
            workload.publish("app", &[]);
            assert_eq!(workload.upstreams[0].endpoints().len(), 0);
            pool.sweep(&workload.endpoint_ids());
            assert_eq!(pool.kept.borrow().len(), 0);
            let left = || (open.load(Relaxed), all.iter().filter(|endpoint| endpoint.strong_count() > 0).count());
            let closed = async {
                while left() != (0, 0) {
                    tokio::task::yield_now().await;
                }
            };
            let closed = tokio::time::timeout(Duration::from_secs(30), closed).await;
            assert!(closed.is_ok(), "{:?} connections and endpoints are left", left());
        };
        LocalSet::new().run_until(flow).await;
    }
}
