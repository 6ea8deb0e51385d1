//! [`SpiffeId`]: who a workload is, as its certificate says: `spiffe://trust-domain/path`.
//!
//! The rules are those of the SPIFFE ID specification, section 2: a lower-case trust domain without
//! port, a path of non-empty segments without `.` and `..`, no query, no fragment, 2,048 bytes at most.
//! What does not hold them is no identity: a lenient reading would let two texts name one workload.
//! <https://github.com/spiffe/spiffe/blob/main/standards/SPIFFE-ID.md>

use std::{fmt, str::FromStr};

const SCHEME: &str = "spiffe://";

/// The specification's bound on the whole id.
const MAX_BYTES: usize = 2_048;

/// The specification's bound on a trust domain.
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// The identity of a workload or, without a path, of a whole trust domain.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SpiffeId {
    text: String,
    /// Where the path begins; the end when there is none.
    path_at: usize,
}

/// Why a text is no SPIFFE id.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum SpiffeIdError {
    /// Another scheme, or none.
    #[error("it must start with spiffe://")]
    Scheme,
    /// Longer than 2,048 bytes.
    #[error("it is longer than 2048 bytes")]
    Length,
    /// Empty, too long, or with characters that a trust domain cannot have.
    #[error("its trust domain may have a-z, 0-9, dot, dash and underscore, and at most 255 of them")]
    TrustDomain,
    /// An empty or relative segment, or characters that a path cannot have.
    #[error(
        "its path must be of non-empty segments of letters, digits, dot, dash and underscore, none of them . or .."
    )]
    Path,
}

impl SpiffeId {
    /// The identity of a certificate with these URIs: of exactly one, as X.509-SVIDs have. With two it would be a matter of
    /// taste who the workload is.
    pub fn of_uris<'a>(mut uris: impl Iterator<Item = &'a str>) -> Option<Self> {
        let only = uris.next()?;
        if uris.next().is_some() { None } else { only.parse().ok() }
    }

    /// Who vouches for the workload.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.text[SCHEME.len()..self.path_at]
    }

    /// Which workload of the trust domain, with its leading `/`; empty for the trust domain itself.
    #[must_use]
    pub fn path(&self) -> &str {
        &self.text[self.path_at..]
    }

    /// The whole id.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The id without its scheme, as Istio writes principals: `cluster.local/ns/default/sa/tagger`.
    #[must_use]
    pub fn principal(&self) -> &str {
        &self.text[SCHEME.len()..]
    }

    /// The namespace of an id that follows Kubernetes's form `/ns/NAMESPACE/sa/ACCOUNT`.
    #[must_use]
    pub fn namespace(&self) -> Option<&str> {
        let mut segments = self.path().split('/').skip(1);
        (segments.next()? == "ns").then(|| segments.next())?
    }
}

impl FromStr for SpiffeId {
    type Err = SpiffeIdError;

    fn from_str(text: &str) -> Result<Self, SpiffeIdError> {
        let rest = text.strip_prefix(SCHEME).ok_or(SpiffeIdError::Scheme)?;
        if text.len() > MAX_BYTES {
            return Err(SpiffeIdError::Length);
        }
        let path_at = rest.find('/').unwrap_or(rest.len());
        let (trust_domain, path) = rest.split_at(path_at);
        if !is_trust_domain(trust_domain) {
            return Err(SpiffeIdError::TrustDomain);
        }
        if !path.is_empty() && !path[1..].split('/').all(is_segment) {
            return Err(SpiffeIdError::Path);
        }
        Ok(Self { text: text.to_owned(), path_at: SCHEME.len() + path_at })
    }
}

impl fmt::Display for SpiffeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `name` can be a trust domain.
#[must_use]
pub fn is_trust_domain(name: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_TRUST_DOMAIN_BYTES && name.bytes().all(allowed)
}

fn is_segment(segment: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_');
    !segment.is_empty() && segment != "." && segment != ".." && segment.bytes().all(allowed)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_uri_is_an_identity_and_none_or_two_are_not() {
        let (a, b) = ("spiffe://mesh.local/a", "spiffe://mesh.local/b");
        for (uris, expected) in
            [(&[][..], None), (&[a], Some(a)), (&[a, b], None), (&[a, "https://b"], None), (&["https://a"], None)]
        {
            let id = SpiffeId::of_uris(uris.iter().copied());
            assert_eq!(id.as_ref().map(SpiffeId::as_str), expected, "{uris:?}");
        }
    }

    #[test]
    fn an_id_is_read_into_its_parts() {
        for (text, trust_domain, path, namespace) in [
            ("spiffe://mesh.local/ns/shop/sa/tagger", "mesh.local", "/ns/shop/sa/tagger", Some("shop")),
            ("spiffe://mesh.local/tagger", "mesh.local", "/tagger", None),
            ("spiffe://mesh.local/sa/tagger/ns/x", "mesh.local", "/sa/tagger/ns/x", None),
            ("spiffe://mesh_1-a", "mesh_1-a", "", None),
        ] {
            let id: SpiffeId = text.parse().unwrap();
            assert_eq!((id.trust_domain(), id.path(), id.namespace()), (trust_domain, path, namespace), "{text}");
            assert_eq!((id.as_str(), id.to_string()), (text, text.to_owned()));
        }
    }

    #[test]
    fn what_is_no_id_is_refused_with_its_reason() {
        use SpiffeIdError::{Length, Path, Scheme, TrustDomain};
        for (text, expected) in [
            ("", Scheme),
            ("https://mesh.local/x", Scheme),
            ("SPIFFE://mesh.local/x", Scheme),
            ("spiffe://", TrustDomain),
            ("spiffe:///x", TrustDomain),
            ("spiffe://Mesh.local/x", TrustDomain),
            ("spiffe://mesh.local:8443/x", TrustDomain),
            ("spiffe://user@mesh.local/x", TrustDomain),
            ("spiffe://mesh.local/", Path),
            ("spiffe://mesh.local/x/", Path),
            ("spiffe://mesh.local//x", Path),
            ("spiffe://mesh.local/x/../y", Path),
            ("spiffe://mesh.local/./x", Path),
            ("spiffe://mesh.local/%61", Path),
            ("spiffe://mesh.local/x?y", Path),
            ("spiffe://mesh.local/x#y", Path),
        ] {
            assert_eq!(text.parse::<SpiffeId>(), Err(expected), "{text}");
        }
        let long = format!("spiffe://mesh.local/{}", "x".repeat(MAX_BYTES));
        assert_eq!(long.parse::<SpiffeId>(), Err(Length));
    }
}
