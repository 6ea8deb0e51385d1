//! A new connection to an endpoint: dialled, secured where the upstream asks for it, and counted.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use tokio::{net::TcpStream, time::timeout};
use tokio_rustls::client::TlsStream;
use tokio_util::either::Either;
use tracing::debug;

use crate::{
    counters::add,
    security::Peer,
    telemetry::Failure,
    upstream::{Endpoint, Upstream},
};

/// What either protocol runs on.
pub(crate) type Wire = Either<TcpStream, Box<TlsStream<TcpStream>>>;

/// Connects, and says who is at the other end if TLS has proved it; each of the two may take `longest`.
pub(super) async fn connect(
    upstream: &Upstream,
    endpoint: &Endpoint,
    longest: Duration,
) -> Result<(Wire, Option<Arc<Peer>>), Failure> {
    let connected = dial(upstream, endpoint, upstream.connect_timeout.unwrap_or(longest)).await;
    let stats = &endpoint.stats;
    add(if connected.is_ok() { &stats.connects } else { &stats.connect_failures }, 1);
    connected
}

/// Runs a connection, and counts it as open for as long as it runs.
pub(super) fn open(endpoint: Arc<Endpoint>, connection: impl Future + 'static) {
    endpoint.stats.open.fetch_add(1, Relaxed);
    tokio::task::spawn_local(async move {
        // how it ended is the request's to tell
        let _ = connection.await;
        endpoint.stats.open.fetch_sub(1, Relaxed);
    });
}

async fn dial(
    upstream: &Upstream,
    endpoint: &Endpoint,
    longest: Duration,
) -> Result<(Wire, Option<Arc<Peer>>), Failure> {
    let stream = timeout(longest, TcpStream::connect(endpoint.address())).await;
    let stream = stream.map_err(|_| Failure::ConnectTimeout)?.map_err(|_| Failure::ConnectFailed)?;
    // small answers must not wait for more to fill a packet; a socket that refuses still works
    let _ = stream.set_nodelay(true);
    let Some(tls) = &upstream.tls else { return Ok((Either::Left(stream), None)) };
    let secured = timeout(longest, tls.connect(endpoint.address(), stream)).await;
    let (stream, peer) = secured.map_err(|_| Failure::ConnectTimeout)?.map_err(|error| {
        debug!(upstream = endpoint.address(), %error, "no TLS with the upstream");
        Failure::TlsFailed
    })?;
    Ok((Either::Right(Box::new(stream)), Some(peer)))
}
