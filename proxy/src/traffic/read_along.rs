//! [`ReadAlong`]: a request's body that is read as it passes where a model is asked, and passes as it is
//! elsewhere. Its start may be read before anything is sent, within bounds of size and time.

use std::{
    cell::RefCell,
    collections::VecDeque,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::BodyExt;
use tokio::time::{Duration, Instant};

use crate::lm::Asked;

/// 64 KiB of a body are held back at most until the bounds of its answer are known.
const MAX_EARLY: usize = 64 * 1024;

/// 1 s for the start of a body: what a slow client has not sent by then is estimated without it.
const MAX_WAIT: Duration = Duration::from_secs(1);

/// A body of either kind.
pub(crate) enum ReadAlong<B: Body> {
    Plain(B),
    Watched(Box<Watched<B>>),
}

/// A body that is read as it passes.
pub(crate) struct Watched<B: Body> {
    early: VecDeque<Frame<Bytes>>,
    early_bytes: usize,
    broken: Option<B::Error>,
    rest: B,
    asked: Rc<RefCell<Asked>>,
}

impl<B: Body<Data = Bytes> + Unpin> ReadAlong<B> {
    /// Reads what is asked of a model into `asked` while it passes.
    pub(crate) fn watched(rest: B, asked: Rc<RefCell<Asked>>) -> Self {
        let early = VecDeque::new();
        Self::Watched(Box::new(Watched { early, early_bytes: 0, broken: None, rest, asked }))
    }

    /// What it is made of, as long as nothing of it was read.
    pub(crate) fn unread(&mut self) -> Option<&mut B> {
        match self {
            Self::Plain(rest) => Some(rest),
            Self::Watched(body) if body.early.is_empty() && body.broken.is_none() => Some(&mut body.rest),
            Self::Watched(_) => None,
        }
    }

    /// Reads the start before anything is sent, until it says how long the answer may be.
    pub(crate) async fn read_start(&mut self, give_up: Instant) {
        let Self::Watched(body) = self else { return };
        let until = give_up.min(Instant::now() + MAX_WAIT);
        while body.early_bytes < MAX_EARLY && body.broken.is_none() && body.asked.borrow().max_output_tokens().is_none()
        {
            match tokio::time::timeout_at(until, body.rest.frame()).await {
                Ok(Some(Ok(frame))) => body.keep(frame),
                Ok(Some(Err(error))) => body.broken = Some(error),
                Ok(None) | Err(_) => return,
            }
        }
    }
}

impl<B: Body<Data = Bytes> + Unpin> Watched<B> {
    fn keep(&mut self, frame: Frame<Bytes>) {
        self.watch(&frame);
        self.early_bytes += frame.data_ref().map_or(0, Bytes::len);
        self.early.push_back(frame);
    }

    fn watch(&self, frame: &Frame<Bytes>) {
        if let Some(chunk) = frame.data_ref() {
            self.asked.borrow_mut().watch(chunk);
        }
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        if let Some(frame) = self.early.pop_front() {
            self.early_bytes -= frame.data_ref().map_or(0, Bytes::len);
            return Poll::Ready(Some(Ok(frame)));
        }
        if let Some(error) = self.broken.take() {
            return Poll::Ready(Some(Err(error)));
        }
        let frame = ready!(Pin::new(&mut self.rest).poll_frame(cx));
        if let Some(Ok(frame)) = &frame {
            self.watch(frame);
        }
        Poll::Ready(frame)
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for ReadAlong<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        match self.get_mut() {
            Self::Plain(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Watched(body) => body.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Plain(incoming) => incoming.is_end_stream(),
            Self::Watched(body) => body.early.is_empty() && body.broken.is_none() && body.rest.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        let (rest, early) = match self {
            Self::Plain(incoming) => return incoming.size_hint(),
            Self::Watched(body) => (body.rest.size_hint(), body.early_bytes as u64),
        };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower() + early);
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper + early);
        }
        hint
    }
}
