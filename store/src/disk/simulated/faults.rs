//! [`Fault`]: what is to go wrong, and [`Faults`]: the plan of it beside the counts it is measured by.

use std::collections::HashMap;

use crate::disk::Step;

/// Something that goes wrong once. Numbers count from 1, from the making of the disk.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fault {
    /// The operation of this number answers EIO; of a write, a part was taken.
    Operation(u64),
    /// The operation of this number answers ENOSPC; of a write, a part was taken and said to be.
    Full(u64),
    /// The sync of this number fails, and what it should have written is clean but lost.
    Sync(u64),
    /// The machine stops at the changing operation of this number, which may have happened.
    StopAtChange(u64),
    /// The machine stops when a step is reached for the nth time.
    StopAtStep(Step, u64),
}

/// How often things were done.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Counts {
    /// Operations of any kind.
    pub(crate) operations: u64,
    /// Those that change something: a crash point is one of them.
    pub(crate) changes: u64,
    /// Syncs of files and of folders.
    pub(crate) syncs: u64,
    /// Steps reached.
    pub(crate) steps: HashMap<Step, u64>,
}

/// How an operation is about to go.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Outcome {
    Works,
    Fails,
    Full,
    Stops,
}

/// What kind an operation is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Read,
    Change,
    Sync,
}

/// The plan and what happened of it.
#[derive(Debug, Default)]
pub(super) struct Faults {
    pub(super) planned: Vec<Fault>,
    pub(super) counts: Counts,
    /// A write was short because the disk is full: the next change finds it so.
    full_next: bool,
}

impl Faults {
    /// Counts an operation and says how it goes.
    pub(super) fn operation(&mut self, kind: Kind) -> Outcome {
        let counts = &mut self.counts;
        counts.operations += 1;
        counts.changes += u64::from(kind != Kind::Read);
        counts.syncs += u64::from(kind == Kind::Sync);
        if kind == Kind::Change && std::mem::take(&mut self.full_next) {
            return Outcome::Full;
        }
        let mut outcomes = self.planned.iter().filter_map(|fault| match *fault {
            Fault::Operation(at) if at == counts.operations => Some(Outcome::Fails),
            Fault::Full(at) if at == counts.operations => Some(Outcome::Full),
            Fault::Sync(at) if kind == Kind::Sync && at == counts.syncs => Some(Outcome::Fails),
            Fault::StopAtChange(at) if kind != Kind::Read && at == counts.changes => Some(Outcome::Stops),
            _ => None,
        });
        outcomes.next_back().unwrap_or(Outcome::Works)
    }

    /// A write was short: the next change finds the disk full.
    pub(super) fn fill(&mut self) {
        self.full_next = true;
    }

    /// Counts a step and says whether the machine stops.
    pub(super) fn step(&mut self, step: Step) -> bool {
        let count = self.counts.steps.entry(step).or_default();
        *count += 1;
        self.planned.contains(&Fault::StopAtStep(step, *count))
    }
}
