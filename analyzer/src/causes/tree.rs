//! [`Tree`]: the spans of one trace with what each did itself: own time, gap, tail, signature, marks, and whether
//! the request waited for it.

use super::{
    hashed,
    lines::{Line, Lines},
    marks::Mark,
};
use crate::spans::{Name, Side, Span};

/// One trace.
#[derive(Clone, Debug)]
pub(super) struct Tree {
    /// By start.
    pub(super) nodes: Vec<Node>,
    /// Where it begins: the longest span without a parent, else the first.
    pub(super) root: usize,
}

/// One span in its trace. Times are milliseconds.
#[derive(Clone, Debug)]
pub(super) struct Node {
    pub(super) service: Name,
    pub(super) operation: Name,
    pub(super) parent: Option<usize>,
    /// By start.
    pub(super) children: Vec<usize>,
    /// Whether it was entered from another service.
    pub(super) entered: bool,
    /// Whether the request waited for it.
    pub(super) on_path: bool,
    /// Duration without children.
    pub(super) own_ms: f64,
    /// From the end of the last child to its own end; `None` without children.
    pub(super) tail_ms: Option<f64>,
    /// Whom it only called: its time is that call's, not its own.
    pub(super) call: Option<Call>,
    /// Whether it may be a call, and none of another service's spans is its child.
    pub(super) unanswered: bool,
    /// Where its service ran.
    pub(super) instance: Option<Name>,
    /// What it shows of itself, each once.
    pub(super) marks: Vec<Mark>,
    /// Whether all that it logged is known; else none of it is a mark.
    pub(super) heard: bool,
    /// Which children it has, as a set; whether it failed by itself.
    pub(super) signature: u64,
    pub(super) duration_ms: f64,
    /// How many it stands for.
    pub(super) weight: f64,
}

/// A call as its caller saw it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Call {
    pub(super) callee: Name,
    pub(super) operation: Name,
    /// What the caller waited longer than the callee took; the whole time when the callee sends no spans. May be negative
    /// when clocks differ.
    pub(super) gap_ms: f64,
    /// Where the callee ran.
    pub(super) instance: Option<Name>,
}

impl Tree {
    pub(super) fn of(spans: &[Span], lines: &Lines) -> Option<Self> {
        let mut spans: Vec<&Span> = spans.iter().collect();
        spans.sort_by_key(|span| (span.start, span.id));
        let places = Places::of(&spans);
        let parent = |place: usize| places.get(spans[place].parent).filter(|parent| *parent != place);
        let parents: Vec<Option<usize>> = (0..spans.len()).map(parent).collect();
        let mut children = vec![Vec::new(); spans.len()];
        for (place, parent) in parents.iter().enumerate() {
            if let Some(parent) = parent {
                children[*parent].push(place);
            }
        }
        let roots = (0..spans.len()).filter(|place| spans[*place].parent == 0);
        let root = roots.max_by_key(|place| (spans[*place].duration_ns, std::cmp::Reverse(*place)));
        let root = root.or(if spans.is_empty() { None } else { Some(0) })?;
        let family = Family { spans: &spans, parents: &parents, children: &children };
        let on_path = family.path(root);
        let node = |place: usize| Node { heard: lines.know(spans[place]), ..family.node(place, on_path[place]) };
        let mut nodes: Vec<Node> = (0..spans.len()).map(node).collect();
        nodes.iter_mut().zip(children).for_each(|(node, children)| node.children = children);
        for line in lines.of(spans[0].trace) {
            let place = places.get(line.span).or_else(|| first_of(&spans, line));
            let mark = lines.mark(line);
            // of a log that has not come whole no line is one, an exception is there with its span
            let known = |node: &&mut Node| node.heard || matches!(mark, Mark::Thrown(_));
            let node = place.map(|place| &mut nodes[place]).filter(|node| node.service == line.service);
            if let Some(node) = node.filter(known).filter(|node| !node.marks.contains(&mark)) {
                node.marks.push(mark);
            }
        }
        Some(Self { nodes, root })
    }

    /// How many requests it stands for.
    pub(super) fn weight(&self) -> f64 {
        self.nodes[self.root].weight
    }

    /// Places in an order in which children come before their parents.
    pub(super) fn children_first(&self) -> Vec<usize> {
        let mut order = Vec::with_capacity(self.nodes.len());
        let tops = (0..self.nodes.len()).filter(|place| self.nodes[*place].parent.is_none());
        let mut next: Vec<usize> = tops.collect();
        while let Some(place) = next.pop() {
            order.push(place);
            next.extend(&self.nodes[place].children);
        }
        order.reverse();
        order
    }
}

/// Places of spans by id, in a sorted row: one table a request costs more than it finds. Of several spans of one id the last.
struct Places(Vec<(u64, usize)>);

