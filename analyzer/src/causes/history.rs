//! [`History`]: the windows before, and what of a key was usual in them.

use std::{collections::VecDeque, hash::Hash};

use serde::{Deserialize, Serialize, Serializer};

use super::{
    Operation,
    marks::Mark,
    observed::{GapKey, Map, Observed, OwnKey, Shape, Signatures, Stat},
};
use crate::{
    robust::{deviation, median},
    spans::Name,
};

/// An hour of minutes, or ten minutes of ten seconds.
const MAX_WINDOWS: usize = 60;

/// Windows whose distributions are compared.
const SHAPE_WINDOWS: usize = 20;

/// Spans of an operation that a window must have for the share of a signature in it to say something.
const MIN_FOR_SHARE: f64 = 5.0;

/// The newest windows, which a note for a restart holds: 60 KB each of a mesh of twenty services.
const SAVED_WINDOWS: usize = 20;

/// The last windows, the oldest first.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(transparent)]
pub(crate) struct History {
    windows: VecDeque<Observed>,
}

impl Serialize for History {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_seq(self.windows.range(self.windows.len().saturating_sub(SAVED_WINDOWS)..))
    }
}

/// What was usual of a key.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Usual {
    pub(super) median: f64,
    /// Standard deviation between windows; 0 with fewer than three.
    pub(super) between: f64,
    /// As in [`Stat::spread`], the median of the windows.
    pub(super) spread: f64,
    pub(super) traces: f64,
}

/// How often a signature, or a mark, was among the spans of its operation.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct UsualShare {
    pub(super) of_signature: f64,
    pub(super) of_operation: f64,
    /// Standard deviation of the share between windows; 0 with fewer than three.
    pub(super) between: f64,
}

impl History {
    pub(super) fn push(&mut self, observed: Observed) {
        if observed.requests() == 0 {
            return;
        }
        self.windows.push_back(observed.without_trees());
        if self.windows.len() > MAX_WINDOWS {
            self.windows.pop_front();
        }
    }

    pub(crate) fn windows(&self) -> usize {
        self.windows.len()
    }

    /// What a request usually takes.
    pub(super) fn root_ms(&self) -> Option<f64> {
        median(self.windows.iter().filter_map(|window| window.root_ms).collect())
    }

    pub(super) fn own(&self, key: &OwnKey) -> Option<Usual> {
        usual(self.windows.iter().map(|window| &window.own), key)
    }

    pub(super) fn gap(&self, key: &GapKey) -> Option<Usual> {
        usual(self.windows.iter().map(|window| &window.gap), key)
    }

    /// Of an instance, else of the service where it is new.
    pub(super) fn own_at(&self, key: &(OwnKey, Name)) -> Option<Usual> {
        usual(self.windows.iter().map(|window| &window.own_at), key).or_else(|| self.own(&key.0))
    }

    pub(super) fn gap_at(&self, key: &(GapKey, Name)) -> Option<Usual> {
        usual(self.windows.iter().map(|window| &window.gap_at), key).or_else(|| self.gap(&key.0))
    }

    pub(super) fn share(&self, operation: &Operation, signature: u64) -> UsualShare {
        let all = self.windows.iter().filter_map(|window| window.signatures.get(operation));
        let of = |all: &Signatures| all.of_effective(all.counts.get(&signature).copied().unwrap_or(0.0));
        share(all.map(|all| (of(all), all.effective())))
    }

    /// What an operation has ever shown.
    pub(super) fn marks(&self, operation: &Operation) -> Vec<Mark> {
        self.windows
            .iter()
            .filter_map(|window| window.marks.get(operation))
            .flat_map(|marks| marks.keys().copied())
            .collect()
    }

    /// How often an operation shows something. Windows in which its service logged nothing say nothing of lines, and those of before a
    /// start nothing of exceptions either.
    pub(super) fn mark(&self, operation: &Operation, mark: Mark) -> UsualShare {
        let silent = |window: &Observed| match mark {
            Mark::Failed => false,
            Mark::Thrown(_) => window.is_restored,
            Mark::Line(_) => window.is_restored || !window.logging.contains(&operation.0),
        };
        share(self.windows.iter().filter(|window| !silent(window)).filter_map(|window| {
            let count = window.marks.get(operation).and_then(|marks| marks.get(&mark)).copied().unwrap_or(0.0);
            let all = window.signatures.get(operation)?;
            let of_lines = matches!(mark, Mark::Line(_));
            Some((all.of_effective(count), if of_lines { all.of_effective(all.heard()) } else { all.effective() }))
        }))
    }

    /// Spans of an operation, by weight.
    pub(super) fn weight(&self, operation: &Operation) -> f64 {
        self.windows.iter().filter_map(|window| window.signatures.get(operation)).map(|all| all.weight).sum()
    }

    /// Who answers the calls of an operation, and how many, by weight.
    pub(super) fn answers(&self, operation: &Operation) -> Map<Name, f64> {
        let mut all = Map::default();
        for (callee, count) in self.windows.iter().filter_map(|window| window.answers.get(operation)).flatten() {
            *all.entry(*callee).or_default() += count;
        }
        all
    }

    /// Who ever answered whom, now or before.
    pub(super) fn answered<'a>(
        &'a self,
        now: &'a Map<Operation, Map<Name, f64>>,
    ) -> impl Iterator<Item = (Name, Name)> + 'a {
        let all = self.windows.iter().map(|window| &window.answers).chain([now]).flatten();
        all.flat_map(|((caller, _), callees)| callees.keys().map(|callee| (*caller, *callee)))
    }

    /// Own times and tails of a key in the newest windows.
    pub(super) fn shape(&self, key: &OwnKey) -> Shape {
        let mut all = Shape::default();
        for shape in self.windows.iter().rev().take(SHAPE_WINDOWS).filter_map(|window| window.shapes.get(key)) {
            all.own.extend(&shape.own);
            all.tail.extend(&shape.tail);
        }
        all
    }
}

/// Of counts and what they are counted among, window by window.
fn share(windows: impl Iterator<Item = (f64, f64)>) -> UsualShare {
    let windows: Vec<(f64, f64)> = windows.collect();
    let shares = windows.iter().filter(|(_, spans)| *spans >= MIN_FOR_SHARE);
    let shares: Vec<f64> = shares.map(|(count, spans)| count / spans).collect();
    UsualShare {
        of_signature: windows.iter().map(|(count, _)| count).sum(),
        of_operation: windows.iter().map(|(_, spans)| spans).sum(),
        between: deviation(&shares),
    }
}

fn usual<'a, K: Hash + Eq + 'a>(windows: impl Iterator<Item = &'a Map<K, Stat>>, key: &K) -> Option<Usual> {
    let stats: Vec<&Stat> = windows.filter_map(|window| window.get(key)).collect();
    let medians: Vec<f64> = stats.iter().map(|stat| stat.median).collect();
    Some(Usual {
        median: median(medians.clone())?,
        between: deviation(&medians),
        spread: median(stats.iter().map(|stat| stat.spread).collect())?,
        traces: stats.iter().map(|stat| stat.traces).sum(),
    })
}
