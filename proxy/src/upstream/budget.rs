//! [`Budget`]: how many retries of an upstream may be under way: a share of its requests, but at least
//! a few. Without it, retries multiply the load of an upstream exactly when it can bear least.

use std::sync::{
    Arc,
    atomic::{AtomicU32, Ordering::Relaxed},
};

use crate::{config::RetryBudget, upstream::Upstream};

/// The retries of one upstream.
#[derive(Debug)]
pub(super) struct Budget {
    config: RetryBudget,
    under_way: Arc<AtomicU32>,
}

/// A retry under way; its place is free again when this is dropped.
pub(crate) struct RetryPermit {
    upstream: Arc<Upstream>,
}

impl Budget {
    pub(super) fn new(config: RetryBudget) -> Self {
        Self { config, under_way: Arc::default() }
    }

    /// Counts on, after a reload, those that are under way.
    pub(super) fn goes_on_from(&mut self, before: &Self) {
        self.under_way = before.under_way.clone();
    }

    /// How many may be under way beside `in_flight` requests.
    fn bound(&self, in_flight: u32) -> u32 {
        let RetryBudget { budget_percent, min_retry_concurrency, max_retries } = self.config;
        let share = u64::from(in_flight) * u64::from(budget_percent) / 100;
        let share = u32::try_from(share).unwrap_or(u32::MAX);
        share.max(min_retry_concurrency).min(max_retries.unwrap_or(u32::MAX))
    }

    fn take(&self, in_flight: u32) -> bool {
        let bound = self.bound(in_flight);
        self.under_way.fetch_update(Relaxed, Relaxed, |n| (n < bound).then_some(n + 1)).is_ok()
    }
}

impl RetryPermit {
    pub(super) fn take(upstream: &Arc<Upstream>, budget: &Budget, in_flight: u32) -> Option<Self> {
        budget.take(in_flight).then(|| Self { upstream: upstream.clone() })
    }
}

impl Drop for RetryPermit {
    fn drop(&mut self) {
        self.upstream.budget.under_way.fetch_sub(1, Relaxed);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn retries_are_a_share_of_requests_and_a_few() {
        let bounded = RetryBudget { max_retries: Some(10), ..RetryBudget::default() };
        for (config, in_flight, expected) in [
            (RetryBudget::default(), 0, 3),
            (RetryBudget::default(), 15, 3),
            (RetryBudget::default(), 100, 20),
            (bounded, 100, 10),
            (RetryBudget { max_retries: Some(0), ..bounded }, 100, 0),
            (RetryBudget { budget_percent: 0, min_retry_concurrency: 0, max_retries: None }, 1_000, 0),
        ] {
            let budget = Budget::new(config);
            let taken = (0..1_000).filter(|_| budget.take(in_flight)).count();
            assert_eq!(taken, expected, "{config:?} beside {in_flight}");
        }
    }
}
