//! Who calls whom, in petgraph: [`ServiceGraph`] by names, for questions about single services;
//! [`Topology`] by numbers, solved whole for every window.

mod condensed;
mod solution;
mod visits;

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use petgraph::{
    graph::{DiGraph, NodeIndex},
    visit::{Bfs, Reversed},
};

pub use solution::{Solution, Topology};

/// A directed graph of names.
#[derive(Clone, Debug, Default)]
pub struct ServiceGraph {
    graph: DiGraph<String, f64>,
    places: HashMap<String, NodeIndex, RandomState>,
}

impl ServiceGraph {
    /// Nodes (also those without edges) and weighted edges.
    pub fn new<'a>(nodes: impl Iterator<Item = &'a str>, edges: impl Iterator<Item = (&'a str, &'a str, f64)>) -> Self {
        let mut graph = Self::default();
        nodes.for_each(|node| {
            graph.node(node);
        });
        for (caller, callee, rate) in edges {
            let (from, to) = (graph.node(caller), graph.node(callee));
            graph.graph.update_edge(from, to, rate);
        }
        graph
    }

    fn node(&mut self, name: &str) -> NodeIndex {
        if let Some(place) = self.places.get(name) {
            return *place;
        }
        let place = self.graph.add_node(name.to_owned());
        self.places.insert(name.to_owned(), place);
        place
    }

    /// Services that others wait for a reply of, seen from `service`: its callers, theirs, and so on.
    #[must_use]
    pub fn upstream(&self, service: &str) -> BTreeSet<String> {
        let Some(start) = self.places.get(service) else { return BTreeSet::new() };
        let reversed = Reversed(&self.graph);
        let mut search = Bfs::new(reversed, *start);
        let mut found = BTreeSet::new();
        while let Some(place) = search.next(reversed) {
            if place != *start {
                found.insert(self.graph[place].clone());
            }
        }
        found
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn upstream_survives_cycles() {
        let edges = [("gateway", "a", 1.0), ("a", "b", 1.0), ("b", "a", 1.0), ("b", "db", 1.0)];
        let graph = ServiceGraph::new(["lonely"].into_iter(), edges.into_iter());
        assert_eq!(graph.upstream("b").into_iter().collect::<Vec<_>>(), ["a", "gateway"]);
        assert_eq!(graph.upstream("db").len(), 3);
        assert!(graph.upstream("lonely").is_empty() && graph.upstream("nobody").is_empty());
    }
}
