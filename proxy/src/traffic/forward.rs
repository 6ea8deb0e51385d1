//! From a request to an answer: match → authorize → admit → pick → forward → observe.
//!
//! [`handle`] is one request's whole way; what stops it on the way is a [`Stop`], which `reply` puts into
//! words. An [`Exchange`] goes along and books what happens.

use std::rc::Rc;

use http::{
    HeaderValue, Method, Request, Response,
    header::{ACCEPT_ENCODING, SET_COOKIE},
};
use hyper::{body::Incoming, upgrade::OnUpgrade};
use tokio::time::Instant;

use crate::{
    config::{Direction, Protocol},
    counters::add,
    lm::Reading,
    regulate::Budget,
    routing::{Route, Target},
    telemetry::Failure,
    traffic::{
        address::address,
        admission::{Entrance, admit_here},
        answers::Answers,
        attempt::{Answer, Sending},
        body::ProxyBody,
        client::Client,
        client_body::{ClientBody, hold_back},
        clock::{Bounds, Clock, Turn},
        exchange::Exchange,
        forwarded, grpc,
        headers::{PEER, strip_hop_by_hop},
        outcome::Outcome,
        pool::Wire,
        ratelimit,
        reply::{Stop, abort, answer_here, delay, reject},
        serve::Worker,
        tunnel,
        upgrade::Upgrade,
        upload::Upload,
        vet::{Rejection, vet},
    },
    upstream::Affinity,
};

/// A request on its way, and what is known of it beside its message.
struct Passage<'a> {
    worker: &'a Rc<Worker>,
    listener: usize,
    client: &'a Client,
    route: &'a Route,
    target: Option<&'a Target>,
    grpc: bool,
    upgrade: Option<Upgrade>,
}

/// What came of it.
enum Arrived<'a> {
    Answered(Answer, Additions<'a>),
    /// The upstream leaves HTTP.
    Switched(Answer, Upgrade),
    /// A connection for `CONNECT`, and the client's side of it.
    Opened(Wire, OnUpgrade),
}

/// What the answer of the upstream is given on its way back.
struct Additions<'a> {
    target: &'a Target,
    /// When the upstream's time began, if all of the request was there.
    began: Instant,
    set_cookie: Option<HeaderValue>,
    budget: Option<Budget>,
}

/// Answers one request.
pub(crate) async fn handle(
    worker: Rc<Worker>,
    listener: usize,
    client: &Client,
    mut request: Request<Incoming>,
) -> Response<ProxyBody> {
    let workload = &worker.workload;
    let accepts = &workload.accepts[listener];
    add(&workload.tally.requests, 1);
    let behind = forwarded::asker(accepts.trusted_hops, request.headers()).map(|address| client.behind(address));
    let client = behind.as_ref().unwrap_or(client);
    accepts.believed.take_out(&mut request);
    let grpc = grpc::is_expected(request.headers());
    let vetted = vet(&request, accepts, workload);
    let route = vetted.and_then(|()| workload.route(listener, &request).ok_or(Rejection::NoRoute));
    let route = match route {
        Ok(route) => route,
        Err(rejection) => {
            let exchange = Exchange::begin(&worker, accepts.unmatched.clone(), None, client, &request);
            return reject(&worker, exchange, rejection, grpc);
        }
    };
    let target = route.next_target();
    let upgrade = Upgrade::wanted(&mut request, target.map_or(Protocol::Http1, |t| t.upstream.protocol));
    let upstream = target.map(|target| target.upstream.clone());
    let mut exchange = Exchange::begin(&worker, route.clone(), upstream, client, &request);
    let upgrade = match upgrade {
        Ok(upgrade) => upgrade,
        Err(rejection) => return reject(&worker, exchange, rejection, grpc),
    };
    let request = request.map(|incoming| ClientBody::new(incoming, workload));
    let upload = request.body().upload();
    exchange.uploads(upload.clone());
    let passage = Passage { worker: &worker, listener, client, route: &route, target, grpc, upgrade };
    let answers = client.answers.clone();
    let held = || (client.answers.clone(), client.open.clone());
    match passage.walk(request, &mut exchange).await {
        Ok(Arrived::Answered(answer, more)) => pass_on(&route, answer, &more, upload, answers, exchange),
        Ok(Arrived::Switched(answer, upgrade)) => tunnel::switch(&worker, answer, upgrade, held(), exchange),
        Ok(Arrived::Opened(wire, upgraded)) => tunnel::open(&worker, exchange, upgraded, held(), wire),
        Err(stop) => stop.or_fault(upload.as_deref()).answer(exchange, grpc),
    }
}

