//! [`Rule`]: one rule of a listener, compiled: its patterns against the facts of a request.

use http::Method;
use serde_json::Value;
use weir_policy::SpiffeId;

use crate::{
    config::{AuthorizationRule, Conditions},
    security::{authorize::pattern::Pattern, claims::Claims},
};

/// What is known of a request apart from its path.
pub(crate) struct Asked<'a> {
    pub(crate) principal: Option<&'a SpiffeId>,
    pub(crate) method: &'a Method,
    pub(crate) host: Option<&'a str>,
    pub(crate) claims: Option<&'a Claims>,
}

/// All that a rule can compare.
pub(crate) struct Facts<'a> {
    pub(crate) asked: &'a Asked<'a>,
    /// One reading of the path.
    pub(crate) path: &'a [u8],
}

/// Matches when all of `when` hold and nothing of `not`.
#[derive(Debug)]
pub(crate) struct Rule {
    when: Vec<Condition>,
    not: Vec<Condition>,
}

#[derive(Debug)]
struct Condition {
    subject: Subject,
    /// One of them must match.
    patterns: Vec<Pattern>,
}

#[derive(Debug)]
enum Subject {
    Principal,
    Namespace,
    Method,
    Path,
    Host,
    RequestPrincipal,
    /// By name; `outer.inner` for nested ones.
    Claim(String),
}

impl Rule {
    pub(crate) fn new(rule: &AuthorizationRule) -> Self {
        Self { when: conditions(&rule.matches), not: conditions(&rule.not) }
    }

    pub(crate) fn matches(&self, facts: &Facts<'_>) -> bool {
        self.when.iter().all(|condition| condition.holds(facts)) && !self.not.iter().any(|c| c.holds(facts))
    }
}

impl Condition {
    fn new(subject: Subject, values: &[String]) -> Self {
        let pattern = |value: &String| match subject {
            Subject::Principal => Pattern::new(value.strip_prefix("spiffe://").unwrap_or(value)),
            Subject::Host => Pattern::new(&value.to_ascii_lowercase()),
            _ => Pattern::new(value),
        };
        let patterns = values.iter().map(pattern).collect();
        Self { subject, patterns }
    }

    /// What a request does not have matches nothing, `*` included.
    fn holds(&self, facts: &Facts<'_>) -> bool {
        let Asked { principal, method, host, claims } = facts.asked;
        match &self.subject {
            Subject::Principal => principal.is_some_and(|id| self.any(id.principal().as_bytes())),
            Subject::Namespace => principal.and_then(SpiffeId::namespace).is_some_and(|n| self.any(n.as_bytes())),
            Subject::Method => self.any(method.as_str().as_bytes()),
            Subject::Path => self.any(facts.path),
            Subject::Host => host.is_some_and(|host| self.any(bare(host).to_ascii_lowercase().as_bytes())),
            Subject::RequestPrincipal => {
                claims.and_then(Claims::principal).is_some_and(|principal| self.any(principal.as_bytes()))
            }
            Subject::Claim(name) => claims.and_then(|c| c.get(name)).is_some_and(|value| self.any_of(value)),
        }
    }

    fn any(&self, value: &[u8]) -> bool {
        self.patterns.iter().any(|pattern| pattern.matches(value))
    }

    /// A list matches when one of its elements does.
    fn any_of(&self, value: &Value) -> bool {
        match value {
            Value::String(text) => self.any(text.as_bytes()),
            Value::Bool(_) | Value::Number(_) => self.any(value.to_string().as_bytes()),
            Value::Array(elements) => elements.iter().any(|element| !element.is_array() && self.any_of(element)),
            Value::Null | Value::Object(_) => false,
        }
    }
}

/// A name is the same with its final dot, and whoever stands before an `@` names no host.
fn bare(host: &str) -> &str {
    let host = host.rsplit_once('@').map_or(host, |(_, host)| host);
    host.strip_suffix('.').unwrap_or(host)
}

fn conditions(asked: &Conditions) -> Vec<Condition> {
    let Conditions { principals, namespaces, methods, paths, hosts, request_principals, claims } = asked;
    let lists = [
        (Subject::Principal, principals),
        (Subject::Namespace, namespaces),
        (Subject::Method, methods),
        (Subject::Path, paths),
        (Subject::Host, hosts),
        (Subject::RequestPrincipal, request_principals),
    ];
    let lists = lists.into_iter().filter_map(|(subject, values)| Some(Condition::new(subject, values.as_ref()?)));
    let claims = claims.iter().map(|(name, values)| Condition::new(Subject::Claim(name.clone()), values));
    lists.chain(claims).collect()
}
