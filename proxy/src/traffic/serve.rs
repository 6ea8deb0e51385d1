//! [`Worker`]: one data thread's share: it accepts connections, bounds their number, and drains them.

use std::{cell::Cell, io, net::SocketAddr, rc::Rc, sync::Arc};

use http::HeaderValue;
use hyper::rt::Executor;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    time::Duration,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::warn;

use crate::{
    counters::add,
    traffic::{client, pool::Pool},
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
    /// Connections and tunnels, which the drain waits for.
    pub(crate) tasks: TaskTracker,
    connections: Cell<usize>,
    max_connections: usize,
}

/// Counts as an open connection until it is dropped.
struct Open(Rc<Worker>);

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
    pub(crate) fn new(workload: Arc<Workload>, max_connections: usize) -> Rc<Self> {
        let identity = format!("{}/{}", workload.service, workload.instance);
        Rc::new(Self {
            pool: Rc::new(Pool::new(workload.endpoint_count(), workload.timeouts)),
            identity: HeaderValue::from_str(&identity).unwrap_or_else(|_| HeaderValue::from_static("unnamed")),
            tasks: TaskTracker::new(),
            connections: Cell::new(0),
            max_connections,
            workload,
        })
    }

    /// Serves every listener until `shutdown`; requests under way then get until the drain's end.
    pub(crate) async fn run(self: Rc<Self>, listeners: Vec<std::net::TcpListener>, shutdown: CancellationToken) {
        let drain = self.workload.timeouts.drain();
        let mut accepting = tokio::task::JoinSet::new();
        for (index, listener) in listeners.into_iter().enumerate() {
            match TcpListener::from_std(listener) {
                Ok(listener) => {
                    accepting.spawn_local(self.clone().accept(index, listener, shutdown.clone()));
                }
                Err(error) => warn!(%error, "a listener cannot be used"),
            }
        }
        while accepting.join_next().await.is_some() {}
        self.tasks.close();
        if tokio::time::timeout(drain, self.tasks.wait()).await.is_err() {
            warn!("requests were still under way at the end of the drain");
        }
    }

    async fn accept(self: Rc<Self>, index: usize, listener: TcpListener, shutdown: CancellationToken) {
        loop {
            let accepted = tokio::select! {
                biased;
                // what the kernel has accepted already would be reset with the socket: it comes first
                accepted = listener.accept() => accepted,
                () = shutdown.cancelled() => return,
            };
            match accepted {
                // one too many is closed at once: a client sees that, and a backlog would only hide it
                Ok((stream, _)) if self.connections.get() >= self.max_connections => {
                    add(&self.workload.tally.connections_refused, 1);
                    drop(stream);
                }
                Ok((stream, _)) => self.clone().serve(index, stream, shutdown.clone()),
                Err(error) => {
                    warn!(%error, "cannot accept");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                }
            }
        }
    }

    fn serve(self: Rc<Self>, index: usize, stream: TcpStream, shutdown: CancellationToken) {
        // small answers must not wait for more to fill a packet; a socket that refuses still works
        let _ = stream.set_nodelay(true);
        self.connections.set(self.connections.get() + 1);
        let open = Open(self.clone());
        self.tasks.clone().spawn_local(async move {
            client::serve(self, index, stream, shutdown).await;
            drop(open);
        });
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.connections.set(self.0.connections.get() - 1);
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
