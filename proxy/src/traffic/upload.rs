//! [`Upload`]: a request's body on its way, as the exchange sees it; [`Watch`]: what it is held to.

use std::{
    cell::{Cell, RefCell},
    pin::Pin,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    task::{Context, Poll, Waker, ready},
    time::Duration,
};

use bytes::Bytes;
use futures::task::AtomicWaker;
use http_body::{Body, Frame};
use hyper::body::Incoming;
use tokio::time::{Instant, Sleep};

use crate::{
    regulate::{Age, Latencies},
    telemetry::Failure,
    traffic::body::BodyError,
    workload::Workload,
};

/// 1 s: upstreams that know nothing of `Expect` answer nothing to it, and then the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// A body on its way, as the exchange sees it.
#[derive(Debug)]
pub(crate) struct Upload {
    /// What the client did wrong.
    fault: Cell<Option<Failure>>,
    /// All of it was handed on.
    ended: Cell<bool>,
    /// Nobody wants the rest.
    over: Cell<bool>,
    /// When something of it was last handed on.
    moved: Cell<Instant>,
    /// The client is waited for.
    awaited: Cell<bool>,
    body: RefCell<Option<Waker>>,
    /// From the end of the body until the answer comes, and where that is to be noted.
    age: RefCell<Option<Age>>,
    noted: RefCell<Option<Arc<Latencies>>>,
}

/// Set when the upstream said `100 Continue`.
#[derive(Debug, Default)]
pub(crate) struct Continue {
    said: AtomicBool,
    body: AtomicWaker,
}

/// What a body is held to.
pub(crate) struct Watch {
    pub(super) upload: Rc<Upload>,
    left_bytes: u64,
    idle: Duration,
    pace: Option<Pace>,
    /// Runs while the client is waited for.
    timer: Pin<Box<Sleep>>,
    wanted: Option<Arc<Continue>>,
}

/// A least rate: waiting for the client may take the grace and what its bytes so far have earned.
struct Pace {
    bytes_per_s: u64,
    grace: Duration,
    budget: Duration,
    since: Option<Instant>,
}

impl Upload {
    pub(super) fn new() -> Self {
        let (ended, over, awaited) = (Cell::new(false), Cell::new(false), Cell::new(false));
        Self {
            fault: Cell::new(None),
            ended,
            over,
            moved: Cell::new(Instant::now()),
            awaited,
            body: RefCell::new(None),
            age: RefCell::new(None),
            noted: RefCell::new(None),
        }
    }

    /// Its answer is waited for as soon as all of it was handed on.
    pub(crate) fn ages(&self, latencies: &Arc<Latencies>) {
        *self.noted.borrow_mut() = Some(latencies.clone());
        self.ends(self.ended.get());
    }

    /// No answer is waited for any more.
    pub(crate) fn aged(&self) {
        self.noted.take();
        self.age.take();
    }

    fn ends(&self, ended: bool) {
        self.ended.set(ended);
        if let Some(latencies) = ended.then(|| self.noted.take()).flatten() {
            *self.age.borrow_mut() = latencies.begin(Instant::now());
        }
    }

    /// Since when it is the upstream's turn; `None` while the client is waited for.
    pub(crate) fn quiet_since(&self) -> Option<Instant> {
        (!self.awaited.get()).then(|| self.moved.get())
    }

    /// `end`, or later: `longest` begins anew with all that the client sends.
    pub(crate) fn after(upload: Option<&Self>, end: Instant, longest: Duration) -> Instant {
        let turn = |upload: &Self| upload.quiet_since().unwrap_or_else(Instant::now);
        upload.map_or(end, |upload| end.max(turn(upload) + longest))
    }

    /// Why it ended early, if that was the client's fault.
    pub(crate) fn fault(&self) -> Option<Failure> {
        self.fault.get()
    }

    pub(super) fn moved(&self) {
        self.awaited.set(false);
        self.moved.set(Instant::now());
    }

    /// There is an answer, so what is missing of the body is not wanted any more. Whether all was sent:
    /// otherwise the connection to the upstream is of no further use.
    pub(crate) fn finish(&self) -> bool {
        self.over.set(true);
        if let Some(body) = self.body.take() {
            body.wake();
        }
        self.ended.get()
    }
}

impl Continue {
    pub(crate) fn say(&self) {
        self.said.store(true, Relaxed);
        self.body.wake();
    }
}

impl Watch {
    pub(super) fn new(workload: &Workload, announced: bool) -> Self {
        let (http, timeouts) = (&workload.http, &workload.timeouts);
        let grace = timeouts.header_read();
        let pace = Pace { bytes_per_s: http.min_body_bytes_per_s, grace, budget: grace, since: None };
        Self {
            upload: Rc::new(Upload::new()),
            left_bytes: http.max_body_bytes.unwrap_or(u64::MAX),
            idle: timeouts.body_idle(),
            pace: (announced && http.min_body_bytes_per_s > 0).then_some(pace),
            timer: Box::pin(tokio::time::sleep(CONTINUE_WAIT)),
            wanted: None,
        }
    }

    /// Nothing of the body passes until the upstream wants it, or says nothing for too long.
    pub(super) fn hold_back(&mut self) -> Arc<Continue> {
        self.timer.as_mut().reset(Instant::now() + CONTINUE_WAIT);
        self.wanted.insert(Arc::default()).clone()
    }

    /// Pending until the upstream wants the body; an error when nobody does any more.
    pub(super) fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BodyError>> {
        if self.upload.over.get() {
            return Poll::Ready(Err(BodyError::Unwanted(h2::Reason::CANCEL.into())));
        }
        self.upload.body.replace(Some(cx.waker().clone()));
        let Some(wanted) = &self.wanted else { return Poll::Ready(Ok(())) };
        wanted.body.register(cx.waker());
        if !wanted.said.load(Relaxed) {
            ready!(self.timer.as_mut().poll(cx));
        }
        self.wanted = None;
        Poll::Ready(Ok(()))
    }

    /// The client keeps us waiting; ready when it was for too long.
    pub(super) fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.upload.awaited.replace(true) {
            let now = Instant::now();
            let pace = self.pace.as_mut().map(|pace| {
                pace.since = Some(now);
                pace.budget
            });
            self.timer.as_mut().reset(now + pace.map_or(self.idle, |budget| budget.min(self.idle)));
        }
        self.timer.as_mut().poll(cx)
    }

    /// A frame came; `rest` is what is still to come.
    pub(super) fn arrived(&mut self, frame: Frame<Bytes>, rest: &Incoming) -> Result<Frame<Bytes>, BodyError> {
        let bytes = frame.data_ref().map_or(0, Bytes::len);
        self.upload.moved();
        if let Some(pace) = &mut self.pace {
            let waited = pace.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            let earned = Duration::from_secs_f64(bytes as f64 / pace.bytes_per_s as f64);
            // a client that was fast for long may not be silent for long
            pace.budget = (pace.budget.saturating_sub(waited) + earned).min(pace.grace);
        }
        match self.left_bytes.checked_sub(bytes as u64) {
            Some(left) => self.left_bytes = left,
            None => return Err(self.broken(Failure::RequestTooLarge)),
        }
        self.upload.ends(rest.is_end_stream());
        Ok(frame)
    }

    /// All of it has come.
    pub(super) fn ended(&self) {
        self.upload.moved();
        self.upload.ends(true);
    }

    /// Notes a fault of the client's.
    pub(super) fn broken(&self, fault: Failure) -> BodyError {
        self.upload.fault.set(Some(fault));
        BodyError::OfClient(fault)
    }
}
