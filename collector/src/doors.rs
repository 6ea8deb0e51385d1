//! Accepting connections within bounds, for both doors: how many there are, how much one may have
//! sent that nobody has counted yet, and how long a silent one is kept.

use std::{convert::Infallible, io, time::Duration};

use ::http::{Request, Response};
use bytes::Bytes;
use hyper::{body::Incoming, service::Service};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;
use weir_accept::{Connections, begins};

use crate::{collector::Collector, ingest::Ingest};

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
    let connections = Connections::new(listener, collector.connections.clone());
    let graceful = GracefulShutdown::new();
    loop {
        let (stream, permit) = tokio::select! {
            accepted = connections.next() => accepted,
            () = shutdown.cancelled() => break,
        };
        let (server, service) = (server.clone(), service.clone());
        let (watcher, shutdown) = (graceful.watcher(), shutdown.clone());
        tokio::spawn(async move {
            let _permit = permit;
            tokio::select! {
                begins = begins(&stream, HEADER_TIMEOUT) => if !begins { return },
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
