//! From a request to an answer: match → authorize → admit → pick → forward → observe.
//!
//! [`handle`] is one request's whole way; what stops it on the way is a [`Stop`], which `reply` puts into
//! words. An [`Exchange`] goes along and books what happens.

use std::{net::IpAddr, rc::Rc};

use http::{HeaderValue, Request, Response, StatusCode, header::SET_COOKIE};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant};

use crate::{
    config::{Direction, Respond},
    counters::add,
    lm::Reading,
    regulate::Budget,
    routing::{Destination, Route, Target},
    telemetry::Failure,
    traffic::{
        address::address,
        admission::Entrance,
        attempt::{Answer, Sending},
        body::ProxyBody,
        client_body::ClientBody,
        clock::Clock,
        exchange::Exchange,
        headers::{PEER, strip_hop_by_hop},
        outcome::Outcome,
        ratelimit,
        reply::{Stop, explained, is_grpc, own, redirected},
        serve::Worker,
    },
    upstream::Affinity,
};

/// An answer on its way back, and what is added to it.
struct Answered<'a> {
    target: &'a Target,
    answer: Answer,
    set_cookie: Option<HeaderValue>,
    budget: Option<Budget>,
}

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    listener: usize,
    client: IpAddr,
    request: Request<Incoming>,
) -> Response<ProxyBody> {
    add(&worker.workload.tally.requests, 1);
    let Some(route) = worker.workload.route(listener, &request) else {
        return explained(StatusCode::NOT_FOUND, "no_route", "no route matches this request", false);
    };
    let grpc = is_grpc(&request);
    let target = route.next_target();
    let upstream = target.map(|target| target.upstream.clone());
    let mut exchange = Exchange::begin(&worker, route.clone(), upstream, &request);
    let request = request.map(ClientBody::new);
    match walk(&worker, listener, &route, target, client, request, &mut exchange).await {
        Ok(answered) => pass_on(&route, answered, exchange),
        Err(stop) => stop.answer(exchange, grpc),
    }
}

/// To the upstream, and back with the head of its answer.
async fn walk<'a>(
    worker: &Rc<Worker>,
    listener: usize,
    route: &Route,
    target: Option<&'a Target>,
    client: IpAddr,
    mut request: Request<ClientBody>,
    exchange: &mut Exchange,
) -> Result<Answered<'a>, Stop> {
    if let Some(guard) = worker.workload.security.guard(listener) {
        exchange.allowed(guard.check(&mut request).await?);
    }
    answer_here(route, &request).await?;
    let target = target.ok_or(Failure::NoEndpoint)?;
    let upstream = &target.upstream;
    let give_up = exchange.started() + route.timeout;
    let entrance = Entrance { worker, route, upstream, give_up };
    let budget = entrance.admit_request(&mut request, exchange).await?;
    let Affinity { hash, set_cookie } = Affinity::of(upstream, &request, client);
    let request = prepare(worker, route, target, exchange, request);
    let sending = Sending { worker, route, upstream, hash, give_up };
    let answer = sending.send(exchange, request).await?;
    Ok(Answered { target, answer, set_cookie, budget })
}

/// What the route itself answers: a redirect, or trouble made on purpose.
async fn answer_here<B>(route: &Route, request: &Request<B>) -> Result<(), Stop> {
    let grpc = is_grpc(request);
    let strikes = |percent: f64| rand::random::<f64>() * 100.0 < percent;
    if let Some(delay) = route.fault.delay.filter(|delay| strikes(delay.percent)) {
        tokio::time::sleep(Duration::from_millis(delay.ms)).await;
    }
    if let Some(abort) = route.fault.abort.filter(|abort| strikes(abort.percent)) {
        let status = StatusCode::from_u16(abort.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
        let why = "a fault that the configuration asks for";
        return Err(Stop::Here(explained(status, "fault_injected", why, grpc)));
    }
    match &route.destination {
        Destination::Upstreams(_) => Ok(()),
        Destination::Elsewhere(redirect) => Err(Stop::Here(redirected(redirect, request, grpc))),
        Destination::Here(Respond { status, body }) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::OK);
            Err(Stop::Here(own(status, "responded", body.clone(), grpc)))
        }
    }
}

/// Makes the request the proxy's own: its trace, its identity, the upstream's form of address.
fn prepare<B>(worker: &Worker, route: &Route, target: &Target, exchange: &Exchange, request: Request<B>) -> Request<B> {
    let (mut parts, body) = request.into_parts();
    let headers = &mut parts.headers;
    strip_hop_by_hop(headers);
    exchange.trace().inject(&worker.workload.propagation, headers);
    match route.direction {
        Direction::Inbound => headers.remove(PEER),
        Direction::Outbound => headers.insert(PEER, worker.identity.clone()),
    };
    target.request_headers.apply(headers);
    route.request_headers.apply(headers);
    let path = route.path(&parts.uri);
    address(&mut parts, &target.upstream, path, route.host());
    Request::from_parts(parts, body)
}

/// The upstream's answer as the client gets it.
fn pass_on(route: &Route, answered: Answered<'_>, mut exchange: Exchange) -> Response<ProxyBody> {
    let Answer { response, lease, peer } = answered.answer;
    exchange.answered_by(peer);
    let (mut parts, incoming) = response.into_parts();
    exchange.answered(parts.status.as_u16(), Outcome::answered(parts.status, &parts.headers));
    strip_hop_by_hop(&mut parts.headers);
    let reading = Reading::of(&parts.headers, exchange.call().is_some());
    answered.target.response_headers.apply(&mut parts.headers);
    route.response_headers.apply(&mut parts.headers);
    if let Some(cookie) = answered.set_cookie {
        parts.headers.append(SET_COOKIE, cookie);
    }
    if let Some(budget) = answered.budget {
        ratelimit::say(&mut parts.headers, budget);
    }
    let ends = route.max_stream_duration.map(|longest| exchange.started() + longest);
    let clock = Clock::new(route.idle_timeout, ends, Instant::now());
    Response::from_parts(parts, ProxyBody::upstream(incoming, reading, clock, exchange, lease))
}
