//! The gRPC form of a policy and its conversions. A message that cannot be enforced is refused
//! whole, with the field named.

use std::{num::NonZeroU32, time::Duration};

use crate::{Breaker, ConcurrencyLimit, InvalidPolicy, Policy, PolicySet, RateLimit, TokenRateLimit};

/// Generated from `proto/policy.proto`.
#[allow(missing_docs, unreachable_pub, clippy::all, clippy::unwrap_used)] // generated code
pub mod proto {
    tonic::include_proto!("weir.policy.v1");
}

impl From<&PolicySet> for proto::PolicySet {
    fn from(set: &PolicySet) -> Self {
        let PolicySet { sequence, issued_unix_nano, ttl_ms, ref policies } = *set;
        Self { sequence, issued_unix_nano, ttl_ms, policies: policies.iter().map(Into::into).collect() }
    }
}

impl TryFrom<proto::PolicySet> for PolicySet {
    type Error = InvalidPolicy;

    fn try_from(set: proto::PolicySet) -> Result<Self, InvalidPolicy> {
        let policies =
            set.policies.into_iter().enumerate().map(|(index, p)| policy(index, p)).collect::<Result<_, _>>()?;
        let proto::PolicySet { sequence, issued_unix_nano, ttl_ms, .. } = set;
        let set = Self { sequence, issued_unix_nano, ttl_ms, policies };
        set.validate()?;
        Ok(set)
    }
}

impl From<&Policy> for proto::Policy {
    fn from(policy: &Policy) -> Self {
        Self {
            service: policy.service.clone(),
            route: policy.route.clone().unwrap_or_default(),
            concurrency_limit: policy.concurrency_limit.map(Into::into),
            rate_limit: policy.rate_limit.map(Into::into),
            token_rate_limit: policy.token_rate_limit.as_ref().map(Into::into),
            breaker: policy.breaker.map(Into::into),
            reason: policy.reason.clone(),
        }
    }
}

impl From<ConcurrencyLimit> for proto::ConcurrencyLimit {
    fn from(limit: ConcurrencyLimit) -> Self {
        Self { limit: limit.limit.get(), queue: limit.queue, queue_timeout_ms: limit.queue_timeout_ms }
    }
}

impl From<RateLimit> for proto::RateLimit {
    fn from(rate: RateLimit) -> Self {
        Self { rate_per_s: rate.rate_per_s(), burst: rate.burst().get() }
    }
}

impl From<&TokenRateLimit> for proto::TokenRateLimit {
    fn from(limit: &TokenRateLimit) -> Self {
        let tenant_header = limit.tenant_header().unwrap_or_default().to_owned();
        Self { tokens_per_s: limit.tokens_per_s(), burst: limit.burst().get(), tenant_header }
    }
}

impl From<Breaker> for proto::Breaker {
    fn from(breaker: Breaker) -> Self {
        let window_ms = u64::try_from(breaker.window().as_millis()).unwrap_or(u64::MAX);
        Self { error_ratio: breaker.error_ratio(), min_requests: breaker.min_requests(), window_ms }
    }
}

fn policy(index: usize, policy: proto::Policy) -> Result<Policy, InvalidPolicy> {
    let at = At(index);
    Ok(Policy {
        service: policy.service,
        route: (!policy.route.is_empty()).then_some(policy.route),
        concurrency_limit: policy.concurrency_limit.map(|limit| at.concurrency_limit(limit)).transpose()?,
        rate_limit: policy.rate_limit.map(|limit| at.rate_limit(limit)).transpose()?,
        token_rate_limit: policy.token_rate_limit.map(|limit| at.token_rate_limit(limit)).transpose()?,
        breaker: policy.breaker.map(|breaker| at.breaker(breaker)).transpose()?,
        reason: policy.reason,
    })
}

/// Where in the set a policy stands, for the errors of its fields.
#[derive(Clone, Copy)]
struct At(usize);

impl At {
    fn concurrency_limit(self, limit: proto::ConcurrencyLimit) -> Result<ConcurrencyLimit, InvalidPolicy> {
        let proto::ConcurrencyLimit { limit, queue, queue_timeout_ms } = limit;
        let expected = "at least 1, or no request would ever pass";
        let limit = NonZeroU32::new(limit).ok_or_else(|| self.bad("concurrency_limit.limit", "0".into(), expected))?;
        Ok(ConcurrencyLimit { limit, queue, queue_timeout_ms })
    }

