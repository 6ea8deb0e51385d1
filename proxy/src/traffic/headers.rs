//! What a proxy must take out of messages before they go on: fields that belong to one connection
//! (RFC 9110 §7.6.1), and the identity that only sidecars may claim.

use http::{
    HeaderMap, HeaderName, HeaderValue,
    header::{
        CONNECTION, CONTENT_LENGTH, COOKIE, HOST, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING,
        UPGRADE,
    },
};

/// `service/instance` of the workload whose sidecar sent the request.
pub(crate) const PEER: HeaderName = HeaderName::from_static("x-weir-peer");

/// Why the proxy itself answered.
pub(crate) const REASON: HeaderName = HeaderName::from_static("x-weir-reason");

const KEEP_ALIVE: HeaderName = HeaderName::from_static("keep-alive");
const PROXY_CONNECTION: HeaderName = HeaderName::from_static("proxy-connection");

/// What belongs to one connection, whatever `Connection` names.
static HOP_BY_HOP: [HeaderName; 8] =
    [CONNECTION, KEEP_ALIVE, PROXY_CONNECTION, PROXY_AUTHENTICATE, PROXY_AUTHORIZATION, TE, TRANSFER_ENCODING, UPGRADE];

/// What their names begin with; most others do not.
const INITIALS: [u8; 5] = *b"ckptu";

/// Removes what belongs to the connection the message came on.
pub(crate) fn strip_hop_by_hop(headers: &mut HeaderMap) {
    // one look at the names that are there costs less than eight searches for names that mostly are not
    let mut there = [false; HOP_BY_HOP.len()];
    for name in headers.keys().filter(|name| INITIALS.contains(&name.as_str().as_bytes()[0])) {
        if let Some(place) = HOP_BY_HOP.iter().position(|hop| hop == name) {
            there[place] = true;
        }
    }
    if !there.contains(&true) {
        return;
    }
    strip_named_by_connection(headers);
    let trailers_wanted = headers.get(TE).is_some_and(|te| te.as_bytes().eq_ignore_ascii_case(b"trailers"));
    for (name, _) in HOP_BY_HOP.iter().zip(there).filter(|(_, there)| *there) {
        headers.remove(name);
    }
    // gRPC needs it, and it says nothing about the connection
    if trailers_wanted {
        headers.insert(TE, HeaderValue::from_static("trailers"));
    }
}

/// What `Connection` names.
pub(crate) fn connection_options(headers: &HeaderMap) -> impl Iterator<Item = &str> {
    let values = headers.get_all(CONNECTION).iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).map(str::trim)
}

/// HTTP/2 and an absolute form carry the host in the target, HTTP/1.1 in a field.
pub(crate) fn set_host(headers: &mut HeaderMap, uri: &http::Uri) {
    if let Some(host) = uri.authority().and_then(|authority| HeaderValue::from_str(authority.as_str()).ok()) {
        headers.insert(HOST, host);
    }
}

/// HTTP/1.0 may have no host; then the endpoint's address stands in.
pub(crate) fn default_host(headers: &mut HeaderMap, endpoint: &str) {
    if !headers.contains_key(HOST)
        && let Ok(host) = HeaderValue::from_str(endpoint)
    {
        headers.insert(HOST, host);
    }
}

/// HTTP/2 may carry `Cookie` in crumbs, HTTP/1.1 in one field only (RFC 9113 §8.2.3).
pub(crate) fn join_cookies(headers: &mut HeaderMap) {
    let mut crumbs = headers.get_all(COOKIE).iter();
    if crumbs.next().is_none() || crumbs.next().is_none() {
        return;
    }
    let crumbs: Vec<&[u8]> = headers.get_all(COOKIE).iter().map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&crumbs.join(&b"; "[..])) {
        headers.insert(COOKIE, joined);
    }
}

/// What `Connection` names, except what says who the message is for and how long it is: to name those
/// would be a way to take them from under the next hop.
fn strip_named_by_connection(headers: &mut HeaderMap) {
    // what nearly everybody says names no other field
    if headers.get_all(CONNECTION).iter().all(|value| value == "keep-alive" || value == "close") {
        return;
    }
    let named: Vec<HeaderName> = connection_options(headers)
        .filter_map(|name| name.parse().ok())
        .filter(|name| *name != HOST && *name != CONTENT_LENGTH && *name != TE)
        .collect();
    for name in named {
        headers.remove(name);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_field_of_a_connection_is_looked_for() {
        for name in &HOP_BY_HOP {
            let mut headers = HeaderMap::from_iter([(name.clone(), HeaderValue::from_static("x"))]);
            strip_hop_by_hop(&mut headers);
            assert!(headers.is_empty(), "{name}");
        }
    }

    #[test]
    fn what_belongs_to_the_connection_stays_behind() {
        let mut headers = HeaderMap::new();
        for (name, value) in [
            ("connection", "close, x-private"),
            ("x-private", "1"),
            ("keep-alive", "timeout=5"),
            ("transfer-encoding", "chunked"),
            ("upgrade", "h2c"),
            ("te", "trailers"),
            ("accept", "*/*"),
        ] {
            headers.insert(HeaderName::from_static(name), value.parse().unwrap());
        }
        strip_hop_by_hop(&mut headers);
        let mut left: Vec<&str> = headers.keys().map(HeaderName::as_str).collect();
        left.sort_unstable();
        assert_eq!(left, ["accept", "te"]);
    }
}
