//! [`Split`]: the upstreams of a route, dealt by weight.

use std::sync::Arc;

use crate::upstream::{Deal, Upstream};

/// The upstreams of a route.
pub(crate) struct Split {
    upstreams: Vec<Arc<Upstream>>,
    deal: Deal,
}

impl Split {
    /// Upstreams with their weights; one of weight 0 gets nothing.
    pub(crate) fn new(weighted: Vec<(Arc<Upstream>, u32)>) -> Self {
        let (upstreams, weights): (Vec<_>, Vec<_>) = weighted.into_iter().filter(|(_, weight)| *weight > 0).unzip();
        Self { upstreams, deal: Deal::new(weights) }
    }

    pub(crate) fn first(&self) -> Option<&Arc<Upstream>> {
        self.upstreams.first()
    }

    /// The upstream of the next request.
    pub(crate) fn next(&self) -> Option<&Arc<Upstream>> {
        match self.upstreams.as_slice() {
            [only] => Some(only),
            several => several.get(self.deal.next()?),
        }
    }
}
