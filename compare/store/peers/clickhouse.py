"""ClickHouse, as the library chdb, with two schemas: the OpenTelemetry Collector exporter's and Jaeger v2's.

Both are written here from what those projects create by default: columns, codecs, sort keys, partitions, skip
indices and materialised views. Trace by id goes as their readers go: through `otel_traces_trace_id_ts` for the
first (as Grafana's data source does), straight for the second (as Jaeger's trace reader does).
"""

import json
import time
from pathlib import Path

from queries import Dialect

OTEL_TABLES = [
    """CREATE TABLE otel_traces (
        Timestamp DateTime64(9) CODEC(Delta(8), ZSTD(1)),
        TraceId String CODEC(ZSTD(1)),
        SpanId String CODEC(ZSTD(1)),
        ParentSpanId String CODEC(ZSTD(1)),
        TraceState String CODEC(ZSTD(1)),
        SpanName LowCardinality(String) CODEC(ZSTD(1)),
        SpanKind LowCardinality(String) CODEC(ZSTD(1)),
        ServiceName LowCardinality(String) CODEC(ZSTD(1)),
        ResourceAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
        ScopeName String CODEC(ZSTD(1)),
        ScopeVersion String CODEC(ZSTD(1)),
        SpanAttributes Map(LowCardinality(String), String) CODEC(ZSTD(1)),
        Duration UInt64 CODEC(T64, ZSTD(1)),
        StatusCode LowCardinality(String) CODEC(ZSTD(1)),
        StatusMessage String CODEC(ZSTD(1)),
        Events Nested (Timestamp DateTime64(9), Name LowCardinality(String), Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
        Links Nested (TraceId String, SpanId String, TraceState String, Attributes Map(LowCardinality(String), String)) CODEC(ZSTD(1)),
        INDEX idx_trace_id TraceId TYPE bloom_filter(0.001) GRANULARITY 1,
        INDEX idx_res_attr_key mapKeys(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
        INDEX idx_res_attr_value mapValues(ResourceAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
        INDEX idx_span_attr_key mapKeys(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
        INDEX idx_span_attr_value mapValues(SpanAttributes) TYPE bloom_filter(0.01) GRANULARITY 1,
        INDEX idx_duration Duration TYPE minmax GRANULARITY 1,
        INDEX idx_lower_span_name lower(SpanName) TYPE tokenbf_v1(32768, 3, 0) GRANULARITY 8
    ) ENGINE = MergeTree PARTITION BY toDate(Timestamp)
    PRIMARY KEY (ServiceName, SpanName, toDateTime(Timestamp))
    ORDER BY (ServiceName, SpanName, toDateTime(Timestamp), Timestamp)
    SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1""",
    """CREATE TABLE otel_traces_trace_id_ts (
        TraceId String CODEC(ZSTD(1)),
        Start SimpleAggregateFunction(min, DateTime) CODEC(ZSTD(1)),
        End SimpleAggregateFunction(max, DateTime) CODEC(ZSTD(1))
    ) ENGINE = AggregatingMergeTree PARTITION BY toStartOfWeek(Start) ORDER BY (TraceId)
    SETTINGS index_granularity = 8192, ttl_only_drop_parts = 1""",
    """CREATE MATERIALIZED VIEW otel_traces_trace_id_ts_mv TO otel_traces_trace_id_ts AS
    SELECT TraceId, min(Timestamp) AS Start, max(Timestamp) AS End FROM otel_traces WHERE TraceId != '' GROUP BY TraceId""",
]

OTEL_INSERT = """INSERT INTO otel_traces (Timestamp, TraceId, SpanId, ParentSpanId, SpanName, SpanKind, ServiceName, ResourceAttributes,
        ScopeName, ScopeVersion, SpanAttributes, Duration, StatusCode, `Events.Timestamp`, `Events.Name`, `Events.Attributes`)
    SELECT fromUnixTimestamp64Nano(start_unix_nano), trace_id, span_id, parent_span_id, operation, initcap(kind), service,
        CAST(resource_attributes, 'Map(String, String)'), scope_name, scope_version,
        mapConcat(CAST(attributes, 'Map(String, String)'), CAST(int_attributes, 'Map(String, String)')),
        duration_ns, initcap(status),
        arrayMap(e -> fromUnixTimestamp64Nano(assumeNotNull(e.1)), events),
        arrayMap(e -> assumeNotNull(e.2), events),
        arrayMap(e -> map(assumeNotNull(e.3), assumeNotNull(e.4)), events)
    FROM file('{file}', Parquet)"""

