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
    assert "operation" in columns and columns["duration_ns"] == "Int64", columns
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
