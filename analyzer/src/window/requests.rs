//! [`Sampled`]: some whole requests of every entry, for what-if. Which ones is decided by their trace ids, so that it depends
//! neither on the order of arrival nor on how long they took.

use std::{
    collections::{BTreeMap, VecDeque},
    hash::BuildHasher,
    sync::Arc,
};

use super::{Child, Held, Name, Side, Span, Windows, is_entry};
use crate::retiming::{Call, Request};

/// Requests of an entry taken from a window: five windows of them know a mean to 4 % of its scatter.
const A_WINDOW: usize = 100;

/// Windows they are kept for.
const WINDOWS: usize = 5;

/// Requests taken from a window at most; with [`MAX_PARTS`] each, 64 MB are kept at worst.
const MOST_A_WINDOW: usize = 1_000;

/// Parts (one per service entered) of a request that is kept.
const MAX_PARTS: usize = 200;

/// Requests of the last windows.
#[derive(Debug, Default)]
pub(super) struct Sampled {
    windows: VecDeque<Vec<Request<Name>>>,
}

impl Sampled {
    pub(super) fn requests(&self) -> Arc<Vec<Request<Name>>> {
        Arc::new(self.windows.iter().flatten().cloned().collect())
    }
}

impl Windows {
    /// Takes some of the requests that ended in a window.
    pub(super) fn sample(&mut self, spans: &[Span], held: &Held) {
        let hash = foldhash::fast::FixedState::default();
        let mut by_entry: BTreeMap<Name, Vec<(u64, &Span)>> = BTreeMap::new();
        for span in spans.iter().filter(|span| !span.shed) {
            let parent = (span.parent != 0).then(|| held.service_of((span.trace, span.parent))).flatten();
            if parent.is_none() && is_entry(span, parent) {
                by_entry.entry(span.service).or_default().push((hash.hash_one(span.trace), span));
            }
        }
        let mut taken = Vec::new();
        for mut roots in by_entry.into_values() {
            roots.sort_unstable_by_key(|(hash, span)| (*hash, span.id));
            let some = roots.into_iter().take(A_WINDOW.min(MOST_A_WINDOW - taken.len()));
            taken.extend(some.filter_map(|(_, span)| self.request(span)));
        }
        self.sampled.windows.push_back(taken);
        if self.sampled.windows.len() > WINDOWS {
            self.sampled.windows.pop_front();
        }
    }

    fn request(&self, span: &Span) -> Option<Request<Name>> {
        let root = Part { trace: span.trace, id: span.id, service: span.service, start: span.start, end: span.end() };
        self.part(&root, &mut 0)
    }

    /// One service's part, and those of whom it called; `None` when there are too many.
    fn part(&self, part: &Part, parts: &mut usize) -> Option<Request<Name>> {
        let mut calls = Vec::new();
        let mut within = vec![part.id];
        while let Some(parent) = within.pop() {
            *parts += 1;
            if *parts > MAX_PARTS {
                return None;
            }
            for child in self.children_of(part.trace, parent) {
                if child.side == Side::Client || child.service != part.service {
                    calls.push(self.call(part, child, parts)?);
                } else if child.id != parent {
                    within.push(child.id);
                }
            }
        }
        calls.sort_by(|a, b| a.start_ms.total_cmp(&b.start_ms));
        Some(Request { service: part.service, duration_ms: ms(part.end - part.start), calls })
    }

    fn call(&self, caller: &Part, child: &Child, parts: &mut usize) -> Option<Call<Name>> {
        let answer = if child.service != caller.service {
            Some(child)
        } else {
            self.children_of(caller.trace, child.id).find(|answer| answer.service != caller.service)
        };
        let callee = match answer {
            Some(answer) => Some(Box::new(self.part(&Part::of(caller.trace, answer), parts)?)),
            None => None,
        };
        Some(Call { start_ms: ms(child.start - caller.start).max(0.0), end_ms: ms(child.end - caller.start), callee })
    }
}

/// A span that entered a service.
struct Part {
    trace: u128,
    id: u64,
    service: Name,
    start: i64,
    end: i64,
}

impl Part {
    fn of(trace: u128, child: &Child) -> Self {
        Self { trace, id: child.id, service: child.service, start: child.start, end: child.end }
    }
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