TYPED = "{0}bool_attributes Nested (key String, value Bool), {0}double_attributes Nested (key String, value Float64), " \
    "{0}int_attributes Nested (key String, value Int64), {0}str_attributes Nested (key String, value String), " \
    "{0}complex_attributes Nested (key String, value String)"

JAEGER_TABLES = [
    f"""CREATE TABLE spans (
        id String, trace_id String, trace_state String, parent_span_id String, name String, kind String,
        start_time DateTime64(9), status_code String, status_message String, duration Int64,
        {TYPED.format('')},
        events Nested (name String, timestamp DateTime64(9), {TYPED.format('')}, dropped_attributes_count UInt32),
        links Nested (trace_id String, span_id String, trace_state String, {TYPED.format('')}, dropped_attributes_count UInt32, flags UInt32),
        service_name String, {TYPED.format('resource_')},
        scope_name String, scope_version String, {TYPED.format('scope_')},
        resource_schema_url String, scope_schema_url String, flags UInt32, dropped_attributes_count UInt32,
        dropped_events_count UInt32, dropped_links_count UInt32, scope_dropped_attributes_count UInt32,
        INDEX idx_trace_id trace_id TYPE bloom_filter GRANULARITY 1,
        INDEX idx_duration duration TYPE minmax GRANULARITY 1
    ) ENGINE = MergeTree PARTITION BY toDate(start_time) ORDER BY (service_name, name, toDateTime(start_time))""",
    "CREATE TABLE services (name String) ENGINE = AggregatingMergeTree ORDER BY (name)",
    "CREATE MATERIALIZED VIEW services_mv TO services AS SELECT service_name AS name FROM spans GROUP BY service_name",
    "CREATE TABLE operations (service_name String, name String, span_kind String) ENGINE = AggregatingMergeTree ORDER BY (service_name, span_kind)",
    "CREATE MATERIALIZED VIEW operations_mv TO operations AS SELECT name, kind AS span_kind, service_name FROM spans",
    """CREATE TABLE trace_id_timestamps (trace_id String, start SimpleAggregateFunction(min, DateTime64(9)),
        end SimpleAggregateFunction(max, DateTime64(9))) ENGINE = AggregatingMergeTree ORDER BY (trace_id)""",
    """CREATE MATERIALIZED VIEW trace_id_timestamps_mv TO trace_id_timestamps AS
    SELECT trace_id, min(start_time) AS start, max(start_time) AS end FROM spans GROUP BY trace_id""",
    """CREATE TABLE attribute_metadata (attribute_key String, type String, level String)
    ENGINE = AggregatingMergeTree ORDER BY (attribute_key, type, level)""",
    """CREATE MATERIALIZED VIEW attribute_metadata_mv TO attribute_metadata AS
    SELECT pair.1 AS attribute_key, pair.2 AS type, pair.3 AS level FROM (SELECT arrayJoin(arrayConcat(
        arrayMap(k -> (k, 'int', 'span'), int_attributes.key), arrayMap(k -> (k, 'str', 'span'), str_attributes.key),
        arrayMap(k -> (k, 'str', 'resource'), resource_str_attributes.key))) AS pair FROM spans)
    GROUP BY attribute_key, type, level""",
]

JAEGER_INSERT = """INSERT INTO spans (id, trace_id, parent_span_id, name, kind, start_time, status_code, duration,
        `int_attributes.key`, `int_attributes.value`, `str_attributes.key`, `str_attributes.value`,
        `events.name`, `events.timestamp`, `events.str_attributes`, `events.bool_attributes`, `events.double_attributes`,
        `events.int_attributes`, `events.complex_attributes`, `events.dropped_attributes_count`,
        service_name, `resource_str_attributes.key`, `resource_str_attributes.value`, scope_name, scope_version)
    SELECT span_id, trace_id, parent_span_id, operation, kind, fromUnixTimestamp64Nano(start_unix_nano), initcap(status), duration_ns,
        mapKeys(int_attributes), mapValues(CAST(int_attributes, 'Map(String, Int64)')),
        mapKeys(attributes), mapValues(CAST(attributes, 'Map(String, String)')),
        arrayMap(e -> assumeNotNull(e.2), events), arrayMap(e -> fromUnixTimestamp64Nano(assumeNotNull(e.1)), events),
        arrayMap(e -> [(assumeNotNull(e.3), assumeNotNull(e.4))], events),
        arrayMap(e -> [], events), arrayMap(e -> [], events), arrayMap(e -> [], events), arrayMap(e -> [], events), arrayMap(e -> 0, events),
        service, mapKeys(resource_attributes), mapValues(CAST(resource_attributes, 'Map(String, String)')), scope_name, scope_version
    FROM file('{file}', Parquet)"""


