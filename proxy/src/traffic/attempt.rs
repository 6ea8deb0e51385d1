//! Sends a request, once or until an attempt is good enough.
//!
//! Each attempt goes to an endpoint that did not fail this request yet, and is observed there. What
//! stops another one: the policy, the deadline, the upstream's budget and breaker, a body that is gone. Where there is no
//! policy what certainly never arrived goes out once more (`undone`), within the same budget.
//! An answer whose head was passed on is never taken back.
//!
//! As in Envoy, time counts against the upstream once it has the whole request: while the client is still sending, its
//! body has bounds of its own, and no endpoint is to blame for it.

use std::{pin::pin, rc::Rc, sync::Arc};

use http::{Request, Response, Version, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    config::Protocol,
    counters::add,
    routing::{RetryPolicy, Route},
    security::Peer,
    telemetry::Failure,
    traffic::{
        Via,
        client_body::ClientBody,
        exchange::Exchange,
        headers::default_host,
        mirror,
        outcome::Outcome,
        pool::{Connection, Lease},
        read_along::ReadAlong,
        replay::{Recording, RequestBody},
        serve::Worker,
        undone::{Spare, Undone},
        upload::Upload,
    },
    upstream::{Pick, RetryPermit, Upstream},
};

/// A kept connection may close just as it is used; the request then goes out once more, because
/// nothing of it was sent.
const MAX_STALE: usize = 3;

/// The head of an answer, and the connection its body comes on.
pub(crate) struct Answer {
    pub(crate) response: Response<Incoming>,
    pub(crate) lease: Lease,
    /// Who answers, if TLS has proved it.
    pub(crate) peer: Option<Arc<Peer>>,
}

/// What one request is sent with.
pub(crate) struct Sending<'a> {
    pub(crate) worker: &'a Rc<Worker>,
    pub(crate) route: &'a Route,
    pub(crate) upstream: &'a Arc<Upstream>,
    /// What the endpoint is chosen by, if by anything of the request.
    pub(crate) hash: Option<u64>,
    pub(crate) give_up: Instant,
    /// The request's body, if it has one.
    pub(crate) upload: Option<&'a Upload>,
    /// The name of the listener it came to, and the version it came with.
    pub(crate) via: (&'a Via, Version),
}

