//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.

use std::{rc::Rc, sync::Arc, time::Duration};

use http::{HeaderValue, Request};
use tokio::time::Instant;

use crate::{
    counters::add,
    regulate::Permit,
    telemetry::{Action, Failure, SpanRecord, Usage, unix_nano_now},
    traffic::{TraceContext, balance::Pick, headers::PEER, serve::Worker},
    workload::Route,
};

/// What a client that left before the answer is booked as; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// One request under way.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    started: Instant,
    record: Option<SpanRecord>,
    permits: [Option<Permit>; 2],
    pick: Option<(Pick, Instant)>,
    settled: bool,
}

impl Exchange {
    pub(crate) fn begin<B>(worker: &Rc<Worker>, route: Arc<Route>, request: &Request<B>) -> Self {
        let trace = TraceContext::next(request.headers(), worker.workload.span_ratio);
        let record = SpanRecord {
            trace,
            route,
            start_unix_nano: unix_nano_now(),
            duration_ns: 0,
            method: request.method().clone(),
            path: request.uri().path_and_query().cloned(),
            tunnel: None,
            caller: request.headers().get(PEER).cloned(),
            status: 0,
            action: Action::Admitted,
            failure: None,
            queue_wait_ns: 0,
            in_flight: 0,
            endpoint: None,
            response_bytes: 0,
            time_to_first_token_ns: None,
            usage: None,
        };
        let (worker, started) = (worker.clone(), Instant::now());
        Self { worker, started, record: Some(record), permits: [None, None], pick: None, settled: false }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    pub(crate) fn trace(&self) -> &TraceContext {
        &self.record.as_ref().expect("taken only when dropped").trace
    }

    /// Holds places until the exchange ends.
    pub(crate) fn admitted(&mut self, permits: [Option<Permit>; 2], queued: bool) {
        let in_flight = permits.iter().flatten().map(|p| p.in_flight).max().unwrap_or(0);
        let wait = self.started.elapsed();
        self.permits = permits;
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
        self.upstream_said(failed, status >= 500);
    }

    /// Books a failure; `status` is what the client is told.
    pub(crate) fn failed(&mut self, failure: Failure, status: u16) {
        self.record().failure = Some(failure);
        self.record().status = status;
        self.upstream_said(true, true);
    }

    /// Books a fault of the client's, of which the upstream is innocent.
    pub(crate) fn client_failed(mut self, failure: Failure, status: u16) {
        self.record().failure = Some(failure);
        self.record().status = status;
        self.settled = true;
    }

    /// Books that it became a tunnel of `protocol`.
    pub(crate) fn tunnels(&mut self, protocol: HeaderValue) {
        self.record().tunnel = Some(protocol);
    }

    /// The tunnel was closed because nothing moved in it.
    pub(crate) fn idle(mut self) {
        self.record().failure = Some(Failure::TunnelIdle);
        self.settled = true;
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
    pub(crate) fn broken(mut self) {
        self.record().failure = Some(Failure::UpstreamReset);
        self.settled = true;
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
