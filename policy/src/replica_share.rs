//! [`ReplicaShare`]: what one replica of a service is held to, so that all of them together are held to what a set says of the
//! service.
//!
//! Limits are enforced where requests enter, and each replica has a sidecar of its own there: `n` of them that all held to
//! `L` would let in `n·L`. So each holds to `L / n`, and the first `L mod n` of them to one more. Replicas are taken to
//! get equal shares of the traffic, as balancers see to.

use std::num::{NonZeroU32, NonZeroU64};

use crate::{ConcurrencyLimit, Policy, PolicySet, RateLimit, TokenRateLimit};

/// Which of how many replicas.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReplicaShare {
    place: u32,
    of: NonZeroU32,
}

impl ReplicaShare {
    /// That of the only replica.
    pub const WHOLE: Self = Self { place: 0, of: NonZeroU32::MIN };

    /// The one in `place`, counted from 0; `None` if there are no so many.
    #[must_use]
    pub fn new(place: u32, of: u32) -> Option<Self> {
        let of = NonZeroU32::new(of)?;
        (place < of.get()).then_some(Self { place, of })
    }
}

impl PolicySet {
    /// As one replica of `service` is to hold it. A limit is never below 1, or a replica would be of no use; what is said of
    /// other services is left as it is.
    #[must_use]
    pub fn of_replica(&self, service: &str, share: ReplicaShare) -> Self {
        let policy =
            |policy: &Policy| if policy.service == service { policy.of_replica(share) } else { policy.clone() };
        Self { policies: self.policies.iter().map(policy).collect(), ..*self }
    }
}

impl Policy {
    fn of_replica(&self, share: ReplicaShare) -> Self {
        Self {
            concurrency_limit: self.concurrency_limit.map(|limit| limit.of_replica(share)),
            rate_limit: self.rate_limit.map(|limit| limit.of_replica(share)),
            token_rate_limit: self.token_rate_limit.as_ref().map(|limit| limit.of_replica(share)),
            ..self.clone()
        }
    }
}

impl ConcurrencyLimit {
    fn of_replica(self, ReplicaShare { place, of }: ReplicaShare) -> Self {
        let (each, more) = (self.limit.get() / of, self.limit.get() % of);
        let limit = NonZeroU32::new(each + u32::from(place < more)).unwrap_or(NonZeroU32::MIN);
        Self { limit, queue: self.queue.div_ceil(of.get()), ..self }
    }
}

impl RateLimit {
    fn of_replica(self, ReplicaShare { of, .. }: ReplicaShare) -> Self {
        let burst = NonZeroU32::new(self.burst().get().div_ceil(of.get())).unwrap_or(NonZeroU32::MIN);
        // none but a rate that is next to nothing already cannot be divided
        Self::new(self.rate_per_s() / f64::from(of.get()), burst).unwrap_or(self)
    }
}

impl TokenRateLimit {
    fn of_replica(&self, ReplicaShare { of, .. }: ReplicaShare) -> Self {
        let burst = self.burst().get().div_ceil(NonZeroU64::from(of).get());
        let tenant_header = self.tenant_header().map(str::to_owned);
        Self::new(self.tokens_per_s() / f64::from(of.get()), burst, tenant_header).unwrap_or_else(|| self.clone())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(limit: u32) -> PolicySet {
        let limit = NonZeroU32::new(limit).unwrap();
        let policy = |service: &str, route: Option<&str>| Policy {
            service: service.into(),
            route: route.map(str::to_owned),
            concurrency_limit: Some(ConcurrencyLimit { limit, queue: limit.get(), queue_timeout_ms: 100 }),
            rate_limit: RateLimit::new(f64::from(limit.get()), limit),
            token_rate_limit: TokenRateLimit::new(f64::from(limit.get()), u64::from(limit.get()), Some("x".into())),
            ..Policy::default()
        };
        let policies = vec![policy("tagger", None), policy("tagger", Some("slow")), policy("parser", None)];
        PolicySet { sequence: 7, policies, ..PolicySet::default() }
    }

    fn shares(of: u32) -> impl Iterator<Item = ReplicaShare> {
        (0..of).map(move |place| ReplicaShare::new(place, of).unwrap())
    }

    #[test]
    fn all_replicas_together_hold_to_what_is_said_of_the_service() {
        for (limit, of) in [(9, 1), (9, 2), (9, 4), (9, 9), (1_000, 7)] {
            let all: Vec<PolicySet> = shares(of).map(|share| set(limit).of_replica("tagger", share)).collect();
            assert!(all.iter().all(|set| set.validate().is_ok() && set.sequence == 7));
            for place in [0, 1] {
                let of_all = || all.iter().map(|set| &set.policies[place]);
                let limits: u32 = of_all().map(|policy| policy.concurrency_limit.unwrap().limit.get()).sum();
                let rates: f64 = of_all().map(|policy| policy.rate_limit.unwrap().rate_per_s()).sum();
                let tokens: f64 = of_all().map(|policy| policy.token_rate_limit.as_ref().unwrap().tokens_per_s()).sum();
                assert_eq!(limits, limit, "{limit} among {of}");
                assert!((rates / f64::from(limit) - 1.0).abs() < 1e-9 && (tokens - rates).abs() < 1e-9, "{rates}");
            }
            assert!(all.iter().all(|shared| shared.policies[2] == set(limit).policies[2]), "another service");
        }
    }

    #[test]
    fn a_share_is_never_nothing() {
        for share in shares(50) {
            let shared = set(3).of_replica("tagger", share);
            let Policy { concurrency_limit, rate_limit, token_rate_limit, .. } = &shared.policies[0];
            let limit = concurrency_limit.unwrap();
            assert_eq!((limit.limit.get(), limit.queue, limit.queue_timeout_ms), (1, 1, 100));
            assert_eq!(rate_limit.unwrap().burst().get(), 1);
            assert_eq!(token_rate_limit.as_ref().unwrap().burst().get(), 1);
        }
        assert_eq!(set(9).of_replica("tagger", ReplicaShare::WHOLE), set(9));
        assert_eq!((ReplicaShare::new(0, 0), ReplicaShare::new(2, 2)), (None, None));
        let least = RateLimit::new(f64::MIN_POSITIVE / 4e15, NonZeroU32::MIN).unwrap();
        assert_eq!(least.of_replica(ReplicaShare::new(1, 9).unwrap()), least, "what cannot be divided");
    }
}
