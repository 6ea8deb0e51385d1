//! [`InvalidSetting`]: a value in a crate's configuration that cannot be used. It is here because every crate that has a configuration
//! knows this one.

use std::fmt::Display;

/// What cannot be used: `sql.max_rows: is 0, must be at least 1`.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: is {value}, must {must}")]
pub struct InvalidSetting {
    /// Its key, with those above it, as in `sql.max_rows`.
    pub key: String,
    /// What it is.
    pub value: String,
    /// What it must do to be used, after the word "must".
    pub must: String,
}

impl InvalidSetting {
    /// The value of `key`, which must do something else.
    pub fn new(key: impl Into<String>, value: impl Display, must: impl Into<String>) -> Self {
        Self { key: key.into(), value: value.to_string(), must: must.into() }
    }

    /// The same, seen from the configuration that has this one as its `section`.
    #[must_use]
    pub fn within(self, section: &str) -> Self {
        Self { key: format!("{section}.{}", self.key), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_says_key_value_and_what_to_do() {
        let error = InvalidSetting::new("max_rows", 0, "be at least 1").within("sql").within("store");
        assert_eq!(error.to_string(), "store.sql.max_rows: is 0, must be at least 1");
    }
}
