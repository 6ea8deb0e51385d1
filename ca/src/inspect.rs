//! [`inspect`]: what is in a certificate, for people and for renewal.

use std::{
    fmt,
    net::IpAddr,
    time::{Duration, SystemTime},
};

use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use weir_policy::SpiffeId;
use x509_parser::{
    extensions::GeneralName,
    pem::Pem,
    prelude::{ASN1Time, X509Certificate},
};

/// One certificate in words.
#[derive(Clone, Debug)]
pub struct Description {
    /// Whom it names.
    pub subject: String,
    /// Who signed it.
    pub issuer: String,
    /// Its identity, if it has exactly one URI and that is a SPIFFE id.
    pub spiffe_id: Option<SpiffeId>,
    /// Host names, and addresses.
    pub dns_names: Vec<String>,
    /// From when it is valid.
    pub not_before: SystemTime,
    /// Until when it is valid.
    pub not_after: SystemTime,
    /// Whether it may sign others.
    pub is_ca: bool,
    /// Its number among those of its issuer, in hex.
    pub serial: String,
    /// SHA-256 of the whole certificate, in hex.
    pub sha256: String,
    /// Its public key, as DER.
    pub(crate) public_key: Vec<u8>,
}

/// Describes every certificate of a PEM file, in their order; at least one.
///
/// # Errors
/// What cannot be read.
pub fn inspect(pem: &str) -> Result<Vec<Description>, String> {
    let mut all = Vec::new();
    for block in Pem::iter_from_buffer(pem.as_bytes()) {
        let block = block.map_err(|error| format!("it is no PEM: {error}"))?;
        if block.label == "CERTIFICATE" {
            let certificate = block.parse_x509().map_err(|error| format!("it is no X.509 certificate: {error}"))?;
            all.push(describe(&certificate, &block.contents)?);
        }
    }
    if all.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(all) }
}

impl Description {
    /// What is left of its life; nothing when it has ended.
    #[must_use]
    pub fn left(&self, now: SystemTime) -> Duration {
        self.not_after.duration_since(now).unwrap_or_default()
    }
}

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let id = self.spiffe_id.as_ref().map_or("none", SpiffeId::as_str);
        let kind = if self.is_ca { "certificate authority" } else { "workload" };
        writeln!(f, "subject     {}", self.subject)?;
        writeln!(f, "issuer      {}", self.issuer)?;
        writeln!(f, "kind        {kind}")?;
        writeln!(f, "spiffe id   {id}")?;
        writeln!(f, "dns names   {}", self.dns_names.join(", "))?;
        writeln!(f, "not before  {}", rfc3339(self.not_before))?;
        writeln!(f, "not after   {}", rfc3339(self.not_after))?;
        writeln!(f, "serial      {}", self.serial)?;
        write!(f, "sha256      {}", self.sha256)
    }
}

fn describe(certificate: &X509Certificate<'_>, der: &[u8]) -> Result<Description, String> {
    let names = certificate.subject_alternative_name().map_err(|error| format!("its names cannot be read: {error}"))?;
    let names = names.map(|extension| extension.value.general_names.as_slice()).unwrap_or_default();
    Ok(Description {
        subject: certificate.subject().to_string(),
        issuer: certificate.issuer().to_string(),
        spiffe_id: SpiffeId::of_uris(names.iter().filter_map(uri)),
        dns_names: names.iter().filter_map(host).collect(),
        not_before: at(certificate.validity().not_before),
        not_after: at(certificate.validity().not_after),
        is_ca: certificate.is_ca(),
        serial: hex::encode(certificate.raw_serial()),
        sha256: hex::encode(aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, der)),
        public_key: certificate.public_key().raw.to_vec(),
    })
}

/// An address is four bytes or sixteen.
fn host(name: &GeneralName<'_>) -> Option<String> {
    match name {
        GeneralName::DNSName(name) => Some((*name).to_owned()),
        GeneralName::IPAddress(bytes) => {
            let short = <[u8; 4]>::try_from(*bytes).map(IpAddr::from).ok();
            short.or_else(|| <[u8; 16]>::try_from(*bytes).map(IpAddr::from).ok()).map(|address| address.to_string())
        }
        _ => None,
    }
}

fn uri<'a>(name: &'a GeneralName<'a>) -> Option<&'a str> {
    if let GeneralName::URI(uri) = name { Some(uri) } else { None }
}

fn at(time: ASN1Time) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(time.timestamp()).unwrap_or(0))
}

fn rfc3339(time: SystemTime) -> String {
    OffsetDateTime::from(time).format(&Rfc3339).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_no_certificate_is_said_so() {
        for (text, expected) in [
            ("", "no certificate"),
            ("not PEM at all", "no certificate"),
            ("-----BEGIN CERTIFICATE-----\n", "no PEM"),
            ("-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "no X.509"),
        ] {
            let why = inspect(text).unwrap_err();
            assert!(why.contains(expected), "{text:?}: {why}");
        }
    }
}
