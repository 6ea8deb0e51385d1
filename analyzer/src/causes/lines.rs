//! [`Lines`]: log records and exceptions on spans, by the trace they belong to, as templates.
//!
//! A record belongs to the span it names, else to the first span of its service in its trace. One that names no
//! trace belongs to nothing here: how often it comes depends on too much beside faults. Only services that have spans are
//! looked at, and not the access logs of sidecars: these say what their spans say. What is stored was read whole; live,
//! `voices.rs` says of which spans all has come.

use std::borrow::Cow;

use arrow::{
    array::{Array, AsArray, BinaryArray, Int32Array, Int64Array, ListArray, StringArray},
    datatypes::{Int32Type, Int64Type},
    record_batch::RecordBatch,
};
use weir_schema::UnixNanos;

use super::{
    by_trace::ByTrace,
    kept::Share,
    marks::Mark,
    templates::{Source, Template, Templates},
    voices::{Voice, Voices},
};
use crate::spans::{Name, Names, Span, SpanColumns};

/// OpenTelemetry's least severity number of an error.
const ERROR: i32 = 17;

/// Words among which a record without a severity may name it.
const LEVEL_WORDS: usize = 6;

/// How long a template that is not logged is kept at least; and at most twice as long.
const TURN_NS: i64 = 3_600_000_000_000;

/// The event name of the record that a sidecar writes of each request.
pub const ACCESS_LOG: &str = "weir.access";

/// The columns of `logs` that are read.
pub const LOG_COLUMNS: [&str; 9] = [
    "time_unix_nano",
    "service",
    "instance",
    "trace_id",
    "span_id",
    "severity_number",
    "body",
    "received_unix_nano",
    "event_name",
];

/// Log records by trace.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    pub(super) templates: Templates,
    traces: ByTrace,
    /// `None` when all was read: nothing is still to come.
    voices: Option<Voices>,
    turned_at: Option<UnixNanos>,
}

/// That a span logged something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// 0 when it does not say.
    pub(super) span: u64,
    pub(super) service: Name,
    pub(super) template: Template,
}

impl Lines {
    /// Of records as they come: so many of traces that are not ranked yet.
    pub(super) fn live(most: usize) -> Self {
        Self { traces: ByTrace::bounded(most), voices: Some(Voices::default()), ..Self::default() }
    }

    /// Takes in rows of `logs`, in any order, of traces that are wanted. A batch that lacks the columns is ignored.
    pub(crate) fn add(&mut self, logs: &RecordBatch, names: &Names, wanted: impl Fn(u128) -> bool) {
        let Some(columns) = Columns::of(logs) else { return };
        let mut heard = Heard::default();
        let mut last: Option<(&str, Option<Name>)> = None;
        for row in (0..logs.num_rows()).filter(|row| columns.event(*row) != Some(ACCESS_LOG)) {
            // records of one sender stand together
            let text = columns.service.value(row);
            let known = last.filter(|(known, _)| *known == text).map_or_else(|| names.find(text), |(_, name)| name);
            last = Some((text, known));
            let Some(service) = known else { continue };
            if self.voices.is_some() {
                heard.record(service, &columns, row, names);
            }
            let Some(trace) = id(columns.trace, row).filter(|trace| wanted(*trace)) else { continue };
            let span = id(columns.span, row).map_or(0, |id| id as u64);
            self.say(trace, (span, service), Source::Log, &columns.body(row));
        }
        if let Some(voices) = &mut self.voices {
            heard.of.into_iter().for_each(|(service, voice)| voices.heard(service, voice));
        }
    }

    /// Takes in the exceptions that spans of wanted traces carry as events.
    pub(crate) fn add_events(&mut self, spans: &RecordBatch, names: &mut Names, wanted: impl Fn(u128) -> bool) {
        let events = spans.column_by_name("events").and_then(|column| column.as_list_opt::<i32>());
        // most batches carry none: then no row is asked
        let Some(events) = events.filter(|events| !events.values().is_empty()) else { return };
        let Some(columns) = SpanColumns::of(spans) else { return };
        for row in (0..spans.num_rows()).filter(|row| events.is_valid(*row) && events.value_length(*row) > 0) {
            let thrown = exceptions(events, row);
            if thrown.is_empty() {
                continue;
            }
            let span = columns.span(row, names);
            for exception in thrown.iter().filter(|_| wanted(span.trace)) {
                self.say(span.trace, (span.id, span.service), Source::Event, exception);
            }
        }
    }

    fn say(&mut self, trace: u128, (span, service): (u64, Name), source: Source, body: &str) {
        if let Some(template) = self.templates.of(service, source, body) {
            self.traces.add(trace, Line { span, service, template });
        }
    }

