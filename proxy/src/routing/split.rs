//! [`Split`]: requests dealt to upstreams by weight: of as many requests as the weights sum up to, each
//! upstream gets exactly its own, spread evenly over them.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering::Relaxed},
};

use crate::workload::Upstream;

/// The upstreams of a route.
pub(crate) struct Split {
    /// With the sum of the weights up to and with it.
    shares: Vec<(Arc<Upstream>, u64)>,
    /// How far the next request is from the last one: a step without a common divisor with the sum visits
    /// every place once before it comes back, and one near the golden section leaves no gaps.
    step: u64,
    dealt: AtomicU64,
}

impl Split {
    /// Upstreams with their weights; one of weight 0 gets nothing.
    pub(crate) fn new(weighted: Vec<(Arc<Upstream>, u32)>) -> Self {
        let mut sum = 0;
        let shares = weighted.into_iter().filter(|(_, weight)| *weight > 0).map(|(upstream, weight)| {
            sum += u64::from(weight);
            (upstream, sum)
        });
        let shares: Vec<_> = shares.collect();
        Self { shares, step: step(sum), dealt: AtomicU64::new(0) }
    }

    pub(crate) fn first(&self) -> Option<&Arc<Upstream>> {
        self.shares.first().map(|(upstream, _)| upstream)
    }

    /// The upstream of the next request.
    pub(crate) fn next(&self) -> Option<&Arc<Upstream>> {
        let (_, sum) = self.shares.last()?;
        if self.shares.len() == 1 {
            return self.first();
        }
        let turn = self.dealt.fetch_add(1, Relaxed) % sum;
        let place = (u128::from(turn) * u128::from(self.step) % u128::from(*sum)) as u64;
        self.shares.iter().find(|(_, up_to)| place < *up_to).map(|(upstream, _)| upstream)
    }
}

fn step(sum: u64) -> u64 {
    let golden = (sum as f64 * 0.618_033_988_75) as u64;
    let divides = |step: u64| {
        let (mut a, mut b) = (step, sum);
        while b != 0 {
            (a, b) = (b, a % b);
        }
        a == 1
    };
    (golden.max(1)..).find(|step| divides(*step)).unwrap_or(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::{config::Protocol, regulate::Circuit};

    fn upstream(name: &str) -> Arc<Upstream> {
        Arc::new(Upstream {
            name: name.into(),
            service: "s".into(),
            protocol: Protocol::Http1,
            endpoints: Vec::new(),
            circuit: Circuit::default(),
        })
    }

    #[test]
    fn each_gets_its_share_exactly_and_evenly() {
        for weights in [vec![90, 10], vec![1, 1], vec![1, 2, 7], vec![0, 5], vec![999, 1], vec![33, 33, 34]] {
            let sum: u32 = weights.iter().sum();
            let names: Vec<String> = (0..weights.len()).map(|n| n.to_string()).collect();
            let split = Split::new(names.iter().map(|name| upstream(name)).zip(weights.clone()).collect());
            let mut counts: BTreeMap<String, u32> = names.iter().map(|name| (name.clone(), 0)).collect();
            for turn in 1..=3 * sum {
                *counts.get_mut(&split.next().unwrap().name).unwrap() += 1;
                for (name, weight) in names.iter().zip(&weights) {
                    let due = f64::from(turn) * f64::from(*weight) / f64::from(sum);
                    let got = f64::from(counts[name]);
                    assert!((got - due).abs() < 4.0, "{weights:?}: after {turn} requests {name} has {got}, not {due}");
                }
            }
            let exact: Vec<u32> = weights.iter().map(|weight| 3 * weight).collect();
            assert_eq!(counts.into_values().collect::<Vec<_>>(), exact);
        }
    }
}