impl<'a> Passage<'a> {
    /// To the upstream, and back with the head of its answer.
    async fn walk(self, mut request: Request<ClientBody>, exchange: &mut Exchange) -> Result<Arrived<'a>, Stop> {
        let Self { worker, route, client, .. } = self;
        // before anything is added, or the client could have it taken out again by naming it in `Connection`
        strip_hop_by_hop(request.headers_mut());
        if let Some(guard) = worker.workload.security.guard(self.listener) {
            exchange.allowed(guard.check(&mut request).await?);
        }
        // as in Envoy, trouble made on purpose is nobody's time
        let began = exchange.started() + delay(route).await;
        let give_up = began + route.timeout;
        if let Some(stop) = abort(route, self.grpc) {
            return Err(stop);
        }
        let Some(target) = self.target else {
            admit_here(worker, route, request.headers(), give_up, exchange).await?;
            return Err(answer_here(route, &request, self.grpc));
        };
        let upstream = &target.upstream;
        let entrance = Entrance { worker, route, upstream, give_up };
        let mut request = exchange.read_along(request);
        let budget = entrance.admit_request(&mut request, exchange).await?;
        let Affinity { hash, set_cookie } = Affinity::of(upstream, &request, client.address);
        if self.upgrade.is_none() && request.method() == Method::CONNECT {
            let client = hyper::upgrade::on(&mut request);
            let wire = tunnel::connect(worker, route, upstream, hash, exchange).await?;
            return Ok(Arrived::Opened(wire, client));
        }
        let received = request.version();
        let mut request = self.prepare(target, exchange, request);
        if upstream.protocol == Protocol::Http1 {
            hold_back(&mut request);
        }
        let upload = exchange.upload();
        let via = (&worker.workload.accepts[self.listener].via, received);
        let sending = Sending { worker, route, upstream, hash, give_up, upload: upload.as_deref(), via };
        let answer = sending.send(exchange, request).await?;
        match (Upgrade::granted(&answer.response), self.upgrade) {
            (true, Some(upgrade)) => Ok(Arrived::Switched(answer, upgrade)),
            // nobody asked it to leave HTTP
            (true, None) => Err(Failure::UpstreamReset.into()),
            (false, _) => Ok(Arrived::Answered(answer, Additions { target, began, set_cookie, budget })),
        }
    }

    /// Makes the request the proxy's own: its trace, its identity, the upstream's form of address.
    fn prepare<B>(&self, target: &Target, exchange: &Exchange, request: Request<B>) -> Request<B> {
        let Self { worker, listener, client, route, upgrade, .. } = self;
        let accepts = &worker.workload.accepts[*listener];
        let (mut parts, body) = request.into_parts();
        let (headers, received) = (&mut parts.headers, parts.version);
        if exchange.asks_a_model() {
            // what is compressed cannot be read, and so neither be told nor billed
            headers.insert(ACCEPT_ENCODING, HeaderValue::from_static("identity"));
        }
        exchange.trace().inject(&worker.workload.propagation, &worker.workload.sampler, headers);
        match route.direction {
            Direction::Outbound if target.upstream.sends_peer => headers.insert(PEER, worker.identity.clone()),
            Direction::Inbound | Direction::Outbound => headers.remove(PEER),
        };
        forwarded::say(accepts.forwarded, client, headers);
        if target.upstream.sends_via {
            accepts.via.sign(headers, received);
        }
        target.request_headers.apply(headers);
        route.request_headers.apply(headers);
        if let Some(upgrade) = upgrade {
            upgrade.ask(headers);
        }
        let path = route.path(&parts.uri);
        address(&mut parts, &target.upstream, path, route.host());
        Request::from_parts(parts, body)
    }
}

/// The upstream's answer as the client gets it.
fn pass_on(
    route: &Route,
    answer: Answer,
    more: &Additions<'_>,
    upload: Option<Rc<Upload>>,
    answers: Option<Rc<Answers>>,
    mut exchange: Exchange,
) -> Response<ProxyBody> {
    let Answer { response, lease, peer } = answer;
    exchange.answered_by(peer);
    let (mut parts, incoming) = response.into_parts();
    match grpc::ends_with_trailers(&parts.headers) {
        true => exchange.begun(parts.status.as_u16()),
        false => exchange.answered(parts.status.as_u16(), Outcome::answered(parts.status, &parts.headers)),
    }
    strip_hop_by_hop(&mut parts.headers);
    let reading = Reading::of(&parts.headers, exchange.call().is_some());
    more.target.response_headers.apply(&mut parts.headers);
    route.response_headers.apply(&mut parts.headers);
    if let Some(cookie) = &more.set_cookie {
        parts.headers.append(SET_COOKIE, cookie.clone());
    }
    if let Some(budget) = more.budget {
        ratelimit::say(&mut parts.headers, budget);
    }
    let ends = route.max_stream_duration.map(|longest| exchange.started() + longest);
    let turn = route.answer_timeout.map(|longest| Turn { began: more.began, longest, upload: upload.clone() });
    let clock = Clock::new(Bounds { idle: Some(route.idle_timeout), ends, turn });
    Response::from_parts(parts, ProxyBody::upstream(incoming, reading, clock, exchange, lease, upload, answers))
}
