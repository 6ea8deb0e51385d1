//! [`Exchange`]: one request and its answer as they happen; when it ends, however it ends, it is
//! recorded, its place is given back and the endpoint's latency and the breaker learn of it.
//!
//! How it ends is an [`End`], and what follows from each is in [`Exchange::close`] alone. An exchange that is
//! dropped was left by its client, so that a cancelled future needs no care of its own.

mod steps;
#[cfg(test)]
mod tests;

use std::{rc::Rc, sync::Arc, time::Duration};

use http::Request;
use tokio::time::Instant;

use crate::{
    config::Direction,
    counters::{add, nanos},
    lm::{Conversation, Reading},
    regulate::{Age, Permit, Refusal},
    routing::Route,
    security::{Decision, Peer},
    telemetry::{Action, Failure, Proof, Said, SpanRecord, unix_nano_now},
    traffic::{TraceContext, client::Client, outcome::Outcome, serve::Worker, upload::Upload},
    upstream::{Pick, Upstream},
    workload::Workload,
};

/// What a client that left before the answer is booked as; nobody is sent it.
const CLIENT_CLOSED_REQUEST: u16 = 499;

/// 1 s: a client that gives up sooner is impatient, and says nothing of the endpoint's health.
const SILENCE: Duration = Duration::from_secs(1);

/// One request under way.
pub(crate) struct Exchange {
    worker: Rc<Worker>,
    started: Instant,
    /// When it asked to be let in: a wait counts from here.
    asked: Option<Instant>,
    /// Gone once it is closed.
    record: Option<SpanRecord>,
    permits: [Option<Permit>; 3],
    pick: Option<(Pick, Instant)>,
    /// While it waits for its answer, without a body of its own.
    age: Option<Age>,
    awaited: Awaited,
    upload: Option<Rc<Upload>>,
    model: Conversation,
}

/// What the upstream has still to say before it can be judged.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Awaited {
    Head,
    /// gRPC says at the end how it went.
    Trailers,
    Nothing,
}

