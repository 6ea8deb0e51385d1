//! Code faults written into recorded healthy windows, with their spans and log lines.
//!
//! A service is drawn, one of its operations, and a place in its code: before one of the calls it makes, or after one
//! of the lines it logs. Kinds:
//!
//! - `return`: what comes after the place is gone, callers go on;
//! - `return, callers fail`: the same, and the caller fails on the answer, as all above do;
//! - `exception`: the operation fails at the place, and all above;
//! - `exception at the end`: it fails after all it does, so that only its callers show it.
//!
//! Where recorded failures leave a span of an error handler and an error line (Spring does), made ones do too.

use std::{
    collections::{BTreeMap, BTreeSet},
    ops::Range,
    sync::Arc,
};

use crate::day::{Day, Line, SECOND, Span};

/// Spring's error handler, a child of the server's span.
const HANDLER: &str = "BasicErrorController.error";

/// What it logs, as it does in the recordings.
const LOGGED: &str = "0 ERROR o.a.c.c.C.[.[.[.[dispatcherServlet]#175 TraceID: 0 SpanID: 0 Servlet.service() for servlet \
    [dispatcherServlet] in context with path [] threw exception [Request processing failed";

/// What an operation must be called in a window, to be drawn.
const MIN_CALLS: usize = 4;

/// Operations of libraries, not of code that could be faulty; so are those whose only child is another service's.
const NOT_CODE: [&str; 7] = ["HTTP ", "SELECT", "INSERT", "UPDATE", "DELETE", "Session.", "Transaction"];

pub(crate) const KINDS: [&str; 4] = ["return", "return, callers fail", "exception", "exception at the end"];

pub(crate) struct Made {
    pub(crate) service: Arc<str>,
    pub(crate) operation: Arc<str>,
    pub(crate) place: String,
    pub(crate) kind: &'static str,
    pub(crate) hit: usize,
    /// Whether any span is gone or new: if not, only times and lines may show it.
    pub(crate) seen: bool,
    pub(crate) window: Range<i64>,
    pub(crate) spans: Vec<Span>,
    pub(crate) lines: Vec<Line>,
}

/// Random numbers by `SplitMix64` (G. Steele, D. Lea and C. Flood, 2014).
pub(crate) struct Random(pub(crate) u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// One of the numbers below, of which there is one.
    pub(crate) fn below(&mut self, most: usize) -> usize {
        (self.next() % most as u64) as usize
    }

    fn pick<'a, T>(&mut self, of: &'a [T]) -> Option<&'a T> {
        if of.is_empty() { None } else { of.get(self.below(of.len())) }
    }
}

/// One fault in one of the windows; `None` when the draw fits nothing.
pub(crate) fn make(day: &Day, windows: &[Range<i64>], random: &mut Random) -> Option<Made> {
    let window = random.pick(windows)?.clone();
    let kind = *random.pick(&KINDS)?;
    let healthy = Window::of(day, &window);
    let operations = healthy.operations(kind);
    let services: Vec<Arc<str>> =
        operations.iter().map(|(service, _)| service.clone()).collect::<BTreeSet<_>>().into_iter().collect();
    let service = random.pick(&services)?.clone();
    let operations: Vec<_> = operations.into_iter().filter(|(of, _)| *of == service).collect();
    let (service, operation) = random.pick(&operations)?.clone();
    let places = healthy.places(&service, &operation);
    let place = if kind == KINDS[3] { Place::End } else { random.pick(&places)?.clone() };
    let mut fault = Fault { healthy: &healthy, dead: BTreeSet::new(), ends: BTreeMap::new(), failed: BTreeMap::new() };
    let hit = fault.strike(&service, &operation, &place, kind);
    let (spans, lines) = fault.result();
    let place = format!("{place:?}");
    let seen = spans.len() != healthy.spans.len() || !fault.dead.is_empty();
    (hit >= MIN_CALLS).then_some(Made { service, operation, place, kind, hit, seen, window, spans, lines })
}

/// Where in the code.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Place {
    BeforeCall(Arc<str>),
    AfterLine(String),
    End,
}

/// The traces of a window, by place.
struct Window<'a> {
    spans: Vec<&'a Span>,
    lines: Vec<&'a Line>,
    parents: Vec<Option<usize>>,
    children: Vec<Vec<usize>>,
    /// Lines of each span.
    said: Vec<Vec<usize>>,
    handler: bool,
}

