//! [`Flame`]: the critical paths of many requests in one picture: for each way of services and operations down from
//! the root, how much of the requests' time it is.
//!
//! A **frame** is such a way. Its own time is the path's segments of the spans there, its total is that with all below it; so
//! the total of a frame is its own time, its children's totals, and what was too small or too deep to have a frame of its own.
//! The totals of the roots add up to the requests' durations: no time is lost or counted twice, also after a merge.
//! (The picture is B. Gregg's, The flame graph, 2016; there the samples of one profile, here the critical path of each request.)

mod frame;

use std::{cmp::Reverse, collections::HashMap};

pub use frame::FramePath;
use frame::{Frame, Key, Sums};

use crate::critical_path::{CriticalPath, OnPath, SpanNode, Undecided};

/// Frames that are kept: what a page can draw and a person can read. The rest, the smallest, is `other` of the frame above.
pub const MAX_FRAMES: usize = 500;

/// Frames held while requests are added: above this all but [`MAX_FRAMES`] are folded, so a way that comes often is not
/// folded for coming late.
const MAX_HELD: usize = 8 * MAX_FRAMES;

/// Levels below the root; what is deeper is `other` of the last.
pub const MAX_DEPTH: usize = 64;

/// The critical paths of many requests.
#[derive(Clone, Debug, Default)]
pub struct Flame {
    requests: u64,
    root_ns: i64,
    /// Of roots that were folded.
    other_ns: i64,
    /// Parents before children.
    frames: Vec<Frame>,
    places: HashMap<Key, usize>,
}

impl Flame {
    /// Takes in the path of one request.
    pub fn add(&mut self, spans: &[SpanNode], path: &CriticalPath) {
        let Some(root) = path.spans.first() else { return };
        self.requests += 1;
        self.root_ns += root.timing.end_unix_nano - root.timing.start_unix_nano;
        let (totals, undecided) = (totals(path, |_| true), totals_undecided(path));
        let mut frames: Vec<Option<usize>> = Vec::with_capacity(path.spans.len());
        for (place, on_path) in path.spans.iter().enumerate() {
            // what has none of the path has none below it either
            let is_on_path = totals[place] > 0;
            let above = on_path.parent.and_then(|parent| frames[parent]);
            let sums = Sums {
                requests: 0,
                total_ns: totals[place],
                self_ns: on_path.timing.critical_ns,
                other_ns: 0,
                undecided_ns: undecided[place],
                drag_ns: on_path.timing.drag_ns,
            };
            frames.push(is_on_path.then(|| self.add_span(&spans[on_path.span], above, sums)));
        }
        if self.frames.len() > MAX_HELD {
            self.fold();
        }
    }

    /// Takes in what another has.
    pub fn merge(&mut self, other: &Self) {
        self.requests += other.requests;
        self.root_ns += other.root_ns;
        self.other_ns += other.other_ns;
        let mut places = Vec::with_capacity(other.frames.len());
        for frame in &other.frames {
            let (parent, service, operation) = &frame.key;
            let key = (parent.map(|parent| places[parent]), service.clone(), operation.clone());
            let place = self.place(key);
            self.frames[place].sums.add(&frame.sums);
            places.push(place);
        }
        if self.frames.len() > MAX_HELD {
            self.fold();
        }
    }

    /// Requests that were taken in.
    #[must_use]
    pub fn requests(&self) -> u64 {
        self.requests
    }

    /// Their durations together.
    #[must_use]
    pub fn root_ns(&self) -> i64 {
        self.root_ns
    }

    /// Of roots that have no frame.
    #[must_use]
    pub fn other_ns(&self) -> i64 {
        self.other_ns
    }

