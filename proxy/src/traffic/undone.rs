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

use crate::{
    config::Protocol,
    telemetry::Failure,
    traffic::{grpc, replay::RequestBody},
    upstream::Pick,
};

/// An attempt without an answer.
pub(crate) struct Undone {
    pub(crate) failure: Failure,
    /// What may go out once more.
    pub(crate) request: Option<Box<Request<RequestBody>>>,
}

/// What is known of a request before it is sent.
pub(crate) struct Spare {
    /// A copy of one without a body.
    copy: Option<Box<Request<RequestBody>>>,
    /// Whether its connection has carried requests before.
    kept: bool,
    /// What it is called when that breaks without an answer.
    broken: Failure,
}

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
    /// Copies where the copy could be of use.
    pub(crate) fn of(request: &Request<RequestBody>, pick: &Pick, kept: bool) -> Self {
        let protocol = pick.upstream.protocol;
        let useful = protocol == Protocol::H2 || kept && request.method().is_idempotent();
        let copy = (useful && request.body().is_end_stream()).then(|| Box::new(copy(request)));
        // a kept connection has carried an answer of HTTP/1.1
        let mismatch = !kept && protocol == Protocol::Http1 && grpc::is_spoken(request.headers());
        Self { copy, kept, broken: if mismatch { Failure::GrpcOverHttp1 } else { Failure::UpstreamReset } }
    }

    /// What becomes of the request whose sending ended with `error`; `unsent` is all of it where nothing was written.
    pub(crate) fn after(self, error: &hyper::Error, unsent: Option<Request<RequestBody>>) -> Undone {
        let Self { copy, kept, broken } = self;
        if let Some(unsent) = unsent {
            return Undone::unsent(broken, unsent);
        }
        if is_refused(error) {
            return Undone { failure: Failure::StreamRefused, request: copy };
        }
        let harmless = |request: &Request<RequestBody>| request.method().is_idempotent();
        let request = copy.filter(|request| kept && is_closed(error) && harmless(request));
        Undone { failure: broken, request }
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

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;
    use http_body_util::Full;
    use hyper::client::conn::http1;
    use hyper_util::rt::TokioIo;
    use tokio::time::Instant;

    use super::*;
    use crate::{Config, security::Security, workload::Workload};

    fn pick() -> Pick {
        let text = "service: a\nlisteners: [{ address: '127.0.0.1:0', direction: outbound, routes: [{ upstream: app }] }]\n\
                    upstreams: [{ name: app, endpoints: ['a:1'] }]";
        let config = Config::from_yaml(text).unwrap();
        let workload = Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::default(), Security::default());
        workload.upstreams[0].pick(None, &[], Instant::now()).unwrap()
    }

    fn request(kind: &str) -> Request<RequestBody> {
        let body = RequestBody::Whole(Full::new(Bytes::from_static(b"call")));
        Request::post("/s.S/M").header("content-type", kind).body(body).unwrap()
    }

    /// gRPC over HTTP/1.1 once lost its second chance, because it was first looked at what to call the failure.
    #[tokio::test]
    async fn what_was_never_written_goes_out_again_whatever_it_is() {
        for (kind, failure) in
            [("application/grpc", Failure::GrpcOverHttp1), ("application/json", Failure::UpstreamReset)]
        {
            let (near, _far) = tokio::io::duplex(64);
            let (mut sender, connection) = http1::handshake::<_, RequestBody>(TokioIo::new(near)).await.unwrap();
            drop(connection);
            let spare = Spare::of(&request(kind), &pick(), false);
            let mut error = sender.try_send_request(request(kind)).await.unwrap_err();
            let unsent = error.take_message();
            assert!(unsent.is_some(), "{kind}: {}", error.error());
            let undone = spare.after(error.error(), unsent);
            assert_eq!((undone.failure, undone.request.is_some()), (failure, true), "{kind}");
            let undone = Spare::of(&request(kind), &pick(), false).after(error.error(), None);
            assert_eq!((undone.failure, undone.request.is_some()), (failure, false), "{kind}: it may have arrived");
        }
    }
}
