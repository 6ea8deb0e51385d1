//! Whom a request is for: the authority in its target (`:authority` in HTTP/2), else its `Host` field.

use http::{HeaderMap, Request, Uri, header::HOST, uri::Authority};

/// As it stands, with its port.
pub(crate) fn authority_of<B>(request: &Request<B>) -> Option<&str> {
    authority(request.uri(), request.headers())
}

/// As [`authority_of`], of a message in parts.
pub(crate) fn authority<'a>(uri: &'a Uri, headers: &'a HeaderMap) -> Option<&'a str> {
    let from_header = || headers.get(HOST)?.to_str().ok();
    uri.authority().map(Authority::as_str).or_else(from_header)
}

/// Without its port, as names are compared.
pub(crate) fn host_of<B>(request: &Request<B>) -> Option<&str> {
    authority_of(request).map(|authority| without_final_dot(split_port(authority).0))
}

/// `reviews.prod.svc.cluster.local.` is the same host, said so that no resolver looks for it below its own domains.
pub(crate) fn without_final_dot(host: &str) -> &str {
    host.strip_suffix('.').unwrap_or(host)
}

/// The host, of which an IPv6 literal keeps its brackets, and the port.
pub(crate) fn split_port(authority: &str) -> (&str, Option<u16>) {
    match authority.rsplit_once(':') {
        Some((host, port)) if !port.contains(']') => (host, port.parse().ok()),
        _ => (authority, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_target_comes_first_and_the_port_goes() {
        for (uri, host, expected) in [
            ("http://a:1/", "b", Some("a")),
            ("/", "b:80", Some("b")),
            ("/", "[::1]", Some("[::1]")),
            ("/", "[::1]:8080", Some("[::1]")),
            ("/", "", Some("")),
            ("/", "b.example.:80", Some("b.example")),
            ("http://a.:1/", "b", Some("a")),
            ("/", "b..", Some("b.")),
        ] {
            let request = Request::builder().uri(uri).header(HOST, host).body(()).unwrap();
            assert_eq!(host_of(&request), expected, "{uri} {host}");
        }
        assert_eq!(host_of(&Request::builder().uri("/").body(()).unwrap()), None);
    }
}
