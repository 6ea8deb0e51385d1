//! [`Names`]: the folders, as the process sees them and as the platter has them.
//!
//! A change of a name is an operation of its own until its folder is synced. What a power cut leaves
//! is any subset of the operations: each entry is old or new by itself, but a rename that took the
//! old name away has made the new one, so a file that is moved is never in neither place.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
    path::{Path, PathBuf},
};

use rand::{Rng, rngs::StdRng};

/// What a name stands for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Node {
    Dir,
    File(u64),
}

/// All names, by their whole path.
#[derive(Clone, Debug, Default)]
pub(super) struct Names {
    seen: BTreeMap<PathBuf, Node>,
    durable: BTreeMap<PathBuf, Node>,
    unsynced: Vec<Operation>,
}

#[derive(Clone, Debug)]
enum Operation {
    Add { name: PathBuf, node: Node },
    Remove { name: PathBuf },
    Rename { from: PathBuf, to: PathBuf, node: Node },
}

impl Names {
    /// Names that were there before the machine started.
    pub(super) fn durable(names: BTreeMap<PathBuf, Node>) -> Self {
        Self { seen: names.clone(), durable: names, unsynced: Vec::new() }
    }

    pub(super) fn get(&self, name: &Path) -> Option<Node> {
        self.seen.get(name).copied()
    }

    /// The entries of a folder. Paths are in order, so what is below it stands together.
    pub(super) fn children(&self, dir: &Path) -> impl Iterator<Item = (&Path, Node)> {
        let behind = self.seen.range::<Path, _>((Bound::Excluded(dir), Bound::Unbounded));
        let below = behind.take_while(move |(name, _)| name.starts_with(dir));
        let children = below.filter(move |(name, _)| name.parent() == Some(dir));
        children.map(|(name, node)| (name.as_path(), *node))
    }

    /// Every file that has a name, once.
    pub(super) fn files(&self) -> BTreeSet<u64> {
        self.seen.values().filter_map(|node| node.file()).collect()
    }

    /// Every name.
    pub(super) fn all(&self) -> &BTreeMap<PathBuf, Node> {
        &self.seen
    }

    pub(super) fn add(&mut self, name: &Path, node: Node) {
        self.change(Operation::Add { name: name.to_owned(), node });
    }

    pub(super) fn remove(&mut self, name: &Path) {
        self.change(Operation::Remove { name: name.to_owned() });
    }

    pub(super) fn rename(&mut self, from: &Path, to: &Path, node: Node) {
        self.change(Operation::Rename { from: from.to_owned(), to: to.to_owned(), node });
    }

    fn change(&mut self, operation: Operation) {
        operation.apply(&mut self.seen);
        self.unsynced.push(operation);
    }

    /// The names in `dir` are durable from here on. So are those in a folder that a file was moved to
    /// from there: a rename is one transaction.
    pub(super) fn sync(&mut self, dir: &Path) {
        let mut dirs = BTreeSet::from([dir.to_owned()]);
        for operation in self.unsynced.iter().rev() {
            if let Operation::Rename { from, to, .. } = operation
                && from.parent().is_some_and(|from| dirs.contains(from))
            {
                dirs.extend(to.parent().map(Path::to_owned));
            }
        }
        let inside = |name: &Path| name.parent().is_some_and(|dir| dirs.contains(dir));
        let mut rest = Vec::new();
        for operation in std::mem::take(&mut self.unsynced) {
            match operation {
                Operation::Rename { from, to, node } if inside(&to) && !inside(&from) => {
                    self.durable.insert(to, node);
                    rest.push(Operation::Remove { name: from });
                }
                operation if inside(operation.name()) => operation.apply(&mut self.durable),
                operation => rest.push(operation),
            }
        }
        self.unsynced = rest;
    }

    /// What a power cut leaves. What lies in a folder that is gone is gone too.
    pub(super) fn survivor(&self, random: &mut StdRng) -> BTreeMap<PathBuf, Node> {
        let mut left = self.durable.clone();
        for operation in &self.unsynced {
            operation.survive(&mut left, random);
        }
        let reachable = |name: &Path| name.ancestors().skip(1).all(|dir| left.get(dir) == Some(&Node::Dir));
        left.iter().filter(|(name, _)| reachable(name)).map(|(name, node)| (name.clone(), *node)).collect()
    }
}

impl Node {
    pub(super) fn file(self) -> Option<u64> {
        match self {
            Self::File(inode) => Some(inode),
            Self::Dir => None,
        }
    }
}

impl Operation {
    /// The name it makes, or takes away.
    fn name(&self) -> &Path {
        match self {
            Self::Add { name, .. } | Self::Remove { name } => name,
            Self::Rename { to, .. } => to,
        }
    }

    fn apply(&self, names: &mut BTreeMap<PathBuf, Node>) {
        match self {
            Self::Add { name, node } => {
                names.insert(name.clone(), *node);
            }
            Self::Remove { name } => {
                names.remove(name);
            }
            Self::Rename { from, to, node } => {
                names.remove(from);
                names.insert(to.clone(), *node);
            }
        }
    }

    fn survive(&self, left: &mut BTreeMap<PathBuf, Node>, random: &mut StdRng) {
        match (random.random_range(0..3), self) {
            (0, _) => {}
            (1, Self::Rename { from, to, node }) => {
                left.insert(from.clone(), *node);
                left.insert(to.clone(), *node);
            }
            _ => self.apply(left),
        }
    }
}
