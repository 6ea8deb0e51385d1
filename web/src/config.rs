//! What the web part can be told.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use weir_store::InvalidSetting;

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
    /// The first that cannot be used.
    pub fn validate(&self) -> Result<(), InvalidSetting> {
        if !(1..=MAX_CONNECTIONS).contains(&self.max_connections) {
            let must = format!("be from 1 to {MAX_CONNECTIONS}");
            return Err(InvalidSetting::new("max_connections", self.max_connections, must));
        }
        self.webhooks.iter().enumerate().try_for_each(|(at, hook)| {
            hook.validate(&self.webhooks[..at]).map_err(|invalid| invalid.within(&format!("webhooks[{at}]")))
        })
    }
}

impl Webhook {
    fn validate(&self, before: &[Self]) -> Result<(), InvalidSetting> {
        let of_url = |must: String| InvalidSetting::new("url", format!("{:?}", self.url), must);
        let url = url::Url::parse(&self.url).map_err(|why| of_url(format!("be a URL: {why}")))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(of_url("be http or https".to_owned()));
        }
        if before.iter().any(|other| other.name == self.name) {
            return Err(InvalidSetting::new("name", format!("{:?}", self.name), "be there once"));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named_with_its_value() {
        let hook = |name: &str, url: &str| Webhook { name: name.into(), url: url.into(), headers: BTreeMap::new() };
        let said =
            |webhooks: Vec<Webhook>| Config { webhooks, ..Config::default() }.validate().map_err(|e| e.to_string());
        let (good, ftp) = (hook("a", "https://a.example/x"), hook("b", "ftp://b.example"));
        assert_eq!(said(vec![good.clone()]), Ok(()));
        let expected = r#"webhooks[1].url: is "ftp://b.example", must be http or https"#;
        assert_eq!(said(vec![good.clone(), ftp]), Err(expected.to_owned()));
        assert_eq!(said(vec![good.clone(), good]), Err(r#"webhooks[1].name: is "a", must be there once"#.to_owned()));
        let none = Config { max_connections: 0, ..Config::default() }.validate().unwrap_err();
        assert_eq!((none.key.as_str(), none.value.as_str()), ("max_connections", "0"));
    }
}
