//! [`ServiceGraph`]: who calls whom, in petgraph: entries, cycles condensed, who lies upstream.

use std::collections::{BTreeMap, BTreeSet};

use petgraph::{
    Direction,
    algo::kosaraju_scc,
    graph::{DiGraph, NodeIndex},
    visit::{Bfs, Reversed},
};

/// A directed graph of names.
#[derive(Clone, Debug, Default)]
pub struct ServiceGraph {
    graph: DiGraph<String, f64>,
    places: BTreeMap<String, NodeIndex>,
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

    /// Services that nobody calls: where traffic enters. In a cycle that nobody enters, all of it.
    #[must_use]
    pub fn entries(&self) -> Vec<String> {
        let mut entries = Vec::new();
        for component in kosaraju_scc(&self.graph) {
            let called_from_outside = component.iter().any(|place| {
                self.graph.neighbors_directed(*place, Direction::Incoming).any(|caller| !component.contains(&caller))
            });
            if !called_from_outside {
                entries.extend(component.iter().map(|place| self.graph[*place].clone()));
            }
        }
        entries.sort();
        entries
    }

    /// The entry through which `service` is reached.
    #[must_use]
    pub fn entry_of(&self, service: &str) -> Option<String> {
        let entries = self.entries();
        if entries.iter().any(|entry| entry == service) {
            return Some(service.to_owned());
        }
        let upstream = self.upstream(service);
        entries.into_iter().find(|entry| upstream.contains(entry))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_and_upstream_survive_cycles() {
        let edges = [("gateway", "a", 1.0), ("a", "b", 1.0), ("b", "a", 1.0), ("b", "db", 1.0)];
        let graph = ServiceGraph::new(["lonely"].into_iter(), edges.into_iter());
        assert_eq!(graph.entries(), ["gateway", "lonely"]);
        assert_eq!(graph.entry_of("db").as_deref(), Some("gateway"));
        assert!(graph.upstream("b").contains("a") && graph.upstream("b").contains("gateway"));
        assert!(!graph.upstream("b").contains("db"));
    }
}
