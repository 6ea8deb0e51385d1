//! What happens to an exchange on its way: let in, sent, answered, perhaps again; each step is booked, and who
//! has to learn of it does.

use std::{
    rc::Rc,
    sync::{Arc, atomic::Ordering::Relaxed},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request};
use http_body::Body;
use tokio::time::Instant;

use super::{Awaited, Exchange};
use crate::{
    config::Direction,
    counters::{add, nanos},
    lm::{Call, Watched},
    regulate::Admission,
    security::{Decision, Peer},
    telemetry::{Action, Failure, SpanRecord},
    traffic::{outcome::Outcome, read_along::ReadAlong, upload::Upload},
    upstream::Pick,
};

impl Exchange {
    /// Takes note of the request's body, if it has one.
    pub(crate) fn uploads(&mut self, upload: Option<Rc<Upload>>) {
        self.upload = upload;
    }

    pub(crate) fn upload(&self) -> Option<Rc<Upload>> {
        self.upload.clone()
    }

    /// It asks to be let in; until here its own client, a key of a token or a fault was waited for.
    pub(crate) fn asks_now(&mut self) -> Instant {
        *self.asked.insert(Instant::now())
    }

    /// Books that rules let it pass.
    pub(crate) fn allowed(&mut self, decision: Option<Arc<Decision>>) {
        if decision.is_some() {
            self.proof().decision = decision;
        }
    }

