//! Every column of every table: name, type, and what it holds. This is the stable interface of
//! weir: columns are appended at the end and never renamed silently; `docs/sql.md` is written
//! from this file.
//!
//! Ids are `Binary` (16 or 8 bytes), times are `Int64` nanoseconds since the Unix epoch, because
//! those two are exact in every reader of Parquet and Delta. An attribute map is
//! `Map<Utf8, Utf8>` beside a `…_types` column that keeps the type of each value
//! (see [`crate::attribute`]).

use std::sync::{Arc, LazyLock};

use arrow::datatypes::{DataType, Field, Fields, Schema, SchemaRef};

use crate::Table;

/// One column: its name, its Arrow type, whether it may be null, and what it holds.
pub struct Column {
    /// The name in SQL.
    pub name: &'static str,
    /// The type in memory and in Parquet.
    pub data_type: DataType,
    /// Whether a row may lack it.
    pub nullable: bool,
    /// What it holds, in a sentence.
    pub doc: &'static str,
    /// The OpenTelemetry attribute it is filled from, if it is one: `attributes['k']` reads it too.
    pub attribute: Option<&'static str>,
}

/// The schema of a table.
#[must_use]
pub fn schema(table: Table) -> SchemaRef {
    static SCHEMAS: LazyLock<Vec<SchemaRef>> = LazyLock::new(|| {
        let build = |table| Arc::new(Schema::new(columns(table).iter().map(Column::field).collect::<Vec<_>>()));
        Table::ALL.into_iter().map(build).collect()
    });
    SCHEMAS[table as usize].clone()
}

/// The columns of a table, in order.
#[must_use]
pub fn columns(table: Table) -> Vec<Column> {
    match table {
        Table::Spans => spans(),
        Table::Logs => logs(),
        Table::Metrics => metrics(),
        Table::Operations => operations(),
        Table::Edges => edges(),
        Table::Findings => findings(),
        Table::PolicyChanges => policy_changes(),
        Table::Alerts => alerts(),
        Table::TraceIndex => trace_index(),
        Table::Services => services(),
        Table::AttributeKeys => attribute_keys(),
    }
}

/// `Map<Utf8, Utf8>` with the field names Delta Lake gives a map.
#[must_use]
pub fn attribute_map() -> DataType {
    let key = Field::new("key", DataType::Utf8, false);
    let value = Field::new("value", DataType::Utf8, true);
    let entries = DataType::Struct(Fields::from(vec![key, value]));
    DataType::Map(Arc::new(Field::new("key_value", entries, false)), false)
}

/// The fields of one span event.
#[must_use]
pub fn event_fields() -> Fields {
    Fields::from(vec![
        Field::new("time_unix_nano", DataType::Int64, true),
        Field::new("name", DataType::Utf8, true),
        Field::new("attributes", attribute_map(), true),
        Field::new("attribute_types", DataType::Utf8, true),
    ])
}

/// The fields of one span link.
#[must_use]
pub fn link_fields() -> Fields {
    Fields::from(vec![
        Field::new("trace_id", DataType::Binary, true),
        Field::new("span_id", DataType::Binary, true),
        Field::new("trace_state", DataType::Utf8, true),
        Field::new("attributes", attribute_map(), true),
        Field::new("attribute_types", DataType::Utf8, true),
    ])
}

impl Column {
    fn field(&self) -> Field {
        Field::new(self.name, self.data_type.clone(), self.nullable)
    }
}

fn list(fields: Fields) -> DataType {
    DataType::List(Arc::new(Field::new("element", DataType::Struct(fields), true)))
}

fn list_of(item: DataType) -> DataType {
    DataType::List(Arc::new(Field::new("element", item, true)))
}

fn required(name: &'static str, data_type: DataType, doc: &'static str) -> Column {
    Column { name, data_type, nullable: false, doc, attribute: None }
}

fn optional(name: &'static str, data_type: DataType, doc: &'static str) -> Column {
    Column { name, data_type, nullable: true, doc, attribute: None }
}

