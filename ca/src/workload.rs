//! Certificates of workloads: issued into a folder, renewed in place.
//!
//! A folder holds `tls.crt`, `tls.key` and `ca.crt`, as a Kubernetes secret of the type
//! `kubernetes.io/tls` does. A renewal turns all three in one step ([`replace_together`]), so that whoever starts
//! finds a pair that fits, whenever a renewal was ended. Who reads one before and one after the step has two that do
//! not fit: who watches them (the proxy does) keeps the pair it has and looks again.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, KeyPair, KeyUsagePurpose, SanType,
};
use weir_policy::SpiffeId;

use crate::{
    Authority, Error,
    authority::{CLOCK_SKEW, create_key},
    files::{self, Access},
    inspect,
    together::replace_together,
};

/// The certificate of a workload in its folder.
pub const CERTIFICATE: &str = "tls.crt";

/// The key of a workload in its folder.
pub const KEY: &str = "tls.key";

/// Whom the workload trusts.
pub const TRUST: &str = "ca.crt";

/// What a workload is certified to be.
#[derive(Clone, Debug)]
pub struct WorkloadRequest {
    /// Its identity, in the root's trust domain.
    pub id: SpiffeId,
    /// Host names and addresses for clients that know no SPIFFE.
    pub dns_names: Vec<String>,
    /// How long the certificate lives; never longer than the root.
    pub lifetime: Duration,
}

/// A certificate and its key, as PEM.
#[derive(Clone, Debug)]
pub struct Issued {
    /// The certificate.
    pub certificate_pem: String,
    /// Its key, in PKCS#8.
    pub key_pem: String,
    /// Until when it is valid.
    pub not_after: SystemTime,
}

impl WorkloadRequest {
    /// A day: what leaks ends soon, and a root that is away for a night stops nothing.
    pub const LIFETIME: Duration = Duration::from_hours(24);
}

impl Authority {
    /// Certifies a workload.
    ///
    /// # Errors
    /// An id of another trust domain, a root that has ended, names that cannot be certified.
    pub fn issue(&self, request: &WorkloadRequest, now: SystemTime) -> Result<Issued, Error> {
        let pair = KeyPair::generate()?;
        self.issue_for(&pair, request, now)
    }

    /// Certifies a workload into `folder`, where there must be no certificate yet.
    ///
    /// # Errors
    /// As for [`Self::issue`]; a file that exists; a disk that refuses.
    pub fn issue_into(&self, folder: &Path, request: &WorkloadRequest, now: SystemTime) -> Result<Issued, Error> {
        let certificate = folder.join(CERTIFICATE);
        if certificate.exists() {
            return Err(Error::Exists { path: certificate });
        }
        self.check(request, now)?;
        files::folder(folder)?;
        let issued = self.issue_for(&create_key(&folder.join(KEY))?, request, now)?;
        files::replace(&folder.join(TRUST), self.certificate_pem(), Access::Public)?;
        // the last: where it is, all is
        files::create(&certificate, &issued.certificate_pem, Access::Public)?;
        Ok(issued)
    }

    /// Renews the certificate in `folder`: the same names, a new key, a lifetime from now.
    ///
    /// # Errors
    /// As for [`Self::issue`]; no certificate of a workload in the folder; a disk that refuses.
    pub fn renew(&self, folder: &Path, lifetime: Duration, now: SystemTime) -> Result<Issued, Error> {
        let request = request_of(&folder.join(CERTIFICATE), lifetime)?;
        let issued = self.issue(&request, now)?;
        let files = [
            (TRUST, self.certificate_pem(), Access::Public),
            (KEY, issued.key_pem.as_str(), Access::Owner),
            (CERTIFICATE, issued.certificate_pem.as_str(), Access::Public),
        ];
        replace_together(folder, &files)?;
        Ok(issued)
    }

    fn issue_for(&self, pair: &KeyPair, request: &WorkloadRequest, now: SystemTime) -> Result<Issued, Error> {
        self.check(request, now)?;
        let not_after = (now + request.lifetime).min(self.not_after);
        let certificate = workload_params(request, now, not_after)?.signed_by(pair, &self.issuer)?;
        Ok(Issued { certificate_pem: certificate.pem(), key_pem: pair.serialize_pem(), not_after })
    }

    fn check(&self, request: &WorkloadRequest, now: SystemTime) -> Result<(), Error> {
        let refused = |why: String| Err(Error::Request(why));
        let WorkloadRequest { id, lifetime, .. } = request;
        if id.trust_domain() != self.trust_domain() {
            return refused(format!("{id} is not in the trust domain {:?} of this root", self.trust_domain()));
        }
        if id.path().is_empty() {
            return refused(format!("{id} names no workload: a path is missing"));
        }
        if lifetime.is_zero() {
            return refused("a lifetime of 0 s ends before it begins".into());
        }
        if now >= self.not_after {
            return refused("the root has expired: make a new one".into());
        }
        Ok(())
    }
}

/// When a certificate is due for renewal: half of its life, so that a root that is away is noticed in time.
#[must_use]
pub fn renew_at(not_before: SystemTime, not_after: SystemTime) -> SystemTime {
    not_before + not_after.duration_since(not_before).unwrap_or_default() / 2
}

