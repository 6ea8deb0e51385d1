//! [`ConfigFiles`]: `proxy.yaml` and the files of Istio's that it names, as they stood at one moment.
//!
//! A configuration is made of texts that were read together, and the same texts are what the next look is compared with:
//! a file that changes in between is seen by that look.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use crate::config::{Config, ConfigError};

/// The texts of a configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigFiles {
    pub(crate) path: PathBuf,
    text: String,
    /// Those of Istio's, or why they cannot be read.
    istio: BTreeMap<PathBuf, Result<String, String>>,
}

impl ConfigFiles {
    /// Reads a `proxy.yaml` and what it names.
    ///
    /// # Errors
    /// The `proxy.yaml` cannot be read; what is wrong with the others is told by [`Self::config`].
    pub fn read(path: &Path) -> io::Result<Self> {
        let text = fs::read_to_string(path)?;
        let istio = named_by(&text).into_iter().map(|path| (path.clone(), read(&path))).collect();
        Ok(Self { path: path.to_owned(), text, istio })
    }

    /// As they stand now.
    pub(crate) fn again(&self) -> io::Result<Self> {
        let text = fs::read_to_string(&self.path)?;
        if text != self.text {
            return Self::read(&self.path);
        }
        let istio = self.istio.keys().map(|path| (path.clone(), read(path))).collect();
        Ok(Self { path: self.path.clone(), text, istio })
    }

    /// The checked configuration; what Istio's files say stands in its routes and upstreams.
    ///
    /// # Errors
    /// The first key or field that cannot be used, or file that could not be read.
    pub fn config(&self) -> Result<Config, ConfigError> {
        let unread = || Err("it was not read".to_owned());
        Config::from_yaml(&self.text)?.with_istio_from(|path| self.istio.get(path).cloned().unwrap_or_else(unread))
    }
}

/// The files of Istio's that a `proxy.yaml` names; none when it cannot be used.
fn named_by(text: &str) -> Vec<PathBuf> {
    let config = Config::from_yaml(text);
    config.into_iter().flat_map(|config| config.listeners).flat_map(|listener| listener.istio).collect()
}

fn read(path: &Path) -> Result<String, String> {
    fs::read_to_string(path).map_err(|error| error.to_string())
}
