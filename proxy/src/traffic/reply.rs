//! What the proxy answers itself: why a request went no further, in a status, a reason and a sentence.

use http::{
    HeaderMap, HeaderValue, Request, Response, StatusCode,
    header::{CONTENT_TYPE, LOCATION, RETRY_AFTER, WWW_AUTHENTICATE},
};
use tokio::time::{Duration, Instant, sleep};

use crate::{
    config::{Redirect, Respond},
    counters::add,
    regulate::Refusal,
    routing::{Destination, Route, location},
    security::Denial,
    telemetry::Failure,
    traffic::{
        body::ProxyBody,
        exchange::{End, Exchange},
        grpc,
        headers::REASON,
        ratelimit,
        serve::Worker,
        upload::Upload,
        vet::Rejection,
    },
};

/// Why a request goes no further.
pub(crate) enum Stop {
    /// The route has the answer itself.
    Here(Response<ProxyBody>),
    /// It may not do what it asks, or does not prove who it is.
    Denied(Denial),
    /// A limit or a breaker turns it away.
    Shed(Refusal),
    /// It got no answer.
    Failed(Failure),
}

impl From<Denial> for Stop {
    fn from(denial: Denial) -> Self {
        Self::Denied(denial)
    }
}

impl From<Refusal> for Stop {
    fn from(refusal: Refusal) -> Self {
        Self::Shed(refusal)
    }
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Stop {
    /// The client's fault, if it had one, is why there was no answer. Nobody waits for the rest of its body.
    pub(crate) fn or_fault(self, upload: Option<&Upload>) -> Self {
        let Some(upload) = upload else { return self };
        upload.finish();
        match (self, upload.fault()) {
            (Self::Failed(_), Some(fault)) => Self::Failed(fault),
            (stop, _) => stop,
        }
    }

    /// Ends the exchange with it.
    pub(crate) fn answer(self, exchange: Exchange, grpc: bool) -> Response<ProxyBody> {
        match self {
            Self::Here(answer) => {
                exchange.end(End::Here { status: answer.status().as_u16() });
                answer
            }
            Self::Denied(denial) => deny(exchange, denial, grpc),
            Self::Shed(refusal) => shed(exchange, refusal, grpc),
            Self::Failed(failure) => fail(exchange, failure, grpc),
        }
    }
}

/// Waits where trouble is made on purpose; says for how long.
pub(crate) async fn delay(route: &Route) -> Duration {
    let Some(delay) = route.fault.delay.filter(|delay| strikes(delay.percent)) else { return Duration::ZERO };
    let begun = Instant::now();
    sleep(Duration::from_millis(delay.ms)).await;
    begun.elapsed()
}

/// Answers where trouble is made on purpose.
pub(crate) fn abort(route: &Route, grpc: bool) -> Option<Stop> {
    let abort = route.fault.abort.filter(|abort| strikes(abort.percent))?;
    let status = StatusCode::from_u16(abort.status).unwrap_or(StatusCode::SERVICE_UNAVAILABLE);
    let why = "a fault that the configuration asks for";
    Some(Stop::Here(explained(status, "fault_injected", why, grpc)))
}

/// What the route itself answers; one of upstreams, that it has none.
pub(crate) fn answer_here<B>(route: &Route, request: &Request<B>, grpc: bool) -> Stop {
    let mut answer = match &route.destination {
        Destination::Upstreams(_) => return Failure::NoEndpoint.into(),
        Destination::Elsewhere(redirect) => redirected(redirect, request, grpc),
        Destination::Here(Respond { status, body }) => {
            let status = StatusCode::from_u16(*status).unwrap_or(StatusCode::OK);
            own(status, "responded", body.clone(), grpc)
        }
    };
    edit(route, answer.headers_mut(), grpc);
    Stop::Here(answer)
}

/// What the route changes in answers; gRPC is told by its type, which stays.
fn edit(route: &Route, headers: &mut HeaderMap, grpc: bool) {
    let kind = headers.get(CONTENT_TYPE).filter(|_| grpc).cloned();
    route.response_headers.apply(headers);
    if let Some(kind) = kind {
        headers.insert(CONTENT_TYPE, kind);
    }
}

fn strikes(percent: f64) -> bool {
    rand::random::<f64>() * 100.0 < percent
}

/// Sends a client elsewhere.
fn redirected<B>(redirect: &Redirect, request: &Request<B>, grpc: bool) -> Response<ProxyBody> {
    let Some(location) = location(redirect, request) else {
        return explained(StatusCode::BAD_REQUEST, "bad_address", "the request names no host to be sent to", grpc);
    };
    let status = StatusCode::from_u16(redirect.status).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    let mut response = own(status, "redirected", String::new(), grpc);
    response.headers_mut().insert(LOCATION, location);
    response
}

/// Answers a request that no route has the say on.
pub(crate) fn reject(worker: &Worker, exchange: Exchange, rejection: Rejection, grpc: bool) -> Response<ProxyBody> {
    let tally = &worker.workload.tally;
    match rejection {
        Rejection::Malformed(violation) => tally.refuse(violation),
        Rejection::Overloaded => add(&tally.overloaded, 1),
        _ => {}
    }
    let (status, reason, why) = rejection.answer();
    exchange.end(End::Rejected { reason, status: status.as_u16() });
    explained(status, reason, why, grpc)
}

/// An answer with a sentence that says why.
pub(crate) fn explained(status: StatusCode, reason: &'static str, why: &str, grpc: bool) -> Response<ProxyBody> {
    let text = if grpc { String::new() } else { format!("weir: {why}\n") };
    own(status, reason, text, grpc)
}

/// An answer with a text.
fn own(status: StatusCode, reason: &'static str, text: String, to_grpc: bool) -> Response<ProxyBody> {
    let mut response = Response::new(ProxyBody::text(if to_grpc { String::new() } else { text }));
    let headers = response.headers_mut();
    headers.insert(REASON, HeaderValue::from_static(reason));
    if to_grpc {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-status", grpc::of_http(status).into());
        headers.insert("grpc-message", HeaderValue::from_static(reason));
    } else {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
        *response.status_mut() = status;
    }
    response
}

fn deny(exchange: Exchange, denial: Denial, grpc: bool) -> Response<ProxyBody> {
    let (status, reason, why) = match &denial {
        Denial::Unauthenticated(_) => {
            (StatusCode::UNAUTHORIZED, "unauthenticated", "a token that can be believed is needed")
        }
        Denial::Forbidden(_) => (StatusCode::FORBIDDEN, "denied", "the rules do not allow this request"),
    };
    let mut response = explained(status, reason, why, grpc);
    let decision = match denial {
        Denial::Unauthenticated(challenge) => {
            response.headers_mut().insert(WWW_AUTHENTICATE, challenge);
            None
        }
        Denial::Forbidden(decision) => Some(decision),
    };
    exchange.end(End::Denied { decision, status: status.as_u16() });
    response
}

fn shed(exchange: Exchange, refusal: Refusal, grpc: bool) -> Response<ProxyBody> {
    const SLOW_DOWN: StatusCode = StatusCode::TOO_MANY_REQUESTS;
    const UNAVAILABLE: StatusCode = StatusCode::SERVICE_UNAVAILABLE;
    let (status, why) = match refusal {
        Refusal::RateLimited { .. } => (SLOW_DOWN, "more requests per second than the policy allows"),
        Refusal::TokensExhausted { .. } => (SLOW_DOWN, "more tokens per second than the policy allows"),
        Refusal::QueueFull => (UNAVAILABLE, "as many requests wait as may"),
        Refusal::QueueTimeout => (UNAVAILABLE, "no place became free in time"),
        Refusal::DeadlineUnmeetable { .. } => (UNAVAILABLE, "it would have to wait for longer than until its deadline"),
        Refusal::Displaced => (UNAVAILABLE, "a request of higher priority took its place"),
        Refusal::BreakerOpen => (UNAVAILABLE, "the upstream fails; calls to it are shed"),
        Refusal::UpstreamOverflow => (UNAVAILABLE, "as many requests are at the upstream as may be"),
    };
    exchange.end(End::Shed { refusal, status: status.as_u16() });
    let mut response = explained(status, refusal.as_str(), why, grpc);
    response.headers_mut().insert(RETRY_AFTER, seconds_to_wait(refusal).into());
    if let Refusal::TokensExhausted { budget, .. } = refusal {
        ratelimit::say(response.headers_mut(), budget);
    }
    response
}

/// Where nothing was measured, a second: most trouble is over by then.
fn seconds_to_wait(refusal: Refusal) -> u64 {
    match refusal {
        Refusal::RateLimited { retry_after: wait }
        | Refusal::TokensExhausted { retry_after: wait, .. }
        | Refusal::DeadlineUnmeetable { expected: wait } => wait.as_secs_f64().ceil().max(1.0) as u64,
        Refusal::QueueFull
        | Refusal::QueueTimeout
        | Refusal::Displaced
        | Refusal::BreakerOpen
        | Refusal::UpstreamOverflow => 1,
    }
}

fn fail(exchange: Exchange, failure: Failure, to_grpc: bool) -> Response<ProxyBody> {
    let (status, why) = match failure {
        Failure::NoEndpoint => (StatusCode::SERVICE_UNAVAILABLE, "the upstream has no endpoint"),
        Failure::ConnectFailed => (StatusCode::BAD_GATEWAY, "the upstream refused the connection"),
        Failure::ConnectTimeout => (StatusCode::GATEWAY_TIMEOUT, "the upstream could not be connected in time"),
        Failure::TlsFailed => (StatusCode::BAD_GATEWAY, "the upstream could not prove who it is"),
        Failure::StreamRefused => (StatusCode::BAD_GATEWAY, "the upstream refused the request before it began with it"),
        Failure::GrpcOverHttp1 => (
            StatusCode::BAD_GATEWAY,
            "gRPC over HTTP/1.1 was not understood: if the upstream speaks HTTP/2, say protocol: h2",
        ),
        Failure::UpstreamTimeout | Failure::IdleTimeout | Failure::StreamTimeout => {
            (StatusCode::GATEWAY_TIMEOUT, "the upstream did not answer in time")
        }
        Failure::RequestTooLarge => (StatusCode::PAYLOAD_TOO_LARGE, "the body is longer than http.max_body_bytes"),
        Failure::RequestTooSlow => (StatusCode::REQUEST_TIMEOUT, "the body came too slowly"),
        Failure::RequestMalformed => (StatusCode::BAD_REQUEST, "the body is not framed as announced, or broke off"),
        Failure::UpstreamReset | Failure::ClientDisconnected | Failure::TunnelIdle => {
            (StatusCode::BAD_GATEWAY, "the upstream closed the connection before it answered")
        }
    };
    exchange.end(End::Failed { failure, status: status.as_u16() });
    let mut response = explained(status, failure.as_str(), why, to_grpc);
    if to_grpc && failure == Failure::GrpcOverHttp1 {
        // its clients show the message, and no field of the answer
        response.headers_mut().insert("grpc-message", HeaderValue::from_static(why));
    }
    let too_late = matches!(failure, Failure::UpstreamTimeout | Failure::IdleTimeout | Failure::StreamTimeout);
    if to_grpc && too_late {
        response.headers_mut().insert("grpc-status", grpc::DEADLINE_EXCEEDED.into());
    }
    response
}
