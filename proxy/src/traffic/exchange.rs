//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;

use crate::{
    counters::add,
    regulate::{Admission, Permit},
    routing::Route,
    telemetry::{Action, Failure, SpanRecord, Usage, unix_nano_now},
    traffic::{TraceContext, headers::PEER, outcome::Outcome, serve::Worker},
    upstream::{Pick, Upstream},
};

/// What a client that left before the answer is booked as; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request under way.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    started: Instant,
    record: Option<SpanRecord>,
    permits: [Option<Permit>; 3],
    pick: Option<(Pick, Instant)>,
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
        let trace = TraceContext::next(request.headers(), worker.workload.span_ratio);
        let record = SpanRecord {
            trace,
            route,
            upstream,
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
            retries: 0,
            response_bytes: 0,
            time_to_first_token_ns: None,
            usage: None,
        };
        let (worker, started) = (worker.clone(), Instant::now());
        Self { worker, started, record: Some(record), permits: [None, None, None], pick: None, settled: false }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn trace(&self) -> &TraceContext {
        &self.record.as_ref().expect("taken only when dropped").trace
    }

    /// Books an answer of the proxy's own that the route asks for.
    pub(crate) fn answered_here(mut self, status: u16) {
        let record = self.record();
        record.status = status;
        record.upstream = None;
        self.settled = true;
    }

    /// Holds places until the exchange ends.
    pub(crate) fn admitted(&mut self, places: [Option<Admission>; 3]) {
        let queued = places.iter().flatten().any(|place| place.queued);
        let in_flight = places.iter().flatten().map(|place| place.permit.in_flight).max().unwrap_or(0);
        let wait = self.started.elapsed();
        self.permits = places.map(|place| place.map(|place| place.permit));
        let record = self.record();
        record.in_flight = in_flight;
        if queued {
            record.action = Action::Queued;
            record.queue_wait_ns = nanos(wait);
        }
    }

    /// Books a request that policy turned away.
    pub(crate) fn shed(mut self, refusal: crate::regulate::Refusal, status: u16) {
        let waited = self.started.elapsed();
        add(&self.worker.workload.tally.shed, 1);
        let record = self.record();
        record.action = Action::Shed(refusal);
        record.status = status;
        if refusal == crate::regulate::Refusal::QueueTimeout {
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

    /// Books an attempt that is followed by another one.
    pub(crate) fn retried(&mut self, outcome: Outcome) {
        self.record().retries += 1;
        self.upstream_said(outcome);
    }

    /// Books the head of the answer.
    pub(crate) fn answered(&mut self, status: u16, outcome: Outcome) {
        self.record().status = status;
        self.upstream_said(outcome);
    }

    /// Books a failure; `status` is what the client is told.
    pub(crate) fn failed(&mut self, failure: Failure, status: u16) {
        self.record().failure = Some(failure);
        self.record().status = status;
        self.upstream_said(Outcome::Failed(failure));
    }

    /// Books bytes of the answer's body.
    pub(crate) fn chunk(&mut self, bytes: usize, first_token: bool) {
        let elapsed = nanos(self.started.elapsed());
        let record = self.record();
        record.response_bytes += bytes as u64;
        if first_token && record.time_to_first_token_ns.is_none() {
            record.time_to_first_token_ns = Some(elapsed);
        }
    }

    /// The answer was passed on to its end.
    pub(crate) fn complete(mut self, usage: Option<Usage>) {
        self.record().usage = usage;
        self.settled = true;
    }

    /// The answer broke off after its head was passed on.
    pub(crate) fn broken(mut self, failure: Failure) {
        self.record().failure = Some(failure);
        self.settled = true;
    }

    fn upstream_said(&mut self, outcome: Outcome) {
        // nobody was asked, so it says nothing of the endpoint that was asked before
        if outcome == Outcome::Failed(Failure::NoEndpoint) {
            return;
        }
        let Some((pick, since)) = &self.pick else { return };
        let now = Instant::now();
        pick.observe(now.duration_since(*since), outcome.asks_to_slow_down(), outcome.retry_after(), now);
        pick.upstream.observe(&pick.endpoint, outcome.verdict(), now);
        let failed = outcome.is_server_error();
        pick.upstream.circuit.observe(now, failed);
        if let Some(record) = &self.record {
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
            if record.status == 0 {
                record.status = CLIENT_CLOSED_REQUEST;
            }
        }
        record.route.stats.observe(&record);
        if let Some(spans) = &self.worker.workload.spans {
            spans.send(record, &self.worker.workload.tally);
        }
    }
}

fn nanos(duration: Duration) -> u64 {
    u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX)
}
