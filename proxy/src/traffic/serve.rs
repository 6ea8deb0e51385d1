//! [`Worker`]: one data thread's share: it accepts, shakes hands where TLS is asked for, serves HTTP/1.1 and
//! HTTP/2 on one port, and drains.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    net::{IpAddr, SocketAddr},
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use http::HeaderValue;
use hyper::{rt::Executor, service::service_fn};
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpStream},
    task::JoinSet,
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
    security::{Accepted, Peer, ServerTls},
    telemetry::Recorder,
    traffic::{forward::handle, pool::Pool},
    workload::Workload,
};

/// Connections the kernel keeps until they are accepted.
const BACKLOG: i32 = 1024;

/// When accepting fails (no file descriptor left), the time until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// What requests on one data thread share.
pub(crate) struct Worker {
    pub(crate) workload: Arc<Workload>,
    pub(crate) pool: Rc<Pool>,
    /// What outbound requests say of who sends them.
    pub(crate) identity: HeaderValue,
    /// Where this thread leaves its records.
    pub(crate) recorder: Recorder,
    connections: Cell<usize>,
    max_connections: usize,
}

/// Runs what hyper spawns on this thread.
#[derive(Clone, Copy, Debug)]
pub(crate) struct LocalExecutor;

/// Binds so that several threads can listen on one port.
pub(crate) fn bind(address: SocketAddr) -> io::Result<std::net::TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    socket.set_reuse_port(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    Ok(socket.into())
}

impl Worker {
    pub(crate) fn new(workload: Arc<Workload>, recorder: Recorder, max_connections: usize) -> Rc<Self> {
        let identity = format!("{}/{}", workload.service, workload.instance);
        Rc::new(Self {
            pool: Rc::new(Pool::new(workload.timeouts)),
            identity: HeaderValue::from_str(&identity).unwrap_or_else(|_| HeaderValue::from_static("unnamed")),
            recorder,
            connections: Cell::new(0),
            max_connections,
            workload,
        })
    }

    /// Closes the connections kept to endpoints that are gone; costs a look at a number when none is.
    pub(crate) fn forget_removed_endpoints(&self) {
        let generation = self.workload.endpoint_changes.load(Relaxed);
        self.pool.keep_only(generation, || self.workload.endpoint_ids());
    }

    /// Serves every listener until `shutdown`; requests under way then get until the drain's end.
    pub(crate) async fn run(self: Rc<Self>, listeners: Vec<std::net::TcpListener>, shutdown: CancellationToken) {
        let drain = self.workload.timeouts.drain();
        let graceful = Rc::new(GracefulShutdown::new());
        let mut accepting = tokio::task::JoinSet::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    accepting.spawn_local(self.clone().accept(index, listener, graceful.clone(), shutdown.clone()));
                }
                Err(error) => warn!(%error, "a listener cannot be used"),
            }
        }
        while accepting.join_next().await.is_some() {}
        let Some(graceful) = Rc::into_inner(graceful) else { return };
        if tokio::time::timeout(drain, graceful.shutdown()).await.is_err() {
            warn!("requests were still under way at the end of the drain");
        }
    }

    async fn accept(
        self: Rc<Self>,
        index: usize,
        listener: TcpListener,
        graceful: Rc<GracefulShutdown>,
        shutdown: CancellationToken,
    ) {
        let tls = self.workload.security.server_tls(index).cloned();
        // those under way end with this loop: nothing of them was a request yet
        let mut handshakes = JoinSet::new();
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                Some(ended) = handshakes.join_next() => {
                    if let Ok(Ok((accepted, client))) = ended {
                        self.clone().serve_accepted(index, accepted, client, &graceful);
                    }
                    continue;
                }
                accepted = listener.accept() => accepted,
            };
            match (accepted, &tls) {
                // one too many is closed at once: a client sees that, and a backlog would only hide it
                (Ok((stream, _)), _) if self.connections.get() + handshakes.len() >= self.max_connections => {
                    drop(stream)
                }
                (Ok((stream, client)), None) => self.clone().serve_plain(index, stream, client, &graceful),
                (Ok((stream, client)), Some(tls)) => begin_handshake(tls, stream, client, &mut handshakes),
                (Err(error), _) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve_plain(self: Rc<Self>, index: usize, stream: TcpStream, client: SocketAddr, graceful: &GracefulShutdown) {
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        self.serve(index, stream, client.ip(), None, auto::Builder::new(LocalExecutor), graceful);
    }

    fn serve_accepted(
        self: Rc<Self>,
        index: usize,
        accepted: Accepted,
        client: SocketAddr,
        graceful: &GracefulShutdown,
    ) {
        let builder = auto::Builder::new(LocalExecutor);
        match accepted {
            Accepted::Plain(stream) => self.serve(index, stream, client.ip(), None, builder, graceful),
            Accepted::Tls { stream, peer, http2 } => {
                let builder = match http2 {
                    Some(true) => builder.http2_only(),
                    Some(false) => builder.http1_only(),
                    None => builder,
                };
                self.serve(index, stream, client.ip(), Some(peer), builder, graceful);
            }
        }
    }

    fn serve<I>(
        self: Rc<Self>,
        index: usize,
        stream: I,
        client: IpAddr,
        peer: Option<Arc<Peer>>,
        mut builder: auto::Builder<LocalExecutor>,
        graceful: &GracefulShutdown,
    ) where
        I: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.workload.timeouts.header_read());
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
        let worker = self.clone();
        let service = service_fn(move |mut request| {
            let worker = worker.clone();
            if let Some(peer) = &peer {
                request.extensions_mut().insert(peer.clone());
            }
            async move { Ok::<_, Infallible>(handle(worker, index, client, request).await) }
        });
        let connection = builder.serve_connection(TokioIo::new(stream), service).into_owned();
        let served = graceful.watch(connection);
        self.connections.set(self.connections.get() + 1);
        tokio::task::spawn_local(async move {
            if let Err(error) = served.await {
                debug!(%error, "connection ended");
            }
            self.connections.set(self.connections.get() - 1);
        });
    }
}

/// Shakes hands beside the loop that accepts; one handshake too many is closed at once.
fn begin_handshake(
    tls: &Arc<ServerTls>,
    stream: TcpStream,
    client: SocketAddr,
    handshakes: &mut JoinSet<io::Result<(Accepted, SocketAddr)>>,
) {
    if handshakes.len() >= tls.max_handshakes() {
        return tls.shed();
    }
    let _ = stream.set_nodelay(true);
    let tls = tls.clone();
    handshakes.spawn_local(async move {
        let accepted = tls.accept(stream).await;
        if let Err(error) = &accepted {
            debug!(%error, "no TLS with the client");
        }
        accepted.map(|accepted| (accepted, client))
    });
}

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
