//! From a request to an answer: match → admit → pick → forward.

use std::rc::Rc;

use http::{
    HeaderValue, Method, Request, Response, StatusCode, Uri, Version,
    header::{CONTENT_TYPE, HOST, RETRY_AFTER},
    uri::{Authority, PathAndQuery, Scheme},
};
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    config::{Direction, Protocol},
    counters::add,
    regulate::{Admission, Refusal},
    telemetry::Failure,
    traffic::{
        balance::Pick,
        body::ProxyBody,
        exchange::Exchange,
        headers::{PEER, REASON, join_cookies, set_host, strip_hop_by_hop},
        lm::Tokens,
        pool::{Connection, Lease},
        request_body::{RequestBody, Upload},
        serve::Worker,
        tunnel,
        upgrade::Upgrade,
        vet::{Rejection, vet},
    },
    workload::Route,
};

/// gRPC's UNAVAILABLE, for clients that do not look at HTTP statuses.
const GRPC_UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// A kept connection may close just as it is used; the request then goes out once more, because
/// nothing of it was sent.
const MAX_STALE: usize = 3;

/// Answers one request.
pub(crate) async fn handle(worker: Rc<Worker>, listener: usize, mut request: Request<Incoming>) -> Response<ProxyBody> {
    add(&worker.workload.tally.requests, 1);
    if let Err(rejection) = vet(&request, &worker.workload.accepts[listener], &worker.workload.http) {
        return reject(&worker, rejection, is_grpc(&request));
    }
    let Some(route) = worker.workload.route(listener, &request) else {
        return own(StatusCode::NOT_FOUND, "no_route", "no route matches this request", false);
    };
    let (grpc, received) = (is_grpc(&request), request.version());
    let upgrade = match Upgrade::wanted(&mut request, route.upstream.protocol) {
        Ok(upgrade) => upgrade,
        Err(rejection) => return reject(&worker, rejection, grpc),
    };
    let mut exchange = Exchange::begin(&worker, route.clone(), &request);
    let give_up = exchange.started() + route.timeout;
    if let Err(refusal) = admit(&worker, &route, &mut exchange, give_up).await {
        return shed(exchange, refusal, grpc);
    }
    exchange.picked(Pick::of(&route.upstream, Instant::now()));
    if upgrade.is_none() && request.method() == Method::CONNECT {
        return tunnel::open(&worker, exchange, &mut request).await;
    }
    prepare(&worker, &route, &exchange, &mut request);
    worker.workload.accepts[listener].via.sign(request.headers_mut(), received);
    if let Some(upgrade) = &upgrade {
        upgrade.ask(request.headers_mut());
    }
    let (request, upload) = RequestBody::hold(&worker.workload, request);
    let sent = tokio::time::timeout_at(give_up, send(&worker, &exchange, request)).await;
    match sent.unwrap_or(Err(Failure::UpstreamTimeout)) {
        Ok((response, lease)) => match upgrade {
            Some(upgrade) if Upgrade::granted(&response) => tunnel::switch(&worker, response, upgrade, exchange),
            _ if Upgrade::granted(&response) => fail(exchange, Failure::UpstreamReset, grpc),
            _ => pass_on(response, lease, upload, exchange),
        },
        Err(failure) => {
            let fault = upload.as_ref().and_then(|upload| upload.fault());
            if let Some(upload) = upload {
                upload.finish();
            }
            match fault {
                Some(fault) => client_fault(&worker, exchange, fault, grpc),
                None => fail(exchange, failure, grpc),
            }
        }
    }
}

pub(super) async fn admit(
    worker: &Worker,
    route: &Route,
    exchange: &mut Exchange,
    give_up: Instant,
) -> Result<(), Refusal> {
    let now = exchange.started();
    match route.direction {
        Direction::Inbound => {
            let route_place = route.gate.admit(now, give_up).await?;
            let service_place = worker.workload.gate.admit(now, give_up).await?;
            let queued = route_place.queued || service_place.queued;
            let place = |admission: Admission| Some(admission.permit);
            exchange.admitted([place(service_place), place(route_place)], queued);
            Ok(())
        }
        Direction::Outbound => {
            let dice = rand::random();
            let open = route.upstream.circuit.admit(now, dice) && route.circuit.admit(now, dice);
            open.then_some(()).ok_or(Refusal::BreakerOpen)
        }
    }
}