fn request_of(path: &Path, lifetime: Duration) -> Result<WorkloadRequest, Error> {
    let content = |why: String| Error::Content { path: path.to_owned(), why };
    let description = inspect(&files::read(path)?).map_err(content)?.swap_remove(0);
    let id = description.spiffe_id.ok_or_else(|| content("it names no SPIFFE id".into()))?;
    Ok(WorkloadRequest { id, dns_names: description.dns_names, lifetime })
}

fn workload_params(
    request: &WorkloadRequest,
    now: SystemTime,
    not_after: SystemTime,
) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(request.dns_names.clone())?;
    params.subject_alt_names.push(SanType::URI(request.id.as_str().try_into()?));
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, common_name(&request.id));
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = not_after.into();
    Ok(params)
}

/// The last segment of the id, for people; X.509 allows 64 characters.
fn common_name(id: &SpiffeId) -> String {
    id.path().rsplit('/').next().unwrap_or_default().chars().take(64).collect()
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;
    use crate::RootRequest;

    fn root(dir: &Path, now: SystemTime) -> Authority {
        let request = RootRequest { trust_domain: "mesh.local".into(), lifetime: Duration::from_hours(48) };
        Authority::create(&dir.join("ca"), &request, now).unwrap()
    }

    fn request(id: &str) -> WorkloadRequest {
        let dns_names = ["tagger", "tagger.shop.svc", "10.0.0.7", "fd00::7"].map(str::to_owned).to_vec();
        WorkloadRequest { id: id.parse().unwrap(), dns_names, lifetime: WorkloadRequest::LIFETIME }
    }

    #[test]
    fn a_workload_is_certified_renewed_and_never_overwritten() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let (root, folder) = (root(dir.path(), now), dir.path().join("tagger"));
        let tagger = request("spiffe://mesh.local/ns/shop/sa/tagger");
        root.issue_into(&folder, &tagger, now).unwrap();
        let first = fs::read_to_string(folder.join(CERTIFICATE)).unwrap();
        let description = inspect(&first).unwrap().swap_remove(0);
        assert_eq!(description.spiffe_id.as_ref(), Some(&tagger.id));
        assert_eq!(description.dns_names, tagger.dns_names);
        assert_eq!((description.is_ca, description.subject.as_str()), (false, "CN=tagger"));
        assert_eq!(fs::metadata(folder.join(KEY)).unwrap().permissions().mode() & 0o777, 0o600);
        assert!(matches!(root.issue_into(&folder, &tagger, now), Err(Error::Exists { .. })));

        let later = now + Duration::from_hours(12);
        let renewed = root.renew(&folder, WorkloadRequest::LIFETIME, later).unwrap();
        let second = fs::read_to_string(folder.join(CERTIFICATE)).unwrap();
        assert!(second != first && second == renewed.certificate_pem);
        let description = inspect(&second).unwrap().swap_remove(0);
        assert_eq!((description.spiffe_id, description.dns_names), (Some(tagger.id), tagger.dns_names));
        assert_eq!(fs::read_to_string(folder.join(TRUST)).unwrap(), root.certificate_pem());
    }

    #[test]
    fn a_run_that_was_ended_is_finished_by_the_next() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let (root, folder) = (root(dir.path(), now), dir.path().join("tagger"));
        let tagger = request("spiffe://mesh.local/tagger");
        root.issue_into(&folder, &tagger, now).unwrap();
        for name in [CERTIFICATE, TRUST] {
            fs::remove_file(folder.join(name)).unwrap();
        }
        let issued = root.issue_into(&folder, &tagger, now).unwrap();
        assert_eq!(fs::read_to_string(folder.join(TRUST)).unwrap(), root.certificate_pem());
        assert_eq!(fs::read_to_string(folder.join(KEY)).unwrap(), issued.key_pem);
        assert_eq!(fs::read_to_string(folder.join(CERTIFICATE)).unwrap(), issued.certificate_pem);
    }

    #[test]
    fn no_certificate_outlives_its_root() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let root = root(dir.path(), now);
        let long = WorkloadRequest { lifetime: Duration::from_hours(1_000), ..request("spiffe://mesh.local/x") };
        assert_eq!(root.issue(&long, now).unwrap().not_after, root.not_after);
        let ended = root.issue(&long, now + Duration::from_hours(49)).unwrap_err().to_string();
        assert!(ended.contains("expired"), "{ended}");
    }

    #[test]
    fn what_cannot_be_certified_is_refused() {
        let (dir, now) = (tempfile::tempdir().unwrap(), SystemTime::now());
        let root = root(dir.path(), now);
        for (id, expected) in
            [("spiffe://other.local/x", "not in the trust domain"), ("spiffe://mesh.local", "a path is missing")]
        {
            let why = root.issue(&request(id), now).unwrap_err().to_string();
            assert!(why.contains(expected), "{id}: {why}");
        }
        let ended = WorkloadRequest { lifetime: Duration::ZERO, ..request("spiffe://mesh.local/x") };
        assert!(matches!(root.issue(&ended, now), Err(Error::Request(_))));
        assert!(matches!(root.renew(dir.path(), WorkloadRequest::LIFETIME, now), Err(Error::File { .. })));
    }

    #[test]
    fn renewal_is_due_at_half_of_the_life() {
        let start = SystemTime::UNIX_EPOCH;
        assert_eq!(renew_at(start, start + Duration::from_hours(24)), start + Duration::from_hours(12));
    }
}
