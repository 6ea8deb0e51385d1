//! [`Peer`]: who is at the other end of one connection, worked out once and shared by its requests.

use std::sync::Arc;

use aws_lc_rs::digest::{SHA256, digest};
use http::HeaderValue;
use rustls::{Error, RootCertStore, pki_types::CertificateDer};
use tokio::time::{Duration, Instant};
use weir_policy::SpiffeId;

use crate::security::tls::identity::Leaf;

/// The other end of a connection, as TLS has proved it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Peer {
    /// Its SPIFFE id, if its certificate names one.
    pub(crate) principal: Option<SpiffeId>,
    /// Its element of `X-Forwarded-Client-Cert`; none when it showed no certificate.
    pub(crate) forwarded: Option<HeaderValue>,
    /// When its certificate does.
    pub(crate) ends: Option<Instant>,
    /// The roots by which it was believed, where it was connected to.
    pub(crate) by: Option<Arc<RootCertStore>>,
}

impl Peer {
    /// From the chain it showed; `own` is who it spoke to. A session that goes on from an earlier one brings its
    /// certificate along without a new check, so the time is looked at here.
    pub(crate) fn of(
        chain: Option<&[CertificateDer<'_>]>,
        own: Option<&SpiffeId>,
        now_unix_s: i64,
    ) -> Result<Self, Error> {
        let Some(der) = chain.and_then(<[_]>::first) else { return Ok(Self::default()) };
        let leaf = Leaf::read(der)?;
        leaf.check_time(now_unix_s)?;
        let forwarded = HeaderValue::from_str(&element(&leaf, der, own)).ok();
        let left_s = u64::try_from(leaf.not_after_unix_s.saturating_sub(now_unix_s)).unwrap_or_default();
        let ends = Instant::now().checked_add(Duration::from_secs(left_s));
        Ok(Self { principal: leaf.spiffe_id, forwarded, ends, by: None })
    }
}

/// `By=…;Hash=…;Subject="…";URI=…;DNS=…` with the keys in Envoy's order.
fn element(leaf: &Leaf, der: &[u8], own: Option<&SpiffeId>) -> String {
    let mut text = own.map(|id| format!("By={id};")).unwrap_or_default();
    text += &format!("Hash={};Subject=\"{}\"", hex::encode(digest(&SHA256, der)), quoted(&leaf.subject));
    if let Some(id) = &leaf.spiffe_id {
        text += &format!(";URI={id}");
    }
    for name in &leaf.dns_names {
        text += &format!(";DNS={}", printable(name));
    }
    text
}

/// Within quotes: `"` and `\` are escaped, and what no header may hold is replaced.
fn quoted(text: &str) -> String {
    printable(text).replace('\\', "\\\\").replace('"', "\\\"")
}

/// A certificate can name anything: what would end the element or the header early becomes `?`.
fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_ascii_graphic() || c == ' ' { c } else { '?' }).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_element_says_what_the_certificate_says_and_stays_one() {
        let own: SpiffeId = "spiffe://mesh.local/parser".parse().unwrap();
        let leaf = Leaf {
            spiffe_id: "spiffe://mesh.local/tagger".parse().ok(),
            subject: "CN=\"tag\\ger\", O=\r\nx".into(),
            dns_names: vec!["tagger".into()],
            not_before_unix_s: 0,
            not_after_unix_s: 1,
        };
        let hash = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let expected = format!(
            "By=spiffe://mesh.local/parser;Hash={hash};Subject=\"CN=\\\"tag\\\\ger\\\", O=??x\";\
             URI=spiffe://mesh.local/tagger;DNS=tagger"
        );
        assert_eq!(element(&leaf, b"abc", Some(&own)), expected);
        assert!(HeaderValue::from_str(&expected).is_ok());
        assert!(Peer::of(None, None, 0).unwrap().forwarded.is_none());
    }
}
