//! [`Lines`]: log records and exceptions on spans, by the trace they belong to, as templates.
//!
//! A record belongs to the span it names, else to the first span of its service in its trace. One that names no
//! trace belongs to nothing here: how often it comes depends on too much beside faults.

use arrow::{
    array::{Array, AsArray, BinaryArray, Int32Array, ListArray, StringArray},
    datatypes::Int32Type,
    record_batch::RecordBatch,
};

use super::{kept::Share, observed::Map, templates::Templates};
use crate::{
    names::Role,
    spans::{Name, Names, SpanColumns},
};

/// Templates kept of one trace; later ones are left out.
const MAX_PER_TRACE: usize = 2_000;

/// OpenTelemetry's least severity number of an error.
const ERROR: i32 = 17;

/// Words among which a record without a severity may name it.
const LEVEL_WORDS: usize = 6;

/// Log records by trace.
#[derive(Debug, Default)]
pub(crate) struct Lines {
    templates: Templates,
    traces: Map<u128, Vec<Line>>,
    /// How many there are in all.
    count: usize,
    /// The requests whose lines are kept.
    share: Share,
}

/// That a span logged something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Line {
    /// 0 when it does not say.
    pub(super) span: u64,
    pub(super) service: Name,
    pub(super) template: Name,
}

impl Lines {
    /// Takes in rows of `logs`, in any order. A batch that lacks the columns is ignored.
    pub(crate) fn add(&mut self, logs: &RecordBatch, names: &mut Names) {
        let Some(columns) = Columns::of(logs) else { return };
        for row in 0..logs.num_rows() {
            let Some(trace) = id(columns.trace, row) else { continue };
            let span = id(columns.span, row).map_or(0, |id| id as u64);
            let service = names.said(Role::Service, columns.service.value(row));
            let body = columns.body(row);
            self.say(trace, Line { span, service, template: 0 }, &body, names);
        }
    }

    /// Takes in the exceptions that spans carry as events.
    pub(crate) fn add_events(&mut self, spans: &RecordBatch, names: &mut Names) {
        let Some(columns) = SpanColumns::of(spans) else { return };
        let Some(events) = spans.column_by_name("events").and_then(|column| column.as_list_opt::<i32>()) else {
            return;
        };
        for row in (0..spans.num_rows()).filter(|row| events.is_valid(*row) && events.value_length(*row) > 0) {
            let span = columns.span(row, names);
            for exception in exceptions(events, row) {
                let line = Line { span: span.id, service: span.service, template: 0 };
                self.say(span.trace, line, &exception, names);
            }
        }
    }

    fn say(&mut self, trace: u128, line: Line, body: &str, names: &mut Names) {
        let Some(template) = self.templates.of(line.service, body, names) else { return };
        if !self.share.keeps(trace) {
            return;
        }
        let lines = self.traces.entry(trace).or_default();
        let line = Line { template, ..line };
        if lines.len() < MAX_PER_TRACE && !lines.contains(&line) {
            lines.push(line);
            self.count += 1;
        }
    }

    /// Of a smaller share of the requests from now on.
    pub(super) fn keep(&mut self, share: Share) {
        self.share = share;
        self.traces.retain(|trace, _| share.keeps(*trace));
        self.count = self.traces.values().map(Vec::len).sum();
    }

    pub(super) fn count(&self) -> usize {
        self.count
    }

    /// The lines of a trace, each once.
    pub(super) fn of(&self, trace: u128) -> &[Line] {
        self.traces.get(&trace).map_or(&[], Vec::as_slice)
    }
}

struct Columns<'a> {
    trace: &'a BinaryArray,
    span: &'a BinaryArray,
    service: &'a StringArray,
    body: &'a StringArray,
    severity: Option<&'a Int32Array>,
}

impl<'a> Columns<'a> {
    fn of(batch: &'a RecordBatch) -> Option<Self> {
        let binary = |name: &str| batch.column_by_name(name)?.as_binary_opt::<i32>();
        let text = |name: &str| batch.column_by_name(name)?.as_string_opt::<i32>();
        let severity = batch.column_by_name("severity_number").and_then(|c| c.as_primitive_opt::<Int32Type>());
        let (trace, span) = (binary("trace_id")?, binary("span_id")?);
        Some(Self { trace, span, service: text("service")?, body: text("body")?, severity })
    }

    /// The text, led by the word that says it is an error where only the severity does.
    fn body(&self, row: usize) -> String {
        let body = if self.body.is_valid(row) { self.body.value(row) } else { "" };
        let error = self.severity.is_some_and(|severity| severity.is_valid(row) && severity.value(row) >= ERROR);
        if error && !is_error(body) { format!("ERROR {body}") } else { body.to_owned() }
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
        lines.add_events(&spans(), &mut names);
        let [line] = lines.of(u128::from_be_bytes([7; 16])) else { panic!("one line: {lines:?}") };
        assert_eq!(line.span, u64::from_be_bytes([2; 8]));
        assert_eq!(names.text(line.template), "exception TimeoutError");
        assert!(is_error(names.text(line.template)));
    }
}
