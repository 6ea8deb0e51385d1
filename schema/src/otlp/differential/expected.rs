//! The rows that a request comes to, by what the generated messages say of it.

use std::collections::BTreeMap;

use arrow::datatypes::DataType;
use opentelemetry_proto::tonic::{
    collector::{
        logs::v1::ExportLogsServiceRequest, metrics::v1::ExportMetricsServiceRequest,
        trace::v1::ExportTraceServiceRequest,
    },
    common::v1::{AnyValue, InstrumentationScope, KeyValue, any_value::Value as Any},
    metrics::v1::{
        Exemplar, ExponentialHistogramDataPoint, HistogramDataPoint, Metric, NumberDataPoint, SummaryDataPoint,
        exemplar, metric::Data, number_data_point::Value as Number,
    },
    resource::v1::Resource,
    trace::v1::{Span, span},
};
use serde_json::{Value as Json, json};

use super::{RECEIVED, Row, UNKNOWN_SERVICE, nanos};
use crate::attribute::nested_text;

pub(super) fn spans(request: &ExportTraceServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_spans {
        for of_scope in &of_resource.scope_spans {
            for span in &of_scope.spans {
                let unset = |id: &[u8]| id.iter().all(|byte| *byte == 0);
                let usable = span.trace_id.len() == 16
                    && !unset(&span.trace_id)
                    && span.span_id.len() == 8
                    && !unset(&span.span_id)
                    && matches!(span.parent_span_id.len(), 0 | 8)
                    && span.end_time_unix_nano >= span.start_time_unix_nano;
                if usable {
                    let mut row = shared(
                        of_resource.resource.as_ref(),
                        of_scope.scope.as_ref(),
                        [&of_scope.schema_url, &of_resource.schema_url],
                    );
                    span_row(&mut row, span);
                    rows.push(row);
                }
            }
        }
    }
    rows
}

fn span_row(row: &mut Row, span: &Span) {
    let start = nanos(span.start_time_unix_nano);
    id(row, "trace_id", &span.trace_id);
    id(row, "span_id", &span.span_id);
    id(row, "parent_span_id", &span.parent_span_id);
    set(row, "start_unix_nano", json!(start));
    set(row, "duration_ns", json!(nanos(span.end_time_unix_nano) - start));
    set(row, "operation", json!(span.name));
    let kinds = ["unspecified", "internal", "server", "client", "producer", "consumer"];
    set(row, "kind", json!(usize::try_from(span.kind).ok().and_then(|kind| kinds.get(kind)).unwrap_or(&"unspecified")));
    let status = span.status.clone().unwrap_or_default();
    set(row, "status", json!(["unset", "ok", "error", "unset"][status.code as usize]));
    text(row, "status_message", &status.message);
    text(row, "trace_state", &span.trace_state);
    if span.trace_state.contains("ot=th:8") {
        set(row, "sample_weight", json!("2.0"));
    }
    count(row, "flags", span.flags);
    count(row, "dropped_attributes_count", span.dropped_attributes_count);
    count(row, "dropped_events_count", span.dropped_events_count);
    count(row, "dropped_links_count", span.dropped_links_count);
    let hot: BTreeMap<&str, (String, DataType)> = crate::columns::columns(crate::Table::Spans)
        .into_iter()
        .filter_map(|column| Some((column.attribute?, (column.name.to_owned(), column.data_type))))
        .collect();
    let mut rest = Vec::new();
    for pair in &span.attributes {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        let taken = hot.get(pair.key.as_str()).is_some_and(|(name, kind)| hot_cell(row, name, kind, value));
        if !taken {
            rest.push(pair.clone());
        }
    }
    for pair in &span.attributes {
        let value = pair.value.as_ref().and_then(|value| value.value.as_ref());
        match (pair.key.as_str(), value) {
            ("http.method", value) => {
                hot_cell(row, "http_request_method", &DataType::Utf8, value);
            }
            ("http.status_code", value) => {
                hot_cell(row, "http_response_status_code", &DataType::Int32, value);
            }
            ("gen_ai.usage.prompt_tokens", value) => {
                hot_cell(row, "gen_ai_input_tokens", &DataType::Int64, value);
            }
            ("gen_ai.usage.completion_tokens", value) => {
                hot_cell(row, "gen_ai_output_tokens", &DataType::Int64, value);
            }
            (
                "gen_ai.server.time_to_first_token"
                | "gen_ai.response.time_to_first_chunk"
                | "gen_ai.latency.time_to_first_token",
                Some(Any::DoubleValue(seconds)),
            ) => {
                let nanos = Any::IntValue((seconds * 1e9) as i64);
                hot_cell(row, "time_to_first_token_ns", &DataType::Int64, Some(&nanos));
            }
            _ => {}
        }
    }
    attributes(row, "attributes", "attribute_types", &rest);
    let items = |rows: Vec<Row>| Json::Array(rows.into_iter().map(|row| json!(row)).collect());
    if !span.events.is_empty() {
        let event = |event: &span::Event| {
            let mut row = Row::new();
            set(&mut row, "time_unix_nano", json!(nanos(event.time_unix_nano)));
            set(&mut row, "name", json!(event.name));
            attributes(&mut row, "attributes", "attribute_types", &event.attributes);
            row
        };
        set(row, "events", items(span.events.iter().map(event).collect()));
    }
    if !span.links.is_empty() {
        let link = |link: &span::Link| {
            let mut row = Row::new();
            set(&mut row, "trace_id", json!(hex::encode(&link.trace_id)));
            set(&mut row, "span_id", json!(hex::encode(&link.span_id)));
            text(&mut row, "trace_state", &link.trace_state);
            attributes(&mut row, "attributes", "attribute_types", &link.attributes);
            row
        };
        set(row, "links", items(span.links.iter().map(link).collect()));
    }
}

