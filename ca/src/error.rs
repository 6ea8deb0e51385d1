//! [`Error`]: why a certificate is not made, by what the caller would do about it.

use std::{io, path::PathBuf};

/// Why the authority does not do what it is asked.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A file that must not be replaced is there already.
    #[error("{} exists and is not overwritten", path.display())]
    Exists {
        /// Which one.
        path: PathBuf,
    },
    /// A file cannot be read or written.
    #[error("{}: {source}", path.display())]
    File {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// A file holds no certificate or key that can be used.
    #[error("{}: {why}", path.display())]
    Content {
        /// Which one.
        path: PathBuf,
        /// What is wrong with it.
        why: String,
    },
    /// What is asked for cannot be certified.
    #[error("{0}")]
    Request(String),
    /// The cryptographic library refuses.
    #[error("making the certificate: {0}")]
    Crypto(#[from] rcgen::Error),
}
