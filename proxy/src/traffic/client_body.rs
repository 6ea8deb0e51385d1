//! [`ClientBody`]: the client's body, frame by frame as it comes, within its bounds of size and time, and not
//! before the upstream wants it when the client asked first.
//!
//! What ends it early is the client's fault, not the upstream's, so it is noted where the exchange can
//! look when the call fails. A request without a body costs nothing here.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::{Request, StatusCode, header::EXPECT};
use http_body::{Body, Frame, SizeHint};
use hyper::{body::Incoming, ext::on_informational};

use crate::{
    telemetry::Failure,
    traffic::{
        body::BodyError,
        read_along::ReadAlong,
        upload::{Upload, Watch},
    },
    workload::Workload,
};

/// What the client sends.
pub(crate) struct ClientBody {
    incoming: Incoming,
    /// Its bounds; none where there is no body.
    watch: Option<Box<Watch>>,
}

impl ClientBody {
    /// Holds `incoming` to its bounds.
    pub(crate) fn new(incoming: Incoming, workload: &Workload) -> Self {
        let announced = incoming.size_hint().exact().is_some();
        let watch = (!incoming.is_end_stream()).then(|| Box::new(Watch::new(workload, announced)));
        Self { incoming, watch }
    }

    /// How the exchange sees it on its way; nothing where there is no body.
    pub(crate) fn upload(&self) -> Option<Rc<Upload>> {
        self.watch.as_ref().map(|watch| watch.upload.clone())
    }
}

/// Holds the body back until the upstream wants it, where the client asked for that. Over HTTP/2 hyper tells
/// nothing of interim answers.
pub(crate) fn hold_back(request: &mut Request<ReadAlong<ClientBody>>) {
    if !request.headers().contains_key(EXPECT) {
        return;
    }
    let watch = request.body_mut().unread().and_then(|body| body.watch.as_mut());
    let Some(wanted) = watch.map(|watch| watch.hold_back()) else { return };
    on_informational(request, move |response| {
        if response.status() == StatusCode::CONTINUE {
            wanted.say();
        }
    });
}

impl Body for ClientBody {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let Self { incoming, watch } = self.get_mut();
        let Some(watch) = watch else { return Pin::new(incoming).poll_frame(cx).map_err(BodyError::from) };
        ready!(watch.poll_wanted(cx))?;
        Poll::Ready(match Pin::new(&mut *incoming).poll_frame(cx) {
            Poll::Pending => {
                ready!(watch.poll_patience(cx));
                Some(Err(watch.broken(Failure::RequestTooSlow)))
            }
            Poll::Ready(Some(Ok(frame))) => Some(watch.arrived(frame, incoming)),
            // the error itself: it holds the code with which an HTTP/2 client reset its stream
            Poll::Ready(Some(Err(broken))) => {
                watch.broken(Failure::RequestMalformed);
                Some(Err(broken.into()))
            }
            Poll::Ready(None) => {
                watch.ended();
                None
            }
        })
    }

    fn is_end_stream(&self) -> bool {
        self.incoming.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.incoming.size_hint()
    }
}
