//! [`Undone`]: an attempt without an answer, and its request, where that may go out once more although nobody asked for
//! retries: it certainly never arrived, or it can do no harm twice.
//!
//! | what happened | what is given back |
//! |---|---|
//! | no connection; one that closed before anything was written | every request, its body untouched |
//! | the stream was refused, or lies beyond a GOAWAY (RFC 9113 §8.7) | those without a body |
//! | a kept connection closed without an answer (RFC 9112 §9.3.1) | those without a body whose method is idempotent |
//!
//! A new connection that closes without an answer may have been closed by the request itself, so that one is not repeated.

use http::Request;
use http_body::Body;

use crate::{config::Protocol, telemetry::Failure, traffic::replay::RequestBody, upstream::Pick};

/// An attempt without an answer.
pub(crate) struct Undone {
    pub(crate) failure: Failure,
    /// What may go out once more.
    pub(crate) request: Option<Box<Request<RequestBody>>>,
}

/// A copy of a request without a body, made before it is sent.
pub(crate) struct Spare(Option<Box<Request<RequestBody>>>);

impl Undone {
    /// The request is all there.
    pub(crate) fn unsent(failure: Failure, request: Request<RequestBody>) -> Self {
        Self { failure, request: Some(Box::new(request)) }
    }
}

impl From<Failure> for Undone {
    fn from(failure: Failure) -> Self {
        Self { failure, request: None }
    }
}

impl Spare {
    /// Copies where the copy could be of use: `kept` says that the connection has carried requests before.
    pub(crate) fn of(request: &Request<RequestBody>, pick: &Pick, kept: bool) -> Self {
        let useful = pick.upstream.protocol == Protocol::H2 || kept && request.method().is_idempotent();
        Self((useful && request.body().is_end_stream()).then(|| Box::new(copy(request))))
    }

    /// What becomes of the request whose sending ended with `error`.
    pub(crate) fn after(self, error: &hyper::Error, kept: bool) -> Undone {
        let Self(request) = self;
        if is_refused(error) {
            return Undone { failure: Failure::StreamRefused, request };
        }
        let harmless = |request: &Request<RequestBody>| request.method().is_idempotent();
        let request = request.filter(|request| kept && is_closed(error) && harmless(request));
        Undone { failure: Failure::UpstreamReset, request }
    }
}

fn copy(request: &Request<RequestBody>) -> Request<RequestBody> {
    let mut copy = Request::new(RequestBody::Whole(http_body_util::Full::default()));
    *copy.method_mut() = request.method().clone();
    *copy.uri_mut() = request.uri().clone();
    *copy.version_mut() = request.version();
    *copy.headers_mut() = request.headers().clone();
    *copy.extensions_mut() = request.extensions().clone();
    copy
}

/// Whether the upstream promises that it did nothing (RFC 9113 §8.7): it refused the stream, or went away without it. One
/// that leaves in peace ends only the streams beyond the last that it says it has looked at (§6.8).
fn is_refused(error: &hyper::Error) -> bool {
    let cause = http2_cause(error).filter(|cause| cause.is_remote());
    cause.is_some_and(|cause| match cause.reason() {
        Some(h2::Reason::REFUSED_STREAM) => true,
        Some(h2::Reason::NO_ERROR) => cause.is_go_away(),
        _ => false,
    })
}

/// Whether the connection ended, rather than the upstream's answer being odd.
fn is_closed(error: &hyper::Error) -> bool {
    let broken = std::error::Error::source(error).is_some_and(|source| source.is::<std::io::Error>());
    let http2 = http2_cause(error).is_some_and(|cause| cause.is_io() || cause.is_go_away());
    broken || http2 || error.is_incomplete_message() || error.is_closed() || error.is_canceled()
}

fn http2_cause(error: &hyper::Error) -> Option<&h2::Error> {
    std::error::Error::source(error)?.downcast_ref()
}
