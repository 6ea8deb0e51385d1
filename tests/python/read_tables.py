"""Reads the tables of a data folder with the readers people have, and prints what each sees."""

import json
import os
import sys
from pathlib import Path

import chdb
import duckdb
import polars
import pyarrow.compute
from deltalake import DeltaTable

spans = Path(sys.argv[1]) / "tables" / "spans"


def seen(reader, count, row):
    print(json.dumps({"reader": reader, "count": count, **row}, sort_keys=True))


def plain(trace_id, start, attributes):
    attributes = dict(attributes) if not isinstance(attributes, dict) else attributes
    return {"trace_id": bytes(trace_id).hex(), "start": start, "attributes": attributes}


delta = DeltaTable(str(spans)).to_pyarrow_table()
row = delta.filter(pyarrow.compute.equal(delta["operation"], "sample")).to_pylist()[0]
seen("deltalake", delta.num_rows, plain(row["trace_id"], row["start_unix_nano"], row["attributes"]))

frame = polars.scan_delta(str(spans)).collect()
row = frame.filter(polars.col("operation") == "sample").row(0, named=True)
pairs = {entry["key"]: entry["value"] for entry in row["attributes"]} if isinstance(row["attributes"], list) else row["attributes"]
seen("polars", frame.height, plain(row["trace_id"], row["start_unix_nano"], pairs))

live = [str(spans / Path(path).name) for path in DeltaTable(str(spans)).file_uris()]
seen_spans = duckdb.read_parquet(live)
(count,) = duckdb.sql("SELECT count(*) FROM seen_spans").fetchall()[0]
trace_id, start, attributes = duckdb.sql(
    "SELECT trace_id, start_unix_nano, attributes FROM seen_spans WHERE operation = 'sample'"
).fetchall()[0]
seen("duckdb", count, plain(trace_id, start, attributes))

os.chdir(sys.argv[1])  # ClickHouse reads below its working folder only
answer = chdb.query(
    "SELECT (SELECT count() FROM deltaLakeLocal('{0}')), lower(hex(trace_id)), start_unix_nano, toJSONString(attributes)"
    " FROM deltaLakeLocal('{0}') WHERE operation = 'sample'".format(spans),
    "JSONCompact",
)
count, trace_id, start, attributes = json.loads(str(answer))["data"][0]
seen("clickhouse", int(count), {"trace_id": trace_id, "start": int(start), "attributes": json.loads(attributes)})
