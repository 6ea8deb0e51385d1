//! [`Path`]: where requests spend their time on the critical path, service by service, and how much of that is waiting.
//!
//! From the end of a request back: before its end it worked, until the call that ended last; before that call began, again.
//! What is beside a longer call costs nothing. A service's time is waiting as far as its queue says: `W/(W + S)`, W what is
//! observed in its proxy and for its workers, S its service time. Where S is not known, neither is the waiting.

use std::collections::BTreeMap;

use super::scene::Scene;
use crate::{retiming::Request, spans::Name};

/// A call that ends so much later than its caller ended with it: times are rounded. One that ends later still is waited for by nobody.
const ROUNDED_MS: f64 = 0.001;

/// Means over some requests.
#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Path {
    pub(super) request_ms: f64,
    own_ms: BTreeMap<Name, f64>,
}

/// What a request spends in one service, waiting for nobody else.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Spent {
    pub(super) service: Name,
    pub(super) own_ms: f64,
    /// The part of it that is waiting, where that is known.
    pub(super) waiting_ms: Option<f64>,
}

impl Path {
    /// `None` of no request.
    pub(super) fn of<'a>(requests: impl Iterator<Item = &'a Request<Name>>) -> Option<Self> {
        let (mut path, mut count) = (Self::default(), 0_u32);
        for request in requests {
            count += 1;
            path.request_ms += request.duration_ms;
            path.walk(request);
        }
        let share = 1.0 / f64::from(count);
        path.request_ms *= share;
        path.own_ms.values_mut().for_each(|ms| *ms *= share);
        (count > 0).then_some(path)
    }

    fn walk(&mut self, part: &Request<Name>) {
        let mut calls: Vec<_> = part.calls.iter().collect();
        calls.sort_by(|a, b| b.end_ms.total_cmp(&a.end_ms));
        let mut until = part.duration_ms;
        for call in calls.into_iter().filter(|call| call.end_ms <= part.duration_ms + ROUNDED_MS) {
            if call.end_ms > until + ROUNDED_MS {
                continue;
            }
            *self.own_ms.entry(part.service).or_default() += (until - call.end_ms).max(0.0);
            until = call.start_ms;
            call.callee.iter().for_each(|callee| self.walk(callee));
        }
        *self.own_ms.entry(part.service).or_default() += until.max(0.0);
    }

    /// By service.
    pub(super) fn spent(&self, scene: &Scene) -> Vec<Spent> {
        let spent = |(service, own_ms): (&Name, &f64)| Spent {
            service: *service,
            own_ms: *own_ms,
            waiting_ms: waiting(scene, *service).map(|share| share * own_ms),
        };
        self.own_ms.iter().map(spent).collect()
    }
}

/// All that is known to be waiting.
pub(super) fn waited_ms(spent: &[Spent]) -> f64 {
    spent.iter().filter_map(|spent| spent.waiting_ms).sum()
}

/// The share of a service's own time that requests wait there.
fn waiting(scene: &Scene, service: Name) -> Option<f64> {
    let estimate = scene.estimate(service)?;
    let (wait_ms, service_ms) = (estimate.queue_wait_ms.observed?, estimate.own_service_ms()?);
    (wait_ms + service_ms > 0.0).then(|| wait_ms / (wait_ms + service_ms))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        findings::scene::Stage,
        retiming::Call,
        snapshot::{Estimate, QueueWait, ServiceView, Snapshot},
    };

    #[test]
    fn what_is_beside_a_longer_call_costs_nothing() {
        let leaf = |service, duration_ms| Some(Box::new(Request { service, duration_ms, calls: vec![] }));
        // works 10, calls 2 and 3 beside each other, works 3, calls 4, works 1; one more outlives it
        let calls = vec![
            Call { start_ms: 10.0, end_ms: 32.0, callee: leaf(2, 20.0) },
            Call { start_ms: 10.0, end_ms: 27.0, callee: leaf(3, 15.0) },
            Call { start_ms: 35.0, end_ms: 42.0, callee: leaf(4, 5.0) },
            Call { start_ms: 40.0, end_ms: 99.0, callee: leaf(5, 50.0) },
        ];
        let request = Request { service: 1, duration_ms: 43.0, calls };
        let path = Path::of([&request, &request].into_iter()).unwrap();
        assert_eq!(path.request_ms, 43.0);
        assert_eq!(path.own_ms, [(1, 14.0), (2, 20.0), (4, 5.0)].into());
        assert_eq!(Path::of(std::iter::empty()), None);
    }

    /// A thread that is held while it calls works less than its service time says, so more of its own time is waiting.
    #[test]
    fn what_servers_are_held_for_is_no_work_beside_waiting() {
        let queue_wait_ms = QueueWait { observed: Some(15.0), ..QueueWait::default() };
        let (service_time_ms, held_ms) = (Some(38.0), Some(33.0));
        let estimate = Estimate { queue_wait_ms, service_time_ms, held_ms, ..Estimate::default() };
        let view = ServiceView { service: "pool".into(), estimate, ..ServiceView::default() };
        let snapshot = Snapshot { services: vec![view], ..Snapshot::default() };
        let mut stage = Stage { snapshot, ..Stage::default() };
        let pool = stage.names.intern("pool");
        let path = Path { request_ms: 60.0, own_ms: [(pool, 20.0)].into() };
        let spent = Spent { service: pool, own_ms: 20.0, waiting_ms: Some(20.0 * 15.0 / (15.0 + 5.0)) };
        assert_eq!(path.spent(&stage.scene()), [spent]);
    }
}