impl<'a> Window<'a> {
    fn of(day: &'a Day, window: &Range<i64>) -> Self {
        let handler = day.spans.iter().any(|span| &*span.operation == HANDLER);
        let mut seen = BTreeSet::new();
        let spans = day.spans.iter().filter(|span| window.contains(&span.start) && seen.insert((span.trace, span.id)));
        let spans: Vec<&Span> = spans.collect();
        let places: BTreeMap<(u128, u64), usize> =
            spans.iter().enumerate().map(|(place, span)| ((span.trace, span.id), place)).collect();
        let parents: Vec<Option<usize>> =
            spans.iter().map(|span| places.get(&(span.trace, span.parent)).copied()).collect();
        let mut children = vec![Vec::new(); spans.len()];
        for (place, parent) in parents.iter().enumerate() {
            parent.iter().for_each(|parent| children[*parent].push(place));
        }
        let lines: Vec<&Line> = day.lines.iter().filter(|line| places.contains_key(&(line.trace, line.span))).collect();
        let mut said = vec![Vec::new(); spans.len()];
        for (number, line) in lines.iter().enumerate() {
            said[places[&(line.trace, line.span)]].push(number);
        }
        Self { spans, lines, parents, children, said, handler }
    }

    fn operations(&self, kind: &str) -> Vec<(Arc<str>, Arc<str>)> {
        let mut all = BTreeMap::<(Arc<str>, Arc<str>), Vec<usize>>::new();
        for (place, span) in self.spans.iter().enumerate() {
            all.entry((span.service.clone(), span.operation.clone())).or_default().push(place);
        }
        let busy = |place: &&usize| !self.children[**place].is_empty() || self.said[**place].len() > 1;
        let call = |place: &usize| {
            let children = &self.children[*place];
            children.len() == 1 && self.spans[children[0]].service != self.spans[*place].service
        };
        let fits = |(operation, spans): &(&(Arc<str>, Arc<str>), &Vec<usize>)| {
            let code = !NOT_CODE.iter().any(|of| operation.1.starts_with(of)) && &*operation.1 != HANDLER;
            let busy = kind == KINDS[3] || 2 * spans.iter().filter(busy).count() >= spans.len();
            code && spans.len() >= MIN_CALLS && busy && 2 * spans.iter().filter(|span| call(span)).count() < spans.len()
        };
        all.iter().filter(fits).map(|(operation, _)| operation.clone()).collect()
    }

    fn places(&self, service: &str, operation: &str) -> Vec<Place> {
        let mut places = BTreeSet::new();
        for (place, _) in self.of_operation(service, operation) {
            let calls = self.children[place].iter().filter(|child| &*self.spans[**child].operation != HANDLER);
            places.extend(calls.map(|child| Place::BeforeCall(self.spans[*child].operation.clone())));
            let all_but_last = self.said[place].split_last().map_or(&[][..], |(_, before)| before);
            places.extend(all_but_last.iter().map(|line| Place::AfterLine(code(&self.lines[*line].body))));
        }
        places.into_iter().collect()
    }

    fn of_operation(&self, service: &str, operation: &str) -> impl Iterator<Item = (usize, &&'a Span)> {
        let of = move |(_, span): &(usize, &&Span)| &*span.service == service && &*span.operation == operation;
        self.spans.iter().enumerate().filter(of)
    }

    /// When a span comes to a place.
    fn time(&self, span: usize, place: &Place) -> Option<i64> {
        let children = &self.children[span];
        match place {
            Place::BeforeCall(name) => children
                .iter()
                .map(|child| self.spans[*child])
                .find(|child| child.operation == *name)
                .map(|it| it.start),
            Place::AfterLine(name) => {
                let line = self.said[span].iter().find(|line| code(&self.lines[**line].body) == *name)?;
                let at = self.lines[*line].at + 1;
                (self.spans[span].start..self.spans[span].end).contains(&at).then_some(at)
            }
            Place::End => Some(self.spans[span].end),
        }
    }
}

/// What tells the lines of a span apart: where in the code they are, else how they begin.
fn code(body: &str) -> String {
    let words = || body.split_whitespace().skip(1).take(3);
    words().find(|word| word.contains('#')).map_or_else(|| words().collect::<Vec<_>>().join(" "), str::to_owned)
}

