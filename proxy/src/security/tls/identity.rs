//! [`Leaf`]: what the certificate of a peer, or our own, says of its owner.

use rustls::{CertificateError, Error};
use weir_policy::SpiffeId;
use x509_parser::{
    extensions::GeneralName,
    objects::{oid_registry, oid2abbrev},
    prelude::{AttributeTypeAndValue, FromDer, X509Certificate, X509Name},
};

/// One end-entity certificate, read.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Its identity, if it has exactly one URI and that is a SPIFFE id.
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// Its subject as RFC 4514 writes it, the last part first.
    pub(crate) subject: String,
    pub(crate) dns_names: Vec<String>,
    pub(crate) not_before_unix_s: i64,
    pub(crate) not_after_unix_s: i64,
}

impl Leaf {
    /// Reads DER that TLS has checked already, or that a file claims to be.
    pub(crate) fn read(der: &[u8]) -> Result<Self, Error> {
        let damaged = || Error::InvalidCertificate(CertificateError::BadEncoding);
        let (_, certificate) = X509Certificate::from_der(der).map_err(|_| damaged())?;
        let names = certificate.subject_alternative_name().map_err(|_| damaged())?;
        let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
        let dns = |name: &GeneralName<'_>| match name {
            GeneralName::DNSName(name) => Some((*name).to_owned()),
            _ => None,
        };
        Ok(Self {
            spiffe_id: SpiffeId::of_uris(names.iter().filter_map(uri)),
            subject: subject(certificate.subject()),
            dns_names: names.iter().filter_map(dns).collect(),
            not_before_unix_s: certificate.validity().not_before.timestamp(),
            not_after_unix_s: certificate.validity().not_after.timestamp(),
        })
    }

    /// Whether it has begun and not ended.
    pub(crate) fn check_time(&self, now_unix_s: i64) -> Result<(), Error> {
        if now_unix_s < self.not_before_unix_s {
            return Err(CertificateError::NotValidYet.into());
        }
        if now_unix_s > self.not_after_unix_s {
            return Err(CertificateError::Expired.into());
        }
        Ok(())
    }
}

fn subject(name: &X509Name<'_>) -> String {
    let joined = |parts: Vec<String>, by: &str| parts.join(by);
    let mut parts: Vec<_> = name.iter_rdn().map(|rdn| joined(rdn.iter().map(attribute).collect(), "+")).collect();
    parts.reverse();
    joined(parts, ",")
}

/// `CN=tagger`; a value that is no text is `#` and its bytes in hex.
fn attribute(attribute: &AttributeTypeAndValue<'_>) -> String {
    let oid = attribute.attr_type();
    let name = oid2abbrev(oid, oid_registry()).map_or_else(|_| oid.to_id_string(), str::to_owned);
    let value = attribute.as_str().map_or_else(|_| format!("#{}", hex::encode(attribute.as_slice())), escaped);
    format!("{name}={value}")
}

fn escaped(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for c in text.chars() {
        if matches!(c, ',' | '+' | '"' | '\\' | '<' | '>' | ';' | '=') {
            escaped.push('\\');
        }
        escaped.push(c);
    }
    escaped
}

fn uri<'a>(name: &'a GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_s_now() -> i64 {
    i64::try_from(crate::telemetry::unix_nano_now() / 1_000_000_000).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use rcgen::{CertificateParams, DistinguishedName, DnType, KeyPair, SanType};

    use super::*;

    fn leaf(names: &[&str], subject: DistinguishedName) -> Leaf {
        let mut params = CertificateParams::default();
        params.distinguished_name = subject;
        params.subject_alt_names = names.iter().map(|name| SanType::URI((*name).try_into().unwrap())).collect();
        (params.not_before, params.not_after) = (rcgen::date_time_ymd(2020, 1, 1), rcgen::date_time_ymd(2020, 1, 2));
        Leaf::read(params.self_signed(&KeyPair::generate().unwrap()).unwrap().der()).unwrap()
    }

    #[test]
    fn one_uri_is_an_identity_and_none_or_two_are_not() {
        for (names, expected) in [
            (&["spiffe://mesh.local/a"][..], Some("spiffe://mesh.local/a")),
            (&[], None),
            (&["https://mesh.local/a"], None),
            (&["spiffe://mesh.local/a", "spiffe://mesh.local/b"], None),
            (&["spiffe://mesh.local/a", "https://mesh.local/b"], None),
        ] {
            let leaf = leaf(names, DistinguishedName::new());
            assert_eq!(leaf.spiffe_id.as_ref().map(SpiffeId::as_str), expected, "{names:?}");
        }
    }

    #[test]
    fn a_subject_is_written_as_rfc_4514_has_it() {
        let mut subject = DistinguishedName::new();
        subject.push(DnType::OrganizationName, "a, \"b\"");
        subject.push(DnType::CommonName, "tagger");
        assert_eq!(leaf(&[], subject).subject, r#"CN=tagger,O=a\, \"b\""#);
    }

    #[test]
    fn a_certificate_counts_from_its_first_second_to_its_last() {
        let leaf = leaf(&[], DistinguishedName::new());
        let (first, last) = (1_577_836_800, 1_577_923_200);
        for (now, expected) in [(first - 1, false), (first, true), (last, true), (last + 1, false)] {
            assert_eq!(leaf.check_time(now).is_ok(), expected, "{now}");
        }
        assert!(Leaf::read(b"not a certificate").is_err());
    }
}
