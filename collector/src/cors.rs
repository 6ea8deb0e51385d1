//! [`Cors`]: web pages that may send by OTLP/HTTP.
//!
//! A browser asks before it lets a page of one origin send to another (a preflight, <https://fetch.spec.whatwg.org/#http-cors-protocol>)
//! and shows the page only answers that name its origin. Nobody is asked who they are here, so an origin is no guard against
//! programs; it only says which pages a browser lets through. Off unless origins are configured.

use ::http::{HeaderMap, HeaderName, HeaderValue, Method, Response, StatusCode, header};
use weir_schema::InvalidSetting;

/// How long a browser remembers the answer to a preflight, in seconds: two hours, the longest that Chromium does.
const REMEMBERED_S: &str = "7200";

/// The allowed origins.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cors(Vec<Origins>);

/// An origin, or all that begin and end so.
#[derive(Clone, Debug)]
enum Origins {
    One(String),
    Between(String, String),
}

/// An allowed origin, as the browser wrote it.
#[derive(Clone, Debug)]
pub(crate) struct Allowed(HeaderValue);

impl Cors {
    /// Reads origins: `https://shop.example`, `https://*.shop.example`, or `*`.
    ///
    /// # Errors
    /// What is not an origin.
    pub(crate) fn new(origins: &[String]) -> Result<Self, InvalidSetting> {
        origins.iter().map(|origin| Origins::new(origin)).collect::<Result<_, _>>().map(Self)
    }

    /// Whether any page may send.
    pub(crate) fn is_on(&self) -> bool {
        !self.0.is_empty()
    }

    /// The origin of a request, if it is allowed.
    pub(crate) fn allowed(&self, headers: &HeaderMap) -> Option<Allowed> {
        let origin = headers.get(header::ORIGIN)?;
        let text = origin.to_str().ok()?.to_ascii_lowercase();
        self.0.iter().any(|origins| origins.have(&text)).then(|| Allowed(origin.clone()))
    }

    /// Says that answers differ by origin, for caches in between, and lets the page read this one if its origin is allowed.
    pub(crate) fn mark<B>(&self, allowed: Option<Allowed>, response: &mut Response<B>) {
        if !self.is_on() {
            return;
        }
        let headers = response.headers_mut();
        headers.append(header::VARY, HeaderValue::from_static("origin"));
        if let Some(Allowed(origin)) = allowed {
            headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
            // `sendBeacon` sends cookies, and then asks for this; they are not looked at
            set(headers, header::ACCESS_CONTROL_ALLOW_CREDENTIALS, "true");
            set(headers, header::ACCESS_CONTROL_EXPOSE_HEADERS, "retry-after");
        }
    }
}

impl Origins {
    fn new(text: &str) -> Result<Self, InvalidSetting> {
        let must = "be an origin: https://host, https://*.host or *";
        let no_origin = || InvalidSetting::new("cors_allowed_origins", format!("{text:?}"), must);
        let lower = text.to_ascii_lowercase();
        if lower == "*" {
            return Ok(Self::Between(String::new(), String::new()));
        }
        let (_, host) = lower.split_once("://").ok_or_else(no_origin)?;
        if host.is_empty() || host.contains(['/', '?', '#', ' ']) || HeaderValue::from_str(&lower).is_err() {
            return Err(no_origin());
        }
        match lower.split_once('*') {
            None => Ok(Self::One(lower)),
            Some((_, end)) if end.contains('*') => Err(no_origin()),
            Some((begin, end)) => Ok(Self::Between(begin.into(), end.into())),
        }
    }

    /// Whether this origin, in small letters, is one of them.
    fn have(&self, origin: &str) -> bool {
        match self {
            Self::One(one) => one == origin,
            Self::Between(begin, end) => {
                origin.strip_prefix(begin.as_str()).is_some_and(|rest| rest.ends_with(end.as_str()))
            }
        }
    }
}

/// Whether a browser asks what it may send.
pub(crate) fn is_preflight(method: &Method, headers: &HeaderMap) -> bool {
    method == Method::OPTIONS && headers.contains_key(header::ACCESS_CONTROL_REQUEST_METHOD)
}

/// The answer to a preflight from an allowed origin: POST, with whatever headers the page wants to send.
pub(crate) fn preflight<B: Default>(asked: &HeaderMap) -> Response<B> {
    let mut response = Response::new(B::default());
    *response.status_mut() = StatusCode::NO_CONTENT;
    let headers = response.headers_mut();
    set(headers, header::ACCESS_CONTROL_ALLOW_METHODS, "POST");
    set(headers, header::ACCESS_CONTROL_MAX_AGE, REMEMBERED_S);
    if let Some(wanted) = asked.get(header::ACCESS_CONTROL_REQUEST_HEADERS) {
        headers.insert(header::ACCESS_CONTROL_ALLOW_HEADERS, wanted.clone());
    }
    response
}

fn set(headers: &mut HeaderMap, name: HeaderName, value: &'static str) {
    headers.insert(name, HeaderValue::from_static(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn allows(origins: &[&str], origin: &str) -> bool {
        let origins: Vec<String> = origins.iter().map(ToString::to_string).collect();
        let headers = HeaderMap::from_iter([(header::ORIGIN, HeaderValue::from_str(origin).unwrap())]);
        Cors::new(&origins).unwrap().allowed(&headers).is_some()
    }

    #[test]
    fn an_origin_is_allowed_by_name_or_by_pattern() {
        for (origins, origin, expected) in [
            (&[][..], "https://shop.example", false),
            (&["*"], "https://shop.example", true),
            (&["*"], "null", true),
            (&["https://shop.example"], "https://shop.example", true),
            (&["https://Shop.example"], "https://shop.example", true),
            (&["https://shop.example"], "http://shop.example", false),
            (&["https://shop.example"], "https://shop.example:8443", false),
            (&["https://shop.example"], "https://shop.example.evil.example", false),
            (&["https://*.shop.example"], "https://a.shop.example", true),
            (&["https://*.shop.example"], "https://evilshop.example", false),
            (&["http://localhost:*"], "http://localhost:3000", true),
            (&["https://a.example", "https://b.example"], "https://b.example", true),
        ] {
            assert_eq!(allows(origins, origin), expected, "{origins:?} {origin}");
        }
    }

    #[test]
    fn what_is_not_an_origin_is_named() {
        for text in ["shop.example", "https://", "https://shop.example/", "https://*.*.example", "https://a b", ""] {
            let why = Cors::new(&[text.into()]).unwrap_err();
            assert_eq!(why.value, format!("{text:?}"));
        }
    }
}
