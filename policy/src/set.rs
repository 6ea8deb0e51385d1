//! [`PolicySet`]: everything that is regulated at one moment, numbered, swapped in whole.

use std::{collections::HashSet, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Breaker, ConcurrencyLimit, RateLimit, TokenRateLimit};

/// What is regulated, whole and numbered. A set with a lower sequence never replaces a higher one.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PolicySet {
    /// Grows by at least one with each change; 0 means "no policy yet".
    pub sequence: u64,
    /// When the controller decided it, in nanoseconds since the Unix epoch.
    pub issued_unix_nano: u64,
    /// After this long without news a proxy decays to its static configuration; 0 = never.
    pub ttl_ms: u64,
    /// At most one per service and route.
    pub policies: Vec<Policy>,
}

/// What one service (or one of its routes) is held to.
///
/// Limits act where requests enter `service` (its inbound listener), and are of all its replicas together; the breaker acts
/// where others call it (an outbound route whose upstream is `service`).
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// The service that is regulated.
    pub service: String,
    /// A route's name; `None` for every route of the service together.
    pub route: Option<String>,
    /// Requests in flight.
    pub concurrency_limit: Option<ConcurrencyLimit>,
    /// Requests per second.
    pub rate_limit: Option<RateLimit>,
    /// Tokens of language models per second.
    pub token_rate_limit: Option<TokenRateLimit>,
    /// When callers shed.
    pub breaker: Option<Breaker>,
    /// Why, for people: it stands in the audit and in the proxy's `/policy`.
    pub reason: String,
}

/// Why a set is refused whole.
#[derive(Clone, Debug, PartialEq, thiserror::Error)]
pub enum InvalidPolicy {
    /// A policy names no service.
    #[error("policies[{index}].service is empty")]
    NoService {
        /// Its place in the set.
        index: usize,
    },
    /// Two policies regulate the same thing.
    #[error("policies[{index}] repeats service {service:?}, route {route:?}")]
    Repeated {
        /// The place of the second one.
        index: usize,
        /// The service both name.
        service: String,
        /// The route both name.
        route: Option<String>,
    },
    /// A number that cannot be enforced.
    #[error("policies[{index}].{field} is {value}: {expected}")]
    BadNumber {
        /// Its place in the set.
        index: usize,
        /// The field, dotted.
        field: &'static str,
        /// What was sent.
        value: String,
        /// What would be accepted.
        expected: &'static str,
    },
}

impl PolicySet {
    /// Checks what the types cannot: every policy names a service, none twice, and numbers that
    /// came in through serde can be enforced.
    ///
    /// # Errors
    /// The first policy that is not usable, with its place and field.
    pub fn validate(&self) -> Result<(), InvalidPolicy> {
        let mut regulated = HashSet::new();
        for (index, policy) in self.policies.iter().enumerate() {
            policy.validate(index)?;
            if !regulated.insert((&policy.service, &policy.route)) {
                let (service, route) = (policy.service.clone(), policy.route.clone());
                return Err(InvalidPolicy::Repeated { index, service, route });
            }
        }
        Ok(())
    }

    /// The policy of a service as a whole.
    #[must_use]
    pub fn for_service(&self, service: &str) -> Option<&Policy> {
        self.policies.iter().find(|p| p.service == service && p.route.is_none())
    }

    /// The policy of one route, if it has one of its own.
    #[must_use]
    pub fn for_route(&self, service: &str, route: &str) -> Option<&Policy> {
        self.policies.iter().find(|p| p.service == service && p.route.as_deref() == Some(route))
    }

    /// How long the set holds without news; `None` for ever.
    #[must_use]
    pub fn ttl(&self) -> Option<Duration> {
        (self.ttl_ms > 0).then(|| Duration::from_millis(self.ttl_ms))
    }
}

