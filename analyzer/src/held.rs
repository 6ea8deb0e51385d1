//! [`Held`]: spans remembered for a while: to ignore exact duplicates, and to join callers and
//! callees whichever comes first.
//!
//! Two generations: spans live in the young one; when event time moved by the hold time the old one
//! goes and the young one grows old. A span is so remembered for one to two hold times, at constant
//! cost, and the count is bounded by turning early.

use hashbrown::HashMap;
use weir_schema::UnixNanos;

use crate::{
    snapshot::NodeKind,
    spans::{Name, Side, Span},
};

type Map<K, V> = HashMap<K, V, foldhash::fast::RandomState>;

/// A call from one service to another.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Call {
    pub(crate) caller: Name,
    pub(crate) callee: Name,
    pub(crate) callee_kind: NodeKind,
    /// Of the callee's span, or of the caller's where the callee has none.
    pub(crate) start: UnixNanos,
    pub(crate) duration_ns: i64,
    pub(crate) error: bool,
    /// Client minus server duration.
    pub(crate) gap_ns: Option<i64>,
}

/// What is remembered of a span.
#[derive(Clone, Copy, Debug)]
struct Known {
    service: Name,
    side: Side,
    start: UnixNanos,
    duration_ns: i64,
    error: bool,
    peer: Option<(Name, NodeKind)>,
    /// Whether a span of another service is its child.
    answered: bool,
}

#[derive(Debug, Default)]
struct Generation {
    known: Map<(u128, u64), Known>,
    /// Spans whose parent has not come yet, by that parent.
    waiting: Map<(u128, u64), Vec<Known>>,
}

/// The two generations.
#[derive(Debug, Default)]
pub(crate) struct Held {
    young: Generation,
    old: Generation,
    turned_at: UnixNanos,
    newest: UnixNanos,
    /// Spans let go before their time.
    pub(crate) evicted: u64,
}

impl Held {
    /// Takes a span in. `None` when it is an exact duplicate, else the calls it completes.
    pub(crate) fn insert(&mut self, span: &Span, calls: &mut Vec<Call>) -> Option<()> {
        let key = span.key();
        if self.young.known.contains_key(&key) || self.old.known.contains_key(&key) {
            return None;
        }
        self.newest = self.newest.max(span.start);
        let peer = span.peer.map(|peer| (peer, span.peer_kind));
        let (service, side, start, duration_ns, error) =
            (span.service, span.side, span.start, span.duration_ns, span.error);
        let mut known = Known { service, side, start, duration_ns, error, peer, answered: false };
        for children in [self.young.waiting.remove(&key), self.old.waiting.remove(&key)].into_iter().flatten() {
            for child in children {
                known.answered |= join(&known, &child, calls);
            }
        }
        if span.parent != 0 {
            self.find_parent(span, &known, calls);
        }
        self.young.known.insert(key, known);
        Some(())
    }

    fn find_parent(&mut self, span: &Span, known: &Known, calls: &mut Vec<Call>) {
        let parent_key = (span.trace, span.parent);
        let parent = self.young.known.get_mut(&parent_key).or_else(|| self.old.known.get_mut(&parent_key));
        match parent {
            Some(parent) => parent.answered |= join(parent, known, calls),
            None => self.young.waiting.entry(parent_key).or_default().push(*known),
        }
    }

    /// The service of a remembered span.
    pub(crate) fn service_of(&self, key: (u128, u64)) -> Option<Name> {
        self.young.known.get(&key).or_else(|| self.old.known.get(&key)).map(|known| known.service)
    }

    /// Lets old spans go; client spans that nobody answered become calls to the peer they name.
    pub(crate) fn turn(&mut self, now: UnixNanos, hold_ns: i64, max_spans: usize, calls: &mut Vec<Call>) {
        let full = self.young.known.len() > max_spans / 2;
        let event_time_jumped = self.newest.saturating_sub(self.turned_at) > hold_ns;
        let due = event_time_jumped || now.saturating_sub(self.turned_at) > hold_ns;
        if !due && !full {
            return;
        }
        if full && !due {
            self.evicted += self.old.known.len() as u64;
        }
        self.turned_at = self.newest.max(now.min(self.newest));
        let gone = std::mem::replace(&mut self.old, std::mem::take(&mut self.young));
        unanswered(gone, calls);
    }

    /// Lets everything go.
    pub(crate) fn finish(&mut self, calls: &mut Vec<Call>) {
        unanswered(std::mem::take(&mut self.old), calls);
        unanswered(std::mem::take(&mut self.young), calls);
    }
}

/// A child in another service is a call.
fn join(parent: &Known, child: &Known, calls: &mut Vec<Call>) -> bool {
    if parent.service == child.service {
        return false;
    }
    let gap_ns = (parent.side == Side::Client).then_some(parent.duration_ns - child.duration_ns);
    calls.push(Call {
        caller: parent.service,
        callee: child.service,
        callee_kind: NodeKind::Service,
        start: child.start,
        duration_ns: child.duration_ns,
        error: child.error,
        gap_ns,
    });
    true
}

fn unanswered(generation: Generation, calls: &mut Vec<Call>) {
    for known in generation.known.into_values() {
        let Some((callee, callee_kind)) = known.peer.filter(|_| known.side == Side::Client && !known.answered) else {
            continue;
        };
        let Known { service: caller, start, duration_ns, error, .. } = known;
        if callee != caller {
            calls.push(Call { caller, callee, callee_kind, start, duration_ns, error, gap_ns: None });
        }
    }
}
