//! Spans: which can be used, and where their parts go.

use super::{
    Check, Decoded, nanos,
    rows::{Rows, hot_place, is_unset, places},
    scope::Scope,
    source::Source,
    value::{Attribute, Value, check_all, push_item},
    wire::{Fields, Malformed},
};
use crate::{Table, UnixNanos};

places!(Places of Table::Spans =>
    trace_id, span_id, parent_span_id, trace_state, start_unix_nano, duration_ns, service, instance, operation, kind,
    status, status_message, scope_name, scope_version, http_request_method, url_path, http_response_status_code,
    db_system, db_operation, server_address, gen_ai_input_tokens, gen_ai_output_tokens, time_to_first_token_ns, attributes, attribute_types, resource_attributes,
    resource_attribute_types, events, links, sample_weight, received_unix_nano, scope_attributes, scope_attribute_types,
    schema_url, flags, dropped_attributes_count, dropped_events_count, dropped_links_count,
);

/// Reads an `ExportTraceServiceRequest`.
pub(super) fn rows(request: &[u8], received_unix_nano: UnixNanos, check: Check) -> Result<Decoded, Malformed> {
    let mut writer = Writer {
        rows: Rows::new(Table::Spans, request.len()),
        at: Places::get(),
        received_unix_nano,
        check,
        span: Span::default(),
        names: Vec::new(),
    };
    let (mut fields, mut place) = (Fields::of(request), 0);
    while let Some(field) = fields.next().map_err(|e| e.item("resource_spans", place))? {
        if field.number == 1 {
            let message = field.bytes("resource_spans")?;
            writer.resource_spans(message, place).map_err(|e| e.item("resource_spans", place))?;
            place += 1;
        }
    }
    writer.rows.finish()
}

struct Writer<'a> {
    rows: Rows,
    at: Places,
    received_unix_nano: UnixNanos,
    check: Check,
    /// The span being read; its lists keep their room.
    span: Span<'a>,
    /// What the attribute names of the last span mean, by position: the next span of the same code
    /// has the same names in the same order.
    names: Vec<Name<'a>>,
}

/// An attribute's name and where its value goes.
#[derive(Clone, Copy)]
struct Name<'a> {
    name: &'a [u8],
    /// The column of its own.
    place: Option<usize>,
    /// The column whose older name it is.
    older: Option<usize>,
}

/// A span as it stands in the request.
#[derive(Default)]
struct Span<'a> {
    trace_id: &'a [u8],
    span_id: &'a [u8],
    parent_span_id: &'a [u8],
    trace_state: &'a str,
    name: &'a [u8],
    kind: i32,
    start: u64,
    end: u64,
    status_code: i32,
    status_message: &'a str,
    flags: u32,
    dropped_attributes: u32,
    dropped_events: u32,
    dropped_links: u32,
    attributes: Vec<Attribute<'a>>,
    events: Vec<&'a [u8]>,
    links: Vec<&'a [u8]>,
}

