//! What `proxy.yaml` says of who may do what: rules in the words of Istio's `AuthorizationPolicy`.

use std::collections::{BTreeMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::{
    config::{ConfigError, Listener, ListenerProtocol, TlsMode, validate::check},
    path::is_normal_path,
};

/// Who may do what at a listener. A request that a `deny` rule matches is refused; if there are `allow` rules, one that
/// none of them matches is refused too. Where plain TCP is spoken (`protocol: tcp` or `detect`) rules are about connections
/// and can ask for `principals` and `namespaces` only; one that may not pass is closed before an upstream is connected to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Authorization {
    /// At least one; their order does not matter.
    pub rules: Vec<AuthorizationRule>,
}

/// One rule. It matches when each key that is given holds, and no key under `not` does.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct AuthorizationRule {
    /// What spans call it.
    pub name: String,
    /// What becomes of a request that it matches.
    pub action: AuthorizationAction,
    /// What must hold; every request does when it is absent.
    #[serde(rename = "match", default)]
    pub matches: Conditions,
    /// What must not hold.
    #[serde(default)]
    pub not: Conditions,
}

/// What becomes of a request that a rule matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum AuthorizationAction {
    /// It may pass, if no `deny` rule matches.
    Allow,
    /// It is answered with 403, or closed where it is a connection.
    Deny,
}

/// Conditions on a request. Of a key, one value must match. A value is whole (`x`), a beginning (`x*`), an end (`*x`), or
/// anything at all (`*`).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Conditions {
    /// Identities that TLS has proved: `cluster.local/ns/shop/sa/tagger`, with or without `spiffe://`.
    pub principals: Option<Vec<String>>,
    /// Namespaces of identities of the form `/ns/NAMESPACE/sa/ACCOUNT`.
    pub namespaces: Option<Vec<String>>,
    /// Methods, in capitals.
    pub methods: Option<Vec<String>>,
    /// Paths without query, after normalization: escapes decoded, `//` merged, `.` and `..` resolved. Case counts.
    pub paths: Option<Vec<String>>,
    /// Hosts without port; case does not matter.
    pub hosts: Option<Vec<String>>,
    /// `ISSUER/SUBJECT` of a token that was checked.
    pub request_principals: Option<Vec<String>>,
    /// Claims of that token by name, `outer.inner` for nested ones; of a list, one element must match.
    pub claims: BTreeMap<String, Vec<String>>,
}

impl Authorization {
    /// `key` is where it stands in the file, `listener` what it guards.
    pub(crate) fn validate(&self, key: &str, listener: &Listener) -> Result<(), ConfigError> {
        check(!self.rules.is_empty(), || {
            format!("{key}.rules is empty: nothing would be decided; leave authorization out to let all pass")
        })?;
        let mut names = HashSet::new();
        for (i, rule) in self.rules.iter().enumerate() {
            let key = format!("{key}.rules[{i}]");
            check(!rule.name.is_empty(), || format!("{key}.name is empty"))?;
            check(rule.name.bytes().all(|b| b.is_ascii_graphic()), || {
                format!("{key}.name is {:?}: letters, digits and signs without spaces", rule.name)
            })?;
            check(names.insert(&rule.name), || format!("{key}.name repeats {:?}", rule.name))?;
            rule.validate(&key, listener)?;
        }
        self.check_reach(key)
    }

    /// Where everything is denied, no other rule is ever asked.
    fn check_reach(&self, key: &str) -> Result<(), ConfigError> {
        let denies_all =
            |rule: &&AuthorizationRule| rule.action == AuthorizationAction::Deny && rule.is_unconditional();
        let Some(all) = self.rules.iter().find(denies_all) else { return Ok(()) };
        check(self.rules.len() == 1, || {
            format!("{key}.rules: {:?} denies every request, so no other rule can match", all.name)
        })
    }
}

impl AuthorizationRule {
    fn is_unconditional(&self) -> bool {
        self.matches == Conditions::default() && self.not == Conditions::default()
    }

    fn validate(&self, key: &str, listener: &Listener) -> Result<(), ConfigError> {
        self.matches.validate(&format!("{key}.match"), listener)?;
        self.not.validate(&format!("{key}.not"), listener)?;
        for ((name, wanted), (_, unwanted)) in self.matches.lists().into_iter().zip(self.not.lists()) {
            let (Some(wanted), Some(unwanted)) = (wanted, unwanted) else { continue };
            let some_left = wanted.iter().any(|value| !unwanted.contains(value) && !unwanted.contains(&"*".to_owned()));
            check(some_left, || format!("{key}.match.{name} can never match: {key}.not.{name} excludes all of it"))?;
        }
        Ok(())
    }
}