    /// At most [`MAX_FRAMES`], as a walk down: a frame stands before those below it, of those beside each other the largest first.
    #[must_use]
    pub fn paths(mut self) -> Vec<FramePath> {
        self.fold();
        let mut below: HashMap<Option<usize>, Vec<usize>> = HashMap::new();
        for (place, frame) in self.frames.iter().enumerate() {
            below.entry(frame.key.0).or_default().push(place);
        }
        let mut paths: Vec<FramePath> = Vec::with_capacity(self.frames.len());
        let mut stack: Vec<(usize, Option<usize>)> = Vec::new();
        let mut descend = |stack: &mut Vec<(usize, Option<usize>)>, of: Option<usize>, parent: Option<usize>| {
            let mut frames = below.remove(&of).unwrap_or_default();
            frames.sort_by_key(|place| (self.frames[*place].sums.total_ns, Reverse(&self.frames[*place].key)));
            stack.extend(frames.into_iter().map(|frame| (frame, parent)));
        };
        descend(&mut stack, None, None);
        while let Some((place, parent)) = stack.pop() {
            let above = parent.map_or("", |parent: usize| paths[parent].id.as_str());
            paths.push(self.frames[place].path(above, parent, self.root_ns));
            descend(&mut stack, Some(place), Some(paths.len() - 1));
        }
        paths
    }

    /// Adds a span to the frame below `above` that it belongs to; gives that frame.
    fn add_span(&mut self, span: &SpanNode, above: Option<usize>, sums: Sums) -> usize {
        if let Some(above) = above.filter(|above| self.frames[*above].depth == MAX_DEPTH) {
            self.frames[above].sums.other_ns += sums.self_ns;
            return above;
        }
        let place = self.place((above, span.service.as_str().into(), span.operation.as_str().into()));
        let frame = &mut self.frames[place];
        let is_first = frame.request != self.requests;
        frame.request = self.requests;
        frame.sums.add(&Sums { requests: u64::from(is_first), ..sums });
        place
    }

    fn place(&mut self, key: Key) -> usize {
        if let Some(place) = self.places.get(&key) {
            return *place;
        }
        let depth = key.0.map_or(0, |above| self.frames[above].depth + 1);
        self.places.insert(key.clone(), self.frames.len());
        self.frames.push(Frame { key, depth, request: 0, sums: Sums::default() });
        self.frames.len() - 1
    }

    /// Keeps the largest frames. A frame is no larger than the one above, which stands before it, so whatever is kept has all above it.
    fn fold(&mut self) {
        let mut by_size: Vec<usize> = (0..self.frames.len()).collect();
        by_size.sort_by_key(|place| (Reverse(self.frames[*place].sums.total_ns), *place));
        let mut kept = vec![false; self.frames.len()];
        by_size.into_iter().take(MAX_FRAMES).for_each(|place| kept[place] = true);
        let frames = std::mem::take(&mut self.frames);
        self.places.clear();
        let mut places: Vec<Option<usize>> = Vec::with_capacity(frames.len());
        for (mut frame, kept) in frames.into_iter().zip(kept) {
            let above = frame.key.0.map(|above| places[above]);
            if kept {
                frame.key.0 = above.flatten();
                self.places.insert(frame.key.clone(), self.frames.len());
                places.push(Some(self.frames.len()));
                self.frames.push(frame);
                continue;
            }
            places.push(None);
            match above {
                None => self.other_ns += frame.sums.total_ns,
                Some(Some(above)) => self.frames[above].sums.other_ns += frame.sums.total_ns,
                // what is above was folded, and this with it
                Some(None) => {}
            }
        }
    }
}

/// Of each span, the path's time in it and below it, as far as it is `wanted` of the span at a place.
fn totals(path: &CriticalPath, wanted: impl Fn(usize) -> bool) -> Vec<i64> {
    let own = |(place, span): (usize, &OnPath)| if wanted(place) { span.timing.critical_ns } else { 0 };
    let mut totals: Vec<i64> = path.spans.iter().enumerate().map(own).collect();
    for place in (0..totals.len()).rev() {
        if let Some(parent) = path.spans[place].parent {
            totals[parent] += totals[place];
        }
    }
    totals
}

/// As [`totals`], of spans that are undecided or lie below one.
fn totals_undecided(path: &CriticalPath) -> Vec<i64> {
    let mut undecided: Vec<bool> = Vec::with_capacity(path.spans.len());
    for OnPath { parent, timing, .. } in &path.spans {
        // of the root itself it does not matter who waited
        let here = |parent: usize| undecided[parent] || timing.undecided.is_some_and(Undecided::is_async);
        undecided.push(parent.is_some_and(here));
    }
    totals(path, |place| undecided[place])
}

#[cfg(test)]
mod tests;
