//! [`Leaf`]: what the certificate of a peer, or our own, says of its owner.

use rustls::{CertificateError, Error};
use weir_policy::SpiffeId;
use x509_parser::{
    extensions::GeneralName,
    prelude::{FromDer, X509Certificate},
};

/// One end-entity certificate, read.
#[derive(Clone, Debug)]
pub(crate) struct Leaf {
    /// Its identity, if it has exactly one URI and that is a SPIFFE id.
    pub(crate) spiffe_id: Option<SpiffeId>,
    /// How RFC 4514 writes its subject.
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
            spiffe_id: spiffe_id(names),
            subject: certificate.subject().to_string(),
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

/// Exactly one URI, as X.509-SVIDs have: with two it would be a matter of taste who the peer is.
fn spiffe_id(names: &[GeneralName<'_>]) -> Option<SpiffeId> {
    let uri = |name: &GeneralName<'_>| match name {
        GeneralName::URI(uri) => Some((*uri).to_owned()),
        _ => None,
    };
    let mut uris = names.iter().filter_map(uri);
    let only = uris.next().filter(|_| uris.next().is_none())?;
    only.parse().ok()
}

/// Seconds since the Unix epoch.
pub(crate) fn unix_s_now() -> i64 {
    i64::try_from(crate::telemetry::unix_nano_now() / 1_000_000_000).unwrap_or(i64::MAX)
}
