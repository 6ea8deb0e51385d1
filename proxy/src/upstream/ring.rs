//! [`Ring`]: consistent hashing: every endpoint owns many points of a circle, and a key belongs to the
//! first point after it. When an endpoint goes, only its own keys move.
//!
//! Karger et al., "Consistent Hashing and Random Trees", 1997; points as in libketama.

use std::sync::Arc;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

use crate::upstream::endpoint::Endpoint;

/// 160 points, as libketama has them: shares differ by some 8 % (1/√160).
const POINTS: u64 = 160;

/// 1,048,576 points, 16 MiB, at most: with very many or very heavy endpoints each has proportionally fewer.
const MAX_POINTS: u64 = 1 << 20;

/// Points and the places of the endpoints that own them, sorted.
#[derive(Debug)]
pub(super) struct Ring {
    points: Vec<(u64, u32)>,
}

impl Ring {
    pub(super) fn new(endpoints: &[Arc<Endpoint>]) -> Self {
        let lightest = endpoints.iter().map(|e| u64::from(e.spec.weight)).filter(|weight| *weight > 0).min();
        let lightest = lightest.unwrap_or(1);
        let fair = |endpoint: &Endpoint| POINTS * u64::from(endpoint.spec.weight) / lightest;
        let all: u64 = endpoints.iter().map(|endpoint| fair(endpoint)).sum();
        let divisor = all.div_ceil(MAX_POINTS).max(1);
        let mut points = Vec::new();
        for (place, endpoint) in endpoints.iter().enumerate() {
            let count = (fair(endpoint) / divisor).max(1);
            let of = |n| (xxh3_64_with_seed(endpoint.spec.address.as_bytes(), n), place as u32);
            points.extend((0..count).map(of));
        }
        points.sort_unstable();
        Self { points }
    }

    /// The place of the endpoint that a key belongs to, leaving out those that `skip` says.
    pub(super) fn owner(&self, key: u64, skip: impl Fn(usize) -> bool) -> Option<usize> {
        let after = self.points.partition_point(|(point, _)| *point < key);
        let round = self.points[after..].iter().chain(&self.points[..after]);
        round.map(|(_, place)| *place as usize).find(|place| !skip(*place))
    }
}

/// Where a key lies on the circle.
pub(super) fn hash(key: &[u8]) -> u64 {
    xxh3_64(key)
}

#[cfg(test)]
mod tests {
    use tokio::time::Instant;

    use super::*;

    fn endpoints(weights: &[u32]) -> Vec<Arc<Endpoint>> {
        let endpoint = |(n, weight): (usize, &u32)| {
            let spec = crate::config::Endpoint { weight: *weight, ..format!("10.0.0.{n}:80").into() };
            Arc::new(Endpoint::new(n, spec, Instant::now()))
        };
        weights.iter().enumerate().map(endpoint).collect()
    }

    fn owners(endpoints: &[Arc<Endpoint>]) -> Vec<usize> {
        let ring = Ring::new(endpoints);
        let owner = |key: u32| endpoints[ring.owner(hash(&key.to_le_bytes()), |_| false).unwrap()].id;
        (0..20_000).map(owner).collect()
    }

    #[test]
    fn only_the_keys_of_an_endpoint_that_went_move() {
        let all = endpoints(&[1; 10]);
        let before = owners(&all);
        let after = owners(&all[..9]);
        let moved = before.iter().zip(&after).filter(|(before, after)| before != after);
        assert!(moved.clone().all(|(before, _)| *before == 9));
        let (moved, fair) = (moved.count(), 2_000);
        assert!((1_500..2_500).contains(&moved), "{moved} keys moved, {fair} belonged to it in expectation");
    }

    #[test]
    fn keys_follow_weights() {
        let owners = owners(&endpoints(&[1, 3]));
        let heavy = owners.iter().filter(|id| **id == 1).count();
        assert!((13_000..17_000).contains(&heavy), "{heavy} of 20,000, not 15,000");
    }

    #[test]
    fn an_owner_can_be_left_out() {
        let all = endpoints(&[1; 3]);
        let ring = Ring::new(&all);
        let first = ring.owner(7, |_| false).unwrap();
        let second = ring.owner(7, |place| place == first).unwrap();
        assert!(first != second);
        assert_eq!(ring.owner(7, |_| true), None);
    }
}