fn hot(name: &'static str, data_type: DataType, attribute: &'static str, doc: &'static str) -> Column {
    Column { name, data_type, nullable: true, doc, attribute: Some(attribute) }
}

fn spans() -> Vec<Column> {
    use DataType::{Binary, Float64, Int32, Int64, Utf8};
    vec![
        required("trace_id", Binary, "16 bytes; SQL accepts 32 hex digits"),
        required("span_id", Binary, "8 bytes; SQL accepts 16 hex digits"),
        optional("parent_span_id", Binary, "8 bytes; null for a root span"),
        optional("trace_state", Utf8, "W3C tracestate"),
        required("start_unix_nano", Int64, "start, nanoseconds since the Unix epoch"),
        required("duration_ns", Int64, "end minus start"),
        required("service", Utf8, "resource attribute service.name"),
        optional("instance", Utf8, "resource attribute service.instance.id"),
        required("operation", Utf8, "the span's name"),
        required("kind", Utf8, "server, client, producer, consumer, internal or unspecified"),
        required("status", Utf8, "ok, error or unset"),
        optional("status_message", Utf8, "the status' description"),
        optional("scope_name", Utf8, "instrumentation scope"),
        optional("scope_version", Utf8, "instrumentation scope's version"),
        hot("http_request_method", Utf8, "http.request.method", "GET, POST, …"),
        hot("http_route", Utf8, "http.route", "the matched route template"),
        hot("url_path", Utf8, "url.path", "the path requested"),
        hot("http_response_status_code", Int32, "http.response.status_code", "HTTP status"),
        hot("rpc_system", Utf8, "rpc.system", "grpc, …"),
        hot("rpc_service", Utf8, "rpc.service", "the RPC service"),
        hot("rpc_method", Utf8, "rpc.method", "the RPC method"),
        hot("rpc_grpc_status_code", Int32, "rpc.grpc.status_code", "gRPC status"),
        hot("db_system", Utf8, "db.system.name", "postgresql, redis, …"),
        hot("db_operation", Utf8, "db.operation.name", "SELECT, GET, …"),
        hot("messaging_system", Utf8, "messaging.system", "kafka, …"),
        hot("messaging_destination", Utf8, "messaging.destination.name", "topic or queue"),
        hot("server_address", Utf8, "server.address", "host that was called"),
        hot("error_type", Utf8, "error.type", "class of the error"),
        hot("gen_ai_operation", Utf8, "gen_ai.operation.name", "chat, …"),
        hot("gen_ai_request_model", Utf8, "gen_ai.request.model", "model asked for"),
        hot("gen_ai_response_model", Utf8, "gen_ai.response.model", "model that answered"),
        hot("gen_ai_input_tokens", Int64, "gen_ai.usage.input_tokens", "prompt tokens"),
        hot("gen_ai_output_tokens", Int64, "gen_ai.usage.output_tokens", "generated tokens"),
        hot("time_to_first_token_ns", Int64, "weir.time_to_first_token_ns", "request to first streamed chunk"),
        hot("direction", Utf8, "weir.direction", "inbound or outbound: which side of the hop the proxy saw"),
        hot("peer_service", Utf8, "peer.service", "the service at the other end"),
        hot("route", Utf8, "weir.route", "the proxy's route"),
        hot("upstream", Utf8, "weir.upstream", "the endpoint the proxy picked"),
        hot("policy_action", Utf8, "weir.policy_action", "admitted, queued, or why it was shed"),
        hot("queue_wait_ns", Int64, "weir.queue_wait_ns", "wait in the proxy for a place"),
        hot("in_flight", Int32, "weir.in_flight", "requests in flight at the proxy, this one included"),
        optional("attributes", attribute_map(), "every attribute that has no column of its own, as text"),
        optional("attribute_types", Utf8, "the type of each value of attributes, one letter each"),
        optional("resource_attributes", attribute_map(), "attributes of the resource"),
        optional("resource_attribute_types", Utf8, "the type of each value of resource_attributes"),
        optional("events", list(event_fields()), "events on the span"),
        optional("links", list(link_fields()), "links to other spans"),
        optional("sample_weight", Float64, "how many spans this one stands for; null = 1"),
        required("received_unix_nano", Int64, "when the collector took it"),
        hot(
            "http_request_resend_count",
            Int32,
            "http.request.resend_count",
            "how often the proxy sent it again; elsewhere, which repeat it is",
        ),
        optional("scope_attributes", attribute_map(), "attributes of the instrumentation scope"),
        optional("scope_attribute_types", Utf8, "the type of each value of scope_attributes"),
        optional("schema_url", Utf8, "schema that the scope's names follow, else the resource's"),
        optional("flags", Int64, "W3C trace flags, and bits 8 and 9: whether the parent was remote; null = 0"),
        optional("dropped_attributes_count", Int64, "attributes the sender left out; null = 0"),
        optional("dropped_events_count", Int64, "events the sender left out; null = 0"),
        optional("dropped_links_count", Int64, "links the sender left out; null = 0"),
    ]
}

