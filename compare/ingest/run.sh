#!/usr/bin/env bash
# OTLP → fsynced → queryable: peak, server CPU, ack latency at half of the peak, memory, bytes per span;
# then overload and recovery. One command; what it prints is also written to runs/<date>-<name>.txt.
#
#   compare/ingest/run.sh [NAME] [--gzip]     SERVER_BIN, LOAD_BIN: paths of weir and of the example otlp_load
#                                    SECONDS_EACH=15  length of a phase
#
#   cargo build --release --bin weir --example otlp_load
set -euo pipefail
cd "$(dirname "$0")/../.."
export SERVER_BIN=${SERVER_BIN:-target/release/weir} LOAD_BIN=${LOAD_BIN:-target/release/examples/otlp_load}
out="compare/ingest/runs/$(date +%F)-${1:-ingest}.txt"
python3 -u compare/ingest/run.py "${@:2}" | tee "$out"
