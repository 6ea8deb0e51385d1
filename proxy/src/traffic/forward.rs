//! From a request to an answer: match → admit → pick → forward.

use std::{net::IpAddr, rc::Rc};

use http::{
    HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, SET_COOKIE},
};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant};

use crate::{
    config::{Direction, Redirect, Respond},
    counters::add,
    regulate::Refusal,
    routing::{Destination, Route, Target, location},
    telemetry::Failure,
    traffic::{
        address::address,
        attempt::{Answer, Sending},
        body::ProxyBody,
        clock::Clock,
        exchange::Exchange,
        headers::{PEER, REASON, strip_hop_by_hop},
        lm::Tokens,
        outcome::Outcome,
        serve::Worker,
    },
    upstream::{Affinity, Upstream},
};

/// gRPC's UNAVAILABLE, for clients that do not look at HTTP statuses.
const GRPC_UNAVAILABLE: HeaderValue = HeaderValue::from_static("14");

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    listener: usize,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<ProxyBody> {
    add(&worker.workload.tally.requests, 1);
    let Some(route) = worker.workload.route(listener, &request) else {
        return own(StatusCode::NOT_FOUND, "no_route", "weir: no route matches this request\n", false);
    };
    let grpc = is_grpc(&request);
    let target = route.next_target();
    let upstream = target.map(|target| target.upstream.clone());
    let mut exchange = Exchange::begin(&worker, route.clone(), upstream, &request);
    if let Some(answer) = answer_here(&route, &request, grpc).await {
        exchange.answered_here(answer.status().as_u16());
        return answer;
    }
    let Some(target) = target else {
        return fail(exchange, Failure::NoEndpoint, grpc);
    };
    let give_up = exchange.started() + route.timeout;
    let upstream = &target.upstream;
    if let Err(refusal) = admit(&worker, &route, upstream, &mut exchange, give_up).await {
        return shed(exchange, refusal, grpc);
    }
    let Affinity { hash, set_cookie } = Affinity::of(upstream, &request, client);
    let request = prepare(&worker, &route, target, &exchange, request);
    let sending = Sending { worker: &worker, route: &route, upstream, hash, give_up };
    match sending.send(&mut exchange, request).await {
        Ok(answer) => pass_on(&route, target, answer, set_cookie, exchange),
        Err(failure) => fail(exchange, failure, grpc),
    }
}

/// What the route itself answers: a redirect, or trouble made on purpose.
async fn answer_here(route: &Route, request: &Request<Incoming>, grpc: bool) -> Option<Response<ProxyBody>> {
    let strikes = |percent: f64| rand::random::<f64>() * 100.0 < percent;
    if let Some(delay) = route.fault.delay.filter(|delay| strikes(delay.percent)) {
        tokio::time::sleep(Duration::from_millis(delay.ms)).await;
    }
    if let Some(abort) = route.fault.abort.filter(|abort| strikes(abort.percent)) {
        let status = StatusCode::from_u16(abort.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        return Some(own(status, "fault_injected", "weir: a fault that the configuration asks for\n", grpc));
    }
    match &route.destination {
        Destination::Upstreams(_) => None,
        Destination::Elsewhere(redirect) => Some(redirected(redirect, request, grpc)),
        Destination::Here(Respond { status, body }) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::OK);
            Some(own(status, "responded", body, grpc))
        }
    }
}

fn redirected(redirect: &Redirect, request: &Request<Incoming>, grpc: bool) -> Response<ProxyBody> {
    let Some(location) = location(redirect, request) else {
        return own(StatusCode::BAD_REQUEST, "bad_address", "weir: the request names no host to be sent to\n", grpc);
    };
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let mut response = own(status, "redirected", "", grpc);
    response.headers_mut().insert(LOCATION, location);
    response
}

async fn admit(
    worker: &Worker,
    route: &Route,
    upstream: &Upstream,
    exchange: &mut Exchange,
    give_up: Instant,
) -> Result<(), Refusal> {
    if !upstream.has_room() {
        return Err(Refusal::UpstreamOverflow);
    }
    let now = exchange.started();
    match route.direction {
        Direction::Inbound => {
            let route_place = route.gate.admit(now, give_up).await?;
            let service_place = worker.workload.gate.admit(now, give_up).await?;
            let connection = upstream.enter(now, give_up).await?;
            exchange.admitted([Some(service_place), Some(route_place), connection]);
        }
        Direction::Outbound => {
            let dice = rand::random();
            let open = upstream.circuit.admit(now, dice) && route.circuit.admit(now, dice);
            if !open {
                return Err(Refusal::BreakerOpen);
            }
            if let Some(connection) = upstream.enter(now, give_up).await? {
                exchange.admitted([Some(connection), None, None]);
            }
        }
    }
    Ok(())
}