impl<'a> Writer<'a> {
    fn resource_spans(&mut self, message: &'a [u8], r: usize) -> Result<(), Malformed> {
        // the resource may stand behind the spans it belongs to
        let (mut resource, mut scopes, mut schema_url): (&[u8], _, _) = (&[], Vec::new(), "");
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => resource = field.bytes("resource")?,
                2 => scopes.push(field.bytes("scope_spans")?),
                3 => schema_url = field.text("schema_url")?,
                _ => {}
            }
        }
        if scopes.is_empty() && resource.is_empty() {
            return Ok(());
        }
        let source = Source::read(resource, schema_url).map_err(|e| e.field("resource"))?;
        for (s, scope_spans) in scopes.into_iter().enumerate() {
            self.scope_spans(&source, scope_spans, (r, s)).map_err(|e| e.item("scope_spans", s))?;
        }
        Ok(())
    }

    fn scope_spans(&mut self, source: &Source<'a>, message: &'a [u8], (r, s): (usize, usize)) -> Result<(), Malformed> {
        let scope = Scope::of(message)?;
        let first = self.rows.len();
        self.rows.reserve(scope.items, &self.at.of_every_span());
        let (mut fields, mut n) = (Fields::of(message), 0);
        while let Some(field) = fields.next()? {
            if field.number != 2 {
                continue;
            }
            self.span.read(field.bytes("spans")?).map_err(|e| e.item("spans", n))?;
            if self.check == Check::ByRecord {
                self.span.check_text().map_err(|e| e.item("spans", n))?;
            }
            match self.span.unusable() {
                Some(why) => {
                    self.rows.reject(|| format!("resource_spans[{r}].scope_spans[{s}].spans[{n}].{why}"));
                }
                None => self.write().map_err(|e| e.item("spans", n))?,
            }
            n += 1;
        }
        let Self { rows, at, received_unix_nano, .. } = self;
        if rows.len() == first {
            return Ok(());
        }
        scope.write(rows, at.scope(), first, source)?;
        rows.long_from(at.received_unix_nano, first, *received_unix_nano);
        source.write(rows, at.source(), first)
    }

    /// What the span has of its own; what it shares is written behind its scope.
    fn write(&mut self) -> Result<(), Malformed> {
        self.write_attributes()?;
        let Self { rows, at, span, .. } = self;
        rows.id(at.trace_id, span.trace_id);
        rows.id(at.span_id, span.span_id);
        rows.id(at.parent_span_id, span.parent_span_id);
        let start = nanos(span.start);
        rows.long(at.start_unix_nano, start);
        rows.long(at.duration_ns, nanos(span.end) - start);
        rows.text(at.operation, span.name);
        rows.text(at.kind, kind(span.kind).as_bytes());
        rows.text(at.status, status_text(span.status_code).as_bytes());
        rows.maybe_text(at.status_message, span.status_message.as_bytes());
        rows.events(at.events, &span.events)?;
        rows.links(at.links, &span.links)?;
        rows.maybe_count(at.flags, span.flags);
        rows.maybe_count(at.dropped_attributes_count, span.dropped_attributes);
        rows.maybe_count(at.dropped_events_count, span.dropped_events);
        rows.maybe_count(at.dropped_links_count, span.dropped_links);
        if !span.trace_state.is_empty() {
            rows.text(at.trace_state, span.trace_state.as_bytes());
            if let Some(weight) = sample_weight(span.trace_state) {
                rows.double(at.sample_weight, weight);
            }
        }
        rows.end_row()
    }

    /// Attributes that have a column of their own go there when the type fits; the rest to the map.
    fn write_attributes(&mut self) -> Result<(), Malformed> {
        let at = self.at;
        let mut older = false;
        for position in 0..self.span.attributes.len() {
            let attribute = self.span.attributes[position];
            let name = self.name(position, attribute.key);
            older |= name.older.is_some();
            if !name.place.is_some_and(|place| self.rows.put(place, attribute.value)) {
                self.rows.add_attribute(at.attributes, attribute)?;
            }
        }
        self.rows.end_attributes(at.attributes, at.attribute_types);
        if older {
            self.write_older_names();
        }
        Ok(())
    }

    /// An older name fills a column only where the new one did not.
    fn write_older_names(&mut self) {
        for position in 0..self.span.attributes.len() {
            let attribute = self.span.attributes[position];
            let Some(place) = self.name(position, attribute.key).older else { continue };
            match attribute.value {
                Value::Double(seconds) if place == self.at.time_to_first_token_ns => {
                    self.rows.put(place, Value::Int((seconds * 1e9) as i64));
                }
                _ if place == self.at.time_to_first_token_ns => {}
                value => {
                    self.rows.put(place, value);
                }
            }
        }
    }

    #[inline]
    fn name(&mut self, position: usize, name: &'a [u8]) -> Name<'a> {
        match self.names.get(position) {
            Some(known) if known.name == name => *known,
            _ => self.look_up(position, name),
        }
    }

    fn look_up(&mut self, position: usize, name: &'a [u8]) -> Name<'a> {
        let found = Name { name, place: hot_place(Table::Spans, name), older: self.at.older_name(name) };
        match self.names.get_mut(position) {
            Some(known) => *known = found,
            // positions come in order, so this is the next one
            None => self.names.push(found),
        }
        found
    }
}

impl Places {
    /// Columns that every span has.
    fn of_every_span(self) -> [usize; 8] {
        [
            self.trace_id,
            self.span_id,
            self.parent_span_id,
            self.start_unix_nano,
            self.duration_ns,
            self.operation,
            self.kind,
            self.attributes,
        ]
    }

    /// The column of an attribute's name before OpenTelemetry's semantic conventions 1.23 (of tokens 1.27, which vLLM and SGLang still
    /// send), and of times to the first token in seconds, as GenAI's conventions, vLLM and SGLang name them. Such an attribute stays in
    /// the map as well.
    fn older_name(self, name: &[u8]) -> Option<usize> {
        match name {
            b"http.method" => Some(self.http_request_method),
            b"http.status_code" => Some(self.http_response_status_code),
            b"http.target" => Some(self.url_path),
            b"db.system" => Some(self.db_system),
            b"db.operation" => Some(self.db_operation),
            b"net.peer.name" => Some(self.server_address),
            b"gen_ai.usage.prompt_tokens" => Some(self.gen_ai_input_tokens),
            b"gen_ai.usage.completion_tokens" => Some(self.gen_ai_output_tokens),
            b"gen_ai.server.time_to_first_token"
            | b"gen_ai.response.time_to_first_chunk"
            | b"gen_ai.latency.time_to_first_token" => Some(self.time_to_first_token_ns),
            _ => None,
        }
    }
}

impl<'a> Span<'a> {
    fn clear(&mut self) {
        let Self { mut attributes, mut events, mut links, .. } = std::mem::take(self);
        attributes.clear();
        events.clear();
        links.clear();
        *self = Self { attributes, events, links, ..Self::default() };
    }

    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        self.clear();
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.trace_id = field.bytes("trace_id")?,
                2 => self.span_id = field.bytes("span_id")?,
                3 => self.trace_state = field.text("trace_state")?,
                4 => self.parent_span_id = field.bytes("parent_span_id")?,
                5 => {
                    // what another name replaces is in no column
                    self.check_name()?;
                    self.name = field.bytes("name")?;
                }
                6 => self.kind = field.int32("kind")?,
                7 => self.start = field.fixed64("start_time_unix_nano")?,
                8 => self.end = field.fixed64("end_time_unix_nano")?,
                9 => Attribute::push(field, "attributes", &mut self.attributes)?,
                10 => self.dropped_attributes = field.uint32("dropped_attributes_count")?,
                11 => push_item(field, "events", &mut self.events)?,
                12 => self.dropped_events = field.uint32("dropped_events_count")?,
                13 => push_item(field, "links", &mut self.links)?,
                14 => self.dropped_links = field.uint32("dropped_links_count")?,
                15 => self.read_status(field.bytes("status")?).map_err(|e| e.field("status"))?,
                16 => self.flags = field.fixed32("flags")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn read_status(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                2 => self.status_message = field.text("message")?,
                3 => self.status_code = field.int32("code")?,
                _ => {}
            }
        }
        Ok(())
    }

    fn check_name(&self) -> Result<(), Malformed> {
        match std::str::from_utf8(self.name) {
            Ok(_) => Ok(()),
            Err(_) => Err(Malformed::new("is not UTF-8").field("name")),
        }
    }

    /// Says which text is not UTF-8.
    fn check_text(&self) -> Result<(), Malformed> {
        self.check_name()?;
        check_all("attributes", &self.attributes)
    }

    /// Why it cannot be stored: the field and what is wrong with it.
    fn unusable(&self) -> Option<String> {
        let bad_id = |field: &str, id: &[u8], length: usize| match (id.len() == length, is_unset(id)) {
            (true, false) => None,
            (true, true) => Some(format!("{field} is all zero")),
            (false, _) => Some(format!("{field} has {} bytes, not {length}", id.len())),
        };
        let parent = self.parent_span_id;
        let bad_parent = !parent.is_empty() && parent.len() != 8;
        bad_id("trace_id", self.trace_id, 16)
            .or_else(|| bad_id("span_id", self.span_id, 8))
            .or_else(|| bad_parent.then(|| format!("parent_span_id has {} bytes, not 8", parent.len())))
            .or_else(|| {
                let (start, end) = (self.start, self.end);
                (end < start).then(|| format!("end_time_unix_nano {end} is before the start {start}"))
            })
    }
}

fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

fn status_text(code: i32) -> &'static str {
    match code {
        1 => "ok",
        2 => "error",
        _ => "unset",
    }
}

/// OpenTelemetry's consistent sampling: `ot=th:T` keeps a span with probability 1 − T/2⁵⁶, T being
/// up to 14 hex digits, trailing zeros left out.
fn sample_weight(trace_state: &str) -> Option<f64> {
    let ot = trace_state.split(',').find_map(|entry| entry.trim().strip_prefix("ot="))?;
    let threshold = ot.split(';').find_map(|entry| entry.strip_prefix("th:"))?;
    if threshold.is_empty() || threshold.len() > 14 {
        return None;
    }
    let rejected = u64::from_str_radix(&format!("{threshold:0<14}"), 16).ok()?;
    let all = (1_u64 << 56) as f64;
    Some(all / (all - rejected as f64))
}

#[cfg(test)]
mod tests {
    use arrow::{
        array::{Array, AsArray},
        datatypes::{Int32Type, Int64Type},
    };
    use opentelemetry_proto::tonic::{
        collector::trace::v1::ExportTraceServiceRequest,
        common::v1::{AnyValue, KeyValue, any_value::Value as Any},
        trace::v1::{ResourceSpans, ScopeSpans, Span},
    };
    use prost::Message;