/// Makes the request the proxy's own: its trace, its identity, the upstream's form of address.
fn prepare(worker: &Worker, route: &Route, exchange: &Exchange, request: &mut Request<Incoming>) {
    let uri = std::mem::take(request.uri_mut());
    let headers = request.headers_mut();
    strip_hop_by_hop(headers);
    exchange.trace().inject(headers);
    match route.direction {
        Direction::Inbound => headers.remove(PEER),
        Direction::Outbound => headers.insert(PEER, worker.identity.clone()),
    };
    let path = uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    match route.upstream.protocol {
        Protocol::Http1 => {
            join_cookies(headers);
            set_host(headers, &uri, exchange.pick().map_or("", |pick| &pick.endpoint().address));
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
    mut request: Request<RequestBody>,
) -> Result<(Response<Incoming>, Lease), Failure> {
    let pick = exchange.pick().ok_or(Failure::ConnectFailed)?;
    let protocol = pick.upstream.protocol;
    for attempt in 0.. {
        let kept_too = attempt < MAX_STALE;
        let (connection, kept) = worker.pool.connection(pick.endpoint(), protocol, kept_too).await?;
        let (sent, lease) = match connection {
            Connection::Http1(mut lent) => (lent.sender.try_send_request(request).await, Lease::Http1(lent)),
            Connection::Http2(mut sender, place) => (sender.try_send_request(request).await, Lease::Http2(place)),
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
    lease: Lease,
    upload: Option<Rc<Upload>>,
    mut exchange: Exchange,
) -> Response<ProxyBody> {
    let (mut parts, incoming) = response.into_parts();
    exchange.answered(parts.status.as_u16());
    strip_hop_by_hop(&mut parts.headers);
    let tokens = Tokens::of(parts.headers.get(CONTENT_TYPE));
    Response::from_parts(parts, ProxyBody::upstream(incoming, tokens, exchange, lease, upload))
}

fn reject(worker: &Worker, rejection: Rejection, grpc: bool) -> Response<ProxyBody> {
    if let Rejection::Malformed(violation) = rejection {
        worker.workload.tally.refuse(violation);
    }
    let (status, reason, why) = rejection.answer();
    own(status, reason, why, grpc)
}

/// The client broke its own request; the upstream is not to blame.
fn client_fault(worker: &Worker, exchange: Exchange, fault: Failure, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match fault {
        Failure::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than http.max_body_bytes"),
        Failure::RequestTooSlow => {
            add(&worker.workload.tally.slow_clients, 1);
            (StatusCode::REQUEST_TIMEOUT, "the body came too slowly")
        }
        _ => (StatusCode::BAD_REQUEST, "the body is not framed as announced, or broke off"),
    };
    exchange.client_failed(fault, status.as_u16());
    own(status, fault.as_str(), why, grpc)
}

fn shed(exchange: Exchange, refusal: Refusal, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match refusal {
        Refusal::RateLimited { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "more requests per second than the policy allows")
        }
        Refusal::QueueFull => (StatusCode::SERVICE_UNAVAILABLE, "as many requests wait as may"),
        Refusal::QueueTimeout => (StatusCode::SERVICE_UNAVAILABLE, "no place became free in time"),
        Refusal::BreakerOpen => (StatusCode::SERVICE_UNAVAILABLE, "the upstream fails; calls to it are shed"),
    };
    exchange.shed(refusal, status.as_u16());
    let mut response = own(status, refusal.as_str(), why, grpc);
    let seconds = match refusal {
        Refusal::RateLimited { retry_after } => retry_after.as_secs_f64().ceil().max(1.0) as u64,
        Refusal::QueueFull | Refusal::QueueTimeout | Refusal::BreakerOpen => 1,
    };
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

pub(super) fn fail(mut exchange: Exchange, failure: Failure, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match failure {
        Failure::ConnectFailed => (StatusCode::BAD_GATEWAY, "the upstream refused the connection"),
        Failure::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream could not be connected in time"),
        Failure::UpstreamTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time"),
        _ => (StatusCode::BAD_GATEWAY, "the upstream closed the connection before it answered"),
    };
    exchange.failed(failure, status.as_u16());
    exchange.complete(None);
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
