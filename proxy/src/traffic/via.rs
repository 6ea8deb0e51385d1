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
    http1: HeaderValue,
    http2: HeaderValue,
}

impl Via {
    /// A name nobody else has.
    pub(crate) fn new(listener: usize) -> Self {
        let pseudonym = format!("weir-{:016x}-{listener}", rand::random::<u64>());
        let value = |version: &str| {
            HeaderValue::try_from(format!("{version} {pseudonym}")).expect("hexadecimal digits and dashes")
        };
        Self { http1: value("1.1"), http2: value("2"), pseudonym }
    }

    /// Whether the request was here before.
    pub(crate) fn is_loop(&self, headers: &HeaderMap) -> bool {
        headers.get_all(VIA).iter().any(|via| memmem::find(via.as_bytes(), self.pseudonym.as_bytes()).is_some())
    }

    /// Tells those who come after.
    pub(crate) fn sign(&self, headers: &mut HeaderMap, received: Version) {
        let value = if received == Version::HTTP_2 { &self.http2 } else { &self.http1 };
        headers.append(VIA, value.clone());
    }

    /// Signs a copy of a request that may be signed already, or takes the name off it; what others said stays.
    pub(crate) fn sign_copy(&self, headers: &mut HeaderMap, signs: bool) {
        let others = headers.get_all(VIA).iter().filter(|via| ![&self.http1, &self.http2].contains(via));
        let others: Vec<HeaderValue> = others.cloned().collect();
        headers.remove(VIA);
        for via in others.into_iter().chain(signs.then(|| self.http1.clone())) {
            headers.append(VIA, via);
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
        mine.sign_copy(&mut headers, true);
        assert!(mine.is_loop(&headers) && headers.get_all(VIA).iter().count() == 3, "signed once");
        mine.sign_copy(&mut headers, false);
        assert!(!mine.is_loop(&headers) && headers.get_all(VIA).iter().count() == 2, "what others said stays");
        mine.sign_copy(&mut headers, true);
        assert!(mine.is_loop(&headers), "also where the request went on unsigned");
    }
}
