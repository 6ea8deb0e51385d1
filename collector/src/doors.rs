//! Accepting connections within bounds, for both doors: how many there are, how much one may have
//! sent that nobody has counted yet, and how long a silent one is kept.

use std::{convert::Infallible, io, sync::Arc, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::OwnedSemaphorePermit,
};
use tokio_util::sync::CancellationToken;
use tracing::{debug, warn};

use crate::{collector::Collector, ingest::Ingest, stats::add};

/// How long a client may take to send its headers, and how long HTTP/1.1 keeps an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// What a peer may send of one request before it is read: memory that no request accounts for. On one HTTP/2 connection each request
/// may have sent so much, or those that wait unread would use up what the connection may send and stop the ones that are being read,
/// which hold the room that is waited for. All connections together hold no more for that: of requests that are not read, only those in line
/// are kept, and the line is bounded. 64 KiB: what HTTP/2 has by itself.
const WINDOW_BYTES: u32 = 64 << 10;

/// The widest window that HTTP/2 knows.
const HTTP2_WINDOW_MAX: u32 = i32::MAX as u32;

/// Half a window, so that a large body comes in few frames.
const FRAME_BYTES: u32 = 32 << 10;

/// Largest head of a request.
const HEAD_BYTES: u32 = 16 << 10;

/// A peer on HTTP/2 that is silent so long is asked whether it lives, and is given as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long accepting rests after the system had no descriptor left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// The first bytes of HTTP/2 with prior knowledge.
const PREFACE: &[u8; 24] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// How often a connection is looked at that has said a part of them.
const LOOK_AGAIN: Duration = Duration::from_millis(50);

/// How long requests in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// What a door speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Speaks {
    /// HTTP/1.1, or HTTP/2 with prior knowledge.
    Both,
    /// HTTP/2 only.
    Http2,
}

/// Serves `service` on every connection until `shutdown`, then lets requests in the air end.
pub(crate) async fn serve<I, S, B>(
    collector: &Collector<I>,
    listener: TcpListener,
    speaks: Speaks,
    service: S,
    shutdown: CancellationToken,
) -> io::Result<()>
where
    I: Ingest,
    S: Service<Request<Incoming>, Response = Response<B>, Error = Infallible> + Clone + Send + 'static,
    S::Future: Send + 'static,
    B: http_body::Body<Data = Bytes> + Send + 'static,
    B::Error: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    let server = builder(speaks, collector.config.max_streams_per_connection);
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            stream = accept(&listener) => stream,
            () = shutdown.cancelled() => break,
        };
        let Some(place) = place(collector) else { continue };
        // without it small answers wait for the client's delayed ack
        let _ = stream.set_nodelay(true);
        let (server, service) = (server.clone(), service.clone());
        let (watcher, shutdown) = (graceful.watcher(), shutdown.clone());
        tokio::spawn(async move {
            let _place = place;
            tokio::select! {
                begins = begins(&stream) => if !begins { return },
                () = shutdown.cancelled() => return,
            }
            let connection = server.serve_connection(TokioIo::new(stream), service).into_owned();
            if let Err(error) = watcher.watch(connection).await {
                debug!(%error, "connection ended");
            }
        });
    }
    // what is still open after that is cut
    let drained = async {
        graceful.shutdown().await;
        collector.stored().await;
    };
    let _ = tokio::time::timeout(DRAIN, drained).await;
    Ok(())
}

/// The next connection.
async fn accept(listener: &TcpListener) -> TcpStream {
    loop {
        match listener.accept().await {
            Ok((stream, _)) => return stream,
            Err(error) if is_of_one_connection(&error) => {
                debug!(%error, "a connection was lost before it was accepted");
            }
            Err(error) => {
                warn!(%error, "connections cannot be accepted");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Whether a new connection says in time which HTTP it speaks; the timeouts of either begin only then.
async fn begins(stream: &TcpStream) -> bool {
    let says = async {
        let mut start = [0; PREFACE.len()];
        loop {
            match stream.peek(&mut start).await {
                Ok(0) | Err(_) => return false,
                // what is there stays there, so nobody wakes us when more comes
                Ok(length) if length < PREFACE.len() && PREFACE.starts_with(&start[..length]) => {
                    tokio::time::sleep(LOOK_AGAIN).await;
                }
                Ok(_) => return true,
            }
        }
    };
    tokio::time::timeout(HEADER_TIMEOUT, says).await.unwrap_or(false)
}

fn is_of_one_connection(error: &io::Error) -> bool {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset};
    matches!(error.kind(), ConnectionAborted | ConnectionRefused | ConnectionReset)
}

/// Room for one more; without it the connection is closed at once, so that its peer knows.
fn place<I>(collector: &Collector<I>) -> Option<OwnedSemaphorePermit> {
    let place = Arc::clone(&collector.connections).try_acquire_owned().ok();
    if place.is_none() {
        add(&collector.stats.refused_connections, 1);
    }
    place
}

fn connection_window(max_streams: u32) -> u32 {
    WINDOW_BYTES.saturating_mul(max_streams).min(HTTP2_WINDOW_MAX)
}

fn builder(speaks: Speaks, max_streams: u32) -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT).max_buf_size(WINDOW_BYTES as usize);
    server
        .http2()
        .timer(TokioTimer::new())
        .max_concurrent_streams(max_streams)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(connection_window(max_streams))
        .max_frame_size(FRAME_BYTES)
        .max_header_list_size(HEAD_BYTES)
        .keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE);
    match speaks {
        Speaks::Both => server,
        Speaks::Http2 => server.http2_only(),
    }
}

#[cfg(test)]
mod tests {
    use tokio::io::AsyncWriteExt;

    use super::*;

    /// Of "PRI" nobody knows yet which HTTP it is, so no timeout of either runs: such a connection was kept for good.
    #[tokio::test]
    async fn a_connection_that_does_not_begin_is_not_kept() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        for (said, begun) in [("", false), ("PRI", false), ("P", false), ("GET", true), ("POST", true), ("\n", true)] {
            let mut client = TcpStream::connect(address).await.unwrap();
            client.write_all(said.as_bytes()).await.unwrap();
            let (server, _) = listener.accept().await.unwrap();
            if !said.is_empty() {
                server.readable().await.unwrap();
            }
            tokio::time::pause();
            assert_eq!(begins(&server).await, begun, "{said:?}");
            tokio::time::resume();
        }
        let mut client = TcpStream::connect(address).await.unwrap();
        client.write_all(&PREFACE[..]).await.unwrap();
        assert!(begins(&listener.accept().await.unwrap().0).await);
    }
}
