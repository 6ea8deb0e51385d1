"""What a dashboard does: lists tables, reads columns, asks with parameters."""

import sys

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