impl Policy {
    /// As it is, and where it says nothing, what `other` says: to set one limit lifts no other.
    #[must_use]
    pub fn or(&self, other: &Self) -> Self {
        Self {
            service: self.service.clone(),
            route: self.route.clone(),
            concurrency_limit: self.concurrency_limit.or(other.concurrency_limit),
            rate_limit: self.rate_limit.or(other.rate_limit),
            token_rate_limit: self.token_rate_limit.clone().or_else(|| other.token_rate_limit.clone()),
            breaker: self.breaker.or(other.breaker),
            reason: self.reason.clone(),
        }
    }

    fn validate(&self, index: usize) -> Result<(), InvalidPolicy> {
        if self.service.is_empty() {
            return Err(InvalidPolicy::NoService { index });
        }
        if let Some(rate) = &self.rate_limit
            && RateLimit::new(rate.rate_per_s(), rate.burst()).is_none()
        {
            let value = rate.rate_per_s().to_string();
            let (field, expected) = ("rate_limit.rate_per_s", "a finite number above 0");
            return Err(InvalidPolicy::BadNumber { index, field, value, expected });
        }
        if let Some(tokens) = self.token_rate_limit.as_ref().filter(|tokens| !tokens.is_usable()) {
            let value = format!("{} by {:?}", tokens.tokens_per_s(), tokens.tenant_header());
            let (field, expected) =
                ("token_rate_limit.tokens_per_s", "a finite number above 0, by the name of a header");
            return Err(InvalidPolicy::BadNumber { index, field, value, expected });
        }
        if let Some(breaker) = &self.breaker
            && Breaker::new(breaker.error_ratio(), breaker.min_requests(), breaker.window()).is_none()
        {
            let value = format!("{} over {:?}", breaker.error_ratio(), breaker.window());
            let (field, expected) = ("breaker.error_ratio", "a ratio in (0, 1] over a window above 0 ms");
            return Err(InvalidPolicy::BadNumber { index, field, value, expected });
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::num::NonZeroU32;

    use super::*;

    fn policy(service: &str) -> Policy {
        let rate_limit = RateLimit::new(10.0, NonZeroU32::MIN);
        Policy {
            service: service.into(),
            route: None,
            concurrency_limit: None,
            rate_limit,
            token_rate_limit: None,
            breaker: None,
            reason: String::new(),
        }
    }

    #[test]
    fn a_set_names_each_service_once() {
        let mut set = PolicySet { policies: vec![policy("tagger"), policy("parser")], ..PolicySet::default() };
        assert_eq!(set.validate(), Ok(()));
        set.policies.push(policy("tagger"));
        assert!(matches!(set.validate(), Err(InvalidPolicy::Repeated { index: 2, .. })));
        set.policies[0].service.clear();
        assert_eq!(set.validate(), Err(InvalidPolicy::NoService { index: 0 }));
    }

    #[test]
    fn one_limit_lifts_no_other() {
        let concurrency_limit = Some(ConcurrencyLimit { limit: NonZeroU32::MIN, queue: 1, queue_timeout_ms: 1 });
        let breaker = Breaker::new(0.5, 1, Duration::from_secs(1));
        let file =
            Policy { concurrency_limit, breaker, rate_limit: RateLimit::new(1.0, NonZeroU32::MIN), ..policy("a") };
        let said = policy("a").or(&file);
        assert_eq!((said.concurrency_limit, said.breaker), (concurrency_limit, breaker));
        assert_eq!(said.rate_limit, policy("a").rate_limit, "what it says counts");
    }

    #[test]
    fn numbers_from_a_file_are_checked_too() {
        let text = r#"{"sequence":1,"issued_unix_nano":0,"ttl_ms":0,"policies":[{"service":"a","route":null,
            "concurrency_limit":null,"rate_limit":{"rate_per_s":-1.0,"burst":1},"breaker":null,"reason":""}]}"#;
        let set: PolicySet = serde_json::from_str(text).unwrap();
        let message = set.validate().unwrap_err().to_string();
        assert_eq!(message, "policies[0].rate_limit.rate_per_s is -1: a finite number above 0");
    }
}
