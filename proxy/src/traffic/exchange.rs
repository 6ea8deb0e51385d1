//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.

mod steps;

use std::{rc::Rc, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;

use crate::{
    counters::add,
    lm::{Conversation, Reading},
    regulate::{Permit, Refusal},
    routing::Route,
    security::{Decision, Peer},
    telemetry::{Action, Failure, Proof, SpanRecord, unix_nano_now},
    traffic::{TraceContext, headers::PEER, outcome::Outcome, serve::Worker},
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

    /// Books a request that may not do what it asks.
    pub(crate) fn denied(mut self, decision: Option<Arc<Decision>>, status: u16) {
        self.proof().decision = decision;
        let record = self.record();
        record.action = Action::Denied;
        record.status = status;
        self.settled = true;
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

    pub(crate) fn pick(&self) -> Option<&Pick> {
        self.pick.as_ref().map(|(pick, _)| pick)
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
