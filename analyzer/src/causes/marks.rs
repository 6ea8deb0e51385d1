//! [`Mark`]: what a span shows of itself beside its children: that it failed, an exception it carries, or a line it logged.
//!
//! Code that returns early no longer logs what comes after, code that throws logs what it never did, and both fail
//! where they did not. So a mark counts whether it is there or gone, each against history as a share of
//! its operation's spans, by the test of `abnormal.rs`. Errors and lines that are usual accuse nobody.

use super::{
    Operation,
    history::{History, UsualShare},
    observed::{Map, Observed},
    templates::Template,
};

/// What a span shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(crate) enum Mark {
    /// It failed, and nothing it called did.
    Failed,
    /// It carries an exception of this template. It came with the span, so that of others none is missing.
    Thrown(Template),
    /// It logged a line of this template.
    Line(Template),
}

/// Why a span is abnormal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub(super) enum Sign {
    /// It called otherwise than before.
    Calls,
    /// It shows what it did not.
    Shows(Mark),
    /// It no longer shows what it did.
    Lacks(Mark),
}

impl Sign {
    /// Whether it is of a span that went wrong by its own word.
    pub(super) fn is_failure(self) -> bool {
        matches!(self, Self::Shows(Mark::Failed | Mark::Thrown(_)))
    }

    /// Whether a new version of the code shows it too, with nothing wrong: another line, of no error.
    pub(super) fn is_harmless(self) -> bool {
        match self {
            Self::Shows(Mark::Line(template)) => !template.is_error,
            Self::Lacks(Mark::Line(_)) => true,
            _ => false,
        }
    }
}

/// A mark's presence or absence that became more frequent.
#[derive(Clone, Copy, Debug)]
pub(super) struct Change {
    pub(super) sign: Sign,
    /// Share of these spans that is in excess.
    pub(super) share: f64,
    pub(super) z: f64,
}

/// What a line of a service is usual in so many of an operation's spans, when its silence would be heard.
const USUAL: f64 = 0.9;

/// Spans of an operation, and marks, before which nothing is usual.
const MIN_SPANS: f64 = 5.0;

/// Marks that changed, by operation.
pub(super) fn changes(observed: &Observed, history: &History) -> Map<Operation, Vec<Change>> {
    let mut changed = Map::<Operation, Vec<Change>>::default();
    for operation in observed.signatures.keys() {
        let now = observed.marks.get(operation);
        let mut marks = history.marks(operation);
        marks.extend(now.iter().flat_map(|counts| counts.keys()));
        marks.sort_unstable();
        marks.dedup();
        let found: Vec<Change> = marks.iter().flat_map(|mark| change(observed, history, operation, *mark)).collect();
        if !found.is_empty() {
            changed.insert(*operation, found);
        }
    }
    changed
}

/// A service that logs nothing at all says nothing by its silence.
fn change(observed: &Observed, history: &History, operation: &Operation, mark: Mark) -> Option<Change> {
    if matches!(mark, Mark::Line(_)) && !observed.logging.contains(&operation.0) {
        return None;
    }
    let all = &observed.signatures[operation];
    let with = observed.marks.get(operation).and_then(|counts| counts.get(&mark)).copied().unwrap_or(0.0);
    let usual = history.mark(operation, mark);
    let without = UsualShare { of_signature: (usual.of_operation - usual.of_signature).max(0.0), ..usual };
    let excess = |count, usual: &UsualShare, sign| {
        let (share, z) = super::abnormal::excess(count, all, usual)?;
        Some(Change { sign, share, z })
    };
    // who may yet say it lacks nothing
    let lacks = || excess((all.heard() - with).max(0.0), &without, Sign::Lacks(mark));
    excess(with, &usual, Sign::Shows(mark)).or_else(|| if matches!(mark, Mark::Line(_)) { lacks() } else { None })
}

/// Whether a service logs as it usually does at all of its operations: had it gone wrong, it would have been heard.
pub(super) fn logs_as_usual(
    operations: &[Operation],
    observed: &Observed,
    history: &History,
    changed: &Map<Operation, Vec<Change>>,
) -> bool {
    let mut usual = false;
    for operation in operations {
        if changed.contains_key(operation) {
            return false;
        }
        let all = &observed.signatures[operation];
        let said = observed.marks.get(operation).into_iter().flatten();
        usual |= said.filter(|(mark, _)| matches!(mark, Mark::Line(_))).any(|(mark, count)| {
            let share = history.mark(operation, *mark);
            let before = share.of_signature >= USUAL * share.of_operation;
            before && share.of_operation >= MIN_SPANS && *count >= USUAL * all.heard()
        });
    }
    usual
}
