//! [`ValueIs`]: what the value of a field or a query parameter must be, compiled.

use std::collections::BTreeMap;

use http::HeaderName;
use regex::Regex;

use crate::config::{ConfigError, ValueMatch};

/// What a value must be.
pub(super) enum ValueIs {
    Exact(String),
    Prefix(String),
    Regex(Regex),
    Present(bool),
}

impl ValueIs {
    pub(super) fn new(value: &ValueMatch, key: &str) -> Result<Self, ConfigError> {
        Ok(match value {
            ValueMatch::Exact(exact) => Self::Exact(exact.clone()),
            ValueMatch::Prefix(prefix) => Self::Prefix(prefix.clone()),
            ValueMatch::Regex(regex) => Self::Regex(whole(regex, key)?),
            ValueMatch::Present(present) => Self::Present(*present),
        })
    }

    /// `None` among the values: one that is not text.
    pub(super) fn accepts_one_of<'a>(&self, mut values: impl Iterator<Item = Option<&'a str>>) -> bool {
        match self {
            Self::Present(present) => values.next().is_some() == *present,
            Self::Exact(exact) => values.any(|value| value == Some(exact)),
            Self::Prefix(prefix) => values.any(|value| value.is_some_and(|value| value.starts_with(prefix.as_str()))),
            Self::Regex(regex) => values.any(|value| value.is_some_and(|value| regex.is_match(value))),
        }
    }
}

/// Fields by name; `key` is where they stand in the configuration.
pub(super) fn fields(
    fields: &BTreeMap<String, ValueMatch>,
    key: &str,
) -> Result<Vec<(HeaderName, ValueIs)>, ConfigError> {
    let field = |(name, value): (&String, &ValueMatch)| {
        let parsed = name.parse::<HeaderName>();
        let parsed = parsed.map_err(|_| ConfigError(format!("{key}: {name:?} is not the name of a field")))?;
        Ok((parsed, ValueIs::new(value, &format!("{key}.{name}"))?))
    };
    fields.iter().map(field).collect()
}

/// A regular expression over the whole text; a dot is any character, line feeds too: a decoded path may hold one.
pub(super) fn whole(regex: &str, key: &str) -> Result<Regex, ConfigError> {
    Regex::new(&format!(r"\A(?s:{regex})\z")).map_err(|error| ConfigError(format!("{key}: {error}")))
}
