//! One connection of a client: which protocol it speaks, its requests one after the other, its end.
//!
//! When the proxy drains, HTTP/2 is told so at once. An HTTP/1.1 client is told with its next answer,
//! and only one that stays silent is closed, so that no request is met by a closing socket.

use std::{cell::Cell, convert::Infallible, net::IpAddr, rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request, Response};
use hyper::{
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
    time::{Instant, MissedTickBehavior},
};
use tracing::debug;

use crate::{
    config::{Http, ListenerProtocol},
    connection::{Detected, Guard, Patience, detect},
    counters::add,
    security::Peer,
    traffic::{
        answers::Answers,
        body::ProxyBody,
        forward::handle,
        handshake::{Secured, secure},
        lifetime::Lifetime,
        listener::Slot,
        open::Open,
        serve::LocalExecutor,
        timers::Timers,
        tunnel,
    },
};

/// Half a second that an idle HTTP/1.1 client gets when the proxy drains: longer than a request is on its way.
const LINGER: Duration = Duration::from_millis(500);

/// Both ends of an HTTP/2 connection see within a minute that the other is gone.
const KEEP_ALIVE: Duration = Duration::from_secs(30);

/// 64 KiB that a stream keeps of an answer nobody reads: with 100 streams, 6.4 MiB a connection at worst.
const SEND_BUFFER_BYTES: usize = 64 * 1024;

/// 256 KiB that a client may send ahead on a stream, and 1 MiB on a connection: 2 ms at 1 Gbit/s.
const STREAM_WINDOW_BYTES: u32 = 256 * 1024;
const CONNECTION_WINDOW_BYTES: u32 = 1024 * 1024;

/// hyper allocates for more fields than this, and only then.
const HEADERS_ON_STACK: usize = 100;

/// Who asks.
#[derive(Clone)]
pub(crate) struct Client {
    pub(crate) address: IpAddr,
    /// The address as messages have it; one of IPv4 looks like one, whatever the listener's socket.
    pub(crate) name: HeaderValue,
    /// The name of the trusted proxy that connected, where it asks for somebody behind it.
    pub(crate) hop: Option<HeaderValue>,
    /// As TLS has proved it.
    pub(crate) peer: Option<Arc<Peer>>,
    /// The answers under way to it, if it speaks HTTP/2.
    pub(crate) answers: Option<Rc<Answers>>,
    /// The connection's place among those that are open.
    pub(crate) open: Option<Rc<Open>>,
}

/// Serves a connection to its end.
pub(crate) async fn serve(slot: Rc<Slot>, stream: TcpStream, address: IpAddr, open: Open) {
    let era = slot.era();
    let Some(Secured { mut wire, peer, http2: agreed, proof }) = secure(&slot, stream).await else { return };
    let life = Lifetime::begin(&era, proof);
    let Some((detected, ahead)) = first_bytes(&slot, &life, &mut wire, agreed).await else { return };
    let client = Client { open: Some(Rc::new(open)), ..Client::new(address, peer) };
    let (worker, listener) = slot.current();
    let (tally, patience) = (worker.workload.tally.clone(), Patience(worker.workload.timeouts.write_idle()));
    let Http { max_header_bytes, max_control_frames_per_s, .. } = worker.workload.http;
    let tcp = worker.workload.accepts[listener].tcp.clone();
    match detected {
        Detected::Http1 => {
            // hyper counts the whole head and answers 431; the guard's bound is on what it keeps, and comes later
            let guard = Guard::http1(wire, ahead, 2 * max_header_bytes, tally, patience);
            http1(slot, client, life, guard).await;
        }
        Detected::Http2 => {
            let guard = Guard::http2(wire, ahead, max_control_frames_per_s, tally, patience);
            http2(slot, client, life, guard).await;
        }
        Detected::Tcp => {
            let Some(route) = tcp else { return };
            tunnel::tcp(worker, listener, route, client, Guard::open(wire, ahead, tally, patience)).await;
        }
    }
}

/// What the client speaks and what it said so far; `None` when there is nothing to serve.
async fn first_bytes<S>(
    slot: &Slot,
    life: &Lifetime,
    stream: &mut S,
    agreed: Option<bool>,
) -> Option<(Detected, Vec<u8>)>
where
    S: AsyncRead + Unpin,
{
    let (worker, listener) = slot.current();
    let timeouts = &worker.workload.timeouts;
    let (tcp_too, wait) = match worker.workload.accepts[listener].protocol {
        ListenerProtocol::Tcp => return Some((Detected::Tcp, Vec::new())),
        // TLS has settled it, and hyper gives a head no longer than it may take
        _ if agreed == Some(false) => return Some((Detected::Http1, Vec::new())),
        // here the preface is waited for, which hyper would do for ever
        _ if agreed == Some(true) => (false, timeouts.header_read()),
        ListenerProtocol::Http => (false, timeouts.header_read()),
        ListenerProtocol::Detect => (true, timeouts.detect()),
    };
    let found = detect(stream, tcp_too, Instant::now() + wait);
    let found = tokio::select! {
        found = found => found,
        () = lingered(life) => return None,
    };
    let found = found.unwrap_or_else(|error| {
        debug!(%error, "a connection ended before it said anything");
        None
    });
    found.filter(|(detected, _)| agreed != Some(true) || *detected == Detected::Http2)
}