/// Makes the request the proxy's own: its trace, its identity, the upstream's form of address.
fn prepare(
    worker: &Worker,
    route: &Route,
    target: &Target,
    exchange: &Exchange,
    request: Request<Incoming>,
) -> Request<Incoming> {
    let (mut parts, body) = request.into_parts();
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    exchange.trace().inject(headers);
    match route.direction {
        Direction::Inbound => headers.remove(PEER),
        Direction::Outbound => headers.insert(PEER, worker.identity.clone()),
    };
    target.request_headers.apply(headers);
    route.request_headers.apply(headers);
    let path = route.path(&parts.uri);
    address(&mut parts, target.upstream.protocol, path, route.host());
    Request::from_parts(parts, body)
}

fn pass_on(
    route: &Route,
    target: &Target,
    (response, lease): Answer,
    set_cookie: Option<HeaderValue>,
    mut exchange: Exchange,
) -> Response<ProxyBody> {
    let (mut parts, incoming) = response.into_parts();
    exchange.answered(parts.status.as_u16(), Outcome::answered(parts.status, &parts.headers));
    strip_hop_by_hop(&mut parts.headers);
    target.response_headers.apply(&mut parts.headers);
    route.response_headers.apply(&mut parts.headers);
    if let Some(cookie) = set_cookie {
        parts.headers.append(SET_COOKIE, cookie);
    }
    let tokens = Tokens::of(parts.headers.get(CONTENT_TYPE));
    let ends = route.max_stream_duration.map(|longest| exchange.started() + longest);
    let clock = Clock::new(route.idle_timeout, ends, Instant::now());
    Response::from_parts(parts, ProxyBody::upstream(incoming, tokens, clock, exchange, lease))
}

fn shed(exchange: Exchange, refusal: Refusal, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match refusal {
        Refusal::RateLimited { .. } => {
            (StatusCode::TOO_MANY_REQUESTS, "more requests per second than the policy allows")
        }
        Refusal::QueueFull => (StatusCode::SERVICE_UNAVAILABLE, "as many requests wait as may"),
        Refusal::QueueTimeout => (StatusCode::SERVICE_UNAVAILABLE, "no place became free in time"),
        Refusal::BreakerOpen => (StatusCode::SERVICE_UNAVAILABLE, "the upstream fails; calls to it are shed"),
        Refusal::UpstreamOverflow => {
            (StatusCode::SERVICE_UNAVAILABLE, "as many requests are at the upstream as may be")
        }
    };
    exchange.shed(refusal, status.as_u16());
    let mut response = own(status, refusal.as_str(), &format!("weir: {why}\n"), grpc);
    let seconds = match refusal {
        Refusal::RateLimited { retry_after } => retry_after.as_secs_f64().ceil().max(1.0) as u64,
        Refusal::QueueFull | Refusal::QueueTimeout | Refusal::BreakerOpen | Refusal::UpstreamOverflow => 1,
    };
    response.headers_mut().insert(RETRY_AFTER, seconds.into());
    response
}

fn fail(mut exchange: Exchange, failure: Failure, grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match failure {
        Failure::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "the upstream has no endpoint"),
        Failure::ConnectFailed => (StatusCode::BAD_GATEWAY, "the upstream refused the connection"),
        Failure::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream could not be connected in time"),
        Failure::StreamRefused => (StatusCode::BAD_GATEWAY, "the upstream refused the request before it began with it"),
        Failure::UpstreamTimeout | Failure::IdleTimeout | Failure::StreamTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time")
        }
        Failure::UpstreamReset | Failure::ClientDisconnected => {
            (StatusCode::BAD_GATEWAY, "the upstream closed the connection before it answered")
        }
    };
    exchange.failed(failure, status.as_u16());
    exchange.complete(None);
    own(status, failure.as_str(), &format!("weir: {why}\n"), grpc)
}

/// An answer of the proxy itself.
fn own(status: StatusCode, reason: &'static str, text: &str, grpc: bool) -> Response<ProxyBody> {
    let text = if grpc { "" } else { text };
    let mut response = Response::new(ProxyBody::text(text.to_owned()));
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
