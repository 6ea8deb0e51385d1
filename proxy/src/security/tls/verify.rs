//! Whether a certificate may be believed: it leads to a root, lives, and names whom it should.
//!
//! rustls checks chains and host names; SPIFFE ids it does not know. [`ClientVerifier`] asks rustls first
//! and then for a trust domain, [`ServerVerifier`] for one of the ids that an upstream may have.

use std::sync::Arc;

use rustls::{
    CertificateError, DigitallySignedStruct, DistinguishedName, Error, RootCertStore, SignatureScheme,
    client::{
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
        verify_server_cert_signed_by_trust_anchor, verify_server_name,
    },
    crypto::{WebPkiSupportedAlgorithms, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, ServerName, UnixTime},
    server::{
        ParsedCertificate,
        danger::{ClientCertVerified, ClientCertVerifier},
    },
};
use weir_policy::SpiffeId;

use crate::security::tls::identity::Leaf;

/// Checks clients.
#[derive(Debug)]
pub(crate) struct ClientVerifier {
    /// rustls's: chain, time, purpose.
    pub(crate) chain: Arc<dyn ClientCertVerifier>,
    /// Whose workloads may call; any certificate when empty.
    pub(crate) trust_domains: Vec<String>,
}

/// Checks servers.
#[derive(Debug)]
pub(crate) struct ServerVerifier {
    pub(crate) roots: Arc<RootCertStore>,
    /// Ids, or their beginnings and `*`; the host name counts when empty.
    pub(crate) spiffe_ids: Vec<String>,
    pub(crate) algorithms: WebPkiSupportedAlgorithms,
}

impl ClientCertVerifier for ClientVerifier {
    fn offer_client_auth(&self) -> bool {
        self.chain.offer_client_auth()
    }

    fn client_auth_mandatory(&self) -> bool {
        self.chain.client_auth_mandatory()
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        self.chain.root_hint_subjects()
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, Error> {
        let verified = self.chain.verify_client_cert(end_entity, intermediates, now)?;
        if !self.trust_domains.is_empty() {
            let id = Leaf::read(end_entity)?.spiffe_id.ok_or_else(not_for_this)?;
            if !self.trust_domains.iter().any(|domain| domain == id.trust_domain()) {
                return Err(not_for_this());
            }
        }
        Ok(verified)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.chain.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chain.supported_verify_schemes()
    }
}

impl ServerCertVerifier for ServerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        let parsed = ParsedCertificate::try_from(end_entity)?;
        verify_server_cert_signed_by_trust_anchor(&parsed, &self.roots, intermediates, now, self.algorithms.all)?;
        if self.spiffe_ids.is_empty() {
            verify_server_name(&parsed, server_name)?;
        } else {
            let id = Leaf::read(end_entity)?.spiffe_id.ok_or_else(not_for_this)?;
            if !self.spiffe_ids.iter().any(|expected| names(expected, &id)) {
                return Err(not_for_this());
            }
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls12_signature(message, cert, dss, &self.algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        verify_tls13_signature(message, cert, dss, &self.algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.algorithms.supported_schemes()
    }
}

fn names(expected: &str, id: &SpiffeId) -> bool {
    match expected.strip_suffix('*') {
        Some(prefix) => id.as_str().starts_with(prefix),
        None => id.as_str() == expected,
    }
}

/// A good certificate of somebody else.
fn not_for_this() -> Error {
    Error::InvalidCertificate(CertificateError::ApplicationVerificationFailure)
}