    /// Reads along what is asked of a model, where one is asked or tokens are limited.
    pub(crate) fn read_along<B>(&mut self, request: Request<B>) -> Request<ReadAlong<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let counts_tokens = self.counts_tokens();
        match self.model.begin(&request, counts_tokens) {
            Some(call) => request.map(|body| ReadAlong::watched(body, call.asked.clone())),
            None => request.map(ReadAlong::Plain),
        }
    }

    /// Whether a budget of tokens applies: models are asked by POST, and a list of them costs none.
    pub(crate) fn counts_tokens(&self) -> bool {
        let SpanRecord { route, method, .. } = self.seen();
        let of_service = route.direction == Direction::Inbound && self.worker.workload.gate.tokens.is_armed();
        *method == Method::POST && (of_service || route.gate.tokens.is_armed())
    }

    /// Whether its answer is to be read as a model's.
    pub(crate) fn asks_a_model(&self) -> bool {
        self.model.call.is_some()
    }

    /// What is known of the call to a model.
    pub(crate) fn call(&mut self) -> Option<&mut Call> {
        self.model.call.as_mut()
    }

    /// Holds places until the exchange ends.
    pub(crate) fn admitted(&mut self, places: [Option<Admission>; 3]) {
        let queued = places.iter().flatten().any(|place| place.queued);
        let permits = places.map(|place| place.map(|place| place.permit));
        let in_flight = permits.iter().flatten().map(|p| p.in_flight).max().unwrap_or(0);
        let wait_ns = if queued { self.waited_ns() } else { 0 };
        self.permits = permits;
        let record = self.record();
        record.in_flight = in_flight;
        if queued {
            record.action = Action::Queued;
            record.queue_wait_ns = wait_ns;
        }
    }

    /// Books where it goes.
    pub(crate) fn picked(&mut self, pick: Pick) {
        self.record().endpoint = Some(pick.endpoint.clone());
        let in_flight = pick.endpoint.in_flight.load(Relaxed);
        if self.permits.iter().all(Option::is_none) {
            self.record().in_flight = in_flight;
        }
        self.pick = Some((pick, Instant::now()));
        self.awaited = Awaited::Head;
        self.age();
    }

    /// The local limiter sees how long it waits for its answer, from when all of it was sent: it is the upstream's turn then.
    fn age(&mut self) {
        if self.seen().route.direction == Direction::Inbound {
            let latencies = &self.worker.workload.latencies;
            match &self.upload {
                Some(upload) => upload.ages(latencies),
                None => self.age = latencies.begin(Instant::now()),
            }
        }
    }

    /// It waits no longer.
    pub(super) fn aged(&mut self) {
        self.age = None;
        self.upload.iter().for_each(|upload| upload.aged());
    }

    /// Books who answers, as TLS has proved it.
    pub(crate) fn answered_by(&mut self, peer: Option<Arc<Peer>>) {
        if peer.is_some() {
            self.proof().destination = peer;
        }
    }

    /// Books an attempt that is followed by another one.
    pub(crate) fn retried(&mut self, outcome: Outcome) {
        // until the next one is sent, nobody is waited for but the clock
        self.aged();
        self.record().retries += 1;
        self.upstream_said(outcome);
    }

    /// Books the head of the answer.
    pub(crate) fn answered(&mut self, status: u16, outcome: Outcome) {
        self.aged();
        self.record().status = status;
        self.record().grpc_status = outcome.grpc_status();
        // a refusal is mostly quick, and says nothing of how long work takes
        if status < 400 {
            self.inform_local_limiter();
        }
        self.upstream_said(outcome);
    }

    /// Books the head of an answer that says only in its trailers how it went.
    pub(crate) fn begun(&mut self, status: u16) {
        self.aged();
        self.record().status = status;
        self.inform_local_limiter();
        self.awaited = Awaited::Trailers;
        if let Some((pick, since)) = &self.pick {
            let now = Instant::now();
            pick.observe(now.duration_since(*since), false, None, now);
        }
    }

    /// Books the trailers of the answer.
    pub(crate) fn trailers(&mut self, trailers: &HeaderMap) {
        if self.awaited == Awaited::Trailers {
            let outcome = Outcome::trailed(self.seen().status, trailers);
            self.record().grpc_status = outcome.grpc_status();
            self.judge_late(outcome);
        }
    }

    /// Books that a tunnel was opened, which is all the answer there is.
    pub(crate) fn opened(&mut self, status: u16) {
        self.answered(status, Outcome::opened(status));
    }

    /// Books that it became a tunnel of `protocol`.
    pub(crate) fn tunnels(&mut self, protocol: &HeaderValue) {
        self.record().tunnel = protocol.to_str().ok().map(Into::into);
    }

    /// Books bytes of the answer's body.
    pub(crate) fn chunk(&mut self, bytes: usize, watched: Watched) {
        self.record().response_bytes += bytes as u64;
        let started = self.started;
        self.model.heard(watched, || nanos(started.elapsed()));
    }

    /// The time to the head is what the local limiter steers by: a stream may last as long as it likes.
    pub(super) fn inform_local_limiter(&self) {
        let (Some((_, since)), SpanRecord { route, in_flight, .. }) = (&self.pick, self.seen()) else { return };
        if route.direction == Direction::Inbound {
            self.worker.workload.latencies.observe(since.elapsed(), *in_flight);
        }
    }

    pub(super) fn upstream_said(&mut self, outcome: Outcome) {
        // where nobody was asked, it says nothing of the endpoint that was asked before
        if matches!(outcome, Outcome::Failed(failure) if failure.is_nobodys()) {
            return;
        }
        let Some((pick, since)) = &self.pick else { return };
        if let Outcome::Failed(failure) = outcome {
            self.count_reset(failure);
        }
        let now = Instant::now();
        pick.observe(now.duration_since(*since), outcome.asks_to_slow_down(), outcome.rest(), now);
        self.judge(outcome, now);
    }

    /// The answer has ended, or broken off, and no trailers said how it went.
    pub(super) fn judge_without_trailers(&mut self, broken: Option<Failure>) {
        if self.awaited == Awaited::Trailers {
            self.judge_late(broken.map_or(Outcome::opened(self.seen().status), Outcome::Failed));
        }
    }

    /// What was taken for a success at its head may be a failure at its end.
    fn judge_late(&mut self, outcome: Outcome) {
        let now = Instant::now();
        if let Some((pick, _)) = self.pick.as_ref().filter(|_| outcome.asks_to_slow_down()) {
            pick.failed(now);
        }
        self.judge(outcome, now);
    }

    fn judge(&mut self, outcome: Outcome, now: Instant) {
        self.awaited = Awaited::Nothing;
        let Some((pick, _)) = &self.pick else { return };
        pick.upstream.observe(&pick.endpoint, outcome.verdict(), now);
        let failed = outcome.is_server_error();
        pick.upstream.circuit.observe(now, failed);
        self.seen().route.circuit.observe(now, failed);
    }

    pub(super) fn count_reset(&self, failure: Failure) {
        if let (Failure::UpstreamReset, Some(pick)) = (failure, self.pick()) {
            add(&pick.endpoint.stats.resets, 1);
        }
    }
}
