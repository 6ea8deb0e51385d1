"""What a dashboard does: lists tables, reads columns, asks with parameters."""

import sys
from datetime import date, datetime, timezone
from decimal import Decimal

from sqlalchemy import create_engine, inspect, text

engine = create_engine(sys.argv[1])
tables = inspect(engine).get_table_names()
assert {"spans", "logs", "metrics", "operations", "edges"} <= set(tables), tables
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