fn logs() -> Vec<Column> {
    use DataType::{Binary, Int32, Int64, Utf8};
    vec![
        required("time_unix_nano", Int64, "when it happened, else when it was observed, else received"),
        optional("observed_unix_nano", Int64, "when it was observed"),
        required("service", Utf8, "resource attribute service.name"),
        optional("instance", Utf8, "resource attribute service.instance.id"),
        optional("trace_id", Binary, "16 bytes; the trace it belongs to"),
        optional("span_id", Binary, "8 bytes; the span it belongs to"),
        optional("severity_number", Int32, "1 to 24, OpenTelemetry"),
        optional("severity", Utf8, "severity text"),
        optional("body", Utf8, "the message; JSON if it is structured"),
        optional("body_type", Utf8, "the type of body, one letter"),
        optional("event_name", Utf8, "name of the event, if it is one"),
        optional("scope_name", Utf8, "instrumentation scope"),
        optional("attributes", attribute_map(), "attributes as text"),
        optional("attribute_types", Utf8, "the type of each value of attributes"),
        optional("resource_attributes", attribute_map(), "attributes of the resource"),
        optional("resource_attribute_types", Utf8, "the type of each value of resource_attributes"),
        required("received_unix_nano", Int64, "when the collector took it"),
        optional("scope_version", Utf8, "instrumentation scope's version"),
        optional("scope_attributes", attribute_map(), "attributes of the instrumentation scope"),
        optional("scope_attribute_types", Utf8, "the type of each value of scope_attributes"),
        optional("schema_url", Utf8, "schema that the scope's names follow, else the resource's"),
        optional("flags", Int64, "W3C trace flags; null = 0"),
        optional("dropped_attributes_count", Int64, "attributes the sender left out; null = 0"),
    ]
}

fn metrics() -> Vec<Column> {
    use DataType::{Boolean, Float64, Int32, Int64, Utf8};
    vec![
        required("time_unix_nano", Int64, "time of the data point"),
        optional("start_unix_nano", Int64, "start of its interval"),
        required("service", Utf8, "resource attribute service.name"),
        optional("instance", Utf8, "resource attribute service.instance.id"),
        required("name", Utf8, "the metric's name"),
        optional("unit", Utf8, "UCUM unit"),
        optional("description", Utf8, "what it measures"),
        required("kind", Utf8, "gauge, sum, histogram, exponential_histogram or summary"),
        optional("temporality", Utf8, "delta or cumulative"),
        optional("monotonic", Boolean, "whether a sum only grows"),
        optional("value", Float64, "value of a gauge or sum; sum of a histogram or summary"),
        optional("value_int", Int64, "the value, exact, when it was an integer"),
        optional("count", Int64, "number of observations"),
        optional("min", Float64, "smallest observation"),
        optional("max", Float64, "largest observation"),
        optional("bounds", list_of(Float64), "upper bounds of a histogram, quantiles of a summary"),
        optional("bucket_counts", list_of(Float64), "counts of a histogram, values of a summary"),
        optional("scale", Int32, "scale of an exponential histogram"),
        optional("zero_count", Int64, "zeros of an exponential histogram"),
        optional("positive_offset", Int32, "first positive bucket of an exponential histogram"),
        optional("negative_offset", Int32, "first negative bucket of an exponential histogram"),
        optional("negative_bucket_counts", list_of(Float64), "negative buckets of an exponential histogram"),
        optional("exemplars", Utf8, "exemplars as JSON"),
        optional("attributes", attribute_map(), "attributes as text"),
        optional("attribute_types", Utf8, "the type of each value of attributes"),
        optional("resource_attributes", attribute_map(), "attributes of the resource"),
        optional("resource_attribute_types", Utf8, "the type of each value of resource_attributes"),
        required("received_unix_nano", Int64, "when the collector took it"),
        optional("scope_name", Utf8, "instrumentation scope"),
        optional("zero_threshold", Float64, "widest value that counts as zero in an exponential histogram"),
        optional("scope_version", Utf8, "instrumentation scope's version"),
        optional("scope_attributes", attribute_map(), "attributes of the instrumentation scope"),
        optional("scope_attribute_types", Utf8, "the type of each value of scope_attributes"),
        optional("schema_url", Utf8, "schema that the scope's names follow, else the resource's"),
        optional("flags", Int64, "1: the point says that there is no value; null = 0"),
    ]
}

