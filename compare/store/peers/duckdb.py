"""DuckDB with a native table: the hot attributes are columns, the others a map. It has no index over either."""

import time
from pathlib import Path

from queries import Dialect

HOT = {
    "http.request.method": "http_request_method",
    "http.route": "http_route",
    "http.response.status_code": "http_response_status_code",
    "server.address": "server_address",
}

TABLE = """CREATE TABLE spans AS SELECT trace_id, span_id, nullif(parent_span_id, '') AS parent_span_id, start_unix_nano, duration_ns,
        service, instance, operation, kind, status, scope_name, scope_version,
        attributes['http.request.method'] AS http_request_method, attributes['http.route'] AS http_route,
        int_attributes['http.response.status_code']::INTEGER AS http_response_status_code, attributes['server.address'] AS server_address,
        map_from_entries(list_filter(map_entries(attributes),
            lambda e: e.key NOT IN ('http.request.method', 'http.route', 'server.address'))) AS attributes,
        map_from_entries(list_filter(map_entries(int_attributes), lambda e: e.key <> 'http.response.status_code')) AS int_attributes,
        resource_attributes, events
    FROM read_parquet({files}) ORDER BY start_unix_nano"""


def attribute(key, value):
    if key in HOT:
        return f"{HOT[key]} = {value}" if isinstance(value, int) else f"{HOT[key]} = '{value}'"
    return f"int_attributes['{key}'] = {value}" if isinstance(value, int) else f"attributes['{key}'] = '{value}'"


DIALECT = Dialect(
    table="spans", trace_id="trace_id", span_id="span_id",
    join_trace_id="trace_id", join_span_id="span_id", join_parent_id="parent_span_id",
    start_ns="start_unix_nano", start_order="start_unix_nano", duration_ns="duration_ns",
    service="service", operation="operation", is_error="status = 'error'", whole_span="*",
    count_if=lambda condition: f"count(*) FILTER ({condition})", p95=lambda column: f"approx_quantile({column}, 0.95)",
    minute_ns="start_unix_nano - start_unix_nano % 60000000000",
    starts_between=lambda first, last, prefix: f"{prefix}start_unix_nano >= {first} AND {prefix}start_unix_nano < {last}",
    trace_is=lambda trace_id: f"trace_id = '{trace_id}'", attribute_is=attribute,
)


class DuckDb:
    """One database file."""

    def __init__(self, folder):
        import duckdb

        folder.mkdir(parents=True, exist_ok=True)
        self.file = folder / "spans.duckdb"
        self.module = duckdb
        self.connection = duckdb.connect(str(self.file))

    def load(self, files):
        self.connection.execute(TABLE.format(files=[str(file) for file in files]))
        self.connection.execute("CHECKPOINT")

    def size(self):
        rows = self.connection.execute("SELECT count(*) FROM spans").fetchone()[0]
        return {"spans": {"bytes": self.file.stat().st_size, "rows": rows, "files": 1}}

    def query(self, statement):
        start = time.perf_counter()
        rows = self.connection.execute(statement).fetchall()
        return (time.perf_counter() - start) * 1e3, [[jsonable(value) for value in row] for row in rows]

    def version(self):
        return "DuckDB " + self.module.__version__

    def close(self):
        self.connection.close()


def jsonable(value):
    return value if isinstance(value, (int, float, str, type(None))) else str(value)


def peer(folder: Path):
    return DuckDb(folder)
