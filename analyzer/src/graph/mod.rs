//! Who calls whom, in petgraph: [`ServiceGraph`] by names, for questions about single services;
//! [`Topology`] by numbers, solved whole for every window.

mod condensed;
mod solution;
mod visits;

use std::collections::{BTreeSet, HashMap};

use foldhash::fast::RandomState;
use petgraph::{
    algo::tarjan_scc,
    graph::{DiGraph, NodeIndex},
    visit::{Bfs, Reversed},
};

pub use solution::{Solution, Topology};

/// A directed graph of names.
#[derive(Clone, Debug, Default)]
pub struct ServiceGraph {
    graph: DiGraph<String, f64>,
    places: HashMap<String, NodeIndex, RandomState>,
    /// By name.
    entries: Vec<NodeIndex>,
    /// The first entry by name that leads to a node.
    entry_of: Vec<Option<NodeIndex>>,
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
        graph.find_entries();
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

    /// Cycles are one: who is in one that nobody enters is an entry, who is in one that is called is none.
    fn find_entries(&mut self) {
        let mut component_of = vec![0; self.graph.node_count()];
        let components = tarjan_scc(&self.graph);
        for (number, component) in components.iter().enumerate() {
            component.iter().for_each(|place| component_of[place.index()] = number);
        }
        let mut called = vec![false; components.len()];
        for edge in self.graph.raw_edges() {
            let (from, to) = (component_of[edge.source().index()], component_of[edge.target().index()]);
            called[to] |= from != to;
        }
        let open = components.into_iter().zip(called).filter(|(_, called)| !called);
        self.entries = open.flat_map(|(component, _)| component).collect();
        self.entries.sort_by(|a, b| self.graph[*a].cmp(&self.graph[*b]));
        self.entry_of = vec![None; self.graph.node_count()];
        for entry in &self.entries {
            // what an earlier entry leads to, and all behind it, is done
            let mut work = vec![*entry];
            while let Some(place) = work.pop() {
                if self.entry_of[place.index()].is_none() {
                    self.entry_of[place.index()] = Some(*entry);
                    work.extend(self.graph.neighbors(place));
                }
            }
        }
        // an entry is its own, also where a cycle of entries leads to it
        self.entries.iter().for_each(|entry| self.entry_of[entry.index()] = Some(*entry));
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
        self.entries.iter().map(|place| self.graph[*place].clone()).collect()
    }

    /// The entry through which `service` is reached.
    #[must_use]
    pub fn entry_of(&self, service: &str) -> Option<String> {
        let place = self.places.get(service)?;
        self.entry_of[place.index()].map(|entry| self.graph[entry].clone())
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
        assert_eq!(graph.entry_of("lonely").as_deref(), Some("lonely"));
        assert_eq!(graph.entry_of("nobody"), None);
        assert!(graph.upstream("b").contains("a") && graph.upstream("b").contains("gateway"));
        assert!(!graph.upstream("b").contains("db"));
    }

    #[test]
    fn a_cycle_that_nobody_enters_is_entered_everywhere() {
        let graph = ServiceGraph::new([].into_iter(), [("b", "a", 1.0), ("a", "b", 1.0), ("b", "c", 1.0)].into_iter());
        assert_eq!(graph.entries(), ["a", "b"]);
        assert_eq!((graph.entry_of("b").as_deref(), graph.entry_of("c").as_deref()), (Some("b"), Some("a")));
    }
}
