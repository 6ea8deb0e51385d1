//! [`vet`]: what a request must not be, whatever its route: looped, contradictory, too long to begin with.
//!
//! HTTP/1 was read strictly before hyper saw it; what HTTP/2 can still say wrongly is looked at here.

use http::{
    Method, Request, StatusCode, Version,
    header::{CONTENT_LENGTH, HOST},
};
use http_body::Body;
use hyper::ext::Protocol;

use crate::{
    config::Connect,
    connection::{Violation, is_authority},
    workload::{Accepts, Workload},
};

/// Why the proxy answers itself, before any route does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Rejection {
    Overloaded,
    Loop,
    ConnectRefused,
    BodyTooLarge,
    UpgradeUnsupported,
    Malformed(Violation),
    NoRoute,
}

impl Rejection {
    /// Status, reason and explanation of the answer.
    pub(crate) fn answer(self) -> (StatusCode, &'static str, &'static str) {
        match self {
            Self::Overloaded => {
                (StatusCode::SERVICE_UNAVAILABLE, "overloaded", "the proxy has as much memory as it may have")
            }
            Self::Loop => (StatusCode::LOOP_DETECTED, "loop", "this request has been here before"),
            Self::ConnectRefused => (StatusCode::METHOD_NOT_ALLOWED, "connect_refused", "no tunnels here"),
            Self::BodyTooLarge => {
                (StatusCode::PAYLOAD_TOO_LARGE, "request_too_large", "the body is longer than http.max_body_bytes")
            }
            Self::UpgradeUnsupported => (
                StatusCode::NOT_IMPLEMENTED,
                "upgrade_unsupported",
                "an upstream of protocol h2 opens no WebSocket and no other protocol: it needs protocol http1",
            ),
            Self::Malformed(_) => (StatusCode::BAD_REQUEST, "request_malformed", "the request contradicts itself"),
            Self::NoRoute => (StatusCode::NOT_FOUND, "no_route", "no route matches this request"),
        }
    }
}

/// Looks at a request before it is routed.
pub(crate) fn vet<B: Body>(request: &Request<B>, accepts: &Accepts, workload: &Workload) -> Result<(), Rejection> {
    let Workload { http, memory, .. } = workload;
    if memory.is_full() {
        return Err(Rejection::Overloaded);
    }
    if accepts.via.is_loop(request.headers()) {
        return Err(Rejection::Loop);
    }
    if http.max_body_bytes.is_some_and(|max| request.body().size_hint().lower() > max) {
        return Err(Rejection::BodyTooLarge);
    }
    if request.version() == Version::HTTP_2 {
        vet_http2(request).map_err(Rejection::Malformed)?;
    }
    let upgrade = request.extensions().get::<Protocol>().is_some();
    if request.method() == Method::CONNECT && !upgrade && accepts.connect == Connect::Refused {
        return Err(Rejection::ConnectRefused);
    }
    Ok(())
}

/// RFC 9113 §8.3.1: a `Host` must say what `:authority` says; one length, or the HTTP/1 side would see two.
fn vet_http2<B>(request: &Request<B>) -> Result<(), Violation> {
    let headers = request.headers();
    let authority = request.uri().authority().map(|a| a.as_str().as_bytes());
    let mut hosts = headers.get_all(HOST).iter().map(http::HeaderValue::as_bytes);
    let host = hosts.next();
    let agree = match (authority, host) {
        (Some(authority), Some(host)) => authority.eq_ignore_ascii_case(host),
        (authority, host) => authority.or(host).is_some(),
    };
    if !agree || hosts.next().is_some() || !authority.or(host).is_some_and(is_authority) {
        return Err(Violation::Host);
    }
    if headers.get_all(CONTENT_LENGTH).iter().nth(1).is_some() {
        return Err(Violation::ContentLength);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use http_body_util::Full;

    use super::*;
    use crate::{config::Config, security::Security};

    fn verdict(
        uri: &str,
        version: Version,
        fields: &[(&'static str, &str)],
        body: &'static str,
    ) -> Result<(), Rejection> {
        let text = "service: app\nhttp: { max_body_bytes: 4 }\nlisteners: [{ address: '127.0.0.1:0', direction: inbound, routes: [{ upstream: app }] }]\n\
            upstreams: [{ name: app, endpoints: ['127.0.0.1:9001'] }]";
        let config = Config::from_yaml(text).unwrap();
        let workload = Workload::new(&config, "127.0.0.1:80".parse().unwrap(), Arc::default(), Security::default());
        let mut request = Request::builder().uri(uri).version(version);
        for (name, value) in fields {
            request = request.header(*name, *value);
        }
        let request = request.body(Full::new(bytes::Bytes::from_static(body.as_bytes()))).unwrap();
        vet(&request, &workload.accepts[0], &workload)
    }

    #[test]
    fn what_contradicts_itself_is_refused() {
        let (h1, h2) = (Version::HTTP_11, Version::HTTP_2);
        let malformed = |violation| Err(Rejection::Malformed(violation));
        for (uri, version, fields, body, expected) in [
            ("http://a/", h2, &[][..], "", Ok(())),
            ("http://a/", h2, &[("host", "A")], "", Ok(())),
            ("/", h2, &[("host", "a")], "", Ok(())),
            ("http://a/", h2, &[("host", "b")], "", malformed(Violation::Host)),
            ("http://a/", h2, &[("host", "a"), ("host", "a")], "", malformed(Violation::Host)),
            ("/", h2, &[], "", malformed(Violation::Host)),
            ("/", h2, &[("host", "a/b")], "", malformed(Violation::Host)),
            (
                "http://a/",
                h2,
                &[("content-length", "1"), ("content-length", "1")],
                "",
                malformed(Violation::ContentLength),
            ),
            ("http://a/", h1, &[("host", "b")], "", Ok(())),
            ("/", h1, &[], "1234", Ok(())),
            ("/", h1, &[], "12345", Err(Rejection::BodyTooLarge)),
        ] {
            assert_eq!(verdict(uri, version, fields, body), expected, "{uri} {fields:?} {body}");
        }
    }
}
