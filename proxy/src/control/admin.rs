//! The admin address: `/metrics`, `/policy`, `/endpoints`, `/config`, `/tap`, `/healthz`, and `POST /drain`.
//!
//! On loopback it asks for nothing; beyond, every path but the health checks asks for the bearer token.

use std::{convert::Infallible, sync::Arc};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, WWW_AUTHENTICATE},
};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{net::TcpListener, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_policy::PolicySet;

use crate::{
    config::Secret,
    control::{endpoints, metrics::metrics},
    reload::Status,
    telemetry::{TapBody, TapError, Taps},
    workload::Current,
};

/// Scrapers and people; more at once are closed.
const MAX_CONNECTIONS: usize = 64;

const TEXT: &str = "text/plain; charset=utf-8";

/// What the admin address shows and does.
pub(crate) struct Admin {
    pub(crate) current: Current,
    pub(crate) status: Arc<ArcSwap<Status>>,
    pub(crate) taps: Arc<Taps>,
    /// What a caller has to know; nothing when absent.
    pub(crate) token: Option<Secret>,
    /// What `POST /drain` begins.
    pub(crate) drain: CancellationToken,
}

/// `/policy`: the set in force, where it came from and how long ago.
#[derive(Serialize)]
struct InForce<'a> {
    source: &'static str,
    age_ms: u64,
    #[serde(flatten)]
    set: &'a PolicySet,
}

type Answer = Response<Either<Full<Bytes>, TapBody>>;

/// Answers until `stop`.
pub(crate) async fn serve(listener: TcpListener, admin: Admin, stop: CancellationToken) {
    let admin = Arc::new(admin);
    let mut connections = JoinSet::new();
    loop {
        let accepted = tokio::select! {
            () = stop.cancelled() => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                let admin = admin.clone();
                let service = service_fn(move |request| {
                    let response = admin.answer(&request);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new());
                connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
            Ok((stream, _)) => drop(stream),
            Err(error) => warn!(%error, "the admin address cannot accept"),
        }
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>) -> Answer {
        let path = request.uri().path();
        if !path.starts_with("/healthz") && !self.knows(request.headers().get(AUTHORIZATION)) {
            return self.unauthorized();
        }
        if path == "/tap" && request.method() == Method::GET {
            return self.tap(request.uri().query().unwrap_or_default());
        }
        self.page(request.method(), path).map(Either::Left)
    }

    fn page(&self, method: &Method, path: &str) -> Response<Full<Bytes>> {
        match (method, path) {
            (&Method::GET, "/metrics") => {
                respond(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", metrics(&self.current.load()))
            }
            (&Method::GET, "/policy") => respond(StatusCode::OK, "application/json", self.policy()),
            (&Method::GET, "/endpoints") => {
                respond(StatusCode::OK, "application/json", endpoints::json(&self.current.load()))
            }
            (&Method::GET, "/config") => {
                let json = serde_json::to_string_pretty(&**self.status.load()).unwrap_or_default();
                respond(StatusCode::OK, "application/json", json)
            }
            (&Method::GET, "/healthz/live") => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
            (&Method::GET, "/healthz" | "/healthz/ready") if self.drain.is_cancelled() => {
                respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, "draining\n".to_owned())
            }
            (&Method::GET, "/healthz" | "/healthz/ready") => respond(StatusCode::OK, TEXT, "ok\n".to_owned()),
            (&Method::POST, "/drain") => {
                self.drain.cancel();
                respond(StatusCode::ACCEPTED, TEXT, "draining\n".to_owned())
            }
            (_, "/drain") => respond(StatusCode::METHOD_NOT_ALLOWED, TEXT, "drain with POST\n".to_owned()),
            _ => {
                let known = "there is /metrics, /policy, /endpoints, /config, /tap, /healthz, /healthz/live, /healthz/ready and POST /drain\n";
                respond(StatusCode::NOT_FOUND, TEXT, known.to_owned())
            }
        }
    }

    fn policy(&self) -> String {
        let (source, since) = *self.current.load().origin.lock();
        let age_ms = u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
        let set = self.current.load().applied.load();
        serde_json::to_string_pretty(&InForce { source: source.as_str(), age_ms, set: &set }).unwrap_or_default()
    }

    fn tap(&self, query: &str) -> Answer {
        match self.taps.open(query) {
            Ok(lines) => {
                let mut response = Response::new(Either::Right(lines));
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static("application/x-ndjson"));
                response
            }
            Err(error) => {
                let status = match error {
                    TapError::BadQuery(_) => StatusCode::BAD_REQUEST,
                    TapError::TooMany => StatusCode::SERVICE_UNAVAILABLE,
                };
                respond(status, TEXT, format!("{error}\n")).map(Either::Left)
            }
        }
    }

    fn knows(&self, authorization: Option<&HeaderValue>) -> bool {
        let Some(token) = &self.token else { return true };
        let said = authorization.and_then(|value| value.as_bytes().strip_prefix(b"Bearer "));
        said.is_some_and(|said| token.is(said))
    }

    fn unauthorized(&self) -> Answer {
        let why = "say the token: `authorization: Bearer …`\n".to_owned();
        let mut response = respond(StatusCode::UNAUTHORIZED, TEXT, why);
        response.headers_mut().insert(WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        response.map(Either::Left)
    }
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
