//! [`Calls`]: who gets how many requests: the traffic equations of an open network (J. R. Jackson, "Networks of waiting lines",
//! Operations Research 5, 1957), solved by rounds. Calls in circles die out.
//!
//! Services go by their places in the snapshot: each question costs as many steps as there are calls on the way, also in a mesh of a
//! thousand services and hundreds of entries.

use hashbrown::HashMap;

use crate::snapshot::{NodeKind, Snapshot};

/// Rounds of the equations: what a circle of calls still passes on after these is left out.
const ROUNDS: usize = 64;

/// Visits that are too few to matter.
const FEW: f64 = 1e-9;

/// What every service calls for one of its requests.
pub(super) struct Calls<'a> {
    places: HashMap<&'a str, usize, foldhash::fast::RandomState>,
    names: Vec<&'a str>,
    rates: Vec<f64>,
    of: Vec<Vec<Call>>,
}

/// Calls of one service to another for one of its requests.
struct Call {
    callee: usize,
    times: f64,
    /// Those that it waits for and for nothing else meanwhile.
    critical: f64,
    /// Whether both are services with spans, and not the same.
    counts: bool,
}

/// How often something is visited, by place.
pub(super) type Visits = Vec<(usize, f64)>;

impl<'a> Calls<'a> {
    pub(super) fn of(snapshot: &'a Snapshot) -> Self {
        let services = &snapshot.services;
        let places: HashMap<&str, usize, foldhash::fast::RandomState> =
            services.iter().zip(0..).map(|(service, place)| (service.service.as_str(), place)).collect();
        let rates: Vec<f64> = services.iter().map(|service| service.rate_per_s).collect();
        let mut of: Vec<Vec<Call>> = services.iter().map(|_| Vec::new()).collect();
        for edge in &snapshot.edges {
            let ends = places.get(edge.caller.as_str()).zip(places.get(edge.callee.as_str()));
            let Some((&caller, &callee)) = ends.filter(|(caller, _)| rates[**caller] > 0.0) else { continue };
            let times = edge.rate_per_s / rates[caller];
            let with_spans = |place: usize| services[place].kind == NodeKind::Service;
            of[caller].push(Call {
                callee,
                times,
                critical: times * edge.critical_share.unwrap_or(1.0),
                counts: caller != callee && with_spans(caller) && with_spans(callee),
            });
        }
        let names = services.iter().map(|service| service.service.as_str()).collect();
        Self { places, names, rates, of }
    }

    /// Where it stands.
    pub(super) fn place(&self, service: &str) -> Option<usize> {
        self.places.get(service).copied()
    }

    pub(super) fn name(&self, place: usize) -> &'a str {
        self.names[place]
    }

    /// Requests a second that no service makes, by the place that they come to.
    pub(super) fn outside_rates(&self) -> Vec<f64> {
        let mut outside = self.rates.clone();
        for (caller, calls) in self.of.iter().enumerate() {
            let others = calls.iter().filter(|call| call.callee != caller);
            others.for_each(|call| outside[call.callee] -= self.rates[caller] * call.times);
        }
        outside.into_iter().map(|rate| rate.max(0.0)).collect()
    }

    /// Arrivals of every service when those of one are multiplied.
    pub(super) fn rates(&self, service: &str, factor: f64) -> Vec<f64> {
        let own = self.place(service).map(|place| (place, (factor - 1.0) * self.rates[place]));
        // what each service gets more, from the change and from its callers
        let mut more = vec![0.0; self.rates.len()];
        for _ in 0..ROUNDS {
            let mut next = vec![0.0; self.rates.len()];
            for (calls, more) in self.of.iter().zip(&more).filter(|(_, more)| **more != 0.0) {
                calls.iter().for_each(|call| next[call.callee] += more * call.times);
            }
            if let Some((place, change)) = own {
                next[place] = change;
            }
            let settled = next.iter().zip(&more).all(|(next, more)| (next - more).abs() <= FEW * (1.0 + next.abs()));
            more = next;
            if settled {
                break;
            }
        }
        self.rates.iter().zip(more).map(|(rate, more)| (rate + more).max(0.0)).collect()
    }

    /// How often a request at `entry` waits for each service: visits, each counted by the share of the call in which its
    /// caller waits for nothing else when `critical`, else whole. In order of their places.
    pub(super) fn visits(&self, entry: usize, critical: bool) -> Visits {
        let mut all = vec![0.0; self.of.len()];
        let mut reached = vec![entry];
        let mut is_reached = vec![false; self.of.len()];
        (all[entry], is_reached[entry]) = (1.0, true);
        // the visits of each round are those of the calls of the one before
        let mut newest: Visits = vec![(entry, 1.0)];
        let mut next = vec![0.0; self.of.len()];
        for _ in 0..ROUNDS {
            let mut called = Vec::new();
            for (caller, visits) in &newest {
                for call in self.of[*caller].iter().filter(|call| call.counts) {
                    if next[call.callee] == 0.0 {
                        called.push(call.callee);
                    }
                    next[call.callee] += visits * if critical { call.critical } else { call.times };
                    if !std::mem::replace(&mut is_reached[call.callee], true) {
                        reached.push(call.callee);
                    }
                }
            }
            called.sort_unstable();
            called.dedup();
            newest = called.into_iter().map(|place| (place, std::mem::take(&mut next[place]))).collect();
            newest.iter().for_each(|(place, visits)| all[*place] += visits);
            newest.retain(|(_, visits)| *visits >= FEW);
            if newest.is_empty() {
                break;
            }
        }
        reached.sort_unstable();
        reached.into_iter().map(|place| (place, all[place])).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::snapshot::{EdgeView, ServiceView};

    /// A service a layer of ten; each calls the whole next layer once.
    fn layers(depth: usize) -> Snapshot {
        let name = |layer: usize, n: usize| format!("s{layer:03}-{n}");
        let all = (0..depth).flat_map(|layer| (0..10).map(move |n| (layer, n)));
        let services = all.clone().map(|(layer, n)| ServiceView {
            service: name(layer, n),
            rate_per_s: 10.0_f64.powi(layer.min(6) as i32),
            ..ServiceView::default()
        });
        let edges = all.filter(|(layer, _)| layer + 1 < depth).flat_map(|(layer, n)| {
            (0..10).map(move |callee| EdgeView {
                caller: name(layer, n),
                callee: name(layer + 1, callee),
                rate_per_s: 0.1 * 10.0_f64.powi(layer.min(6) as i32),
                critical_share: Some(0.5),
                ..EdgeView::default()
            })
        });
        Snapshot { services: services.collect(), edges: edges.collect(), ..Snapshot::default() }
    }

    #[test]
    fn visits_are_those_of_all_ways_and_each_call_is_looked_at_once_a_layer() {
        let snapshot = layers(100);
        let calls = Calls::of(&snapshot);
        let entry = calls.place("s000-3").unwrap();
        let visits = calls.visits(entry, false);
        assert_eq!(visits.len(), 1 + 63 * 10 + 10, "a round a layer, and {ROUNDS} of them");
        assert!((visits[1].1 - 0.1).abs() < 1e-12 && (visits[11].1 - 0.1).abs() < 1e-12, "{:?}", &visits[..12]);
        assert!((calls.visits(entry, true)[11].1 - 0.025).abs() < 1e-12);
    }
}