impl Places {
    fn of(spans: &[&Span]) -> Self {
        let mut places: Vec<(u64, usize)> = spans.iter().enumerate().map(|(place, span)| (span.id, place)).collect();
        places.sort_unstable();
        Self(places)
    }

    fn get(&self, id: u64) -> Option<usize> {
        let after = self.0.partition_point(|(known, _)| *known <= id);
        self.0[..after].last().filter(|(known, _)| *known == id).map(|(_, place)| *place)
    }
}

/// Spans and who called whom.
struct Family<'a> {
    spans: &'a [&'a Span],
    parents: &'a [Option<usize>],
    children: &'a [Vec<usize>],
}

impl Family<'_> {
    /// Walks back from the end of each span: a child is waited for if it ended before the next that was.
    fn path(&self, root: usize) -> Vec<bool> {
        let mut on_path = vec![false; self.spans.len()];
        on_path[root] = true;
        let mut next = vec![root];
        while let Some(place) = next.pop() {
            let span = self.spans[place];
            let end = |child: usize| self.spans[child].end().min(span.end());
            let mut children = self.children[place].clone();
            children.sort_by_key(|child| (std::cmp::Reverse(end(*child)), self.spans[*child].start));
            let mut cursor = span.end();
            for child in children {
                let start = self.spans[child].start;
                if start >= end(child) || end(child) > cursor {
                    continue;
                }
                cursor = start.max(span.start);
                // a circle of parents would be walked for ever
                if !std::mem::replace(&mut on_path[child], true) {
                    next.push(child);
                }
            }
        }
        on_path
    }

    fn node(&self, place: usize, on_path: bool) -> Node {
        let span = self.spans[place];
        let (mut covered, mut until) = (0, span.start);
        let mut last_end = None;
        for child in self.children[place].iter().map(|child| self.spans[*child]) {
            let (start, end) = (child.start.max(until), child.end().min(span.end()));
            if end > start {
                covered += end - start;
                until = end;
            }
            last_end = last_end.max(Some(end));
        }
        let entered = self.parents[place].is_some_and(|parent| self.spans[parent].service != span.service);
        Node {
            service: span.service,
            operation: span.operation,
            parent: self.parents[place],
            children: Vec::new(), // the family's own, once all nodes are made
            entered,
            on_path,
            own_ms: ms((span.duration_ns - covered).max(0)),
            tail_ms: last_end.map(|end| ms((span.end() - end).max(0))),
            call: self.call(place),
            unanswered: span.side != Side::Server && self.answer(place).is_none(),
            instance: span.instance,
            marks: if self.failed(place) { vec![Mark::Failed] } else { Vec::new() },
            heard: true,
            signature: self.signature(place),
            duration_ms: ms(span.duration_ns),
            weight: f64::from(span.weight),
        }
    }

    /// A span that is not a server's and was answered by another service, or names a peer that sends no spans.
    fn call(&self, place: usize) -> Option<Call> {
        let span = self.spans[place];
        if span.side == Side::Server {
            return None;
        }
        if let Some(answer) = self.answer(place) {
            let gap_ms = ms(span.duration_ns - answer.duration_ns);
            let (callee, operation, instance) = (answer.service, answer.operation, answer.instance);
            return Some(Call { callee, operation, gap_ms, instance });
        }
        let peer = span.peer.filter(|peer| span.side == Side::Client && *peer != span.service)?;
        Some(Call { callee: peer, operation: span.operation, gap_ms: ms(span.duration_ns), instance: None })
    }

    /// The first child in another service.
    fn answer(&self, place: usize) -> Option<&Span> {
        let mut children = self.children[place].iter().map(|child| self.spans[*child]);
        children.find(|child| child.service != self.spans[place].service)
    }

    fn signature(&self, place: usize) -> u64 {
        let label = |child: &usize| match self.answer(*child) {
            Some(answer) => hashed([1, u64::from(answer.service), u64::from(answer.operation)]),
            None => {
                hashed([0, u64::from(self.spans[*child].operation), u64::from(self.spans[*child].peer.unwrap_or(0))])
            }
        };
        let mut labels: Vec<u64> = self.children[place].iter().map(label).collect();
        labels.sort_unstable();
        labels.dedup();
        hashed(labels.into_iter().chain(self.failed(place).then_some(u64::MAX)))
    }

    /// Whether it failed and nothing it called did.
    fn failed(&self, place: usize) -> bool {
        let failed_below = self.children[place].iter().any(|child| self.spans[*child].error);
        self.spans[place].error && !failed_below
    }
}

/// Where a line belongs that names no span of the trace.
fn first_of(spans: &[&Span], line: &Line) -> Option<usize> {
    spans.iter().position(|span| span.service == line.service)
}

fn ms(ns: i64) -> f64 {
    ns as f64 / 1e6
}
