//! [`Via`]: says through which listener a request came (RFC 9110 §7.6.3), so that one that comes round
//! again is known for a loop and ended, instead of going round until sockets run out.
//!
//! A name a listener, not a proxy: a workload that calls itself rightly passes the outbound and then
//! the inbound listener of one proxy.

use http::{HeaderMap, HeaderName, HeaderValue, Version, header};
use memchr::memmem;

const VIA: HeaderName = header::VIA;

/// The name of one listener of one running proxy.
#[derive(Debug)]
pub(crate) struct Via {
    pseudonym: String,
    http10: HeaderValue,
    http11: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A name nobody else has.
    pub(crate) fn new(listener: usize) -> Self {
        let pseudonym = format!("weir-{:016x}-{listener}", rand::random::<u64>());
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("hexadecimal digits and dashes")
        };
        Self { http10: value("1.0"), http11: value("1.1"), http2: value("2"), pseudonym }
    }

    /// Whether the request was here before.
    pub(crate) fn is_loop(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().any(|via| memmem::find(via.as_bytes(), self.pseudonym.as_bytes()).is_some())
    }

    /// Tells those who come after; `received` is the version that the request came with.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, received: Version) {
        headers.append(VIA, self.signature(received).clone());
    }

    /// Signs a copy of a request that may be signed already, or takes the name off it; what others said stays.
    pub(crate) fn sign_copy(&self, headers: &mut HeaderMap, received: Version, signs: bool) {
        let mine = self.signature(received);
        let others: Vec<HeaderValue> = headers.get_all(VIA).iter().filter(|via| *via != mine).cloned().collect();
        headers.remove(VIA);
        for via in others.into_iter().chain(signs.then(|| mine.clone())) {
            headers.append(VIA, via);
        }
    }

    fn signature(&self, received: Version) -> &HeaderValue {
        match received {
            Version::HTTP_09 | Version::HTTP_10 => &self.http10,
            Version::HTTP_2 => &self.http2,
            _ => &self.http11,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listener_knows_its_own_name_among_others() {
        let (mine, other) = (Via::new(0), Via::new(0));
        let mut headers = HeaderMap::new();
        headers.insert(VIA, HeaderValue::from_static("1.1 varnish, 1.0 squid"));
        other.sign(&mut headers, Version::HTTP_11);
        assert!(!mine.is_loop(&headers));
        mine.sign(&mut headers, Version::HTTP_2);
        assert!(mine.is_loop(&headers) && other.is_loop(&headers));
        assert_eq!(headers.get_all(VIA).iter().count(), 3, "what others said stays");
        assert_eq!(headers.get_all(VIA).iter().next_back(), Some(&mine.http2), "as it came, not as it goes on");
    }

    #[test]
    fn a_copy_is_signed_as_its_own_upstream_has_it_and_with_the_version_that_came() {
        let via = Via::new(0);
        for (received, version) in [(Version::HTTP_10, "1.0"), (Version::HTTP_11, "1.1"), (Version::HTTP_2, "2")] {
            let mine = format!("{version} {}", via.pseudonym);
            for (request_is_signed, copy_is_signed) in [(true, true), (true, false), (false, true), (false, false)] {
                let mut headers = HeaderMap::from_iter([(VIA, HeaderValue::from_static("1.1 varnish"))]);
                if request_is_signed {
                    via.sign(&mut headers, received);
                }
                via.sign_copy(&mut headers, received, copy_is_signed);
                let said: Vec<_> = headers.get_all(VIA).iter().map(|value| value.to_str().unwrap()).collect();
                let expected: Vec<_> = ["1.1 varnish"].into_iter().chain(copy_is_signed.then_some(&*mine)).collect();
                assert_eq!(said, expected, "{received:?} {request_is_signed}");
                assert_eq!(via.is_loop(&headers), copy_is_signed);
            }
        }
    }
}
