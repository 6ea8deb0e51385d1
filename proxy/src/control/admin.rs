//! The admin address: `/metrics`, `/policy`, `/endpoints`, `/config`, `/tap`, `/healthz`, and `POST /drain`.
//!
//! On loopback it asks for nothing; beyond, every path but the health checks asks for the bearer token. Without a
//! token it listens to programs, not to web pages: a `Host` that is a name (another's page, by a name that was turned
//! here) and an `Origin` (a page, by the browser's own word) are refused.

use std::{convert::Infallible, net::IpAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{
    HeaderValue, Method, Request, Response, StatusCode,
    header::{AUTHORIZATION, CONTENT_TYPE, ORIGIN, WWW_AUTHENTICATE},
};
use http_body_util::{Either, Full};
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use serde::Serialize;
use tokio::{net::TcpListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;
use tracing::warn;
use weir_policy::PolicySet;

use crate::{
    authority::{authority_of, split_port},
    control::{InForce, endpoints, metrics::metrics},
    reload::Status,
    telemetry::{TapBody, TapError, Taps},
    workload::Current,
};

/// Scrapers and people; those who come when so many are there are told of health and of nothing else.
const MAX_CONNECTIONS: usize = 64;

/// 16 more for who only asks for health: silent connections of others must not make it look ill.
const MAX_HEALTH_CHECKS: usize = 16;

/// 2 s for a head: on this machine it takes none, and a silent connection is one fewer for others.
const HEAD: Duration = Duration::from_secs(2);

/// When accepting fails (no file descriptor left), the time until it is tried again.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

const TEXT: &str = "text/plain; charset=utf-8";

/// What the admin address shows and does.
pub(crate) struct Admin {
    pub(crate) current: Current,
    pub(crate) status: Arc<ArcSwap<Status>>,
    pub(crate) taps: Arc<Taps>,
    /// Says what a caller has to know.
    pub(crate) in_force: watch::Receiver<InForce>,
    /// Whether it is reached from this machine only.
    pub(crate) local: bool,
    /// What `POST /drain` begins.
    pub(crate) drain: CancellationToken,
}

/// `/policy`: the set in force, where it came from and how long ago.
#[derive(Serialize)]
struct PolicyInForce<'a> {
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
            Ok((stream, _)) if connections.len() < MAX_CONNECTIONS + MAX_HEALTH_CHECKS => {
                let (admin, crowded) = (admin.clone(), connections.len() >= MAX_CONNECTIONS);
                let service = service_fn(move |request| {
                    let response = admin.answer(&request, crowded);
                    async move { Ok::<_, Infallible>(response) }
                });
                let mut builder = http1::Builder::new();
                builder.timer(TokioTimer::new()).header_read_timeout(HEAD);
                connections.spawn(builder.serve_connection(TokioIo::new(stream), service));
            }
            Ok((stream, _)) => drop(stream),
            Err(error) => {
                warn!(%error, "the admin address cannot accept");
                // policies and telemetry have this thread too
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

impl Admin {
    fn answer(&self, request: &Request<Incoming>, crowded: bool) -> Answer {
        let path = request.uri().path();
        if !path.starts_with("/healthz") {
            if crowded {
                let why = format!("{MAX_CONNECTIONS} connections are open already\n");
                return respond(StatusCode::SERVICE_UNAVAILABLE, TEXT, why).map(Either::Left);
            }
            if !self.knows(request.headers().get(AUTHORIZATION)) {
                return self.unauthorized();
            }
            if self.local && !self.asks() && is_of_a_page(request) {
                let why =
                    "ask by an address or as localhost, and not from a web page; or set an admin_token\n".to_owned();
                return respond(StatusCode::FORBIDDEN, TEXT, why).map(Either::Left);
            }
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
        serde_json::to_string_pretty(&PolicyInForce { source: source.as_str(), age_ms, set: &set }).unwrap_or_default()
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

    fn asks(&self) -> bool {
        self.in_force.borrow().token.is_some()
    }

    fn knows(&self, authorization: Option<&HeaderValue>) -> bool {
        let in_force = self.in_force.borrow();
        let Some(token) = &in_force.token else { return true };
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

/// Whether a browser asks for somebody's page: it says where from, or it was led here by a name.
fn is_of_a_page<B>(request: &Request<B>) -> bool {
    let named = || {
        let host = split_port(authority_of(request)?).0.trim_matches(['[', ']']);
        let here = host.eq_ignore_ascii_case("localhost") || host.parse::<IpAddr>().is_ok();
        (!here).then_some(())
    };
    request.headers().contains_key(ORIGIN) || named().is_some()
}

fn respond(status: StatusCode, content_type: &'static str, text: String) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(Bytes::from(text)));
    *response.status_mut() = status;
    response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(content_type));
    response
}