async fn http1<S>(slot: Rc<Slot>, client: Client, life: Lifetime, guard: Guard<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (worker, _) = slot.current();
    let Http { max_header_bytes, max_headers, .. } = worker.workload.http;
    let verdict = guard.verdict();
    let mut builder = http1::Builder::new();
    builder.timer(Timers::default()).header_read_timeout(worker.workload.timeouts.header_read());
    builder.max_buf_size(max_header_bytes).max_header_size(max_header_bytes);
    if max_headers != HEADERS_ON_STACK {
        builder.max_headers(max_headers);
    }
    drop(worker); // a connection that lasts must not keep an old configuration
    let (asked, slot, client, over) = (Cell::new(0), &slot, &client, &life.over);
    let service = service_fn(|request| {
        asked.set(asked.get() + 1);
        let (number, verdict) = (asked.get(), &verdict);
        async move {
            let asked_connect = request_is_connect(&request);
            let mut response = client.ask(slot, request).await;
            verdict.settle(number, is_tunnel(asked_connect, response.status()));
            if over.is_cancelled() {
                response.headers_mut().entry(http::header::CONNECTION).or_insert(CLOSE);
            }
            Ok::<_, Infallible>(response)
        }
    });
    let connection = builder.serve_connection(TokioIo::new(guard), service).with_upgrades();
    let mut connection = std::pin::pin!(connection);
    let served = tokio::select! {
        biased;
        served = connection.as_mut() => served,
        () = lingered(&life) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    ended(served);
}

const CLOSE: http::HeaderValue = http::HeaderValue::from_static("close");

/// Resolves when the connection is over for so long that a silent client may be closed.
async fn lingered(life: &Lifetime) {
    life.over.cancelled().await;
    tokio::time::sleep(LINGER).await;
}

async fn http2<S>(slot: Rc<Slot>, client: Client, life: Lifetime, guard: Guard<S>)
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let (worker, _) = slot.current();
    let Http { max_header_bytes, max_streams, max_pending_resets, .. } = worker.workload.http;
    let mut builder = http2::Builder::new(LocalExecutor);
    builder.timer(TokioTimer::new()).keep_alive_interval(Some(KEEP_ALIVE));
    builder.max_concurrent_streams(max_streams).max_pending_accept_reset_streams(max_pending_resets);
    builder.max_header_list_size(u32::try_from(max_header_bytes).unwrap_or(u32::MAX));
    builder.initial_stream_window_size(STREAM_WINDOW_BYTES).initial_connection_window_size(CONNECTION_WINDOW_BYTES);
    builder.max_send_buf_size(SEND_BUFFER_BYTES).enable_connect_protocol();
    let timeouts = worker.workload.timeouts;
    let tally = worker.workload.tally.clone();
    drop(worker);
    let answers = Rc::new(Answers::default());
    let client = Client { answers: Some(answers.clone()), ..client };
    let service = service_fn(|request| {
        let (slot, client) = (slot.clone(), client.clone());
        async move { Ok::<_, Infallible>(client.ask(&slot, request).await) }
    });
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(guard), service));
    let mut over = std::pin::pin!(life.over.cancelled());
    // soon enough that nobody holds out for more than a half beyond what it may
    let mut looks = tokio::time::interval(timeouts.write_idle().min(timeouts.http2_idle()) / 2);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // each request and each answer under way holds one more
    let (nobody, mut busy) = (Rc::strong_count(&answers), Instant::now());
    let mut told_to_go: Option<Instant> = None;
    // as long as one may take that reads its last answer, or sends another head
    let last_wait = timeouts.write_idle().max(timeouts.header_read());
    let served = loop {
        tokio::select! {
            biased;
            served = connection.as_mut() => break served,
            () = over.as_mut(), if told_to_go.is_none() => {}
            now = looks.tick() => {
                add(&tally.slow_clients, answers.end_unread(timeouts.write_idle(), now));
                if Rc::strong_count(&answers) > nobody {
                    busy = now;
                }
                match told_to_go {
                    // in the middle of a head, say, from where the library would wait for it
                    Some(told) if now.duration_since(busy.max(told)) >= last_wait => return,
                    None if now.duration_since(busy) >= timeouts.http2_idle() => {}
                    _ => continue,
                }
            }
        }
        told_to_go = Some(Instant::now());
        connection.as_mut().graceful_shutdown();
    };
    ended(served);
}

impl Client {
    pub(crate) fn new(address: IpAddr, peer: Option<Arc<Peer>>) -> Self {
        Self { address, name: name(address), hop: None, peer, answers: None, open: None }
    }

    /// Somebody at `address` who asks by this one.
    pub(crate) fn behind(&self, address: IpAddr) -> Self {
        Self { address, name: name(address), hop: Some(self.name.clone()), ..self.clone() }
    }

    /// Puts a request to the configuration in force.
    async fn ask(&self, slot: &Slot, mut request: Request<Incoming>) -> Response<ProxyBody> {
        if let Some(peer) = &self.peer {
            request.extensions_mut().insert(peer.clone());
        }
        let (worker, listener) = slot.current();
        handle(worker, listener, self, request).await
    }
}

fn name(address: IpAddr) -> HeaderValue {
    HeaderValue::try_from(address.to_canonical().to_string()).expect("digits, letters, dots and colons")
}

fn request_is_connect<B>(request: &http::Request<B>) -> bool {
    request.method() == http::Method::CONNECT
}

/// Whether the bytes behind a request are no HTTP any more.
fn is_tunnel(asked_connect: bool, status: http::StatusCode) -> bool {
    status == http::StatusCode::SWITCHING_PROTOCOLS || asked_connect && status.is_success()
}

fn ended(served: hyper::Result<()>) {
    if let Err(error) = served {
        debug!(%error, "connection ended");
    }
}
