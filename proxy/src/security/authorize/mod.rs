//! [`Rules`]: deny first; then, if any rule allows, one of those must.
//!
//! What a rule compares is what was proved (identities by TLS, tokens by their signature) and what is
//! normalized ([`Readings`]). Where a path can be read in two ways, both readings are asked: a request is
//! allowed only if both are, so a server behind that reads it the other way is covered.

mod pattern;
mod rule;

use std::sync::Arc;

use crate::{
    config::{Authorization, AuthorizationAction},
    path::Readings,
    security::authorize::rule::{Facts, Rule},
};
pub(crate) use rule::Asked;

/// What was decided about a request, and by which rule.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Decision {
    pub(crate) allowed: bool,
    /// The rule's name; none when no rule matched.
    pub(crate) rule: Option<String>,
}

/// The rules of one listener.
#[derive(Debug)]
pub(crate) struct Rules {
    deny: Vec<(Rule, Arc<Decision>)>,
    allow: Vec<(Rule, Arc<Decision>)>,
    /// What holds when none matches.
    otherwise: Arc<Decision>,
}

impl Rules {
    pub(crate) fn new(asked: &Authorization) -> Self {
        let of = |action: AuthorizationAction| {
            let rules = asked.rules.iter().filter(move |rule| rule.action == action);
            let decision = move |name: &String| {
                Arc::new(Decision { allowed: action == AuthorizationAction::Allow, rule: Some(name.clone()) })
            };
            rules.map(move |rule| (Rule::new(rule), decision(&rule.name))).collect::<Vec<_>>()
        };
        let (deny, allow) = (of(AuthorizationAction::Deny), of(AuthorizationAction::Allow));
        let otherwise = Arc::new(Decision { allowed: allow.is_empty(), rule: None });
        Self { deny, allow, otherwise }
    }

    /// Whether it may pass.
    pub(crate) fn decide(&self, asked: &Asked<'_>, path: &str) -> Arc<Decision> {
        // a path with a NUL ends there for some servers and nowhere for others: no rule can speak of it
        let Some(readings) = Readings::of(path) else { return Arc::new(Decision { allowed: false, rule: None }) };
        let plain = self.decide_one(&Facts { asked, path: &readings.plain });
        match &readings.lenient {
            Some(lenient) if plain.allowed => self.decide_one(&Facts { asked, path: lenient }),
            _ => plain,
        }
    }

    fn decide_one(&self, facts: &Facts<'_>) -> Arc<Decision> {
        let matching = self.deny.iter().chain(&self.allow).find(|(rule, _)| rule.matches(facts));
        matching.map_or(&self.otherwise, |(_, decision)| decision).clone()
    }
}

#[cfg(test)]
mod tests;
