//! What `proxy.yaml` says of JSON web tokens: whose are believed, where they are, what becomes of them.

use std::{collections::HashSet, path::PathBuf, time::Duration};

use serde::{Deserialize, Serialize};

use crate::config::{ConfigError, OURS, validate::check};

/// Tokens at a listener. RS256/384/512, PS256/384/512, ES256 and ES384 are checked; which of them a key is for, the key says.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwt {
    /// At least one.
    pub issuers: Vec<JwtIssuer>,
    /// A request without a token is answered with 401. With `false` it goes on, without claims: rules may then tell.
    #[serde(default = "yes")]
    pub required: bool,
    /// 60 s that clocks may differ when `exp` and `nbf` are looked at.
    #[serde(default = "leeway_s")]
    pub leeway_s: u64,
}

/// One issuer whose tokens are believed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct JwtIssuer {
    /// What the claim `iss` must be.
    pub issuer: String,
    /// One of these must be in the claim `aud`; when empty it is not looked at, and a token for anybody is one for us.
    #[serde(default)]
    pub audiences: Vec<String>,
    /// Where the issuer's keys are.
    pub jwks: Jwks,
    /// Where tokens are looked for, in this order; `Authorization: Bearer` when empty.
    #[serde(default)]
    pub from: Vec<JwtPlace>,
    /// The token is passed on; else it is taken out of header and query. A cookie stays: it is the application's too.
    #[serde(default)]
    pub forward: bool,
    /// What the upstream is told of the token. These headers are taken out of every request first.
    #[serde(default)]
    pub claims_to_headers: Vec<ClaimToHeader>,
}

/// Where an issuer's keys are, as a JSON Web Key Set.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Jwks {
    /// In a file, looked at once a second.
    #[serde(default)]
    pub file: Option<PathBuf>,
    /// At an address, `https://…` or `http://…`.
    #[serde(default)]
    pub url: Option<String>,
    /// The roots that the address's certificate must lead to, as PEM; the system's when absent. Read at start.
    #[serde(default)]
    pub trust: Option<PathBuf>,
    /// 5 min between two looks at the address. A key that is not known is asked for at once, but every 10 s at most.
    #[serde(default = "refresh_ms")]
    pub refresh_ms: u64,
}

/// Where a token may be. One key is given.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct JwtPlace {
    /// A header's name.
    pub header: Option<String>,
    /// What stands before the token in that header, such as `"Bearer "`.
    pub prefix: String,
    /// A parameter of the query.
    pub query: Option<String>,
    /// A cookie's name.
    pub cookie: Option<String>,
}

/// One claim for the upstream.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClaimToHeader {
    /// Its name, `outer.inner` for nested ones. Texts, numbers and truth values are passed on as they are, lists and objects as JSON.
    pub claim: String,
    /// The header.
    pub header: String,
}

fn yes() -> bool {
    true
}

fn leeway_s() -> u64 {
    60
}

fn refresh_ms() -> u64 {
    300_000
}

impl Jwks {
    pub(crate) fn refresh(&self) -> Duration {
        Duration::from_millis(self.refresh_ms)
    }

    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check(self.file.is_some() != self.url.is_some(), || format!("{key}: file or url is needed, and not both"))?;
        check(self.refresh_ms >= 1_000, || format!("{key}.refresh_ms is {}: at least 1000", self.refresh_ms))?;
        check(self.trust.is_none() || self.url.as_ref().is_some_and(|u| u.starts_with("https://")), || {
            format!("{key}.trust is for a url that begins with https://")
        })?;
        let Some(url) = &self.url else { return Ok(()) };
        let parsed: Option<http::Uri> = url.parse().ok();
        let usable = parsed.is_some_and(|u| matches!(u.scheme_str(), Some("http" | "https")) && u.host().is_some());
        check(usable, || format!("{key}.url is {url:?}: expected https://host/path or http://host/path"))
    }
}

