//! [`ClientBody`]: the client's body, frame by frame as it comes. Where a model is asked, it is read as it
//! passes, and its start may be read before anything is sent.

use std::{
    cell::RefCell,
    collections::VecDeque,
    future::poll_fn,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::{Duration, Instant, timeout_at};

use crate::{lm::Asked, traffic::body::BodyError};

/// 64 KiB of a body are held back at most until the bounds of its answer are known.
const MAX_EARLY: usize = 64 * 1024;

/// 1 s for the start of a body: what a slow client has not sent by then is estimated without it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// What the client sends.
pub(crate) struct ClientBody {
    incoming: Incoming,
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
    pub(crate) fn new(incoming: Incoming) -> Self {
        Self { incoming, reading: None }
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
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        if let (Some(Ok(frame)), Some(reading)) = (&frame, &self.reading)
            && let Some(chunk) = frame.data_ref()
        {
            reading.asked.borrow_mut().watch(chunk);
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }
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
        let mut hint = self.incoming.size_hint();
        let early = self.reading.as_ref().map_or(0, |reading| reading.early_bytes as u64);
        if early > 0 {
            let upper = hint.upper().map(|upper| upper + early);
            hint = SizeHint::new();
            hint.set_lower(self.incoming.size_hint().lower() + early);
            upper.into_iter().for_each(|upper| hint.set_upper(upper));
        }
        hint
    }
}
