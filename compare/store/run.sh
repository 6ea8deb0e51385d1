#!/usr/bin/env bash
# Bytes a span and time of every kind of question: weir beside ClickHouse (two schemas) and DuckDB, on the same spans.
#
#   compare/store/run.sh [SPANS]
#
#   SERVER_BIN, DATA_BIN   weir and the example store_data      [target/release/weir, target/release/examples/store_data]
#   SOURCE                 the recorded spans, a Parquet file   [../shared/data/nezha/…/spans.parquet]
#   DATA_DIR               where spans and databases are kept   [target/compare-store]
#   SHAPES                 which of "a b"; b gets SPANS/5, or WIDE_SPANS
#   SYSTEMS                which of weir,clickhouse-otel,clickhouse-jaeger,duckdb
#   CASES                  which questions, by their names in queries.py
#   WARM, COLD             parameters asked of each question    [30, 5]
#   SKIP_GENERATE=1        use the spans that DATA_DIR holds
#   SKIP_PEERS=1           use the peers' databases that DATA_DIR holds
#   SKIP_WEIR_LOAD=1       the same for weir's own store
#   LABEL                  a word for the names of the results, when one day has several
#
# Results go to runs/; the exit code is 1 when answers differ between systems. The
# ratios within one run mean more than its absolute numbers.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
spans=${1:-10000000}
export SERVER_BIN=${SERVER_BIN:-target/release/weir} DATA_BIN=${DATA_BIN:-target/release/examples/store_data}
export SOURCE=${SOURCE:-../shared/data/nezha/online-boutique-2022-08-23/spans.parquet}
export DATA_DIR=${DATA_DIR:-target/compare-store} SHAPES=${SHAPES:-a b}
[ -x "$SERVER_BIN" ] && [ -x "$DATA_BIN" ] || { echo "build first: cargo build --release --locked --bin weir --example store_data" >&2; exit 2; }
[ -f "$SOURCE" ] || [ -n "${SKIP_GENERATE:-}" ] || { echo "$SOURCE: the recorded spans are not there; SOURCE=… names them, README.md says what they are" >&2; exit 3; }
SERVER_BIN=$(realpath "$SERVER_BIN") DATA_BIN=$(realpath "$DATA_BIN") SOURCE=$(realpath -m "$SOURCE")
mkdir -p "$DATA_DIR"
DATA_DIR=$(realpath "$DATA_DIR")
venv=${XDG_CACHE_HOME:-$HOME/.cache}/weir-compare
[ -x "$venv/bin/python" ] || python3 -m venv "$venv"
cmp -s "$here/requirements.txt" "$venv/installed.txt" || {
    "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"
    cp "$here/requirements.txt" "$venv/installed.txt"
}
exec nice -n "${NICE:-0}" "$venv/bin/python" -B "$here/run.py" "$spans"