impl Jwt {
    /// `key` is where it stands in the file.
    pub(crate) fn validate(&self, key: &str) -> Result<(), ConfigError> {
        check(!self.issuers.is_empty(), || format!("{key}.issuers is empty: no token could ever be believed"))?;
        check(self.leeway_s <= 3_600, || format!("{key}.leeway_s is {}: at most 3600", self.leeway_s))?;
        let mut names = HashSet::new();
        for (i, issuer) in self.issuers.iter().enumerate() {
            let key = format!("{key}.issuers[{i}]");
            check(!issuer.issuer.is_empty(), || format!("{key}.issuer is empty"))?;
            check(names.insert(&issuer.issuer), || format!("{key}.issuer repeats {:?}", issuer.issuer))?;
            issuer.validate(&key)?;
        }
        Ok(())
    }
}

impl JwtIssuer {
    fn validate(&self, key: &str) -> Result<(), ConfigError> {
        self.jwks.validate(&format!("{key}.jwks"))?;
        for (i, place) in self.from.iter().enumerate() {
            let given = [&place.header, &place.query, &place.cookie].into_iter().flatten().count();
            check(given == 1, || format!("{key}.from[{i}]: one of header, query and cookie is needed"))?;
            check(place.prefix.is_empty() || place.header.is_some(), || {
                format!("{key}.from[{i}].prefix is for a header")
            })?;
            let name = [&place.header, &place.query, &place.cookie].into_iter().flatten().all(|n| is_token(n));
            check(name, || format!("{key}.from[{i}]: a name is of letters, digits, dash and underscore"))?;
        }
        for (i, entry) in self.claims_to_headers.iter().enumerate() {
            check(!entry.claim.is_empty(), || format!("{key}.claims_to_headers[{i}].claim is empty"))?;
            check(is_token(&entry.header), || {
                format!("{key}.claims_to_headers[{i}].header is {:?}: expected a header's name", entry.header)
            })?;
            check(!OURS.contains(&entry.header.to_ascii_lowercase().as_str()), || {
                format!("{key}.claims_to_headers[{i}].header is {:?}, which the message itself needs", entry.header)
            })?;
        }
        Ok(())
    }
}

fn is_token(name: &str) -> bool {
    !name.is_empty() && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_cannot_be_used_is_named() {
        let whole = "{ issuers: [{ issuer: i, jwks: { file: f } }] }";
        for (from, to, expected) in [
            ("issuer: i", "issuer: \"\"", "jwt.issuers[0].issuer is empty"),
            ("{ file: f }", "{}", "jwt.issuers[0].jwks: file or url"),
            ("{ file: f }", "{ file: f, url: \"https://x/k\" }", "jwt.issuers[0].jwks: file or url"),
            ("{ file: f }", "{ url: \"ftp://x/k\" }", "jwks.url"),
            ("{ file: f }", "{ url: \"https://x/k\", refresh_ms: 1 }", "jwks.refresh_ms"),
            ("{ file: f }", "{ url: \"http://x/k\", trust: t }", "jwks.trust"),
            ("{ file: f } }", "{ file: f }, from: [{}] }", "from[0]"),
            ("{ file: f } }", "{ file: f }, from: [{ query: t, cookie: c }] }", "from[0]"),
            ("{ file: f } }", "{ file: f }, from: [{ query: t, prefix: x }] }", "from[0].prefix"),
            ("{ file: f } }", "{ file: f }, claims_to_headers: [{ claim: sub, header: \"a b\" }] }", "header"),
            ("{ file: f } }", "{ file: f }, claims_to_headers: [{ claim: sub, header: Host }] }", "itself needs"),
            ("{ file: f } }", "{ file: f }, claims_to_headers: [{ claim: sub, header: Keep-Alive }] }", "itself needs"),
            ("[{ issuer: i, jwks: { file: f } }]", "[]", "jwt.issuers is empty"),
            ("] }", "], leeway_s: 10000 }", "jwt.leeway_s"),
        ] {
            let text = whole.replacen(from, to, 1);
            assert_ne!(text, whole);
            let jwt: Jwt = serde_saphyr::from_str(&text).unwrap();
            let why = jwt.validate("jwt").unwrap_err().to_string();
            assert!(why.contains(expected), "{to}: {why}");
        }
    }
}
