//! The gRPC form of a policy and its conversions. A message that cannot be enforced is refused
//! whole, with the field named.

use std::num::NonZeroU32;

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
    let bad = |field, value: String, expected| InvalidPolicy::BadNumber { index, field, value, expected };
    let concurrency_limit = match policy.concurrency_limit {
        None => None,
        Some(c) => {
            let limit = NonZeroU32::new(c.limit).ok_or_else(|| {
                bad("concurrency_limit.limit", "0".into(), "at least 1, or no request would ever pass")
            })?;
            Some(ConcurrencyLimit { limit, queue: c.queue, queue_timeout_ms: c.queue_timeout_ms })
        }
    };
    let rate_limit = match policy.rate_limit {
        None => None,
        Some(r) => {
            let burst = NonZeroU32::new(r.burst).ok_or_else(|| bad("rate_limit.burst", "0".into(), "at least 1"))?;
            let rate = RateLimit::new(r.rate_per_s, burst)
                .ok_or_else(|| bad("rate_limit.rate_per_s", r.rate_per_s.to_string(), "a finite number above 0"))?;
            Some(rate)
        }
    };
    let token_rate_limit = match policy.token_rate_limit {
        None => None,
        Some(t) => {
            let tenant_header = (!t.tenant_header.is_empty()).then_some(t.tenant_header);
            if t.burst == 0 {
                return Err(bad("token_rate_limit.burst", "0".into(), "at least 1"));
            }
            let value = format!("{} by {tenant_header:?}", t.tokens_per_s);
            let limit = TokenRateLimit::new(t.tokens_per_s, t.burst, tenant_header);
            let expected = "a finite number above 0, by the name of a header";
            Some(limit.ok_or_else(|| bad("token_rate_limit.tokens_per_s", value, expected))?)
        }
    };
    let breaker = match policy.breaker {
        None => None,
        Some(b) => {
            let window = std::time::Duration::from_millis(b.window_ms);
            let expected = "a ratio in (0, 1] over a window above 0 ms";
            let breaker = Breaker::new(b.error_ratio, b.min_requests, window)
                .ok_or_else(|| bad("breaker.error_ratio", format!("{} over {window:?}", b.error_ratio), expected))?;
            Some(breaker)
        }
    };
    let route = (!policy.route.is_empty()).then_some(policy.route);
    Ok(Policy {
        service: policy.service,
        route,
        concurrency_limit,
        rate_limit,
        token_rate_limit,
        breaker,
        reason: policy.reason,
    })
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
