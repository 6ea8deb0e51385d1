//! A new connection to an endpoint: dialled, secured where the upstream asks for it, and counted.

use std::{
    io,
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use socket2::{SockRef, TcpKeepalive};
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

/// A machine that is gone is noticed within 30 s: a silent connection is probed after 10 s and then every 10 s, and given up with the
/// second probe unanswered. The kernel asks, because gRPC servers take PING of HTTP/2 on a quiet stream for an attack.
const PROBED_AFTER: Duration = Duration::from_secs(10);
const PROBES: u32 = 2;

/// As long for what is sent over HTTP/2, whose peer always reads: how much may come says a window. Elsewhere it waits for its route's
/// timeout, or a tunnel's: the kernel also gives up a peer that is there and does not read, as one behind a tunnel or an upload may.
const UNACKNOWLEDGED: Duration = Duration::from_secs(30);

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

/// As [`connect`], for HTTP/2: the kernel gives the connection up when what was sent stays unacknowledged for too long.
pub(super) async fn connect_http2(
    upstream: &Upstream,
    endpoint: &Endpoint,
    longest: Duration,
) -> Result<(Wire, Option<Arc<Peer>>), Failure> {
    let connected = connect(upstream, endpoint, longest).await?;
    #[cfg(target_os = "linux")]
    let _ = SockRef::from(socket(&connected.0)).set_tcp_user_timeout(Some(UNACKNOWLEDGED));
    Ok(connected)
}

fn socket(wire: &Wire) -> &TcpStream {
    match wire {
        Either::Left(plain) => plain,
        Either::Right(secured) => secured.get_ref().0,
    }
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
    let _ = watch(&stream);
    let Some(tls) = &upstream.tls else { return Ok((Either::Left(stream), None)) };
    let secured = timeout(longest, tls.connect(endpoint.address(), stream)).await;
    let (stream, peer) = secured.map_err(|_| Failure::ConnectTimeout)?.map_err(|error| {
        debug!(upstream = endpoint.address(), %error, "no TLS with the upstream");
        Failure::TlsFailed
    })?;
    Ok((Either::Right(Box::new(stream)), Some(peer)))
}

/// Has the kernel look whether the other machine is still there.
fn watch(stream: &TcpStream) -> io::Result<()> {
    let keepalive = TcpKeepalive::new().with_time(PROBED_AFTER).with_interval(PROBED_AFTER).with_retries(PROBES);
    SockRef::from(stream).set_tcp_keepalive(&keepalive)
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;
    use crate::config::{self, Protocol};

    /// Without this nothing would tell a quiet stream that its machine is gone: no PING is sent.
    #[tokio::test]
    async fn the_kernel_watches_every_connection_and_gives_up_those_of_http2_alone() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let spec = config::Endpoint::from(listener.local_addr().unwrap());
        // a tunnel to an upstream of HTTP/2 was once reset while its other end paused
        for protocol in [Protocol::H2, Protocol::Http1] {
            let mut config = config::Upstream::new("app", vec![spec.clone()]);
            config.protocol = protocol;
            let upstream = Upstream::new(&config, None, 1, None);
            let endpoint = Endpoint::new(0, spec.clone(), tokio::time::Instant::now());
            let second = Duration::from_secs(1);
            let any = connect(&upstream, &endpoint, second).await;
            let http2 = connect_http2(&upstream, &endpoint, second).await;
            for (connected, user_timeout) in [(any, None), (http2, Some(UNACKNOWLEDGED))] {
                let Ok((wire, None)) = connected else { panic!("no connection") };
                let socket = SockRef::from(socket(&wire));
                assert!(socket.keepalive().unwrap());
                assert_eq!(
                    (socket.tcp_keepalive_time().unwrap(), socket.tcp_keepalive_interval().unwrap()),
                    (PROBED_AFTER, PROBED_AFTER)
                );
                assert_eq!(socket.tcp_keepalive_retries().unwrap(), PROBES);
                assert_eq!(socket.tcp_user_timeout().unwrap(), user_timeout, "{protocol:?}");
            }
        }
    }
}
