//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderValue, Method, Request};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    config::Direction,
    counters::add,
    lm::{Call, Conversation, Reading, Watched},
    regulate::{Admission, Permit, Refusal},
    routing::Route,
    security::{Decision, Peer},
    telemetry::{Action, Failure, Proof, SpanRecord, unix_nano_now},
    traffic::{TraceContext, headers::PEER, outcome::Outcome, read_along::ReadAlong, serve::Worker},
    upstream::{Pick, Upstream},
};

/// What a client that left before the answer is booked as; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request under way.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    started: Instant,
    /// When it asked to be let in: a wait counts from here.
    asked: Instant,
    record: Option<SpanRecord>,
    permits: [Option<Permit>; 3],
    pick: Option<(Pick, Instant)>,
    model: Conversation,
    settled: bool,
}

impl Exchange {
    /// Begins; `upstream` is where the route sends the request, if anywhere.
    pub(crate) fn begin<B>(
        worker: &Rc<Worker>,
        route: Arc<Route>,
        upstream: Option<Arc<Upstream>>,
        request: &Request<B>,
    ) -> Self {
        let trace = TraceContext::next(request.headers(), &worker.workload.propagation, worker.workload.span_ratio);
        let record = SpanRecord {
            trace,
            route,
            upstream,
            start_unix_nano: unix_nano_now(),
            duration_ns: 0,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            tunnel: None,
            caller: request.headers().get(PEER).cloned(),
            proof: request
                .extensions()
                .get::<Arc<Peer>>()
                .map(|peer| Box::new(Proof { source: Some(peer.clone()), ..Proof::default() })),
            status: 0,
            action: Action::Admitted,
            failure: None,
            queue_wait_ns: 0,
            in_flight: 0,
            endpoint: None,
            retries: 0,
            response_bytes: 0,
            log: false,
            lm: None,
        };
        let started = Instant::now();
        Self {
            worker: worker.clone(),
            started,
            asked: started,
            record: Some(record),
            permits: [None, None, None],
            pick: None,
            model: Conversation::default(),
            settled: false,
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// When it asked to be let in.
    pub(crate) fn asked(&self) -> Instant {
        self.asked
    }

    /// It asks only now: until here its own client was waited for.
    pub(crate) fn asks_now(&mut self) {
        self.asked = Instant::now();
    }

    /// As [`Self::started`], in milliseconds since the Unix epoch.
    pub(crate) fn started_unix_ms(&self) -> u64 {
        self.seen().start_unix_nano / 1_000_000
    }

    pub(crate) fn trace(&self) -> &TraceContext {
        &self.seen().trace
    }

    /// Books an answer of the proxy's own that the route asks for.
    pub(crate) fn answered_here(mut self, status: u16) {
        let record = self.record();
        record.status = status;
        record.upstream = None;
        self.settled = true;
    }

    /// Books that rules let it pass.
    pub(crate) fn allowed(&mut self, decision: Option<Arc<Decision>>) {
        if decision.is_some() {
            self.proof().decision = decision;
        }
    }

    /// Books a request that may not do what it asks.
    pub(crate) fn denied(mut self, decision: Option<Arc<Decision>>, status: u16) {
        self.proof().decision = decision;
        let record = self.record();
        record.action = Action::Denied;
        record.status = status;
        self.settled = true;
    }

    /// Reads along what is asked of a model, where one is asked or tokens are limited.
    pub(crate) fn read_along<B>(&mut self, request: Request<B>) -> Request<ReadAlong<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let (counts_tokens, size) = (self.counts_tokens(), request.body().size_hint().exact());
        match self.model.begin(request.method(), request.uri().path(), size, counts_tokens) {
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

    /// What is known of the call to a model.
    pub(crate) fn call(&mut self) -> Option<&mut Call> {
        self.model.call.as_mut()
    }

    /// Holds places until the exchange ends.
    pub(crate) fn admitted(&mut self, places: [Option<Admission>; 3]) {
        let queued = places.iter().flatten().any(|place| place.queued);
        let permits = places.map(|place| place.map(|place| place.permit));
        let in_flight = permits.iter().flatten().map(|p| p.in_flight).max().unwrap_or(0);
        let wait = self.asked.elapsed();
        self.permits = permits;
        let record = self.record();
        record.in_flight = in_flight;
        if queued {
            record.action = Action::Queued;
            record.queue_wait_ns = nanos(wait);
        }
    }

    /// Books a request that policy turned away.
    pub(crate) fn shed(mut self, refusal: Refusal, status: u16) {
        let waited = self.asked.elapsed();
        add(&self.worker.workload.tally.shed, 1);
        self.model.refund();
        let record = self.record();
        record.action = Action::Shed(refusal);
        record.status = status;
        if matches!(refusal, Refusal::QueueTimeout | Refusal::Displaced) {
            record.queue_wait_ns = nanos(waited);
        }
        self.settled = true;
    }

    /// Books where it goes.
    pub(crate) fn picked(&mut self, pick: Pick) {
        self.record().endpoint = Some(pick.endpoint.clone());
        let in_flight = pick.endpoint.in_flight.load(std::sync::atomic::Ordering::Relaxed);
        if self.permits.iter().all(Option::is_none) {
            self.record().in_flight = in_flight;
        }
        self.pick = Some((pick, Instant::now()));
    }

    pub(crate) fn pick(&self) -> Option<&Pick> {
        self.pick.as_ref().map(|(pick, _)| pick)
    }

    /// Books who answers, as TLS has proved it.
    pub(crate) fn answered_by(&mut self, peer: Option<Arc<Peer>>) {
        if peer.is_some() {
            self.proof().destination = peer;
        }
    }

    /// Books an attempt that is followed by another one.
    pub(crate) fn retried(&mut self, outcome: Outcome) {
        self.record().retries += 1;
        self.upstream_said(outcome);
    }

    /// Books the head of the answer.
    pub(crate) fn answered(&mut self, status: u16, outcome: Outcome) {
        self.record().status = status;
        self.inform_local_limiter();
        self.upstream_said(outcome);
    }

    /// Books that a tunnel was opened, which is all the answer there is.
    pub(crate) fn opened(&mut self, status: u16) {
        self.answered(status, Outcome::opened(status));
    }

    /// Books a failure before an answer; `status` is what the client is told.
    pub(crate) fn failed(mut self, failure: Failure, status: u16) {
        match failure {
            // one that was only too slow may have generated all the same
            Failure::UpstreamTimeout => self.model.keep(),
            _ => self.model.refund(),
        }
        self.record().failure = Some(failure);
        self.record().status = status;
        if failure == Failure::RequestTooSlow {
            add(&self.worker.workload.tally.slow_clients, 1);
        }
        if !failure.is_the_clients() {
            self.upstream_said(Outcome::Failed(failure));
        }
        self.settle(&Reading::Not);
        self.settled = true;
    }

    /// Books that it became a tunnel of `protocol`.
    pub(crate) fn tunnels(&mut self, protocol: HeaderValue) {
        self.record().tunnel = Some(Box::new(protocol));
    }

    /// Books bytes of the answer's body.
    pub(crate) fn chunk(&mut self, bytes: usize, watched: Watched) {
        self.record().response_bytes += bytes as u64;
        let started = self.started;
        self.model.heard(watched, || nanos(started.elapsed()));
    }

    /// The answer was passed on to its end.
    pub(crate) fn complete(mut self, reading: &Reading) {
        self.settle(reading);
        self.settled = true;
    }

    /// The answer broke off after its head was passed on.
    pub(crate) fn broken(mut self, failure: Failure, reading: &Reading) {
        self.settle(reading);
        self.record().failure = Some(failure);
        self.count_reset(failure);
        self.settled = true;
    }

    /// The client left before the answer's end.
    pub(crate) fn left(mut self, reading: &Reading) {
        self.settle(reading);
    }

    /// Books what a call to a model came to.
    fn settle(&mut self, reading: &Reading) {
        let SpanRecord { status, response_bytes, .. } = *self.seen();
        self.record().lm = self.model.settle(reading, status, response_bytes).map(Box::new);
    }

    /// The time to the head is what the local limiter steers by: a stream may last as long as it likes.
    fn inform_local_limiter(&self) {
        let (Some((_, since)), SpanRecord { route, in_flight, .. }) = (&self.pick, self.seen()) else { return };
        if route.direction == Direction::Inbound {
            self.worker.workload.latencies.observe(since.elapsed(), *in_flight);
        }
    }

    fn count_reset(&self, failure: Failure) {
        if let (Failure::UpstreamReset, Some(pick)) = (failure, self.pick()) {
            add(&pick.endpoint.stats.resets, 1);
        }
    }

    fn upstream_said(&mut self, outcome: Outcome) {
        // nobody was asked, so it says nothing of the endpoint that was asked before
        if outcome == Outcome::Failed(Failure::NoEndpoint) {
            return;
        }
        let Some((pick, since)) = &self.pick else { return };
        if let Outcome::Failed(failure) = outcome {
            self.count_reset(failure);
        }
        let now = Instant::now();
        pick.observe(now.duration_since(*since), outcome.asks_to_slow_down(), outcome.retry_after(), now);
        pick.upstream.observe(&pick.endpoint, outcome.verdict(), now);
        let failed = outcome.is_server_error();
        pick.upstream.circuit.observe(now, failed);
        self.seen().route.circuit.observe(now, failed);
    }

    fn proof(&mut self) -> &mut Proof {
        self.record().proof.get_or_insert_default()
    }

    fn seen(&self) -> &SpanRecord {
        self.record.as_ref().expect("taken only when dropped")
    }

    fn record(&mut self) -> &mut SpanRecord {
        self.record.as_mut().expect("taken only when dropped")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        let Some(mut record) = self.record.take() else { return };
        record.duration_ns = nanos(self.started.elapsed());
        if !self.settled {
            record.failure.get_or_insert(Failure::ClientDisconnected);
            if record.endpoint.is_none() {
                // it left while it waited for a place
                record.queue_wait_ns = nanos(self.asked.elapsed());
            }
            if record.status == 0 {
                record.status = CLIENT_CLOSED_REQUEST;
            }
        }
        record.route.stats.observe(&record);
        self.worker.workload.lm_stats.observe(&record);
        self.worker.recorder.record(record, &self.worker.workload.tally);
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
