"""What a dashboard does: lists tables, reads columns, asks with parameters."""

import sys
from datetime import date, datetime, timezone
from decimal import Decimal

from sqlalchemy import BIGINT, DOUBLE_PRECISION, INTEGER, TEXT, MetaData, Table, create_engine, func, inspect, select, text

GRAFANA_TABLES = """
    SELECT CASE WHEN quote_ident(table_schema) IN (
        SELECT
            CASE WHEN trim(s[i]) = '"$user"' THEN user ELSE trim(s[i]) END
        FROM
            generate_series(
                array_lower(string_to_array(current_setting('search_path'),','),1),
                array_upper(string_to_array(current_setting('search_path'),','),1)
            ) as i,
            string_to_array(current_setting('search_path'),',') s
    ) THEN quote_ident(table_name) ELSE quote_ident(table_schema) || '.' || quote_ident(table_name) END AS "table"
    FROM information_schema.tables
    WHERE quote_ident(table_schema) NOT IN ('information_schema', 'pg_catalog') ORDER BY 1"""

engine = create_engine(sys.argv[1])
tables = inspect(engine).get_table_names()
assert {"spans", "logs", "metrics", "operations", "edges"} <= set(tables), tables
assert "public" in inspect(engine).get_schema_names()

# what a library makes its own tables of
metadata = MetaData()
metadata.reflect(engine)
assert set(metadata.tables) == set(tables), metadata.tables
spans = metadata.tables["spans"]
for column, kind in [("trace_id", TEXT), ("attributes", TEXT), ("duration_ns", BIGINT), ("sample_weight", DOUBLE_PRECISION), ("in_flight", INTEGER)]:
    assert isinstance(spans.c[column].type, kind), (column, spans.c[column].type)
assert spans.c.in_flight.nullable and not spans.c.service.nullable
assert not spans.primary_key and not spans.indexes and not spans.foreign_keys
assert "body" in Table("logs", MetaData(), autoload_with=engine).c
inspector = inspect(engine)
assert inspector.get_pk_constraint("spans")["constrained_columns"] == []
for none in ["indexes", "unique_constraints", "foreign_keys", "check_constraints"]:
    assert getattr(inspector, f"get_{none}")("spans") == [], none
assert inspector.get_enums() == [] and inspector.get_view_names() == [] and not inspector.has_index("spans", "none")
with engine.connect() as connection:
    named = text("SELECT column_name, data_type FROM information_schema.columns WHERE table_name = :table")
    columns = {row.column_name: row.data_type for row in connection.execute(named, {"table": "spans"})}
    assert "operation" in columns and columns["duration_ns"] == "bigint", columns
    # ids and maps cross as text
    assert columns["trace_id"] == columns["attributes"] == "text", columns
    assert columns["http_response_status_code"] == "integer", columns
    # as dashboards ask before they show a table
    grafana = text("SELECT current_setting('server_version_num')::int/100 AS version")
    assert connection.execute(grafana).scalar_one() >= 1600
    listed = connection.execute(text(GRAFANA_TABLES)).scalars().all()
    assert "public.spans" in listed, listed
    route = text("SELECT attributes->>'http.route' FROM spans LIMIT 1")
    assert connection.execute(route).scalar_one() is None
    assert inspect(engine).get_table_comment("spans")["text"] is None
    by_operation = text(
        "SELECT operation, count(*) AS n, avg(duration_ns) AS mean FROM spans"
        " WHERE service = :service AND duration_ns > :least GROUP BY operation ORDER BY operation"
    )
    for row in connection.execute(by_operation, {"service": "cart", "least": 1}):
        print(row.operation, row.n, float(row.mean))
    rows = connection.execute(text("SELECT * FROM spans"))
    print(sum(1 for _ in rows))

    most = select(spans.c.operation, func.max(spans.c.duration_ns)).group_by(spans.c.operation).order_by(spans.c.operation)
    assert connection.execute(most.where(spans.c.service.in_(["cart", "other"]))).all() == [("GET /cart", 518), ("SELECT", 519)]

    cursor = connection.connection.cursor()
    epoch = datetime(1970, 1, 1, tzinfo=timezone.utc)
    for condition, value, expect in [
        ("start_unix_nano > %s", epoch, 20),
        ("start_unix_nano > %s", epoch.replace(tzinfo=None), 20),
        ("start_unix_nano > %s", date(1970, 1, 1), 20),
        ("start_unix_nano >= %s", "1970-01-01T00:00:00.00000101Z", 10),
        ("ts(start_unix_nano) >= %s", epoch, 20),
        ("duration_ns >= %s", Decimal("509.5"), 10),
        ("trace_id = ANY(%s)", ["0000000000000000000000000000002a"], 20),
        ("operation = ANY(%s)", ["SELECT", "no such"], 10),
    ]:
        found = cursor.execute(f"SELECT count(*) FROM spans WHERE {condition}", (value,)).fetchone()[0]
        assert found == expect, (condition, value, found)

# what reads large answers in parts: a cursor of the server
with engine.connect().execution_options(stream_results=True, yield_per=7) as connection:
    rows = connection.execute(text("SELECT duration_ns FROM spans WHERE duration_ns >= :least ORDER BY 1"), {"least": 502})
    assert [row.duration_ns for row in rows] == list(range(502, 520))