fn operations() -> Vec<Column> {
    use DataType::{Binary, Float64, Int64, Utf8};
    vec![
        required("minute_unix_nano", Int64, "start of the minute, by the spans' start"),
        required("service", Utf8, "the service"),
        required("operation", Utf8, "the span name"),
        required("kind", Utf8, "span kind"),
        required(
            "count",
            Int64,
            "distinct spans; one that is sent again in another request more than `analyzer.hold_ms` later counts twice",
        ),
        required("error_count", Int64, "those with status error"),
        required("duration_sum_ns", Float64, "sum of durations"),
        required("duration_sum_squares_ns2", Float64, "sum of squared durations"),
        required("duration_max_ns", Int64, "longest"),
        required("duration_ms_p50", Float64, "median of this row's spans"),
        required("duration_ms_p95", Float64, "95th percentile of this row's spans"),
        required("duration_ms_p99", Float64, "99th percentile of this row's spans"),
        required("duration_sketch", Binary, "mergeable log-bucketed sketch of durations"),
        required("queue_wait_sum_ns", Float64, "sum of waits that proxies measured"),
        required("input_tokens", Int64, "prompt tokens"),
        required("output_tokens", Int64, "generated tokens"),
    ]
}

fn edges() -> Vec<Column> {
    use DataType::{Binary, Float64, Int64, Utf8};
    vec![
        required("minute_unix_nano", Int64, "start of the minute, by the callee span's start"),
        required("caller", Utf8, "service that calls"),
        required("callee", Utf8, "service, database, queue or host that is called"),
        required("callee_kind", Utf8, "service, database, messaging or external"),
        required(
            "count",
            Int64,
            "calls, exact duplicates within `analyzer.hold_ms` ignored; a callee that comes later than that after its caller is not seen as called",
        ),
        required("error_count", Int64, "calls that failed"),
        required("duration_sum_ns", Float64, "sum of durations"),
        required("duration_sum_squares_ns2", Float64, "sum of squared durations: service moments"),
        required("duration_max_ns", Int64, "longest"),
        required("duration_ms_p50", Float64, "median of this row's calls"),
        required("duration_ms_p95", Float64, "95th percentile of this row's calls"),
        required("duration_ms_p99", Float64, "99th percentile of this row's calls"),
        required("duration_sketch", Binary, "mergeable log-bucketed sketch of durations"),
        required("gap_sum_ns", Float64, "sum of client minus server duration: network and queues between"),
        required("interarrival_count", Int64, "gaps between calls that were counted"),
        required("interarrival_sum_ns", Float64, "sum of those gaps"),
        required("interarrival_sum_squares_ns2", Float64, "sum of their squares: arrival moments"),
    ]
}

