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

use crate::traffic::{exchange::Exchange, lm::Tokens, pool::Lease, request_body::Upload};

/// A body of either kind.
pub(crate) enum ProxyBody {
    Upstream(Box<Observed>),
    Own(Full<Bytes>),
}

/// The upstream's body and what hangs on its end.
pub(crate) struct Observed {
    incoming: Incoming,
    tokens: Option<Tokens>,
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
        tokens: Option<Tokens>,
        exchange: Exchange,
        lease: Lease,
        upload: Option<Rc<Upload>>,
    ) -> Self {
        let mut observed = Observed { incoming, tokens, exchange: Some(exchange), lease: Some(lease), upload };
        if observed.incoming.is_end_stream() {
            observed.end();
        }
        Self::Upstream(Box::new(observed))
    }
}

impl Observed {
    fn watch(&mut self, chunk: &Bytes) {
        let mut first_token = false;
        if let Some(tokens) = &mut self.tokens {
            tokens.watch(chunk);
            first_token = tokens.is_stream();
        }
        if let Some(exchange) = &mut self.exchange {
            exchange.chunk(chunk.len(), first_token);
        }
    }

    fn end(&mut self) {
        if let Some(exchange) = self.exchange.take() {
            exchange.complete(self.tokens.as_ref().and_then(Tokens::usage));
        }
        let all_sent = self.upload.take().is_none_or(|upload| upload.finish());
        if let Some(lease) = self.lease.take().filter(|_| all_sent) {
            lease.give_back();
        }
    }

    fn broken(&mut self) {
        self.lease = None;
        if let Some(exchange) = self.exchange.take() {
            exchange.broken();
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
