//! [`Connected`]: which services have calls between them, directly or not. What others lose is no doubt of a cause that they have nothing to do
//! with: a mesh may hold many applications, and two of them may fail at once.
//!
//! Of spans of one request, and of who ever answered the calls of an operation: a call that nobody answers any more still is one. A peer that never
//! answers with spans connects nobody: a database, a queue or a host may be the name of many.

use super::{
    history::History,
    observed::{Map, Observed},
};
use crate::spans::Name;

/// Sets of services, each known by one of them (R. Tarjan, "Efficiency of a good but not linear set union algorithm", 1975).
#[derive(Clone, Debug, Default)]
pub(crate) struct Connected {
    parents: Map<Name, Name>,
}

impl Connected {
    pub(super) fn of(observed: &Observed, history: &History) -> Self {
        let mut connected = Self::default();
        for tree in &observed.trees {
            let root = tree.nodes[tree.root].service;
            let answered = tree.nodes.iter().filter(|node| !node.unanswered);
            let callees = answered.filter_map(|node| node.call).map(|call| call.callee);
            let services = tree.nodes.iter().map(|node| node.service).chain(callees);
            services.for_each(|service| connected.join(root, service));
        }
        history.answered(&observed.answers).for_each(|(caller, callee)| connected.join(caller, callee));
        connected
    }

    /// The same for all that are connected.
    pub(crate) fn set(&self, service: Name) -> Name {
        let mut at = service;
        while let Some(parent) = self.parents.get(&at) {
            at = *parent;
        }
        at
    }

    fn join(&mut self, a: Name, b: Name) {
        let (a, b) = (self.shortened(a), self.shortened(b));
        if a != b {
            // the lesser stays, so that it does not matter which came first
            self.parents.insert(a.max(b), a.min(b));
        }
    }

    fn shortened(&mut self, service: Name) -> Name {
        let (set, mut at) = (self.set(service), service);
        while at != set {
            at = self.parents.insert(at, set).unwrap_or(set);
        }
        set
    }
}