    use super::sample_weight;
    use crate::{Encoding, Signal, otlp};

    fn attribute(key: &str, value: Any) -> KeyValue {
        KeyValue { key: key.into(), value: Some(AnyValue { value: Some(value) }), ..KeyValue::default() }
    }

    fn good() -> Span {
        Span {
            trace_id: vec![1; 16],
            span_id: vec![2; 8],
            name: "GET /".into(),
            kind: 2,
            start_time_unix_nano: 10,
            end_time_unix_nano: 15,
            attributes: vec![
                attribute("http.response.status_code", Any::IntValue(200)),
                attribute("http.route", Any::IntValue(7)),
                attribute("x", Any::DoubleValue(0.5)),
                attribute("http.method", Any::StringValue("GET".into())),
            ],
            ..Span::default()
        }
    }

    fn request(spans: Vec<Span>) -> ExportTraceServiceRequest {
        let scope_spans = vec![ScopeSpans { spans, ..ScopeSpans::default() }];
        ExportTraceServiceRequest { resource_spans: vec![ResourceSpans { scope_spans, ..ResourceSpans::default() }] }
    }

    #[test]
    fn protobuf_and_json_give_the_same_rows() {
        let request = request(vec![good()]);
        let protobuf = otlp::decode(Signal::Traces, Encoding::Protobuf, &request.encode_to_vec(), 9).unwrap();
        let json = serde_json::to_vec(&request).unwrap();
        let json = otlp::decode(Signal::Traces, Encoding::Json, &json, 9).unwrap();
        assert_eq!(protobuf.batch.as_ref().unwrap().rows, json.batch.unwrap().rows);
        let rows = protobuf.batch.unwrap().rows;
        assert_eq!(rows["duration_ns"].as_primitive::<Int64Type>().value(0), 5);
        assert_eq!(rows["http_response_status_code"].as_primitive::<Int32Type>().value(0), 200);
        assert_eq!(rows["http_request_method"].as_string::<i32>().value(0), "GET");
        assert!(rows["http_route"].is_null(0), "an int does not fit a text column");
        let types = rows["attribute_types"].as_string::<i32>();
        let attributes = crate::attribute::map_to_json(rows["attributes"].as_map(), Some(types), 0);
        assert_eq!(
            serde_json::Value::Object(attributes),
            serde_json::json!({"http.route": 7, "x": 0.5, "http.method": "GET"})
        );
        assert_eq!(rows["service"].as_string::<i32>().value(0), otlp::UNKNOWN_SERVICE);
    }