impl Sending<'_> {
    /// Sends; the answer or failure of the last attempt is the request's.
    pub(crate) async fn send(
        &self,
        exchange: &mut Exchange,
        request: Request<ReadAlong<ClientBody>>,
    ) -> Result<Answer, Failure> {
        let keep_bytes = self.route.keeps_bytes();
        if keep_bytes == 0 {
            return self.send_once(exchange, request.map(RequestBody::Passing)).await;
        }
        let (parts, body) = request.into_parts();
        let recording = Recording::new(body, keep_bytes);
        if let Some(mirror) = &self.route.mirror {
            mirror::begin(self, mirror, &parts, &recording);
        }
        match &self.route.retries {
            Some(policy) => self.send_again_and_again(policy, exchange, parts, &recording).await,
            None => {
                let body = recording.next_reader().ok_or(Failure::ClientDisconnected)?;
                self.send_once(exchange, Request::from_parts(parts, body)).await
            }
        }
    }

    /// Nobody asked for retries; what certainly never arrived goes out once more all the same, elsewhere if it can.
    async fn send_once(&self, exchange: &mut Exchange, request: Request<RequestBody>) -> Result<Answer, Failure> {
        let tried = self.pick(exchange, &[])?;
        let Undone { failure, request } = match self.attempt(exchange, request, None).await {
            Ok(answer) => return Ok(answer),
            Err(undone) => undone,
        };
        let Some(request) = request.filter(|_| Instant::now() < self.gives_up()) else { return Err(failure) };
        let Some((pick, _permit)) = self.another(tried, failure) else { return Err(failure) };
        add(&self.worker.workload.tally.rerouted, 1);
        exchange.retried(Outcome::Failed(failure));
        exchange.picked(pick);
        self.attempt(exchange, *request, None).await.map_err(|undone| undone.failure)
    }

    /// Where a request can go that `tried` did not get, if budget and breaker allow it. One that cannot be connected to
    /// is not asked twice.
    fn another(&self, tried: usize, failure: Failure) -> Option<(Pick, RetryPermit)> {
        let pick = self.upstream.pick(self.hash, &[tried], Instant::now())?;
        let useless = pick.endpoint.id == tried && failure.is_unreachable();
        let permit = if useless { None } else { self.permit() };
        Some((pick, permit?))
    }

    async fn send_again_and_again(
        &self,
        policy: &RetryPolicy,
        exchange: &mut Exchange,
        parts: Parts,
        recording: &Recording,
    ) -> Result<Answer, Failure> {
        let mut tried = Vec::new();
        // held while a retry is under way
        let mut _permit: Option<RetryPermit> = None;
        for number in 1.. {
            let id = self.pick(exchange, &tried)?;
            let body = recording.next_reader().ok_or(Failure::ClientDisconnected)?;
            let ended = self.attempt(exchange, Request::from_parts(parts.clone(), body), policy.per_try).await;
            let ended = ended.map_err(|undone| undone.failure);
            let outcome = Outcome::of(&ended);
            let wanted = number <= policy.attempts && recording.can_repeat() && policy.wants(outcome, &parts.method);
            if !wanted {
                return ended;
            }
            let goes_out = Instant::now() + policy.wait(number, outcome, rand::random_range(0.5..1.0));
            if goes_out >= self.gives_up() {
                return ended;
            }
            _permit = None;
            let Some(permit) = self.permit() else { return ended };
            _permit = Some(permit);
            exchange.retried(outcome);
            tried.push(id);
            drop(ended);
            sleep(goes_out.saturating_duration_since(Instant::now())).await;
        }
        Err(Failure::UpstreamReset)
    }

    /// A place in the budget, unless the breaker sheds.
    fn permit(&self) -> Option<RetryPermit> {
        let tally = &self.worker.workload.tally;
        let (now, dice) = (Instant::now(), rand::random());
        // the circuits last: what they let through may be their probe
        let permit = self.upstream.retry_permit();
        let permit = permit.filter(|_| self.upstream.circuit.admit(now, dice) && self.route.circuit.admit(now, dice));
        add(if permit.is_some() { &tally.retries } else { &tally.retries_refused }, 1);
        permit
    }

    fn pick(&self, exchange: &mut Exchange, tried: &[usize]) -> Result<usize, Failure> {
        let pick = self.upstream.pick(self.hash, tried, Instant::now()).ok_or(Failure::NoEndpoint)?;
        let id = pick.endpoint.id;
        exchange.picked(pick);
        Ok(id)
    }

    /// One attempt, which may take `longest` by itself.
    async fn attempt(
        &self,
        exchange: &Exchange,
        request: Request<RequestBody>,
        longest: Option<Duration>,
    ) -> Result<Answer, Undone> {
        let pick = exchange.pick().ok_or(Failure::NoEndpoint)?;
        let mut answer = pin!(send_to(self.worker, pick, request));
        let own = longest.map(|longest| (Instant::now() + longest, longest));
        let deadline = || {
            let own = own.map(|(end, longest)| Upload::after(self.upload, end, longest));
            own.map_or(self.gives_up(), |own| own.min(self.gives_up()))
        };
        loop {
            let ends = deadline();
            if let Some(answer) = self.worker.timers.before(ends, answer.as_mut()).await {
                return answer;
            }
            // the client may have been sending meanwhile
            if deadline() <= Instant::now() {
                return Err(Failure::UpstreamTimeout.into());
            }
        }
    }

    /// When the request stops making sense.
    fn gives_up(&self) -> Instant {
        Upload::after(self.upload, self.give_up, self.route.timeout)
    }
}

/// Sends to one endpoint.
pub(crate) async fn send_to(worker: &Worker, pick: &Pick, mut request: Request<RequestBody>) -> Result<Answer, Undone> {
    worker.forget_removed_endpoints();
    if pick.upstream.protocol == Protocol::Http1 {
        default_host(request.headers_mut(), pick.endpoint.address());
    }
    for attempt in 0.. {
        let kept_too = attempt < MAX_STALE;
        let (connection, kept) = match worker.pool.connection(pick, kept_too).await {
            Ok(connection) => connection,
            Err(failure) => return Err(Undone::unsent(failure, request)),
        };
        let spare = Spare::of(&request, pick, kept);
        let (sent, peer, lease) = match connection {
            Connection::Http1(mut lent) => {
                (lent.own.sender.try_send_request(request).await, lent.own.peer.clone(), Lease::Http1(lent))
            }
            Connection::Http2(mut sender, place) => {
                (sender.try_send_request(request).await, place.peer(), Lease::Http2(place))
            }
        };
        match sent {
            Ok(response) => return Ok(Answer { response, lease, peer }),
            Err(mut error) => match error.take_message() {
                Some(unsent) if kept => request = unsent,
                unsent => return Err(spare.after(error.error(), unsent)),
            },
        }
    }
    Err(Failure::UpstreamReset.into())
}
