//! From a request to an answer: match → admit → pick → forward.

use std::rc::Rc;

use http::{
    HeaderValue, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    config::{Direction, Protocol},
    counters::add,
    lm::Reading,
    regulate::{Budget, Refusal},
    telemetry::Failure,
    traffic::{
        admission::admit,
        balance::Pick,
        body::ProxyBody,
        exchange::Exchange,
        headers::{PEER, REASON, set_host, strip_hop_by_hop},
        pool::{Connection, Lease},
        ratelimit,
        read_along::ReadAlong,
        serve::Worker,
    },
    workload::Route,
};

/// gRPC's UNAVAILABLE, for clients that do not look at HTTP statuses.
const GRPC_UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// A kept connection may close just as it is used; the request then goes out once more, because
/// nothing of it was sent.
const MAX_STALE: usize = 3;

/// Answers one request.
pub(crate) async fn handle(worker: Rc<Worker>, listener: usize, request: Request<Incoming>) -> Response<ProxyBody> {
    add(&worker.workload.tally.requests, 1);
    let Some(route) = worker.workload.route(listener, &request) else {
        return own(StatusCode::NOT_FOUND, "no_route", "no route matches this request", false);
    };
    let grpc = is_grpc(&request);
    let mut exchange = Exchange::begin(&worker, route.clone(), &request);
    let give_up = exchange.started() + route.timeout;
    let mut request = exchange.read_along(request);
    let budget = match admit(&worker, &route, &mut request, &mut exchange, give_up).await {
        Ok(budget) => budget,
        Err(refusal) => return shed(exchange, refusal, grpc),
    };
    exchange.picked(Pick::of(&route.upstream, Instant::now()));
    prepare(&worker, &route, &exchange, &mut request);
    let sent = tokio::time::timeout_at(give_up, send(&worker, &exchange, request)).await;
    match sent.unwrap_or(Err(Failure::UpstreamTimeout)) {
        Ok((response, lease)) => pass_on(response, lease, exchange, budget),
        Err(failure) => fail(exchange, failure, grpc),
    }
}

/// Makes the request the proxy's own: its trace, its identity, the upstream's form of address.
fn prepare(worker: &Worker, route: &Route, exchange: &Exchange, request: &mut Request<ReadAlong<Incoming>>) {
    let uri = std::mem::take(request.uri_mut());
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    exchange.trace().inject(&worker.workload.propagation, headers);
    match route.direction {
        Direction::Inbound => headers.remove(PEER),
        Direction::Outbound => headers.insert(PEER, worker.identity.clone()),
    };
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match route.upstream.protocol {
        Protocol::Http1 => {
            set_host(headers, &uri);
            *request.version_mut() = Version::HTTP_11;
            *request.uri_mut() = Uri::from(path);
        }
        Protocol::H2 => {
            let from_header = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let authority = uri.authority().cloned().or(from_header);
            let mut parts = http::uri::Parts::default();
            parts.scheme = Some(Scheme::HTTP);
            parts.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
            parts.path_and_query = Some(path);
            *request.version_mut() = Version::HTTP_2;
            *request.uri_mut() = Uri::from_parts(parts).unwrap_or_default();
        }
    }
}

async fn send(
    worker: &Worker,
    exchange: &Exchange,
    mut request: Request<ReadAlong<Incoming>>,
) -> Result<(Response<Incoming>, Option<Lease>), Failure> {
    let pick = exchange.pick().ok_or(Failure::ConnectFailed)?;
    let protocol = pick.upstream.protocol;
    for attempt in 0.. {
        let kept_too = attempt < MAX_STALE;
        let (connection, kept) = worker.pool.connection(pick.endpoint(), protocol, kept_too).await?;
        let (sent, lease) = match connection {
            Connection::Http1(mut lease) => (lease.sender.try_send_request(request).await, Some(lease)),
            Connection::Http2(mut sender) => (sender.try_send_request(request).await, None),
        };
        match sent {
            Ok(response) => return Ok((response, lease)),
            Err(mut error) => match error.take_message() {
                Some(unsent) if kept => request = unsent,
                _ => return Err(Failure::UpstreamReset),
            },
        }
    }
    Err(Failure::UpstreamReset)
}

fn pass_on(
    response: Response<Incoming>,
    lease: Option<Lease>,
    mut exchange: Exchange,
    budget: Option<Budget>,
) -> Response<ProxyBody> {
    let (mut parts, incoming) = response.into_parts();
    exchange.answered(parts.status.as_u16());
    strip_hop_by_hop(&mut parts.headers);
    let reading = Reading::of(&parts.headers, exchange.call().is_some());
    if let Some(budget) = budget {
        ratelimit::say(&mut parts.headers, budget);
    }
    Response::from_parts(parts, ProxyBody::upstream(incoming, reading, exchange, lease))
}

fn shed(exchange: Exchange, refusal: Refusal, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match refusal {
        Refusal::RateLimited { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "more requests per second than the policy allows")
        }
        Refusal::TokensExhausted { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "more tokens per second than the policy allows")
        }
        Refusal::QueueFull => (StatusCode::SERVICE_UNAVAILABLE, "as many requests wait as may"),
        Refusal::QueueTimeout => (StatusCode::SERVICE_UNAVAILABLE, "no place became free in time"),
        Refusal::DeadlineUnmeetable { .. } => {
            (StatusCode::SERVICE_UNAVAILABLE, "it would have to wait for longer than until its deadline")
        }
        Refusal::Displaced => (StatusCode::SERVICE_UNAVAILABLE, "a request of higher priority took its place"),
        Refusal::BreakerOpen => (StatusCode::SERVICE_UNAVAILABLE, "the upstream fails; calls to it are shed"),
    };
    exchange.shed(refusal, status.as_u16());
    let mut response = own(status, refusal.as_str(), why, grpc);
    let seconds = match refusal {
        Refusal::RateLimited { retry_after: wait }
        | Refusal::TokensExhausted { retry_after: wait, .. }
        | Refusal::DeadlineUnmeetable { expected: wait } => wait.as_secs_f64().ceil().max(1.0) as u64,
        Refusal::QueueFull | Refusal::QueueTimeout | Refusal::Displaced | Refusal::BreakerOpen => 1,
    };
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    if let Refusal::TokensExhausted { budget, .. } = refusal {
        ratelimit::say(response.headers_mut(), budget);
    }
    response
}

fn fail(mut exchange: Exchange, failure: Failure, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match failure {
        Failure::ConnectFailed => (StatusCode::BAD_GATEWAY, "the upstream refused the connection"),
        Failure::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream could not be connected in time"),
        Failure::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time"),
        Failure::UpstreamReset | Failure::ClientDisconnected => {
            (StatusCode::BAD_GATEWAY, "the upstream closed the connection before it answered")
        }
    };
    exchange.failed(failure, status.as_u16());
    exchange.complete(&Reading::Not);
    own(status, failure.as_str(), why, grpc)
}

/// An answer of the proxy itself.
fn own(status: StatusCode, reason: &'static str, why: &str, grpc: bool) -> Response<ProxyBody> {
    let text = if grpc { String::new() } else { format!("weir: {why}\n") };
    let mut response = Response::new(ProxyBody::text(text));
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason));
    if grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", GRPC_UNAVAILABLE);
        headers.insert("grpc-message", HeaderValue::from_static(reason));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.status_mut() = status;
    }
    response
}

fn is_grpc(request: &Request<Incoming>) -> bool {
    request.headers().get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}
