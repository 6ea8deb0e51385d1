//! [`RequestBody`]: what a request carries to an upstream. [`Recording`]: a body that is kept as it
//! passes, up to a bound, so that another attempt or a mirror can have it too.
//!
//! Nothing waits for the whole body: the first attempt streams, and a later one gets what was kept,
//! then goes on where the client is. Once more than the bound has passed, it is no longer kept and
//! cannot be sent again.

use std::{
    cell::RefCell,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};
use http_body_util::Full;
use tokio::sync::oneshot;

use crate::traffic::{body::BodyError, client_body::ClientBody, read_along::ReadAlong};

/// What a request carries to an upstream.
pub(crate) enum RequestBody {
    /// Straight from the client.
    Passing(ReadAlong<ClientBody>),
    /// From the client, and kept.
    Kept(Reader),
    /// All of it is here.
    Whole(Full<Bytes>),
}

/// A body that is kept as it passes.
pub(crate) struct Recording(Rc<RefCell<Shared>>);

/// One attempt's reading of a recording.
pub(crate) struct Reader {
    shared: Rc<RefCell<Shared>>,
    number: u32,
    /// Among the kept chunks, the next.
    at: usize,
    trailers_sent: bool,
}

struct Shared {
    incoming: ReadAlong<ClientBody>,
    kept: Vec<Bytes>,
    kept_bytes: usize,
    max_bytes: usize,
    trailers: Option<HeaderMap>,
    /// Everything that passed is kept.
    complete: bool,
    ended: bool,
    /// The attempt that may read: an older one that still runs would take its bytes.
    reader: u32,
    copy: Option<oneshot::Sender<Vec<Bytes>>>,
}

impl Recording {
    pub(crate) fn new(incoming: ReadAlong<ClientBody>, max_bytes: usize) -> Self {
        let ended = incoming.is_end_stream();
        let (kept, trailers, copy) = (Vec::new(), None, None);
        let shared =
            Shared { incoming, kept, kept_bytes: 0, max_bytes, trailers, complete: true, ended, reader: 0, copy };
        Self(Rc::new(RefCell::new(shared)))
    }

    /// The body for the next attempt; `None` when it cannot be sent again.
    pub(crate) fn next_reader(&self) -> Option<RequestBody> {
        let mut shared = self.0.borrow_mut();
        if !shared.complete {
            return None;
        }
        shared.reader += 1;
        let number = shared.reader;
        Some(RequestBody::Kept(Reader { shared: self.0.clone(), number, at: 0, trailers_sent: false }))
    }

    /// Whether another attempt could have the body.
    pub(crate) fn can_repeat(&self) -> bool {
        self.0.borrow().complete
    }

    /// The chunks once all have passed; never sent when they are more than the bound.
    pub(crate) fn copy(&self) -> oneshot::Receiver<Vec<Bytes>> {
        let (copy, copied) = oneshot::channel();
        let mut shared = self.0.borrow_mut();
        shared.copy = Some(copy);
        if shared.ended {
            shared.send_copy();
        }
        copied
    }
}

impl Shared {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let frame = ready!(Pin::new(&mut self.incoming).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(chunk) = frame.data_ref() {
                    self.keep(chunk);
                } else if let Some(trailers) = frame.trailers_ref() {
                    self.trailers = Some(trailers.clone());
                }
                // the connection may not ask again once it has what was announced
                if self.incoming.is_end_stream() {
                    self.end();
                }
            }
            Some(Err(_)) => self.forget(),
            None => self.end(),
        }
        Poll::Ready(frame)
    }

    fn keep(&mut self, chunk: &Bytes) {
        self.kept_bytes = self.kept_bytes.saturating_add(chunk.len());
        if self.kept_bytes > self.max_bytes {
            self.forget();
        } else if self.complete {
            self.kept.push(chunk.clone());
        }
    }

    fn forget(&mut self) {
        self.complete = false;
        self.kept = Vec::new();
        self.copy = None;
    }

    fn end(&mut self) {
        self.ended = true;
        self.send_copy();
    }

    fn send_copy(&mut self) {
        if let Some(copy) = self.copy.take().filter(|_| self.complete) {
            // a mirror that has given up wants none
            let _ = copy.send(self.kept.clone());
        }
    }
}

impl Reader {
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let mut shared = self.shared.borrow_mut();
        if shared.reader != self.number {
            return Poll::Ready(Some(Err(BodyError::Superseded)));
        }
        if let Some(chunk) = shared.kept.get(self.at) {
            self.at += 1;
            return Poll::Ready(Some(Ok(Frame::data(chunk.clone()))));
        }
        if shared.ended {
            let trailers = shared.trailers.clone().filter(|_| !self.trailers_sent);
            self.trailers_sent = true;
            return Poll::Ready(trailers.map(|trailers| Ok(Frame::trailers(trailers))));
        }
        let frame = ready!(shared.poll(cx));
        self.at = shared.kept.len();
        self.trailers_sent = shared.trailers.is_some();
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        let shared = self.shared.borrow();
        let nothing_kept = self.at >= shared.kept.len() && (shared.trailers.is_none() || self.trailers_sent);
        nothing_kept && (shared.ended || shared.incoming.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let shared = self.shared.borrow();
        let kept: usize = shared.kept.iter().skip(self.at).map(Bytes::len).sum();
        let kept = kept as u64;
        let rest = if shared.ended { SizeHint::with_exact(0) } else { shared.incoming.size_hint() };
        let mut hint = SizeHint::new();
        hint.set_lower(rest.lower().saturating_add(kept));
        if let Some(upper) = rest.upper() {
            hint.set_upper(upper.saturating_add(kept));
        }
        hint
    }
}

impl Body for RequestBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        match self.get_mut() {
            Self::Passing(incoming) => Pin::new(incoming).poll_frame(cx),
            Self::Kept(reader) => reader.poll(cx),
            Self::Whole(full) => Pin::new(full).poll_frame(cx).map_err(|never| match never {}),
        }
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Passing(incoming) => incoming.is_end_stream(),
            Self::Kept(reader) => reader.is_end_stream(),
            Self::Whole(full) => full.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Passing(incoming) => incoming.size_hint(),
            Self::Kept(reader) => reader.size_hint(),
            Self::Whole(full) => full.size_hint(),
        }
    }
}