    /// Of a smaller share of the requests from now on.
    pub(super) fn keep(&mut self, share: Share) {
        self.traces.keep(share);
    }

    pub(super) fn count(&self) -> usize {
        self.traces.count()
    }

    /// The lines of a trace, each once.
    pub(super) fn of(&self, trace: u128) -> impl Iterator<Item = &Line> {
        self.traces.of(trace)
    }

    /// What a line is of its span.
    pub(super) fn mark(&self, line: &Line) -> Mark {
        match self.templates.source(line.template) {
            Source::Log => Mark::Line(line.template),
            Source::Event => Mark::Thrown(line.template),
        }
    }

    /// Whether all that a span may have logged is known.
    pub(super) fn know(&self, span: &Span) -> bool {
        self.voices.as_ref().is_none_or(|voices| voices.know(span))
    }

    /// Records were lost on their way here.
    pub(super) fn lost(&mut self) {
        self.voices.iter_mut().for_each(Voices::lost);
    }

    /// Lets go of the lines of a trace that was ranked.
    pub(super) fn let_go(&mut self, trace: u128) {
        self.traces.let_go(trace);
    }

    /// Lets go of what is old.
    pub(super) fn turn(&mut self, now: UnixNanos) {
        self.traces.turn(now);
        let turned_at = *self.turned_at.get_or_insert(now);
        if now.saturating_sub(turned_at) >= TURN_NS {
            self.turned_at = Some(now);
            self.templates.turn();
            self.voices.iter_mut().for_each(|voices| voices.turn(now));
        }
    }

    /// Records that were left out for want of room.
    pub(super) fn dropped(&self) -> u64 {
        self.traces.dropped + self.templates.refused
    }
}

/// The oldest and the newest record of each instance in a batch.
#[derive(Default)]
struct Heard {
    of: Vec<(Name, Voice)>,
    last: usize,
}

impl Heard {
    fn record(&mut self, service: Name, columns: &Columns, row: usize, names: &Names) {
        let Some(at) = columns.at(row) else { return };
        let instance = columns.instance(row).and_then(|text| names.find(text));
        let is = |(of, voice): &(Name, Voice)| *of == service && voice.instance == instance;
        let place = Some(self.last).filter(|last| self.of.get(*last).is_some_and(is));
        match place.or_else(|| self.of.iter().position(is)) {
            Some(place) => {
                let voice = &mut self.of[place].1;
                (voice.since, voice.until) = (voice.since.min(at), voice.until.max(at));
                self.last = place;
            }
            None => self.of.push((service, Voice { instance, since: at, until: at })),
        }
    }
}

struct Columns<'a> {
    trace: &'a BinaryArray,
    span: &'a BinaryArray,
    service: &'a StringArray,
    body: &'a StringArray,
    severity: Option<&'a Int32Array>,
    instance: Option<&'a StringArray>,
    time: Option<&'a Int64Array>,
    received: Option<&'a Int64Array>,
    event: Option<&'a StringArray>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let binary = |name: &str| batch.column_by_name(name)?.as_binary_opt::<i32>();
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let long = |name: &str| batch.column_by_name(name)?.as_primitive_opt::<Int64Type>();
        Some(Self {
            trace: binary("trace_id")?,
            span: binary("span_id")?,
            service: text("service")?,
            body: text("body")?,
            severity: batch.column_by_name("severity_number").and_then(|c| c.as_primitive_opt::<Int32Type>()),
            instance: text("instance"),
            time: long("time_unix_nano"),
            received: long("received_unix_nano"),
            event: text("event_name").filter(|events| events.null_count() < events.len()),
        })
    }

    /// The text, led by the word that says it is an error where only the severity does.
    fn body(&self, row: usize) -> Cow<'a, str> {
        let body = if self.body.is_valid(row) { self.body.value(row) } else { "" };
        let error = self.severity.is_some_and(|severity| severity.is_valid(row) && severity.value(row) >= ERROR);
        if error && !is_error(body) { format!("ERROR {body}").into() } else { body.into() }
    }

    /// When it was written, which was not after it came.
    fn at(&self, row: usize) -> Option<UnixNanos> {
        let at = self.time.filter(|time| time.is_valid(row))?.value(row);
        let received = self.received.filter(|received| received.is_valid(row)).map(|received| received.value(row));
        Some(received.map_or(at, |received| at.min(received)))
    }

    fn event(&self, row: usize) -> Option<&'a str> {
        self.event.filter(|event| event.is_valid(row)).map(|event| event.value(row))
    }

    fn instance(&self, row: usize) -> Option<&'a str> {
        self.instance.filter(|instance| instance.is_valid(row)).map(|instance| instance.value(row))
    }
}

