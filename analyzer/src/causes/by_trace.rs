//! [`ByTrace`]: lines by the trace they belong to, until its requests are ranked, in bounded memory.
//!
//! Lines of a trace that is never ranked (it has no spans here, or is one of those left out) go with their generation:
//! after five minutes at least, ten at most.

use weir_schema::UnixNanos;

use super::{kept::Share, lines::Line, observed::Map};

/// Lines kept of one trace; later ones are left out.
const MAX_OF_ONE: usize = 2_000;

/// How long a generation lasts: longer than requests take that are gathered for a ranking.
const GENERATION_NS: i64 = 300_000_000_000;

/// Lines of traces.
#[derive(Debug)]
pub(super) struct ByTrace {
    most: usize,
    /// The newest generation first.
    generations: [Map<u128, Vec<Line>>; 2],
    held: usize,
    /// The requests whose lines are kept.
    share: Share,
    turned_at: UnixNanos,
    /// Lines for which there was no room.
    pub(super) dropped: u64,
}

impl Default for ByTrace {
    /// As many as there are: of what is stored, and read once.
    fn default() -> Self {
        Self::bounded(usize::MAX)
    }
}

impl ByTrace {
    pub(super) fn bounded(most: usize) -> Self {
        let share = Share::default();
        Self { most, generations: Default::default(), held: 0, share, turned_at: UnixNanos::MIN, dropped: 0 }
    }

    /// Takes in a line that its trace does not have yet.
    pub(super) fn add(&mut self, trace: u128, line: Line) {
        if !self.share.keeps(trace) || self.of(trace).any(|known| *known == line) {
            return;
        }
        let full = self.held >= self.most;
        let lines = self.generations[0].get(&trace).map_or(0, Vec::len);
        if full || lines >= MAX_OF_ONE {
            self.dropped += 1;
            return;
        }
        self.generations[0].entry(trace).or_default().push(line);
        self.held += 1;
    }

    /// Of a smaller share of the requests from now on.
    pub(super) fn keep(&mut self, share: Share) {
        self.share = share;
        self.generations.iter_mut().for_each(|lines| lines.retain(|trace, _| share.keeps(*trace)));
        self.held = self.generations.iter().flat_map(|lines| lines.values()).map(Vec::len).sum();
    }

    pub(super) fn count(&self) -> usize {
        self.held
    }

    /// The lines of a trace, each once.
    pub(super) fn of(&self, trace: u128) -> impl Iterator<Item = &Line> {
        self.generations.iter().rev().filter_map(move |lines| lines.get(&trace)).flatten()
    }

    /// Lets go of a trace that was ranked.
    pub(super) fn let_go(&mut self, trace: u128) {
        let gone = self.generations.iter_mut().filter_map(|lines| lines.remove(&trace));
        self.held -= gone.map(|lines| lines.len()).sum::<usize>();
    }

    pub(super) fn turn(&mut self, now: UnixNanos) {
        if now.saturating_sub(self.turned_at) < GENERATION_NS {
            return;
        }
        self.turned_at = now;
        self.generations.swap(0, 1);
        let old = std::mem::take(&mut self.generations[0]);
        self.held -= old.values().map(Vec::len).sum::<usize>();
    }
}

#[cfg(test)]
mod tests {
    use super::{super::templates::Template, *};

    fn line(span: u64) -> Line {
        Line { span, service: 1, template: Template::default() }
    }

    #[test]
    fn memory_is_bounded_and_what_goes_makes_room() {
        let mut traces = ByTrace::bounded(1_000);
        (0..3_000).for_each(|trace| traces.add(trace, line(1)));
        assert_eq!((traces.held, traces.dropped), (1_000, 2_000));
        (0..600).for_each(|trace| traces.let_go(trace));
        traces.add(7_000, line(1));
        traces.add(7_000, line(1));
        traces.add(7_000, line(2));
        assert_eq!((traces.held, traces.of(7_000).count(), traces.dropped), (402, 2, 2_000));
    }

    #[test]
    fn what_is_never_ranked_goes_with_its_generation_and_no_sooner() {
        let mut traces = ByTrace::bounded(1_000);
        traces.turn(0);
        traces.add(1, line(1));
        traces.turn(GENERATION_NS);
        traces.add(1, line(2));
        assert_eq!(traces.of(1).map(|line| line.span).collect::<Vec<_>>(), [1, 2]);
        traces.turn(2 * GENERATION_NS);
        assert_eq!((traces.of(1).count(), traces.held), (1, 1));
        traces.turn(3 * GENERATION_NS);
        assert_eq!((traces.of(1).count(), traces.held), (0, 0));
    }
}
