//! The server: routes, and an accept loop with a header timeout.

use std::{io, time::Duration};

use axum::{
    Router,
    extract::{DefaultBodyLimit, Request, State},
    http::{HeaderValue, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response},
    routing::get,
};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::{conn::auto, graceful::GracefulShutdown},
    service::TowerToHyperService,
};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tracing::debug;

use crate::{
    api,
    deps::Deps,
    pages,
    security::{self, Door},
    sql_answer::WARNING,
};

/// How long a client may take to send its headers.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// How long it waits after a connection that was not accepted.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long requests in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Bodies are statements and small orders.
const MAX_BODY_BYTES: usize = 256 << 10;

/// Serves until `shutdown`, then lets requests in the air end.
///
/// # Errors
/// When the listener fails.
pub async fn serve(listener: TcpListener, deps: Deps, shutdown: CancellationToken) -> io::Result<()> {
    let door = if listener.local_addr()?.ip().is_loopback() { Door::Loopback } else { Door::Open };
    let router = router(deps, door);
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http2().timer(TokioTimer::new());
    let graceful = GracefulShutdown::new();
    loop {
        let stream = tokio::select! {
            accepted = listener.accept() => match accepted {
                Ok((stream, _)) => stream,
                Err(error) => {
                    debug!(%error, "a connection was not accepted");
                    // out of descriptors, the next try fails as well
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            },
            () = shutdown.cancelled() => break,
        };
        // without it an answer in several pieces waits for the client's delayed ack
        let _ = stream.set_nodelay(true);
        let service = TowerToHyperService::new(router.clone());
        let connection = graceful.watch(server.serve_connection(TokioIo::new(stream), service).into_owned());
        tokio::spawn(async move {
            if let Err(error) = connection.await {
                debug!(%error, "connection ended");
            }
        });
    }
    // what is still open after that is cut
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

fn router(deps: Deps, door: Door) -> Router {
    Router::new()
        .nest("/api/v1", api::router().layer(middleware::from_fn_with_state(deps.clone(), recovering)))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(metrics))
        .with_state(deps.clone())
        .merge(pages::router(deps))
        .layer(DefaultBodyLimit::max(MAX_BODY_BYTES))
        .layer(middleware::from_fn_with_state(door, security::guard))
}

/// While the log is still being replayed, each answer says so: one of SQL knows by itself.
async fn recovering(State(deps): State<Deps>, request: Request, next: Next) -> Response {
    let warning = deps.store.recovering().and_then(|warning| HeaderValue::from_str(&warning).ok());
    let mut response = next.run(request).await;
    if let Some(warning) = warning {
        response.headers_mut().entry(WARNING).or_insert(warning);
    }
    response
}

async fn ready(State(deps): State<Deps>) -> Response {
    let waiting = (deps.ready)();
    if waiting.is_empty() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, waiting.join("\n") + "\n").into_response()
}

async fn metrics(State(deps): State<Deps>) -> Response {
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], (deps.metrics)()).into_response()
}
