//! gRPC's statuses: where an answer says its own, which of HTTP's it is like, and what our own answers say.
//!
//! A call says how it went in `grpc-status`, mostly in its trailers; an answer that ends with its head says it there.
//! <https://github.com/grpc/grpc/blob/master/doc/statuscodes.md>

use http::{HeaderMap, StatusCode, header::CONTENT_TYPE};

/// Too late, and perhaps done all the same: not to be sent again as it is.
pub(crate) const DEADLINE_EXCEEDED: u16 = 4;
const UNKNOWN: u16 = 2;
const PERMISSION_DENIED: u16 = 7;
const RESOURCE_EXHAUSTED: u16 = 8;
const UNIMPLEMENTED: u16 = 12;
const INTERNAL: u16 = 13;
const UNAVAILABLE: u16 = 14;
const UNAUTHENTICATED: u16 = 16;

/// By number.
const NAMES: [&str; 17] = [
    "OK",
    "CANCELLED",
    "UNKNOWN",
    "INVALID_ARGUMENT",
    "DEADLINE_EXCEEDED",
    "NOT_FOUND",
    "ALREADY_EXISTS",
    "PERMISSION_DENIED",
    "RESOURCE_EXHAUSTED",
    "FAILED_PRECONDITION",
    "ABORTED",
    "OUT_OF_RANGE",
    "UNIMPLEMENTED",
    "INTERNAL",
    "UNAVAILABLE",
    "DATA_LOSS",
    "UNAUTHENTICATED",
];

/// What a head or trailers say.
pub(crate) fn status(headers: &HeaderMap) -> Option<u16> {
    headers.get("grpc-status")?.to_str().ok()?.parse().ok()
}

/// Whether an answer with this head says at its end how it went. gRPC-Web says it in its body, which nobody reads here.
pub(crate) fn ends_with_trailers(headers: &HeaderMap) -> bool {
    is_spoken(headers) && status(headers).is_none()
}

/// Whether a client expects gRPC's statuses: it speaks gRPC or gRPC-Web.
pub(crate) fn is_expected(headers: &HeaderMap) -> bool {
    headers.get(CONTENT_TYPE).is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
}

/// Whether a message is gRPC itself, which needs HTTP/2, and not gRPC-Web.
pub(crate) fn is_spoken(headers: &HeaderMap) -> bool {
    let kind = headers.get(CONTENT_TYPE).and_then(|kind| kind.as_bytes().strip_prefix(b"application/grpc"));
    kind.is_some_and(|rest| matches!(rest.first(), None | Some(b'+' | b';')))
}

/// As OpenTelemetry's `error.type` has it.
pub(crate) fn name(grpc: u16) -> &'static str {
    NAMES.get(usize::from(grpc)).unwrap_or(&NAMES[usize::from(UNKNOWN)])
}

/// The table of gRPC's HTTP mapping, for the statuses that say something of the server.
pub(crate) fn http_status(grpc: u16) -> u16 {
    match grpc {
        2 | 13 | 15 => 500,
        4 => 504,
        8 => 429,
        12 => 501,
        14 => 503,
        _ => 200,
    }
}

/// What a client is told instead of an HTTP status of ours. UNAVAILABLE invites it to try again, so only what may be
/// tried again is that. <https://github.com/grpc/grpc/blob/master/doc/http-grpc-status-mapping.md>
pub(crate) fn of_http(status: StatusCode) -> u16 {
    match status.as_u16() {
        401 => UNAUTHENTICATED,
        403 => PERMISSION_DENIED,
        404 | 405 | 501 => UNIMPLEMENTED,
        408 => DEADLINE_EXCEEDED,
        413 => RESOURCE_EXHAUSTED,
        400 => INTERNAL,
        429 | 502 | 503 | 504 => UNAVAILABLE,
        _ => UNKNOWN,
    }
}
