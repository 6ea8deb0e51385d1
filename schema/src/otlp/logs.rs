//! Log records.

use super::{
    Check, Decoded, nanos,
    rows::{Rows, places},
    scope::Scope,
    source::Source,
    value::{Attribute, Value, check_all},
    wire::{Fields, Malformed},
};
use crate::{Table, UnixNanos};

places!(Places of Table::Logs =>
    time_unix_nano, observed_unix_nano, service, instance, trace_id, span_id, severity_number, severity, body,
    body_type, event_name, scope_name, attributes, attribute_types, resource_attributes, resource_attribute_types,
    received_unix_nano, scope_version, scope_attributes, scope_attribute_types, schema_url, flags,
    dropped_attributes_count,
);

/// Reads an `ExportLogsServiceRequest`.
pub(super) fn rows(request: &[u8], received_unix_nano: UnixNanos, check: Check) -> Result<Decoded, Malformed> {
    let mut writer = Writer {
        rows: Rows::new(Table::Logs, request.len()),
        at: Places::get(),
        received_unix_nano,
        check,
        record: LogRecord::default(),
    };
    let (mut fields, mut place) = (Fields::of(request), 0);
    while let Some(field) = fields.next().map_err(|e| e.item("resource_logs", place))? {
        if field.number == 1 {
            writer.resource_logs(field.bytes("resource_logs")?, place).map_err(|e| e.item("resource_logs", place))?;
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
    /// The record being read; its list keeps its room.
    record: LogRecord<'a>,
}

/// A record as it stands in the request.
#[derive(Default)]
struct LogRecord<'a> {
    time: u64,
    observed: u64,
    severity_number: i32,
    severity_text: &'a str,
    body: Option<Value<'a>>,
    attributes: Vec<Attribute<'a>>,
    trace_id: &'a [u8],
    span_id: &'a [u8],
    event_name: &'a str,
    flags: u32,
    dropped_attributes: u32,
}

impl<'a> Writer<'a> {
    fn resource_logs(&mut self, message: &'a [u8], r: usize) -> Result<(), Malformed> {
        // the resource may stand behind the records it belongs to
        let (mut resource, mut scopes, mut schema_url): (&[u8], _, _) = (&[], Vec::new(), "");
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => resource = field.bytes("resource")?,
                2 => scopes.push(field.bytes("scope_logs")?),
                3 => schema_url = field.text("schema_url")?,
                _ => {}
            }
        }
        if scopes.is_empty() && resource.is_empty() {
            return Ok(());
        }
        let source = Source::read(resource, schema_url).map_err(|e| e.field("resource"))?;
        for (s, scope_logs) in scopes.into_iter().enumerate() {
            self.scope_logs(&source, scope_logs, (r, s)).map_err(|e| e.item("scope_logs", s))?;
        }
        Ok(())
    }

    fn scope_logs(&mut self, source: &Source<'a>, message: &'a [u8], (r, s): (usize, usize)) -> Result<(), Malformed> {
        let scope = Scope::of(message)?;
        let first = self.rows.len();
        let (mut fields, mut n) = (Fields::of(message), 0);
        while let Some(field) = fields.next()? {
            if field.number == 2 {
                let named = |e: Malformed| e.item("log_records", n);
                self.record.read(field.bytes("log_records")?).map_err(named)?;
                if self.check == Check::ByRecord {
                    self.record.check_text().map_err(named)?;
                }
                if let Some(what) = self.record.drop_unusable_ids() {
                    self.rows.warn(|| {
                        format!("resource_logs[{r}].scope_logs[{s}].log_records[{n}] is stored without {what}")
                    });
                }
                self.write().map_err(named)?;
                n += 1;
            }
        }
        let Self { rows, at, received_unix_nano, .. } = self;
        if rows.len() == first {
            return Ok(());
        }
        scope.write(rows, at.scope(), first, source)?;
        rows.long_from(at.received_unix_nano, first, *received_unix_nano);
        source.write(rows, at.source(), first)
    }

    /// What the record has of its own; what it shares is written behind its scope.
    fn write(&mut self) -> Result<(), Malformed> {
        let Self { rows, at, received_unix_nano, record, .. } = self;
        let set = |time: u64| (time > 0).then(|| nanos(time));
        let observed = set(record.observed);
        rows.long(at.time_unix_nano, set(record.time).or(observed).unwrap_or(*received_unix_nano));
        if let Some(observed) = observed {
            rows.long(at.observed_unix_nano, observed);
        }
        rows.id(at.trace_id, record.trace_id);
        rows.id(at.span_id, record.span_id);
        if record.severity_number > 0 {
            rows.int(at.severity_number, record.severity_number);
        }
        rows.maybe_text(at.severity, record.severity_text.as_bytes());
        if let Some(body) = record.body {
            let letter = rows.value(at.body, body).map_err(|e| e.field("body"))?;
            rows.text(at.body_type, &[letter]);
        }
        rows.maybe_text(at.event_name, record.event_name.as_bytes());
        rows.maybe_count(at.flags, record.flags);
        rows.maybe_count(at.dropped_attributes_count, record.dropped_attributes);
        rows.attributes(at.attributes, at.attribute_types, record.attributes.iter().copied())?;
        rows.end_row()
    }
}