    /// Found with a vLLM without a sidecar: it was no service that streams a model's answers.
    #[test]
    fn model_servers_say_tokens_and_the_first_of_them_by_their_own_names() {
        let names = [
            "gen_ai.server.time_to_first_token",
            "gen_ai.response.time_to_first_chunk",
            "gen_ai.latency.time_to_first_token",
        ];
        let span = |name: &str| Span {
            attributes: vec![
                attribute(name, Any::DoubleValue(0.045)),
                attribute("gen_ai.usage.prompt_tokens", Any::IntValue(128)),
                attribute("gen_ai.usage.completion_tokens", Any::IntValue(512)),
            ],
            ..good()
        };
        let body = request(names.map(span).to_vec()).encode_to_vec();
        let rows = otlp::decode(Signal::Traces, Encoding::Protobuf, &body, 9).unwrap().batch.unwrap().rows;
        let columns =
            [("time_to_first_token_ns", 45_000_000), ("gen_ai_input_tokens", 128), ("gen_ai_output_tokens", 512)];
        for (column, value) in columns {
            assert_eq!(rows[column].as_primitive::<Int64Type>().values().to_vec(), [value; 3], "{column}");
        }
    }

    #[test]
    fn bad_spans_are_named_and_good_ones_kept() {
        let cases = [
            (Span { trace_id: vec![], ..good() }, "trace_id has 0 bytes, not 16"),
            (Span { trace_id: vec![0; 16], ..good() }, "trace_id is all zero"),
            (Span { span_id: vec![1; 7], ..good() }, "span_id has 7 bytes, not 8"),
            (Span { parent_span_id: vec![1; 4], ..good() }, "parent_span_id has 4 bytes, not 8"),
            (Span { end_time_unix_nano: 9, ..good() }, "end_time_unix_nano 9 is before the start 10"),
        ];
        for (bad, why) in cases {
            let body = request(vec![good(), bad]).encode_to_vec();
            let decoded = otlp::decode(Signal::Traces, Encoding::Protobuf, &body, 9).unwrap();
            assert_eq!((decoded.accepted, decoded.rejected), (1, 1), "{why}");
            assert_eq!(decoded.first_rejection.unwrap(), format!("resource_spans[0].scope_spans[0].spans[1].{why}"));
        }
    }

    #[test]
    fn what_is_not_otlp_is_refused_by_field_or_place() {
        let error = |encoding, body: &[u8]| otlp::decode(Signal::Traces, encoding, body, 9).unwrap_err().to_string();
        let mut cut = request(vec![good()]).encode_to_vec();
        cut.truncate(cut.len() - 3);
        assert!(error(Encoding::Protobuf, &cut).contains("resource_spans"), "{}", error(Encoding::Protobuf, &cut));
        assert!(error(Encoding::Json, b"{\"resourceSpans\":[{").contains("line 1"));
        assert!(
            otlp::decode(Signal::Traces, Encoding::Protobuf, b"", 9).unwrap().batch.is_none(),
            "an empty request is fine"
        );
    }

    #[test]
    fn a_threshold_becomes_a_weight() {
        let cases = [
            ("ot=th:8", Some(2.0)),
            ("a=b,ot=rv:1;th:c", Some(4.0)),
            ("ot=th:0", Some(1.0)),
            ("", None),
            ("ot=th:zz", None),
        ];
        for (state, weight) in cases {
            assert_eq!(sample_weight(state), weight, "{state}");
        }
    }
}
