//! `X-Forwarded-For` and `X-Forwarded-Proto`: whom a request is from and how it came, for the application, to which the
//! proxy is the client.

use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

use crate::{config::Forwarded, security::remove_alike, traffic::client::Client};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Says it in the fields of a request, as its listener is told.
pub(crate) fn say(forwarded: Forwarded, client: &Client, headers: &mut HeaderMap) {
    match forwarded {
        Forwarded::Keep => return,
        Forwarded::Append => {}
        Forwarded::Replace => [FOR, PROTO].iter().for_each(|name| remove_alike(headers, name)),
    }
    add_address(&client.name, headers);
    if let Entry::Vacant(proto) = headers.entry(PROTO) {
        proto.insert(if client.peer.is_some() { HTTPS } else { HTTP });
    }
}

/// Behind those that are there, in one field: of several, some applications read the first only.
fn add_address(name: &HeaderValue, headers: &mut HeaderMap) {
    let before = match headers.entry(FOR) {
        Entry::Vacant(address) => {
            address.insert(name.clone());
            return;
        }
        Entry::Occupied(before) => before,
    };
    let all: Vec<&[u8]> = before.iter().chain([name]).map(HeaderValue::as_bytes).collect();
    if let Ok(joined) = HeaderValue::from_bytes(&all.join(&b", "[..])) {
        headers.insert(FOR, joined);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn the_application_is_told_who_asks_and_how() {
        let (append, replace, keep) = (Forwarded::Append, Forwarded::Replace, Forwarded::Keep);
        for (forwarded, address, tls, said, expected) in [
            (append, "10.0.0.7", false, &[][..], (Some("10.0.0.7"), Some("http"))),
            (append, "fd00::7", true, &[], (Some("fd00::7"), Some("https"))),
            (append, "::ffff:10.0.0.7", false, &[], (Some("10.0.0.7"), Some("http"))),
            (
                append,
                "10.0.0.7",
                false,
                &[("x-forwarded-for", "1.2.3.4"), ("x-forwarded-for", "10.0.0.1"), ("x-forwarded-proto", "https")],
                (Some("1.2.3.4, 10.0.0.1, 10.0.0.7"), Some("https")),
            ),
            (
                replace,
                "10.0.0.7",
                false,
                &[("x-forwarded-for", "1.2.3.4"), ("x_forwarded-for", "1.2.3.4"), ("x-forwarded-proto", "https")],
                (Some("10.0.0.7"), Some("http")),
            ),
            (keep, "10.0.0.7", true, &[], (None, None)),
            (keep, "10.0.0.7", true, &[("x-forwarded-for", "1.2.3.4")], (Some("1.2.3.4"), None)),
        ] {
            let mut client = Client::new(address.parse().unwrap(), None);
            client.peer = tls.then(Arc::default);
            let mut headers = HeaderMap::new();
            for (name, value) in said {
                headers.append(*name, value.parse().unwrap());
            }
            say(forwarded, &client, &mut headers);
            let text = |name| headers.get(name).map(|value: &HeaderValue| value.to_str().unwrap());
            assert_eq!((text(FOR), text(PROTO)), expected, "{forwarded:?} {address} {said:?}");
            assert!(headers.get_all(FOR).iter().count() < 2 && !headers.contains_key("x_forwarded-for"));
        }
    }
}
