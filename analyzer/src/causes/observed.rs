//! [`Observed`]: what one window's traces did, by key, as it is compared with history and becomes it.

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use foldhash::fast::RandomState;

use super::{
    Operation,
    lines::Lines,
    marks::Mark,
    tree::{Node, Tree},
};
use crate::spans::{Name, Span};

/// Signatures kept apart of one operation in one window; further ones are one together.
const MAX_SIGNATURES: usize = 64;

/// What stands for those.
const OTHER: u64 = 0;
const REST: Name = Name::MAX;

/// Samples of a key kept for the comparison of whole distributions.
const MAX_SAMPLES: usize = 200;

/// Marks kept apart of one operation in one window; further ones are left out.
const MAX_MARKS: usize = 256;

/// Instances of a service kept apart in one window; further ones are one together.
const MAX_INSTANCES: usize = 32;

/// Own time: the service, the operation, which children it had.
pub(super) type OwnKey = (Name, Name, u64);

/// A gap: the caller, the callee, the callee's operation.
pub(super) type GapKey = (Name, Name, Name);

pub(super) type Map<K, V> = HashMap<K, V, RandomState>;

/// One window.
#[derive(Debug, Default)]
pub(crate) struct Observed {
    pub(super) trees: Vec<Tree>,
    pub(super) own: Map<OwnKey, Stat>,
    pub(super) gap: Map<GapKey, Stat>,
    /// The same of each instance, where a service has several; a gap is told apart by the callee's.
    pub(super) own_at: Map<(OwnKey, Name), Stat>,
    pub(super) gap_at: Map<(GapKey, Name), Stat>,
    /// Spans by service and instance.
    pub(super) instances: Map<Name, Map<Name, u32>>,
    pub(super) signatures: Map<Operation, Signatures>,
    /// How many of an operation's spans show what.
    pub(super) marks: Map<Operation, Map<Mark, u32>>,
    /// Services that logged something.
    pub(super) logging: HashSet<Name, RandomState>,
    /// Who answered the calls that an operation is.
    pub(super) answers: Map<Operation, Map<Name, u32>>,
    /// Of spans entered from another service: own times and tails, to compare distributions.
    pub(super) shapes: Map<OwnKey, Shape>,
    /// Median duration of a request.
    pub(super) root_ms: Option<f64>,
}

/// A key's values in a window.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub(super) struct Stat {
    pub(super) spans: u32,
    /// Spans of one trace are one draw.
    pub(super) traces: u32,
    pub(super) median: f64,
    /// Half the inter-quartile range: about the median distance from the median.
    pub(super) spread: f64,
}

/// How often an operation had which children.
#[derive(Clone, Debug, Default)]
pub(super) struct Signatures {
    pub(super) counts: Map<u64, u32>,
    pub(super) spans: u32,
    pub(super) traces: u32,
    /// Spans of which not all is known that they logged.
    pub(super) unheard: u32,
}

/// Own times and tails of a key, in steps of 10 µs.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub(super) own: Vec<i32>,
    pub(super) tail: Vec<i32>,
}

/// Values as they are gathered.
#[derive(Default)]
struct Values {
    ms: Vec<f64>,
    traces: u32,
    last_trace: Option<usize>,
}

impl Observed {
    pub(crate) fn of(traces: &[&[Span]], lines: &Lines) -> Self {
        let trees = traces.iter().filter_map(|spans| Tree::of(spans, lines)).collect();
        let mut observed = Self { trees, ..Self::default() };
        observed.count();
        observed.measure();
        observed.take_shapes();
        observed
    }

    /// Times of what requests waited for, by key.
    fn measure(&mut self) {
        let (mut own, mut gap) = (Map::<OwnKey, Values>::default(), Map::<GapKey, Values>::default());
        let (mut own_at, mut gap_at) = (Map::<_, Values>::default(), Map::<_, Values>::default());
        let mut roots = Vec::with_capacity(self.trees.len());
        for (number, tree) in self.trees.iter().enumerate() {
            roots.push(tree.nodes[tree.root].duration_ms);
            for node in tree.nodes.iter().filter(|node| node.on_path) {
                if let Some(call) = node.call {
                    let key = (node.service, call.callee, call.operation);
                    gap.entry(key).or_default().add(call.gap_ms, number);
                    if let Some(instance) = self.instance(call.callee, call.instance) {
                        gap_at.entry((key, instance)).or_default().add(call.gap_ms, number);
                    }
                } else {
                    let key = self.key(node);
                    own.entry(key).or_default().add(node.own_ms, number);
                    if let Some(instance) = self.instance(node.service, node.instance) {
                        own_at.entry((key, instance)).or_default().add(node.own_ms, number);
                    }
                }
            }
        }
        self.root_ms = Stat::of(Values { ms: roots, ..Values::default() }).map(|stat| stat.median);
        (self.own, self.gap) = (stats(own), stats(gap));
        (self.own_at, self.gap_at) = (stats(own_at), stats(gap_at));
    }