/// How an exchange ends.
#[derive(Debug)]
pub(crate) enum End<'a> {
    /// The route has the answer itself.
    Here { status: u16 },
    /// No route has the say on it.
    Rejected { reason: &'static str, status: u16 },
    /// It may not do what it asks.
    Denied { decision: Option<Arc<Decision>>, status: u16 },
    /// Policy turned it away.
    Shed { refusal: Refusal, status: u16 },
    /// There was no answer; `status` is what the client is told.
    Failed { failure: Failure, status: u16 },
    /// The answer was passed on to its end.
    Complete(&'a Reading),
    /// The answer broke off after its head was passed on.
    Broken { failure: Failure, reading: &'a Reading },
    /// The client left before the end.
    Left(&'a Reading),
}

impl Exchange {
    /// Begins; `upstream` is where the route sends the client's request, if anywhere.
    pub(crate) fn begin<B>(
        worker: &Rc<Worker>,
        route: Arc<Route>,
        upstream: Option<Arc<Upstream>>,
        client: &Client,
        request: &Request<B>,
    ) -> Self {
        let headers = request.headers();
        let Workload { propagation, sampler, tally, .. } = &*worker.workload;
        let mut trace = TraceContext::next(headers, propagation, sampler);
        match (trace.sampled, trace.decided_here) {
            (true, _) => {}
            (false, true) => add(&tally.unsampled_here, 1),
            (false, false) => add(&tally.unsampled_by_caller, 1),
        }
        let mut said = Said::default();
        // what the client says is copied where somebody will read it, and only there
        if worker.recorder.may_want(trace.sampled) {
            trace.keep_state(headers, sampler);
            let address = client.name.to_str().unwrap_or_default();
            said = Said::of(request, address, route.direction == Direction::Inbound);
        }
        let proof = |peer: &Arc<Peer>| Box::new(Proof { source: Some(peer.clone()), ..Proof::default() });
        let record = SpanRecord {
            trace,
            route,
            upstream,
            start_unix_nano: unix_nano_now(),
            duration_ns: 0,
            method: request.method().clone(),
            said,
            tunnel: None,
            proof: request.extensions().get::<Arc<Peer>>().map(proof),
            status: 0,
            grpc_status: None,
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
        Self {
            worker: worker.clone(),
            started: Instant::now(),
            asked: None,
            record: Some(record),
            permits: [None, None, None],
            pick: None,
            age: None,
            awaited: Awaited::Head,
            upload: None,
            model: Conversation::default(),
        }
    }

    pub(crate) fn started(&self) -> Instant {
        self.started
    }

    /// As [`Self::started`], in milliseconds since the Unix epoch.
    pub(crate) fn started_unix_ms(&self) -> u64 {
        self.seen().start_unix_nano / 1_000_000
    }

    pub(crate) fn trace(&self) -> &TraceContext {
        &self.seen().trace
    }

    pub(crate) fn pick(&self) -> Option<&Pick> {
        self.pick.as_ref().map(|(pick, _)| pick)
    }

    /// Ends it.
    pub(crate) fn end(mut self, end: End<'_>) {
        self.close(end);
    }

    fn close(&mut self, end: End<'_>) {
        if self.record.is_none() {
            return;
        }
        match end {
            End::Here { status } => {
                self.record().status = status;
                self.record().upstream = None;
            }
            End::Rejected { reason, status } => {
                self.record().action = Action::Rejected(reason);
                self.record().status = status;
            }
            End::Denied { decision, status } => {
                self.proof().decision = decision;
                self.record().action = Action::Denied;
                self.record().status = status;
            }
            End::Shed { refusal, status } => self.shed(refusal, status),
            End::Failed { failure, status } => self.failed(failure, status),
            End::Complete(reading) => {
                self.judge_without_trailers(None);
                self.settle(reading);
            }
            End::Broken { failure, reading } => {
                self.settle(reading);
                self.record().failure = Some(failure);
                self.count_reset(failure);
                self.judge_without_trailers(Some(failure));
            }
            End::Left(reading) => self.left(reading),
        }
        self.book();
    }

    fn shed(&mut self, refusal: Refusal, status: u16) {
        add(&self.worker.workload.tally.shed, 1);
        self.model.refund();
        let waited = matches!(refusal, Refusal::QueueTimeout | Refusal::Displaced).then(|| self.waited_ns());
        let record = self.record();
        record.action = Action::Shed(refusal);
        record.status = status;
        record.queue_wait_ns = waited.unwrap_or_default();
    }

    fn failed(&mut self, failure: Failure, status: u16) {
        match failure {
            // one that was only too slow may have generated all the same
            Failure::UpstreamTimeout => {
                self.model.keep();
                self.inform_local_limiter();
            }
            _ => self.model.refund(),
        }
        self.record().failure = Some(failure);
        self.record().status = status;
        if failure == Failure::RequestTooSlow {
            add(&self.worker.workload.tally.slow_clients, 1);
        }
        match failure {
            failure if failure.is_the_clients() => {}
            Failure::UpstreamTimeout if !self.had_its_time() => self.given_up(),
            _ => self.upstream_said(Outcome::Failed(failure)),
        }
        self.settle(&Reading::Not);
    }

    fn left(&mut self, reading: &Reading) {
        let answered = self.seen().status > 0;
        if !answered {
            self.model.left(self.pick.is_some());
            self.record().status = CLIENT_CLOSED_REQUEST;
        }
        if self.awaited == Awaited::Head {
            self.given_up();
        }
        self.settle(reading);
        self.record().failure.get_or_insert(Failure::ClientDisconnected);
    }

    /// Before the head: one that waited in our queue says so, one that waited for an endpoint says something of that.
    fn given_up(&mut self) {
        let Some((pick, since)) = &self.pick else {
            self.record().queue_wait_ns = self.waited_ns();
            return;
        };
        let (Some(since), now) = (self.owed_since(*since), Instant::now()) else { return };
        let silent = pick.given_up(since, now);
        if silent && now.duration_since(since) >= SILENCE {
            self.upstream_said(Outcome::Failed(Failure::UpstreamTimeout));
        }
    }

    /// Whether the endpoint had the request for at least half of what an attempt may take. Of what a wait in our own queue or attempts
    /// elsewhere left of the timeout, no endpoint is to blame for the rest.
    fn had_its_time(&self) -> bool {
        let Some((_, since)) = &self.pick else { return false };
        let Route { timeout, retries, .. } = &*self.seen().route;
        let longest = retries.as_ref().and_then(|policy| policy.per_try).map_or(*timeout, |own| own.min(*timeout));
        self.owed_since(*since).is_some_and(|since| since.elapsed() >= longest / 2)
    }

    /// Since when an endpoint that was picked at `since` owes an answer; nothing while the client's own body is waited for.
    fn owed_since(&self, since: Instant) -> Option<Instant> {
        self.upload.as_ref().map_or(Some(since), |upload| Some(upload.quiet_since()?.max(since)))
    }

    /// Books what a call to a model came to.
    fn settle(&mut self, reading: &Reading) {
        let SpanRecord { status, response_bytes, .. } = *self.seen();
        let lm = self.model.settle(reading, status, response_bytes);
        add(&self.worker.workload.tally.lm_unread, lm.is_some_and(|lm| lm.compressed).into());
        self.record().lm = lm.map(Box::new);
    }

    fn book(&mut self) {
        self.aged();
        let Some(mut record) = self.record.take() else { return };
        record.duration_ns = nanos(self.started.elapsed());
        record.route.stats.observe(&record);
        self.worker.workload.lm_stats.observe(&record);
        self.worker.recorder.record(record, &self.worker.workload.tally);
    }

    /// Since it asked to be let in; one that was not asked yet has not waited.
    fn waited_ns(&self) -> u64 {
        self.asked.map_or(0, |asked| nanos(asked.elapsed()))
    }

    fn proof(&mut self) -> &mut Proof {
        self.record().proof.get_or_insert_default()
    }

    fn seen(&self) -> &SpanRecord {
        self.record.as_ref().expect("taken only when closed")
    }

    fn record(&mut self) -> &mut SpanRecord {
        self.record.as_mut().expect("taken only when closed")
    }
}

impl Drop for Exchange {
    fn drop(&mut self) {
        self.close(End::Left(&Reading::Not));
    }
}