fn hot_cell(row: &mut Row, name: &str, kind: &DataType, value: Option<&Any>) -> bool {
    let cell = match (kind, value) {
        _ if row.contains_key(name) => None,
        (DataType::Utf8, Some(Any::StringValue(text))) => Some(json!(text)),
        (DataType::Int64, Some(Any::IntValue(value))) => Some(json!(value)),
        (DataType::Int32, Some(Any::IntValue(value))) => i32::try_from(*value).ok().map(|value| json!(value)),
        _ => None,
    };
    cell.map(|cell| set(row, name, cell)).is_some()
}

pub(super) fn records(request: &ExportLogsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_logs {
        for of_scope in &of_resource.scope_logs {
            for record in &of_scope.log_records {
                let mut row = shared(
                    of_resource.resource.as_ref(),
                    of_scope.scope.as_ref(),
                    [&of_scope.schema_url, &of_resource.schema_url],
                );
                let (time, observed) = (record.time_unix_nano, record.observed_time_unix_nano);
                let when = [time, observed].into_iter().find(|time| *time > 0).map_or(RECEIVED, nanos);
                set(&mut row, "time_unix_nano", json!(when));
                if observed > 0 {
                    set(&mut row, "observed_unix_nano", json!(nanos(observed)));
                }
                id(&mut row, "trace_id", &record.trace_id);
                id(&mut row, "span_id", &record.span_id);
                if record.severity_number > 0 {
                    set(&mut row, "severity_number", json!(record.severity_number));
                }
                text(&mut row, "severity", &record.severity_text);
                text(&mut row, "event_name", &record.event_name);
                count(&mut row, "flags", record.flags);
                count(&mut row, "dropped_attributes_count", record.dropped_attributes_count);
                if let Some(body) = &record.body {
                    let (text, letter) = typed(Some(body));
                    set(&mut row, "body", json!(text));
                    set(&mut row, "body_type", json!(letter));
                }
                attributes(&mut row, "attributes", "attribute_types", &record.attributes);
                rows.push(row);
            }
        }
    }
    rows
}

pub(super) fn points(request: &ExportMetricsServiceRequest) -> Vec<Row> {
    let mut rows = Vec::new();
    for of_resource in &request.resource_metrics {
        for of_scope in &of_resource.scope_metrics {
            for metric in &of_scope.metrics {
                for mut point in metric_points(metric) {
                    point.append(&mut shared(
                        of_resource.resource.as_ref(),
                        of_scope.scope.as_ref(),
                        [&of_scope.schema_url, &of_resource.schema_url],
                    ));
                    set(&mut point, "name", json!(metric.name));
                    text(&mut point, "unit", &metric.unit);
                    text(&mut point, "description", &metric.description);
                    rows.push(point);
                }
            }
        }
    }
    rows
}

