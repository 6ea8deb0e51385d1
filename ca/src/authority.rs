//! [`Authority`]: the root: its certificate and its key in one folder.

use std::{
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType,
};
use weir_policy::{SpiffeId, identity::is_trust_domain};

use crate::{
    Error,
    files::{self, Access},
    inspect::{Description, inspect},
};

/// The root's certificate in its folder.
const ROOT_CERTIFICATE: &str = "ca.crt";

/// The root's key in its folder.
const ROOT_KEY: &str = "ca.key";

/// Certificates are valid since five minutes: clocks in a mesh differ.
pub(crate) const CLOCK_SKEW: Duration = Duration::from_secs(300);

/// What a root is asked to be.
#[derive(Clone, Debug)]
pub struct RootRequest {
    /// Whom it vouches for: the ids `spiffe://TRUST_DOMAIN/…`.
    pub trust_domain: String,
    /// How long it lives.
    pub lifetime: Duration,
}

/// A root that issues.
#[derive(Debug)]
pub struct Authority {
    certificate_pem: String,
    trust_domain: String,
    pub(crate) not_after: SystemTime,
    pub(crate) issuer: Issuer<'static, KeyPair>,
}

impl RootRequest {
    /// Ten years: a root is replaced by hand, everywhere at once.
    pub const LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);
}

impl Authority {
    /// Makes a root in `folder`; one that is there is never overwritten.
    ///
    /// # Errors
    /// A trust domain that is none, a root that exists, a disk that refuses.
    pub fn create(folder: &Path, request: &RootRequest, now: SystemTime) -> Result<Self, Error> {
        if !is_trust_domain(&request.trust_domain) {
            return Err(Error::Request(format!("{:?} is no trust domain", request.trust_domain)));
        }
        let (certificate, key) = (folder.join(ROOT_CERTIFICATE), folder.join(ROOT_KEY));
        if certificate.exists() {
            return Err(Error::Exists { path: certificate });
        }
        files::folder(folder)?;
        let pair = create_key(&key)?;
        let root = root_params(request, now)?.self_signed(&pair)?;
        files::create(&certificate, &root.pem(), Access::Public)?;
        Self::open(folder)
    }

    /// Opens the root in `folder`.
    ///
    /// # Errors
    /// Files that are missing, that hold no root, or that do not belong together.
    pub fn open(folder: &Path) -> Result<Self, Error> {
        let (path, key_path) = (folder.join(ROOT_CERTIFICATE), folder.join(ROOT_KEY));
        let certificate_pem = files::read(&path)?;
        let unusable = |why: String| Error::Content { path: path.clone(), why };
        let Description { is_ca, not_after, spiffe_id, public_key, .. } =
            inspect(&certificate_pem).map_err(unusable)?.swap_remove(0);
        let id = spiffe_id.filter(|id| is_ca && id.path().is_empty());
        let id = id.ok_or_else(|| unusable("it is no root of weir's: no trust domain is named in it".into()))?;
        let pair = read_key(&key_path)?;
        if rcgen::PublicKeyData::subject_public_key_info(&pair) != public_key {
            return Err(Error::Content { path: key_path, why: format!("it is not the key of {ROOT_CERTIFICATE}") });
        }
        let issuer = Issuer::from_ca_cert_pem(&certificate_pem, pair)?;
        Ok(Self { certificate_pem, trust_domain: id.trust_domain().to_owned(), not_after, issuer })
    }

    /// The root's certificate: what others are given to trust.
    #[must_use]
    pub fn certificate_pem(&self) -> &str {
        &self.certificate_pem
    }

    /// Whom it vouches for.
    #[must_use]
    pub fn trust_domain(&self) -> &str {
        &self.trust_domain
    }
}

/// A new key in a file, or the one that is there: a run was ended before it had made the certificate, or another makes one
/// now. Which certificate of the key counts is decided by who writes it first.
pub(crate) fn create_key(path: &Path) -> Result<KeyPair, Error> {
    let pair = KeyPair::generate()?;
    match files::create(path, &pair.serialize_pem(), Access::Owner) {
        Ok(()) => Ok(pair),
        Err(Error::Exists { .. }) => read_key(path),
        Err(error) => Err(error),
    }
}

