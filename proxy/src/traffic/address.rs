//! How a request is addressed: HTTP/1.1 has a path and a `Host` field, HTTP/2 a whole URI.

use http::{
    HeaderValue, Uri, Version,
    header::HOST,
    request::Parts,
    uri::{Authority, PathAndQuery, Scheme},
};

use crate::{
    authority::authority,
    config::Protocol,
    traffic::headers::{join_cookies, set_host},
    upstream::Upstream,
};

/// Addresses a request to an upstream; `host` takes the place of the one that the client asked for.
pub(crate) fn address(parts: &mut Parts, upstream: &Upstream, path: PathAndQuery, host: Option<&HeaderValue>) {
    let uri = std::mem::take(&mut parts.uri);
    let headers = &mut parts.headers;
    match upstream.protocol {
        Protocol::Http1 => {
            join_cookies(headers);
            set_host(headers, &uri);
            if let Some(host) = host {
                headers.insert(HOST, host.clone());
            }
            parts.version = Version::HTTP_11;
            parts.uri = Uri::from(path);
        }
        Protocol::H2 => {
            let from_header = headers.remove(HOST).and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let rewritten = host.and_then(|host| Authority::try_from(host.as_bytes()).ok());
            let authority = rewritten.or_else(|| uri.authority().cloned()).or(from_header);
            let mut whole = http::uri::Parts::default();
            whole.scheme = Some(if upstream.tls.is_some() { Scheme::HTTPS } else { Scheme::HTTP });
            whole.authority = Some(authority.unwrap_or_else(|| Authority::from_static("localhost")));
            whole.path_and_query = Some(path);
            parts.version = Version::HTTP_2;
            parts.uri = Uri::from_parts(whole).unwrap_or_default();
        }
    }
}

/// Addresses the copy of a request: its host ends in `-shadow`, as in Envoy, so that logs tell it apart.
pub(crate) fn shadow(parts: &mut Parts, upstream: &Upstream) {
    let asked = authority(&parts.uri, &parts.headers).unwrap_or_default();
    let (name, port) = match asked.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) => (name, format!(":{port}")),
        _ => (asked, String::new()),
    };
    let shadowed = HeaderValue::try_from(format!("{name}-shadow{port}")).ok();
    let path = parts.uri.path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
    address(parts, upstream, path, shadowed.as_ref());
}

#[cfg(test)]
mod tests {
    use http::Request;

    use super::*;
    use crate::config;

    fn upstream(protocol: Protocol) -> Upstream {
        let config = config::Upstream { protocol, ..config::Upstream::new("u", vec!["a:1".into()]) };
        Upstream::new(&config, None, 1, None)
    }

    #[test]
    fn a_shadow_is_told_by_its_host() {
        for (host, expected) in [("shop", "shop-shadow"), ("shop:80", "shop-shadow:80")] {
            let (mut parts, ()) = Request::get("/a?b=1").header("host", host).body(()).unwrap().into_parts();
            shadow(&mut parts, &upstream(Protocol::Http1));
            assert_eq!((parts.headers[HOST].to_str().unwrap(), parts.uri.to_string().as_str()), (expected, "/a?b=1"));
            shadow(&mut parts, &upstream(Protocol::H2));
            assert!(parts.uri.to_string().ends_with("/a?b=1") && parts.headers.get(HOST).is_none());
        }
    }
}