impl<'a> LogRecord<'a> {
    fn read(&mut self, message: &'a [u8]) -> Result<(), Malformed> {
        let mut attributes = std::mem::take(&mut self.attributes);
        attributes.clear();
        *self = Self { attributes, ..Self::default() };
        let mut fields = Fields::of(message);
        while let Some(field) = fields.next()? {
            match field.number {
                1 => self.time = field.fixed64("time_unix_nano")?,
                2 => self.severity_number = field.int32("severity_number")?,
                3 => self.severity_text = field.text("severity_text")?,
                5 => {
                    // what another body replaces is in no column
                    self.check_body()?;
                    self.body = Some(Value::of(field, "body")?);
                }
                6 => Attribute::push(field, "attributes", &mut self.attributes)?,
                7 => self.dropped_attributes = field.uint32("dropped_attributes_count")?,
                8 => self.flags = field.fixed32("flags")?,
                9 => self.trace_id = field.bytes("trace_id")?,
                10 => self.span_id = field.bytes("span_id")?,
                11 => self.observed = field.fixed64("observed_time_unix_nano")?,
                12 => self.event_name = field.text("event_name")?,
                _ => {}
            }
        }
        Ok(())
    }

    /// A record is worth keeping without the trace it belongs to. What is left out, and why.
    fn drop_unusable_ids(&mut self) -> Option<String> {
        let left_out =
            [("trace_id", &mut self.trace_id, 16), ("span_id", &mut self.span_id, 8)].map(|(field, id, length)| {
                let sent = std::mem::take(id);
                match sent.len() {
                    0 => None,
                    is if is == length => {
                        *id = sent;
                        None
                    }
                    is => Some(format!("its {field}, which has {is} bytes, not {length}")),
                }
            });
        let left_out: Vec<String> = left_out.into_iter().flatten().collect();
        (!left_out.is_empty()).then(|| left_out.join(", and "))
    }

    fn check_body(&self) -> Result<(), Malformed> {
        self.body.map_or(Ok(()), |body| body.check().map_err(|e| e.field("body")))
    }

    /// Says which text is not UTF-8.
    fn check_text(&self) -> Result<(), Malformed> {
        self.check_body()?;
        check_all("attributes", &self.attributes)
    }
}

#[cfg(test)]
mod tests {
    use arrow::{array::AsArray, datatypes::Int64Type};
    use opentelemetry_proto::tonic::{
        collector::logs::v1::ExportLogsServiceRequest,
        common::v1::{AnyValue, any_value::Value as Any},
        logs::v1::{LogRecord, ResourceLogs, ScopeLogs},
    };
    use prost::Message;

    use crate::{Encoding, Signal, otlp};

    #[test]
    fn a_record_without_time_has_the_time_it_was_observed_or_received() {
        let body = Some(AnyValue { value: Some(Any::StringValue("out of stock".into())) });
        let timeless = LogRecord { body, trace_id: vec![1; 16], ..LogRecord::default() };
        let observed = LogRecord { observed_time_unix_nano: 5, ..timeless.clone() };
        let scope_logs = vec![ScopeLogs { log_records: vec![timeless, observed], ..ScopeLogs::default() }];
        let request =
            ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
        let decoded = otlp::decode(Signal::Logs, Encoding::Protobuf, &request.encode_to_vec(), 9).unwrap();
        let rows = decoded.batch.unwrap().rows;
        assert_eq!(rows["time_unix_nano"].as_primitive::<Int64Type>().values(), &[9, 5]);
        assert_eq!(rows["body"].as_string::<i32>().value(0), "out of stock");
    }

    #[test]
    fn a_record_is_kept_without_an_id_of_another_length_and_that_is_said() {
        let good = LogRecord { trace_id: vec![1; 16], span_id: vec![2; 8], ..LogRecord::default() };
        let bad = LogRecord { trace_id: vec![1; 15], span_id: vec![2; 9], ..LogRecord::default() };
        let none = LogRecord::default();
        let scope_logs = vec![ScopeLogs { log_records: vec![good, none, bad], ..ScopeLogs::default() }];
        let request =
            ExportLogsServiceRequest { resource_logs: vec![ResourceLogs { scope_logs, ..ResourceLogs::default() }] };
        let decoded = otlp::decode(Signal::Logs, Encoding::Protobuf, &request.encode_to_vec(), 9).unwrap();
        assert_eq!((decoded.accepted, decoded.rejected, decoded.first_rejection), (3, 0, None));
        let said = "resource_logs[0].scope_logs[0].log_records[2] is stored without its trace_id, which has 15 bytes, \
                    not 16, and its span_id, which has 9 bytes, not 8";
        assert_eq!(decoded.first_warning.as_deref(), Some(said));
        let rows = decoded.batch.unwrap().rows;
        let ids = |column: &str| (0..3).map(|row| !rows[column].is_null(row)).collect::<Vec<_>>();
        assert_eq!((ids("trace_id"), ids("span_id")), (vec![true, false, false], vec![true, false, false]));
    }
}
