//! [`Receiver`]: takes webhooks as an on-call tool would, and counts them.

use std::{
    convert::Infallible,
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt, Full, Limited};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::TokioIo;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::{sync::CancellationToken, task::AbortOnDropHandle};

/// An alert is some KiB.
const BODY_MAX_BYTES: usize = 1 << 20;

/// A running receiver; it ends when dropped.
pub struct Receiver {
    address: SocketAddr,
    received: Arc<AtomicU64>,
    shutdown: CancellationToken,
    _serving: AbortOnDropHandle<()>,
}

impl Receiver {
    /// Listens on a free port of loopback.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn start() -> io::Result<Self> {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
        let address = listener.local_addr()?;
        let (received, shutdown) = (Arc::new(AtomicU64::new(0)), CancellationToken::new());
        let serving = tokio::spawn(serve(listener, received.clone(), shutdown.clone()));
        Ok(Self { address, received, shutdown, _serving: AbortOnDropHandle::new(serving) })
    }

    /// Where alerts are to be posted.
    #[must_use]
    pub fn url(&self) -> String {
        format!("http://{}/alerts", self.address)
    }

    /// Posts taken so far that held at least one alert.
    #[must_use]
    pub fn received(&self) -> u64 {
        self.received.load(Relaxed)
    }
}

impl Drop for Receiver {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

async fn serve(listener: TcpListener, received: Arc<AtomicU64>, shutdown: CancellationToken) {
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = shutdown.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else { continue };
        let received = received.clone();
        connections.spawn(async move {
            let answer = service_fn(move |request| {
                let received = received.clone();
                async move { Ok::<_, Infallible>(take(request, &received).await) }
            });
            http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
        });
    }
}

async fn take(request: Request<Incoming>, received: &AtomicU64) -> Response<Full<Bytes>> {
    let status = if request.method() == Method::POST {
        let body = Limited::new(request.into_body(), BODY_MAX_BYTES).collect().await;
        let body = body.ok().and_then(|b| serde_json::from_slice::<serde_json::Value>(&b.to_bytes()).ok());
        let alerts = body.as_ref().and_then(|b| b["alerts"].as_array()).map_or(0, Vec::len);
        if alerts > 0 {
            received.fetch_add(1, Relaxed);
            StatusCode::OK
        } else {
            StatusCode::BAD_REQUEST
        }
    } else {
        StatusCode::METHOD_NOT_ALLOWED
    };
    let mut response = Response::new(Full::default());
    *response.status_mut() = status;
    response
}
