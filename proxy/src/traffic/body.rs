//! [`ProxyBody`]: the answer's body as the client gets it: the upstream's, chunk by chunk as it comes,
//! observed but never gathered; or a short text of our own.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;
use tokio::time::Instant;

use crate::{
    lm::Reading,
    telemetry::Failure,
    traffic::{
        answers::{Answers, UnderWay},
        clock::Clock,
        exchange::{End, Exchange},
        pool::Lease,
        upload::Upload,
    },
};

/// A body of either kind.
pub(crate) enum ProxyBody {
    Upstream(Rc<RefCell<Observed>>),
    Own(Full<Bytes>),
}

/// Why a body ends before its end; the connection then breaks, so that nobody takes it for whole.
#[derive(Debug, thiserror::Error)]
pub(crate) enum BodyError {
    #[error(transparent)]
    Connection(#[from] hyper::Error),
    #[error("the client: {}", .0.as_str())]
    OfClient(Failure),
    #[error("the rest of the body is not wanted")]
    Unwanted(#[source] h2::Error),
    #[error("another attempt sends this body")]
    Superseded,
    #[error("the client does not read the answer")]
    Unread,
    #[error("the answer took too long: {}", .0.as_str())]
    TooSlow(Failure),
}

/// The upstream's body and what hangs on its end.
pub(crate) struct Observed {
    /// Gone when the client did not read it for too long.
    incoming: Option<Incoming>,
    reading: Reading,
    clock: Option<Clock>,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
    upload: Option<Rc<Upload>>,
    /// Those of the client's connection, if it is HTTP/2.
    answers: Option<Rc<Answers>>,
    under_way: Option<UnderWay>,
    /// When a part was handed on after which the client has asked for no more yet.
    handed: Option<Instant>,
}

impl ProxyBody {
    pub(crate) fn empty() -> Self {
        Self::Own(Full::default())
    }

    pub(crate) fn text(text: String) -> Self {
        Self::Own(Full::new(Bytes::from(text)))
    }

    pub(crate) fn upstream(
        incoming: Incoming,
        reading: Reading,
        clock: Option<Clock>,
        exchange: Exchange,
        lease: Lease,
        upload: Option<Rc<Upload>>,
        answers: Option<Rc<Answers>>,
    ) -> Self {
        let (ended, incoming, exchange, lease) =
            (incoming.is_end_stream(), Some(incoming), Some(exchange), Some(lease));
        let (under_way, handed) = (None, None);
        let mut observed = Observed { incoming, reading, clock, exchange, lease, upload, answers, under_way, handed };
        if ended {
            observed.end();
        }
        Self::Upstream(Rc::new(RefCell::new(observed)))
    }
}

/// Takes note that a part was handed on, where the client may leave it at that.
fn handed(answer: &Rc<RefCell<Observed>>) {
    let mut observed = answer.borrow_mut();
    let Some(answers) = observed.answers.clone().filter(|_| observed.exchange.is_some()) else { return };
    observed.handed = Some(Instant::now());
    observed.under_way.get_or_insert_with(|| answers.enter(answer));
}

impl Observed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        self.handed = None;
        let Some(incoming) = &mut self.incoming else { return Poll::Ready(Some(Err(BodyError::Unread))) };
        let Poll::Ready(frame) = Pin::new(&mut *incoming).poll_frame(cx) else { return self.poll_clock(cx) };
        let ended = incoming.is_end_stream();
        match &frame {
            Some(Ok(frame)) => {
                if let Some(chunk) = frame.data_ref() {
                    self.watch(chunk);
                } else if let (Some(trailers), Some(exchange)) = (frame.trailers_ref(), &mut self.exchange) {
                    exchange.trailers(trailers);
                }
                // the client's side may not ask again once it has what was announced
                if ended {
                    self.end();
                }
            }
            Some(Err(_)) => self.broken(Failure::UpstreamReset),
            None => self.end(),
        }
        Poll::Ready(frame.map(|frame| frame.map_err(BodyError::from)))
    }

    fn poll_clock(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Some(clock) = &mut self.clock else { return Poll::Pending };
        let failure = ready!(clock.poll(cx));
        self.broken(failure);
        Poll::Ready(Some(Err(BodyError::TooSlow(failure))))
    }

    fn watch(&mut self, chunk: &Bytes) {
        let watched = self.reading.watch(chunk);
        if let Some(exchange) = &mut self.exchange {
            exchange.chunk(chunk.len(), watched);
        }
        if let Some(clock) = &mut self.clock {
            clock.heard();
        }
    }

    /// Ends it when the client has asked for nothing since `patience` ago, although it was handed a part.
    pub(crate) fn end_if_unread(&mut self, patience: Duration, now: Instant) -> bool {
        let unread = self.handed.is_some_and(|handed| now.duration_since(handed) >= patience);
        if unread {
            (self.incoming, self.lease, self.clock) = (None, None, None);
            self.leave();
        }
        unread
    }

    /// The client has left: what has come until now was generated, and is booked.
    fn leave(&mut self) {
        self.not_under_way();
        if let Some(exchange) = self.exchange.take() {
            exchange.end(End::Left(&self.reading));
        }
    }

    fn not_under_way(&mut self) {
        (self.under_way, self.answers, self.handed) = (None, None, None);
    }

    fn end(&mut self) {
        self.clock = None;
        self.not_under_way();
        // before the exchange ends, which lets in who waits for a connection
        let all_sent = self.upload.take().is_none_or(|upload| upload.finish());
        if let Some(lease) = self.lease.take().filter(|_| all_sent) {
            lease.give_back();
        }
        if let Some(exchange) = self.exchange.take() {
            exchange.end(End::Complete(&self.reading));
        }
    }

    fn broken(&mut self, failure: Failure) {
        (self.lease, self.clock) = (None, None);
        self.not_under_way();
        if let Some(exchange) = self.exchange.take() {
            exchange.end(End::Broken { failure, reading: &self.reading });
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        self.leave();
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(observed) => {
                let polled = observed.borrow_mut().poll(cx);
                if let Poll::Ready(Some(Ok(_))) = &polled {
                    handed(observed);
                }
                polled
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(full) => full.is_end_stream(),
            Self::Upstream(observed) => observed.borrow().incoming.as_ref().is_some_and(Incoming::is_end_stream),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(full) => full.size_hint(),
            Self::Upstream(observed) => {
                observed.borrow().incoming.as_ref().map_or_else(SizeHint::default, Incoming::size_hint)
            }
        }
    }
}