impl Conditions {
    fn lists(&self) -> [(&'static str, Option<&Vec<String>>); 6] {
        [
            ("principals", self.principals.as_ref()),
            ("namespaces", self.namespaces.as_ref()),
            ("methods", self.methods.as_ref()),
            ("paths", self.paths.as_ref()),
            ("hosts", self.hosts.as_ref()),
            ("request_principals", self.request_principals.as_ref()),
        ]
    }

    fn validate(&self, key: &str, listener: &Listener) -> Result<(), ConfigError> {
        let claims = self.claims.iter().map(|(name, values)| (format!("claims.{name}"), values));
        let lists = self.lists().into_iter().filter_map(|(name, values)| Some((name.to_owned(), values?)));
        for (name, values) in lists.chain(claims) {
            check(!values.is_empty(), || format!("{key}.{name} is empty and can never match: leave it out"))?;
            for (i, value) in values.iter().enumerate() {
                check_value(&name, value)
                    .map_err(|why| ConfigError(format!("{key}.{name}[{i}] is {value:?}: {why}")))?;
            }
        }
        self.check_sources(key, listener)?;
        self.check_protocol(key, listener)
    }

    /// Of a connection whose bytes nobody reads only its other end is known.
    fn check_protocol(&self, key: &str, listener: &Listener) -> Result<(), ConfigError> {
        let reads_all = listener.protocol == ListenerProtocol::Http;
        let known = |name: &str| reads_all || matches!(name, "principals" | "namespaces");
        let unknown = self.lists().into_iter().find(|(name, values)| values.is_some() && !known(name));
        check(unknown.is_none(), || {
            let name = unknown.map_or("", |(name, _)| name);
            format!("{key}.{name}: plain TCP has none; where protocol is tcp or detect say principals or namespaces")
        })
    }

    /// Who is not asked for an identity or a token never has one.
    fn check_sources(&self, key: &str, listener: &Listener) -> Result<(), ConfigError> {
        let identities = listener.tls.as_ref().is_some_and(|tls| tls.mode != TlsMode::Off && tls.trust.is_some());
        for (name, asked) in [("principals", self.principals.is_some()), ("namespaces", self.namespaces.is_some())] {
            check(!asked || identities, || {
                format!("{key}.{name} can never match: the listener's tls identifies no client (mode off, or no trust)")
            })?;
        }
        for (name, asked) in
            [("request_principals", self.request_principals.is_some()), ("claims", !self.claims.is_empty())]
        {
            check(!asked || listener.jwt.is_some(), || {
                format!("{key}.{name} can never match: the listener has no jwt, so no token is checked")
            })?;
        }
        if let (Some(principals), Some(tls)) = (&self.principals, &listener.tls) {
            for (i, principal) in principals.iter().enumerate() {
                let domain = principal.strip_prefix("spiffe://").unwrap_or(principal).split_once('/').map(|(d, _)| d);
                let accepted = |domain: &str| domain == "*" || tls.trust_domains.iter().any(|d| d == domain);
                let can_match =
                    tls.trust_domains.is_empty() || domain.is_none_or(accepted) || principal.starts_with('*');
                check(can_match, || {
                    format!("{key}.principals[{i}] is {principal:?} and can never match: tls.trust_domains has others")
                })?;
            }
        }
        Ok(())
    }
}

fn check_value(name: &str, value: &str) -> Result<(), &'static str> {
    let whole = value.strip_suffix('*').or_else(|| value.strip_prefix('*')).unwrap_or(value);
    let says = |usable: bool, why: &'static str| if usable { Ok(()) } else { Err(why) };
    says(!value.is_empty(), "it is empty")?;
    says(!whole.contains('*'), "a * may stand at its beginning or at its end, once")?;
    match name {
        "methods" => says(whole.bytes().all(|b| b.is_ascii_uppercase() || b == b'-'), "methods are in capitals"),
        "namespaces" => says(!whole.contains('/'), "a namespace has no /"),
        "hosts" => says(!whole.contains('/') && !has_port(whole), "a host has neither / nor a port"),
        "paths" if value.starts_with('*') => says(is_normal_path(whole, false), NOT_NORMAL),
        "paths" => {
            says(value.starts_with('/'), "a path begins with / or *")?;
            says(is_normal_path(whole, true), NOT_NORMAL)
        }
        "principals" => {
            says(!value.starts_with('/'), "a principal begins with its trust domain")?;
            says(whole.is_empty() || !whole.contains("//") || whole.starts_with("spiffe://"), "an empty segment")
        }
        _ => Ok(()),
    }
}

const NOT_NORMAL: &str =
    "it can never match: paths are compared without query, with escapes decoded, // merged, and . and .. resolved";

fn has_port(host: &str) -> bool {
    host.rsplit_once(':').is_some_and(|(_, port)| !port.is_empty() && port.bytes().all(|b| b.is_ascii_digit()))
        && !host.ends_with(']')
}
