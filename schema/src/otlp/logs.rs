//! Log records.

use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceRequest, logs::v1::LogRecord};

use super::{Decoded, Rows, Source, nanos, non_empty};
use crate::{Table, UnixNanos, attribute};

pub(super) fn rows(request: ExportLogsServiceRequest, received_unix_nano: UnixNanos) -> Decoded {
    let mut rows = Rows::new(Table::Logs);
    for resource_logs in &request.resource_logs {
        let source = Source::of(resource_logs.resource.as_ref());
        for scope_logs in &resource_logs.scope_logs {
            let scope = scope_logs.scope.as_ref().and_then(|s| non_empty(&s.name));
            for record in &scope_logs.log_records {
                source.write(&mut rows);
                rows.text("scope_name", scope);
                write(&mut rows, record, received_unix_nano);
                rows.end_row();
            }
        }
    }
    rows.finish()
}

fn write(rows: &mut Rows, record: &LogRecord, received_unix_nano: UnixNanos) {
    let set = |time: u64| (time > 0).then(|| nanos(time));
    let observed = set(record.observed_time_unix_nano);
    rows.long("time_unix_nano", set(record.time_unix_nano).or(observed).or(Some(received_unix_nano)));
    rows.long("observed_unix_nano", observed);
    rows.id("trace_id", if record.trace_id.len() == 16 { &record.trace_id } else { &[] });
    rows.id("span_id", if record.span_id.len() == 8 { &record.span_id } else { &[] });
    rows.int("severity_number", (record.severity_number > 0).then_some(record.severity_number));
    rows.text("severity", non_empty(&record.severity_text));
    let body = record.body.as_ref().map(|body| attribute::to_text(Some(body)));
    let letter = body.as_ref().map(|(_, letter)| letter.to_string());
    rows.text("body", body.as_ref().map(|(text, _)| text.as_str()));
    rows.text("body_type", letter.as_deref());
    rows.text("event_name", non_empty(&record.event_name));
    rows.attributes("attributes", "attribute_types", record.attributes.iter());
    rows.long("received_unix_nano", Some(received_unix_nano));
}

#[cfg(test)]
mod tests {
    use arrow::{array::AsArray, datatypes::Int64Type};
    use opentelemetry_proto::tonic::{
        common::v1::{AnyValue, any_value::Value as Any},
        logs::v1::{ResourceLogs, ScopeLogs},
    };
    use prost::Message;

    use super::*;
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
}
