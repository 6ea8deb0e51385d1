//! The server: routes, a bound on connections, and how long a silent one is kept.

use std::{io, sync::Arc, time::Duration};

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
use weir_accept::{Bound, Connections, begins};

use crate::{
    api,
    config::Config,
    deps::Deps,
    pages,
    security::{self, Door},
    sql_answer::WARNING,
};

/// How long a client may take to send its headers, and how long HTTP/1.1 keeps an idle connection.
const HEADER_TIMEOUT: Duration = Duration::from_secs(10);

/// A peer on HTTP/2 that is silent so long is asked whether it lives, and is given as long to answer.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// How long requests in the air may take once the server stops.
const DRAIN: Duration = Duration::from_secs(5);

/// Bodies are statements and small orders.
const MAX_BODY_BYTES: usize = 256 << 10;

/// Serves until `shutdown`, then lets requests in the air end.
///
/// # Errors
/// When the listener does not know its own address.
pub async fn serve(listener: TcpListener, config: Config, deps: Deps, shutdown: CancellationToken) -> io::Result<()> {
    let door = if listener.local_addr()?.ip().is_loopback() { Door::Loopback } else { Door::Open };
    let bound = Arc::new(Bound::new(config.max_connections));
    let router = router(deps, door, bound.clone());
    let connections = Connections::new(listener, bound);
    let (server, graceful) = (builder(), GracefulShutdown::new());
    loop {
        let (stream, permit) = tokio::select! {
            accepted = connections.next() => accepted,
            () = shutdown.cancelled() => break,
        };
        let service = TowerToHyperService::new(router.clone());
        let (server, watcher, shutdown) = (server.clone(), graceful.watcher(), shutdown.clone());
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
    let _ = tokio::time::timeout(DRAIN, graceful.shutdown()).await;
    Ok(())
}

fn builder() -> auto::Builder<TokioExecutor> {
    let mut server = auto::Builder::new(TokioExecutor::new());
    server.http1().timer(TokioTimer::new()).header_read_timeout(HEADER_TIMEOUT);
    server.http2().timer(TokioTimer::new()).keep_alive_interval(KEEP_ALIVE).keep_alive_timeout(KEEP_ALIVE);
    server
}

fn router(deps: Deps, door: Door, bound: Arc<Bound>) -> Router {
    Router::new()
        .nest("/api/v1", api::router().layer(middleware::from_fn_with_state(deps.clone(), recovering)))
        .route("/healthz", get(|| async { "ok\n" }))
        .route("/readyz", get(ready))
        .route("/metrics", get(move |deps| metrics(deps, bound)))
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

async fn metrics(State(deps): State<Deps>, bound: Arc<Bound>) -> Response {
    let refused = bound.refused();
    let text = (deps.metrics)()
        + &format!(
            "# HELP weir_web_refused_connections_total Connections over the bound of the web door, closed at once\n\
             # TYPE weir_web_refused_connections_total counter\n\
             weir_web_refused_connections_total {refused}\n"
        );
    ([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text).into_response()
}
