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
mod tests {
    use http::{Request, Response};
    use http_body_util::{BodyExt, Full};
    use tokio::{
        io::{AsyncReadExt, AsyncWriteExt},
        net::TcpListener,
        task::LocalSet,
    };

    use super::*;
    use crate::{Config, security::Security, traffic::pool::Connection, workload::Workload};

    const HEADERS: u8 = 1;
    const SETTINGS: u8 = 4;
    const PING: u8 = 6;

    fn to(listener: &TcpListener) -> (Pool, Pick) {
        with(listener, "")
    }

    /// An upstream of which `more` is said.
    fn with(listener: &TcpListener, more: &str) -> (Pool, Pick) {
        let text = format!(
            "service: a\ntimeouts: {{ connect_ms: 1000 }}\n\
             listeners: [{{ address: '127.0.0.1:0', direction: outbound, routes: [{{ upstream: app }}] }}]\n\
             upstreams: [{{ name: app, protocol: h2, endpoints: ['{}']{more} }}]",
            listener.local_addr().unwrap()
        );
        let config = Config::from_yaml(&text).unwrap();
        let workload = Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::default(), Security::default());
        let pick = workload.upstreams[0].pick(None, &[], Instant::now()).unwrap();
        (Pool::new(config.timeouts, config.http), pick)
    }

    async fn http2(pool: &Pool, pick: &Pick) -> (http2::SendRequest<RequestBody>, Place) {
        match pool.connection(pick, true).await {
            Ok((Connection::Http2(sender, place), _)) => (sender, place),
            _ => panic!("no HTTP/2 connection"),
        }
    }

    /// Runs `flow` to its end while `answering` serves the other side.
    async fn while_answered(flow: impl Future<Output = ()>, answering: impl Future<Output = ()>) {
        let both = async {
            tokio::select! {
                () = flow => {}
                () = answering => panic!("the connection ended"),
            }
        };
        LocalSet::new().run_until(both).await;
    }

    /// Three answers of 2 MiB once filled the 5 MiB that hyper gives a connection.
    #[tokio::test]
    async fn answers_that_nobody_reads_stop_no_other() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = to(&listener);
        let answering = async {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((request, mut answer))) = connection.accept().await {
                let bytes = request.uri().path()[1..].parse().unwrap();
                let mut body = answer.send_response(Response::new(()), false).unwrap();
                body.send_data(vec![0; bytes].into(), true).unwrap();
            }
        };
        let flow = async {
            let (mut sender, _place) = http2(&pool, &pick).await;
            let mut ask = async |bytes: usize| {
                let request = Request::get(format!("http://app/{bytes}")).body(RequestBody::Whole(Full::default()));
                sender.send_request(request.unwrap()).await.unwrap().into_body()
            };
            let mut unread = Vec::new();
            for _ in 0..4 {
                unread.push(ask(3 << 20).await);
            }
            let quick = tokio::time::timeout(Duration::from_secs(10), ask(10).await.collect()).await;
            assert_eq!(quick.expect("it waits for what nobody reads").unwrap().to_bytes().len(), 10);
            assert_eq!(unread.pop().unwrap().collect().await.unwrap().to_bytes().len(), 3 << 20, "they come when read");
        };
        while_answered(flow, answering).await;
    }

    /// 4,096 streams that nobody read could hold 1 GiB on one connection.
    #[tokio::test]
    async fn what_nobody_reads_is_bounded_on_each_connection() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = to(&listener);
        let accepted = Rc::new(Cell::new(0));
        let answering = async {
            let local = LocalSet::new();
            local
                .run_until(async {
                    loop {
                        let stream = listener.accept().await.unwrap().0;
                        accepted.set(accepted.get() + 1);
                        tokio::task::spawn_local(async move {
                            let mut connection = h2::server::handshake(stream).await.unwrap();
                            while let Some(Ok((_, mut answer))) = connection.accept().await {
                                let mut body = answer.send_response(Response::new(()), false).unwrap();
                                body.send_data(vec![0; 300 << 10].into(), true).unwrap();
                            }
                        });
                    }
                })
                .await;
        };
        let flow = async {
            let mut unread = Vec::new();
            for opened in 1..=129_usize {
                let (mut sender, place) = http2(&pool, &pick).await;
                let request = Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
                unread.push((sender.send_request(request).await.unwrap().into_body(), place));
                assert_eq!(accepted.get(), opened.div_ceil(128), "{opened} streams");
            }
            let (read, _place) = unread.swap_remove(0);
            assert_eq!(read.collect().await.unwrap().to_bytes().len(), 300 << 10, "it comes when read");
        };
        while_answered(flow, answering).await;
    }

    /// More than 4,096 streams once shared windows that were made for those, and who did not read stopped others.
    #[tokio::test]
    async fn no_connection_carries_more_than_its_window_is_for() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = to(&listener);
        let answering = async {
            let mut connections = Vec::new();
            loop {
                let stream = listener.accept().await.unwrap().0;
                let mut connection = h2::server::Builder::new();
                connection.max_concurrent_streams(1);
                let mut connection = connection.handshake::<_, bytes::Bytes>(stream).await.unwrap();
                connections.push(tokio::task::spawn_local(async move { while connection.accept().await.is_some() {} }));
            }
        };
        let flow = async {
            let mut places = Vec::new();
            for _ in 0..ENOUGH_CONNECTIONS + 1 {
                places.push(http2(&pool, &pick).await.1);
            }
            let kept = pool.kept.borrow()[&pick.endpoint.id].clone();
            let open = || kept.http2.open.borrow().iter().map(|c| c.in_use.get()).collect::<Vec<_>>();
            assert_eq!((open().len(), open().iter().max()), (ENOUGH_CONNECTIONS, Some(&2)), "one waits for the peer's");
            while open().iter().min() < Some(&MAX_STREAMS) {
                places.push(http2(&pool, &pick).await.1);
            }
            assert_eq!(open(), [MAX_STREAMS; ENOUGH_CONNECTIONS]);
            places.push(http2(&pool, &pick).await.1);
            assert_eq!((open().len(), open().iter().max()), (ENOUGH_CONNECTIONS + 1, Some(&MAX_STREAMS)));
        };
        while_answered(flow, answering).await;
    }

    /// gRPC servers close whoever pings a stream without data more often than every five minutes: every 10 s was too often for
    /// all calls on that connection after 40 s.
    #[tokio::test]
    async fn a_quiet_stream_is_pinged_only_where_that_is_asked_for() {
        for (more, pings) in [("", 0), (", ping_ms: 60000", 9)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (pool, pick) = with(&listener, more);
            let counting = async {
                let mut stream = listener.accept().await.unwrap().0;
                stream.write_all(&[0, 0, 0, SETTINGS, 0, 0, 0, 0, 0]).await.unwrap();
                stream.read_exact(&mut [0; 24]).await.unwrap();
                let (mut seen, mut asked) = (0, 0);
                // the second request ends it
                while asked < 2 {
                    let mut head = [0; 9];
                    stream.read_exact(&mut head).await.unwrap();
                    let mut payload = vec![0; usize::from(u16::from_be_bytes([head[1], head[2]]))];
                    stream.read_exact(&mut payload).await.unwrap();
                    match head[3] {
                        PING => {
                            seen += 1;
                            let pong = [&[0, 0, 8, PING, 1, 0, 0, 0, 0][..], &payload].concat();
                            stream.write_all(&pong).await.unwrap();
                        }
                        HEADERS => asked += 1,
                        _ => {}
                    }
                }
                seen
            };
            let flow = async {
                let (mut sender, _place) = http2(&pool, &pick).await;
                let request = || Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
                let quiet = sender.send_request(request());
                let asked = tokio::task::spawn_local(quiet);
                tokio::time::pause();
                for _ in 0..570 {
                    tokio::time::sleep(Duration::from_secs(1)).await;
                }
                tokio::time::resume();
                let second = tokio::task::spawn_local(sender.send_request(request()));
                (asked, second)
            };
            let (seen, _) = LocalSet::new().run_until(async { tokio::join!(counting, flow) }).await;
            assert_eq!(seen, pings, "in nine and a half minutes, with {more:?}");
        }
    }

    /// One that carried nothing any more stayed for as long as its peer let it, whatever `pool_idle_ms` said.
    #[tokio::test]
    async fn a_connection_without_streams_is_closed_after_its_time() {
        for (more, longest_s) in [(", pool_idle_ms: 20000", 20), ("", 300)] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let (pool, pick) = with(&listener, more);
            let closed = Notify::new();
            let answering = async {
                let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
                while let Some(Ok((_, mut answer))) = connection.accept().await {
                    answer.send_response(Response::new(()), true).unwrap();
                }
                closed.notify_one();
                std::future::pending::<()>().await;
            };
            let flow = async {
                let (mut sender, place) = http2(&pool, &pick).await;
                let request = Request::get("http://app/").body(RequestBody::Whole(Full::default())).unwrap();
                sender.send_request(request).await.unwrap();
                drop(sender);
                let left_after = async |seconds| {
                    tokio::time::advance(Duration::from_secs(seconds)).await;
                    pool.sweep(&[pick.endpoint.id].into());
                    pool.kept.borrow()[&pick.endpoint.id].http2.open.borrow().len()
                };
                tokio::time::pause();
                assert_eq!(left_after(3_600).await, 1, "its stream is open");
                drop(place);
                assert_eq!((left_after(longest_s - 1).await, left_after(1).await), (1, 0), "{more:?}");
                tokio::time::resume();
                closed.notified().await;
            };
            while_answered(flow, answering).await;
        }
    }

    /// Unless told otherwise h2 takes 16 KiB, where over HTTP/1.1 the same answers came through.
    #[tokio::test]
    async fn an_answer_may_have_as_long_a_head_as_a_request() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = to(&listener);
        let answering = async {
            let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
            while let Some(Ok((request, mut answer))) = connection.accept().await {
                let bytes: usize = request.uri().path()[1..].parse().unwrap();
                let head = Response::builder().header("x-long", "a".repeat(bytes)).body(()).unwrap();
                let _ = answer.send_response(head, true);
            }
        };
        let flow = async {
            let (mut sender, _place) = http2(&pool, &pick).await;
            for (bytes, taken) in [(1_000, true), (50 * 1024, true), (70 * 1024, false)] {
                let request =
                    Request::get(format!("http://app/{bytes}")).body(RequestBody::Whole(Full::default())).unwrap();
                assert_eq!(sender.send_request(request).await.is_ok(), taken, "{bytes}");
            }
        };
        while_answered(flow, answering).await;
    }

    /// The next request inherited a handshake that nobody had waited for, with its deadlines of then.
    #[tokio::test]
    async fn a_handshake_that_all_have_left_is_begun_anew() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (pool, pick) = to(&listener);
        let flow = async {
            let left = tokio::time::timeout(Duration::from_millis(100), pool.connection(&pick, true)).await;
            assert!(left.is_err(), "nobody answers");
            let _silent = listener.accept().await.unwrap();
            // until the deadline of that handshake has passed
            tokio::time::sleep(Duration::from_millis(1_100)).await;
            let answering = async {
                let mut connection = h2::server::handshake(listener.accept().await.unwrap().0).await.unwrap();
                while connection.accept().await.is_some() {}
            };
            tokio::select! {
                connected = pool.connection(&pick, true) => assert!(connected.is_ok(), "it is connected anew"),
                () = answering => panic!("the connection ended"),
            }
        };
        LocalSet::new().run_until(flow).await;
    }
}