/// Whether a line's text says that it is of an error.
pub(super) fn is_error(text: &str) -> bool {
    let level = |word: &str| {
        let word = word.trim_matches(|letter: char| !letter.is_ascii_alphabetic());
        ["error", "fatal", "severe", "critical", "panic", "exception"].iter().any(|it| word.eq_ignore_ascii_case(it))
    };
    text.split_whitespace().take(LEVEL_WORDS).any(level)
}

fn id(column: &BinaryArray, row: usize) -> Option<u128> {
    let bytes = if column.is_valid(row) { column.value(row) } else { return None };
    let id = bytes.iter().fold(0, |id: u128, byte| id << 8 | u128::from(*byte));
    Some(id).filter(|id| *id != 0)
}

/// `exception TYPE` for each event of that name on a span.
fn exceptions(events: &ListArray, row: usize) -> Vec<String> {
    let events = events.value(row);
    let Some(events) = events.as_struct_opt() else { return Vec::new() };
    let Some(names) = events.column_by_name("name").and_then(|c| c.as_string_opt::<i32>()) else { return Vec::new() };
    let attributes = events.column_by_name("attributes").and_then(|c| c.as_map_opt());
    let kind = |place: usize| {
        let entries = attributes.filter(|all| all.is_valid(place))?.value(place);
        let keys = entries.column(0).as_string_opt::<i32>()?;
        let values = entries.column(1).as_string_opt::<i32>()?;
        let at = (0..keys.len()).find(|at| keys.value(*at) == "exception.type")?;
        Some(values.value(at).to_owned())
    };
    let of_exceptions = (0..names.len()).filter(|place| names.is_valid(*place) && names.value(*place) == "exception");
    of_exceptions.map(|place| format!("exception {}", kind(place).unwrap_or_default())).collect()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use arrow::{
        array::{ArrayRef, Int64Array, MapBuilder, StringBuilder, StructArray},
        buffer::OffsetBuffer,
        datatypes::{Field, Schema},
    };

    use super::*;

    /// Two spans of one trace, of which the second threw.
    fn spans() -> RecordBatch {
        let strings = |text: &str| -> ArrayRef { Arc::new(StringArray::from(vec![text; 2])) };
        let ids = |ids: [&[u8]; 2]| -> ArrayRef { Arc::new(BinaryArray::from_iter_values(ids)) };
        let mut attributes = MapBuilder::new(None, StringBuilder::new(), StringBuilder::new());
        attributes.keys().append_value("exception.type");
        attributes.values().append_value("TimeoutError");
        attributes.append(true).unwrap();
        let attributes: ArrayRef = Arc::new(attributes.finish());
        let name: ArrayRef = Arc::new(StringArray::from(vec!["exception"]));
        let field = |name: &str, column: &ArrayRef| Arc::new(Field::new(name, column.data_type().clone(), true));
        let events = StructArray::from(vec![
            (field("name", &name), name.clone()),
            (field("attributes", &attributes), attributes.clone()),
        ]);
        let events: ArrayRef = Arc::new(events);
        let offsets = OffsetBuffer::from_lengths([0, 1]);
        let events: ArrayRef = Arc::new(ListArray::new(field("element", &events), offsets, events.clone(), None));
        let columns: Vec<(&str, ArrayRef)> = vec![
            ("trace_id", ids([&[7; 16], &[7; 16]])),
            ("span_id", ids([&[1; 8], &[2; 8]])),
            ("parent_span_id", ids([&[0; 8], &[1; 8]])),
            ("start_unix_nano", Arc::new(Int64Array::from(vec![1, 2]))),
            ("duration_ns", Arc::new(Int64Array::from(vec![9, 5]))),
            ("service", strings("tagger")),
            ("operation", strings("Tag")),
            ("kind", strings("internal")),
            ("status", strings("unset")),
            ("events", events),
        ];
        let fields = columns.iter().map(|(name, column)| Field::new(*name, column.data_type().clone(), true));
        let schema = Schema::new(fields.collect::<Vec<_>>());
        RecordBatch::try_new(Arc::new(schema), columns.into_iter().map(|(_, column)| column).collect()).unwrap()
    }

    #[test]
    fn an_exception_on_a_span_is_an_error_line_of_it() {
        let (mut lines, mut names) = (Lines::default(), Names::default());
        lines.add_events(&spans(), &mut names, |_| true);
        let said: Vec<&Line> = lines.of(u128::from_be_bytes([7; 16])).collect();
        let [line] = said[..] else { panic!("one line: {lines:?}") };
        assert_eq!(line.span, u64::from_be_bytes([2; 8]));
        assert_eq!(lines.templates.text(line.template), "exception TimeoutError");
        assert!(is_error(lines.templates.text(line.template)));
    }
}
