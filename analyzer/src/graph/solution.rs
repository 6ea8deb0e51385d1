//! [`Solution`]: what the whole graph says of each of its services, in some milliseconds for a thousand.

use petgraph::{
    algo::dominators,
    graph::{DiGraph, NodeIndex},
};

use super::{condensed::Condensed, visits::Visits};

/// Entries whose visits are told apart, those with most requests; the sum counts all.
const MAX_ENTRIES: usize = 50;

/// A service that gets this share of its requests from nobody we see is an entry too.
const MIN_OUTSIDE: f64 = 0.1;

/// Services by number, and who calls whom.
#[derive(Clone, Debug, Default)]
pub struct Topology {
    /// Requests of each service.
    pub requests_per_s: Vec<f64>,
    /// Caller, callee, calls: one of each pair.
    pub edges: Vec<(u32, u32, f64)>,
}

/// What follows for each service.
#[derive(Clone, Debug, Default)]
pub struct Solution {
    condensed: Condensed,
    /// Components that lead to each component, as bits.
    upstream: Vec<Box<[u64]>>,
    /// Where requests enter, and how many per second.
    pub entries: Vec<(u32, f64)>,
    /// Visits of each service per request at an entry.
    pub visits: Vec<Vec<(u32, f64)>>,
    /// Visits of each service per request that enters anywhere.
    pub visits_per_request: Vec<Option<f64>>,
    /// The nearest service through which every request to this one passes.
    pub dominators: Vec<Option<u32>>,
    /// Calls per request of the caller, of each edge; `None` when the caller gets no requests.
    pub calls_per_request: Vec<Option<f64>>,
}

impl Topology {
    /// Solves it.
    #[must_use]
    pub fn solve(&self) -> Solution {
        let graph = self.graph();
        let condensed = Condensed::new(&graph);
        let entries = self.entries(&graph, &condensed);
        let mut solution = Solution {
            upstream: condensed.upstream(&graph),
            dominators: dominators_of(&graph, &entries),
            calls_per_request: self.edges.iter().map(|(caller, _, calls)| self.per_request(*caller, *calls)).collect(),
            ..Solution::default()
        };
        self.count_visits(&mut solution, &graph, &condensed, &entries);
        solution.entries = entries;
        solution.condensed = condensed;
        solution
    }

    /// Who gets requests that no service sent, and how many; most first. A tenth of its requests must come from outside, or
    /// nothing lead to it and its cycle: a few calls less than there were are lost, not entered.
    #[must_use]
    pub fn entering(&self) -> Vec<(u32, f64)> {
        let graph = self.graph();
        self.entries(&graph, &Condensed::new(&graph))
    }

    /// Weights are calls per request.
    fn graph(&self) -> DiGraph<(), f64> {
        let mut graph = DiGraph::with_capacity(self.requests_per_s.len(), self.edges.len());
        for _ in &self.requests_per_s {
            graph.add_node(());
        }
        for (caller, callee, calls) in self.edges.iter().filter(|(caller, callee, _)| caller != callee) {
            let weight = self.per_request(*caller, *calls).unwrap_or(0.0);
            graph.add_edge(NodeIndex::new(*caller as usize), NodeIndex::new(*callee as usize), weight);
        }
        graph
    }

    fn per_request(&self, caller: u32, calls: f64) -> Option<f64> {
        let requests = self.requests_per_s[caller as usize];
        (requests > 0.0).then(|| calls / requests)
    }

    fn entries(&self, graph: &DiGraph<(), f64>, condensed: &Condensed) -> Vec<(u32, f64)> {
        let mut outside = self.requests_per_s.clone();
        for (caller, callee, calls) in self.edges.iter().filter(|(caller, callee, _)| caller != callee) {
            if self.requests_per_s[*caller as usize] > 0.0 {
                outside[*callee as usize] -= calls;
            }
        }
        let sources = condensed.sources(graph);
        let enters = |node: &u32| {
            let (outside, requests) = (outside[*node as usize], self.requests_per_s[*node as usize]);
            let source = sources[condensed.of_node[*node as usize] as usize];
            requests > 0.0 && (outside >= MIN_OUTSIDE * requests || source && outside > 0.0)
        };
        let nodes = (0..outside.len() as u32).filter(enters);
        let mut entries: Vec<_> = nodes.map(|node| (node, outside[node as usize])).collect();
        entries.sort_by(|a, b| b.1.total_cmp(&a.1).then(a.0.cmp(&b.0)));
        entries
    }

