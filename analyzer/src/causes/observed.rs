//! [`Observed`]: what one window's traces did, by key, as it is compared with history and becomes it.
//!
//! Sampling keeps errors and slow traces whole and thins the rest, so medians and shares are by weight, else they would be
//! of a mix that is mostly trouble. Weights are relative to the window's mean: sums are of the requests that were looked
//! at. How sure a median or share is follows from the effective number of traces ([`crate::weights`]).

use std::{
    collections::{HashMap, HashSet},
    hash::Hash,
};

use foldhash::fast::RandomState;

use serde::{Deserialize, Serialize};

use super::{
    Operation,
    lines::Lines,
    marks::Mark,
    tree::{Node, Tree},
};
use crate::{
    spans::{Name, Span},
    weights::{Ordered, effective},
};

/// Signatures kept apart of one operation in one window; further ones are one together.
const MAX_SIGNATURES: usize = 64;

/// What stands for those.
const OTHER: u64 = 0;
pub(super) const REST: Name = Name::MAX;

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

/// One window. What a note for a restart holds of it are the numbers: no samples, and of marks only failures, for lines and exceptions
/// have no names that outlast a start.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(crate) struct Observed {
    #[serde(skip)]
    pub(super) trees: Vec<Tree>,
    /// Whether it is of before a start: what lines and exceptions there were is not known.
    #[serde(skip, default = "yes")]
    pub(super) is_restored: bool,
    pub(super) own: Map<OwnKey, Stat>,
    pub(super) gap: Map<GapKey, Stat>,
    /// The same of each instance, where a service has several; a gap is told apart by the callee's.
    pub(super) own_at: Map<(OwnKey, Name), Stat>,
    pub(super) gap_at: Map<(GapKey, Name), Stat>,
    /// Spans by service and instance.
    pub(super) instances: Map<Name, Map<Name, f64>>,
    pub(super) signatures: Map<Operation, Signatures>,
    /// How many of an operation's spans show what.
    #[serde(with = "failures")]
    pub(super) marks: Map<Operation, Map<Mark, f64>>,
    /// Services that logged something.
    #[serde(skip)]
    pub(super) logging: HashSet<Name, RandomState>,
    /// Who answered the calls that an operation is.
    pub(super) answers: Map<Operation, Map<Name, f64>>,
    /// Of spans entered from another service: own times and tails, to compare distributions.
    #[serde(skip)]
    pub(super) shapes: Map<OwnKey, Shape>,
    /// Median duration of a request.
    pub(super) root_ms: Option<f64>,
}

/// A key's values in a window. A note holds many: without the names of the fields it is half as long.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(from = "(f64, f64, f64, f64)", into = "(f64, f64, f64, f64)")]
pub(super) struct Stat {
    /// By weight.
    pub(super) spans: f64,
    /// As many of equal weight. Spans of one trace are one draw.
    pub(super) traces: f64,
    pub(super) median: f64,
    /// Half the inter-quartile range: about the median distance from the median.
    pub(super) spread: f64,
}

/// How often an operation had which children.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Signatures {
    /// By weight.
    pub(super) counts: Map<u64, f64>,
    /// Of all its spans, and its squares.
    pub(super) weight: f64,
    squares: f64,
    spans: u32,
    traces: u32,
    /// Of spans of which not all is known that they logged.
    unheard: f64,
}

/// Own times and tails of a key, in steps of 10 µs.
#[derive(Clone, Debug, Default)]
pub(super) struct Shape {
    pub(super) own: Vec<(i32, f64)>,
    pub(super) tail: Vec<(i32, f64)>,
}

impl From<(f64, f64, f64, f64)> for Stat {
    fn from((spans, traces, median, spread): (f64, f64, f64, f64)) -> Self {
        Self { spans, traces, median, spread }
    }
}

impl From<Stat> for (f64, f64, f64, f64) {
    fn from(Stat { spans, traces, median, spread }: Stat) -> Self {
        (spans, traces, median, spread)
    }
}

fn yes() -> bool {
    true
}

/// Marks as a note holds them: how many spans of each operation failed.
mod failures {
    use serde::{Deserialize, Deserializer, Serializer};

    use super::{Map, Mark, Operation};

