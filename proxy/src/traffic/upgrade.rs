//! [`Upgrade`]: a request that asks to leave HTTP: WebSocket and the like over HTTP/1.1 (RFC 9110 §7.8),
//! or over an HTTP/2 stream (extended CONNECT, RFC 8441), which is put to the upstream as HTTP/1.1.
//!
//! The fields that ask belong to one connection, so they are taken out and put in again. `h2c` is never
//! passed on: what the upstream would then be sent, nobody here could read.

use base64::{Engine, prelude::BASE64_STANDARD};
use http::{
    HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, Version,
    header::{CONNECTION, SEC_WEBSOCKET_ACCEPT, SEC_WEBSOCKET_KEY, UPGRADE},
};
use http_body::Body;
use hyper::{body::Incoming, ext::Protocol, upgrade::OnUpgrade};

use crate::{
    config,
    traffic::{headers::connection_options, vet::Rejection},
};

const HTTP2_SETTINGS: HeaderName = HeaderName::from_static("http2-settings");

/// A wish to upgrade, taken out of a request.
pub(crate) struct Upgrade {
    /// The protocol, as asked for.
    pub(crate) protocol: HeaderValue,
    /// The client's side, once the answer was sent.
    pub(crate) client: OnUpgrade,
    over_http2: bool,
}

impl Upgrade {
    /// The wish of a request, if it has one. An HTTP/1.1 client may be answered as if it had not asked; one that asks for what
    /// cannot be is refused where its request means nothing else: for a WebSocket, and over HTTP/2.
    pub(crate) fn wanted(
        request: &mut Request<Incoming>,
        upstream: config::Protocol,
    ) -> Result<Option<Self>, Rejection> {
        let possible = upstream == config::Protocol::Http1;
        let Some(extended) = request.extensions_mut().remove::<Protocol>() else {
            let protocol = asked(request);
            let is_websocket = |protocol: &HeaderValue| protocol.as_bytes().eq_ignore_ascii_case(b"websocket");
            if !possible && protocol.as_ref().is_some_and(is_websocket) {
                return Err(Rejection::UpgradeUnsupported);
            }
            let protocol = protocol.filter(|_| possible);
            let wish = |protocol| Self { protocol, client: hyper::upgrade::on(request), over_http2: false };
            return Ok(protocol.map(wish));
        };
        let protocol = HeaderValue::from_str(extended.as_str()).ok().filter(|_| possible);
        let protocol = protocol.ok_or(Rejection::UpgradeUnsupported)?;
        *request.method_mut() = Method::GET;
        Ok(Some(Self { protocol, client: hyper::upgrade::on(request), over_http2: true }))
    }

    /// Puts the wish to the upstream, after the client's own words for it were taken out.
    pub(crate) fn ask(&self, headers: &mut HeaderMap) {
        headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
        headers.insert(UPGRADE, self.protocol.clone());
        if self.over_http2 && self.protocol == "websocket" {
            let nonce = BASE64_STANDARD.encode(rand::random::<[u8; 16]>());
            headers.insert(SEC_WEBSOCKET_KEY, HeaderValue::try_from(nonce).expect("base64 is ASCII"));
        }
    }

    /// Whether the upstream granted it.
    pub(crate) fn granted<B>(response: &Response<B>) -> bool {
        response.status() == StatusCode::SWITCHING_PROTOCOLS
    }

    /// The upstream's yes in the client's words.
    pub(crate) fn grant<B>(&self, response: &mut Response<B>) {
        if self.over_http2 {
            *response.status_mut() = StatusCode::OK;
            *response.version_mut() = Version::HTTP_2;
            response.headers_mut().remove(SEC_WEBSOCKET_ACCEPT);
        } else {
            let headers = response.headers_mut();
            headers.insert(CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(UPGRADE, self.protocol.clone());
        }
    }
}

/// What an HTTP/1.1 request asks for: one protocol, named by `Connection`, and no body in the way.
fn asked(request: &mut Request<Incoming>) -> Option<HeaderValue> {
    let headers = request.headers_mut();
    let protocol = headers.get(UPGRADE)?.clone();
    headers.remove(HTTP2_SETTINGS);
    let named = connection_options(headers).any(|option| option.eq_ignore_ascii_case("upgrade"));
    // a list leaves it to the upstream, which may choose h2c from it
    let bytes = protocol.as_bytes();
    let h2c = bytes.contains(&b',') || bytes.len() >= 3 && bytes[..3].eq_ignore_ascii_case(b"h2c");
    let usable = named && !h2c && request.version() == Version::HTTP_11 && request.body().is_end_stream();
    usable.then_some(protocol)
}
