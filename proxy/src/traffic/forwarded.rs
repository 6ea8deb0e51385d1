//! `X-Forwarded-For` and `X-Forwarded-Proto`: whom a request is from and how it came, for the application, to which the
//! proxy is the client.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header::Entry};

use crate::{config::Forwarded, security::remove_alike, traffic::client::Client};

const FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");

const HTTP: HeaderValue = HeaderValue::from_static("http");
const HTTPS: HeaderValue = HeaderValue::from_static("https");

/// Who asks by the `hops` proxies before a listener: each has added, at the end, who asked it. Nobody is known where there are too
/// few, or no address.
pub(crate) fn asker(hops: u32, headers: &HeaderMap) -> Option<IpAddr> {
    let place = (hops as usize).checked_sub(1)?;
    let fields = headers.get_all(FOR).iter().rev();
    let mut said = fields.flat_map(|field| field.as_bytes().rsplit(|byte| *byte == b','));
    let address = std::str::from_utf8(said.nth(place)?).ok()?.trim();
    // some gateways add the port
    address.parse().ok().or_else(|| address.parse().ok().as_ref().map(SocketAddr::ip))
}

/// Says it in the fields of a request, as its listener is told.
pub(crate) fn say(forwarded: Forwarded, client: &Client, headers: &mut HeaderMap) {
    match forwarded {
        Forwarded::Keep => return,
        Forwarded::Append => add_address(client.hop.as_ref().unwrap_or(&client.name), headers),
        Forwarded::Replace => replace(client, headers),
    }
    if let Entry::Vacant(proto) = headers.entry(PROTO) {
        proto.insert(if client.peer.is_some() { HTTPS } else { HTTP });
    }
}

/// A trusted proxy knows how the client came to it, and nobody else does.
fn replace(client: &Client, headers: &mut HeaderMap) {
    let proto = headers.get_all(PROTO).iter().next_back().filter(|_| client.hop.is_some()).cloned();
    [FOR, PROTO].iter().for_each(|name| remove_alike(headers, name));
    headers.insert(FOR, client.name.clone());
    if let Some(proto) = proto {
        headers.insert(PROTO, proto);
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
    fn the_client_stands_as_many_places_from_the_right_as_proxies_are_trusted() {
        for (hops, said, expected) in [
            (0, &["1.2.3.4"][..], None),
            (1, &[], None),
            (1, &["1.2.3.4"], Some("1.2.3.4")),
            (1, &["6.6.6.6, 1.2.3.4"], Some("1.2.3.4")),
            (2, &["6.6.6.6, 1.2.3.4 , 10.0.0.1"], Some("1.2.3.4")),
            (2, &["6.6.6.6,1.2.3.4", "10.0.0.1"], Some("1.2.3.4")),
            (2, &["1.2.3.4"], None),
            (1, &["1.2.3.4:5678"], Some("1.2.3.4")),
            (1, &["fd00::7"], Some("fd00::7")),
            (1, &["[fd00::7]:80"], Some("fd00::7")),
            (1, &["1.2.3.4, unknown"], None),
            (1, &["1.2.3.4,"], None),
            (u32::MAX, &["1.2.3.4"], None),
        ] {
            let headers = said.iter().map(|value| (FOR, HeaderValue::from_static(value)));
            let mut all = HeaderMap::new();
            headers.for_each(|(name, value)| _ = all.append(name, value));
            assert_eq!(asker(hops, &all), expected.map(|address| address.parse().unwrap()), "{hops} {said:?}");
        }
    }

    #[test]
    fn behind_a_trusted_proxy_the_field_stays_a_list_or_becomes_the_client() {
        let client = Client::new("10.0.0.7".parse().unwrap(), None).behind("1.2.3.4".parse().unwrap());
        for (forwarded, address, proto) in [
            (Forwarded::Append, "6.6.6.6, 1.2.3.4, 10.0.0.7", "http"),
            (Forwarded::Replace, "1.2.3.4", "https"),
            (Forwarded::Keep, "6.6.6.6, 1.2.3.4", "http"),
        ] {
            let mut headers = HeaderMap::from_iter([(FOR, HeaderValue::from_static("6.6.6.6, 1.2.3.4"))]);
            // the proxy that can be trusted added its own
            headers.append(PROTO, HTTP);
            headers.append(PROTO, HTTPS);
            headers.append("x_forwarded_for", HeaderValue::from_static("6.6.6.6"));
            say(forwarded, &client, &mut headers);
            let text = |name| headers[name].to_str().unwrap();
            assert_eq!((text(FOR), text(PROTO)), (address, proto), "{forwarded:?}");
            assert_eq!(headers.contains_key("x_forwarded_for"), forwarded != Forwarded::Replace);
        }
    }

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