    pub(super) fn serialize<S: Serializer>(
        marks: &Map<Operation, Map<Mark, f64>>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let failed = |(operation, marks): (&Operation, &Map<Mark, f64>)| Some((*operation, *marks.get(&Mark::Failed)?));
        serializer.collect_seq(marks.iter().filter_map(failed))
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Map<Operation, Map<Mark, f64>>, D::Error> {
        let failed = Vec::<(Operation, f64)>::deserialize(deserializer)?;
        let marks = |count: f64| [(Mark::Failed, count)].into_iter().collect();
        Ok(failed.into_iter().map(|(operation, count)| (operation, marks(count))).collect())
    }
}

/// Values as they are gathered.
#[derive(Default)]
struct Values {
    /// With their weights.
    ms: Vec<(f64, f64)>,
    traces: f64,
    squares: f64,
    last_trace: Option<usize>,
}

impl Observed {
    pub(crate) fn of(traces: &[&[Span]], lines: &Lines) -> Self {
        let mut trees: Vec<Tree> = traces.iter().filter_map(|spans| Tree::of(spans, lines)).collect();
        let mean = trees.iter().map(Tree::weight).sum::<f64>() / trees.len().max(1) as f64;
        trees.iter_mut().flat_map(|tree| &mut tree.nodes).for_each(|node| node.weight /= mean);
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
        let mut roots = Values::default();
        for (number, tree) in self.trees.iter().enumerate() {
            roots.add(tree.nodes[tree.root].duration_ms, tree.weight(), number);
            for node in tree.nodes.iter().filter(|node| node.on_path) {
                if let Some(call) = node.call {
                    let key = (node.service, call.callee, call.operation);
                    gap.entry(key).or_default().add(call.gap_ms, node.weight, number);
                    if let Some(instance) = self.instance(call.callee, call.instance) {
                        gap_at.entry((key, instance)).or_default().add(call.gap_ms, node.weight, number);
                    }
                } else {
                    let key = self.key(node);
                    own.entry(key).or_default().add(node.own_ms, node.weight, number);
                    if let Some(instance) = self.instance(node.service, node.instance) {
                        own_at.entry((key, instance)).or_default().add(node.own_ms, node.weight, number);
                    }
                }
            }
        }
        self.root_ms = Stat::of(roots).map(|stat| stat.median);
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
        all.weight += node.weight;
        all.squares += node.weight * node.weight;
        all.spans += 1;
        all.traces += u32::from(first_of_trace);
        all.unheard += if node.heard { 0.0 } else { node.weight };
        let full = all.counts.len() >= MAX_SIGNATURES && !all.counts.contains_key(&node.signature);
        *all.counts.entry(if full { OTHER } else { node.signature }).or_default() += node.weight;
        for mark in &node.marks {
            if matches!(mark, Mark::Line(_)) {
                self.logging.insert(node.service);
            }
            count_up(self.marks.entry(operation).or_default(), *mark, node.weight, MAX_MARKS);
        }
        if let Some(call) = node.call.filter(|_| !node.unanswered) {
            count_up(self.answers.entry(operation).or_default(), call.callee, node.weight, MAX_SIGNATURES);
        }
        if let Some(instance) = node.instance {
            count_up(self.instances.entry(node.service).or_default(), instance, node.weight, MAX_INSTANCES);
        }
    }

    fn take_shapes(&mut self) {
        let step = |ms: f64| (ms * 100.0).round() as i32;
        let mut shapes = Map::<OwnKey, Shape>::default();
        for node in self.trees.iter().flat_map(|tree| &tree.nodes).filter(|node| node.entered && node.call.is_none()) {
            let shape = shapes.entry(self.key(node)).or_default();
            if shape.own.len() < MAX_SAMPLES {
                shape.own.push((step(node.own_ms), node.weight));
                shape.tail.extend(node.tail_ms.map(|ms| (step(ms), node.weight)));
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

/// So much more of a key, unless it would be one key too many.
fn count_up<K: Eq + Hash>(counts: &mut Map<K, f64>, key: K, weight: f64, most: usize) {
    if counts.len() < most || counts.contains_key(&key) {
        *counts.entry(key).or_default() += weight;
    }
}

impl Signatures {
    /// As many spans of equal weight as say as much.
    pub(super) fn effective(&self) -> f64 {
        effective(self.weight, self.squares)
    }

    /// How many of those are so much weight.
    pub(super) fn of_effective(&self, weight: f64) -> f64 {
        if self.weight > 0.0 { weight / self.weight * self.effective() } else { 0.0 }
    }

    pub(super) fn spans_a_trace(&self) -> f64 {
        (f64::from(self.spans) / f64::from(self.traces.max(1))).max(1.0)
    }
}

impl Signatures {
    /// Spans of which all is known that they logged.
    pub(super) fn heard(&self) -> f64 {
        self.weight - self.unheard
    }
}

impl Values {
    fn add(&mut self, ms: f64, weight: f64, trace: usize) {
        self.ms.push((ms, weight));
        if self.last_trace.replace(trace) != Some(trace) {
            self.traces += weight;
            self.squares += weight * weight;
        }
    }
}

impl Stat {
    fn of(values: Values) -> Option<Self> {
        let Values { ms, traces, squares, .. } = values;
        let spans = ms.iter().map(|(_, weight)| weight).sum();
        let ordered = Ordered::of(ms)?;
        let at = |share| ordered.at(share, 0.0);
        Some(Self { spans, traces: effective(traces, squares), median: at(0.5), spread: (at(0.75) - at(0.25)) / 2.0 })
    }
}