    pub(super) fn requests(&self) -> usize {
        self.trees.len()
    }

    /// The key of a span's own time.
    pub(super) fn key(&self, node: &Node) -> OwnKey {
        (node.service, node.operation, self.signature((node.service, node.operation), node.signature))
    }

    /// The signature as it is counted.
    fn signature(&self, operation: Operation, signature: u64) -> u64 {
        let known = self.signatures.get(&operation).is_some_and(|all| all.counts.contains_key(&signature));
        if known { signature } else { OTHER }
    }

    /// The instance, where a service has several.
    fn instance(&self, service: Name, instance: Option<Name>) -> Option<Name> {
        let instance = instance?;
        let all = self.instances.get(&service).filter(|all| all.len() > 1)?;
        Some(if all.contains_key(&instance) { instance } else { REST })
    }

    fn count(&mut self) {
        let mut last = Map::<Operation, usize>::default();
        for (number, tree) in std::mem::take(&mut self.trees).into_iter().enumerate() {
            for node in &tree.nodes {
                let first = last.insert((node.service, node.operation), number) != Some(number);
                self.count_node(node, first);
            }
            self.trees.push(tree);
        }
    }

    fn count_node(&mut self, node: &Node, first_of_trace: bool) {
        let operation = (node.service, node.operation);
        let all = self.signatures.entry(operation).or_default();
        all.spans += 1;
        all.traces += u32::from(first_of_trace);
        all.unheard += u32::from(!node.heard);
        let full = all.counts.len() >= MAX_SIGNATURES && !all.counts.contains_key(&node.signature);
        *all.counts.entry(if full { OTHER } else { node.signature }).or_default() += 1;
        for mark in &node.marks {
            if matches!(mark, Mark::Line(_)) {
                self.logging.insert(node.service);
            }
            count_up(self.marks.entry(operation).or_default(), *mark, MAX_MARKS);
        }
        if let Some(call) = node.call.filter(|_| !node.unanswered) {
            count_up(self.answers.entry(operation).or_default(), call.callee, MAX_SIGNATURES);
        }
        if let Some(instance) = node.instance {
            count_up(self.instances.entry(node.service).or_default(), instance, MAX_INSTANCES);
        }
    }

    fn take_shapes(&mut self) {
        let step = |ms: f64| (ms * 100.0).round() as i32;
        let mut shapes = Map::<OwnKey, Shape>::default();
        for node in self.trees.iter().flat_map(|tree| &tree.nodes).filter(|node| node.entered && node.call.is_none()) {
            let shape = shapes.entry(self.key(node)).or_default();
            if shape.own.len() < MAX_SAMPLES {
                shape.own.push(step(node.own_ms));
                shape.tail.extend(node.tail_ms.map(step));
            }
        }
        self.shapes = shapes;
    }

    /// Lets go of the traces: history needs only what they came to.
    pub(super) fn without_trees(mut self) -> Self {
        self.trees = Vec::new();
        self
    }
}

fn stats<K: Eq + Hash>(values: Map<K, Values>) -> Map<K, Stat> {
    values.into_iter().filter_map(|(key, values)| Some((key, Stat::of(values)?))).collect()
}

/// One more of a key, unless it would be one key too many.
fn count_up<K: Eq + Hash>(counts: &mut Map<K, u32>, key: K, most: usize) {
    if counts.len() < most || counts.contains_key(&key) {
        *counts.entry(key).or_default() += 1;
    }
}

impl Signatures {
    /// Spans of which all is known that they logged.
    pub(super) fn heard(&self) -> u32 {
        self.spans - self.unheard
    }
}

impl Values {
    fn add(&mut self, ms: f64, trace: usize) {
        self.ms.push(ms);
        if self.last_trace.replace(trace) != Some(trace) {
            self.traces += 1;
        }
    }
}

impl Stat {
    fn of(values: Values) -> Option<Self> {
        let Values { mut ms, traces, .. } = values;
        ms.sort_by(f64::total_cmp);
        let at = |share: f64| ms.get(((ms.len().checked_sub(1)?) as f64 * share) as usize).copied();
        let (median, low, high) = (at(0.5)?, at(0.25)?, at(0.75)?);
        let spans = u32::try_from(ms.len()).unwrap_or(u32::MAX);
        Some(Self { spans, traces, median, spread: (high - low) / 2.0 })
    }
}