fn read_key(path: &Path) -> Result<KeyPair, Error> {
    let unusable = |error: rcgen::Error| Error::Content { path: path.to_owned(), why: error.to_string() };
    KeyPair::from_pem(&files::read(path)?).map_err(unusable)
}

fn root_params(request: &RootRequest, now: SystemTime) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "weir");
    params.distinguished_name.push(DnType::CommonName, format!("{} root", request.trust_domain));
    params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0));
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.not_before = (now - CLOCK_SKEW).into();
    params.not_after = (now + request.lifetime).into();
    let id: SpiffeId = format!("spiffe://{}", request.trust_domain).parse().expect("a checked trust domain");
    params.subject_alt_names = vec![SanType::URI(id.as_str().try_into()?)];
    Ok(params)
}

#[cfg(test)]
mod tests {
    use std::{fs, os::unix::fs::PermissionsExt};

    use super::*;

    fn request() -> RootRequest {
        RootRequest { trust_domain: "mesh.local".into(), lifetime: RootRequest::LIFETIME }
    }

    #[test]
    fn a_root_is_made_once_and_opened_again() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ca");
        let made = Authority::create(&folder, &request(), SystemTime::now()).unwrap();
        let opened = Authority::open(&folder).unwrap();
        assert_eq!(opened.certificate_pem(), made.certificate_pem());
        assert_eq!(opened.trust_domain(), "mesh.local");
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&folder), mode(&folder.join(ROOT_KEY))), (0o700, 0o600));
        let again = Authority::create(&folder, &request(), SystemTime::now());
        assert!(matches!(again, Err(Error::Exists { .. })));
        assert_eq!(fs::read_to_string(folder.join(ROOT_CERTIFICATE)).unwrap(), made.certificate_pem());
    }

    /// A folder with `ca.key` and no certificate, as a run leaves that is ended between the two: no later one could use it.
    #[test]
    fn a_run_that_was_ended_is_finished_by_the_next() {
        let dir = tempfile::tempdir().unwrap();
        let folder = dir.path().join("ca");
        Authority::create(&folder, &request(), SystemTime::now()).unwrap();
        let key = fs::read_to_string(folder.join(ROOT_KEY)).unwrap();
        fs::remove_file(folder.join(ROOT_CERTIFICATE)).unwrap();
        Authority::create(&folder, &request(), SystemTime::now()).unwrap();
        assert_eq!(fs::read_to_string(folder.join(ROOT_KEY)).unwrap(), key);
        fs::remove_file(folder.join(ROOT_CERTIFICATE)).unwrap();
        fs::write(folder.join(ROOT_KEY), "half a key").unwrap();
        let why = Authority::create(&folder, &request(), SystemTime::now()).unwrap_err().to_string();
        assert!(why.contains("ca.key"), "{why}");
    }

    #[test]
    fn a_root_that_does_not_hold_together_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (dir.path().join("one"), dir.path().join("other"));
        for folder in [&one, &other] {
            Authority::create(folder, &request(), SystemTime::now()).unwrap();
        }
        fs::copy(other.join(ROOT_KEY), one.join(ROOT_KEY)).unwrap();
        let why = Authority::open(&one).unwrap_err().to_string();
        assert!(why.contains("not the key of ca.crt"), "{why}");
        fs::write(other.join(ROOT_CERTIFICATE), "-----BEGIN CERTIFICATE-----\n").unwrap();
        assert!(matches!(Authority::open(&other), Err(Error::Content { .. })));
        assert!(matches!(Authority::open(dir.path()), Err(Error::File { .. })));
        let nameless = RootRequest { trust_domain: "Mesh Local".into(), ..request() };
        assert!(matches!(Authority::create(&one, &nameless, SystemTime::now()), Err(Error::Request(_))));
    }
}
