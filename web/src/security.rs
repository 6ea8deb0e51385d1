//! Headers on every answer, and who may change something.
//!
//! There is no authentication yet, so the server listens on loopback unless told otherwise; a page
//! of another site must not reach it through the user's browser: foreign `Host` names (DNS
//! rebinding) and cross-site posts are refused.

use axum::{
    extract::{Request, State},
    http::{HeaderMap, HeaderValue, Method, StatusCode, header},
    middleware::Next,
    response::{IntoResponse, Response},
};

use crate::error::ApiError;

const CONTENT_SECURITY_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data:; \
    connect-src 'self'; font-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'";

/// Who can reach the listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Door {
    /// Only this machine: a `Host` that is a foreign name came by DNS rebinding.
    Loopback,
    /// Others too, under names we cannot know.
    Open,
}

/// Guards a request and dresses its answer.
pub(crate) async fn guard(State(door): State<Door>, request: Request, next: Next) -> Response {
    let mut response = match refused(door, request.method(), request.headers()) {
        Some(error) => error.into_response(),
        None => next.run(request).await,
    };
    let headers = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "same-origin"),
        (header::CACHE_CONTROL, "no-store"),
    ];
    for (name, value) in headers {
        response.headers_mut().entry(name).or_insert(HeaderValue::from_static(value));
    }
    response
}

fn refused(door: Door, method: &Method, headers: &HeaderMap) -> Option<ApiError> {
    let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let changes = !matches!(*method, Method::GET | Method::HEAD | Method::OPTIONS);
    let host = text("host").unwrap_or_default();
    let cross_site = matches!(text("sec-fetch-site"), Some("cross-site" | "same-site"));
    let foreign_origin = text("origin").is_some_and(|origin| origin.split_once("://").is_none_or(|(_, o)| o != host));
    if door == Door::Loopback && !host.is_empty() && !is_local(host) {
        let why = format!("{host:?} is not a name of this machine: use 127.0.0.1 or localhost");
        return Some(ApiError::new(StatusCode::MISDIRECTED_REQUEST, "foreign_host", why));
    }
    if changes && (cross_site || foreign_origin) {
        return Some(ApiError::new(StatusCode::FORBIDDEN, "cross_site", "a page of another site may not do this"));
    }
    None
}

fn is_local(host: &str) -> bool {
    let name = host
        .rsplit_once(':')
        .filter(|(_, port)| port.bytes().all(|b| b.is_ascii_digit()))
        .map_or(host, |(name, _)| name);
    let name = name.trim_start_matches('[').trim_end_matches(']');
    name.eq_ignore_ascii_case("localhost") || name.parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_our_own_pages_and_tools_may_post() {
        let cases = [
            (&[("host", "127.0.0.1:7070")][..], true),
            (&[("host", "127.0.0.1:7070"), ("origin", "http://127.0.0.1:7070")], true),
            (&[("host", "127.0.0.1:7070"), ("origin", "http://evil.example")], false),
            (&[("host", "127.0.0.1:7070"), ("origin", "null")], false),
            (&[("host", "127.0.0.1:7070"), ("sec-fetch-site", "cross-site")], false),
        ];
        for (headers, allowed) in cases {
            let headers: HeaderMap = headers.iter().map(|(k, v)| (k.parse().unwrap(), v.parse().unwrap())).collect();
            assert_eq!(refused(Door::Loopback, &Method::POST, &headers).is_none(), allowed, "{headers:?}");
            assert!(refused(Door::Loopback, &Method::GET, &headers).is_none());
        }
    }

    #[test]
    fn a_foreign_name_does_not_reach_a_loopback_listener() {
        for (host, local) in [
            ("localhost:7070", true),
            ("[::1]:7070", true),
            ("127.0.0.1", true),
            ("evil.example:7070", false),
            ("10.0.0.1", false),
        ] {
            let headers: HeaderMap = [(header::HOST, host.parse().unwrap())].into_iter().collect();
            assert_eq!(refused(Door::Loopback, &Method::GET, &headers).is_none(), local, "{host}");
            assert!(refused(Door::Open, &Method::GET, &headers).is_none());
        }
    }
}
