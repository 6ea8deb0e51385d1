//! [`Material`]: a certificate, its key and the roots, read from files and held together.
//!
//! Files are replaced one after another, or half: what is used must therefore fit. A key that is not the
//! certificate's, a certificate that has ended or not begun, a PEM block without its end are refused by name;
//! who watches keeps what it has and looks again.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use aws_lc_rs::digest::{Context, SHA256};
use rustls::{
    RootCertStore,
    crypto::CryptoProvider,
    pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject},
    sign::CertifiedKey,
};

use crate::security::{SecurityError, tls::identity::Leaf};

/// Which files, and where the configuration names them.
#[derive(Clone, Debug)]
pub(crate) struct Files {
    /// Such as `listeners[0].tls`.
    pub(crate) key: String,
    /// Certificate and key.
    pub(crate) pair: Option<(PathBuf, PathBuf)>,
    pub(crate) trust: Option<PathBuf>,
}

/// What is in the files, as bytes.
pub(crate) struct Contents {
    pair: Option<(Vec<u8>, Vec<u8>)>,
    trust: Option<Vec<u8>>,
}

/// What is in the files, fit for use.
#[derive(Debug)]
pub(crate) struct Material {
    pub(crate) pair: Option<Arc<CertifiedKey>>,
    /// The own certificate, read.
    pub(crate) leaf: Option<Leaf>,
    pub(crate) roots: Option<Arc<RootCertStore>>,
}

impl Files {
    /// Reads them all. Paths are followed anew each time, so that a symlink may be turned to another folder.
    pub(crate) fn read(&self) -> Result<Contents, SecurityError> {
        let pair = match &self.pair {
            Some((certificate, key)) => Some((self.file("certificate", certificate)?, self.file("key", key)?)),
            None => None,
        };
        let trust = self.trust.as_ref().map(|trust| self.file("trust", trust)).transpose()?;
        Ok(Contents { pair, trust })
    }

    fn file(&self, name: &str, path: &Path) -> Result<Vec<u8>, SecurityError> {
        std::fs::read(path).map_err(|error| self.wrong(name, path, &error.to_string()))
    }

    /// Makes use of them, or says what does not fit.
    pub(crate) fn parse(
        &self,
        contents: &Contents,
        provider: &CryptoProvider,
        now_unix_s: i64,
    ) -> Result<Material, SecurityError> {
        let (mut pair, mut leaf, mut roots) = (None, None, None);
        if let (Some((certificate, key)), Some((path, key_path))) = (&contents.pair, &self.pair) {
            let chain = certificates(certificate).map_err(|why| self.wrong("certificate", path, &why))?;
            let own = Leaf::read(&chain[0]).map_err(|error| self.wrong("certificate", path, &error.to_string()))?;
            own.check_time(now_unix_s).map_err(|error| self.wrong("certificate", path, &error.to_string()))?;
            let key =
                PrivateKeyDer::from_pem_slice(key).map_err(|error| self.wrong("key", key_path, &error.to_string()))?;
            let fits = CertifiedKey::from_der(chain, key, provider);
            let fits =
                fits.map_err(|error| self.wrong("key", key_path, &format!("not the certificate's key: {error}")))?;
            (pair, leaf) = (Some(Arc::new(fits)), Some(own));
        }
        if let (Some(trust), Some(path)) = (&contents.trust, &self.trust) {
            roots = Some(Arc::new(root_store(trust).map_err(|why| self.wrong("trust", path, &why))?));
        }
        Ok(Material { pair, leaf, roots })
    }

    fn wrong(&self, name: &str, path: &Path, why: &str) -> SecurityError {
        SecurityError::new(format!("{}.{name}", self.key), format!("{}: {why}", path.display()))
    }
}

impl Contents {
    /// By which a change is known, without keeping a second copy of the key in memory.
    pub(crate) fn fingerprint(&self) -> [u8; 32] {
        let mut context = Context::new(&SHA256);
        let (certificate, key) = self.pair.as_ref().map_or((&[][..], &[][..]), |(c, k)| (c, k));
        for part in [certificate, key, self.trust.as_deref().unwrap_or_default()] {
            context.update(&(part.len() as u64).to_le_bytes());
            context.update(part);
        }
        context.finish().as_ref().try_into().expect("SHA-256 has 32 bytes")
    }
}

/// The roots of a PEM file; each must be usable, so that a damaged one is noticed now and not by its clients.
pub(crate) fn root_store(pem: &[u8]) -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    for certificate in certificates(pem)? {
        roots.add(certificate).map_err(|error| format!("not a root: {error}"))?;
    }
    Ok(roots)
}

/// The roots that the system trusts.
pub(crate) fn system_roots() -> Result<RootCertStore, String> {
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() { Err("the system has no roots to trust: name some in trust".to_owned()) } else { Ok(roots) }
}

fn certificates(pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let all: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    let all = all.map_err(|error| error.to_string())?;
    if all.is_empty() { Err("there is no certificate in it".to_owned()) } else { Ok(all) }
}
