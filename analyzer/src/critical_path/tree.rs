//! [`Tree`]: the spans of a trace as a forest in preorder, whatever their ids say.
//!
//! A subtree is one range of positions, so walks over it are loops. Where ids do not make a forest: a parent that is missing
//! makes a root; a circle of parents is cut at its earliest span; of two sides of a call that share an id (Zipkin's way) the
//! server's is the child of the client's, and what the server did hangs below it; other spans with an id that is taken are
//! childless; exact duplicates stand aside.

use std::{cmp::Reverse, collections::HashMap};

use super::{Interval, SpanNode, Undecided};

/// A forest in preorder: children by start, below their parent.
#[derive(Debug)]
pub(super) struct Tree {
    /// Position → place among the spans given.
    pub(super) order: Vec<usize>,
    /// Place → position.
    positions: Vec<usize>,
    /// By position: the parent's, which is lower.
    pub(super) parent: Vec<Option<usize>>,
    /// By position: spans from here down, itself among them.
    pub(super) size: Vec<usize>,
    /// By place: why it is a root, where it should not be.
    marks: Vec<Option<Undecided>>,
}

impl Tree {
    pub(super) fn of(spans: &[SpanNode]) -> Self {
        let mut marks = vec![None; spans.len()];
        let mut parents = parents(spans, &mut marks);
        cut_circles(spans, &mut parents, &mut marks);
        let order = preorder(spans, &parents, &marks);
        let mut positions = vec![0; spans.len()];
        for (position, place) in order.iter().enumerate() {
            positions[*place] = position;
        }
        let parent: Vec<Option<usize>> = order.iter().map(|place| parents[*place].map(|p| positions[p])).collect();
        let mut size = vec![1; spans.len()];
        for position in (0..spans.len()).rev() {
            if let Some(parent) = parent[position] {
                size[parent] += size[position];
            }
        }
        Self { order, positions, parent, size, marks }
    }

    pub(super) fn position(&self, place: usize) -> usize {
        self.positions[place]
    }

    pub(super) fn mark(&self, position: usize) -> Option<Undecided> {
        self.marks[self.order[position]]
    }

    pub(super) fn roots(&self) -> impl Iterator<Item = usize> + '_ {
        let first = (!self.order.is_empty()).then_some(0);
        std::iter::successors(first, |root| Some(root + self.size[*root]).filter(|next| *next < self.order.len()))
    }

    /// By position.
    pub(super) fn depths(&self) -> Vec<usize> {
        let mut depths = vec![0; self.order.len()];
        for position in 0..depths.len() {
            depths[position] = self.parent[position].map_or(0, |parent| depths[parent] + 1);
        }
        depths
    }

    /// The longest root that has no parent, else the longest.
    pub(super) fn main_root(&self, spans: &[SpanNode]) -> Option<usize> {
        self.roots().filter(|root| self.mark(*root) != Some(Undecided::Duplicate)).max_by_key(|root| {
            let duration = Interval::of(&spans[self.order[*root]]).duration();
            (self.mark(*root).is_none(), duration, Reverse(*root))
        })
    }
}

/// The parent of each span by its id; may hold circles.
fn parents(spans: &[SpanNode], marks: &mut [Option<Undecided>]) -> Vec<Option<usize>> {
    let mut sides: HashMap<[u8; 8], Sides> = HashMap::with_capacity(spans.len());
    let mut by_age: Vec<usize> = (0..spans.len()).collect();
    by_age.sort_by_key(|place| age(spans, *place));
    let mut before = None;
    for place in by_age {
        if before.is_some_and(|before| is_copy(&spans[before], &spans[place])) {
            marks[place] = Some(Undecided::Duplicate);
            continue;
        }
        before = Some(place);
        let sides = sides.entry(spans[place].span_id).or_insert(Sides { first: place, call: None, answer: None });
        match spans[place].kind.as_str() {
            "client" | "producer" => sides.call.get_or_insert(place),
            "server" | "consumer" => sides.answer.get_or_insert(place),
            _ => continue,
        };
    }
    let parent = |(place, span): (usize, &SpanNode)| {
        if marks[place].is_some() {
            return None;
        }
        let own = &sides[&span.span_id];
        if own.answer == Some(place) && own.call.is_some() {
            return own.call;
        }
        sides.get(&span.parent?).map(|sides| sides.parent_of(span, spans))
    };
    let parents: Vec<Option<usize>> = spans.iter().enumerate().map(parent).collect();
    for (place, span) in spans.iter().enumerate() {
        if parents[place].is_none() && span.parent.is_some() {
            marks[place].get_or_insert(Undecided::ParentMissing);
        }
    }
    parents
}

