//! [`Condensed`]: a graph whose cycles are one node each (R. Tarjan, Depth-first search and linear graph
//! algorithms, SIAM J. Computing 1972), so that it can be gone through callers first.

use petgraph::{algo::tarjan_scc, graph::DiGraph};

/// Cycles, in an order in which callers stand before whom they call.
#[derive(Clone, Debug, Default)]
pub(super) struct Condensed {
    /// Nodes of one cycle, or a single one.
    pub(super) components: Vec<Vec<u32>>,
    /// The place of each node's component.
    pub(super) of_node: Vec<u32>,
}

impl Condensed {
    pub(super) fn new(graph: &DiGraph<(), f64>) -> Self {
        let mut components: Vec<Vec<u32>> = tarjan_scc(graph)
            .into_iter()
            .map(|component| component.into_iter().map(|node| node.index() as u32).collect())
            .collect();
        // Tarjan's algorithm finds callees first
        components.reverse();
        let mut of_node = vec![0; graph.node_count()];
        for (place, component) in components.iter_mut().enumerate() {
            component.sort_unstable();
            component.iter().for_each(|node| of_node[*node as usize] = place as u32);
        }
        Self { components, of_node }
    }

    /// Components that nobody outside calls.
    pub(super) fn sources(&self, graph: &DiGraph<(), f64>) -> Vec<bool> {
        let mut sources = vec![true; self.components.len()];
        for edge in graph.raw_edges() {
            let (from, to) = (self.of_node[edge.source().index()], self.of_node[edge.target().index()]);
            if from != to {
                sources[to as usize] = false;
            }
        }
        sources
    }

    /// For each component, the components that lead to it, itself too, as bits.
    pub(super) fn upstream(&self, graph: &DiGraph<(), f64>) -> Vec<Box<[u64]>> {
        let words = self.components.len().div_ceil(64);
        let mut upstream = vec![vec![0_u64; words].into_boxed_slice(); self.components.len()];
        let mut callees: Vec<Vec<u32>> = vec![Vec::new(); self.components.len()];
        for edge in graph.raw_edges() {
            let (from, to) = (self.of_node[edge.source().index()], self.of_node[edge.target().index()]);
            if from != to {
                callees[from as usize].push(to);
            }
        }
        for (place, mut callees) in callees.into_iter().enumerate() {
            upstream[place][place / 64] |= 1 << (place % 64);
            callees.sort_unstable();
            callees.dedup();
            for callee in callees {
                // callers stand first, so all of this one's are in already
                let (before, after) = upstream.split_at_mut(callee as usize);
                before[place].iter().zip(&mut after[0]).for_each(|(mine, theirs)| *theirs |= mine);
            }
        }
        upstream
    }
}
