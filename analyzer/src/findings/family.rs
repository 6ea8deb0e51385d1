//! [`Family`]: the spans of one trace by their parents. Made for every request that is looked at, so it is two sorted
//! rows instead of tables: no span has a list of its own.

use crate::spans::{Side, Span};

/// Spans below one span that are looked through for calls.
const MAX_WITHIN: usize = 1_000;

/// One trace.
pub(super) struct Family<'a> {
    spans: &'a [Span],
    /// Places of spans by id.
    places: Vec<(u64, usize)>,
    /// Spans that have a parent, by it, then by start.
    children: Vec<Child>,
}

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
struct Child {
    parent: u64,
    start: i64,
    id: u64,
    place: usize,
}

/// A call as its caller saw it.
pub(super) struct Call<'a> {
    pub(super) span: &'a Span,
    pub(super) callee: Option<crate::spans::Name>,
    pub(super) answer: Option<&'a Span>,
}

impl<'a> Family<'a> {
    pub(super) fn of(spans: &'a [Span]) -> Self {
        let mut places: Vec<(u64, usize)> = spans.iter().enumerate().map(|(place, span)| (span.id, place)).collect();
        places.sort_unstable();
        let mut children = Vec::with_capacity(spans.len());
        let below = spans.iter().enumerate().filter(|(_, span)| span.parent != 0 && span.parent != span.id);
        children.extend(below.map(|(place, span)| Child {
            parent: span.parent,
            start: span.start,
            id: span.id,
            place,
        }));
        children.sort_unstable();
        Self { spans, places, children }
    }

    /// The longest span without a parent, else the first.
    pub(super) fn root(&self) -> Option<&'a Span> {
        let roots = self.spans.iter().filter(|span| span.parent == 0);
        let root = roots.max_by_key(|span| (span.duration_ns, span.id));
        root.or_else(|| self.spans.iter().min_by_key(|span| (span.start, span.id)))
    }

    /// Whether a request enters its service by it.
    pub(super) fn is_entered(&self, span: &Span) -> bool {
        span.side != Side::Client && self.parent(span).is_none_or(|parent| parent.service != span.service)
    }

    /// Of several spans of one id the last that came.
    fn parent(&self, span: &Span) -> Option<&'a Span> {
        let after = self.places.partition_point(|(id, _)| *id <= span.parent);
        let (id, place) = self.places[..after].last()?;
        (*id == span.parent).then(|| &self.spans[*place])
    }

    fn children_of(&self, id: u64) -> impl Iterator<Item = &'a Span> {
        let first = self.children.partition_point(|child| child.parent < id);
        let (spans, children) = (self.spans, self.children[first..].iter());
        children.take_while(move |child| child.parent == id).map(move |child| &spans[child.place])
    }

    /// Calls by start: client spans without another client span of the service below, and children in other services.
    pub(super) fn calls_of(&self, span: &Span) -> Vec<Call<'a>> {
        let mut calls = Vec::new();
        let mut within = vec![span.id];
        let mut looked_at = 0;
        while let Some(id) = within.pop() {
            looked_at += 1;
            if looked_at > MAX_WITHIN {
                break;
            }
            for child in self.children_of(id) {
                if child.service != span.service {
                    calls.push(Call { span: child, callee: Some(child.service), answer: Some(child) });
                } else if child.side == Side::Client
                    && !self.children_of(child.id).any(|below| below.side == Side::Client)
                {
                    calls.push(self.call(child));
                } else {
                    within.push(child.id);
                }
            }
        }
        calls.sort_by_key(|call| (call.span.start, call.span.id));
        calls
    }

    fn call(&self, client: &'a Span) -> Call<'a> {
        let answer = self.children_of(client.id).find(|child| child.service != client.service);
        Call { span: client, callee: answer.map(|answer| answer.service).or(client.peer), answer }
    }
}
