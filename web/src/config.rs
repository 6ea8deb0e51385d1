//! What the web part can be told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The web part's configuration.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Config {
    /// Connections of the web door; one more is closed at once and counted. 256: a browser keeps six to a server, so forty readers.
    pub max_connections: usize,
    /// Who is told of alerts.
    pub webhooks: Vec<Webhook>,
}

/// A receiver of alerts.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Webhook {
    /// Its name in the history.
    pub name: String,
    /// Where alerts are posted.
    pub url: String,
    /// Headers added to each post.
    #[serde(default)]
    pub headers: BTreeMap<String, String>,
}

impl Default for Config {
    fn default() -> Self {
        Self { max_connections: 256, webhooks: Vec::new() }
    }
}

/// More cannot be counted.
const MAX_CONNECTIONS: usize = tokio::sync::Semaphore::MAX_PERMITS;

impl Config {
    /// Checks that every receiver can be reached by name and URL.
    ///
    /// # Errors
    /// The key and what it must be.
    pub fn validate(&self) -> Result<(), String> {
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            return Err(format!("max_connections: must be from 1 to {MAX_CONNECTIONS}"));
        }
        for (place, hook) in self.webhooks.iter().enumerate() {
            let url = url::Url::parse(&hook.url).map_err(|e| format!("webhooks[{place}].url: {:?}: {e}", hook.url))?;
            if !matches!(url.scheme(), "http" | "https") {
                return Err(format!("webhooks[{place}].url: {:?} is neither http nor https", hook.url));
            }
            if self.webhooks[..place].iter().any(|other| other.name == hook.name) {
                return Err(format!("webhooks[{place}].name: {:?} is there twice", hook.name));
            }
        }
        Ok(())
    }
}
