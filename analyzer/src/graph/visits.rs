//! Visit counts: how many calls a service gets for one request that enters somewhere.
//!
//! With `p_ij` calls from i to j per request of i, a request that enters at e makes `v = δ_e + pᵀ v`
//! visits: the traffic equations of an open network (J. R. Jackson, Networks of waiting lines,
//! Operations Research 1957), in the mean, whatever the distributions. Callers first, each
//! equation is solved when it is met; within a cycle by Gauss and Seidel's iteration, which converges
//! because of each request into a cycle some part leaves it. Where none does, no number is given. The
//! equations are linear, so all entries together cost as much as one.

use petgraph::graph::{DiGraph, NodeIndex};

use super::condensed::Condensed;

/// Rounds within a cycle. A cycle in which half of the requests go round once more needs 40.
const MAX_ROUNDS: usize = 200;

/// Relative change at which a cycle is solved.
const TOLERANCE: f64 = 1e-11;

/// Solves for some entries after others, in memory that is used again.
pub(super) struct Visits<'a> {
    /// Weights are calls per request of the caller.
    graph: &'a DiGraph<(), f64>,
    condensed: &'a Condensed,
    /// Callers of each node within its own cycle.
    within: Vec<Vec<(u32, f64)>>,
    visits: Vec<f64>,
    touched: Vec<bool>,
    /// Cycles that were gone round in vain. Whether the rounds come to an end depends on the cycle, not on where it is entered.
    endless: Vec<bool>,
}

impl<'a> Visits<'a> {
    pub(super) fn new(graph: &'a DiGraph<(), f64>, condensed: &'a Condensed) -> Self {
        let visits = vec![0.0; graph.node_count()];
        let [touched, endless] = [(); 2].map(|()| vec![false; condensed.components.len()]);
        let mut within = vec![Vec::new(); graph.node_count()];
        for edge in graph.raw_edges() {
            let (from, to) = (edge.source().index(), edge.target().index());
            if condensed.of_node[from] == condensed.of_node[to] {
                within[to].push((from as u32, edge.weight));
            }
        }
        Self { graph, condensed, within, visits, touched, endless }
    }

    /// Hands on each node that requests at these entries lead to, with its visits. Those of and behind a cycle that
    /// does not end are NaN.
    pub(super) fn from(&mut self, entries: &[(u32, f64)], mut each: impl FnMut(u32, f64)) {
        let condensed = self.condensed;
        let mut first = condensed.components.len();
        for (entry, requests) in entries {
            let place = condensed.of_node[*entry as usize] as usize;
            self.visits[*entry as usize] += requests;
            self.touched[place] = true;
            first = first.min(place);
        }
        for place in first..condensed.components.len() {
            if !std::mem::take(&mut self.touched[place]) {
                continue;
            }
            let component = &condensed.components[place];
            if component.len() > 1 {
                self.endless[place] = self.endless[place] || !self.go_round(component);
                if self.endless[place] {
                    component.iter().for_each(|node| self.visits[*node as usize] = f64::NAN);
                }
            }
            for node in component {
                let visits = std::mem::take(&mut self.visits[*node as usize]);
                each(*node, visits);
                self.pass_on(*node, place as u32, visits);
            }
        }
    }

    /// To callees outside the component.
    fn pass_on(&mut self, node: u32, component: u32, visits: f64) {
        let mut edges = self.graph.neighbors(NodeIndex::new(node as usize)).detach();
        while let Some((edge, callee)) = edges.next(self.graph) {
            let of_callee = self.condensed.of_node[callee.index()];
            if of_callee != component {
                self.visits[callee.index()] += visits * self.graph[edge];
                self.touched[of_callee as usize] = true;
            }
        }
    }

    /// What enters a cycle becomes what visits it; says whether that came to an end.
    fn go_round(&mut self, component: &[u32]) -> bool {
        let entering: Vec<f64> = component.iter().map(|node| self.visits[*node as usize]).collect();
        for _ in 0..MAX_ROUNDS {
            let mut change = 0.0_f64;
            for (node, entering) in component.iter().zip(&entering) {
                let visits = entering + self.sent_within(*node);
                change = change.max((visits - self.visits[*node as usize]).abs() / visits.max(f64::MIN_POSITIVE));
                self.visits[*node as usize] = visits;
            }
            if change <= TOLERANCE {
                return true;
            }
        }
        false
    }

    fn sent_within(&self, node: u32) -> f64 {
        self.within[node as usize].iter().map(|(caller, calls)| self.visits[*caller as usize] * calls).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cycle_is_gone_round_in_vain_once_for_all_entries() {
        let mut graph = DiGraph::new();
        let nodes: Vec<NodeIndex> = (0..4).map(|_| graph.add_node(())).collect();
        for (from, to) in [(0, 2), (1, 3), (2, 3), (3, 2)] {
            graph.add_edge(nodes[from], nodes[to], 1.0);
        }
        let condensed = Condensed::new(&graph);
        let mut visits = Visits::new(&graph, &condensed);
        let found = |visits: &mut Visits, entry| {
            let mut of_cycle = 0.0;
            visits.from(&[(entry, 1.0)], |node, count| {
                if node == 2 {
                    of_cycle = count
                }
            });
            of_cycle
        };
        assert!(found(&mut visits, 0).is_nan());
        assert_eq!(visits.endless.iter().filter(|endless| **endless).count(), 1);
        // a cycle that would end now is not tried again
        visits.within = vec![Vec::new(); 4];
        assert!(found(&mut visits, 1).is_nan());
    }
}
