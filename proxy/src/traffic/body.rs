//! [`ProxyBody`]: the answer's body as the client gets it: the upstream's, chunk by chunk as it comes,
//! observed but never gathered; or a short text of our own.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    lm::Reading,
    telemetry::Failure,
    traffic::{
        clock::Clock,
        exchange::{End, Exchange},
        pool::Lease,
        upload::Upload,
    },
};

/// A body of either kind.
pub(crate) enum ProxyBody {
    Upstream(Box<Observed>),
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
    #[error("the answer took too long: {}", .0.as_str())]
    TooSlow(Failure),
}

/// The upstream's body and what hangs on its end.
pub(crate) struct Observed {
    incoming: Incoming,
    reading: Reading,
    clock: Option<Clock>,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
    upload: Option<Rc<Upload>>,
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
    ) -> Self {
        let lease = Some(lease);
        let mut observed = Observed { incoming, reading, clock, exchange: Some(exchange), lease, upload };
        if observed.incoming.is_end_stream() {
            observed.end();
        }
        Self::Upstream(Box::new(observed))
    }
}

impl Observed {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Poll::Ready(frame) = Pin::new(&mut self.incoming).poll_frame(cx) else { return self.poll_clock(cx) };
        match &frame {
            Some(Ok(frame)) => {
                if let Some(chunk) = frame.data_ref() {
                    self.watch(chunk);
                } else if let (Some(trailers), Some(exchange)) = (frame.trailers_ref(), &mut self.exchange) {
                    exchange.trailers(trailers);
                }
                // the client's side may not ask again once it has what was announced
                if self.incoming.is_end_stream() {
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

    fn end(&mut self) {
        self.clock = None;
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
        if let Some(exchange) = self.exchange.take() {
            exchange.end(End::Broken { failure, reading: &self.reading });
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // whoever asked went away: what has come until now was generated, and is booked
        if let Some(exchange) = self.exchange.take() {
            exchange.end(End::Left(&self.reading));
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(observed) => observed.poll(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Own(full) => full.is_end_stream(),
            Self::Upstream(observed) => observed.incoming.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Own(full) => full.size_hint(),
            Self::Upstream(observed) => observed.incoming.size_hint(),
        }
    }
}
