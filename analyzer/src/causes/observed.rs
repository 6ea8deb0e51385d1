//! [`Observed`]: what one window's traces did, by key, as it is compared with history and becomes it.

use std::collections::HashMap;

use foldhash::fast::RandomState;

use super::{Operation, tree::Tree};
use crate::spans::{Name, Span};

/// Signatures kept apart of one operation in one window; further ones are one together.
const MAX_SIGNATURES: usize = 64;

/// What stands for those.
const OTHER: u64 = 0;

/// Samples of a key kept for the comparison of whole distributions.
const MAX_SAMPLES: usize = 200;

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
    pub(super) signatures: Map<Operation, Signatures>,
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
    pub(crate) fn of(traces: &[&[Span]]) -> Self {
        let mut observed =
            Self { trees: traces.iter().filter_map(|spans| Tree::of(spans)).collect(), ..Self::default() };
        observed.count_signatures();
        let (mut own, mut gap) = (Map::<OwnKey, Values>::default(), Map::<GapKey, Values>::default());
        let mut roots = Vec::with_capacity(observed.trees.len());
        for (number, tree) in observed.trees.iter().enumerate() {
            roots.push(tree.nodes[tree.root].duration_ms);
            for node in tree.nodes.iter().filter(|node| node.on_path) {
                match node.call {
                    Some(call) => {
                        gap.entry((node.service, call.callee, call.operation)).or_default().add(call.gap_ms, number);
                    }
                    None => own.entry(observed.key(node)).or_default().add(node.own_ms, number),
                }
            }
        }
        observed.root_ms = Stat::of(Values { ms: roots, ..Values::default() }).map(|stat| stat.median);
        observed.own = own.into_iter().filter_map(|(key, values)| Some((key, Stat::of(values)?))).collect();
        observed.gap = gap.into_iter().filter_map(|(key, values)| Some((key, Stat::of(values)?))).collect();
        observed.take_shapes();
        observed
    }

    pub(super) fn requests(&self) -> usize {
        self.trees.len()
    }

    /// The key of a span's own time.
    pub(super) fn key(&self, node: &super::tree::Node) -> OwnKey {
        (node.service, node.operation, self.signature((node.service, node.operation), node.signature))
    }

    /// The signature as it is counted.
    fn signature(&self, operation: Operation, signature: u64) -> u64 {
        let known = self.signatures.get(&operation).is_some_and(|all| all.counts.contains_key(&signature));
        if known { signature } else { OTHER }
    }

    fn count_signatures(&mut self) {
        let mut last = Map::<Operation, usize>::default();
        for (number, tree) in self.trees.iter().enumerate() {
            for node in &tree.nodes {
                let operation = (node.service, node.operation);
                let all = self.signatures.entry(operation).or_default();
                all.spans += 1;
                all.traces += u32::from(last.insert(operation, number) != Some(number));
                let full = all.counts.len() >= MAX_SIGNATURES && !all.counts.contains_key(&node.signature);
                *all.counts.entry(if full { OTHER } else { node.signature }).or_default() += 1;
            }
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
