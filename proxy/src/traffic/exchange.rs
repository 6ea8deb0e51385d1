//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.

use std::{rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{Method, Request};
use http_body::Body;
use tokio::time::Instant;

use crate::{
    config::Direction,
    counters::add,
    lm::{Call, Operation, Pace, Reading, Watched},
    regulate::{Admission, Permit, Refusal},
    telemetry::{Action, Failure, SpanRecord, unix_nano_now},
    traffic::{TraceContext, balance::Pick, headers::PEER, read_along::ReadAlong, serve::Worker},
    workload::Route,
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
    permits: [Option<Permit>; 2],
    pick: Option<(Pick, Instant)>,
    call: Option<Call>,
    pace: Pace,
    settled: bool,
}

impl Exchange {
    pub(crate) fn begin<B>(worker: &Rc<Worker>, route: Arc<Route>, request: &Request<B>) -> Self {
        let trace = TraceContext::next(request.headers(), &worker.workload.propagation, worker.workload.span_ratio);
        let record = SpanRecord {
            trace,
            route,
            start_unix_nano: unix_nano_now(),
            duration_ns: 0,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            caller: request.headers().get(PEER).cloned(),
            status: 0,
            action: Action::Admitted,
            failure: None,
            queue_wait_ns: 0,
            in_flight: 0,
            endpoint: None,
            response_bytes: 0,
            log: false,
            lm: None,
        };
        let (worker, started) = (worker.clone(), Instant::now());
        Self {
            worker,
            started,
            asked: started,
            record: Some(record),
            permits: [None, None],
            pick: None,
            call: None,
            pace: Pace::default(),
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
        self.record.as_ref().expect("taken only when dropped").start_unix_nano / 1_000_000
    }

    pub(crate) fn trace(&self) -> &TraceContext {
        &self.record.as_ref().expect("taken only when dropped").trace
    }

    /// Reads along what is asked of a model, where one is asked or tokens are limited.
    pub(crate) fn read_along<B>(&mut self, request: Request<B>) -> Request<ReadAlong<B>>
    where
        B: Body<Data = Bytes> + Unpin,
    {
        let operation = Operation::of(request.uri().path()).filter(|_| request.method() == Method::POST);
        if operation.is_none() && !self.counts_tokens() {
            return request.map(ReadAlong::Plain);
        }
        let call = Call::new(operation, request.body().size_hint().exact());
        let asked = call.asked.clone();
        self.call = Some(call);
        request.map(|body| ReadAlong::watched(body, asked))
    }

    /// Whether a budget of tokens applies: models are asked by POST, and a list of them costs none.
    pub(crate) fn counts_tokens(&self) -> bool {
        let Some(record) = self.record.as_ref().filter(|record| record.method == Method::POST) else { return false };
        let of_service = record.route.direction == Direction::Inbound && self.worker.workload.gate.tokens.is_armed();
        of_service || record.route.gate.tokens.is_armed()
    }

    /// What is known of the call to a model.
    pub(crate) fn call(&mut self) -> Option<&mut Call> {
        self.call.as_mut()
    }

    /// Holds places until the exchange ends.
    pub(crate) fn admitted(&mut self, places: [Option<Admission>; 2]) {
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
        self.refund();
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
        self.record().endpoint = Some(pick.index);
        let in_flight = pick.endpoint().in_flight.load(std::sync::atomic::Ordering::Relaxed);
        if self.permits.iter().all(Option::is_none) {
            self.record().in_flight = in_flight;
        }
        self.pick = Some((pick, Instant::now()));
    }

    pub(crate) fn pick(&self) -> Option<&Pick> {
        self.pick.as_ref().map(|(pick, _)| pick)
    }

    /// Books the head of the answer.
    pub(crate) fn answered(&mut self, status: u16) {
        self.record().status = status;
        let failed = status == 503 || status == 429;
        self.inform_local_limiter();
        self.upstream_said(failed, status >= 500);
    }

    /// Books a failure; `status` is what the client is told.
    pub(crate) fn failed(&mut self, failure: Failure, status: u16) {
        match (failure, &mut self.call) {
            // one that was only too slow may have generated all the same
            (Failure::UpstreamTimeout, Some(call)) => call.keep(),
            _ => self.refund(),
        }
        self.record().failure = Some(failure);
        self.record().status = status;
        if let (Failure::UpstreamReset, Some(pick)) = (failure, self.pick()) {
            add(&pick.endpoint().stats.resets, 1);
        }
        self.upstream_said(true, true);
    }

    /// Books bytes of the answer's body.
    pub(crate) fn chunk(&mut self, bytes: usize, watched: Watched) {
        self.record().response_bytes += bytes as u64;
        if watched.data {
            self.pace.note(watched, nanos(self.started.elapsed()));
        }
    }

    /// The answer was passed on to its end.
    pub(crate) fn complete(mut self, reading: &Reading) {
        self.settle(reading);
        self.settled = true;
    }

    /// The answer broke off after its head was passed on.
    pub(crate) fn broken(mut self, reading: &Reading) {
        self.settle(reading);
        self.record().failure = Some(Failure::UpstreamReset);
        if let Some(pick) = self.pick() {
            add(&pick.endpoint().stats.resets, 1);
        }
        self.settled = true;
    }

    /// The client left before the answer's end.
    pub(crate) fn left(mut self, reading: &Reading) {
        self.settle(reading);
    }

    /// Books what a call to a model came to.
    fn settle(&mut self, reading: &Reading) {
        let SpanRecord { status, response_bytes, .. } = *self.record();
        if let Some(call) = &mut self.call {
            call.settle(reading.answer(), status, response_bytes);
        }
        let lm = self.pace.record(self.call.as_ref(), reading);
        self.record().lm = lm.map(Box::new);
    }

    fn refund(&mut self) {
        if let Some(call) = &mut self.call {
            call.refund();
        }
    }

    /// The time to the head is what the local limiter steers by: a stream may last as long as it likes.
    fn inform_local_limiter(&self) {
        let (Some((_, since)), Some(record)) = (&self.pick, &self.record) else { return };
        if record.route.direction == Direction::Inbound {
            self.worker.workload.latencies.observe(since.elapsed(), record.in_flight);
        }
    }

    fn upstream_said(&mut self, slow_down: bool, failed: bool) {
        let Some((pick, since)) = &self.pick else { return };
        let now = Instant::now();
        pick.observe(now.duration_since(*since), slow_down || failed, now);
        if let Some(record) = &self.record {
            pick.upstream.circuit.observe(now, failed);
            record.route.circuit.observe(now, failed);
        }
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
