//! [`Calls`]: what one request called, which part of its time is its own, and which calls it waited for.
//!
//! Only spans that ended by the end of the window count: later ones may have come by now or not, and the
//! answer must not depend on it.

use std::cmp::Reverse;

use weir_schema::UnixNanos;

use crate::{
    held::{Held, Node, Place},
    snapshot::NodeKind,
    spans::{Name, Span},
    window::Edges,
};

/// Spans of one service within one request that are looked through for calls.
const MAX_SPANS_WITHIN: usize = 1_000;

/// The calls of one request at a time, in memory that is used again.
#[derive(Debug, Default)]
pub(crate) struct Calls {
    made: Vec<Made>,
    /// Whether one of them failed.
    pub(crate) failed: bool,
    within: Vec<Place>,
}

/// One call.
#[derive(Clone, Copy, Debug)]
struct Made {
    start: UnixNanos,
    end: UnixNanos,
    /// Of two that began and ended together one comes first, always the same.
    id: u64,
    place: Place,
    callee: Option<Name>,
}

impl Calls {
    /// What a span called: client spans, and children in other services, its own and those of spans
    /// between them in the same service.
    pub(crate) fn look(&mut self, place: Place, span: &Span, held: &Held, known_until: UnixNanos) {
        self.made.clear();
        self.failed = false;
        self.within.clear();
        self.within.push(place);
        let mut looked_at = 0;
        while let Some(parent) = self.within.pop() {
            looked_at += 1;
            if looked_at > MAX_SPANS_WITHIN {
                break;
            }
            for (place, child) in held.children(parent).filter(|(_, child)| child.end() <= known_until) {
                if child.is_client() || child.service != span.service {
                    let callee = callee(span.service, place, child, held, known_until);
                    self.made.push(Made { start: child.start(), end: child.end(), id: child.id(), place, callee });
                    self.failed |= child.is_error();
                } else {
                    self.within.push(place);
                }
            }
        }
    }

    /// The time of the span in which it called nobody, after its wait in the proxy.
    pub(crate) fn own_time(&mut self, span: &Span) -> i64 {
        let from = span.start + span.queue_wait_ns.or_zero();
        self.made.sort_unstable_by_key(|call| (call.start, call.end));
        let (mut covered, mut until) = (0, from);
        for call in &self.made {
            let (start, end) = (call.start.max(until), call.end.min(span.end()));
            if end > start {
                covered += end - start;
                until = end;
            }
        }
        (span.end() - from - covered).max(0)
    }

    /// Walks back from the span's end: the call that ended last was waited for, and before its start the one
    /// that ended last by then. Others ran beside them. Says so at the edges and at the spans.
    pub(crate) fn add_waits(&mut self, edges: &mut Edges, span: &Span, held: &mut Held) {
        let span_end = span.end();
        self.made.sort_unstable_by_key(|call| (Reverse((call.end.min(span_end), call.start)), call.id));
        let mut cursor = span_end;
        for call in &self.made {
            let (start, end) = (call.start.max(span.start), call.end.min(span_end));
            if end <= start {
                continue;
            }
            let waited_for = end <= cursor;
            if waited_for {
                cursor = start;
                held.mark_critical(call.place);
            }
            let Some(callee) = call.callee else { continue };
            let edge = edges.of(span.service, callee);
            let waited_ns = (end - start).saturating_mul(i64::from(span.weight));
            edge.waited_ns = edge.waited_ns.saturating_add(waited_ns);
            edge.critical_ns = edge.critical_ns.saturating_add(if waited_for { waited_ns } else { 0 });
        }
    }
}

/// Who answered: the service of the child, or of a client span's own child; else the database or queue it names.
fn callee(caller: Name, place: Place, child: &Node, held: &Held, known_until: UnixNanos) -> Option<Name> {
    if child.service != caller {
        return Some(child.service);
    }
    let answers = held.children(place).map(|(_, answer)| answer);
    let answers = answers.filter(|answer| answer.end() <= known_until && answer.service != caller);
    let answer = answers.min_by_key(|answer| answer.id()).map(|answer| answer.service);
    let named = || child.peer().filter(|(_, kind)| matches!(kind, NodeKind::Database | NodeKind::Messaging));
    answer.or_else(|| named().map(|(peer, _)| peer))
}

/// Whether somebody else's span hangs below a client span.
pub(crate) fn is_answered(place: Place, span: &Span, held: &Held, known_until: UnixNanos) -> bool {
    let mut children = held.children(place).filter(|(_, child)| child.end() <= known_until);
    children.any(|(_, child)| child.is_client() || child.service != span.service)
}