/// The spans that have one id.
struct Sides {
    first: usize,
    call: Option<usize>,
    answer: Option<usize>,
}

impl Sides {
    /// Which of them made this span: the one of its own service; of both sides, the one that answered.
    fn parent_of(&self, child: &SpanNode, spans: &[SpanNode]) -> usize {
        match (self.call, self.answer) {
            (Some(call), Some(answer)) => {
                let callers = spans[call].service == child.service && spans[answer].service != child.service;
                if callers { call } else { answer }
            }
            _ => self.first,
        }
    }
}

/// Ids together, earliest and longest first, copies beside each other.
fn age(spans: &[SpanNode], place: usize) -> impl Ord + use<'_> {
    let span = &spans[place];
    (span.span_id, span.start, Reverse(span.end), &span.service, &span.kind, span.parent, place)
}

fn is_copy(one: &SpanNode, other: &SpanNode) -> bool {
    let times = |span: &SpanNode| (span.span_id, span.parent, span.start, span.end);
    times(one) == times(other) && one.service == other.service && one.kind == other.kind
}

/// Follows each span's parents until a root, or until a span that was met on the same way.
fn cut_circles(spans: &[SpanNode], parents: &mut [Option<usize>], marks: &mut [Option<Undecided>]) {
    const UNSEEN: usize = usize::MAX;
    let mut seen_from = vec![UNSEEN; spans.len()];
    for place in 0..spans.len() {
        let mut at = place;
        while seen_from[at] == UNSEEN {
            seen_from[at] = place;
            match parents[at] {
                Some(parent) => at = parent,
                None => break,
            }
        }
        if seen_from[at] != place || parents[at].is_none() {
            continue;
        }
        let circle = std::iter::successors(Some(at), |member| parents[*member].filter(|next| *next != at));
        let earliest = circle.min_by_key(|member| age_in_circle(&spans[*member], *member)).unwrap_or(at);
        parents[earliest] = None;
        marks[earliest] = Some(Undecided::Circle);
    }
}

fn age_in_circle(span: &SpanNode, place: usize) -> impl Ord + use<> {
    (span.start, Reverse(span.end), place)
}

/// Roots as they were given, cut circles and copies last; children by start.
fn preorder(spans: &[SpanNode], parents: &[Option<usize>], marks: &[Option<Undecided>]) -> Vec<usize> {
    let mut children = vec![Vec::new(); spans.len()];
    let mut stack = Vec::new();
    for (place, parent) in parents.iter().enumerate() {
        match parent {
            Some(parent) => children[*parent].push(place),
            None => stack.push(place),
        }
    }
    let last = |place: &usize| matches!(marks[*place], Some(Undecided::Circle | Undecided::Duplicate));
    // the stack gives back the last first
    stack.sort_by_key(|place| Reverse((last(place), *place)));
    let mut order = Vec::with_capacity(spans.len());
    while let Some(place) = stack.pop() {
        order.push(place);
        let mut below = std::mem::take(&mut children[place]);
        below.sort_by_key(|child| Reverse((spans[*child].start, *child)));
        stack.extend(below);
    }
    order
}