    fn count_visits(
        &self,
        solution: &mut Solution,
        graph: &DiGraph<(), f64>,
        condensed: &Condensed,
        entries: &[(u32, f64)],
    ) {
        let mut from = Visits::new(graph, condensed);
        let mut sums = vec![0.0; graph.node_count()];
        from.from(entries, |node, visits| sums[node as usize] = visits);
        solution.visits = vec![Vec::new(); graph.node_count()];
        for (entry, _) in entries.iter().take(MAX_ENTRIES) {
            from.from(&[(*entry, 1.0)], |node, visits| {
                if visits > 0.0 {
                    solution.visits[node as usize].push((*entry, visits));
                }
            });
        }
        let entering: f64 = entries.iter().map(|(_, rate)| rate).sum();
        let per_request = |sum: &f64| Some(sum / entering).filter(|visits| visits.is_finite());
        solution.visits_per_request = sums.iter().map(per_request).collect();
    }
}

/// Immediate dominators, as if one node called all entries (K. Cooper, T. Harvey, K. Kennedy, A simple, fast
/// dominance algorithm, 2001).
fn dominators_of(graph: &DiGraph<(), f64>, entries: &[(u32, f64)]) -> Vec<Option<u32>> {
    let mut entered = graph.map(|_, ()| (), |_, _| ());
    let outside = entered.add_node(());
    for (entry, _) in entries {
        entered.add_edge(outside, NodeIndex::new(*entry as usize), ());
    }
    let dominators = dominators::simple_fast(&entered, outside);
    let of = |node: usize| dominators.immediate_dominator(NodeIndex::new(node)).filter(|found| *found != outside);
    (0..graph.node_count()).map(|node| of(node).map(|found| found.index() as u32)).collect()
}

impl Solution {
    /// Services that call this one, directly or not, itself left out.
    pub fn upstream(&self, service: u32) -> impl Iterator<Item = u32> {
        let bits = &self.upstream[self.condensed.of_node[service as usize] as usize];
        let set = bits.iter().enumerate().flat_map(|(place, word)| ones(*word).map(move |bit| 64 * place + bit));
        set.flat_map(|place| self.condensed.components[place].iter().copied()).filter(move |other| *other != service)
    }

    /// Services that call each other in a circle with this one; none when it is in no cycle.
    #[must_use]
    pub fn cycle(&self, service: u32) -> &[u32] {
        let component = &self.condensed.components[self.condensed.of_node[service as usize] as usize];
        if component.len() > 1 { component } else { &[] }
    }
}

