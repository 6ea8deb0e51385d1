#!/usr/bin/env bash
# OTLP/gRPC → fsynced → queryable: peak rate, server CPU per span, ack latency at a given rate, bytes per span.
#
#   compare/ingest/run.sh [SPANS] [PACED_SPANS_PER_S]    SERVER_BIN, LOAD_BIN: paths of weir and of the example otlp_load
#
# Sender and server are processes of their own on the same machine, so the peak is what both reach together;
# spans per CPU-second is the server's own.
set -euo pipefail
cd "$(dirname "$0")/../.."
spans=${1:-4000000} paced=${2:-100000}
server=${SERVER_BIN:-target/release/weir} load=${LOAD_BIN:-target/release/examples/otlp_load}
work=$(mktemp -d)
trap 'kill "$pid" 2>/dev/null || true; wait 2>/dev/null || true; rm -rf "$work"' EXIT
"$server" serve --data "$work/data" --otlp-grpc 127.0.0.1:24317 --otlp-http 127.0.0.1:0 --web 127.0.0.1:27070 2> "$work/log" &
pid=$!
for _ in $(seq 100); do curl -sf -o /dev/null http://127.0.0.1:27070/readyz && break; sleep 0.1; done
hz=$(getconf CLK_TCK)
cpu() { awk '{ print $14 + $15 }' "/proc/$pid/stat"; }
phase() { # name, spans, arguments of the load…
    local name=$1 count=$2 before; shift 2
    before=$(cpu)
    echo "$name: $("$load" http://127.0.0.1:24317 "$count" "$@")"
    awk -v ticks="$(($(cpu) - before))" -v hz="$hz" -v spans="$count" 'BEGIN { printf "  server: %.2f CPU-s, %.0f spans per CPU-second\n", ticks / hz, spans * hz / ticks }'
    awk '/VmHWM/ { printf "  server: peak RSS %.0f MiB\n", $2 / 1024 }' "/proc/$pid/status"
}
nproc | sed 's/^/cpus: /'; grep -m1 "model name" /proc/cpuinfo || true
phase peak "$spans" 8 2000
phase "at $paced spans/s" 1000000 4 1000 "$paced"
for _ in $(seq 300); do curl -s http://127.0.0.1:27070/metrics | grep -q "^weir_store_memory_rows 0" && break; sleep 0.1; done
curl -s http://127.0.0.1:27070/api/v1/status | python3 -c '
import json, sys
spans = next(t for t in json.load(sys.stdin)["store"]["tables"] if t["name"] == "spans")
print("stored %d spans, %.1f bytes/span in %d Parquet files" % (spans["rows"], spans["bytes"] / spans["rows"], spans["files"]))'