fn findings() -> Vec<Column> {
    use DataType::{Float64, Int64, Utf8};
    vec![
        required("time_unix_nano", Int64, "when the state changed, event time"),
        required("finding_id", Utf8, "the same for all rows of one finding"),
        required("state", Utf8, "open or closed"),
        required("service", Utf8, "the cause"),
        optional("operation", Utf8, "the operation, when one stands out"),
        required("kind", Utf8, "bottleneck, error_source, …"),
        required("onset_unix_nano", Int64, "when it began"),
        required("score", Float64, "rank: higher is worse"),
        required("confidence", Float64, "probability that the cause is right"),
        required("summary", Utf8, "one sentence for people"),
        required("evidence", Utf8, "JSON: the numbers, trace ids and victims"),
    ]
}

fn policy_changes() -> Vec<Column> {
    use DataType::{Boolean, Int64, Utf8};
    vec![
        required("time_unix_nano", Int64, "when it was decided"),
        required("sequence", Int64, "the policy set it made"),
        required("service", Utf8, "who is regulated"),
        optional("route", Utf8, "which route, null for all"),
        required("actuator", Utf8, "concurrency_limit, rate_limit or breaker"),
        optional("old_value", Utf8, "before; null if there was none"),
        optional("new_value", Utf8, "after; null if it was lifted"),
        required("author", Utf8, "controller, or who overrode it"),
        required("reason", Utf8, "why"),
        optional("finding_id", Utf8, "the finding it answers"),
        required("dry_run", Boolean, "true if it was only proposed"),
    ]
}

fn alerts() -> Vec<Column> {
    use DataType::{Int32, Int64, Utf8};
    vec![
        required("time_unix_nano", Int64, "when this happened"),
        required("alert_id", Utf8, "the same for all rows of one alert"),
        required("event", Utf8, "fired, resolved, delivered, retried or gave_up"),
        required("name", Utf8, "the rule"),
        required("service", Utf8, "what it is about"),
        required("severity", Utf8, "critical, warning or info"),
        optional("finding_id", Utf8, "the finding it tells of"),
        required("summary", Utf8, "one sentence"),
        optional("receiver", Utf8, "the webhook's name"),
        optional("attempt", Int32, "which attempt"),
        optional("http_status", Int32, "what the receiver answered"),
        optional("error", Utf8, "what went wrong"),
    ]
}

fn trace_index() -> Vec<Column> {
    use DataType::{Binary, Boolean, Int64, Utf8};
    vec![
        required("trace_id", Binary, "16 bytes; SQL accepts 32 hex digits"),
        required("start_unix_nano", Int64, "earliest start among the spans of this row"),
        required("end_unix_nano", Int64, "latest end among the spans of this row"),
        optional("service", Utf8, "the root span's service, when the root is among them"),
        optional("operation", Utf8, "the root span's name"),
        required("error", Boolean, "whether one of them has status error"),
    ]
}

fn services() -> Vec<Column> {
    use DataType::{Int64, Utf8};
    vec![
        required("hour_unix_nano", Int64, "start of the hour"),
        required("signal", Utf8, "spans, logs or metrics"),
        required("service", Utf8, "resource attribute service.name"),
    ]
}

fn attribute_keys() -> Vec<Column> {
    use DataType::{Int64, Utf8};
    vec![
        required("hour_unix_nano", Int64, "start of the hour"),
        required("signal", Utf8, "spans, logs or metrics"),
        required("level", Utf8, "record (the span, log record or data point) or resource"),
        required("key", Utf8, "the attribute's name"),
        required("type", Utf8, "string, boolean, int, double, bytes, array, map or null"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_time_column_and_no_column_twice() {
        for table in Table::ALL {
            let schema = table.schema();
            assert_eq!(
                schema.field_with_name(table.time_column()).unwrap().data_type(),
                &DataType::Int64,
                "{}",
                table.name()
            );
            let mut names: Vec<_> = schema.fields().iter().map(|f| f.name()).collect();
            names.sort_unstable();
            names.dedup();
            assert_eq!(names.len(), schema.fields().len(), "{}", table.name());
        }
    }

    #[test]
    fn tables_are_found_by_name() {
        for table in Table::ALL {
            assert_eq!(Table::from_name(table.name()), Some(table));
        }
        assert_eq!(Table::from_name("trace"), None);
    }
}