/// The bits that are set, the lowest first.
fn ones(mut word: u64) -> impl Iterator<Item = usize> {
    std::iter::from_fn(move || {
        let lowest = word.trailing_zeros() as usize;
        word &= word.checked_sub(1)?;
        Some(lowest)
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// gateway 0 → a 1 twice and b 2 once a request; a → db 3; b → db in half of its requests.
    fn diamond() -> Topology {
        let edges = vec![(0, 1, 20.0), (0, 2, 10.0), (1, 3, 20.0), (2, 3, 5.0)];
        Topology { requests_per_s: vec![10.0, 20.0, 10.0, 25.0], edges }
    }

    #[test]
    fn visits_dominators_and_upstream_of_a_diamond() {
        let solution = diamond().solve();
        assert_eq!(solution.entries, [(0, 10.0)]);
        assert_eq!(solution.visits_per_request, [1.0, 2.0, 1.0, 2.5].map(Some));
        assert_eq!(solution.dominators, [None, Some(0), Some(0), Some(0)]);
        assert_eq!(solution.calls_per_request, [2.0, 1.0, 1.0, 0.5].map(Some));
        let mut upstream: Vec<_> = solution.upstream(3).collect();
        upstream.sort_unstable();
        assert_eq!(upstream, [0, 1, 2]);
        assert_eq!(solution.upstream(0).count(), 0);
    }

    #[test]
    fn a_cycle_is_solved_as_a_geometric_series_and_named() {
        // half of b's requests go back to a: 1 + 1/2 + 1/4 + … = 2 visits
        let edges = vec![(0, 1, 10.0), (1, 2, 20.0), (2, 1, 10.0), (2, 3, 20.0)];
        let solution = Topology { requests_per_s: vec![10.0, 20.0, 20.0, 20.0], edges }.solve();
        let visits: Vec<f64> = solution.visits_per_request.iter().map(|v| v.unwrap()).collect();
        assert!(visits.iter().zip([1.0, 2.0, 2.0, 2.0]).all(|(found, is)| (found - is).abs() < 1e-6), "{visits:?}");
        assert_eq!((solution.cycle(1), solution.cycle(0)), (&[1, 2][..], &[][..]));
        assert_eq!(solution.dominators, [None, Some(0), Some(1), Some(2)]);
    }

    #[test]
    fn who_is_upstream_is_found_over_many_words_of_bits() {
        // a chain of 200, all upstream of the last
        let edges = (0..199).map(|n| (n, n + 1, 1.0)).collect();
        let solution = Topology { requests_per_s: vec![1.0; 200], edges }.solve();
        let mut upstream: Vec<u32> = solution.upstream(199).collect();
        upstream.sort_unstable();
        assert_eq!(upstream, (0..199).collect::<Vec<u32>>());
        assert_eq!(ones(1 << 63 | 0b101).collect::<Vec<_>>(), [0, 2, 63]);
    }

    #[test]
    fn a_cycle_that_does_not_end_has_no_count_wherever_it_is_entered() {
        let (entries, circle) = (60_u32, 80_u32);
        let mut edges: Vec<(u32, u32, f64)> = (0..entries).map(|n| (n, entries + n, 1.0)).collect();
        for n in 0..circle {
            edges.extend((1..=4).map(|step| (entries + n, entries + (n + step) % circle, 25.0)));
        }
        let mut requests_per_s = vec![1.0; entries as usize];
        requests_per_s.resize((entries + circle) as usize, 100.0);
        let solution = Topology { requests_per_s, edges }.solve();
        assert_eq!(solution.visits_per_request[0], Some(1.0 / f64::from(entries)));
        assert_eq!(solution.visits_per_request[entries as usize], None);
        assert!(solution.visits[entries as usize].is_empty());
    }

    #[test]
    fn two_entries_share_what_is_behind_them_and_an_endless_cycle_has_no_count() {
        let edges = vec![(0, 2, 10.0), (1, 2, 60.0), (1, 0, 5.0)];
        let solution = Topology { requests_per_s: vec![20.0, 30.0, 70.0], edges }.solve();
        assert_eq!(solution.entries, [(1, 30.0), (0, 15.0)]);
        assert_eq!(solution.dominators[2], None, "neither is on every way");
        let visits = &solution.visits[2];
        assert!((visits[0].1 - (2.0 + 0.5 / 6.0)).abs() < 1e-9 && (visits[1].1 - 0.5).abs() < 1e-9, "{visits:?}");
        let endless =
            Topology { requests_per_s: vec![10.0, 20.0, 10.0], edges: vec![(0, 1, 10.0), (1, 2, 20.0), (2, 1, 10.0)] };
        assert_eq!(endless.solve().visits_per_request, [Some(1.0), None, None]);
    }

    proptest! {
        /// Flows that are what the equations say are found again: visits are rates over what enters.
        #[test]
        fn visits_are_rates_over_what_enters(
            calls in prop::collection::vec((0_usize..12, 1_usize..12, 0.1_f64..2.0), 1..40), entering in 1.0_f64..100.0
        ) {
            // a tree of node n under something before it, and further edges forward: no cycles
            let mut edges = std::collections::BTreeMap::new();
            for (from, step, per_request) in calls {
                edges.insert((from, from + step), per_request);
            }
            let mut requests_per_s = vec![0.0; 24];
            requests_per_s[0] = entering;
            let mut flows = Vec::new();
            for ((from, to), per_request) in &edges {
                let calls = requests_per_s[*from] * per_request;
                requests_per_s[*to] += calls;
                flows.push((*from as u32, *to as u32, calls));
            }
            flows.retain(|(_, _, calls)| *calls > 0.0);
            let expected: Vec<f64> = requests_per_s.iter().map(|rate| rate / entering).collect();
            let solution = Topology { requests_per_s, edges: flows }.solve();
            for (found, expected) in solution.visits_per_request.iter().zip(expected) {
                prop_assert!((found.unwrap() - expected).abs() <= 1e-6 * (1.0 + expected));
            }
        }
    }
}