def between(column):
    return lambda first, last, prefix: (
        f"{prefix}{column} >= fromUnixTimestamp64Nano({first}) AND {prefix}{column} < fromUnixTimestamp64Nano({last})"
    )


def otel_trace(trace_id):
    bounds = f"FROM otel_traces_trace_id_ts WHERE TraceId = '{trace_id}'"
    return (
        f"TraceId = '{trace_id}' AND Timestamp >= (SELECT min(Start) {bounds})"
        f" AND Timestamp <= (SELECT max(End) + INTERVAL 1 SECOND {bounds})"
    )


def jaeger_attribute(key, value):
    kind, literal = ("int", value) if isinstance(value, int) else ("str", f"'{value}'")
    return f"arrayExists((k, v) -> k = '{key}' AND v = {literal}, {kind}_attributes.key, {kind}_attributes.value)"


OTEL = Dialect(
    table="otel_traces", trace_id="TraceId", span_id="SpanId",
    join_trace_id="TraceId", join_span_id="SpanId", join_parent_id="ParentSpanId",
    start_ns="toUnixTimestamp64Nano(Timestamp)", start_order="Timestamp", duration_ns="Duration",
    service="ServiceName", operation="SpanName", is_error="StatusCode = 'Error'", whole_span="*",
    count_if=lambda condition: f"countIf({condition})", p95=lambda column: f"quantile(0.95)({column})",
    minute_ns="toUnixTimestamp(toStartOfMinute(Timestamp)) * 1000000000",
    starts_between=between("Timestamp"), trace_is=otel_trace,
    attribute_is=lambda key, value: f"SpanAttributes['{key}'] = '{value}'",
)

JAEGER = Dialect(
    table="spans", trace_id="trace_id", span_id="id",
    join_trace_id="trace_id", join_span_id="id", join_parent_id="parent_span_id",
    start_ns="toUnixTimestamp64Nano(start_time)", start_order="start_time", duration_ns="duration",
    service="service_name", operation="name", is_error="status_code = 'Error'", whole_span="*",
    count_if=lambda condition: f"countIf({condition})", p95=lambda column: f"quantile(0.95)({column})",
    minute_ns="toUnixTimestamp(toStartOfMinute(start_time)) * 1000000000",
    starts_between=between("start_time"), trace_is=lambda trace_id: f"trace_id = '{trace_id}'",
    attribute_is=jaeger_attribute,
)


class ClickHouse:
    """One persistent chdb session. Lives in a process of its own: the library holds one session a process."""

    def __init__(self, folder, tables, insert, main):
        from chdb import session

        self.tables, self.insert, self.main = tables, insert, main
        self.session = session.Session(str(folder))
        self.session.query("SET session_timezone = 'UTC'")
        self.session.query("CREATE DATABASE IF NOT EXISTS peer ENGINE = Atomic")
        self.session.query("USE peer")

    def load(self, files):
        for statement in self.tables:
            self.session.query(statement)
        for file in files:
            self.session.query(self.insert.format(file=file))
        for (table,) in self.rows(f"SELECT name FROM system.tables WHERE database = 'peer' AND engine LIKE '%MergeTree'"):
            self.session.query(f"OPTIMIZE TABLE {table} FINAL")

    def size(self):
        found = self.rows(
            "SELECT table, sum(bytes_on_disk), sum(rows), count() FROM system.parts WHERE active AND database = 'peer' GROUP BY table"
        )
        return {
            ("spans" if table == self.main else table): {"bytes": int(size), "rows": int(rows), "files": int(parts)}
            for table, size, rows, parts in found
        }

    def query(self, statement):
        start = time.perf_counter()
        text = self.session.query(statement, "JSONCompactEachRow").bytes()
        ms = (time.perf_counter() - start) * 1e3
        return ms, [json.loads(line) for line in text.splitlines()]

    def rows(self, statement):
        return self.query(statement)[1]

    def version(self):
        return "ClickHouse " + self.rows("SELECT version()")[0][0]

    def close(self):
        self.session.close()


def otel(folder: Path):
    return ClickHouse(folder, OTEL_TABLES, OTEL_INSERT, "otel_traces")


def jaeger(folder: Path):
    return ClickHouse(folder, JAEGER_TABLES, JAEGER_INSERT, "spans")
