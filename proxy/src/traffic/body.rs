//! [`ProxyBody`]: the answer's body as the client gets it: the upstream's, chunk by chunk as it comes,
//! observed but never gathered; or a short text of our own.

use std::{
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use hyper::body::Incoming;

use crate::{
    lm::Reading,
    traffic::{exchange::Exchange, pool::Lease},
};

/// A body of either kind.
pub(crate) enum ProxyBody {
    Upstream(Box<Observed>),
    Own(Full<Bytes>),
}

/// The upstream's body and what hangs on its end.
pub(crate) struct Observed {
    incoming: Incoming,
    reading: Reading,
    exchange: Option<Exchange>,
    lease: Option<Lease>,
}

impl ProxyBody {
    pub(crate) fn text(text: String) -> Self {
        Self::Own(Full::new(Bytes::from(text)))
    }

    pub(crate) fn upstream(incoming: Incoming, reading: Reading, exchange: Exchange, lease: Option<Lease>) -> Self {
        let mut observed = Observed { incoming, reading, exchange: Some(exchange), lease };
        if observed.incoming.is_end_stream() {
            observed.end();
        }
        Self::Upstream(Box::new(observed))
    }
}

impl Observed {
    fn watch(&mut self, chunk: &Bytes) {
        let watched = self.reading.watch(chunk);
        if let Some(exchange) = &mut self.exchange {
            exchange.chunk(chunk.len(), watched);
        }
    }

    fn end(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.complete(&self.reading);
        }
        if let Some(lease) = self.lease.take() {
            lease.give_back();
        }
    }

    fn broken(&mut self) {
        self.lease = None;
        if let Some(exchange) = self.exchange.take() {
            exchange.broken(&self.reading);
        }
    }
}

impl Drop for Observed {
    fn drop(&mut self) {
        // whoever asked went away: what has come until now was generated, and is booked
        if let Some(exchange) = self.exchange.take() {
            exchange.left(&self.reading);
        }
    }
}

impl Body for ProxyBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        match self.get_mut() {
            Self::Own(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
            Self::Upstream(observed) => {
                let frame = ready!(Pin::new(&mut observed.incoming).poll_frame(cx));
                match &frame {
                    Some(Ok(frame)) => {
                        if let Some(chunk) = frame.data_ref() {
                            observed.watch(chunk);
                        }
                        // the client's side may not ask again once it has what was announced
                        if observed.incoming.is_end_stream() {
                            observed.end();
                        }
                    }
                    Some(Err(_)) => observed.broken(),
                    None => observed.end(),
                }
                Poll::Ready(frame)
            }
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