    fn rate_limit(self, limit: proto::RateLimit) -> Result<RateLimit, InvalidPolicy> {
        let proto::RateLimit { rate_per_s, burst } = limit;
        let burst = NonZeroU32::new(burst).ok_or_else(|| self.bad("rate_limit.burst", "0".into(), "at least 1"))?;
        let expected = "a finite number above 0";
        RateLimit::new(rate_per_s, burst)
            .ok_or_else(|| self.bad("rate_limit.rate_per_s", rate_per_s.to_string(), expected))
    }

    fn token_rate_limit(self, limit: proto::TokenRateLimit) -> Result<TokenRateLimit, InvalidPolicy> {
        let proto::TokenRateLimit { tokens_per_s, burst, tenant_header } = limit;
        if burst == 0 {
            return Err(self.bad("token_rate_limit.burst", "0".into(), "at least 1"));
        }
        let tenant_header = (!tenant_header.is_empty()).then_some(tenant_header);
        let value = format!("{tokens_per_s} by {tenant_header:?}");
        let expected = "a finite number above 0, by the name of a header";
        TokenRateLimit::new(tokens_per_s, burst, tenant_header)
            .ok_or_else(|| self.bad("token_rate_limit.tokens_per_s", value, expected))
    }

    fn breaker(self, breaker: proto::Breaker) -> Result<Breaker, InvalidPolicy> {
        let proto::Breaker { error_ratio, min_requests, window_ms } = breaker;
        let window = Duration::from_millis(window_ms);
        let expected = "a ratio in (0, 1] over a window above 0 ms";
        Breaker::new(error_ratio, min_requests, window)
            .ok_or_else(|| self.bad("breaker.error_ratio", format!("{error_ratio} over {window:?}"), expected))
    }

    fn bad(self, field: &'static str, value: String, expected: &'static str) -> InvalidPolicy {
        InvalidPolicy::BadNumber { index: self.0, field, value, expected }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn what_can_be_enforced_survives_the_wire(limit in 1u32.., queue: u32, rate in 0.001f64..1e9, ratio in 0.001f64..=1.0) {
            let set = PolicySet {
                sequence: 7,
                issued_unix_nano: 1,
                ttl_ms: 60_000,
                policies: vec![Policy {
                    service: "tagger".into(),
                    route: None,
                    concurrency_limit: NonZeroU32::new(limit).map(|limit| ConcurrencyLimit { limit, queue, queue_timeout_ms: 100 }),
                    rate_limit: RateLimit::new(rate, NonZeroU32::MIN),
                    token_rate_limit: TokenRateLimit::new(rate, u64::from(limit), Some("x-tenant".into())),
                    breaker: Breaker::new(ratio, 20, std::time::Duration::from_secs(10)),
                    reason: "why".into(),
                }],
            };
            prop_assert_eq!(PolicySet::try_from(proto::PolicySet::from(&set)), Ok(set));
        }
    }

    #[test]
    fn a_token_limit_that_cannot_be_enforced_is_refused_by_name() {
        for (tokens_per_s, burst, tenant_header, expected) in [
            (1.0, 0, "", "policies[0].token_rate_limit.burst is 0: at least 1"),
            (f64::NAN, 1, "", "policies[0].token_rate_limit.tokens_per_s is NaN by None"),
            (1.0, 1, "x tenant", "policies[0].token_rate_limit.tokens_per_s is 1 by Some(\"x tenant\")"),
        ] {
            let limit = proto::TokenRateLimit { tokens_per_s, burst, tenant_header: tenant_header.into() };
            let policy = proto::Policy { service: "a".into(), token_rate_limit: Some(limit), ..Default::default() };
            let set = proto::PolicySet { policies: vec![policy], ..Default::default() };
            let refused = PolicySet::try_from(set).unwrap_err().to_string();
            assert!(refused.starts_with(expected), "{refused}");
        }
    }

    #[test]
    fn a_limit_of_zero_is_refused_by_name() {
        let concurrency_limit = Some(proto::ConcurrencyLimit { limit: 0, queue: 1, queue_timeout_ms: 1 });
        let policy = proto::Policy { service: "a".into(), concurrency_limit, ..Default::default() };
        let set = proto::PolicySet { policies: vec![policy], ..Default::default() };
        let refused = PolicySet::try_from(set).unwrap_err().to_string();
        assert_eq!(refused, "policies[0].concurrency_limit.limit is 0: at least 1, or no request would ever pass");
    }
}
