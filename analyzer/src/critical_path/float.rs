//! Slack and drag of the children of a span, and from there of every span.
//!
//! Among the children of one span an **event** x is a child's start or the span's own end. It comes a fixed lag after its
//! trigger m(x), the last end of a child before it (the span's start if there is none); every earlier end is a bound on it that is
//! not tight. With σ the slack towards the span's own end,
//!
//! ```text
//! σ(child) = min over events x that follow it of  m(x) + σ(x) − end(child)        σ(x) = σ(who starts at x), 0 at the end
//! ```
//!
//! A way through the children that avoids v must, at the moment v starts, be in another child that runs then, or lie between an end
//! before and an event after; so the longest of them is shorter than the whole by
//!
//! ```text
//! beside(v) = min( least σ of the others running then,  min over later events x of m(x) + σ(x)  −  last end before )
//! ```
//!
//! Slack adds up on the way to the root. If v has none, moving its end by δ moves the end of the span above by min(δ, beside(v)),
//! and so on upwards: drag(v) = min(duration, least `beside` on the way). O(k log k) for k children.

use std::collections::BTreeSet;

use super::{Interval, waits::Waits};

/// Of one span. `slack` is none where the root does not wait for it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Float {
    pub(super) slack: Option<i64>,
    pub(super) drag: i64,
}

/// By place under the root.
pub(super) fn floats(waits: &Waits) -> Vec<Float> {
    let mut floats = vec![Float::default(); waits.len()];
    let mut beside = vec![0; waits.len()];
    floats[0] = Float { slack: Some(0), drag: waits.counted[0].duration() };
    beside[0] = i64::MAX;
    for place in 0..waits.len() {
        let Some(slack) = floats[place].slack else { continue };
        let parts: Vec<Interval> = waits.children[place].iter().map(|child| waits.counted[*child]).collect();
        let within = Network::of(&parts, waits.counted[place].start).within();
        for (child, within) in waits.children[place].iter().zip(within) {
            let slack = slack + within.slack;
            beside[*child] = if slack == 0 { beside[place].min(within.beside) } else { 0 };
            let drag = beside[*child].min(waits.counted[*child].duration());
            floats[*child] = Float { slack: Some(slack), drag };
        }
    }
    floats
}

/// Of one child towards the end of its parent.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Within {
    slack: i64,
    /// By how much the longest way that avoids it is shorter. Only said of a child without slack.
    beside: i64,
}

/// A time, and what comes first of what happens at it: the end of what took time, then all that takes none, then starts.
type Moment = (i64, u8);

/// The children of one span as activities.
struct Network<'a> {
    parts: &'a [Interval],
    /// When the span began.
    start: i64,
    /// Each child's start with its trigger m(x), by moment.
    starts: Vec<(Moment, usize, i64)>,
    /// Each child's end, by moment.
    ends: Vec<(Moment, usize)>,
}

impl<'a> Network<'a> {
    fn of(parts: &'a [Interval], start: i64) -> Self {
        let mut ends: Vec<_> = (0..parts.len()).map(|child| (end_of(parts[child]), child)).collect();
        ends.sort_unstable();
        let mut starts: Vec<_> = (0..parts.len()).map(|child| (start_of(parts[child]), child, start)).collect();
        starts.sort_unstable();
        let mut ended = 0;
        for (moment, _, trigger) in &mut starts {
            while ends.get(ended).is_some_and(|(end, _)| end <= moment) {
                ended += 1;
            }
            *trigger = if ended == 0 { start } else { ends[ended - 1].0.0 };
        }
        Self { parts, start, starts, ends }
    }

    fn within(&self) -> Vec<Within> {
        let slacks = self.slacks();
        let beside = self.beside(&slacks);
        slacks.into_iter().zip(beside).map(|(slack, beside)| Within { slack, beside }).collect()
    }

    /// σ of each child, the last to end first: who follows it has ended later and is known.
    fn slacks(&self) -> Vec<i64> {
        let mut slacks = vec![0; self.parts.len()];
        let mut earliest_bound = self.last_end();
        let mut following = self.starts.iter().rev().peekable();
        for (end, child) in self.ends.iter().rev() {
            while let Some((_, follower, trigger)) = following.next_if(|(start, ..)| start >= end) {
                earliest_bound = earliest_bound.min(trigger + slacks[*follower]);
            }
            slacks[*child] = earliest_bound - end.0;
        }
        slacks
    }

    /// `beside` of each child without slack, by a sweep over time that keeps who is running.
    fn beside(&self, slacks: &[i64]) -> Vec<i64> {
        let mut beside = vec![0; self.parts.len()];
        let bounds = self.bounds_after(slacks);
        let mut running = BTreeSet::new();
        let (mut ended, mut begun) = (0, 0);
        for (moment, child, trigger) in &self.starts {
            while let Some((_, other, _)) = self.starts.get(begun).filter(|(start, ..)| start <= moment) {
                running.insert((slacks[*other], *other));
                begun += 1;
            }
            while let Some((_, other)) = self.ends.get(ended).filter(|(end, _)| end <= moment) {
                running.remove(&(slacks[*other], *other));
                ended += 1;
            }
            if slacks[*child] == 0 {
                let other = running.iter().find(|(_, other)| other != child).map_or(i64::MAX, |(slack, _)| *slack);
                // `begun` is the first event after this moment
                beside[*child] = other.min(bounds[begun] - trigger);
            }
        }
        beside
    }

    /// For each place among the starts, the least m(x) + σ(x) of the events from there on.
    fn bounds_after(&self, slacks: &[i64]) -> Vec<i64> {
        let mut bounds = vec![self.last_end(); self.starts.len() + 1];
        for (place, (_, child, trigger)) in self.starts.iter().enumerate().rev() {
            bounds[place] = bounds[place + 1].min(trigger + slacks[*child]);
        }
        bounds
    }

    /// The trigger of the span's own end.
    fn last_end(&self) -> i64 {
        self.ends.last().map_or(self.start, |(end, _)| end.0)
    }
}

fn start_of(part: Interval) -> Moment {
    (part.start, if part.duration() == 0 { 1 } else { 3 })
}

fn end_of(part: Interval) -> Moment {
    (part.end, if part.duration() == 0 { 2 } else { 0 })
}
