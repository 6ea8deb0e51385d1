//! Sends a request, once or until an attempt is good enough.
//!
//! Each attempt goes to an endpoint that did not fail this request yet, and is observed there. What
//! stops another one: the policy, the deadline, the upstream's budget and breaker, a body that is gone.
//! An answer whose head was passed on is never taken back.
//!
//! As in Envoy, time counts against the upstream once it has the whole request: while the client is still sending, its
//! body has bounds of its own, and no endpoint is to blame for it.

use std::{pin::pin, rc::Rc, sync::Arc};

use http::{Request, Response, request::Parts};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant, sleep};

use crate::{
    config::Protocol,
    counters::add,
    routing::{RetryPolicy, Route},
    security::Peer,
    telemetry::Failure,
    traffic::{
        client_body::ClientBody,
        exchange::Exchange,
        headers::default_host,
        mirror,
        outcome::Outcome,
        pool::{Connection, Lease},
        read_along::ReadAlong,
        replay::{Recording, RequestBody},
        serve::Worker,
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
            self.pick(exchange, &[])?;
            return self.attempt(exchange, request.map(RequestBody::Passing), None).await;
        }
        let (parts, body) = request.into_parts();
        let recording = Recording::new(body, keep_bytes);
        if let Some(mirror) = &self.route.mirror {
            mirror::begin(self.worker, mirror, &parts, &recording);
        }
        match &self.route.retries {
            Some(policy) => self.send_again_and_again(policy, exchange, parts, &recording).await,
            None => {
                self.pick(exchange, &[])?;
                let body = recording.next_reader().ok_or(Failure::ClientDisconnected)?;
                self.attempt(exchange, Request::from_parts(parts, body), None).await
            }
        }
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
    ) -> Result<Answer, Failure> {
        let pick = exchange.pick().ok_or(Failure::NoEndpoint)?;
        let mut answer = pin!(send_to(self.worker, pick, request));
        let own = longest.map(|longest| (Instant::now() + longest, longest));
        let deadline = || {
            let own = own.map(|(end, longest)| self.after_upload(end, longest));
            own.map_or(self.gives_up(), |own| own.min(self.gives_up()))
        };
        loop {
            let ends = deadline();
            if let Some(answer) = self.worker.timers.before(ends, answer.as_mut()).await {
                return answer;
            }
            // the client may have been sending meanwhile
            if deadline() <= Instant::now() {
                return Err(Failure::UpstreamTimeout);
            }
        }
    }

    /// When the request stops making sense.
    fn gives_up(&self) -> Instant {
        self.after_upload(self.give_up, self.route.timeout)
    }

    /// `end`, or later: `longest` begins anew with all that the client sends.
    fn after_upload(&self, end: Instant, longest: Duration) -> Instant {
        let turn = |upload: &Upload| upload.quiet_since().unwrap_or_else(Instant::now);
        self.upload.map_or(end, |upload| end.max(turn(upload) + longest))
    }
}

/// Sends to one endpoint.
pub(crate) async fn send_to(
    worker: &Worker,
    pick: &Pick,
    mut request: Request<RequestBody>,
) -> Result<Answer, Failure> {
    worker.forget_removed_endpoints();
    if pick.upstream.protocol == Protocol::Http1 {
        default_host(request.headers_mut(), pick.endpoint.address());
    }
    for attempt in 0.. {
        let kept_too = attempt < MAX_STALE;
        let (connection, kept) = worker.pool.connection(pick, kept_too).await?;
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
                _ if is_refused(error.error()) => return Err(Failure::StreamRefused),
                _ => return Err(Failure::UpstreamReset),
            },
        }
    }
    Err(Failure::UpstreamReset)
}

/// Whether the upstream promises that it did nothing (RFC 9113 §8.7): it refused the stream, or went away without it. One
/// that leaves in peace ends only the streams beyond the last that it says it has looked at (§6.8).
fn is_refused(error: &hyper::Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    cause.filter(|cause| cause.is_remote()).is_some_and(|cause| match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => cause.is_go_away(),
        _ => false,
    })
}