/// A fault as it is written.
struct Fault<'a> {
    healthy: &'a Window<'a>,
    dead: BTreeSet<usize>,
    /// Spans that end earlier, and whose lines do.
    ends: BTreeMap<usize, i64>,
    /// Spans that fail, and when.
    failed: BTreeMap<usize, i64>,
}

impl Fault<'_> {
    fn strike(&mut self, service: &str, operation: &str, place: &Place, kind: &str) -> usize {
        let mut hit = 0;
        let spans: Vec<usize> = self.healthy.of_operation(service, operation).map(|(span, _)| span).collect();
        for span in spans {
            if self.dead.contains(&span) || self.ends.contains_key(&span) {
                continue;
            }
            let Some(at) = self.healthy.time(span, place) else { continue };
            hit += 1;
            self.cut(span, at);
            if kind != KINDS[0] {
                self.fail_above(span, at, kind != KINDS[1]);
            }
        }
        hit
    }

    /// Ends a span at a time: what it had begun until then stays.
    fn cut(&mut self, span: usize, at: i64) {
        for child in self.healthy.children[span].clone() {
            if self.healthy.spans[child].start >= at {
                self.kill(child);
            }
        }
        self.ends.insert(span, at.min(self.healthy.spans[span].end));
    }

    fn kill(&mut self, span: usize) {
        if self.dead.insert(span) {
            self.healthy.children[span].clone().into_iter().for_each(|child| self.kill(child));
        }
    }

    /// All spans above stop when this one ends. Whether its own service failed, or only those above.
    fn fail_above(&mut self, from: usize, at: i64, itself: bool) {
        let (mut span, mut at) = (from, at);
        if itself {
            self.failed.insert(span, at);
        }
        while let Some(above) = self.healthy.parents[span] {
            let spans = &self.healthy.spans;
            at += (spans[span].start - spans[above].start).max(0) / 50 + 300_000;
            let until = spans[span].end;
            for child in self.healthy.children[above].clone() {
                if child != span && spans[child].start >= until {
                    self.kill(child);
                }
            }
            let end = at.min(spans[above].end);
            self.ends.insert(above, end);
            if itself || spans[above].service != spans[from].service {
                self.failed.insert(above, end);
            }
            span = above;
        }
    }

    fn result(&self) -> (Vec<Span>, Vec<Line>) {
        let all = &self.healthy.spans;
        let living = (0..all.len()).filter(|span| !self.dead.contains(span));
        let end = |span: usize| self.ends.get(&span).copied().unwrap_or(i64::MAX).clamp(all[span].start, all[span].end);
        let mut spans: Vec<Span> = living.map(|span| Span { end: end(span), ..all[span].clone() }).collect();
        let mut lines = Vec::new();
        for (span, said) in self.healthy.said.iter().enumerate().filter(|(span, _)| !self.dead.contains(span)) {
            let known = self.ends.get(&span).copied().unwrap_or(i64::MAX);
            // a line whose time is not within its span's carries none that could be believed
            let after = |line: &Line| line.at >= known && line.at < all[span].end + SECOND;
            lines.extend(said.iter().map(|line| self.healthy.lines[*line]).filter(|line| !after(line)).cloned());
        }
        let entries = self.failed.iter().filter(|(span, _)| self.healthy.handler && self.is_entry(**span));
        for (number, (span, at)) in entries.enumerate() {
            let (span, id) = (all[*span], 0xfa11_0000_0000_0000 + number as u64);
            spans.push(Span {
                id,
                parent: span.id,
                start: *at,
                end: at + 700_000,
                operation: HANDLER.into(),
                ..span.clone()
            });
            let body = LOGGED.into();
            lines.push(Line { at: *at, trace: span.trace, span: span.id, service: span.service.clone(), body });
        }
        spans.sort_by_key(|span| span.start);
        lines.sort_by_key(|line| line.at);
        (spans, lines)
    }

    /// Whether a span is where its service was entered from another.
    fn is_entry(&self, span: usize) -> bool {
        let all = &self.healthy.spans;
        self.healthy.parents[span].is_some_and(|above| all[above].service != all[span].service)
    }
}
