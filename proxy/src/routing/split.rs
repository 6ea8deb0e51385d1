//! [`Split`]: the upstreams of a route, dealt by weight.

use std::sync::Arc;

use crate::{
    routing::Edits,
    upstream::{Deal, Upstream},
};

/// The upstreams of a route.
pub(crate) struct Split {
    targets: Vec<Target>,
    deal: Deal,
}

/// One of them, and what changes in messages that go there.
pub(crate) struct Target {
    pub(crate) upstream: Arc<Upstream>,
    pub(crate) request_headers: Edits,
    pub(crate) response_headers: Edits,
}

impl Split {
    /// Targets with their weights; one of weight 0 gets nothing.
    pub(crate) fn new(weighted: Vec<(Target, u32)>) -> Self {
        let (targets, weights): (Vec<_>, Vec<_>) = weighted.into_iter().filter(|(_, weight)| *weight > 0).unzip();
        Self { targets, deal: Deal::new(weights) }
    }

    pub(crate) fn first(&self) -> Option<&Target> {
        self.targets.first()
    }

    /// All that get any.
    pub(crate) fn targets(&self) -> &[Target] {
        &self.targets
    }

    /// Where the next request goes.
    pub(crate) fn next(&self) -> Option<&Target> {
        match self.targets.as_slice() {
            [only] => Some(only),
            several => several.get(self.deal.next()?),
        }
    }
}
