//! [`Affinity`]: which endpoint a request wants by its own key: a field, a cookie, a query parameter or
//! the client's address.

use std::net::IpAddr;

use http::{HeaderValue, Request, header::COOKIE};

use crate::{
    config::{Balance, CookieKey, HashOn},
    routing::parameters,
    upstream::{Upstream, ring::hash},
};

/// What the key is.
#[derive(Debug)]
pub(crate) struct HashKey(HashOn);

/// What a request wants.
#[derive(Debug, Default)]
pub(crate) struct Affinity {
    pub(crate) hash: Option<u64>,
    /// The cookie that a client without one is given.
    pub(crate) set_cookie: Option<HeaderValue>,
}

impl HashKey {
    pub(super) fn of(balance: &Balance) -> Option<Self> {
        match balance {
            Balance::RingHash(on) => Some(Self(on.clone())),
            _ => None,
        }
    }
}

impl Affinity {
    pub(crate) fn of<B>(upstream: &Upstream, request: &Request<B>, client: IpAddr) -> Self {
        let Some(HashKey(on)) = upstream.hash_on() else { return Self::default() };
        let value = match on {
            HashOn::Header(name) => request.headers().get(name).map(|value| hash(value.as_bytes())),
            HashOn::Query(name) => {
                parameters(request.uri().query()).find(|(key, _)| key == name).map(|(_, value)| hash(value.as_bytes()))
            }
            HashOn::Cookie(cookie) => match cookie_value(request, &cookie.name) {
                Some(value) => Some(hash(value.as_bytes())),
                None => return Self::given(cookie, request.uri().path()),
            },
            HashOn::SourceAddress => Some(match client {
                IpAddr::V4(v4) => hash(&v4.octets()),
                IpAddr::V6(v6) => hash(&v6.octets()),
            }),
        };
        Self { hash: value, set_cookie: None }
    }

    /// A new cookie, which the request is already treated by.
    fn given(cookie: &CookieKey, path: &str) -> Self {
        let Some(ttl_s) = cookie.ttl_s else { return Self::default() };
        let value = format!("{:032x}", rand::random::<u128>());
        // a path may hold a semicolon, which would begin an attribute of the client's choice
        let path = cookie.path.as_deref().unwrap_or(path).split(';').next().unwrap_or_default();
        let age = if ttl_s > 0 { format!("; Max-Age={ttl_s}") } else { String::new() };
        let set_cookie = HeaderValue::try_from(format!("{}={value}; Path={path}{age}; HttpOnly", cookie.name)).ok();
        Self { hash: Some(hash(value.as_bytes())), set_cookie }
    }
}

fn cookie_value<'a, B>(request: &'a Request<B>, name: &str) -> Option<&'a str> {
    let fields = request.headers().get_all(COOKIE).iter().filter_map(|field| field.to_str().ok());
    let pairs = fields.flat_map(|field| field.split(';')).filter_map(|pair| pair.trim().split_once('='));
    pairs.into_iter().find(|(key, _)| *key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config;

    fn affinity(on: HashOn, request: http::request::Builder, client: &str) -> Affinity {
        let config =
            config::Upstream { balance: Balance::RingHash(on), ..config::Upstream::new("u", vec!["a:1".into()]) };
        let upstream = Upstream::new(&config, None, 1, None);
        Affinity::of(&upstream, &request.body(()).unwrap(), client.parse().unwrap())
    }

    #[test]
    fn the_key_is_where_the_balance_says() {
        let request = || Request::get("/a?user=anna&x=1").header("x-user", "anna").header("cookie", "a=b; user=anna");
        let cookie = |ttl_s| CookieKey { name: "user".into(), path: None, ttl_s };
        for (on, expected) in [
            (HashOn::Header("x-user".into()), Some(hash(b"anna"))),
            (HashOn::Header("x-other".into()), None),
            (HashOn::Query("user".into()), Some(hash(b"anna"))),
            (HashOn::Cookie(cookie(None)), Some(hash(b"anna"))),
            (HashOn::SourceAddress, Some(hash(&[10, 0, 0, 1]))),
        ] {
            assert_eq!(affinity(on.clone(), request(), "10.0.0.1").hash, expected, "{on:?}");
        }
    }

    #[test]
    fn a_client_without_a_cookie_is_given_one_that_it_is_known_by() {
        let on = HashOn::Cookie(CookieKey { name: "user".into(), path: Some("/".into()), ttl_s: Some(60) });
        let first = affinity(on.clone(), Request::get("/a"), "10.0.0.1");
        let given = first.set_cookie.unwrap().to_str().unwrap().to_owned();
        assert!(given.ends_with("; Path=/; Max-Age=60; HttpOnly"), "{given}");
        let back = given.split(';').next().unwrap();
        let second = affinity(on, Request::get("/a").header("cookie", back), "10.0.0.1");
        assert_eq!((second.hash, second.set_cookie), (first.hash, None));
    }
}
