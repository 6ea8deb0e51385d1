//! [`Loop`]: what-if where all traffic enters by one service whose clients wait for their answers: a closed network, solved by
//! mean value analysis. More arrivals mean more clients; a slower service slows the clients as well, so nothing saturates.

use std::{collections::BTreeMap, num::NonZeroU32};

use super::{
    change::{Change, Factors},
    services,
    traffic::Calls,
};
use crate::{
    model::{Load, Model},
    queueing::mva::{self, Demand, Solution},
    reach::entering,
    snapshot::{ServiceView, Snapshot},
};

/// The loop before and after.
pub(super) struct Loop<'a> {
    throughput_growth: f64,
    /// Wait now and then, by the model, milliseconds.
    waits: BTreeMap<&'a str, (f64, f64)>,
}

/// A station of the network.
struct Node<'a> {
    service: &'a ServiceView,
    visits: f64,
    now: Load,
    then: Load,
}

impl<'a> Loop<'a> {
    /// `None` where traffic is open, or enters in several places.
    pub(super) fn solve(snapshot: &'a Snapshot, calls: &Calls<'_>, change: &Change, factors: &Factors) -> Option<Self> {
        let [entry] = entering(snapshot)[..] else { return None };
        // a pool that is held while it calls is no station beside those: its S holds theirs
        if services(snapshot).any(|service| service.estimate.held_ms.is_some()) {
            return None;
        }
        let closed = entry.estimate.closed.as_ref().filter(|_| Model::of(&entry.estimate) == Some(Model::Mva))?;
        let often: BTreeMap<usize, f64> = calls.visits(calls.place(&entry.service)?, false).into_iter().collect();
        let node = |service: &'a ServiceView| {
            let now = Load::now(&service.estimate)?;
            let own = if service.service == change.service { *factors } else { Factors::NONE };
            let then = Load {
                service_time_ms: own.service_time_ms(now.service_time_ms, &service.estimate),
                servers: u32::try_from(i64::from(now.servers) + own.servers).ok()?,
                ..now
            };
            Some(Node { service, visits: *often.get(&calls.place(&service.service)?)?, now, then })
        };
        let nodes: Vec<Node> = services(snapshot).filter_map(node).collect();
        let known: f64 = nodes.iter().map(|node| node.visits * residence_ms(node.service)).sum();
        // what is not a known station, and what calls beside each other hide, is a delay of its own
        let elsewhere = (entry.duration_ms_mean - known).max(0.0) + closed.think_time_ms;
        let clients_then = (f64::from(closed.clients) * factors.arrivals).round().max(1.0) as u32;
        let now = solve(&nodes, |node| &node.now, elsewhere, closed.clients)?;
        let then = solve(&nodes, |node| &node.then, elsewhere, clients_then)?;
        let waits = nodes.iter().enumerate().map(|(place, node)| {
            let wait = |solution: &Solution, load: &Load| {
                let visit = solution.queue_length[place] / solution.throughput / node.visits;
                (visit - load.service_time_ms).max(0.0)
            };
            (node.service.service.as_str(), (wait(&now, &node.now), wait(&then, &node.then)))
        });
        Some(Self { throughput_growth: then.throughput / now.throughput, waits: waits.collect() })
    }

    /// Every service is visited as often by each request.
    pub(super) fn rates(&self, snapshot: &Snapshot) -> Vec<f64> {
        snapshot.services.iter().map(|service| service.rate_per_s * self.throughput_growth).collect()
    }

    pub(super) fn wait(&self, service: &str) -> Option<(f64, f64)> {
        self.waits.get(service).copied()
    }
}

fn residence_ms(service: &ServiceView) -> f64 {
    let estimate = &service.estimate;
    estimate.queue_wait_ms.observed.unwrap_or(0.0) + estimate.own_service_ms().unwrap_or(0.0)
}

fn solve<'n>(
    nodes: &'n [Node<'_>],
    load: impl Fn(&'n Node<'_>) -> &'n Load,
    think_ms: f64,
    clients: u32,
) -> Option<Solution> {
    let demand = |node: &'n Node<'_>| {
        let load = load(node);
        Some(Demand { service: node.visits * load.service_time_ms, servers: NonZeroU32::new(load.servers)? })
    };
    let demands: Vec<Demand> = nodes.iter().map(demand).collect::<Option<_>>()?;
    mva::solve(&demands, think_ms, clients)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        snapshot::{Closed, Estimate},
        whatif::tests::{change, edge, service},
    };

    #[test]
    fn a_pool_that_is_held_while_it_calls_is_no_station_of_a_loop() {
        let looped = |held_ms: Option<f64>| {
            let gateway = service("gateway", 40.0, 10.0, 1, 40.0);
            let closed = Some(Closed { clients: 4, think_time_ms: 60.0, elsewhere_ms: 0.0 });
            let estimate = Estimate { closed, held_ms, model: "mva".into(), ..gateway.estimate };
            let snapshot = Snapshot {
                services: vec![ServiceView { estimate, ..gateway }, service("tagger", 40.0, 15.0, 1, 25.0)],
                edges: vec![edge("gateway", "tagger", 40.0, 1.0)],
                ..Snapshot::default()
            };
            let change = Change { service_time: 0.5, ..change("tagger") };
            Loop::solve(&snapshot, &Calls::of(&snapshot), &change, &Factors::NONE).is_some()
        };
        assert!(looped(None) && !looped(Some(5.0)));
    }
}
