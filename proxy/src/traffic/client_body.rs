//! [`ClientBody`]: the client's body, frame by frame as it comes, within its bounds of size and time, and not
//! before the upstream wants it when the client asked first. Where a model is asked it is read as it
//! passes, and its start may be read before anything is sent.
//!
//! What ends it early is the client's fault, not the upstream's, so it is noted where the exchange can
//! look when the call fails. A request without a body costs nothing here.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, StatusCode, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, ext::on_informational};
use tokio::time::{Duration, Instant, timeout_at};

use crate::{
    lm::Asked,
    telemetry::Failure,
    traffic::{
        body::BodyError,
        upload::{Upload, Watch},
    },
    workload::Workload,
};

/// 64 KiB of a body are held back at most until the bounds of its answer are known.
const MAX_EARLY: usize = 64 * 1024;

/// 1 s for the start of a body: what a slow client has not sent by then is estimated without it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the client sends.
pub(crate) struct ClientBody {
    incoming: Incoming,
    /// Its bounds; none where there is no body.
    watch: Option<Box<Watch>>,
    reading: Option<Box<Reading>>,
}

/// What is read of it, and what was read before it was sent.
struct Reading {
    asked: Rc<RefCell<Asked>>,
    early: VecDeque<Frame<Bytes>>,
    early_bytes: usize,
    broken: Option<BodyError>,
}

type Polled = Poll<Option<Result<Frame<Bytes>, BodyError>>>;

impl ClientBody {
    /// Holds `incoming` to its bounds.
    pub(crate) fn new(incoming: Incoming, workload: &Workload) -> Self {
        let announced = incoming.size_hint().exact().is_some();
        let watch = (!incoming.is_end_stream()).then(|| Box::new(Watch::new(workload, announced)));
        Self { incoming, watch, reading: None }
    }

    /// How the exchange sees it on its way; nothing where there is no body.
    pub(crate) fn upload(&self) -> Option<Rc<Upload>> {
        self.watch.as_ref().map(|watch| watch.upload.clone())
    }

    /// Reads what is asked of a model into `asked` while it passes.
    pub(crate) fn read_along(&mut self, asked: Rc<RefCell<Asked>>) {
        let early = VecDeque::new();
        self.reading = Some(Box::new(Reading { asked, early, early_bytes: 0, broken: None }));
    }

    /// Reads the start before anything is sent, until it says how long the answer may be.
    pub(crate) async fn read_start(&mut self, give_up: Instant) {
        let until = give_up.min(Instant::now() + MAX_WAIT);
        while self.reading.as_ref().is_some_and(|reading| reading.wants_more()) {
            let frame = timeout_at(until, poll_fn(|cx| self.poll_client(cx))).await;
            let (Ok(Some(frame)), Some(reading)) = (frame, &mut self.reading) else { return };
            reading.keep(frame);
        }
    }

    fn poll_client(&mut self, cx: &mut Context<'_>) -> Polled {
        let Some(watch) = &mut self.watch else {
            return Pin::new(&mut self.incoming).poll_frame(cx).map_err(BodyError::from);
        };
        ready!(watch.poll_wanted(cx))?;
        let frame = match Pin::new(&mut self.incoming).poll_frame(cx) {
            Poll::Pending => {
                ready!(watch.poll_patience(cx));
                Some(Err(watch.broken(Failure::RequestTooSlow)))
            }
            Poll::Ready(Some(Ok(frame))) => Some(watch.arrived(frame, &self.incoming)),
            // the error itself: it holds the code with which an HTTP/2 client reset its stream
            Poll::Ready(Some(Err(broken))) => {
                watch.broken(Failure::RequestMalformed);
                Some(Err(broken.into()))
            }
            Poll::Ready(None) => {
                watch.ended();
                None
            }
        };
        if let (Some(Ok(frame)), Some(reading)) = (&frame, &self.reading)
            && let Some(chunk) = frame.data_ref()
        {
            reading.asked.borrow_mut().watch(chunk);
        }
        Poll::Ready(frame)
    }
}

/// Holds the body back until the upstream wants it, where the client asked for that. Over HTTP/2 hyper tells
/// nothing of interim answers.
pub(crate) fn hold_back(request: &mut Request<ClientBody>) {
    let unread = request.body().reading.as_ref().is_none_or(|reading| reading.is_empty());
    if !unread || !request.headers().contains_key(EXPECT) {
        return;
    }
    let Some(wanted) = request.body_mut().watch.as_mut().map(|watch| watch.hold_back()) else { return };
    on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            wanted.say();
        }
    });
}

impl Reading {
    fn wants_more(&self) -> bool {
        self.early_bytes < MAX_EARLY && self.broken.is_none() && self.asked.borrow().max_output_tokens().is_none()
    }

    fn keep(&mut self, frame: Result<Frame<Bytes>, BodyError>) {
        match frame {
            Ok(frame) => {
                self.early_bytes += frame.data_ref().map_or(0, Bytes::len);
                self.early.push_back(frame);
            }
            Err(broken) => self.broken = Some(broken),
        }
    }

    /// What was read early, its end included.
    fn next_early(&mut self) -> Option<Result<Frame<Bytes>, BodyError>> {
        let Some(frame) = self.early.pop_front() else { return self.broken.take().map(Err) };
        self.early_bytes -= frame.data_ref().map_or(0, Bytes::len);
        Some(Ok(frame))
    }

    fn is_empty(&self) -> bool {
        self.early.is_empty() && self.broken.is_none()
    }
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Polled {
        let body = self.get_mut();
        match body.reading.as_mut().and_then(|reading| reading.next_early()) {
            Some(early) => Poll::Ready(Some(early)),
            None => body.poll_client(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream() && self.reading.as_ref().is_none_or(|reading| reading.is_empty())
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.incoming.size_hint();
        let early = self.reading.as_ref().map_or(0, |reading| reading.early_bytes as u64);
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(early));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(early));
        }
        hint
    }
}
