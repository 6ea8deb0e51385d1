//! [`Worker`]: one data thread's share: it accepts, serves HTTP/1.1 and HTTP/2 on one port, and drains.

use std::{
    cell::Cell,
    convert::Infallible,
    io,
    net::SocketAddr,
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
    net::{TcpListener, TcpStream},
    time::Duration,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{
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
        loop {
            let accepted = tokio::select! {
                biased;
                () = shutdown.cancelled() => return,
                accepted = listener.accept() => accepted,
            };
            match accepted {
                // one too many is closed at once: a client sees that, and a backlog would only hide it
                Ok((stream, _)) if self.connections.get() >= self.max_connections => drop(stream),
                Ok((stream, client)) => self.clone().serve(index, stream, client, &graceful),
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(self: Rc<Self>, index: usize, stream: TcpStream, client: SocketAddr, graceful: &GracefulShutdown) {
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        let mut builder = auto::Builder::new(LocalExecutor);
        builder.http1().timer(TokioTimer::new()).header_read_timeout(self.workload.timeouts.header_read());
        builder.http2().timer(TokioTimer::new()).keep_alive_interval(Some(Duration::from_secs(30)));
        let worker = self.clone();
        let service = service_fn(move |request| {
            let worker = worker.clone();
            async move { Ok::<_, Infallible>(handle(worker, index, client.ip(), request).await) }
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

impl<F> Executor<F> for LocalExecutor
where
    F: Future + 'static,
    F::Output: 'static,
{
    fn execute(&self, future: F) {
        tokio::task::spawn_local(future);
    }
}