fn metric_points(metric: &Metric) -> Vec<Row> {
    let temporality = |row: &mut Row, temporality: i32| {
        if let Some(name) = [None, Some("delta"), Some("cumulative")][temporality as usize] {
            set(row, "temporality", json!(name));
        }
    };
    match &metric.data {
        None => Vec::new(),
        Some(Data::Gauge(gauge)) => gauge.data_points.iter().map(|point| number_row("gauge", point)).collect(),
        Some(Data::Sum(sum)) => {
            let row = |point| {
                let mut row = number_row("sum", point);
                set(&mut row, "monotonic", json!(sum.is_monotonic));
                temporality(&mut row, sum.aggregation_temporality);
                row
            };
            sum.data_points.iter().map(row).collect()
        }
        Some(Data::Histogram(histogram)) => {
            let row = |point: &HistogramDataPoint| {
                let mut row =
                    point_row("histogram", point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
                temporality(&mut row, histogram.aggregation_temporality);
                set(&mut row, "count", json!(nanos(point.count)));
                count(&mut row, "flags", point.flags);
                for (name, value) in [("value", point.sum), ("min", point.min), ("max", point.max)] {
                    double(&mut row, name, value);
                }
                list(&mut row, "bounds", point.explicit_bounds.clone());
                list(&mut row, "bucket_counts", point.bucket_counts.iter().map(|count| *count as f64).collect());
                row
            };
            histogram.data_points.iter().map(row).collect()
        }
        Some(Data::ExponentialHistogram(histogram)) => {
            let row = |point: &ExponentialHistogramDataPoint| {
                let mut row = point_row(
                    "exponential_histogram",
                    point.start_time_unix_nano,
                    point.time_unix_nano,
                    &point.attributes,
                );
                temporality(&mut row, histogram.aggregation_temporality);
                set(&mut row, "count", json!(nanos(point.count)));
                count(&mut row, "flags", point.flags);
                set(&mut row, "scale", json!(point.scale));
                set(&mut row, "zero_count", json!(nanos(point.zero_count)));
                let threshold = Some(point.zero_threshold).filter(|threshold| threshold.to_bits() != 0);
                for (name, value) in
                    [("value", point.sum), ("min", point.min), ("max", point.max), ("zero_threshold", threshold)]
                {
                    double(&mut row, name, value);
                }
                for (buckets, counts, offset) in [
                    (&point.positive, "bucket_counts", "positive_offset"),
                    (&point.negative, "negative_bucket_counts", "negative_offset"),
                ] {
                    if let Some(buckets) = buckets {
                        let values: Vec<_> = buckets.bucket_counts.iter().map(|count| bits(*count as f64)).collect();
                        set(&mut row, counts, json!(values));
                        set(&mut row, offset, json!(buckets.offset));
                    }
                }
                row
            };
            histogram.data_points.iter().map(row).collect()
        }
        Some(Data::Summary(summary)) => {
            let row = |point: &SummaryDataPoint| {
                let mut row = point_row("summary", point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
                set(&mut row, "count", json!(nanos(point.count)));
                count(&mut row, "flags", point.flags);
                double(&mut row, "value", Some(point.sum));
                list(&mut row, "bounds", point.quantile_values.iter().map(|q| q.quantile).collect());
                list(&mut row, "bucket_counts", point.quantile_values.iter().map(|q| q.value).collect());
                row
            };
            summary.data_points.iter().map(row).collect()
        }
    }
}

fn number_row(kind: &str, point: &NumberDataPoint) -> Row {
    let mut row = point_row(kind, point.start_time_unix_nano, point.time_unix_nano, &point.attributes);
    count(&mut row, "flags", point.flags);
    match point.value {
        Some(Number::AsInt(value)) => {
            double(&mut row, "value", Some(value as f64));
            set(&mut row, "value_int", json!(value));
        }
        Some(Number::AsDouble(value)) => double(&mut row, "value", Some(value)),
        None => {}
    }
    let exemplar = |exemplar: &Exemplar| {
        let value = match exemplar.value {
            Some(exemplar::Value::AsInt(value)) => json!(value),
            _ => Json::Null,
        };
        json!({"time_unix_nano": exemplar.time_unix_nano, "value": value, "trace_id": hex::encode(&exemplar.trace_id),
               "span_id": hex::encode(&exemplar.span_id), "attributes": {}})
    };
    if !point.exemplars.is_empty() {
        set(&mut row, "exemplars", json!(Json::Array(point.exemplars.iter().map(exemplar).collect()).to_string()));
    }
    row
}

fn count(row: &mut Row, name: &str, value: u32) {
    if value > 0 {
        set(row, name, json!(value));
    }
}

fn point_row(kind: &str, start: u64, time: u64, pairs: &[KeyValue]) -> Row {
    let mut row = Row::new();
    set(&mut row, "kind", json!(kind));
    set(&mut row, "time_unix_nano", json!(if time > 0 { nanos(time) } else { RECEIVED }));
    if start > 0 {
        set(&mut row, "start_unix_nano", json!(nanos(start)));
    }
    attributes(&mut row, "attributes", "attribute_types", pairs);
    row
}

fn shared(resource: Option<&Resource>, scope: Option<&InstrumentationScope>, schema_urls: [&String; 2]) -> Row {
    let mut row = Row::new();
    let pairs = resource.map_or(&[][..], |resource| resource.attributes.as_slice());
    let first = |key: &str| {
        let value = pairs.iter().find(|pair| pair.key == key)?.value.as_ref()?.value.as_ref()?;
        if let Any::StringValue(text) = value { Some(text.as_str()).filter(|text| !text.is_empty()) } else { None }
    };
    set(&mut row, "service", json!(first("service.name").unwrap_or(UNKNOWN_SERVICE)));
    text(&mut row, "instance", first("service.instance.id").unwrap_or_default());
    attributes(&mut row, "resource_attributes", "resource_attribute_types", pairs);
    if let Some(scope) = scope {
        text(&mut row, "scope_name", &scope.name);
        text(&mut row, "scope_version", &scope.version);
        if !scope.attributes.is_empty() {
            attributes(&mut row, "scope_attributes", "scope_attribute_types", &scope.attributes);
        }
    }
    if let Some(schema_url) = schema_urls.into_iter().find(|url| !url.is_empty()) {
        text(&mut row, "schema_url", schema_url);
    }
    set(&mut row, "received_unix_nano", json!(RECEIVED));
    row
}

fn attributes(row: &mut Row, name: &str, types: &str, pairs: &[KeyValue]) {
    let entries: Vec<(String, (String, char))> =
        pairs.iter().map(|pair| (pair.key.clone(), typed(pair.value.as_ref()))).collect();
    set(row, name, json!(entries.iter().map(|(key, (text, _))| [key, text]).collect::<Vec<_>>()));
    if entries.iter().any(|(_, (_, letter))| *letter != 's') {
        set(row, types, json!(entries.iter().map(|(_, (_, letter))| *letter).collect::<String>()));
    }
}

fn typed(value: Option<&AnyValue>) -> (String, char) {
    use base64::{Engine, prelude::BASE64_STANDARD};
    match value.and_then(|value| value.value.as_ref()) {
        None => (String::new(), 'n'),
        Some(Any::StringValue(text)) => (text.clone(), 's'),
        Some(Any::BoolValue(value)) => (value.to_string(), 'b'),
        Some(Any::IntValue(value)) => (value.to_string(), 'i'),
        Some(Any::DoubleValue(value)) => (format!("{value:?}"), 'd'),
        Some(Any::BytesValue(bytes)) => (BASE64_STANDARD.encode(bytes), 'y'),
        Some(nested) => {
            let (text, letter) = nested_text(nested);
            (text, char::from(letter))
        }
    }
}

fn set(row: &mut Row, name: &str, value: Json) {
    row.insert(name.to_owned(), value);
}

fn text(row: &mut Row, name: &str, value: &str) {
    if !value.is_empty() {
        set(row, name, json!(value));
    }
}

fn id(row: &mut Row, name: &str, id: &[u8]) {
    if id.iter().any(|byte| *byte != 0) {
        set(row, name, json!(hex::encode(id)));
    }
}

fn double(row: &mut Row, name: &str, value: Option<f64>) {
    if let Some(value) = value {
        set(row, name, bits(value));
    }
}

fn list(row: &mut Row, name: &str, values: Vec<f64>) {
    if !values.is_empty() {
        set(row, name, json!(values.into_iter().map(bits).collect::<Vec<_>>()));
    }
}

/// NaN is not itself, so doubles are compared as text.
pub(super) fn bits(value: f64) -> Json {
    json!(format!("{value:?}"))
}
