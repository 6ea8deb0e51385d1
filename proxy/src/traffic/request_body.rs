//! [`RequestBody`]: the client's body as the upstream gets it: chunk by chunk, within its bounds of
//! size and time, and not before the upstream wants it when the client asked first.
//!
//! What ends it early is the client's fault, not the upstream's, so it is noted where the exchange can
//! look when the call fails. A request without a body costs nothing here.

use std::{
    cell::{Cell, RefCell},
    error::Error,
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
use http::{Request, StatusCode, Version, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, ext::on_informational};
use tokio::time::{Instant, Sleep};

use crate::{
    config::{Http, Timeouts},
    telemetry::Failure,
    workload::Workload,
};

/// 1 s: upstreams that know nothing of `Expect` answer nothing to it, and then the body is sent anyway.
const CONTINUE_WAIT: Duration = Duration::from_secs(1);

/// The body and what it is held to.
pub(crate) struct RequestBody {
    incoming: Incoming,
    watch: Option<Box<Watch>>,
}

/// A body on its way, as the exchange sees it.
#[derive(Debug, Default)]
pub(crate) struct Upload {
    /// What the client did wrong.
    fault: Cell<Option<Failure>>,
    /// All of it was handed on.
    ended: Cell<bool>,
    /// Nobody wants the rest.
    over: Cell<bool>,
    body: RefCell<Option<Waker>>,
}

/// Set when the upstream said `100 Continue`.
#[derive(Debug, Default)]
struct Continue {
    said: AtomicBool,
    body: AtomicWaker,
}

struct Watch {
    upload: Rc<Upload>,
    left_bytes: u64,
    idle: Duration,
    pace: Option<Pace>,
    /// Runs while the client is waited for.
    timer: Pin<Box<Sleep>>,
    waiting: bool,
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
    /// Why it ended early, if that was the client's fault.
    pub(crate) fn fault(&self) -> Option<Failure> {
        self.fault.get()
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
    fn say(&self) {
        self.said.store(true, Relaxed);
        self.body.wake();
    }
}

impl RequestBody {
    /// The request with its body held to its bounds, and back until the upstream wants it.
    pub(crate) fn hold(workload: &Workload, request: Request<Incoming>) -> (Request<Self>, Option<Rc<Upload>>) {
        let (parts, incoming) = request.into_parts();
        // over HTTP/2 hyper tells nothing of interim answers
        let asks_first = parts.version == Version::HTTP_11 && parts.headers.contains_key(EXPECT);
        let wanted = asks_first.then(Arc::<Continue>::default);
        let (body, upload) = Self::new(incoming, &workload.http, &workload.timeouts, wanted.clone());
        let mut request = Request::from_parts(parts, body);
        if let Some(wanted) = wanted {
            on_informational(&mut request, move |response| {
                if response.status() == StatusCode::CONTINUE {
                    wanted.say();
                }
            });
        }
        (request, upload)
    }

    /// Holds `incoming` to its bounds; with `wanted`, it waits for the upstream.
    fn new(
        incoming: Incoming,
        http: &Http,
        timeouts: &Timeouts,
        wanted: Option<Arc<Continue>>,
    ) -> (Self, Option<Rc<Upload>>) {
        if incoming.is_end_stream() {
            return (Self { incoming, watch: None }, None);
        }
        let announced = incoming.size_hint().exact().is_some() && http.min_body_bytes_per_s > 0;
        let grace = timeouts.header_read();
        let pace = Pace { bytes_per_s: http.min_body_bytes_per_s, grace, budget: grace, since: None };
        let upload = Rc::<Upload>::default();
        let watch = Watch {
            upload: upload.clone(),
            left_bytes: http.max_body_bytes.unwrap_or(u64::MAX),
            idle: timeouts.body_idle(),
            pace: announced.then_some(pace),
            timer: Box::pin(tokio::time::sleep(CONTINUE_WAIT)),
            waiting: false,
            wanted,
        };
        (Self { incoming, watch: Some(Box::new(watch)) }, Some(upload))
    }
}

impl Watch {
    /// Pending until the upstream wants the body.
    fn poll_wanted(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(wanted) = &self.wanted else { return Poll::Ready(()) };
        wanted.body.register(cx.waker());
        if !wanted.said.load(Relaxed) {
            ready!(self.timer.as_mut().poll(cx));
        }
        self.wanted = None;
        Poll::Ready(())
    }

    /// The client keeps us waiting; ready when it was for too long.
    fn poll_patience(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if !self.waiting {
            self.waiting = true;
            let now = Instant::now();
            let pace = self.pace.as_mut().map(|pace| {
                pace.since = Some(now);
                pace.budget
            });
            self.timer.as_mut().reset(now + pace.map_or(self.idle, |budget| budget.min(self.idle)));
        }
        self.timer.as_mut().poll(cx)
    }

    fn arrived(&mut self, bytes: usize) -> Result<(), Failure> {
        self.waiting = false;
        if let Some(pace) = &mut self.pace {
            let waited = pace.since.take().map_or(Duration::ZERO, |since| since.elapsed());
            let earned = Duration::from_secs_f64(bytes as f64 / pace.bytes_per_s as f64);
            // a client that was fast for long may not be silent for long
            pace.budget = (pace.budget.saturating_sub(waited) + earned).min(pace.grace);
        }
        let left = self.left_bytes.checked_sub(bytes as u64).ok_or(Failure::RequestTooLarge)?;
        self.left_bytes = left;
        Ok(())
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = Box<dyn Error + Send + Sync>;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Self::Error>>> {
        let Self { incoming, watch } = self.get_mut();
        let Some(watch) = watch else { return Pin::new(incoming).poll_frame(cx).map_err(Into::into) };
        if watch.upload.over.get() {
            return Poll::Ready(Some(Err(h2::Error::from(h2::Reason::CANCEL).into())));
        }
        watch.upload.body.replace(Some(cx.waker().clone()));
        ready!(watch.poll_wanted(cx));
        let (fault, error) = match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Pending => {
                ready!(watch.poll_patience(cx));
                (Failure::RequestTooSlow, Failure::RequestTooSlow.as_str().into())
            }
            Poll::Ready(Some(Ok(frame))) => match watch.arrived(frame.data_ref().map_or(0, Bytes::len)) {
                Ok(()) => {
                    watch.upload.ended.set(incoming.is_end_stream());
                    return Poll::Ready(Some(Ok(frame)));
                }
                Err(fault) => (fault, fault.as_str().into()),
            },
            // the error itself: it holds the code with which an HTTP/2 client reset its stream
            Poll::Ready(Some(Err(broken))) => (Failure::RequestMalformed, broken.into()),
            Poll::Ready(None) => {
                watch.upload.ended.set(true);
                return Poll::Ready(None);
            }
        };
        watch.upload.fault.set(Some(fault));
        Poll::Ready(Some(Err(error)))
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
